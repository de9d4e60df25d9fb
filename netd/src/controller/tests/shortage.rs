//! A daemon that has run out of something loses nothing, and catches up when it has enough again.

use super::*;

#[tokio::test]
async fn a_sandbox_that_cannot_be_looked_at_is_not_taken_for_gone() {
    let mut bench = Bench::new().await;
    let sandbox = bench.sandbox("a", &["bridge"], &["8080:80"]).await.expect("sandbox");
    bench.controller.set_pid("a", Some(1)).await.expect("told");
    let (objects, world) = (bench.dump(), Arc::clone(&bench.controller.world));
    let mut bench = bench.restart(|machine| machine.out_of_files = true).await;
    assert_eq!((bench.dump(), &bench.controller.world), (objects.clone(), &world));
    assert!(bench.controller.status().state.starts_with("degraded: look at sandbox a: "));
    bench.controller.remove_sandbox("a", true).await.expect_err("its command could go on");

    bench.controller.machine.out_of_files = false;
    bench.controller.reconcile().await.expect("reconciled");
    assert_eq!(bench.controller.status().state, "ready");
    assert_eq!((bench.dump(), &bench.controller.world), (objects, &world));
    // The control: what is gone indeed is forgotten.
    let path = sandbox.netns.as_ref().expect("a namespace").path.clone();
    bench.controller.machine.dead.insert(path);
    bench.controller.reconcile().await.expect("reconciled");
    bench.controller.world.sandbox("a").expect_err("forgotten");
}

#[tokio::test]
async fn a_step_of_a_start_that_fails_once_is_taken_again() {
    let mut bench = Bench::new().await;
    bench.sandbox("a", &["bridge"], &["8080:80"]).await.expect("sandbox");
    let objects = bench.dump();
    for step in 0..objects.len() {
        bench = bench
            .restart(|machine| {
                machine.objects.clear();
                machine.fail_in = Some(step);
            })
            .await;
        assert_eq!(bench.dump(), objects, "step {step}");
        assert_eq!(bench.controller.status().state, "ready", "step {step}");
    }
}

//! What broke off, and is complete by what it had done until then.

use super::*;
use crate::{
    model::{Answer, Finished, Operation},
    store::Intent,
};

#[tokio::test]
async fn a_removal_that_broke_off_behind_its_namespace_is_answered_as_done() {
    for went in [false, true] {
        let mut bench = Bench::new().await;
        let sandbox = bench.sandbox("a", &["bridge"], &["8080:80"]).await.expect("sandbox");
        let operation = Operation { id: "removal".parse().expect("an id"), request: String::new() };
        let (id, finished) = (operation.id.clone(), Finished::now(operation, Answer::Done));
        let path = sandbox.netns.as_ref().expect("a namespace").path.clone();
        let intent = Intent::RemoveSandbox(Box::new(Sandbox::clone(&sandbox)));
        bench.controller.store.journal_begin(&intent, Some(&finished)).expect("writes");
        let bench = bench
            .restart(|machine| {
                machine.dead.extend(went.then_some(path));
            })
            .await;
        assert_eq!(bench.controller.world.sandbox("a").is_err(), went);
        assert_eq!(
            bench.controller.store.recall(&id),
            went.then_some(finished),
            "the namespace went: {went}"
        );
    }
}

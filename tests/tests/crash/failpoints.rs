//! The daemon's own failpoints: each step of a plan can be broken off by its name (reliability 6.1).

use netd_tests::crash::Subject;

const CREATE: &[&str] = &["sandbox", "create", "--network", "netA", "-p", "8090:80", "opS"];
const REMOVE: &[&str] = &["sandbox", "rm", "-f", "opS"];

#[test]
fn a_step_that_aborts_panics_or_fails_is_undone_and_can_be_done_again() {
    let mut subject = Subject::new(false);
    // Once before, for what is made on first use.
    subject.run(CREATE).ok();
    subject.run(REMOVE).ok();
    let before = subject.picture();
    for (failpoint, lives, done) in [
        ("veth.put.after=abort", false, false),
        ("commit.after=abort", false, true),
        ("publish.put.before=panic", true, false),
        ("up.put.before=return:ENOMEM", true, false),
    ] {
        subject.kill();
        subject.set_failpoints(failpoint);
        subject.start();
        let ran = subject.run(CREATE);
        assert_ne!(ran.code, 0, "{failpoint} was not reached");
        if lives {
            assert_eq!(subject.daemon().ended(), None, "{failpoint} ended the daemon");
        } else {
            assert!(subject.bury().is_some(), "{failpoint} did not end the daemon");
        }
        subject.kill();
        subject.set_failpoints("");
        subject.start();
        assert_eq!(subject.violations(), Vec::<String>::new(), "{failpoint}");
        if !done {
            assert_eq!(before.diff_by_name(&subject.picture()), Vec::<String>::new(), "{failpoint}");
        }
        subject
            .run(CREATE)
            .code
            .eq(&if done { 4 } else { 0 })
            .then_some(())
            .expect("the command can be given again");
        subject.run(REMOVE).ok();
        assert_eq!(before.diff(&subject.picture()), Vec::<String>::new(), "{failpoint}");
    }
}

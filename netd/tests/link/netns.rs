//! Rung: namespaces. Named namespaces and the settings within them.

use std::path::Path;

use netd::{link::Links, model::Name, netns::Netns, sysctl};

use crate::in_new_netns;

#[test]
fn a_named_namespace_is_made_opened_and_removed() {
    in_new_netns(async || {
        let run = tempfile::tempdir().expect("directory");
        let dir = run.path().join("netns");
        let name: Name = "web.1".parse().expect("valid");
        let made = Netns::create(&name, &dir).await.expect("made");
        let again = Netns::create(&name, &dir).await.expect("opened");
        let opened = Netns::open_path(&dir.join("web.1")).expect("opened");
        assert_eq!(made.inode().expect("inode"), again.inode().expect("inode"));
        assert_eq!(made.inode().expect("inode"), opened.inode().expect("inode"));
        assert_ne!(made.inode().expect("inode"), Netns::current().expect("own").inode().expect("inode"));
        assert_ne!(
            made.cookie().await.expect("cookie"),
            Netns::current().expect("own").cookie().await.expect("cookie")
        );
        let lo =
            Links::open_in(&made).await.expect("socket").link_by_index(1).await.expect("answer").expect("lo");
        assert!(lo.up && lo.loopback, "{lo:?}");
        Netns::remove(&name, &dir).expect("removed");
        Netns::remove(&name, &dir).expect("gone is success");
        assert!(std::fs::read_dir(&dir).expect("directory").next().is_none());
        assert!(Netns::open_path(&dir.join("web.1")).expect_err("gone").is_not_found());
        assert!(Netns::open_path(Path::new("/etc/hostname")).is_err(), "a file is no namespace");
        assert!(!made.inode().expect("still open").eq(&0));
    });
}

#[test]
fn a_leftover_file_becomes_a_namespace() {
    in_new_netns(async || {
        let run = tempfile::tempdir().expect("directory");
        let name: Name = "left".parse().expect("valid");
        std::fs::write(run.path().join("left"), "").expect("file");
        let made = Netns::create(&name, run.path()).await.expect("made");
        assert_ne!(made.inode().expect("inode"), 0);
        Netns::remove(&name, run.path()).expect("removed");
    });
}

#[test]
fn reserved_ports_are_those_of_the_namespace() {
    in_new_netns(async || {
        let own = Netns::current().expect("own");
        let original = sysctl::ReservedPorts::read(&own).await.expect("read");
        let reserved = original.with(&[(40000, 40099)]);
        reserved.write(&own).await.expect("written");
        assert_eq!(sysctl::ReservedPorts::read(&own).await.expect("read"), reserved);
        let back = reserved.without(&[(40000, 40099)], &original);
        back.write(&own).await.expect("written");
        assert_eq!(sysctl::ReservedPorts::read(&own).await.expect("read"), original);
        assert!(sysctl::local_port_range(&own).await.expect("read").contains(&40000));
        let error = sysctl::read(&own, "ipv4/conf/absent/forwarding").await.expect_err("absent");
        assert!(error.is_not_found(), "{error:?}");
    });
}

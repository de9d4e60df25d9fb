//! The operations that are broken off, one by one: what goes before, the command, and how it is taken back.

/// A command line of `netd`.
pub type Line = &'static [&'static str];

/// An operation of the daemon.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// Its name in reports and for `--operation`.
    pub name: &'static str,
    /// What brings the situation about.
    pub before: &'static [Line],
    /// The operation itself.
    pub act: Act,
    /// What returns to where it all began, done or not.
    pub after: &'static [Line],
}

/// What is broken off.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// A command; the second one succeeds where the first has been done, and the exit code is what the first one answers then.
    Command { line: Line, done: Done, again: i32 },
    /// The start of a daemon that finds the world of an earlier one.
    Start,
    /// The first start.
    FirstStart,
    /// `netd down` with a daemon.
    Down,
    /// `netd down` where no daemon runs.
    DownAlone,
}

/// How to see that a command has been done.
#[derive(Debug, Clone, Copy)]
pub enum Done {
    /// This command succeeds.
    Works(Line),
    /// This command fails.
    Fails(Line),
    /// This command's output has this in it.
    Says(Line, &'static str),
    /// This command's output does not have this in it.
    Silent(Line, &'static str),
}

const NETWORK: Line =
    &["network", "create", "--subnet", "172.30.0.0/24", "--ipv6", "--subnet", "fd00:c:30::/64", "opN"];
const REMOVE_NETWORK: Line = &["network", "rm", "opN"];
const INSPECT_NETWORK: Line = &["network", "inspect", "opN"];
const SANDBOX: Line = &[
    "sandbox",
    "create",
    "--network",
    "netA,ip=172.20.0.77,ip6=fd00:c:20::77",
    "-p",
    "8090:80",
    "-p",
    "40000-40003:9000-9003/udp,allow=10.0.0.0/8",
    "--network",
    "netB",
    "--link",
    "b0:bee",
    "opS",
];
const REMOVE_SANDBOX: Line = &["sandbox", "rm", "-f", "opS"];
const INSPECT_SANDBOX: Line = &["sandbox", "inspect", "opS"];
const CONNECT: Line = &["network", "connect", "netB", "a1"];
const DISCONNECT: Line = &["network", "disconnect", "netB", "a1"];
const DISCONNECT_A: Line = &["network", "disconnect", "netA", "opS"];
const INSPECT_OP: Line = &["sandbox", "inspect", "--format", "{{json .NetworkSettings.Networks}}", "opS"];
const INSPECT_A1: Line = &["sandbox", "inspect", "--format", "{{json .NetworkSettings.Networks}}", "a1"];
const PUBLISH: Line = &["publish", "a1", "8091:81", "41000-41002:81-83/udp"];
const UNPUBLISH: Line = &["unpublish", "a1", "8091:81", "41000-41002:81-83/udp"];
const PORTS: Line = &["port", "a1"];
const RUN: Line = &["run", "-d", "--name", "opJ", "--network", "netA", "-p", "8095:80", "--", "sleep", "600"];
const REMOVE_JOB: Line = &["sandbox", "rm", "-f", "opJ"];
const INSPECT_JOB: Line = &["sandbox", "inspect", "opJ"];

/// Every operation.
pub const OPERATIONS: [Operation; 14] = [
    Operation {
        name: "network-create",
        before: &[],
        act: Act::Command { line: NETWORK, done: Done::Works(INSPECT_NETWORK), again: 4 },
        after: &[REMOVE_NETWORK],
    },
    Operation {
        name: "network-rm",
        before: &[NETWORK],
        act: Act::Command { line: REMOVE_NETWORK, done: Done::Fails(INSPECT_NETWORK), again: 3 },
        after: &[],
    },
    Operation {
        name: "sandbox-create",
        before: &[],
        act: Act::Command { line: SANDBOX, done: Done::Works(INSPECT_SANDBOX), again: 4 },
        after: &[REMOVE_SANDBOX],
    },
    Operation {
        name: "sandbox-rm",
        before: &[SANDBOX],
        act: Act::Command { line: REMOVE_SANDBOX, done: Done::Fails(INSPECT_SANDBOX), again: 3 },
        after: &[],
    },
    Operation {
        name: "connect",
        before: &[],
        act: Act::Command { line: CONNECT, done: Done::Says(INSPECT_A1, "\"netB\""), again: 4 },
        after: &[DISCONNECT],
    },
    Operation {
        name: "disconnect",
        before: &[CONNECT],
        act: Act::Command { line: DISCONNECT, done: Done::Silent(INSPECT_A1, "\"netB\""), again: 3 },
        after: &[],
    },
    // The gateway and the published ports move to the other network.
    Operation {
        name: "disconnect-gateway",
        before: &[SANDBOX],
        act: Act::Command { line: DISCONNECT_A, done: Done::Silent(INSPECT_OP, "\"netA\""), again: 3 },
        after: &[REMOVE_SANDBOX],
    },
    Operation {
        name: "publish",
        before: &[],
        act: Act::Command { line: PUBLISH, done: Done::Says(PORTS, "8091"), again: 4 },
        after: &[UNPUBLISH],
    },
    Operation {
        name: "unpublish",
        before: &[PUBLISH],
        act: Act::Command { line: UNPUBLISH, done: Done::Silent(PORTS, "8091"), again: 3 },
        after: &[],
    },
    // A sandbox whose command has not been started stays, as in docker: the caller has its name, and removes it.
    Operation {
        name: "run",
        before: &[],
        act: Act::Command { line: RUN, done: Done::Works(INSPECT_JOB), again: 4 },
        after: &[REMOVE_JOB],
    },
    Operation { name: "start", before: &[], act: Act::Start, after: &[] },
    Operation { name: "first-start", before: &[], act: Act::FirstStart, after: &[] },
    Operation { name: "down", before: &[], act: Act::Down, after: &[] },
    Operation { name: "down-alone", before: &[], act: Act::DownAlone, after: &[] },
];

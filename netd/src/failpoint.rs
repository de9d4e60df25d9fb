//! Named points at which tests break an operation off: `NETD_FAILPOINTS=NAME=ACTION[;NAME=ACTION]...`.
//!
//! Actions are `abort`, `panic`, `sleep:MILLISECONDS`, `until:PATH`, which goes on when there is such a file, and `return:ERRNO` (a name or a number). Release
//! builds have none of this, unless they are built with the feature `failpoints`.

#[cfg(any(debug_assertions, feature = "failpoints"))]
pub use enabled::hit;

/// Does what the environment asks for at this point.
///
/// # Errors
/// Never, in a build without failpoints.
#[cfg(not(any(debug_assertions, feature = "failpoints")))]
#[inline(always)]
pub fn hit(_: impl FnOnce() -> String) -> std::io::Result<()> {
    Ok(())
}

#[cfg(any(debug_assertions, feature = "failpoints"))]
mod enabled {
    use std::{collections::HashMap, io, path::Path, sync::OnceLock, thread, time::Duration};

    use tokio::{runtime, task};

    /// Names the actions, by point.
    const VARIABLE: &str = "NETD_FAILPOINTS";
    /// How often somebody who waits looks for the file.
    const LOOK: Duration = Duration::from_millis(5);
    /// Errors by name (errno(3)).
    const ERRORS: [(&str, i32); 7] = [
        ("EBUSY", libc::EBUSY),
        ("EEXIST", libc::EEXIST),
        ("EIO", libc::EIO),
        ("EMFILE", libc::EMFILE),
        ("ENODEV", libc::ENODEV),
        ("ENOMEM", libc::ENOMEM),
        ("ENOSPC", libc::ENOSPC),
    ];

    /// Does what the environment asks for at this point.
    ///
    /// # Errors
    /// The error that the environment asks for.
    ///
    /// # Panics
    /// When the environment asks for that.
    #[expect(clippy::panic_in_result_fn, reason = "that is what was asked for")]
    pub fn hit(name: impl FnOnce() -> String) -> io::Result<()> {
        static ACTIONS: OnceLock<HashMap<String, String>> = OnceLock::new();
        let actions = ACTIONS.get_or_init(|| parse(&std::env::var(VARIABLE).unwrap_or_default()));
        if actions.is_empty() {
            return Ok(());
        }
        let name = name();
        let Some(action) = actions.get(&name) else { return Ok(()) };
        tracing::warn!(name, action, "failpoint reached");
        match action.split_once(':') {
            None if action == "abort" => std::process::abort(),
            None if action == "panic" => panic!("failpoint {name}"),
            Some(("sleep", time)) => thread::sleep(Duration::from_millis(time.parse().unwrap_or_default())),
            Some(("until", path)) => wait_for(Path::new(path)),
            Some(("return", error)) => {
                let known = ERRORS.iter().find(|(word, _)| *word == error).map(|(_, number)| *number);
                let number = known.or_else(|| error.parse().ok()).unwrap_or(libc::EIO);
                return Err(io::Error::from_raw_os_error(number));
            }
            _ => tracing::error!(name, action, "failpoint with an unknown action"),
        }
        Ok(())
    }

    /// Waits for a file; others of the runtime go on meanwhile.
    fn wait_for(path: &Path) {
        let wait = || {
            while !path.exists() {
                thread::sleep(LOOK);
            }
        };
        match runtime::Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(runtime::RuntimeFlavor::MultiThread) => task::block_in_place(wait),
            _ => wait(),
        }
    }

    fn parse(text: &str) -> HashMap<String, String> {
        let pairs = text.split(';').filter_map(|pair| pair.trim().split_once('='));
        pairs.map(|(name, action)| (name.to_owned(), action.to_owned())).collect()
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn actions_are_read_by_name() {
            let actions = parse("veth.put.after=abort; journal.begin.before=return:ENOSPC");
            assert_eq!(actions["veth.put.after"], "abort");
            assert_eq!(actions["journal.begin.before"], "return:ENOSPC");
        }
    }
}

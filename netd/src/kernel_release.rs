//! Which kernel this is, and which ones netd runs on.

/// The first two numbers of a kernel's release.
pub type Version = (u32, u32);

/// Oldest kernel that netd runs on (design.md).
pub const FLOOR: Version = (6, 1);
/// First kernel with TCX links (Linux 6.6, `BPF_TCX_INGRESS`).
pub const TCX: Version = (6, 6);

/// Returns the running kernel's release as `uname -r` says it; nothing if it does not say.
pub fn text() -> String {
    let name = nix::sys::utsname::uname();
    name.map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default()
}

/// Returns the running kernel's version. None: its release does not begin with two numbers.
pub fn version() -> Option<Version> {
    parse(&text())
}

/// Reads a release such as `6.12.9-amd64`.
pub fn parse(release: &str) -> Option<Version> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse("6.12.9-amd64"), Some((6, 12)));
        assert_eq!(parse("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parse("weird"), None);
        assert!(parse("6.12.0") > Some(TCX) && parse("5.10.0") < Some(FLOOR));
        assert!(version().is_some(), "{}", text());
    }
}

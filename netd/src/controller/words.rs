//! Words of the user's that become parts of a sandbox's `/etc/hosts` and `/etc/resolv.conf`: none may end its line or begin another
//! (reliability S25; a newline in an alias once added lines to the hosts files that netavark wrote).

use super::{Attachment, Code, CreateSandbox, Error};

/// Longest name in DNS, in bytes (RFC 1035 §2.3.4, as text without the root).
const LONGEST: usize = 253;

/// Checks every word of a new sandbox but its name and the aliases of its endpoints.
///
/// # Errors
/// Names the first word that is refused.
pub(super) fn check_sandbox(request: &CreateSandbox) -> Result<(), Error> {
    let doing = format!("create sandbox {}", request.name.as_deref().unwrap_or_default());
    let hostname = request.hostname.iter().map(|word| ("host name", word));
    let aliases = request.links.iter().map(|(_, alias)| ("link's alias", alias));
    let search = request.dns.search.iter().map(|word| ("search domain", word));
    let options = request.dns.options.iter().map(|word| ("resolver option", word));
    let hosts = request.dns.extra_hosts.iter().map(|(name, _)| ("extra host", name));
    let mut words = hostname.chain(aliases).chain(search).chain(options).chain(hosts);
    words.try_for_each(|(kind, word)| check(&doing, kind, word))
}

/// Checks the names that an endpoint gets on its network.
///
/// # Errors
/// Names the first one that is refused.
pub(super) fn check_aliases(sandbox: &str, wanted: &Attachment) -> Result<(), Error> {
    let doing = format!("connect sandbox {sandbox}");
    wanted.aliases.iter().try_for_each(|alias| check(&doing, "alias", alias))
}

fn check(doing: &str, kind: &str, word: &str) -> Result<(), Error> {
    let fits = |character: char| !character.is_whitespace() && !character.is_control() && character != '#';
    if !word.is_empty() && word.len() <= LONGEST && word.chars().all(fits) {
        return Ok(());
    }
    let start: String = word.chars().take(64).collect();
    let text = format!(
        "{doing}: invalid {kind} {start:?}: it has 1 to {LONGEST} bytes without white space, control characters and `#`"
    );
    Err(Error::new(Code::Usage, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DnsConfig;

    #[test]
    fn no_word_of_a_sandbox_can_end_its_line() {
        let with = |word: &str| {
            let word = word.to_owned();
            [
                CreateSandbox { hostname: Some(word.clone()), ..CreateSandbox::default() },
                CreateSandbox { links: vec![("web".into(), word.clone())], ..CreateSandbox::default() },
                CreateSandbox {
                    dns: DnsConfig { search: vec![word.clone()], ..DnsConfig::default() },
                    ..CreateSandbox::default()
                },
                CreateSandbox {
                    dns: DnsConfig { options: vec![word.clone()], ..DnsConfig::default() },
                    ..CreateSandbox::default()
                },
                CreateSandbox {
                    dns: DnsConfig {
                        extra_hosts: vec![(word, [10, 0, 0, 1].into())],
                        ..DnsConfig::default()
                    },
                    ..CreateSandbox::default()
                },
            ]
        };
        for bad in ["", "a b", "a\n6.6.6.6 bank", "a\r", "a\u{2028}b", "a\0", "a#b", &"x".repeat(254)] {
            for request in with(bad) {
                let error = check_sandbox(&request).expect_err(bad);
                assert_eq!(error.code, Code::Usage);
                assert!(!error.message.contains('\n'), "{}", error.message);
            }
            let wanted = Attachment { aliases: vec![bad.to_owned()], ..Attachment::default() };
            assert!(check_aliases("web", &wanted).is_err(), "{bad:?}");
        }
        for good in ["web", "a.b-c_d", "ndots:2", ".", "münchen", &"x".repeat(253)] {
            for request in with(good) {
                assert_eq!(check_sandbox(&request), Ok(()), "{good}");
            }
        }
    }
}

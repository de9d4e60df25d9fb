//! Owner labels: the alias that marks a link as netd's (reliability: ownership labels).

/// Longest alias the kernel takes, in bytes (`IFALIASZ` - 1, linux/if.h).
pub const MAX_LABEL: usize = 255;

/// Returns the label of an object: `netd:<instance>:<kind>:<id>`.
pub fn label(instance: &str, kind: &str, id: &str) -> String {
    format!("netd:{instance}:{kind}:{id}")
}

/// A label, taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label<'a> {
    /// The daemon that owns the object.
    pub instance: &'a str,
    /// What it is: `network`, `endpoint`.
    pub kind: &'a str,
    /// Id of the network or endpoint.
    pub id: &'a str,
}

/// Takes a label apart; None: it is no label of netd's.
pub fn parse_label(alias: &str) -> Option<Label<'_>> {
    let mut parts = alias.strip_prefix("netd:")?.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(instance), Some(kind), Some(id), None) => Some(Label { instance, kind, id }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_apart_as_they_were_made() {
        let text = label("default", "endpoint", "0123");
        assert_eq!(parse_label(&text), Some(Label { instance: "default", kind: "endpoint", id: "0123" }));
        for foreign in ["", "netd", "netd:a:b", "netd:a:b:c:d", "docker:a:b:c"] {
            assert_eq!(parse_label(foreign), None, "{foreign}");
        }
    }
}

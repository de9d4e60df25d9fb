//! Values that several commands take: `KEY=VALUE`, names, namespaces, `NAME:IP`.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use crate::api::dto::HOST_GATEWAY;

/// Parses `KEY=VALUE`; without `=` the value is empty, as docker's labels.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err("write KEY=VALUE".into());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// Parses `KEY=VALUE`, both with something in it.
pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".into()),
    }
}

/// Parses `NAME=IP` of `--aux-address`.
pub(super) fn name_address(text: &str) -> Result<(String, IpAddr), String> {
    let (name, ip) = key_value(text).map_err(|_| "write NAME=IP".to_owned())?;
    Ok((name, ip.parse().map_err(|_| format!("{ip:?} is not an IP address"))?))
}

/// Parses `NAME:IP` (or `NAME=IP`) of `--add-host`; an IPv6 address may stand in brackets, `host-gateway` for the host.
pub(super) fn extra_host(text: &str) -> Result<(String, String), String> {
    let split = text.find([':', '=']).map(|at| (&text[..at], &text[at + 1..]));
    let (name, ip) = split.filter(|(name, _)| !name.is_empty()).ok_or("write NAME:IP")?;
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if bare != HOST_GATEWAY {
        bare.parse::<IpAddr>().map_err(|_| format!("{ip:?} is neither an IP address nor {HOST_GATEWAY}"))?;
    }
    Ok((name.to_owned(), bare.to_owned()))
}

/// Makes a path absolute, because the daemon has a working directory of its own.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// Collects pairs into a map; of equal keys the last wins.
pub(super) fn map(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

/// Splits at commas outside double quotes, as docker reads `--network` (RFC 4180 fields).
pub(super) fn split_fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => {
                if let Some(field) = fields.last_mut() {
                    field.push(character);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_split_at_the_first_sign() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(label("a"), Ok(("a".into(), String::new())));
        assert!(label("=b").is_err() && key_value("a").is_err());
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        for (text, address) in [
            ("db:10.0.0.1", "10.0.0.1"),
            ("db:::1", "::1"),
            ("db=[fd00::1]", "fd00::1"),
            ("db:host-gateway", "host-gateway"),
        ] {
            assert_eq!(extra_host(text), Ok(("db".into(), address.into())));
        }
        assert!(extra_host("db").is_err() && extra_host(":10.0.0.1").is_err() && extra_host("db:x").is_err());
        assert_eq!(name_address("p=10.0.0.9"), Ok(("p".into(), ip("10.0.0.9"))));
    }

    #[test]
    fn quotes_protect_commas() {
        assert_eq!(split_fields("app,ip=10.0.0.2"), ["app", "ip=10.0.0.2"]);
        assert_eq!(split_fields(r#"app,"driver-opt=k=a,b""#), ["app", "driver-opt=k=a,b"]);
        assert_eq!(split_fields(""), [""]);
    }
}

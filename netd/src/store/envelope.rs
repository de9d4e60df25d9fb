//! What stands around every object on disk: its kind, schema, length and checksum.
//!
//! `{"kind":"network","schema":1,"length":L,"crc32":"89abcdef","body":BODY}` is one JSON document, so that people can read it with
//! any tool; the checksum covers BODY's bytes as they are, and the fields before it.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::Error;

/// The schema that this netd writes, and the newest one that it reads.
pub(super) const SCHEMA: u32 = 1;

/// Ends the header; no header field contains it.
const BODY: &[u8] = b",\"body\":";
/// Ends the document.
const END: &[u8] = b"}\n";

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    Meta,
    Journal,
    Network,
    Sandbox,
}

impl Kind {
    /// Returns the directory of the kind's files; the instance's own files lie at the top.
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Meta | Self::Journal => "",
            Self::Network => "networks",
            Self::Sandbox => "sandboxes",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    kind: Kind,
    schema: u32,
    length: usize,
    crc32: String,
}

/// Why a file's content was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// It is not what was written.
    Corrupt(String),
    /// A newer netd wrote it, and not everything in it is known here.
    Newer(u32),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(why) => f.write_str(why),
            Self::Newer(schema) => {
                write!(f, "a newer netd wrote it (schema {schema}, known here: up to {SCHEMA})")
            }
        }
    }
}

/// Returns the text of the file.
pub(super) fn encode<T: Serialize>(kind: Kind, object: &T) -> Result<Vec<u8>, Error> {
    let body = serde_json::to_vec_pretty(object).map_err(Error::Encode)?;
    let header = Header { kind, schema: SCHEMA, length: body.len(), crc32: checksum(kind, SCHEMA, &body) };
    let mut text = serde_json::to_vec(&header).map_err(Error::Encode)?;
    text.pop(); // the brace that closes the header: the body belongs into it
    text.extend_from_slice(BODY);
    text.extend_from_slice(&body);
    text.extend_from_slice(END);
    Ok(text)
}

/// Returns the object of a file that holds nothing else.
pub(super) fn decode<T: DeserializeOwned>(kind: Kind, text: &[u8]) -> Result<T, Damage> {
    let (object, rest) = decode_start(kind, text)?;
    if rest.is_empty() { Ok(object) } else { Err(corrupt("something follows the object")) }
}

/// Returns the object at the start of a text, and what follows it.
pub(super) fn decode_start<T: DeserializeOwned>(kind: Kind, text: &[u8]) -> Result<(T, &[u8]), Damage> {
    let header_length = text
        .windows(BODY.len())
        .position(|window| window == BODY)
        .ok_or_else(|| corrupt("it has no header"))?;
    let (header, body) = text.split_at(header_length);
    let header: Header = serde_json::from_slice(&[header, b"}"].concat())
        .map_err(|error| Damage::Corrupt(format!("its header is damaged: {error}")))?;
    let body = &body[BODY.len()..];
    let Some((body, rest)) = body.split_at_checked(header.length) else {
        return Err(corrupt("its end is missing"));
    };
    let Some(rest) = rest.strip_prefix(END) else { return Err(corrupt("its end is missing")) };
    if header.crc32 != checksum(header.kind, header.schema, body) {
        return Err(corrupt("its checksum is wrong"));
    }
    if header.kind != kind {
        return Err(Damage::Corrupt(format!("it holds a {:?}", header.kind)));
    }
    // What a newer netd wrote is read all the same where it has everything that is needed here: a rollback keeps its objects.
    let object = serde_json::from_slice(body).map_err(|error| {
        if header.schema > SCHEMA {
            Damage::Newer(header.schema)
        } else {
            Damage::Corrupt(format!("it is malformed: {error}"))
        }
    })?;
    Ok((object, rest))
}

fn corrupt(why: &str) -> Damage {
    Damage::Corrupt(why.to_owned())
}

fn checksum(kind: Kind, schema: u32, body: &[u8]) -> String {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(format!("{kind:?} {schema}\n").as_bytes());
    hasher.update(body);
    format!("{:08x}", hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_one_json_document_with_its_checksum() {
        let text = encode(Kind::Meta, &["a", "b"]).expect("encodes");
        let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(
            (&json["kind"], &json["schema"], &json["body"][1]),
            (&"meta".into(), &1.into(), &"b".into())
        );
        assert_eq!(decode::<Vec<String>>(Kind::Meta, &text), Ok(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let text = encode(Kind::Meta, &["some", "text"]).expect("encodes");
        for at in 0..text.len() {
            assert!(decode::<Vec<String>>(Kind::Meta, &text[..at]).is_err(), "truncated at {at}");
            for bit in 0..8 {
                let mut damaged = text.clone();
                damaged[at] ^= 1 << bit;
                let decoded = decode::<Vec<String>>(Kind::Meta, &damaged);
                assert!(matches!(decoded, Err(Damage::Corrupt(_))), "bit {bit} of byte {at}: {decoded:?}");
            }
        }
        let longer = [text.as_slice(), b"x"].concat();
        assert!(decode::<Vec<String>>(Kind::Meta, &longer).is_err());
    }

    #[test]
    fn a_newer_schema_and_another_kind_are_told_apart_from_damage() {
        let body = b"{}";
        let newer = format!(
            "{{\"kind\":\"meta\",\"schema\":2,\"length\":2,\"crc32\":\"{}\",\"body\":{{}}}}\n",
            checksum(Kind::Meta, 2, body)
        );
        // What is known of it is taken; what is not is no damage.
        assert_eq!(decode::<serde_json::Value>(Kind::Meta, newer.as_bytes()), Ok(serde_json::json!({})));
        assert_eq!(decode::<Vec<u8>>(Kind::Meta, newer.as_bytes()), Err(Damage::Newer(2)));
        let journal = encode(Kind::Journal, &()).expect("encodes");
        assert_eq!(decode::<()>(Kind::Meta, &journal), Err(Damage::Corrupt("it holds a Journal".into())));
    }
}

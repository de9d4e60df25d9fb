//! How much one request's JSON may hold, before anything is made of it (reliability.md 8.3; `netd/docs/limits.md`).

use serde_json::Value;

/// Deepest nesting of arrays and objects; the deepest body of the API has five levels.
const DEPTH: usize = 32;
/// Longest text in bytes, but for the words of a command.
const TEXT: usize = 4 << 10;
/// Entries of one array or object: as many as there are ports to publish one by one.
const ENTRIES: usize = 64 << 10;
/// Labels of one object.
const LABELS: usize = 64;
/// Longest key and longest value of a label in bytes.
const LABEL: usize = 256;

/// Refuses a body that holds more of something than any honest one.
///
/// # Errors
/// Names what there is too much of, and the limit.
pub(super) fn check(body: &Value) -> Result<(), String> {
    walk(body, "", 1)
}

/// Checks what stands under a key, on this level of nesting.
fn walk(value: &Value, key: &str, depth: usize) -> Result<(), String> {
    if depth > DEPTH {
        return Err(format!("nested more than {DEPTH} levels deep"));
    }
    match value {
        // A command may be a whole script; the body's length bounds it.
        Value::String(text) if text.len() > TEXT && key != "Command" => {
            Err(format!("{key}: a text of {} bytes, the limit is {TEXT}", text.len()))
        }
        Value::Array(items) => {
            entries(items.len(), key)?;
            items.iter().try_for_each(|item| walk(item, key, depth + 1))
        }
        Value::Object(fields) => {
            entries(fields.len(), key)?;
            if key == "Labels" {
                labels(fields)?;
            }
            fields.iter().try_for_each(|(name, item)| {
                if name.len() > TEXT {
                    return Err(format!("{key}: a name of {} bytes, the limit is {TEXT}", name.len()));
                }
                walk(item, name, depth + 1)
            })
        }
        _ => Ok(()),
    }
}

fn entries(count: usize, key: &str) -> Result<(), String> {
    if count > ENTRIES {
        return Err(format!("{key}: {count} entries, the limit is {ENTRIES}"));
    }
    Ok(())
}

fn labels(labels: &serde_json::Map<String, Value>) -> Result<(), String> {
    if labels.len() > LABELS {
        return Err(format!("Labels: {} labels, the limit is {LABELS}", labels.len()));
    }
    let value = |value: &Value| value.as_str().map_or(0, str::len);
    match labels.iter().find(|(name, text)| name.len() > LABEL || value(text) > LABEL) {
        None => Ok(()),
        // Not the whole name: it may be what is too long.
        Some((name, _)) => {
            let start: String = name.chars().take(32).collect();
            Err(format!("Labels: {start:?} or its value is longer than {LABEL} bytes"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn nested(levels: usize) -> Value {
        (1..levels).fold(json!([]), |inner, _| json!([inner]))
    }

    fn many_labels(count: usize, length: usize) -> Value {
        let labels = (0..count).map(|n| (format!("label{n}"), Value::from("x".repeat(length))));
        json!({"Labels": labels.collect::<serde_json::Map<_, _>>()})
    }

    #[test]
    fn what_is_at_its_limit_passes_and_one_more_does_not() {
        for (passes, refused, word) in [
            (nested(DEPTH), nested(DEPTH + 1), "levels"),
            (json!({"Name": "x".repeat(TEXT)}), json!({"Name": "x".repeat(TEXT + 1)}), "Name"),
            (json!({"x".repeat(TEXT): 1}), json!({"x".repeat(TEXT + 1): 1}), "a name of"),
            (json!(vec![0; ENTRIES]), json!(vec![0; ENTRIES + 1]), "65537 entries"),
            (many_labels(LABELS, LABEL), many_labels(LABELS + 1, 1), "65 labels"),
            (many_labels(1, LABEL), many_labels(1, LABEL + 1), "label0"),
        ] {
            assert_eq!(check(&passes), Ok(()), "{word}");
            let why = check(&refused).expect_err(word);
            assert!(why.contains(word) && why.len() < 120, "{why}");
        }
        assert_eq!(check(&json!({"Command": ["sh", "-c", "x".repeat(100_000)]})), Ok(()));
    }

    #[test]
    fn serde_itself_refuses_what_would_overflow_the_stack() {
        let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
        assert!(serde_json::from_str::<Value>(&deep).is_err());
    }
}

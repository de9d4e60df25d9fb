//! The functions of templates: Go's own and Docker's (docker `cli/templates`).

use std::cmp::Ordering;

use serde_json::Value;

use super::{TemplateError, evaluate::display};

/// Every function there is.
const FUNCTIONS: [&str; 24] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not", "or", "pad",
    "print", "printf", "println", "split", "title", "truncate", "upper", "slice", "urlquery",
];

/// Whether a word is a function's name.
pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.contains(&name)
}

/// Calls a function; `and` and `or` are not here, because they don't look at every argument.
pub(super) fn call(name: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    match (name, arguments) {
        ("json", [value]) => serde_json::to_string(value)
            .map(Value::String)
            .map_err(|error| TemplateError::new(format!("json: {error}"))),
        ("len", [value]) => len(value),
        ("index", [value, keys @ ..]) => keys.iter().try_fold(value.clone(), |value, key| index(&value, key)),
        ("slice", [value, bounds @ ..]) => slice(value, bounds),
        ("print", values) => Ok(print(values).into()),
        ("println", values) => Ok((values.iter().map(display).collect::<Vec<_>>().join(" ") + "\n").into()),
        ("printf", [Value::String(format), values @ ..]) => printf(format, values).map(Value::String),
        ("join", [Value::Array(items), separator]) => {
            Ok(items.iter().map(display).collect::<Vec<_>>().join(&display(separator)).into())
        }
        ("split", [text, separator]) => {
            Ok(display(text).split(&display(separator)).map(Value::from).collect::<Vec<_>>().into())
        }
        ("upper", [text]) => Ok(display(text).to_uppercase().into()),
        ("lower", [text]) => Ok(display(text).to_lowercase().into()),
        ("title", [text]) => Ok(title(&display(text)).into()),
        ("truncate", [text, length]) => {
            Ok(display(text).chars().take(count(length)?).collect::<String>().into())
        }
        ("pad", [text, before, after]) => {
            let (before, after) = (" ".repeat(count(before)?), " ".repeat(count(after)?));
            Ok(format!("{before}{}{after}", display(text)).into())
        }
        ("not", [value]) => Ok((!is_true(value)).into()),
        ("eq", [first, rest @ ..]) if !rest.is_empty() => {
            Ok(rest.iter().any(|other| equal(first, other)).into())
        }
        ("ne", [first, second]) => Ok((!equal(first, second)).into()),
        ("lt" | "le" | "gt" | "ge", [first, second]) => compare(name, first, second),
        ("urlquery", values) => Ok(url_query(&print(values)).into()),
        _ => Err(TemplateError::new(format!("wrong arguments for {name}"))),
    }
}

/// Whether a value counts as true: not false, zero, nil or empty.
pub(super) fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Numbers are equal by value; everything else by kind and content.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn compare(name: &str, a: &Value, b: &Value) -> Result<Value, TemplateError> {
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    let order = order.ok_or_else(|| TemplateError::new(format!("incompatible types for {name}")))?;
    Ok(match name {
        "lt" => order == Ordering::Less,
        "le" => order != Ordering::Greater,
        "gt" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    }
    .into())
}

fn len(value: &Value) -> Result<Value, TemplateError> {
    match value {
        Value::String(text) => Ok(text.len().into()),
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(map) => Ok(map.len().into()),
        Value::Null => Ok(0.into()),
        other => Err(TemplateError::new(format!("len of {other}"))),
    }
}

/// Returns an element; a key that a map does not have gives the empty string, as for Go's maps of strings.
fn index(value: &Value, key: &Value) -> Result<Value, TemplateError> {
    match (value, key) {
        (Value::Object(map), Value::String(key)) => Ok(map.get(key).cloned().unwrap_or_else(|| "".into())),
        (Value::Array(items), Value::Number(_)) => {
            let at = count(key)?;
            let missing = || TemplateError::new(format!("index out of range: {at}"));
            items.get(at).cloned().ok_or_else(missing)
        }
        (Value::Null, _) => Err(TemplateError::new("index of nil")),
        _ => Err(TemplateError::new(format!("cannot index {} with {key}", kind(value)))),
    }
}

fn slice(value: &Value, bounds: &[Value]) -> Result<Value, TemplateError> {
    let length = match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        _ => return Err(TemplateError::new(format!("cannot slice {}", kind(value)))),
    };
    let from = bounds.first().map_or(Ok(0), count)?;
    let to = bounds.get(1).map_or(Ok(length), count)?;
    let part = match value {
        Value::String(text) => text.get(from..to).map(Value::from),
        Value::Array(items) => items.get(from..to).map(Value::from),
        _ => None,
    };
    part.ok_or_else(|| TemplateError::new(format!("slice out of range: {from}:{to}")))
}

fn count(value: &Value) -> Result<usize, TemplateError> {
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|n| *n <= 1 << 16);
    number.ok_or_else(|| TemplateError::new(format!("{value} is no count")))
}

/// Adds a space between two values when neither is a string, as Go's `fmt.Sprint` does.
fn print(values: &[Value]) -> String {
    let mut text = String::new();
    for (at, value) in values.iter().enumerate() {
        let spaced = at > 0 && !value.is_string() && !values[at - 1].is_string();
        if spaced {
            text.push(' ');
        }
        text.push_str(&display(value));
    }
    text
}

/// Go's `printf` with the verbs `%s %v %d %q %t %f %x %%`, and a width with `-` for the left side.
fn printf(format: &str, values: &[Value]) -> Result<String, TemplateError> {
    let mut text = String::new();
    let mut values = values.iter();
    let mut rest = format;
    while let Some((before, verb)) = rest.split_once('%') {
        text.push_str(before);
        let end = verb.find(|c: char| !c.is_ascii_digit() && !matches!(c, '-' | '.' | '+'));
        let end = end.ok_or_else(|| TemplateError::new("printf: % at the end"))?;
        let (flags, verb) = verb.split_at(end);
        let letter = verb.chars().next().unwrap_or('%');
        rest = &verb[letter.len_utf8()..];
        if letter == '%' {
            text.push('%');
            continue;
        }
        let value =
            values.next().ok_or_else(|| TemplateError::new(format!("printf: no value for %{letter}")))?;
        let shown = match (letter, value) {
            ('s' | 'v' | 'd' | 't' | 'f', _) => display(value),
            ('q', _) => format!("{:?}", display(value)),
            ('x', Value::Number(number)) => {
                number.as_u64().map_or_else(|| display(value), |n| format!("{n:x}"))
            }
            _ => return Err(TemplateError::new(format!("printf: unknown verb %{letter}"))),
        };
        let width: usize = flags.trim_start_matches('-').parse().unwrap_or(0).min(1 << 10);
        let aligned =
            if flags.starts_with('-') { format!("{shown:<width$}") } else { format!("{shown:>width$}") };
        text.push_str(&aligned);
    }
    text.push_str(rest);
    Ok(text)
}

fn title(text: &str) -> String {
    let mut start = true;
    let upper_first = |c: char| {
        let shown = if start { c.to_uppercase().to_string() } else { c.to_string() };
        start = c.is_whitespace();
        shown
    };
    text.chars().map(upper_first).collect()
}

fn url_query(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            b' ' => "+".to_owned(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// Returns what a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "a bool",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

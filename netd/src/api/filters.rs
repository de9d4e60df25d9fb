//! Docker's `filters` parameter: keys must all match, of several values for a key one must; labels must all match.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::controller::{Code, Error};

/// Parsed filters: values by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// Docker's two spellings of a value set: `{"web":true}`, and the older `["web"]`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Set(BTreeMap<String, bool>),
    List(BTreeSet<String>),
}

impl Filters {
    /// Parses the query parameter; absent or empty means no filter.
    ///
    /// # Errors
    /// When it is not JSON of either spelling, or when a key is not among the allowed ones.
    pub fn parse(text: Option<&str>, allowed: &[&str]) -> Result<Self, Error> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Self::default()) };
        let values: BTreeMap<String, Values> = serde_json::from_str(text)
            .map_err(|why| Error::new(Code::Usage, format!("invalid filters {text:?}: {why}")))?;
        let flatten = |values| match values {
            Values::Set(set) => set.into_iter().filter_map(|(value, on)| on.then_some(value)).collect(),
            Values::List(list) => list,
        };
        let filters = Self(values.into_iter().map(|(key, values)| (key, flatten(values))).collect());
        filters.check(allowed)?;
        Ok(filters)
    }

    /// Parses `--filter KEY=VALUE` options.
    ///
    /// # Errors
    /// When one has no `=`, or when a key is not among the allowed ones.
    pub fn from_options(options: &[String], allowed: &[&str]) -> Result<Self, Error> {
        let mut filters = Self::default();
        for option in options {
            let (key, value) = option.split_once('=').ok_or_else(|| {
                Error::new(Code::Usage, format!("invalid filter {option:?}")).hint("write KEY=VALUE")
            })?;
            filters.0.entry(key.to_ascii_lowercase()).or_default().insert(value.to_owned());
        }
        filters.check(allowed)?;
        Ok(filters)
    }

    fn check(&self, allowed: &[&str]) -> Result<(), Error> {
        match self.0.keys().find(|key| !allowed.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => Err(Error::new(Code::Usage, format!("invalid filter {key:?}"))
                .hint(format!("known filters: {}", allowed.join(", ")))),
        }
    }

    /// Whether there is no filter at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns every key with each of its values.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|(key, values)| values.iter().map(move |value| (key.as_str(), value.as_str())))
    }

    /// Returns the filters as the query parameter.
    pub fn to_json(&self) -> String {
        let sets: BTreeMap<&String, BTreeMap<&String, bool>> = self
            .0
            .iter()
            .map(|(key, values)| (key, values.iter().map(|value| (value, true)).collect()))
            .collect();
        serde_json::to_string(&sets).unwrap_or_default() // maps of strings always serialize
    }

    /// Returns the only value of a key that makes no sense twice.
    ///
    /// # Errors
    /// When there are several.
    pub fn single(&self, key: &str) -> Result<Option<&str>, Error> {
        let values = self.0.get(key);
        match values.map_or(0, BTreeSet::len) {
            0 => Ok(None),
            1 => Ok(values.and_then(BTreeSet::first).map(String::as_str)),
            _ => Err(Error::new(Code::Usage, format!("filter {key:?} is given twice"))),
        }
    }

    /// Whether the key is absent or one of its values satisfies the predicate.
    pub fn any(&self, key: &str, mut predicate: impl FnMut(&str) -> bool) -> bool {
        self.0.get(key).is_none_or(|values| values.iter().any(|value| predicate(value)))
    }

    /// Whether the key is absent or equal to the text in one of its values.
    pub fn exact(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| value == text)
    }

    /// Whether the key is absent or found in the text; `^` and `$` tie a value to the text's ends, as in Docker.
    pub fn found_in(&self, key: &str, text: &str) -> bool {
        self.any(key, |value| matches(value, text))
    }

    /// Whether every `label` filter (`KEY` or `KEY=VALUE`) is met, and no `label!` one.
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |filter: &String| match filter.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|label| label == value),
            None => labels.contains_key(filter),
        };
        let all = self.0.get("label").is_none_or(|filters| filters.iter().all(has));
        all && !self.0.get("label!").is_some_and(|filters| filters.iter().any(has))
    }

    /// Whether a `true`/`false` key is absent or equal to the flag.
    ///
    /// # Errors
    /// When a value is neither.
    pub fn flag(&self, key: &str, flag: bool) -> Result<bool, Error> {
        match self.single(key)? {
            None => Ok(true),
            Some("true" | "1") => Ok(flag),
            Some("false" | "0") => Ok(!flag),
            Some(other) => {
                Err(Error::new(Code::Usage, format!("invalid filter {key}={other}: true or false")))
            }
        }
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    let (start, pattern) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (end, pattern) = pattern.strip_suffix('$').map_or((false, pattern), |rest| (true, rest));
    match (start, end) {
        (true, true) => text == pattern,
        (true, false) => text.starts_with(pattern),
        (false, true) => text.ends_with(pattern),
        (false, false) => text.contains(pattern),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &[&str] = &["name", "label", "dangling"];

    #[test]
    fn both_spellings_of_docker_are_read() {
        for text in [r#"{"name":{"web":true,"db":false}}"#, r#"{"name":["web"]}"#] {
            let filters = Filters::parse(Some(text), KEYS).expect("valid");
            assert!(filters.exact("name", "web") && !filters.exact("name", "db"), "{text}");
        }
        assert_eq!(Filters::parse(None, KEYS), Ok(Filters::default()));
        assert_eq!(Filters::parse(Some("nonsense"), KEYS).expect_err("no JSON").code, Code::Usage);
    }

    #[test]
    fn unknown_keys_are_usage_errors_with_a_hint() {
        let error = Filters::from_options(&["colour=red".into()], KEYS).expect_err("unknown");
        assert_eq!(error.code, Code::Usage);
        assert_eq!(error.hint.as_deref(), Some("known filters: name, label, dangling"));
        assert!(Filters::from_options(&["name".into()], KEYS).is_err());
    }

    #[test]
    fn options_survive_the_query_parameter() {
        let filters = Filters::from_options(&["name=a".into(), "name=b".into(), "label=x=y".into()], KEYS);
        let filters = filters.expect("valid");
        assert_eq!(Filters::parse(Some(&filters.to_json()), KEYS).as_ref(), Ok(&filters));
    }

    #[test]
    fn values_are_found_anywhere_unless_anchored() {
        for (pattern, found) in [
            ("rid", true),
            ("^br", true),
            ("ge$", true),
            ("^bridge$", true),
            ("^rid", false),
            ("bri$", false),
        ] {
            assert_eq!(matches(pattern, "bridge"), found, "{pattern}");
        }
    }

    #[test]
    fn labels_must_all_match() {
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        for (options, met) in
            [(vec!["a"], true), (vec!["a=1", "b"], true), (vec!["a=2"], false), (vec!["a", "c"], false)]
        {
            let options: Vec<String> = options.into_iter().map(|label| format!("label={label}")).collect();
            assert_eq!(
                Filters::from_options(&options, KEYS).expect("valid").labels(&labels),
                met,
                "{options:?}"
            );
        }
    }
}

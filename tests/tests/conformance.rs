//! Rung: unit. `tests/CONFORMANCE.md` says which test proves what: each test named there exists, and each case and row has its line.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The cases of the dataplane's list; their numbers are names.
const CASES: [u16; 66] = [
    1, 2, 3, 4, 5, 6, 9, 10, 12, 14, 16, 18, 20, 22, 23, 24, 25, 27, 28, 30, 31, 32, 33, 35, 37, 40, 41, 42,
    43, 44, 46, 47, 48, 49, 50, 51, 52, 54, 55, 57, 59, 60, 61, 64, 70, 73, 76, 80, 84, 87, 88, 91, 96, 98,
    100, 101, 105, 106, 107, 110, 111, 118, 123, 125, 126, 127,
];
/// The last one.
const LAST: u16 = 128;
/// The truth table's rows.
const ROWS: u16 = 85;
/// The security table's rows.
const THREATS: u16 = 36;
/// Rows about what netd does not have yet: a DNS server, an overlay, a cluster, packages.
const NOT_YET: [u16; 5] = [11, 12, 13, 26, 35];
/// Documents that name tests for what they say.
const DOCUMENTS: [&str; 3] = ["SECURITY.md", "THREAT_MODEL.md", "netd/docs/limits.md"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace above the package").to_owned()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

/// By the first column of each line that has one: the tests it names.
fn table() -> BTreeMap<String, Vec<String>> {
    let text = read(&root().join("tests/CONFORMANCE.md"));
    let lines = text.lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let named = lines.map(|(first, rest)| (first.to_owned(), tests_named(rest)));
    named.filter(|(_, tests)| !tests.is_empty()).collect()
}

/// Every `FILE::TEST` of a text.
fn tests_named(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).map(str::to_owned).collect()
}

/// Expects that a test is there; `place` names it.
fn assert_exists(place: &str, test: &str) {
    let (file, name) = test.split_once("::").expect("FILE::TEST");
    let row = number(name, "t").filter(|_| file == "truth_table");
    let exists = row.map_or_else(|| source(file).contains(&format!("fn {name}(")), has_row);
    assert!(exists, "{place}: there is no test {test}");
}

/// The source of `FILE` in `FILE::TEST`.
fn source(file: &str) -> String {
    if file.contains('/') {
        return read(&root().join(file));
    }
    let tests = root().join("tests/tests");
    let places = [tests.join(format!("{file}.rs")), tests.join(file).join("main.rs")];
    read(places.iter().find(|place| place.exists()).unwrap_or_else(|| panic!("no file of tests {file}")))
}

/// Whether the truth table has a row of this number.
fn has_row(number: u16) -> bool {
    let files = fs::read_dir(root().join("tests/tests/truth_table")).expect("the truth table");
    let start = format!("({number},\"");
    let plain = |path: &Path| read(path).split_whitespace().collect::<String>();
    files.flatten().any(|file| plain(&file.path()).contains(&start))
}

/// The number behind a word in a test's name: `case12` of `t05_case12_...`.
fn numbers(name: &str, word: &str) -> BTreeSet<u16> {
    let parts = name.split('_').map_while(|part| {
        let known = ["t", "case", "s"].iter().any(|word| number(part, word).is_some());
        known.then_some(part)
    });
    parts.filter_map(|part| number(part, word)).collect()
}

fn number(part: &str, word: &str) -> Option<u16> {
    part.strip_prefix(word).filter(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

#[test]
fn every_test_that_the_table_names_exists() {
    for (line, tests) in table() {
        for test in tests {
            assert_exists(&line, &test);
        }
    }
}

#[test]
fn every_test_that_a_document_names_exists() {
    for document in DOCUMENTS {
        let tests = tests_named(&read(&root().join(document)));
        assert!(tests.len() > 5, "{document} names {} tests", tests.len());
        for test in tests {
            assert_exists(document, &test);
        }
    }
}

#[test]
fn every_case_and_every_row_has_a_line_with_a_test() {
    let table = table();
    let missing = |name: &str| !table.contains_key(name);
    let cases: Vec<u16> = CASES.into_iter().chain([LAST]).filter(|n| missing(&n.to_string())).collect();
    let rows: Vec<u16> = (1..=ROWS).filter(|n| missing(&format!("T{n}"))).collect();
    let threats: Vec<u16> =
        (1..=THREATS).filter(|n| missing(&format!("S{n}")) && !NOT_YET.contains(n)).collect();
    assert!(
        cases.is_empty() && rows.is_empty() && threats.is_empty(),
        "cases without a line: {cases:?}, rows: {rows:?}, threats: {threats:?}"
    );
}

#[test]
fn every_test_with_a_cases_number_in_its_name_stands_in_that_cases_line() {
    let table = table();
    let files = fs::read_dir(root().join("tests/tests")).expect("the tests");
    let mut seen = 0;
    for path in files.flatten().map(|file| file.path()).filter(|path| path.extension().is_some()) {
        let file = path.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = read(&path);
        let tests =
            text.split("#[test]\n").skip(1).filter_map(|rest| rest.split_once("fn ")?.1.split_once('('));
        for (name, _) in tests {
            let cases = numbers(name, "case").into_iter().map(|case| case.to_string());
            let threats = numbers(name, "s").into_iter().map(|threat| format!("S{threat}"));
            for line in cases.chain(threats) {
                let stands = table.get(&line).is_some_and(|tests| tests.contains(&format!("{file}::{name}")));
                assert!(stands, "tests/CONFORMANCE.md, {line}: {file}::{name} is not in its line");
                seen += 1;
            }
        }
    }
    assert!(seen > 40, "only {seen} tests carry a case's number: are the names read right?");
}

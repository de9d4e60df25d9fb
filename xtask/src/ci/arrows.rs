//! Who may import whom: each danger in one place, and no arrow running back up.
//!
//! It reads words, not syntax: comments and strings are cut away, and what is left is searched for names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// A word that only some places of a crate may contain.
struct Reserved {
    word: &'static str,
    /// The folder that the rule is about.
    within: &'static str,
    /// Files and folders in it that may.
    allowed: &'static [&'static str],
}

/// Each danger and each library with a moving API has one home.
const RESERVED: [Reserved; 9] = [
    Reserved { word: "aya", within: "netd/src", allowed: &["netd/src/dataplane"] },
    Reserved { word: "aya", within: "netd-common/src", allowed: &["netd-common/src/maps/mod.rs"] },
    Reserved { word: "rtnetlink", within: "netd/src", allowed: &["netd/src/link"] },
    Reserved { word: "clap", within: "netd/src", allowed: &["netd/src/cli"] },
    Reserved { word: "setns", within: "netd/src", allowed: &["netd/src/netns.rs"] },
    Reserved {
        word: "unsafe",
        within: "netd/src",
        allowed: &[
            "netd/src/netns.rs",
            "netd/src/link/announce.rs",
            "netd/src/dataplane/maps.rs",
            "netd/src/dataplane/raw.rs",
            "netd/src/cli/launch.rs",
            "netd/src/daemon/activation.rs",
        ],
    },
    Reserved { word: "unsafe", within: "netd-common/src", allowed: &["netd-common/src/maps/mod.rs"] },
    Reserved {
        word: "unsafe",
        within: "netd-ebpf/src",
        // Packets: skb, hold, guard, monitor. Maps: env, fib, hold, atomic, names, input, guard. The rest: the kernel's calling conventions. Not netd's: bin.
        allowed: &[
            "main.rs",
            "env.rs",
            "skb.rs",
            "names.rs",
            "sock.rs",
            "socket.rs",
            "parts.rs",
            "tc.rs",
            "report.rs",
            "fib.rs",
            "hold.rs",
            "monitor.rs",
            "input.rs",
            "guard.rs",
            "atomic.rs",
            "bin/redirect.rs",
        ],
    },
    Reserved { word: "unsafe", within: "xtask/src", allowed: &[] },
];

/// Crates that a crate must not name.
const CRATES: [(&str, &[&str]); 3] = [
    ("xtask/src", &["netd", "netd_common", "netd_tests", "aya"]),
    ("netd-common/src", &["netd", "netd_tests", "std"]),
    ("netd-ebpf/src", &["netd", "netd_tests", "std"]),
];

/// Modules from the lowest layer to the highest: each may use its own layer and those before it.
struct Layers {
    source: &'static str,
    layers: &'static [&'static [&'static str]],
}

const LAYERS: [Layers; 2] = [
    Layers {
        source: "netd/src",
        layers: &[
            &["model", "failpoint", "kernel_release", "moment", "pulse"],
            &["ipam", "template", "etc_files"],
            &["netns", "sysctl", "store"],
            &["audit"],
            &["link", "dataplane"],
            &["controller"],
            &["api"],
            &["cli", "config", "daemon"],
            &["lib", "main"],
        ],
    },
    Layers {
        source: "netd-common/src",
        layers: &[
            &["net"],
            // A family's associated types are its map keys and wire formats.
            &["family", "wire", "maps", "monitor", "verdict", "env"],
            &["policy", "conntrack", "nat", "guard"],
            &["hook"],
            &["fake"],
            &["lib"],
        ],
    },
];

/// Arrows that run back for a reason.
const EXCEPTIONS: [(&str, &str); 3] = [
    ("env", "conntrack"), // for `Opening`: the pair of entries that a flow table is asked to insert
    ("env", "nat"),       // for `Quote`: what an ICMP error quotes, kept in scratch memory between steps
    ("ipam", "controller"), // for `Error`, `Code` and the request's types: the words that every surface shares
];

/// Returns a line for every rule that a file below `root` breaks.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for top in ["netd/src", "netd-common/src", "netd-ebpf/src", "xtask/src"] {
        for file in rust_files(&root.join(top))? {
            let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
            let text = fs::read_to_string(&file).with_context(|| format!("read {path}"))?;
            let code = code_of(&text);
            broken.extend(reserved(&path, &code));
            // A test may look at everything; a module's tests end its file, or have a file of their own.
            if path.ends_with("fake.rs") || path.contains("/fake/") || is_test(&file) {
                continue;
            }
            let product = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            broken.extend(foreign_crates(&path, product));
            broken.extend(layers(&path, product));
        }
    }
    Ok(broken)
}

/// Whether a file is a module for tests alone: named so, declared under `#[cfg(test)]` by the module it belongs to, or part of such a module.
fn is_test(file: &Path) -> bool {
    let (Some(name), Some(dir)) = (file.file_stem().and_then(|name| name.to_str()), file.parent()) else {
        return false;
    };
    let around = dir.with_extension("rs");
    let parents = [dir.join("mod.rs"), around.clone(), dir.join("lib.rs")];
    let declares =
        |parent: &PathBuf| fs::read_to_string(parent).is_ok_and(|text| declared_for_tests(&text, name));
    name == "tests"
        || dir.ends_with("tests")
        || parents.iter().any(declares)
        || (around.is_file() && is_test(&around))
}

fn declared_for_tests(text: &str, module: &str) -> bool {
    let declaration = format!("mod {module};");
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| *line == declaration);
    let attributes = at.map(|at| lines[..at].iter().rev().take_while(|line| line.starts_with("#[")));
    attributes.is_some_and(|mut lines| lines.any(|line| *line == "#[cfg(test)]"))
}

fn reserved(path: &str, code: &str) -> Vec<String> {
    let about = |rule: &&Reserved| {
        let inside = path.strip_prefix(rule.within).and_then(|rest| rest.strip_prefix('/'));
        inside.is_some_and(|rest| !rule.allowed.iter().any(|home| path.starts_with(home) || rest == *home))
    };
    // Promises about names, not about memory.
    let code = code.replace("#[unsafe(no_mangle)]", "").replace("#[unsafe(export_name", "");
    let broken = RESERVED.iter().filter(about).filter(|rule| has_word(&code, rule.word));
    broken.map(|rule| format!("{path}: `{}` belongs to {}", rule.word, homes(rule))).collect()
}

fn homes(rule: &Reserved) -> String {
    if rule.allowed.is_empty() { "nobody here".to_owned() } else { rule.allowed.join(", ") }
}

fn foreign_crates(path: &str, code: &str) -> Vec<String> {
    let forbidden =
        CRATES.iter().filter(|(source, _)| path.starts_with(source)).flat_map(|(_, crates)| *crates);
    let named = forbidden.filter(|name| code.contains(&format!("use {name}::")) || has_path(code, name));
    named.map(|name| format!("{path}: must not know the crate `{name}`")).collect()
}

fn layers(path: &str, code: &str) -> Vec<String> {
    let Some((rules, module)) = LAYERS.iter().find_map(|rules| Some((rules, module_of(path, rules.source)?)))
    else {
        return Vec::new();
    };
    let layer = |name: &str| rules.layers.iter().position(|layer| layer.contains(&name));
    let Some(own) = layer(module) else {
        return vec![format!("{path}: `{module}` is in no layer: give it one in xtask/src/ci/arrows.rs")];
    };
    let mut used = used_modules(code);
    used.dedup();
    let higher = used.into_iter().filter(|name| layer(name).is_some_and(|layer| layer > own));
    let higher = higher.filter(|name| !EXCEPTIONS.contains(&(module, name)));
    higher.map(|name| format!("{path}: `{module}` must not use `{name}`, which stands above it")).collect()
}

/// The top-level module that a file belongs to: `netd/src/link/veth.rs` to `link`.
fn module_of<'a>(path: &'a str, source: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(source)?.strip_prefix('/')?;
    rest.split('/').next().map(|first| first.trim_end_matches(".rs"))
}

/// The modules named after `crate::`, also in groups such as `crate::{link, model::IfName}`.
fn used_modules(code: &str) -> Vec<&str> {
    let mut modules = Vec::new();
    for (at, prefix) in code.match_indices("crate::") {
        let rest = &code[at + prefix.len()..];
        match rest.strip_prefix('{') {
            Some(group) => modules.extend(first_words(group)),
            None => modules.push(word_at(rest)),
        }
    }
    modules
}

/// The first word of each item of a group whose brace is already open.
fn first_words(group: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut depth = 0;
    let mut expecting = true;
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expecting = true,
            _ if expecting && is_word(letter) => {
                words.push(word_at(&group[at..]));
                expecting = false;
            }
            _ => {}
        }
    }
    words
}

fn word_at(text: &str) -> &str {
    text.find(|letter| !is_word(letter)).map_or(text, |end| &text[..end])
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|letter| !is_word(letter)).any(|found| found == word)
}

/// Whether a path begins with `name::`, rather than going through it.
fn has_path(code: &str, name: &str) -> bool {
    code.match_indices(&format!("{name}::")).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        before.is_none_or(|letter| !is_word(letter) && letter != ':')
    })
}

/// Cuts comments and the insides of string literals away, so that only code is searched.
fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    for line in text.lines() {
        let mut quoted = false;
        let mut escaped = false;
        let mut previous = ' ';
        for letter in line.chars() {
            let quote = letter == '"' && !escaped && previous != '\'';
            escaped = quoted && letter == '\\' && !escaped;
            if quote {
                quoted = !quoted;
            } else if !quoted {
                if letter == '/' && previous == '/' {
                    code.pop();
                    break;
                }
                code.push(letter);
            }
            previous = letter;
        }
        code.push('\n');
    }
    code
}

fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let path = entry.with_context(|| format!("list {}", dir.display()))?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_not_code() {
        let code = code_of("let a = \"unsafe \\\" aya\"; // clap\n/// rtnetlink\nlet b = 1;");
        assert!(!["unsafe", "aya", "clap", "rtnetlink"].iter().any(|word| has_word(&code, word)), "{code}");
        assert!(has_word(&code, "b"));
    }

    #[test]
    fn a_word_is_found_where_it_is_not_allowed() {
        assert_eq!(reserved("netd/src/link/veth.rs", "use aya::Ebpf;").len(), 1);
        assert!(reserved("netd/src/dataplane/load.rs", "use aya::Ebpf;").is_empty());
        assert!(reserved("netd/src/link/veth.rs", "use ayatollah;").is_empty());
        assert_eq!(reserved("netd-ebpf/src/maps.rs", "unsafe {}").len(), 1);
        assert!(reserved("netd-ebpf/src/skb.rs", "unsafe {}").is_empty());
    }

    #[test]
    fn groups_name_their_first_words() {
        let code = "use crate::{link::{self, veth}, model::IfName, netns};\nlet x = crate::api::X;";
        assert_eq!(used_modules(code), ["link", "model", "netns", "api"]);
    }

    #[test]
    fn no_arrow_runs_back() {
        assert_eq!(layers("netd/src/link/veth.rs", "use crate::controller::Error;").len(), 1);
        assert!(layers("netd/src/controller/mod.rs", "use crate::link::Links;").is_empty());
        assert_eq!(layers("netd-common/src/wire/tcp.rs", "use crate::{hook, net::Port};").len(), 1);
    }

    #[test]
    fn xtask_knows_none_of_the_others() {
        assert_eq!(foreign_crates("xtask/src/main.rs", "use netd_common::net::Port;").len(), 1);
        assert!(foreign_crates("xtask/src/main.rs", "crate::netd::x(); build::netd(a)").is_empty());
    }
}

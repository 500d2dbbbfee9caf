//! Holds the architecture of `core/src`: a unit names only earlier units of one total order.
//!
//! The test reads text, not types: `use crate::..`, `crate::x::` and `super::` paths, outside of comments. It also rejects glob imports, files
//! without a module doc on line 1, files that outgrow 600 lines before their tests, and tokio on the floors that do no I/O.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot read the source has nothing to say"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The units in their order: each may name the ones before it, and itself.
const UNITS: [&str; 25] = [
    "code",
    "metadata",
    "priority",
    "status",
    "time",
    "method",
    "context",
    "policy",
    "wire",
    "mux",
    "transport",
    "message",
    "interceptor",
    "faults",
    "service",
    "call",
    "health",
    "discovery",
    "config",
    "client",
    "server",
    "local",
    "admin",
    "testing",
    "telemetry",
];
/// The last unit that does no I/O and reads no clock.
const LAST_WITHOUT_TOKIO: &str = "mux";
/// The only reader of a clock.
const CLOCK: &str = "time";
/// Lines of a file before its tests, and of a file of tests.
const LINES_MAX: usize = 600;
/// Globs that tests may import: what is under test, and a prelude that exists to be imported so.
const GLOBS_IN_TESTS: [&str; 2] = ["super::*", "proptest::prelude::*"];

/// One source file.
struct Source {
    /// Relative to `core/src`, with `/`.
    name: String,
    /// Its module path from the crate's root; empty for `lib.rs`.
    module: Vec<String>,
    text: String,
}

impl Source {
    fn new(name: &str, text: &str) -> Self {
        let mut module: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        Self {
            name: name.to_owned(),
            module,
            text: text.to_owned(),
        }
    }

    fn unit(&self) -> Option<&str> {
        self.module.first().map(String::as_str)
    }

    fn is_tests(&self) -> bool {
        self.module.iter().any(|name| name == "tests")
    }

    /// The code without comments, and the code of the inline test module, if there is one.
    fn code(&self) -> (String, String) {
        let code = without_comments(&self.text);
        if self.is_tests() {
            return (String::new(), code);
        }
        match code.find("#[cfg(test)]\nmod tests {") {
            Some(at) => (code[..at].to_owned(), code[at..].to_owned()),
            None => (code, String::new()),
        }
    }

    /// Everything that is wrong with this file.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !self.text.starts_with("//! ") {
            faults.push("line 1 is no module doc".to_owned());
        }
        let lines = self.text.lines().count();
        let before_tests = self.text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let counted = if self.is_tests() { lines } else { before_tests };
        if counted > LINES_MAX {
            faults.push(format!(
                "{counted} lines before its tests; at most {LINES_MAX}, so split it"
            ));
        }
        let (code, tests) = self.code();
        for glob in globs(&code) {
            faults.push(format!("imports all of `{glob}`; name what is used"));
        }
        for glob in globs(&tests) {
            if !GLOBS_IN_TESTS.contains(&glob.as_str()) {
                faults.push(format!("its tests import all of `{glob}`; name what is used"));
            }
        }
        let Some(unit) = self.unit() else { return faults };
        let Some(floor) = UNITS.iter().position(|known| *known == unit) else {
            faults.push(format!(
                "`{unit}` is not in the order of units; add it where it belongs"
            ));
            return faults;
        };
        // An inline module of tests lies one module deeper than its file.
        let inline = usize::from(!self.is_tests());
        let named = named_units(&code, self.module.len());
        for name in named.into_iter().chain(named_units(&tests, self.module.len() + inline)) {
            let later = UNITS.iter().position(|known| *known == name).is_some_and(|at| at > floor);
            if later || (unit == "server" && name == "client") {
                faults.push(format!("`{unit}` must not name `{name}`"));
            }
        }
        let last = UNITS.iter().position(|known| *known == LAST_WITHOUT_TOKIO).expect("it is in the list");
        if floor <= last && unit != CLOCK && code.contains("tokio") {
            faults.push("names tokio on a floor that does no I/O".to_owned());
        }
        for told in ["time::now()", "fastrand::f64(", "fastrand::u64(", "fastrand::Rng::new("] {
            if unit == "policy" && code.contains(told) {
                faults.push(format!("`{told}` in a policy: time and chance are arguments there"));
            }
        }
        faults.dedup();
        faults
    }
}

/// The text with every comment line emptied; line numbers stay.
fn without_comments(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        if !line.trim_start().starts_with("//") {
            code.push_str(line);
        }
        code.push('\n');
    }
    code
}

/// The paths of all glob imports.
fn globs(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for statement in code.split(';') {
        let Some(at) = statement.rfind("use ") else { continue };
        let tree = &statement[at + 4..];
        if tree.contains("::*") || tree.contains("{*") || tree.contains(", *") {
            found.push(tree.split_whitespace().collect::<String>());
        }
    }
    found
}

/// The names directly below the crate's root that paths of `code` lead to; `depth` is how many modules it lies in.
fn named_units(code: &str, depth: usize) -> Vec<String> {
    let mut named = Vec::new();
    for (root, climbs) in [("crate::", false), ("super::", true)] {
        let mut at = 0;
        while let Some(found) = code[at..].find(root) {
            let start = at + found;
            at = start + root.len();
            let before = code[..start].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | ':')) {
                continue;
            }
            let mut rest = &code[at..];
            let mut climbed = usize::from(climbs);
            while climbs && let Some(after) = rest.strip_prefix("super::") {
                climbed += 1;
                rest = after;
            }
            if !climbs || climbed == depth {
                first_names(rest, &mut named);
            }
        }
    }
    named.sort();
    named.dedup();
    named
}

/// The first name of each branch of a use tree.
fn first_names(tree: &str, names: &mut Vec<String>) {
    let tree = tree.trim_start();
    let Some(group) = tree.strip_prefix('{') else {
        let end = tree.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tree.len());
        names.push(tree[..end].to_owned());
        return;
    };
    let (mut level, mut start) = (0_usize, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level > 0 => level -= 1,
            ',' | '}' if level == 0 => {
                if !group[start..at].trim().is_empty() {
                    first_names(&group[start..at], names);
                }
                start = at + 1;
                if c == '}' {
                    return;
                }
            }
            _ => {}
        }
    }
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn sources() -> Vec<Source> {
    let root = source_root();
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                sources.push(Source::new(&name, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    sources
}

#[test]
fn units_name_only_earlier_units() {
    let sources = sources();
    assert!(sources.len() > 20, "the source was found");
    let faults: Vec<String> = sources
        .iter()
        .flat_map(|source| source.faults().into_iter().map(|fault| format!("src/{}: {fault}", source.name)))
        .collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn lib_declares_the_units_in_their_order() {
    let text = fs::read_to_string(source_root().join("lib.rs")).unwrap();
    let declared: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let expected: Vec<&str> = UNITS.into_iter().filter(|unit| declared.contains(unit)).collect();
    assert_eq!(declared, expected);
}

/// The check itself: every rule has a file that breaks it.
#[test]
fn every_broken_rule_is_found() {
    let faults = |name: &str, text: &str| Source::new(name, text).faults().join("; ");
    assert_eq!(
        faults("mux/flow.rs", "//! Doc.\nuse crate::wire::frame::X;\nuse super::Mux;\n"),
        ""
    );
    assert_eq!(
        faults("mux/flow.rs", "//! Doc.\n// crate::server::X is not named here\n"),
        ""
    );
    assert!(faults("mux/flow.rs", "use crate::wire::X;\n").contains("line 1"));
    assert!(faults("mux/flow.rs", "//! Doc.\nuse crate::{wire::X, server::Y};\n").contains("`server`"));
    assert!(faults("mux/flow.rs", "//! Doc.\nuse crate::{code::{A, B}, call::Y};\n").contains("`call`"));
    assert!(faults("mux/flow.rs", "//! Doc.\nfn f() -> crate::call::X {}\n").contains("`call`"));
    assert!(faults("mux/flow.rs", "//! Doc.\nuse super::super::transport::X;\n").contains("`transport`"));
    assert!(
        faults("mux/flow.rs", "//! Doc.\nuse super::transport::X;\n").is_empty(),
        "a module of its own"
    );
    assert!(faults("code.rs", "//! Doc.\nuse super::status::Status;\n").contains("`status`"));
    let nested = "//! Doc.\n#[cfg(test)]\nmod tests {\n    use super::super::transport::X;\n}\n";
    assert!(
        faults("mux/flow.rs", nested).is_empty(),
        "the parent of the parent is still in the unit"
    );
    assert!(faults("server/accept.rs", "//! Doc.\nuse crate::client::Channel;\n").contains("`client`"));
    assert!(faults("client/call.rs", "//! Doc.\nuse crate::server::Server;\n").contains("`server`"));
    assert!(faults("mux/flow.rs", "//! Doc.\nuse crate::wire::*;\n").contains("all of"));
    let in_tests = "//! Doc.\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n";
    assert_eq!(faults("mux/flow.rs", in_tests), "");
    assert!(faults("mux/flow.rs", "//! Doc.\nuse tokio::time;\n").contains("tokio"));
    assert_eq!(faults("time.rs", "//! Doc.\nuse tokio::time;\n"), "");
    assert_eq!(faults("transport/tcp.rs", "//! Doc.\nuse tokio::net;\n"), "");
    let long = format!("//! Doc.\n{}", "\n".repeat(LINES_MAX));
    assert!(faults("mux/flow.rs", &long).contains("split it"));
    let long_tests = format!("//! Doc.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(LINES_MAX));
    assert_eq!(faults("mux/flow.rs", &long_tests), "");
    assert!(faults("unheard.rs", "//! Doc.\n").contains("not in the order"));
}

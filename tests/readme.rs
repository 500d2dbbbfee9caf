//! The README's program is the one that runs, and every example is in its list.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::fs;
use std::path::Path;

/// Lines of a program for people: without attributes of the whole file, which serve this repository's lints.
fn program(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with("#![")).collect()
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_quickstart_of_the_readme_is_the_example() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("<!-- quickstart -->\n```rust\n").expect("the block begins");
    let (block, _) = rest.split_once("```\n<!-- /quickstart -->").expect("the block ends");
    let example = read("examples/quickstart.rs");
    assert_eq!(
        block.lines().collect::<Vec<_>>(),
        program(&example),
        "copy examples/quickstart.rs"
    );
}

#[test]
fn the_quickstart_fits_25_lines() {
    let example = read("examples/quickstart.rs");
    let code = program(&example).into_iter().map(str::trim);
    let lines = code.filter(|line| !line.is_empty() && !line.starts_with("//")).count();
    assert!(lines < 25, "{lines} lines of code");
}

#[test]
fn the_readme_shows_what_was_measured() {
    let readme = read("README.md");
    let (_, rest) = readme.split_once("<!-- bench -->\n").expect("the figures begin");
    let (figures, _) = rest.split_once("<!-- /bench -->").expect("the figures end");
    let rows = figures.lines().filter(|line| line.starts_with("| ") && line.contains(" | ")).count();
    assert!(rows > 10, "{rows} rows of figures");
    for (name, marker) in [("same.svg", "<svg"), ("same.md", "ratio echo32 64 sinew/raw ")] {
        assert!(
            figures.contains(&format!("(benches/peers/results/{name})")),
            "{name} is not shown"
        );
        assert!(
            read(&format!("benches/peers/results/{name}")).contains(marker),
            "{name} is not a result"
        );
    }
}

#[test]
fn every_example_is_short_and_listed() {
    let readme = read("README.md");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found = 0;
    for file in fs::read_dir(folder).expect("there are examples") {
        let name = file.unwrap().file_name().into_string().unwrap();
        let lines = read(&format!("examples/{name}")).lines().count();
        assert!(lines < 80, "{name} has {lines} lines");
        assert!(
            readme.contains(&format!("(examples/{name})")),
            "{name} is not in the README"
        );
        found += 1;
    }
    assert!(found >= 12, "{found} examples");
}

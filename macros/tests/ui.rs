//! Compiles every case in `ui/` and holds what the compiler says about it.
//!
//! Goal: each fail case is refused by exactly one error, in the words of its `.stderr`; a case in `many` by as many as
//! it holds; each pass case builds and runs.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops at the first thing that is not as it expects"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// One function, so that all cases share one build of the dependencies.
#[test]
fn cases_compile_as_written() {
    let cases = trybuild::TestCases::new();
    cases.pass("tests/ui/pass/*.rs");
    cases.compile_fail("tests/ui/fail/*.rs");
    cases.compile_fail("tests/ui/many/*.rs");
}

#[test]
fn every_mistake_is_exactly_one_error() {
    for case in files("fail", "rs") {
        let errors = errors(&case);
        assert_eq!(errors.len(), 1, "{}: {errors:#?}", case.display());
    }
}

#[test]
fn all_mistakes_are_reported_by_one_build() {
    for (case, count) in [("trait", 3), ("must_use", 2), ("impl_misspelt_method", 2)] {
        let errors = errors(&directory("many").join(case).with_extension("rs"));
        assert_eq!(errors.len(), count, "{case}: {errors:#?}");
    }
}

/// A client's method has the place of the trait's: that is where an editor jumps to, and where the compiler points.
#[test]
fn a_client_method_is_defined_on_the_line_of_the_trait() {
    let case = directory("fail/client_call_arguments.rs");
    let source = fs::read_to_string(&case).unwrap();
    let line = source.lines().position(|line| line.contains("async fn get(")).unwrap() + 1;
    let stderr = fs::read_to_string(case.with_extension("stderr")).unwrap();
    let note = stderr.split_once("method defined here").unwrap().1;
    let place = format!("client_call_arguments.rs:{line}:");
    assert!(
        note.lines().nth(1).unwrap().contains(&place),
        "{place} is not in {note}"
    );
}

#[test]
fn the_readme_names_every_case() {
    let readme = fs::read_to_string(directory("README.md")).unwrap();
    for kind in ["pass", "fail", "many"] {
        for case in files(kind, "rs") {
            let name = case.file_stem().unwrap().to_string_lossy().into_owned();
            assert!(
                readme.contains(&format!("`{name}`")),
                "{kind}/{name} is not in tests/ui/README.md"
            );
        }
    }
    for orphan in files("fail", "stderr") {
        assert!(orphan.with_extension("rs").exists(), "{} has no case", orphan.display());
    }
}

/// The first lines of the errors that a case expects.
fn errors(case: &Path) -> Vec<String> {
    let expected = case.with_extension("stderr");
    let text = fs::read_to_string(&expected).unwrap_or_else(|_| panic!("{} is missing", expected.display()));
    text.lines().filter(|line| is_error(line)).map(str::to_owned).collect()
}

/// A line that begins an error; the compiler's closing lines are none.
fn is_error(line: &str) -> bool {
    let closing = line.contains("aborting due to") || line.contains("could not compile");
    (line.starts_with("error:") || line.starts_with("error[")) && !closing
}

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ui").join(name)
}

fn files(kind: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory(kind)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|found| found == extension)).collect();
    files.sort();
    files
}

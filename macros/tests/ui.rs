//! Compiles every case in `ui/` and holds what the compiler says about it.
//!
//! Goal: each fail case is refused by exactly one error, in the words of its `.stderr`; each pass case builds, runs and
//! is free of warnings.

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
}

#[test]
fn every_mistake_is_exactly_one_error() {
    for case in files("fail", "rs") {
        let expected = case.with_extension("stderr");
        let text = fs::read_to_string(&expected).unwrap_or_else(|_| panic!("{} is missing", expected.display()));
        let errors: Vec<&str> = text.lines().filter(|line| is_error(line)).collect();
        assert_eq!(errors.len(), 1, "{}: {errors:#?}", case.display());
    }
}

#[test]
fn the_readme_names_every_case() {
    let readme = fs::read_to_string(directory("README.md")).unwrap();
    for kind in ["pass", "fail"] {
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

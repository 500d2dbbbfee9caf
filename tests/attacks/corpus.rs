//! Replays the corpora of the fuzz targets, so that what they once found stays found.

#[path = "../../fuzz/harness.rs"]
mod harness;

use std::path::Path;

/// A fuzz target: its name, which is also its corpus, and what it does with an input.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 4] = [
    ("preface", harness::preface),
    ("frames", harness::frames),
    ("heads", harness::heads),
    ("arguments", harness::arguments),
];

#[test]
fn corpora_of_the_fuzz_targets_find_nothing() {
    for (name, run) in TARGETS {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
        let mut inputs = 0;
        for entry in std::fs::read_dir(&corpus).unwrap() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            // The name of the input is printed if it panics.
            println!("{}", path.display());
            run(&input);
            inputs += 1;
        }
        assert!(inputs >= 5, "{name} has a corpus");
    }
}

//! Tests of all parsers of external input, with the corpus of their fuzz targets and random alterations of it: no
//! panic, no hang, the invariants of accepted input hold, and parsing is deterministic. `KMS_TEST_MODE=full` (tests/run
//! --full) makes this a long run; `fuzz/run` does the same with coverage guidance.

#[path = "../../fuzz/targets.rs"]
mod targets;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use targets::{TARGETS, Target};

fn rounds() -> usize {
    if std::env::var("KMS_TEST_MODE").is_ok_and(|mode| mode == "full") { 400_000 } else { 4_000 }
}

fn corpus_of(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join("corpus").join(name)
}

/// The corpus of a target, sorted by file name, so that a seed has the same effect everywhere.
fn kept(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(corpus_of(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Alters an input of the corpus: flips, cuts, duplicates or inserts bytes, or splices it with another input.
fn alter(random: &mut StdRng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.random_range(0..corpus.len())].clone();
    for _ in 0..random.random_range(0..4) {
        let at = random.random_range(0..=bytes.len());
        match random.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes.truncate(at),
            2 => bytes.insert(at, [0, 0xff, b'"', b'{', b'\n', b' ', b'9', b'-'][random.random_range(0..8)]),
            3 => {
                let other = &corpus[random.random_range(0..corpus.len())];
                let from = random.random_range(0..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            4 => {
                let piece = bytes[at..(at + 8).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let mut noise = [0; 8];
                random.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
        }
    }
    bytes
}

fn feed(seed: u64, name: &str, target: Target) {
    let corpus = kept(name);
    let good = corpus.iter().filter(|bytes| target(bytes).is_some()).count();
    assert!(good > 0, "{name} accepts nothing of its corpus");
    assert!(good < corpus.len(), "{name} refuses nothing of its corpus");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..rounds() {
        let bytes = alter(&mut random, &corpus);
        assert_eq!(target(&bytes), target(&bytes), "{name}: {bytes:?}");
    }
}

#[test]
fn every_parser_survives_what_is_altered() {
    for (seed, (name, target)) in TARGETS.into_iter().enumerate() {
        feed(seed as u64, name, target);
    }
}

/// The targets, the corpora and the fuzzing programs correspond to each other.
#[test]
fn every_target_has_its_corpus_and_its_program() {
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(corpus_of("")), targets);
    assert_eq!(names(corpus_of("").parent().unwrap().join("fuzz_targets")), targets);
}

//! A mount does what a plain directory does.
//!
//! Two ways of looking: random operations on a tree of names, each answered alike by a mount
//! and by a plain directory whose file system also holds the volume (`trees`); and random
//! changes of one file by all ways there are, held against its bytes in memory
//! (`one_file`). In between, the volume stores what is dirty, drops what it may, and starts
//! anew, so that bytes go to the store and come back. A sequence that differs is made as
//! short as possible. `runs` says how long a run is, and from which seed;
//! `cargo xtask torture` makes it long.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod maps;
mod one_file;
mod ops;
mod runs;
mod said;
mod served;
mod trees;

use larder_mount::Profile;
use ops::{Outcome, Side};

/// Operations of a sequence, at most.
const OPS_MAX: usize = 50;
/// Sequences of each test on a tree, and on one file, unless more are asked for.
const CASES: u64 = 50;
const FILE_CASES: u64 = 25;

#[test]
fn a_passthrough_mount_does_what_a_plain_directory_does() {
    trees::compare_at_length(Profile::Passthrough, CASES);
}

#[test]
fn a_cached_mount_does_what_a_plain_directory_does() {
    trees::compare_at_length(Profile::Cached, CASES);
}

#[test]
fn a_no_open_mount_does_what_a_plain_directory_does() {
    trees::compare_at_length(Profile::NoOpen, CASES);
}

#[test]
fn a_file_on_a_passthrough_mount_is_what_was_made_of_it() {
    one_file::exercise_at_length(Profile::Passthrough, FILE_CASES);
}

#[test]
fn a_file_on_a_cached_mount_is_what_was_made_of_it() {
    one_file::exercise_at_length(Profile::Cached, FILE_CASES);
}

#[test]
fn a_file_on_a_no_open_mount_is_what_was_made_of_it() {
    one_file::exercise_at_length(Profile::NoOpen, FILE_CASES);
}

#[test]
fn a_planted_difference_is_found() {
    let bytes = |bytes: &[u8]| Outcome::Bytes(bytes.to_vec());
    assert!(trees::same(&bytes(b"abc"), &bytes(b"abd")).is_err());
    assert!(trees::same(&Outcome::Done, &Outcome::Count(0)).is_err());
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    for side in [&a, &b] {
        std::fs::create_dir(side).unwrap();
        std::fs::write(side.join("f"), b"content").unwrap();
    }
    assert_eq!(Side::new(&a).whole_tree(), Side::new(&b).whole_tree());
    std::fs::write(b.join("f"), b"contenT").unwrap();
    assert_ne!(Side::new(&a).whole_tree(), Side::new(&b).whole_tree());
}

//! What a rule keeps local is never sent, never dropped, and in no commit.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Bench, make_dir, noise, until, write_file};
use larder_volume::{Dropped, KeptReason, ROOT, RenameMode};

#[test]
fn what_matches_the_settings_stays_local() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "project");
    make_dir(&volume, "project/target");
    make_dir(&volume, "project/target/debug");
    let built = write_file(&volume, "project/target/debug/built", &noise(1, 500_000));
    let scratch = write_file(&volume, "scratch.tmp", &noise(2, 500_000));
    write_file(&volume, "project/source", b"fn main() {}");
    bench.commit(&volume);
    for ino in [built, scratch] {
        assert!(volume.is_local(ino).unwrap());
        assert_eq!(
            volume.drop_content(ino).unwrap(),
            Dropped::Kept(KeptReason::Local)
        );
    }
    let status = volume.push_status();
    assert_eq!((status.waiting_bytes, status.waiting_files), (0, 0));
    bench.stop(volume);
    let stored = bench.stored();
    assert_eq!(stored.file("project/source").unwrap(), b"fn main() {}");
    assert!(stored.find("project/target").is_none());
    assert!(stored.find("scratch.tmp").is_none());
    let sent: usize = stored.chunks.values().map(Vec::len).sum();
    assert!(sent < 100_000, "{sent}");
}

#[test]
fn a_file_of_rules_speaks_for_its_directory() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "a");
    make_dir(&volume, "b");
    write_file(
        &volume,
        "a/.larderignore",
        b"*.log\n!keep.log\n# a comment\n",
    );
    write_file(&volume, "a/x.log", b"local");
    write_file(&volume, "a/keep.log", b"kept");
    write_file(&volume, "b/x.log", b"stored");
    bench.commit(&volume);
    bench.stop(volume);
    let stored = bench.stored();
    assert!(stored.find("a/x.log").is_none());
    assert_eq!(stored.file("a/keep.log").unwrap(), b"kept");
    assert_eq!(stored.file("b/x.log").unwrap(), b"stored");
    assert!(stored.find("a/.larderignore").is_some());
}

#[test]
fn what_is_moved_out_of_a_rule_is_stored() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "target");
    make_dir(&volume, "target/empty");
    write_file(&volume, "target/file", b"bytes");
    write_file(&volume, "x.tmp", b"written beside, then moved");
    bench.commit(&volume);
    assert!(bench.stored().find("target").is_none());
    volume
        .rename(ROOT, b"target", ROOT, b"kept", RenameMode::Replace)
        .unwrap();
    volume
        .rename(ROOT, b"x.tmp", ROOT, b"x", RenameMode::Replace)
        .unwrap();
    until("all is stored", || {
        bench.commit(&volume);
        let stored = bench.stored();
        stored.file("kept/file").is_some()
            && stored.find("kept/empty").is_some()
            && stored.file("x").is_some()
    });
    bench.stop(volume);
}

#[test]
fn a_rule_that_goes_lets_go() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, ".larderignore", b"secret\n");
    let secret = write_file(&volume, "secret", b"kept here");
    bench.commit(&volume);
    assert!(volume.is_local(secret).unwrap());
    assert!(bench.stored().find("secret").is_none());
    write_file(&volume, ".larderignore", b"other\n");
    until("it is stored", || {
        bench.commit(&volume);
        bench.stored().file("secret").is_some()
    });
    assert!(!volume.is_local(secret).unwrap());
    bench.stop(volume);
}

#[test]
fn a_rule_takes_nothing_away_that_is_stored() {
    let bench = Bench::new();
    let volume = bench.start();
    let ino = write_file(&volume, "notes", b"first");
    bench.commit(&volume);
    write_file(&volume, ".larderignore", b"notes\n");
    bench.commit(&volume);
    write_file(&volume, "notes", b"second");
    bench.commit(&volume);
    assert!(!volume.is_local(ino).unwrap());
    bench.stop(volume);
    assert_eq!(bench.stored().file("notes").unwrap(), b"second");
}

#[test]
fn rules_hold_after_a_restart_though_their_file_is_away() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "a");
    let rules = write_file(&volume, "a/.larderignore", b"local\n");
    let local = write_file(&volume, "a/local", b"here");
    bench.commit(&volume);
    bench.stop(volume);
    let volume = bench.start();
    assert!(matches!(
        volume.drop_content(rules).unwrap(),
        Dropped::Freed(_)
    ));
    assert!(volume.is_local(local).unwrap());
    bench.commit(&volume);
    bench.stop(volume);
    assert!(bench.stored().find("a/local").is_none());
}

//! Operations that share a transaction: what a killed process may lose of them.
//!
//! An image of the state directory is what a process leaves that is killed at that moment.

use std::path::PathBuf;

use larder_model::Kind;
use larder_volume::{NewNode, ROOT, RenameMode, Volume};

use crate::bench::read_all;
use crate::common::{Bench, CALLER, copy_directory, noise, write_file};

fn is_there(volume: &Volume, name: &str) -> bool {
    volume.lookup(ROOT, name.as_bytes()).unwrap().is_some()
}

/// Without a look at the tree, as that would commit what was done before.
fn make_dir(volume: &Volume, name: &str) {
    let new = NewNode {
        kind: Kind::Directory,
        mode: 0o755,
        rdev: 0,
        target: None,
        caller: CALLER,
    };
    volume.make_node(ROOT, name.as_bytes(), new).unwrap();
}

/// An image whose cache files are copied first: one that goes meanwhile is not gone yet.
fn image_after_its_cache(bench: &Bench, name: &str) -> PathBuf {
    let early = bench.path(&format!("cache of {name}"));
    copy_directory(&bench.state().join("cache"), &early);
    let image = bench.crash_image(name);
    std::fs::remove_dir_all(image.join("cache")).unwrap();
    std::fs::rename(early, image.join("cache")).unwrap();
    image
}

fn rename(volume: &Volume, from: &str, to: &str) {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mode = RenameMode::NoReplace;
    volume.rename(ROOT, from, ROOT, to, mode).unwrap();
}

/// Directories are made in order, and a file is renamed after each: whatever is left is a
/// state that there was.
#[test]
fn a_kill_takes_the_last_operations_only_and_in_their_order() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    write_file(&volume, "at 0", b"moved");
    volume.fsync_dir(ROOT).unwrap();
    let mut done = 0;
    for round in 0..12 {
        for _ in 0..=round * 7 {
            make_dir(&volume, &format!("dir {done}"));
            rename(&volume, &format!("at {done}"), &format!("at {}", done + 1));
            done += 1;
        }
        let image = bench.crash_image(&format!("killed {round}"));
        let left = bench.start_still(&image, bench.store.clone());
        let dirs = (0..)
            .take_while(|n| is_there(&left, &format!("dir {n}")))
            .count();
        let later = (dirs..=done)
            .filter(|n| is_there(&left, &format!("dir {n}")))
            .count();
        assert_eq!(later, 0, "directories after the first that is lost");
        let places: Vec<_> = (0..=done)
            .filter(|n| is_there(&left, &format!("at {n}")))
            .collect();
        assert_eq!(places.len(), 1);
        assert!(
            places[0] == dirs || places[0] + 1 == dirs,
            "{places:?}, {dirs} directories"
        );
        bench.stop(left);
    }
    bench.stop(volume);
}

#[test]
fn fsync_makes_all_before_it_outlive_a_kill() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    for round in 0..8 {
        let names: Vec<_> = (0..20).map(|n| format!("{round} {n}")).collect();
        for name in &names {
            volume
                .create(ROOT, name.as_bytes(), 0o644, CALLER, true)
                .unwrap();
        }
        let synced = write_file(&volume, &format!("synced {round}"), &noise(round, 5000));
        match round % 2 {
            0 => volume.fsync(synced, false).unwrap(),
            _ => volume.fsync_dir(ROOT).unwrap(),
        }
        let image = bench.crash_image(&format!("killed {round}"));
        let left = bench.start_still(&image, bench.store.clone());
        assert!(names.iter().all(|name| is_there(&left, name)));
        assert_eq!(read_all(&left, synced), noise(round, 5000));
        bench.stop(left);
    }
    bench.stop(volume);
}

/// Who saves a file writes a new one and renames it over the old one.
#[test]
fn a_rename_over_another_file_outlives_a_kill() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    write_file(&volume, "file", b"old");
    for round in 0..8 {
        let saved = write_file(&volume, "file.new", &noise(round, 3000));
        let (from, to) = (b"file.new", b"file");
        volume
            .rename(ROOT, from, ROOT, to, RenameMode::Replace)
            .unwrap();
        let image = bench.crash_image(&format!("killed {round}"));
        let left = bench.start_still(&image, bench.store.clone());
        assert_eq!(left.resolve(b"file").unwrap(), saved);
        assert_eq!(read_all(&left, saved), noise(round, 3000));
        assert!(!is_there(&left, "file.new"));
        bench.stop(left);
    }
    bench.stop(volume);
}

/// The bytes of a deleted file go after it is sure that its name does not come back.
#[test]
fn a_file_whose_deletion_a_kill_took_back_has_its_bytes() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    for round in 0..8 {
        let ino = write_file(&volume, "file", &noise(round, 5000));
        volume.fsync(ino, false).unwrap();
        volume.unlink(ROOT, b"file").unwrap();
        volume.forget(ino).unwrap();
        let image = image_after_its_cache(&bench, &format!("killed {round}"));
        let left = bench.start_still(&image, bench.store.clone());
        if is_there(&left, "file") {
            assert_eq!(read_all(&left, ino), noise(round, 5000));
        }
        bench.stop(left);
    }
    bench.stop(volume);
}

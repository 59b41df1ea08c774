//! Nodes that lose their last name.

use larder_volume::{ROOT, RenameMode};

use crate::bench::{Refusal, read_all};
use crate::common::{Bench, make_dir, noise, write_file};

/// An unlink that the database refused had the node listed as unlinked all the same: when
/// the kernel forgot it next, for want of memory, a file with a name was deleted.
#[test]
fn a_file_whose_unlink_failed_outlives_being_forgotten() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    let ino = write_file(&volume, "file", b"precious");
    let other = write_file(&volume, "other", b"other");
    let directory = make_dir(&volume, "directory");
    let refusal = Refusal::of(&bench.state(), "UPDATE", "nodes", "new.ino = 1");
    volume.unlink(ROOT, b"file").unwrap_err();
    volume.rmdir(ROOT, b"directory").unwrap_err();
    volume
        .rename(ROOT, b"other", ROOT, b"file", RenameMode::Replace)
        .unwrap_err();
    drop(refusal);
    for ino in [ino, other, directory] {
        volume.forget(ino).unwrap();
    }
    assert_eq!(read_all(&volume, ino), b"precious");
    assert_eq!(read_all(&volume, other), b"other");
    assert_eq!(volume.list_dir(directory).unwrap(), []);
    bench.stop(volume);
}

/// Of files that were deleted while nobody had used them lately, the bytes stayed counted:
/// after a large `rm -r` the budget seemed full, and what was left was dropped.
#[test]
fn deleted_files_do_not_count_as_here() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    let files: Vec<_> = (0..600)
        .map(|n| write_file(&volume, &format!("file {n}"), &noise(n, 5000)))
        .collect();
    assert!(volume.status().unwrap().bytes_here >= 600 * 4096);
    for (n, ino) in files.into_iter().enumerate() {
        volume.unlink(ROOT, format!("file {n}").as_bytes()).unwrap();
        volume.forget(ino).unwrap();
    }
    assert_eq!(volume.status().unwrap().bytes_here, 0);
    bench.stop(volume);
}

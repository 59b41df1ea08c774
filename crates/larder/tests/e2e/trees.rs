//! Large directories, and large files with little in them.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{SeekFrom, seek};

use crate::machine::{Machine, picture};
use crate::remote::{EAGER, Remote};

/// Files, each with [`NAMES`] names.
const FILES: u64 = 2_000;
const NAMES: u64 = 10;
const TEBIBYTE: u64 = 1 << 40;

#[test]
fn a_directory_of_20_000_names_moves_and_no_content_travels() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let source = laptop.path("many");
    for name in 0..NAMES {
        fs::create_dir_all(source.join(name.to_string())).unwrap();
    }
    for i in 0..FILES {
        let first = source.join(format!("0/file {i}"));
        fs::write(&first, format!("content of {i}")).unwrap();
        for name in 1..NAMES {
            fs::hard_link(&first, source.join(format!("{name}/file {i}"))).unwrap();
        }
    }
    laptop.larder(["adopt", "many"]).ok();
    laptop.larder(["commit"]).ok();
    let root = laptop.mount_point();
    fs::create_dir(root.join("below")).unwrap();
    laptop.larder(["commit"]).ok();
    let (packs, trees) = (remote.objects("packs/"), remote.bytes("trees/"));
    fs::rename(root.join("many"), root.join("below/moved")).unwrap();
    laptop.larder(["commit"]).ok();
    assert_eq!(remote.objects("packs/"), packs);
    let sent = remote.bytes("trees/") - trees;
    assert!(sent < 256 << 10, "{sent} bytes of tree were sent");
    laptop.larder(["verify"]).ok();
    let daemon = laptop.daemon_pid().unwrap();
    let open = fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count();
    assert!(open < 1000, "the daemon holds {open} files open");

    let desktop = remote.another_machine();
    let there = desktop.mount_point();
    assert!(!there.join("many").exists());
    assert_eq!(picture(&there), picture(&root));
}

#[test]
fn a_directory_of_100_000_names_is_listed_here_and_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    let source = laptop.path("names");
    fs::create_dir(&source).unwrap();
    // No file has more names than ext4 lets it have.
    for half in 0..2 {
        let first = source.join(format!("{half}"));
        fs::write(&first, "one of two").unwrap();
        for i in 1..50_000 {
            fs::hard_link(&first, source.join(format!("{half} {i}"))).unwrap();
        }
    }
    laptop.larder(["adopt", "names"]).ok();
    laptop.larder(["commit"]).ok();
    laptop.mount();
    check_names(&laptop.mount_point().join("names"));
    let desktop = remote.another_machine();
    check_names(&desktop.mount_point().join("names"));
}

#[track_caller]
fn check_names(dir: &Path) {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 100_000);
    for name in ["0", "1", "0 49999", "1 25000"] {
        assert_eq!(fs::metadata(dir.join(name)).unwrap().nlink(), 50_000);
        assert_eq!(fs::read_to_string(dir.join(name)).unwrap(), "one of two");
    }
}

#[test]
fn a_tebibyte_with_little_in_it_is_stored_and_read_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("64M", EAGER);
    laptop.mount();
    let file = File::create(laptop.mount_point().join("huge")).unwrap();
    file.set_len(TEBIBYTE).unwrap();
    file.write_all_at(b"middle", TEBIBYTE / 2).unwrap();
    file.write_all_at(b"end", TEBIBYTE - 3).unwrap();
    drop(file);
    check_huge(&laptop);
    laptop.larder(["commit"]).ok();
    assert!(remote.bytes("") < 1 << 20);
    laptop.larder(["stash", "Larder/huge"]).ok();
    check_huge(&laptop);
    check_huge(&remote.another_machine());
}

#[track_caller]
fn check_huge(machine: &Machine) {
    let file = File::open(machine.mount_point().join("huge")).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), TEBIBYTE);
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
    let mut bytes = [1; 8];
    file.read_exact_at(&mut bytes, TEBIBYTE - 8).unwrap();
    assert_eq!(&bytes, b"\0\0\0\0\0end");
    file.read_exact_at(&mut bytes, TEBIBYTE / 2 - 1).unwrap();
    assert_eq!(&bytes, b"\0middle\0");
    let data = seek(&file, SeekFrom::Data(0)).unwrap();
    assert!(
        (TEBIBYTE / 2 - 65_536..=TEBIBYTE / 2).contains(&data),
        "data at {data}"
    );
    let hole = seek(&file, SeekFrom::Hole(data)).unwrap();
    assert!(
        (TEBIBYTE / 2 + 6..TEBIBYTE / 2 + (1 << 20)).contains(&hole),
        "hole at {hole}"
    );
    let last = seek(&file, SeekFrom::Data(hole)).unwrap();
    assert!(
        (TEBIBYTE - 65_536..TEBIBYTE).contains(&last),
        "data at {last}"
    );
}

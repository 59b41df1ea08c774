//! A directory that is taken in, while others use it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use larder_volume::ROOT;

use crate::bench::{database, read_all, send_away};
use crate::common::{Bench, make_dir, noise, read_file, until, write_file};

/// A program that had a file open went on writing into it after it was taken in; what it
/// wrote was lost when the file was dropped.
#[test]
fn a_file_that_is_being_written_stays_where_it_is() {
    let bench = Bench::new();
    let volume = bench.start();
    let source = bench.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("quiet"), "quiet").unwrap();
    let mut log = File::create(source.join("log")).unwrap();
    log.write_all(b"one ").unwrap();
    let report = volume.adopt(&source, ROOT, b"in", &|_| {}).unwrap();
    log.write_all(b"two").unwrap();
    assert_eq!(report.files, 1);
    let why = &report
        .left
        .iter()
        .find(|(path, _)| path.ends_with("log"))
        .unwrap()
        .1;
    assert!(why.contains("open"), "{why}");
    assert_eq!(fs::read(source.join("log")).unwrap(), b"one two");
    drop(log);
    volume.adopt(&source, ROOT, b"in", &|_| {}).unwrap();
    assert_eq!(read_file(&volume, "in/log"), b"one two");
    assert!(!source.exists());
    bench.stop(volume);
}

/// Files that may only be read could not be opened in the cache by a user without rights,
/// so neither read nor stored.
#[test]
fn a_file_that_may_only_be_read_can_be_used_by_its_owner() {
    let bench = Bench::new();
    let volume = bench.start();
    let source = bench.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("object"), noise(1, 1000)).unwrap();
    fs::set_permissions(source.join("object"), fs::Permissions::from_mode(0o444)).unwrap();
    volume.adopt(&source, ROOT, b"in", &|_| {}).unwrap();
    let ino = volume.resolve(b"in/object").unwrap();
    assert_eq!(read_all(&volume, ino), noise(1, 1000));
    assert_eq!(volume.attr(ino).unwrap().mode, 0o444);
    let cached = fs::metadata(crate::bench::cache_file(&bench.state(), ino)).unwrap();
    assert_eq!(cached.permissions().mode() & 0o600, 0o600);
    send_away(&bench, &volume, &[ino]);
    assert_eq!(read_all(&volume, ino), noise(1, 1000));
    bench.stop(volume);
}

/// Between the moment a file was taken in and that in which its old name went, another had
/// been put there: that one was removed.
#[test]
fn what_took_a_taken_files_place_stays() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    let directory = make_dir(&volume, "in");
    let source = bench.path("source");
    fs::create_dir(&source).unwrap();
    let file = source.join("file");
    fs::write(&file, "old").unwrap();
    fs::write(bench.path("new"), "new").unwrap();
    let other = database(&bench.state());
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let adopting = std::thread::spawn({
        let (volume, source) = (volume.clone(), source.clone());
        move || volume.adopt(&source, ROOT, b"in", &|_| {}).unwrap()
    });
    until("it has its name in the cache", || {
        fs::metadata(&file).unwrap().nlink() == 2
    });
    fs::rename(bench.path("new"), &file).unwrap();
    other.execute_batch("COMMIT").unwrap();
    let report = adopting.join().unwrap();
    assert!(report.left.iter().any(|(path, _)| path.ends_with("file")));
    assert_eq!(fs::read(&file).unwrap(), b"new");
    let taken = volume.lookup(directory, b"file").unwrap().unwrap().ino;
    assert_eq!(read_all(&volume, taken), b"old");
    bench.stop(volume);
}

/// Commits during a large import looked at each new file in vain, and the last of them was
/// waited for.
#[test]
fn a_new_file_is_nothing_to_commit_until_it_is_stored() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    let source = bench.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("taken in"), "1").unwrap();
    volume.adopt(&source, ROOT, b"in", &|_| {}).unwrap();
    write_file(&volume, "in/made", b"2");
    let files_to_commit = || -> i64 {
        let count = "SELECT count(*) FROM changed JOIN nodes USING(ino) WHERE kind = 1 AND seq > 0";
        database(&bench.state())
            .query_row(count, [], |row| row.get(0))
            .unwrap()
    };
    volume.sync_all().unwrap();
    assert_eq!(files_to_commit(), 0);
    bench.stop(volume);
    let volume = bench.start();
    bench.commit(&volume);
    let stored = bench.stored();
    assert_eq!(stored.file("in/taken in").unwrap(), b"1");
    assert_eq!(stored.file("in/made").unwrap(), b"2");
    bench.stop(volume);
}

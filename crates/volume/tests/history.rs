//! The past of the tree: it is listed, compared and brought back.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{Bench, CALLER, make_dir, noise, read_file, write_file};
use larder_model::{Kind, Time};
use larder_volume::history::{RestoreReport, What, Which};
use larder_volume::{Access, NewNode, ROOT, RenameMode, StashOptions, Volume};

fn replace(volume: &Volume, path: &str, bytes: &[u8]) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = volume.resolve(parent.as_bytes()).unwrap();
    volume.unlink(parent, name.as_bytes()).unwrap();
    write_file(volume, path, bytes);
}

fn rewrite(volume: &Volume, path: &str, bytes: &[u8]) {
    let ino = volume.resolve(path.as_bytes()).unwrap();
    common::edit_file(volume, ino, 0, bytes);
}

fn rename(volume: &Volume, from: &str, to: &str) {
    let split = |path: &str| {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = volume.resolve(parent.as_bytes()).unwrap();
        (parent, name.as_bytes().to_vec())
    };
    let ((from, old), (to, new)) = (split(from), split(to));
    volume
        .rename(from, &old, to, &new, RenameMode::Replace)
        .unwrap();
}

fn restore(
    bench: &Bench,
    volume: &Arc<Volume>,
    which: &Which,
    path: &str,
    to: &str,
) -> RestoreReport {
    let moment = volume.moment(which).unwrap();
    let (path, to) = (path.as_bytes().to_vec(), to.as_bytes().to_vec());
    bench
        .runtime
        .block_on(volume.restore(moment, path, to, &|_| {}))
        .unwrap()
}

fn number(n: u64) -> Which {
    Which::Name(n.to_string())
}

/// What the commit of this number did, in a line each.
fn changes(volume: &Volume, n: u64, below: &str) -> Vec<String> {
    let moment = volume.moment(&number(n)).unwrap();
    let before = volume.before(&moment).unwrap();
    let found = volume
        .differences(before.as_ref(), &moment, below.as_bytes())
        .unwrap();
    found
        .iter()
        .map(|one| {
            let path = String::from_utf8_lossy(&one.path);
            let from = one.from.as_deref().map(String::from_utf8_lossy);
            match from {
                Some(from) => format!("{:?} {path} from {from}", one.what),
                None => format!("{:?} {path}", one.what),
            }
        })
        .collect()
}

#[test]
fn a_comparison_of_commits_names_what_each_changed() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "a");
    make_dir(&volume, "b");
    write_file(&volume, "a/one", b"1");
    write_file(&volume, "a/two", b"2");
    let first = bench.commit(&volume).n;
    assert_eq!(
        changes(&volume, first, ""),
        ["Added a", "Added a/one", "Added a/two", "Added b"]
    );
    rewrite(&volume, "a/one", b"11");
    rename(&volume, "a/two", "b/three");
    let second = bench.commit(&volume).n;
    assert_eq!(
        changes(&volume, second, ""),
        ["Content a/one", "Moved b/three from a/two"]
    );
    assert_eq!(changes(&volume, second, "b"), ["Moved b/three from a/two"]);
    let a = volume.resolve(b"a").unwrap();
    volume.unlink(a, b"one").unwrap();
    let ino = volume.resolve(b"b/three").unwrap();
    volume
        .set_attr(
            ino,
            &larder_volume::SetAttr {
                mode: Some(0o600),
                ..Default::default()
            },
        )
        .unwrap();
    let third = bench.commit(&volume).n;
    assert_eq!(
        changes(&volume, third, ""),
        ["Removed a/one", "Attributes b/three"]
    );
    let whole = volume
        .differences(
            Some(&volume.moment(&number(first)).unwrap()),
            &volume.moment(&Which::Latest).unwrap(),
            b"",
        )
        .unwrap();
    assert_eq!(whole.len(), 2);
    bench.stop(volume);
}

#[test]
fn the_log_of_a_path_follows_it_through_renames_and_past_its_deletion() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "d");
    write_file(&volume, "d/old", b"1");
    bench.commit(&volume);
    write_file(&volume, "other", b"x");
    bench.commit(&volume);
    rewrite(&volume, "d/old", b"2");
    bench.commit(&volume);
    rename(&volume, "d", "e");
    rename(&volume, "e/old", "e/new");
    bench.commit(&volume);
    let told = |path: &str| -> Vec<(What, String)> {
        let events = volume.log_of(path.as_bytes(), 100).unwrap();
        events
            .into_iter()
            .map(|event| {
                let path = String::from_utf8(event.difference.path).unwrap();
                (event.difference.what, path)
            })
            .collect()
    };
    let so_far = [
        (What::Moved, "e/new".to_owned()),
        (What::Content, "d/old".to_owned()),
        (What::Added, "d/old".to_owned()),
    ];
    assert_eq!(told("e/new"), so_far);
    assert_eq!(volume.log_of(b"e/new", 1).unwrap().len(), 1);
    let directory = volume.resolve(b"e").unwrap();
    volume.unlink(directory, b"new").unwrap();
    bench.commit(&volume);
    write_file(&volume, "other2", b"x");
    bench.commit(&volume);
    let mut deleted = vec![(What::Removed, "e/new".to_owned())];
    deleted.extend(so_far);
    assert_eq!(told("e/new"), deleted);
    assert!(volume.log_of(b"never", 10).is_err());
    bench.stop(volume);
}

#[test]
fn a_commit_is_named_by_number_by_the_start_of_its_id_and_by_time() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", b"1");
    let first = bench.commit(&volume);
    std::thread::sleep(Duration::from_millis(20));
    write_file(&volume, "b", b"1");
    let second = bench.commit(&volume);
    let named = |name: &str| volume.moment(&Which::Name(name.to_owned()));
    assert_eq!(
        named(&first.n.to_string()).unwrap().id.to_string(),
        first.id
    );
    assert_eq!(named(&first.id).unwrap().id.to_string(), first.id);
    assert_eq!(
        named(&second.id[..12].to_uppercase())
            .unwrap()
            .id
            .to_string(),
        second.id
    );
    for wrong in ["", "7777777", "abc", "zzzzzzzz", "ffffffffffffffff"] {
        assert!(named(wrong).is_err(), "{wrong:?}");
    }
    let latest = volume.moment(&Which::Latest).unwrap();
    assert_eq!(latest.id.to_string(), second.id);
    let at = |time: i64| volume.moment(&Which::At(Time(time)));
    assert_eq!(
        at(latest.commit.wall.0 - 1).unwrap().id.to_string(),
        first.id
    );
    assert_eq!(at(i64::MAX).unwrap(), latest);
    assert!(at(0).is_err());
    bench.stop(volume);
}

#[test]
fn what_was_replaced_or_deleted_comes_back_whole_and_can_be_undone() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "d");
    make_dir(&volume, "d/below");
    let large = noise(1, 3 << 20);
    write_file(&volume, "d/large", &large);
    write_file(&volume, "d/below/small", b"as it was");
    write_file(&volume, "d/same", b"same");
    write_file(&volume, "d/empty", b"");
    let link = NewNode {
        kind: Kind::Symlink,
        mode: 0o777,
        rdev: 0,
        target: Some(b"large"),
        caller: CALLER,
    };
    let d = volume.resolve(b"d").unwrap();
    volume.make_node(d, b"link", link).unwrap();
    let large_ino = volume.resolve(b"d/large").unwrap();
    volume.link(large_ino, d, b"twin").unwrap();
    volume
        .set_xattr(large_ino, b"user.k", b"v", larder_volume::XattrMode::Any)
        .unwrap();
    let old = bench.commit(&volume).n;
    let time = volume.attr(large_ino).unwrap().mtime;

    rewrite(&volume, "d/below/small", b"overwritten");
    for name in [&b"large"[..], b"twin", b"link", b"empty"] {
        volume.unlink(d, name).unwrap();
    }
    write_file(&volume, "d/since", b"new since then");
    write_file(&volume, "d/large", b"another file of this name");
    let new = bench.commit(&volume).n;

    let report = restore(&bench, &volume, &number(old), "d", "d");
    assert_eq!((report.files, report.same, report.kept.len()), (5, 1, 0));
    let is_old = |volume: &Volume| {
        assert_eq!(read_file(volume, "d/large"), large);
        assert_eq!(read_file(volume, "d/below/small"), b"as it was");
        assert_eq!(read_file(volume, "d/same"), b"same");
        assert_eq!(read_file(volume, "d/empty"), b"");
        assert_eq!(read_file(volume, "d/since"), b"new since then");
        let there = volume.resolve(b"d/link").unwrap();
        assert_eq!(volume.read_link(there).unwrap(), b"large");
        let large = volume.resolve(b"d/large").unwrap();
        assert_eq!(volume.resolve(b"d/twin").unwrap(), large);
        let attr = volume.attr(large).unwrap();
        assert_eq!((attr.nlink, attr.mtime), (2, time));
        let value = volume.get_xattr(large, b"user.k").unwrap();
        assert_eq!(value.as_deref(), Some(&b"v"[..]));
    };
    is_old(&volume);
    let restored = bench.commit(&volume).n;
    // It is in the next commit, survives a restart, and can be stashed like any other.
    bench.stop(volume);
    let stored = bench.stored();
    assert_eq!(stored.file("d/large").unwrap(), large);
    assert_eq!(stored.file("d/below/small").unwrap(), b"as it was");
    let volume = bench.start();
    is_old(&volume);
    let stashed = volume
        .stash(&[ROOT], &StashOptions::default(), &|_| {})
        .unwrap();
    assert_eq!(stashed.kept, []);
    is_old(&volume);
    // And back again.
    let report = restore(&bench, &volume, &number(new), "d", "d");
    assert!(report.kept.is_empty());
    assert_eq!(read_file(&volume, "d/large"), b"another file of this name");
    assert_eq!(read_file(&volume, "d/below/small"), b"overwritten");
    // Nothing of it is a new file to the history.
    let events = volume.log_of(b"d/below/small", 10).unwrap();
    assert!(events.len() >= 3 && events[0].moment.commit.n >= restored);
    bench.stop(volume);
}

#[test]
fn a_copy_of_the_past_leaves_what_is_there_alone() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "d");
    write_file(&volume, "d/a", b"old");
    let old = bench.commit(&volume).n;
    rewrite(&volume, "d/a", b"new");
    restore(&bench, &volume, &number(old), "d", "copy");
    assert_eq!(read_file(&volume, "d/a"), b"new");
    assert_eq!(read_file(&volume, "copy/a"), b"old");
    bench.commit(&volume);
    restore(&bench, &volume, &number(old), "d/a", "d/b");
    assert_eq!(read_file(&volume, "d/b"), b"old");
    bench.commit(&volume);
    bench.stop(volume);
    let stored = bench.stored();
    for (path, bytes) in [("d/a", &b"new"[..]), ("copy/a", b"old"), ("d/b", b"old")] {
        assert_eq!(stored.file(path).unwrap(), bytes, "{path}");
    }
}

/// Nobody but the kernel says that a file is forgotten, and it may not know the file.
#[test]
fn what_was_replaced_takes_no_room_unless_it_is_open() {
    let bench = Bench::new();
    let volume = bench.start();
    let first = write_file(&volume, "a", &noise(1, 3 << 20));
    let old = bench.commit(&volume).n;
    replace(&volume, "a", &noise(2, 3 << 20));
    volume.forget(first).unwrap();
    bench.commit(&volume);
    let here = || volume.status().unwrap().bytes_here;
    assert!(here() >= 3 << 20);
    let report = restore(&bench, &volume, &number(old), "a", "a");
    assert_eq!((report.files, &report.kept[..]), (1, &[][..]));
    assert!(here() < 1 << 20, "{}", here());
    let newer = volume.moment(&Which::Latest).unwrap();
    replace(&volume, "a", &noise(3, 3 << 20));
    bench.commit(&volume);
    let ino = volume.resolve(b"a").unwrap();
    let reading = Access::default();
    volume.open(ino, reading).unwrap();
    let again = || {
        let (newer, path) = (newer.clone(), b"a".to_vec());
        let restoring = volume.restore(newer, path.clone(), path, &|_| {});
        bench.runtime.block_on(restoring).unwrap()
    };
    assert_eq!(again().files, 1);
    let mut read = vec![0; 3 << 20];
    volume.read(ino, 0, &mut read).unwrap();
    assert!(read == noise(3, 3 << 20).to_vec());
    volume.close(ino, reading).unwrap();
    // What is open to be written may have been written, and nobody told the volume yet.
    replace(&volume, "a", &noise(4, 3 << 20));
    bench.commit(&volume);
    let ino = volume.resolve(b"a").unwrap();
    common::with_open(&volume, ino, false, || {
        assert!(again().kept[0].1.contains("a program has it open"));
    });
    assert_eq!(read_file(&volume, "a"), noise(4, 3 << 20));
    bench.stop(volume);
}

#[test]
fn a_name_that_went_is_a_hard_link_again() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "d");
    let a = write_file(&volume, "d/a", b"one file");
    let d = volume.resolve(b"d").unwrap();
    volume.link(a, d, b"b").unwrap();
    volume.link(a, d, b"c").unwrap();
    let old = bench.commit(&volume).n;
    volume.unlink(d, b"b").unwrap();
    volume
        .set_xattr(a, b"user.k", b"v", larder_volume::XattrMode::Any)
        .unwrap();
    bench.commit(&volume);
    // Extended attributes tell two files apart, too.
    let report = restore(&bench, &volume, &number(old), "d/c", "d/c");
    assert_eq!((report.files, report.same), (1, 0));
    let c = volume.resolve(b"d/c").unwrap();
    assert_eq!(volume.get_xattr(c, b"user.k").unwrap(), None);
    bench.commit(&volume);
    restore(&bench, &volume, &number(old), "d", "d");
    let a = volume.resolve(b"d/a").unwrap();
    for name in [&b"d/b"[..], b"d/c"] {
        assert_eq!(volume.resolve(name).unwrap(), a);
    }
    assert_eq!(volume.attr(a).unwrap().nlink, 3);
    bench.stop(volume);
}

/// Its only copy would go with it.
#[test]
fn what_no_commit_holds_is_not_replaced() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "d");
    for name in ["d/a", "d/b", "d/c", "d/log"] {
        write_file(&volume, name, b"old");
    }
    let c = volume.resolve(b"d/c").unwrap();
    volume.link(c, ROOT, b"other name").unwrap();
    let old = bench.commit(&volume).n;
    write_file(&volume, "d/.larderignore", b"log\n");
    for name in ["d/a", "d/b", "d/c", "d/log"] {
        replace(&volume, name, b"a newer one");
    }
    bench.commit(&volume);
    // One is written while another comes back, before its turn.
    let b = volume.resolve(b"d/b").unwrap();
    let moment = volume.moment(&number(old)).unwrap();
    let report = bench
        .runtime
        .block_on(
            volume.restore(moment, b"d".to_vec(), b"d".to_vec(), &|progress| {
                if progress.path.as_deref() == Some("d/a") {
                    common::edit_file(&volume, b, 0, b"A");
                }
            }),
        )
        .unwrap();
    let kept: Vec<_> = report.kept.iter().map(|(path, _)| &path[..]).collect();
    assert_eq!(kept, [&b"d/b"[..], b"d/log"]);
    for (name, bytes) in [
        ("d/a", &b"old"[..]),
        ("d/b", b"A newer one"),
        ("d/c", b"old"),
        ("d/log", b"a newer one"),
    ] {
        assert_eq!(read_file(&volume, name), bytes, "{name}");
    }
    bench.stop(volume);
}

#[test]
fn what_is_deleted_comes_back_from_the_newest_commit_that_has_it() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "d");
    write_file(&volume, "d/a", b"first");
    bench.commit(&volume);
    rewrite(&volume, "d/a", b"secon");
    bench.commit(&volume);
    let d = volume.resolve(b"d").unwrap();
    assert!(volume.moment_of_deleted(b"d/a").is_err());
    volume.unlink(d, b"a").unwrap();
    volume.rmdir(ROOT, b"d").unwrap();
    bench.commit(&volume);
    let moment = volume.moment_of_deleted(b"d/a").unwrap();
    bench
        .runtime
        .block_on(volume.restore(moment, b"d/a".to_vec(), b"d/a".to_vec(), &|_| {}))
        .unwrap();
    assert_eq!(read_file(&volume, "d/a"), b"secon");
    let n = bench.commit(&volume).n;
    assert_eq!(changes(&volume, n, ""), ["Added d", "Added d/a"]);
    assert!(volume.moment_of_deleted(b"never").is_err());
    bench.stop(volume);
}

#[test]
fn a_deletion_that_no_commit_has_yet_is_undone_without_a_trace_of_it() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", b"here");
    let n = bench.commit(&volume).n;
    replace(&volume, "a", b"other");
    restore(&bench, &volume, &number(n), "a", "a");
    assert_eq!(read_file(&volume, "a"), b"here");
    bench.commit(&volume);
    assert_eq!(bench.stored().file("a").unwrap(), b"here");
    bench.stop(volume);
}

#[test]
fn the_past_is_read_as_files_and_stays_as_it_was() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "d");
    let large = noise(3, 5 << 20);
    let ino = write_file(&volume, "d/large", &large);
    // A hole in the middle.
    common::edit_file(&volume, ino, 9 << 20, b"end");
    write_file(&volume, "d/small", b"small");
    bench.commit(&volume);
    let then = volume.moment(&Which::Latest).unwrap();
    common::edit_file(&volume, ino, 0, b"changed");
    let d = volume.resolve(b"d").unwrap();
    volume.unlink(d, b"small").unwrap();
    bench.commit(&volume);

    let root = larder_model::NodeId::ROOT;
    let d = volume.past_entry(&then, root, b"d").unwrap().unwrap();
    let entries = volume.past_entries(&then, d).unwrap();
    let names: Vec<_> = entries.iter().map(|(name, ..)| &name[..]).collect();
    assert_eq!(names, [&b"large"[..], b"small"]);
    let (large_id, small_id) = (entries[0].1, entries[1].1);
    let attr = volume.past_attr(&then, large_id).unwrap();
    assert_eq!((attr.kind, attr.size), (Kind::File, (9 << 20) + 3));
    let mut whole = large.to_vec();
    whole.resize(9 << 20, 0);
    whole.extend_from_slice(b"end");
    for (off, len) in [
        (0, 10),
        (0, 10 << 20),
        ((5 << 20) - 100, 300_000),
        (6 << 20, 4096),
        ((9 << 20) - 1, 100),
        ((9 << 20) + 3, 1),
        (1 << 40, 1),
    ] {
        let mut buf = vec![7; len];
        let read = volume.read_past(&then, large_id, off, &mut buf).unwrap();
        let from = whole.len().min(off as usize);
        let to = whole.len().min(from + len);
        assert!(buf[..read] == whole[from..to], "{off} {len}");
    }
    let mut buf = [0; 9];
    assert_eq!(volume.read_past(&then, small_id, 0, &mut buf).unwrap(), 5);
    assert_eq!(&buf[..5], b"small");
    assert_eq!(volume.past_entry(&then, d, b"none").unwrap(), None);
    bench.stop(volume);
}

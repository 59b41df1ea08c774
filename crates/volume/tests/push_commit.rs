//! What is written here is stored, and a commit tells of it.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{
    Bench, CALLER, Hold, edit_file, make_dir, noise, read_file, until, with_open, write_file,
};
use larder_model::{Extent, Kind, Life, Time};
use larder_volume::{Access, Dropped, KeptReason, NewNode, ROOT, RenameMode, SetAttr, TimeSet};

fn prefix(name: &str) -> &str {
    name.split('/').next().unwrap()
}

fn sizes_of(puts: &[(String, u64)], wanted: &str) -> u64 {
    puts.iter()
        .filter(|(name, _)| prefix(name) == wanted)
        .map(|(_, size)| size)
        .sum()
}

#[test]
fn a_file_that_settled_is_committed_and_can_be_read_from_the_store_alone() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "photos");
    make_dir(&volume, "photos/2026");
    let large = noise(1, 3 << 20);
    write_file(&volume, "photos/2026/large", &large);
    write_file(&volume, "photos/2026/small", b"hello");
    write_file(&volume, "empty", b"");
    until("nothing is left to commit", || {
        volume
            .log(1)
            .unwrap()
            .first()
            .is_some_and(|commit| commit.stored)
            && volume.push_status().waiting_files == 0
            && volume.status().unwrap().uncommitted_nodes == 0
    });
    bench.stop(volume);
    let stored = bench.stored();
    assert_eq!(stored.file("photos/2026/large").unwrap(), large);
    assert_eq!(stored.file("photos/2026/small").unwrap(), b"hello");
    assert_eq!(stored.file("empty").unwrap(), b"");
    assert_eq!(stored.commit.files, 3);
    assert_eq!(stored.commit.bytes, large.len() as u64 + 5);
}

#[test]
fn every_kind_of_node_is_committed_with_its_attributes() {
    let bench = Bench::new();
    let volume = bench.start();
    let new = |kind, target| NewNode {
        kind,
        mode: 0o1751,
        rdev: 0,
        target,
        caller: common::CALLER,
    };
    volume
        .make_node(ROOT, b"link", new(Kind::Symlink, Some(b"to/there")))
        .unwrap();
    volume
        .make_node(ROOT, b"pipe", new(Kind::Fifo, None))
        .unwrap();
    volume
        .make_node(ROOT, b"dir", new(Kind::Directory, None))
        .unwrap();
    let ino = write_file(&volume, "file", b"x");
    volume.link(ino, ROOT, b"second").unwrap();
    volume
        .set_xattr(ino, b"user.a", b"b", larder_volume::XattrMode::Any)
        .unwrap();
    let mtime = Time(1_234_567_890_123_456_789);
    volume
        .set_attr(
            ino,
            &SetAttr {
                mtime: Some(TimeSet::At(mtime)),
                ..SetAttr::default()
            },
        )
        .unwrap();
    bench.commit(&volume);
    bench.stop(volume);
    let stored = bench.stored();
    assert_eq!(stored.find("pipe").unwrap().kind, Kind::Fifo);
    assert_eq!(stored.find("dir").unwrap().attrs.0[0].value.mode, 0o1751);
    let link = stored.find("link").unwrap();
    assert_eq!(
        link.content.0[0].value,
        larder_model::Content::Target(b"to/there".to_vec())
    );
    let file = stored.find("file").unwrap();
    assert_eq!(file.links.len(), 2);
    assert_eq!(file, stored.find("second").unwrap());
    let attrs = &file.attrs.0[0].value;
    assert_eq!(attrs.mtime, mtime);
    assert_eq!(attrs.xattrs[&b"user.a"[..]], b"b");
}

#[test]
fn objects_leave_in_the_order_that_must_hold() {
    let bench = Bench::new();
    let volume = bench.start();
    bench.store.take_puts();
    write_file(&volume, "a", &noise(1, 100_000));
    bench.commit(&volume);
    let puts = bench.store.take_puts();
    let last = |wanted: &str| {
        puts.iter()
            .rposition(|(name, _)| prefix(name) == wanted)
            .unwrap()
    };
    assert!(last("packs") < last("trees") && last("trees") < last("index"));
    assert_eq!(last("heads"), puts.len() - 1);
    bench.stop(volume);
}

#[test]
fn an_edit_in_the_middle_sends_the_chunks_around_it_only() {
    let bench = Bench::new();
    let volume = bench.start();
    let mut bytes = noise(7, 8 << 20).to_vec();
    let ino = write_file(&volume, "large", &bytes);
    bench.commit(&volume);
    bench.store.take_puts();
    edit_file(&volume, ino, 4 << 20, b"edited");
    bytes[4 << 20..(4 << 20) + 6].copy_from_slice(b"edited");
    bench.commit(&volume);
    let sent = sizes_of(&bench.store.take_puts(), "packs");
    assert!(sent > 0 && sent < 600_000, "{sent}");
    bench.stop(volume);
    assert_eq!(bench.stored().file("large").unwrap(), bytes);
}

#[test]
fn an_edit_of_a_file_that_is_away_fetches_and_sends_the_chunks_around_it_only() {
    let bench = Bench::new();
    let volume = bench.start();
    let mut bytes = noise(8, 8 << 20).to_vec();
    let ino = write_file(&volume, "large", &bytes);
    bench.commit(&volume);
    assert!(matches!(
        volume.drop_content(ino).unwrap(),
        larder_volume::Dropped::Freed(_)
    ));
    bench.store.take_puts();
    edit_file(&volume, ino, 4 << 20, b"edited");
    bytes[4 << 20..(4 << 20) + 6].copy_from_slice(b"edited");
    bench.commit(&volume);
    let sent = sizes_of(&bench.store.take_puts(), "packs");
    assert!(sent > 0 && sent < 600_000, "{sent}");
    let missing: u64 = volume
        .missing(ino, 0..8 << 20)
        .unwrap()
        .iter()
        .map(|missing| missing.len)
        .sum();
    assert!(missing > 6 << 20, "{missing}");
    bench.stop(volume);
    assert_eq!(bench.stored().file("large").unwrap(), bytes);
}

#[test]
fn a_copy_costs_no_content() {
    let bench = Bench::new();
    let volume = bench.start();
    let bytes = noise(9, 2 << 20);
    write_file(&volume, "a", &bytes);
    bench.commit(&volume);
    bench.store.take_puts();
    write_file(&volume, "b", &bytes);
    bench.commit(&volume);
    assert_eq!(sizes_of(&bench.store.take_puts(), "packs"), 0);
    // Two copies at once, too.
    let bytes = noise(10, 2 << 20);
    write_file(&volume, "c", &bytes);
    write_file(&volume, "d", &bytes);
    bench.commit(&volume);
    let sent = sizes_of(&bench.store.take_puts(), "packs");
    assert!(sent > 2 << 20 && sent < 3 << 20, "{sent}");
    bench.stop(volume);
    assert_eq!(bench.stored().file("d").unwrap(), bytes);
}

#[test]
fn holes_are_not_sent_and_come_back_as_holes() {
    let bench = Bench::new();
    let volume = bench.start();
    let ino = write_file(&volume, "sparse", b"");
    edit_file(&volume, ino, 10 << 20, b"tail");
    bench.commit(&volume);
    let sent = sizes_of(&bench.store.take_puts(), "packs");
    assert!(sent < 10_000, "{sent}");
    bench.stop(volume);
    let stored = bench.stored();
    let node = stored.find("sparse").unwrap();
    let extents = stored.extents(&node.content.0[0].value);
    assert!(
        matches!(extents[0], Extent::Hole { len } if len > 9 << 20),
        "{extents:?}"
    );
    assert_eq!(node.content.0[0].value.size(), (10 << 20) + 4);
}

#[test]
fn a_long_list_of_chunks_becomes_pages_that_edits_share() {
    let bench = Bench::new();
    let volume = bench.start();
    let bytes = noise(11, 30 << 20);
    let ino = write_file(&volume, "long", &bytes);
    bench.commit(&volume);
    let first = bench.stored();
    assert!(matches!(
        first.find("long").unwrap().content.0[0].value,
        larder_model::Content::List { .. }
    ));
    assert_eq!(first.file("long").unwrap(), bytes);
    bench.store.take_puts();
    edit_file(&volume, ino, 15 << 20, b"edited");
    bench.commit(&volume);
    let pages = sizes_of(&bench.store.take_puts(), "trees");
    assert!(pages < 40_000, "{pages}");
    bench.stop(volume);
}

#[test]
fn a_rename_sends_no_content_and_changes_one_node() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "a");
    for n in 0..50 {
        write_file(&volume, &format!("a/{n}"), format!("file {n}").as_bytes());
    }
    bench.commit(&volume);
    let before = bench.stored().nodes();
    bench.store.take_puts();
    volume
        .rename(ROOT, b"a", ROOT, b"b", RenameMode::Replace)
        .unwrap();
    bench.commit(&volume);
    assert_eq!(sizes_of(&bench.store.take_puts(), "packs"), 0);
    bench.stop(volume);
    let stored = bench.stored();
    let changed: Vec<_> = stored
        .nodes()
        .into_iter()
        .filter(|(id, node)| before.get(id) != Some(node))
        .collect();
    // The directory, and the root whose time it changed.
    assert_eq!(changed.len(), 2);
    assert!(stored.find("a").is_none());
    assert_eq!(stored.file("b/7").unwrap(), b"file 7");
}

#[test]
fn a_deleted_file_keeps_its_place_and_content_in_the_tree() {
    let bench = Bench::new();
    let volume = bench.start();
    let ino = write_file(&volume, "gone", b"bytes");
    bench.commit(&volume);
    volume.unlink(ROOT, b"gone").unwrap();
    volume.forget(ino).unwrap();
    bench.commit(&volume);
    bench.stop(volume);
    let stored = bench.stored();
    assert!(stored.find("gone").is_none());
    let nodes = stored.nodes();
    let gone = nodes
        .values()
        .find(|node| node.life.0[0].value == Life::Deleted)
        .unwrap();
    let link = &gone.links.values().next().unwrap().0[0].value;
    assert_eq!(link.place.name.as_bytes(), b"gone");
    assert_eq!(gone.content.0[0].value.size(), 5);
    assert_eq!(stored.commit.files, 0);
}

#[test]
fn a_file_that_is_replaced_is_never_missing_in_a_commit() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "doc", b"old");
    bench.commit(&volume);
    // As editors save: a new file takes the place of the old one. Its bytes cannot be
    // stored, as no pack gets through.
    bench.store.hold("packs/", Hold::Before);
    write_file(&volume, "doc.new", b"new");
    volume
        .rename(ROOT, b"doc.new", ROOT, b"doc", RenameMode::Replace)
        .unwrap();
    make_dir(&volume, "other");
    let before = volume.log(1).unwrap()[0].n;
    until("another commit is stored", || {
        let log = volume.log(1).unwrap();
        log[0].n > before && log[0].stored
    });
    until("it has the directory", || {
        bench.stored().find("other").is_some()
    });
    assert_eq!(bench.stored().file("doc").unwrap(), b"old");
    bench.stop(volume);
}

#[test]
fn names_can_be_exchanged() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", b"first");
    write_file(&volume, "b", b"second");
    bench.commit(&volume);
    volume
        .rename(ROOT, b"a", ROOT, b"b", RenameMode::Exchange)
        .unwrap();
    bench.commit(&volume);
    bench.stop(volume);
    let stored = bench.stored();
    assert_eq!(stored.file("a").unwrap(), b"second");
    assert_eq!(stored.file("b").unwrap(), b"first");
}

#[test]
fn a_commit_with_a_message_is_made_though_nothing_changed() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", b"first");
    let first = bench.commit(&volume);
    let again = bench.commit(&volume);
    assert_eq!((first.n, &first.id), (again.n, &again.id));
    let message = Some("before the move".to_owned());
    let named = bench
        .runtime
        .block_on(volume.commit(message.clone(), &|_| {}))
        .unwrap();
    assert_eq!(named.n, first.n + 1);
    assert_eq!(volume.log(1).unwrap()[0].message, message);
    bench.stop(volume);
    let stored = bench.stored();
    assert_eq!(stored.commit.message, message);
    assert_eq!(stored.commit.parents.len(), 1);
}

#[test]
fn many_nodes_are_committed_in_several_commits_and_none_is_forgotten() {
    let mut bench = Bench::new();
    bench.settings.commit_nodes = 20;
    let volume = bench.start();
    make_dir(&volume, "d");
    for n in 0..150 {
        write_file(&volume, &format!("d/{n}"), format!("{n}").as_bytes());
    }
    bench.commit(&volume);
    assert!(volume.log(100).unwrap().len() > 4);
    bench.stop(volume);
    let stored = bench.stored();
    for n in 0..150 {
        assert_eq!(
            stored.file(&format!("d/{n}")).unwrap(),
            format!("{n}").as_bytes()
        );
    }
}

#[test]
fn a_file_that_stays_open_is_stored_as_it_is() {
    let bench = Bench::new();
    let volume = bench.start();
    let ino = write_file(&volume, "log", b"");
    with_open(&volume, ino, false, || {
        volume.write(ino, 0, b"line 1\n").unwrap();
        until("its first line is stored", || {
            volume.log(1).unwrap().iter().any(|commit| commit.stored)
                && bench.stored().file("log").as_deref() == Some(b"line 1\n")
        });
        volume.write(ino, 7, b"line 2\n").unwrap();
    });
    bench.commit(&volume);
    bench.stop(volume);
    assert_eq!(bench.stored().file("log").unwrap(), b"line 1\nline 2\n");
}

#[test]
fn what_a_commit_reached_may_be_dropped_and_comes_back() {
    let bench = Bench::new();
    let volume = bench.start();
    let bytes = noise(12, 300_000);
    let ino = write_file(&volume, "a", &bytes);
    assert!(matches!(
        volume.drop_content(ino).unwrap(),
        larder_volume::Dropped::Kept(_)
    ));
    bench.commit(&volume);
    assert!(matches!(
        volume.drop_content(ino).unwrap(),
        larder_volume::Dropped::Freed(_)
    ));
    assert_eq!(read_file(&volume, "a"), bytes);
    bench.stop(volume);
}

#[test]
fn index_objects_are_merged_and_list_every_pack() {
    let bench = Bench::new();
    let volume = bench.start();
    for n in 0..40 {
        write_file(&volume, &format!("{n}"), &noise(100 + n, 2_000));
        bench.commit(&volume);
    }
    let keys =
        larder_format::KeyFile::decode(&std::fs::read(bench.state().join("key")).unwrap()).unwrap();
    let (indexes, listed, packs) = bench.runtime.block_on(async {
        let store = &bench.store.below;
        let indexes = store.list("index/").await.unwrap();
        let mut listed = std::collections::BTreeSet::new();
        for index in &indexes {
            let bytes = store.get(&index.key).await.unwrap().unwrap();
            for pack in larder_format::decode_index(&keys.keys, &bytes).unwrap() {
                listed.insert(pack.id);
            }
        }
        let mut packs = std::collections::BTreeSet::new();
        for prefix in ["packs/", "trees/"] {
            for object in store.list(prefix).await.unwrap() {
                packs.insert(
                    larder_format::parse_pack_name(object.key.as_str())
                        .unwrap()
                        .1,
                );
            }
        }
        (indexes.len(), listed, packs)
    });
    assert_eq!(listed, packs);
    assert!(indexes < 36, "{indexes}");
    bench.stop(volume);
}

#[test]
fn files_that_keep_changing_are_named_and_not_waited_for() {
    let bench = Bench::new();
    let volume = bench.start();
    let busy = write_file(&volume, "busy", b"0");
    write_file(&volume, "still", b"still");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        let (volume, stop) = (&volume, &stop);
        scope.spawn(move || {
            let mut n = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                edit_file(volume, busy, 0, &noise(n, 400_000));
                n += 1;
            }
        });
        let report = bench.commit(volume);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        report
    });
    assert!(
        report.still_changing.iter().all(|path| path == "busy"),
        "{report:?}"
    );
    assert_eq!(bench.stored().file("still").unwrap(), b"still");
    bench.stop(volume);
}

#[test]
fn progress_ends_at_nothing_left() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", &noise(5, 5 << 20));
    bench.commit(&volume);
    until("nothing waits", || {
        let status = volume.push_status();
        (status.waiting_bytes, status.waiting_files) == (0, 0)
    });
    assert_eq!(volume.push_status().seconds_left, Some(0));
    bench.stop(volume);
}

/// A program that writes past the daemon cuts a file off just while it is read to be stored.
#[test]
fn a_file_that_is_cut_off_while_it_is_stored_is_no_trouble_to_the_user() {
    let mut bench = Bench::new();
    bench.settings.ingest_limit = Some(8 << 20);
    bench.settings.settle_open = Duration::from_millis(10);
    let volume = bench.start();
    let ino = volume.create(ROOT, b"a", 0o644, CALLER, false).unwrap().ino;
    let access = Access {
        write: true,
        direct: true,
        ..Access::default()
    };
    let opened = volume.open(ino, access).unwrap();
    let file = opened.backing.unwrap();
    let bytes = noise(1, 4 << 20);
    for _ in 0..30 {
        file.write_all_at(&bytes, 0).unwrap();
        std::thread::sleep(Duration::from_millis(60));
        file.set_len(1000).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(volume.push_status().warnings, [""; 0]);
    }
    drop(file);
    volume.close(ino, access).unwrap();
    bench.commit(&volume);
    assert_eq!(volume.push_status().warnings, [""; 0]);
    bench.stop(volume);
    assert_eq!(bench.stored().file("a").unwrap(), bytes[..1000]);
}

/// Else a user divides what waits by the rate, and gets another time than is shown.
#[test]
fn the_rate_that_is_told_is_of_the_bytes_that_wait() {
    let bench = Bench::new();
    let volume = bench.start();
    let mut bytes = noise(1, 16 << 20).to_vec();
    for block in bytes.chunks_mut(1024) {
        block[2..].fill(b'a');
    }
    write_file(&volume, "compresses well", &bytes);
    bench.commit(&volume);
    let sent: u64 = bench.store.take_puts().iter().map(|(_, size)| size).sum();
    let rate = volume.push_status().bytes_per_sec;
    // The rate is taken over a second at least.
    assert!(rate > sent, "{rate}/s, and {sent} were sent");
    bench.stop(volume);
}

#[test]
fn many_files_are_dropped_at_once_and_come_back() {
    let bench = Bench::new();
    let volume = bench.start();
    let mut inos: Vec<_> = (0..150)
        .map(|n| write_file(&volume, &format!("f{n}"), &noise(n, 3_000)))
        .collect();
    bench.commit(&volume);
    let new = write_file(&volume, "new", b"not stored");
    inos.push(new);
    inos.push(inos[7]);
    let dropped = volume.drop_contents(&inos);
    let freed = |dropped: &larder_volume::Result<Dropped>| matches!(dropped, Ok(Dropped::Freed(_)));
    assert!(dropped[..150].iter().all(freed));
    assert!(matches!(dropped[150], Ok(Dropped::Kept(_))));
    let again = dropped[151].as_ref().unwrap();
    assert_eq!(*again, Dropped::Kept(KeptReason::NotHere), "named twice");
    for n in 0..150 {
        assert_eq!(read_file(&volume, &format!("f{n}")), noise(n, 3_000));
    }
    assert_eq!(read_file(&volume, "new"), b"not stored");
    bench.stop(volume);
}

/// Each drop looks at the file under its lock, so none hits what was just written.
#[test]
fn what_is_written_while_many_are_dropped_is_not_lost() {
    let bench = Bench::new();
    let volume = bench.start();
    let name = |n: usize| format!("f{n}");
    let inos: Vec<_> = (0..40)
        .map(|n| write_file(&volume, &name(n), &noise(n as u64, 3_000)))
        .collect();
    bench.commit(&volume);
    let written = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..8_u8 {
                for &ino in &inos {
                    edit_file(&volume, ino, 100 * u64::from(round), &[round; 100]);
                }
            }
            written.store(true, Ordering::SeqCst);
        });
        while !written.load(Ordering::SeqCst) {
            for dropped in volume.drop_contents(&inos) {
                dropped.unwrap();
            }
            bench.commit(&volume);
        }
    });
    bench.commit(&volume);
    for dropped in volume.drop_contents(&inos) {
        assert!(matches!(dropped, Ok(Dropped::Freed(_) | Dropped::Kept(_))));
    }
    for n in 0..inos.len() {
        let mut bytes = noise(n as u64, 3_000).to_vec();
        for round in 0..8_u8 {
            let at = 100 * usize::from(round);
            bytes[at..at + 100].fill(round);
        }
        assert_eq!(read_file(&volume, &name(n)), bytes);
    }
    bench.stop(volume);
}

/// Each that was stored stayed open, and once the system gave no more, storing stood still.
#[test]
fn storing_many_files_keeps_few_of_them_open() {
    let bench = Bench::new();
    let volume = bench.start();
    let source = bench.path("source");
    std::fs::create_dir(&source).unwrap();
    for n in 0..2000 {
        std::fs::write(source.join(n.to_string()), n.to_string()).unwrap();
    }
    let cache = bench.state().join("cache");
    let open = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap();
        let links = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        links.filter(|link| link.starts_with(&cache)).count()
    };
    volume.adopt(&source, ROOT, b"adopted", &|_| {}).unwrap();
    bench.commit(&volume);
    assert!(open() < 600, "{}", open());
    bench.stop(volume);
    assert_eq!(bench.stored().file("adopted/1999").unwrap(), b"1999");
}

//! A crash at any step of a push loses nothing, sends nothing again that was acknowledged,
//! and never uses a commit number twice.
//!
//! The crash is the state directory, copied at a moment when the store holds one step back:
//! what the database has then is what a killed process leaves.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Bench, Gate, Hold, edit_file, make_dir, noise, read_file, until, write_file};
use larder_model::ChunkId;
use larder_store::{Store, StoreOptions};
use larder_volume::{Credential, ROOT};

/// Holds the push back at a step, takes the crash's image there, and lets another process
/// go on from it. What was acknowledged before the crash must not be sent again.
fn crash_at(step: &str, hold: Hold) {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "first", &noise(1, 200_000));
    bench.commit(&volume);

    // Few chunks: a long list would need a tree pack before it is stored.
    let second = noise(2, 600_000);
    bench.store.hold(step, hold);
    bench.store.take_puts();
    make_dir(&volume, "d");
    write_file(&volume, "d/second", &second);
    volume.sync_all().unwrap();
    until("the push is held back", || {
        let content_is_stored = step == "packs/" || volume.push_status().waiting_files == 0;
        bench.store.held() > 0 && content_is_stored
    });
    let image = bench.crash_image("crashed");
    let sent_before = bench.store.take_puts();
    bench.stop(volume);

    let store = Arc::new(Gate::new(bench.store.below.clone()));
    let volume = bench.start_from(&image, store.clone());
    assert_eq!(read_file(&volume, "d/second"), second);
    bench.commit(&volume);
    let sent_after = store.take_puts();
    bench.stop(volume);
    let stored = bench.stored();
    assert_eq!(stored.file("d/second").unwrap(), second);
    assert_eq!(stored.file("first").unwrap(), noise(1, 200_000));

    // What the database had noted as acknowledged: all that was sent, but for the object
    // that was held back.
    let data = |puts: &[(String, u64)]| -> u64 {
        puts.iter()
            .filter(|(name, _)| name.starts_with("packs/"))
            .map(|(_, size)| size)
            .sum()
    };
    if step != "packs/" {
        assert_eq!(
            data(&sent_after),
            0,
            "content was sent again: {sent_after:?}"
        );
    }
    let whole = data(&sent_before) + data(&sent_after);
    assert!(whole < 2 * 600_000 + 100_000, "{whole}");
}

#[test]
fn before_a_pack_arrived() {
    crash_at("packs/", Hold::Before);
}

#[test]
fn when_a_pack_arrived_and_was_not_acknowledged() {
    crash_at("packs/", Hold::After);
}

#[test]
fn before_a_tree_pack_arrived() {
    crash_at("trees/", Hold::Before);
}

#[test]
fn when_a_tree_pack_arrived_and_was_not_acknowledged() {
    crash_at("trees/", Hold::After);
}

#[test]
fn before_the_index_arrived() {
    crash_at("index/", Hold::Before);
}

#[test]
fn when_the_index_arrived_and_was_not_acknowledged() {
    crash_at("index/", Hold::After);
}

#[test]
fn before_the_head_arrived() {
    crash_at("heads/", Hold::Before);
}

#[test]
fn when_the_head_arrived_and_was_not_acknowledged() {
    crash_at("heads/", Hold::After);
}

fn heads(bench: &Bench) -> BTreeMap<String, Vec<u8>> {
    bench.runtime.block_on(async {
        let store = &bench.store.below;
        let mut heads = BTreeMap::new();
        for head in store.list("heads/").await.unwrap() {
            let bytes = store.get(&head.key).await.unwrap().unwrap();
            heads.insert(head.key.to_string(), bytes.to_vec());
        }
        heads
    })
}

#[test]
fn a_head_that_left_is_sent_again_with_the_same_bytes() {
    let bench = Bench::new();
    let volume = bench.start();
    bench.store.hold("heads/", Hold::After);
    write_file(&volume, "a", b"first");
    until("the head left", || bench.store.held() > 0);
    let left = heads(&bench);
    let image = bench.crash_image("crashed");
    bench.stop(volume);

    let store = Arc::new(Gate::new(bench.store.below.clone()));
    let volume = bench.start_from(&image, store);
    // Something else than what the commit told of: it must get a number of its own.
    write_file(&volume, "a", b"another");
    bench.commit(&volume);
    bench.stop(volume);
    let now = heads(&bench);
    for (name, bytes) in &left {
        assert_eq!(now.get(name), Some(bytes), "{name} was used twice");
    }
    assert!(now.len() > left.len());
    assert_eq!(bench.stored().file("a").unwrap(), b"another");
}

/// The heads of one replica.
fn heads_of(heads: &BTreeMap<String, Vec<u8>>, like: &str) -> usize {
    let replica = like.split('/').nth(1).unwrap();
    heads.keys().filter(|name| name.contains(replica)).count()
}

/// A commit, as a new machine gets it.
fn opened_at(bench: &Bench, name: &str, commit: Option<ChunkId>) -> (PathBuf, Vec<String>) {
    let state = bench.path(name);
    let credential = Credential::Passphrase(common::PASSPHRASE.to_owned());
    let opened = bench.runtime.block_on(larder_volume::open(
        &state,
        bench.store.clone(),
        credential,
        commit,
        bench.settings.clone(),
        &|_| {},
    ));
    (state, opened.unwrap().warnings)
}

#[test]
fn a_restored_backup_goes_on_as_a_new_replica_and_nobody_loses_anything() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", b"first");
    bench.commit(&volume);
    let backup = bench.crash_image("backup");
    write_file(&volume, "a", b"second");
    write_file(&volume, "c", b"made after the backup");
    bench.commit(&volume);
    bench.stop(volume);
    let theirs = bench.stored().commit_id;
    let before = heads(&bench);
    let old = before.keys().next().unwrap().clone();

    let volume = bench.start_from(&backup, bench.store.clone());
    write_file(&volume, "b", b"made on the backup");
    bench.commit(&volume);
    let words = volume.push_status().warnings.join("; ");
    assert!(words.contains("new replica"), "{words}");
    assert!(words.contains(&theirs.to_string()), "{words}");
    bench.stop(volume);

    // Nothing of the old replica's was touched, and the new one has heads of its own.
    let after = heads(&bench);
    for (name, bytes) in &before {
        assert_eq!(after.get(name), Some(bytes));
    }
    assert_eq!(heads_of(&after, &old), before.len());
    assert!(after.len() > before.len());

    // A restart goes on as the same new replica, and still tells.
    let volume = bench.start_from(&backup, bench.store.clone());
    write_file(&volume, "b", b"again");
    bench.commit(&volume);
    assert_eq!(heads(&bench).len(), after.len() + 1);
    let words = volume.push_status().warnings.join("; ");
    assert!(words.contains(&theirs.to_string()), "{words}");
    bench.stop(volume);

    // Whoever opens the volume gets one of the two trees whole, and is told of the other.
    let (state, warnings) = opened_at(&bench, "newest", None);
    assert!(
        warnings.join(" ").contains(&theirs.to_string()),
        "{warnings:?}"
    );
    let volume = bench.start_from(&state, bench.store.clone());
    assert_eq!(read_file(&volume, "a"), b"first");
    assert_eq!(read_file(&volume, "b"), b"again");
    bench.stop(volume);
    let (state, _) = opened_at(&bench, "theirs", Some(theirs));
    let volume = bench.start_from(&state, bench.store.clone());
    assert_eq!(read_file(&volume, "a"), b"second");
    assert_eq!(read_file(&volume, "c"), b"made after the backup");
    bench.stop(volume);

    // It takes in what was changed elsewhere, as of any other replica, and has nothing to tell then.
    let volume = bench.start_from(&backup, bench.store.clone());
    bench.sync(&volume);
    for (name, content) in [
        ("a", &b"second"[..]),
        ("b", b"again"),
        ("c", b"made after the backup"),
    ] {
        assert_eq!(read_file(&volume, name), content);
    }
    assert_eq!(volume.push_status().warnings, Vec::<String>::new());
    bench.stop(volume);
    let volume = bench.start_from(&backup, bench.store.clone());
    assert_eq!(volume.push_status().warnings, Vec::<String>::new());
    bench.stop(volume);
}

/// A bad line that turned one bit of a head made a replica believe that it was an old copy,
/// and it stored nothing any more.
#[test]
fn a_damaged_head_stops_nobody() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", b"first");
    bench.commit(&volume);
    bench.stop(volume);
    let right = heads(&bench);
    for (name, bytes) in &right {
        let mut wrong = bytes.clone();
        wrong[bytes.len() / 2] ^= 1;
        std::fs::write(bench.path("store").join(name), wrong).unwrap();
    }
    let volume = bench.start();
    write_file(&volume, "a", b"second");
    bench.commit(&volume);
    let warnings = volume.push_status().warnings;
    assert!(
        warnings.iter().any(|words| words.contains("is damaged")),
        "{warnings:?}"
    );
    bench.stop(volume);
    assert_eq!(bench.stored().file("a").unwrap(), b"second");
}

#[test]
fn of_two_machines_with_one_key_one_becomes_a_new_replica() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", b"first");
    bench.commit(&volume);
    let clone = bench.crash_image("clone");
    // Both run at once, as after a cloned disk.
    let twin = bench.start_from(&clone, bench.store.clone());
    write_file(&twin, "b", b"there");
    bench.commit(&twin);
    let theirs = bench.stored().commit_id;
    let before = heads(&bench);
    volume.unlink(ROOT, b"a").unwrap();
    write_file(&volume, "b", b"here");
    bench.commit(&volume);
    let words = volume.push_status().warnings.join("; ");
    assert!(words.contains(&theirs.to_string()), "{words}");
    assert!(twin.push_status().warnings.is_empty());
    let after = heads(&bench);
    for (name, bytes) in &before {
        assert_eq!(after.get(name), Some(bytes), "{name} was used twice");
    }
    write_file(&twin, "c", b"there, too");
    bench.commit(&twin);
    assert!(twin.push_status().warnings.is_empty());
    let mine = volume.log(1).unwrap()[0].id;
    bench.stop(volume);
    bench.stop(twin);

    let (state, _) = opened_at(&bench, "mine", Some(mine));
    let opened = bench.start_from(&state, bench.store.clone());
    assert_eq!(read_file(&opened, "b"), b"here");
    assert!(opened.resolve(b"a").is_err());
    bench.stop(opened);
}

/// What was committed here under a number that the store has otherwise is committed again.
#[test]
fn a_commit_whose_number_another_took_is_made_again_under_the_new_id() {
    let bench = Bench::new();
    let volume = bench.start();
    make_dir(&volume, "d");
    write_file(&volume, "d/kept", b"kept");
    write_file(&volume, "gone", b"gone");
    bench.commit(&volume);
    let clone = bench.crash_image("clone");
    volume.unlink(ROOT, b"gone").unwrap();
    write_file(&volume, "d/new", b"new");
    let n = bench.commit(&volume).n;
    bench.stop(volume);
    // The clone had not seen that head, and put another one over it.
    let mine: Vec<_> = heads(&bench)
        .into_keys()
        .filter(|name| larder_format::parse_head_name(name).unwrap().1 == n)
        .collect();
    for name in &mine {
        std::fs::remove_file(bench.path("store").join(name)).unwrap();
    }
    let twin = bench.start_from(&clone, bench.store.clone());
    write_file(&twin, "theirs", b"theirs");
    bench.commit(&twin);
    bench.stop(twin);

    let volume = bench.start();
    bench.commit(&volume);
    let latest = volume.log(1).unwrap()[0].clone();
    bench.stop(volume);
    let (state, _) = opened_at(&bench, "mine", Some(latest.id));
    let opened = bench.start_from(&state, bench.store.clone());
    assert_eq!(read_file(&opened, "d/new"), b"new");
    assert_eq!(read_file(&opened, "d/kept"), b"kept");
    assert!(opened.resolve(b"gone").is_err());
    bench.stop(opened);
    // No dot of the number that was used twice is left in it.
    let keys =
        larder_format::KeyFile::decode(&std::fs::read(bench.path("clone").join("key")).unwrap());
    let twice = larder_model::Dot {
        replica: keys.unwrap().replica.id(),
        commit: n,
    };
    let stored = bench.stored_at(latest.id);
    assert!(!stored.commit.clock.covers(&twice));
    for node in stored.nodes().values() {
        assert!(node.life.0.iter().all(|life| !life.dots.contains(&twice)));
        assert!(
            node.attrs
                .0
                .iter()
                .all(|attrs| !attrs.dots.contains(&twice))
        );
        assert!(
            node.content
                .0
                .iter()
                .all(|content| !content.dots.contains(&twice))
        );
    }
}

/// The key file is changed last: whatever a crash left, the next start has one id.
#[test]
fn a_crash_while_the_id_changes_leaves_the_new_one() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "a", b"first");
    bench.commit(&volume);
    let backup = bench.crash_image("backup");
    let old_key = std::fs::read(backup.join("key")).unwrap();
    write_file(&volume, "a", b"second");
    bench.commit(&volume);
    bench.stop(volume);
    let volume = bench.start_from(&backup, bench.store.clone());
    bench.commit(&volume);
    bench.stop(volume);
    let new_key = std::fs::read(backup.join("key")).unwrap();
    assert_ne!(new_key, old_key);
    // As before the last step.
    std::fs::rename(backup.join("key"), backup.join("key.next")).unwrap();
    std::fs::write(backup.join("key"), &old_key).unwrap();
    let before = heads(&bench);
    let volume = bench.start_from(&backup, bench.store.clone());
    write_file(&volume, "b", b"more");
    bench.commit(&volume);
    bench.stop(volume);
    assert_eq!(std::fs::read(backup.join("key")).unwrap(), new_key);
    assert_eq!(heads(&bench).len(), before.len() + 1);
}

#[test]
fn a_store_that_goes_away_and_comes_back_gets_everything() {
    let bench = Bench::new();
    let volume = bench.start();
    bench.store.set_away(true);
    write_file(&volume, "a", &noise(3, 1 << 20));
    until("it is noticed", || {
        volume.push_status().last_error.is_some()
    });
    assert!(volume.push_status().waiting_bytes > 0);
    assert_eq!(read_file(&volume, "a"), noise(3, 1 << 20));
    bench.store.set_away(false);
    bench.commit(&volume);
    let status = volume.push_status();
    assert_eq!((status.last_error, status.waiting_bytes), (None, 0));
    bench.stop(volume);
    assert_eq!(bench.stored().file("a").unwrap(), noise(3, 1 << 20));
}

#[test]
fn a_stop_while_the_store_hangs_is_clean_and_the_next_start_goes_on() {
    let bench = Bench::new();
    let volume = bench.start();
    bench.store.hold("", Hold::Before);
    for n in 0..20 {
        write_file(&volume, &format!("{n}"), &noise(n, 100_000));
    }
    until("something hangs", || bench.store.held() > 0);
    bench.stop(volume);
    let store = Arc::new(Gate::new(bench.store.below.clone()));
    let volume = bench.start_from(&bench.state(), store);
    bench.commit(&volume);
    bench.stop(volume);
    for n in 0..20 {
        assert_eq!(
            bench.stored().file(&format!("{n}")).unwrap(),
            noise(n, 100_000)
        );
    }
}

#[test]
fn a_large_file_that_was_cut_off_goes_on_where_it_was() {
    let bench = Bench::new();
    let volume = bench.start();
    let bytes = noise(4, 70 << 20);
    write_file(&volume, "large", &bytes);
    until("some packs arrived", || {
        volume.push_status().waiting_bytes < 40 << 20
    });
    bench.stop(volume);
    let sent_before: u64 = bench.store.take_puts().iter().map(|(_, size)| size).sum();
    assert!(sent_before > 30 << 20);
    let volume = bench.start();
    bench.commit(&volume);
    let sent_after: u64 = bench.store.take_puts().iter().map(|(_, size)| size).sum();
    // At most what was on its way at the stop is sent twice.
    assert!(sent_before + sent_after < (70 + 5 * 17) << 20);
    bench.stop(volume);
    assert!(bench.stored().file("large").unwrap() == bytes);
}

#[test]
fn faults_of_the_store_never_reach_what_is_stored() {
    use larder_store::testing::{Call, Fault, Faulty, When};
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("store");
    std::fs::create_dir(&folder).unwrap();
    let open = |path: &Path| larder_store::open(path.to_str().unwrap(), &StoreOptions::default());
    let faulty = Arc::new(Faulty::new(open(&folder).unwrap()));
    let bench = Bench::on(directory, faulty.clone());
    faulty.set(Fault::LostAnswer, Call::Put, When::OneIn(4, 1));
    faulty.set(Fault::ServerError, Call::Any, When::OneIn(5, 2));
    let volume = bench.start();
    for n in 0..30 {
        let ino = write_file(&volume, &format!("{n}"), &noise(n, 50_000));
        edit_file(&volume, ino, 10, b"edited");
    }
    bench.commit(&volume);
    bench.stop(volume);
    faulty.clear();
    for n in 0..30 {
        let mut bytes = noise(n, 50_000).to_vec();
        bytes[10..16].copy_from_slice(b"edited");
        assert_eq!(bench.stored().file(&format!("{n}")).unwrap(), bytes);
    }
    let _: &dyn Store = &*faulty;
}

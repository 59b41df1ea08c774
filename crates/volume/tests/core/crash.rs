//! What a killed daemon, and a power cut, may leave.
//!
//! A killed daemon leaves the database and the cache files as they are: an image of the
//! state directory. A power cut leaves of the database what was synced, perhaps no more,
//! and of cache files that were not synced anything at all.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use larder_volume::{Ino, ROOT, RenameMode, Volume};
use proptest::prelude::*;

use crate::bench::{WRITE, cache_file, counted, cut_power, database, read_all, send_away};
use crate::common::{Bench, CALLER, noise, write_file};

fn find(volume: &Volume, name: &str) -> Ino {
    volume.resolve(name.as_bytes()).unwrap()
}

/// A file was dropped and a part of it read again; then the power went. The database came
/// back from before the drop, where the file was here whole; the cache file was the new one,
/// with zeros where nothing had been read.
#[test]
fn what_was_dropped_and_came_in_part_is_not_zeros_after_a_power_cut() {
    let (bench, _) = counted();
    let volume = bench.start();
    let bytes = noise(1, 3 << 20);
    let ino = write_file(&volume, "file", &bytes);
    bench.commit(&volume);
    bench.stop(volume);
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    volume.drop_content(ino).unwrap();
    volume.read(ino, 1_000_000, &mut [0; 10]).unwrap();
    let image = bench.crash_image("cut");
    cut_power(&image);
    bench.stop(volume);

    let volume = bench.start_still(&image, bench.store.clone());
    assert!(read_all(&volume, ino) == bytes);
    bench.stop(volume);
}

/// The note of which node numbers are taken was lost with the power, but cache files of
/// those nodes were not: a new file of the same number had another's bytes.
#[test]
fn a_new_file_after_a_power_cut_has_no_bytes_of_a_lost_one() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    for n in 0..10 {
        write_file(&volume, &format!("lost {n}"), &noise(n, 100_000));
    }
    let image = bench.crash_image("cut");
    cut_power(&image);
    bench.stop(volume);

    let volume = bench.start_still(&image, bench.store.clone());
    for n in 0..10 {
        let made = volume.create(ROOT, format!("new {n}").as_bytes(), 0o644, CALLER, true);
        let ino = made.unwrap().ino;
        volume.open(ino, WRITE).unwrap();
        volume.write(ino, 0, b"new").unwrap();
        volume.close(ino, WRITE).unwrap();
        assert_eq!(read_all(&volume, ino), b"new");
    }
    bench.stop(volume);
}

/// After a kill, `stat` showed sizes as they were last noted, not as they are; a kernel that
/// is told so cuts each read there.
#[test]
fn sizes_are_true_at_once_after_a_kill() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    let ino = write_file(&volume, "file", &noise(1, 1000));
    volume.fsync_dir(ROOT).unwrap();
    volume.open(ino, WRITE).unwrap();
    volume.write(ino, 1000, &noise(2, 5000)).unwrap();
    let image = bench.crash_image("killed");
    volume.close(ino, WRITE).unwrap();
    bench.stop(volume);

    let volume = bench.start_still(&image, bench.store.clone());
    let attr = volume.lookup(ROOT, b"file").unwrap().unwrap();
    assert_eq!(attr.size, 6000);
    assert_eq!(
        read_all(&volume, ino),
        [noise(1, 1000), noise(2, 5000)].concat()
    );
    bench.stop(volume);
}

/// A changed file whose cache file is gone was taken for one that had been emptied; an empty
/// file was then stored in its place.
#[test]
fn a_changed_file_whose_cache_file_is_gone_is_what_was_stored() {
    // The edits of a large file are known by their place, those of a small one are not.
    for size in [300_000, 100_000] {
        let (bench, _) = counted();
        let volume = bench.start();
        let bytes = noise(1, size);
        let ino = write_file(&volume, "file", &bytes);
        bench.commit(&volume);
        bench.stop(volume);
        let volume = bench.start_still(&bench.state(), bench.store.clone());
        volume.open(ino, WRITE).unwrap();
        volume.write(ino, 400_000, b"more").unwrap();
        let image = bench.crash_image("cut");
        fs::remove_file(cache_file(&image, ino)).unwrap();
        cut_power(&image);
        volume.close(ino, WRITE).unwrap();
        bench.stop(volume);

        let volume = bench.start_still(&image, bench.store.clone());
        assert_eq!(volume.attr(ino).unwrap().size, size as u64);
        assert!(read_all(&volume, ino) == bytes);
        assert_eq!(volume.recovered().unwrap(), [(b"file".to_vec(), true)]);
        bench.stop(volume);
    }
}

/// The list of files that a power cut hit was emptied as soon as they were stored, seconds
/// after the start and before anybody had read it.
#[test]
fn files_that_a_power_cut_hit_are_listed_until_they_are_changed() {
    let (bench, _) = counted();
    let volume = bench.start();
    let ino = write_file(&volume, "file", &noise(1, 300_000));
    bench.commit(&volume);
    volume.open(ino, WRITE).unwrap();
    volume.write(ino, 0, b"edited").unwrap();
    let image = bench.crash_image("cut");
    cut_power(&image);
    volume.close(ino, WRITE).unwrap();
    bench.stop(volume);

    let volume = bench.start_from(&image, bench.store.clone());
    bench.commit(&volume);
    assert_eq!(volume.recovered().unwrap(), [(b"file".to_vec(), true)]);
    volume.open(ino, WRITE).unwrap();
    volume.write(ino, 0, b"looked at").unwrap();
    volume.close(ino, WRITE).unwrap();
    assert_eq!(volume.recovered().unwrap(), []);
    bench.stop(volume);
}

/// Cache files that no node has any more stayed for ever, and took their room.
#[test]
fn cache_files_that_nothing_needs_go_at_the_start_after_a_crash() {
    let (bench, _) = counted();
    let volume = bench.start();
    let ino = write_file(&volume, "file", &noise(1, 300_000));
    let away = write_file(&volume, "away", &noise(2, 300_000));
    send_away(&bench, &volume, &[away]);
    let image = bench.crash_image("killed");
    bench.stop(volume);
    let put = |ino: Ino| {
        let path = cache_file(&image, ino);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "left over").unwrap();
        path
    };
    let dropped = put(away);
    let deleted = put(70_000);
    database(&image)
        .execute("INSERT INTO orphans(ino) VALUES(70000)", [])
        .unwrap();
    let taken_in = put(80_000);
    fs::hard_link(&taken_in, bench.path("its source")).unwrap();
    let nameless = put(90_000);

    let volume = bench.start_still(&image, bench.store.clone());
    for path in [dropped, deleted, taken_in, nameless] {
        assert!(!path.exists(), "{}", path.display());
    }
    // What may be all there is of a file whose name was lost is put aside, and told of.
    let put_aside: Vec<_> = fs::read_dir(image.join("strays")).unwrap().collect();
    assert_eq!(put_aside.len(), 1);
    let warnings = volume.status().unwrap().warnings;
    assert!(
        warnings.iter().any(|words| words.contains("strays")),
        "{warnings:?}"
    );
    assert!(read_all(&volume, ino) == noise(1, 300_000));
    assert!(read_all(&volume, away) == noise(2, 300_000));
    bench.stop(volume);
}

/// What fsync acknowledged is there after a power cut at any later moment, whatever became
/// of all else; and what takes another file's place is there whole, or the other still is.
#[test]
fn what_was_synced_survives_a_power_cut() {
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    let synced = write_file(&volume, "synced", &noise(1, 300_000));
    volume.fsync(synced, false).unwrap();
    write_file(&volume, "old", b"old");
    volume.sync_all().unwrap();
    write_file(&volume, "new", b"new");
    volume
        .rename(ROOT, b"new", ROOT, b"old", RenameMode::Replace)
        .unwrap();
    let lost = write_file(&volume, "lost", &noise(2, 300_000));
    let image = bench.crash_image("cut");
    zero(&cache_file(&image, lost));
    cut_power(&image);
    bench.stop(volume);

    let volume = bench.start_still(&image, bench.store.clone());
    assert!(read_all(&volume, find(&volume, "synced")) == noise(1, 300_000));
    let old = read_all(&volume, find(&volume, "old"));
    assert!(old == b"old" || old == b"new");
    bench.stop(volume);
}

/// As a power cut leaves a file whose bytes had not reached the disk.
fn zero(path: &std::path::Path) {
    let file = File::options().write(true).open(path).unwrap();
    let len = file.metadata().unwrap().len();
    file.write_all_at(&vec![0; len as usize], 0).unwrap();
}

/// What came from the store, and what was stored, need not have reached the disk: after a
/// power cut it is fetched anew.
#[test]
fn fetched_and_stored_content_is_never_zeros_after_a_power_cut() {
    let (bench, _) = counted();
    let volume = bench.start();
    let fetched = write_file(&volume, "fetched", &noise(1, 1 << 20));
    let part = write_file(&volume, "part", &noise(2, 3 << 20));
    let edited = write_file(&volume, "edited", &noise(3, 3 << 20));
    send_away(&bench, &volume, &[fetched, part, edited]);
    let stored = write_file(&volume, "stored", &noise(4, 1 << 20));
    bench.commit(&volume);
    read_all(&volume, fetched);
    volume.read(part, 1_000_000, &mut [0; 10]).unwrap();
    volume.read(edited, 1_000_000, &mut [0; 10]).unwrap();
    volume.open(edited, WRITE).unwrap();
    volume.write(edited, 2_000_000, b"edited").unwrap();
    let image = bench.crash_image("cut");
    // Files that were synced keep their bytes; `edited` was, before it was marked dirty.
    for ino in [fetched, part, stored] {
        zero(&cache_file(&image, ino));
    }
    cut_power(&image);
    volume.close(edited, WRITE).unwrap();
    bench.stop(volume);

    let volume = bench.start_still(&image, bench.store.clone());
    assert!(read_all(&volume, fetched) == noise(1, 1 << 20));
    assert!(read_all(&volume, part) == noise(2, 3 << 20));
    assert!(read_all(&volume, stored) == noise(4, 1 << 20));
    let mut expected = noise(3, 3 << 20).to_vec();
    let now = read_all(&volume, edited);
    if now != expected {
        expected[2_000_000..2_000_006].copy_from_slice(b"edited");
        assert!(now == expected);
    }
    bench.stop(volume);
}

/// Each state of a cache file that is not the one the database knows of: the content is had
/// from the store.
#[test]
fn a_clean_file_whose_cache_file_is_not_right_comes_anew() {
    let (bench, _) = counted();
    let volume = bench.start();
    let bytes = noise(1, 300_000);
    let names = ["gone", "short", "long", "empty"];
    let files: Vec<Ino> = names
        .iter()
        .map(|name| write_file(&volume, name, &bytes))
        .collect();
    bench.commit(&volume);
    bench.stop(volume);
    let file = |at: usize| cache_file(&bench.state(), files[at]);
    let resize = |at: usize, len: u64| {
        let file = File::options().write(true).open(file(at)).unwrap();
        file.set_len(len).unwrap();
    };
    fs::remove_file(file(0)).unwrap();
    resize(1, 1000);
    resize(2, 400_000);
    resize(3, 0);

    let volume = bench.start();
    for (ino, name) in files.iter().zip(names) {
        assert!(read_all(&volume, *ino) == bytes, "{name}");
    }
    bench.stop(volume);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever was done: a power cut at any moment leaves a state that opens, in which each
    /// file is as it was at its last sync or later.
    #[test]
    fn a_power_cut_at_any_moment_leaves_a_state_that_opens(
        steps in prop::collection::vec((0u8..7, 0u64..4, 0u64..400_000), 1..25)
    ) {
        let bench = Bench::new();
        let volume = bench.start();
        let mut versions: Vec<Vec<Vec<u8>>> = vec![vec![Vec::new()]; 4];
        let inos: Vec<Ino> = (0..4).map(|n| write_file(&volume, &format!("f{n}"), b"")).collect();
        volume.sync_all().unwrap();
        for (step, which, at) in steps {
            let (ino, known) = (inos[which as usize], &mut versions[which as usize]);
            let mut now: Vec<u8> = known.last().unwrap().clone();
            match step {
                0 | 1 => {
                    let bytes = noise(at, 3000);
                    volume.open(ino, WRITE).unwrap();
                    volume.write(ino, at, &bytes).unwrap();
                    volume.close(ino, WRITE).unwrap();
                    let end = at as usize + bytes.len();
                    now.resize(now.len().max(end), 0);
                    now[at as usize..end].copy_from_slice(&bytes);
                    known.push(now);
                }
                2 => {
                    let set = larder_volume::SetAttr { size: Some(at), ..Default::default() };
                    volume.set_attr(ino, &set).unwrap();
                    now.resize(at as usize, 0);
                    known.push(now);
                }
                3 => {
                    volume.fsync(ino, false).unwrap();
                    *known = vec![now];
                }
                4 => { bench.commit(&volume); }
                5 => { volume.drop_content(ino).unwrap(); }
                _ => { prop_assert!(read_all(&volume, ino) == now); }
            }
        }
        let image = bench.crash_image("cut");
        bench.stop(volume);
        cut_power(&image);
        let volume = bench.start_still(&image, bench.store.clone());
        for (n, ino) in inos.iter().enumerate() {
            // What was not synced may be anything between its versions; the rest may not.
            let now = read_all(&volume, *ino);
            if let [synced] = versions[n].as_slice() {
                prop_assert!(*synced == now, "file {n}");
            }
        }
        prop_assert!(volume.database_check().unwrap().is_empty());
        let strays: i64 = database(&image)
            .query_row("SELECT count(*) FROM extents WHERE ino NOT IN (SELECT ino FROM cached)", [], |row| row.get(0))
            .unwrap();
        prop_assert_eq!(strays, 0);
        bench.stop(volume);
    }
}

//! A store that takes without syncing may lose what it took. Nothing is lost by that.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::{Bench, PASSPHRASE, noise, read_file, until, write_file};
use larder_store::StoreOptions;
use larder_store::testing::{Call, Fault, Faulty, When};
use larder_volume::history::Which;
use larder_volume::{Credential, Dropped, Ino, KeptReason, ROOT, Volume};

/// A volume on a folder that says it does not sync.
struct Lax {
    bench: Bench,
    faulty: Arc<Faulty>,
}

impl Lax {
    /// `delay`: after how long what was put is looked at.
    fn new(delay: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("store");
        std::fs::create_dir(&folder).unwrap();
        let options = StoreOptions::default();
        let below = larder_store::open(folder.to_str().unwrap(), &options).unwrap();
        let faulty = Arc::new(Faulty::new(below));
        faulty.take_without_sync();
        let mut bench = Bench::on(directory, faulty.clone());
        bench.settings.proof_delay = delay;
        Self { bench, faulty }
    }

    fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.bench.path("store").join(prefix)];
        while let Some(path) = left.pop() {
            match path.is_dir() {
                true => left.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path())),
                false => found.push(path),
            }
        }
        found.sort();
        found
    }
}

const SOON: Duration = Duration::from_millis(50);
const NEVER: Duration = Duration::from_secs(3600);

fn is_safe(volume: &Volume, ino: Ino) -> bool {
    volume.would_keep(ino).unwrap().is_none()
}

fn says(volume: &Volume, words: &str) -> bool {
    let warnings = volume.push_status().warnings;
    warnings.iter().any(|warning| warning.contains(words))
}

#[test]
fn what_is_not_proven_yet_is_not_dropped_and_then_is() {
    let lax = Lax::new(NEVER);
    let volume = lax.bench.start();
    let ino = write_file(&volume, "a", &noise(1, 100_000));
    lax.bench.commit(&volume);
    assert_eq!(
        volume.drop_content(ino).unwrap(),
        Dropped::Kept(KeptReason::Unproven)
    );
    // A commit that finds nothing new must not let go of it either.
    lax.bench.commit(&volume);
    assert!(!is_safe(&volume, ino));
    lax.bench.stop(volume);

    // A restart forgets nothing.
    let mut lax = lax;
    lax.bench.settings.proof_delay = SOON;
    let volume = lax.bench.start();
    until("it is proven", || is_safe(&volume, ino));
    assert!(matches!(
        volume.drop_content(ino).unwrap(),
        Dropped::Freed(_)
    ));
    assert_eq!(read_file(&volume, "a"), noise(1, 100_000));
    assert_eq!(volume.push_status().warnings, Vec::<String>::new());
    lax.bench.stop(volume);
}

/// What is here may be the last copy of what the commit holds.
#[test]
fn what_is_not_proven_yet_is_not_replaced_by_a_restore() {
    let lax = Lax::new(NEVER);
    let volume = lax.bench.start();
    write_file(&volume, "a", b"old");
    lax.bench.commit(&volume);
    let old = volume.moment(&Which::Latest).unwrap();
    volume.unlink(ROOT, b"a").unwrap();
    write_file(&volume, "a", b"newer");
    lax.bench.commit(&volume);
    let restoring = volume.restore(old, b"a".to_vec(), b"a".to_vec(), &|_| {});
    let report = lax.bench.runtime.block_on(restoring).unwrap();
    assert_eq!((report.files, report.kept.len()), (0, 1));
    assert!(report.kept[0].1.contains("within two minutes"));
    assert_eq!(read_file(&volume, "a"), b"newer");
    lax.bench.stop(volume);
}

#[test]
fn a_store_that_syncs_is_not_looked_at_again() {
    let mut bench = Bench::new();
    bench.settings.proof_delay = NEVER;
    let volume = bench.start();
    let ino = write_file(&volume, "a", &noise(1, 100_000));
    bench.commit(&volume);
    assert!(is_safe(&volume, ino));
    bench.stop(volume);
}

/// Each kind of object is lost once: nothing is dropped, all of it is stored again, and
/// another machine gets it.
fn is_stored_again(prefix: &str, spoil: fn(&PathBuf)) {
    let lax = Lax::new(NEVER);
    let (large, small) = (noise(2, 3 << 20), noise(3, 40_000));
    let volume = lax.bench.start();
    let ino = write_file(&volume, "large", &large);
    lax.bench.commit(&volume);
    write_file(&volume, "small", &small);
    lax.bench.commit(&volume);
    lax.bench.stop(volume);
    let before = lax.objects(prefix);
    assert!(!before.is_empty(), "nothing in {prefix}");
    before.iter().for_each(spoil);

    let mut lax = lax;
    lax.bench.settings.proof_delay = SOON;
    let volume = lax.bench.start();
    until("the loss is told", || says(&volume, "lost"));
    until("it is stored again", || is_safe(&volume, ino));
    let small_ino = volume.resolve(b"small").unwrap();
    until("all of it is", || is_safe(&volume, small_ino));
    assert!(!says(&volume, "neither here"), "{prefix}");
    for ino in [ino, small_ino] {
        assert!(matches!(
            volume.drop_content(ino).unwrap(),
            Dropped::Freed(_)
        ));
    }
    assert_eq!(read_file(&volume, "large"), large);
    lax.bench.stop(volume);

    let (bench, state) = (&lax.bench, lax.bench.path("elsewhere"));
    let credential = Credential::Passphrase(PASSPHRASE.to_owned());
    let opened = bench
        .runtime
        .block_on(larder_volume::open(
            &state,
            lax.faulty.clone(),
            credential,
            None,
            bench.settings.clone(),
            &|_| {},
        ))
        .unwrap();
    assert_eq!(opened.warnings, Vec::<String>::new(), "{prefix}");
    let volume = bench.start_from(&state, lax.faulty.clone());
    assert_eq!(read_file(&volume, "large"), large);
    assert_eq!(read_file(&volume, "small"), small);
    bench.stop(volume);
}

fn remove(path: &PathBuf) {
    std::fs::remove_file(path).unwrap();
}

fn empty(path: &PathBuf) {
    std::fs::write(path, b"").unwrap();
}

fn zero_the_end(path: &PathBuf) {
    let mut bytes = std::fs::read(path).unwrap();
    let len = bytes.len();
    bytes[len - 20..].fill(0);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn lost_packs_are_stored_anew_from_what_is_here() {
    is_stored_again("packs", remove);
}

#[test]
fn packs_without_bytes_are_stored_anew() {
    is_stored_again("packs", empty);
}

#[test]
fn packs_whose_end_is_zeros_are_stored_anew() {
    is_stored_again("packs", zero_the_end);
}

#[test]
fn lost_tree_packs_are_put_again() {
    is_stored_again("trees", remove);
}

#[test]
fn a_lost_index_is_put_again() {
    is_stored_again("index", zero_the_end);
}

#[test]
fn lost_heads_are_put_again() {
    is_stored_again("heads", remove);
}

#[test]
fn lost_key_slots_are_put_again() {
    is_stored_again("keys", remove);
}

#[test]
fn an_edit_of_a_file_whose_pack_is_lost_meanwhile_is_stored_whole() {
    let lax = Lax::new(NEVER);
    let volume = lax.bench.start();
    let mut bytes = noise(4, 2 << 20).to_vec();
    let ino = write_file(&volume, "a", &bytes);
    lax.bench.commit(&volume);
    // Known by its place: all around the edit is taken for stored.
    common::edit_file(&volume, ino, 1 << 20, b"edited");
    bytes[1 << 20..][..6].copy_from_slice(b"edited");
    lax.bench.stop(volume);
    lax.objects("packs").iter().for_each(remove);
    let mut lax = lax;
    lax.bench.settings.proof_delay = SOON;
    lax.bench.settings.settle_quiet = NEVER;
    let volume = lax.bench.start();
    until("the loss is told", || says(&volume, "lost"));
    lax.bench.commit(&volume);
    lax.bench.stop(volume);
    assert!(lax.bench.stored().file("a").unwrap() == bytes);
}

#[test]
fn a_store_that_is_away_when_it_is_looked_at_has_lost_nothing() {
    let lax = Lax::new(NEVER);
    let volume = lax.bench.start();
    let ino = write_file(&volume, "a", &noise(1, 100_000));
    lax.bench.commit(&volume);
    lax.bench.stop(volume);
    let mut lax = lax;
    lax.bench.settings.proof_delay = SOON;
    lax.faulty.set(Fault::Cut, Call::Stat, When::Always);
    let volume = lax.bench.start();
    until("it is asked", || volume.push_status().last_error.is_some());
    assert!(!is_safe(&volume, ino));
    assert!(!says(&volume, "lost"));
    lax.faulty.clear();
    until("it is proven", || is_safe(&volume, ino));
    lax.bench.stop(volume);
}

#[test]
fn what_was_deleted_on_purpose_is_not_missed() {
    let lax = Lax::new(NEVER);
    let volume = lax.bench.start();
    // So many that old heads go, and index objects are merged and go.
    for n in 0..20 {
        write_file(&volume, &format!("{n}"), &noise(n, 1000));
        lax.bench.commit(&volume);
    }
    lax.bench.stop(volume);
    assert!(lax.objects("index").len() < 16);
    let mut lax = lax;
    lax.bench.settings.proof_delay = SOON;
    let volume = lax.bench.start();
    let ino = volume.resolve(b"19").unwrap();
    until("all is proven", || is_safe(&volume, ino));
    assert_eq!(volume.push_status().warnings, Vec::<String>::new());
    lax.bench.stop(volume);
}

/// A power cut in the house hits this machine and the server.
#[test]
fn what_one_power_cut_hit_here_and_there_is_not_dropped_from_here() {
    let lax = Lax::new(NEVER);
    let volume = lax.bench.start();
    write_file(&volume, "a", &noise(5, 300_000));
    lax.bench.commit(&volume);
    let image = lax.bench.crash_image("cut");
    lax.bench.stop(volume);
    let database = rusqlite::Connection::open(image.join("volume.db")).unwrap();
    database
        .execute("UPDATE meta SET value = x'00' WHERE key = 'boot'", [])
        .unwrap();
    drop(database);
    lax.objects("packs").iter().for_each(remove);
    let mut lax = lax;
    lax.bench.settings.proof_delay = SOON;
    let volume = lax.bench.start_from(&image, lax.faulty.clone());
    assert!(read_file(&volume, "a") == noise(5, 300_000));
    let ino = volume.resolve(b"a").unwrap();
    until("it is stored again", || is_safe(&volume, ino));
    lax.bench.stop(volume);
    assert!(lax.bench.stored().file("a").unwrap() == noise(5, 300_000));
}

#[test]
fn a_line_that_turns_a_bit_now_and_then_loses_nothing() {
    let lax = Lax::new(NEVER);
    let volume = lax.bench.start();
    let ino = write_file(&volume, "a", &noise(1, 100_000));
    lax.bench.commit(&volume);
    lax.bench.stop(volume);
    let mut lax = lax;
    lax.bench.settings.proof_delay = SOON;
    lax.faulty
        .set(Fault::WrongBytes, Call::Get, When::OneIn(5, 3));
    let volume = lax.bench.start();
    until("it is proven", || is_safe(&volume, ino));
    assert!(!says(&volume, "lost"));
    lax.bench.stop(volume);
}

/// A store that was put back from a backup lacks packs that it had acknowledged; the copy here
/// may be the last one.
#[test]
fn while_the_store_may_be_an_old_copy_of_itself_nothing_is_dropped() {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "old", b"before the backup");
    bench.commit(&volume);
    let (store, backup, newer) = (
        bench.path("store"),
        bench.path("backup"),
        bench.path("newer"),
    );
    common::copy_directory(&store, &backup);
    let ino = write_file(&volume, "new", &noise(9, 100_000));
    bench.commit(&volume);
    assert!(is_safe(&volume, ino));
    bench.stop(volume);
    std::fs::rename(&store, &newer).unwrap();
    common::copy_directory(&backup, &store);

    let kept = |volume: &Volume| volume.would_keep(ino).unwrap() == Some(KeptReason::StoreInDoubt);
    let volume = bench.start();
    until("the doubt is told", || {
        says(&volume, "may have lost objects")
    });
    assert!(kept(&volume));
    // A newer commit is no proof of what was before it.
    write_file(&volume, "newest", b"stored after it");
    bench.commit(&volume);
    bench.stop(volume);
    let volume = bench.start();
    until("the doubt is told again", || {
        says(&volume, "may have lost objects")
    });
    assert!(kept(&volume));
    // The same happens once more; that then the newest head is found tells nothing of the other.
    bench.stop(volume);
    let with_newest = bench.path("with newest");
    std::fs::rename(&store, &with_newest).unwrap();
    std::fs::rename(&backup, &store).unwrap();
    let volume = bench.start();
    until("the doubt is told a third time", || {
        says(&volume, "may have lost objects")
    });
    bench.stop(volume);
    std::fs::remove_dir_all(&store).unwrap();
    std::fs::rename(&with_newest, &store).unwrap();
    let volume = bench.start();
    until("the first doubt is told", || {
        says(&volume, "may have lost objects")
    });
    assert!(kept(&volume));
    let verify = || {
        let verified = bench
            .runtime
            .block_on(volume.verify(&[ROOT], true, &|_| {}));
        verified.unwrap()
    };
    assert!(!verify().missing.is_empty());
    assert!(kept(&volume));
    // The lost objects come back, by hand.
    common::copy_directory(&newer, &store);
    assert!(verify().is_well());
    assert!(is_safe(&volume, ino) && !says(&volume, "may have lost objects"));
    bench.stop(volume);
}

/// A list that shows less than there is tells nothing in the long run.
#[test]
fn the_doubt_ends_when_the_head_is_found_after_all() {
    let bench = Bench::new();
    let volume = bench.start();
    let ino = write_file(&volume, "file", &noise(9, 100_000));
    bench.commit(&volume);
    bench.stop(volume);
    let (heads, aside) = (bench.path("store").join("heads"), bench.path("aside"));
    std::fs::rename(&heads, &aside).unwrap();
    let volume = bench.start();
    until("the doubt is told", || {
        says(&volume, "may have lost objects")
    });
    assert!(!is_safe(&volume, ino));
    bench.stop(volume);
    let _ = std::fs::remove_dir_all(&heads);
    std::fs::rename(&aside, &heads).unwrap();
    let volume = bench.start();
    until("the file is safe again", || is_safe(&volume, ino));
    bench.stop(volume);
}

//! Content that is away: it comes when it is read, and who waits for it waits alone.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::thread;

use larder_mount::Profile;

use crate::fixture::{Fixture, errno, pattern};
use crate::gate::Gatekeeping;
use crate::mapped::{self, Case};

/// Large enough for several chunks.
const LEN: usize = 3 << 20;

macro_rules! in_each_profile {
    ($($name:ident),+ $(,)?) => {
        mod passthrough {
            $(#[test]
            fn $name() {
                super::$name(larder_mount::Profile::Passthrough);
            })+
        }
        mod cached {
            $(#[test]
            fn $name() {
                super::$name(larder_mount::Profile::Cached);
            })+
        }
        mod no_open {
            $(#[test]
            fn $name() {
                super::$name(larder_mount::Profile::NoOpen);
            })+
        }
    };
}

in_each_profile!(
    what_is_away_comes_when_it_is_read,
    an_edit_of_what_is_away_keeps_the_rest,
    a_file_that_came_whole_is_read_on_by_all_handles,
    who_waits_for_a_store_holds_up_nobody_else,
    what_cannot_be_had_is_an_error_and_the_tree_goes_on,
);

fn what_is_away_comes_when_it_is_read(profile: Profile) {
    let (at, _) = Fixture::with_gate(profile);
    let path = at.path("file");
    let bytes = pattern(LEN);
    fs::write(&path, &bytes).unwrap();
    let before = fs::metadata(&path).unwrap();
    at.send_away(&path);
    let after = fs::metadata(&path).unwrap();
    assert_eq!(
        (before.len(), before.modified().unwrap()),
        (after.len(), after.modified().unwrap())
    );
    let file = File::open(&path).unwrap();
    let mut piece = [0; 1000];
    file.read_exact_at(&mut piece, 2_000_000).unwrap();
    assert!(piece == bytes[2_000_000..2_001_000]);
    drop(file);
    assert!(fs::read(&path).unwrap() == bytes);
    at.send_away(&path);
    mapped::elsewhere(Case::Pattern, &path);
}

fn an_edit_of_what_is_away_keeps_the_rest(profile: Profile) {
    let (at, _) = Fixture::with_gate(profile);
    let path = at.path("file");
    let mut bytes = pattern(LEN);
    fs::write(&path, &bytes).unwrap();
    at.send_away(&path);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"edited", 1_500_000).unwrap();
    file.set_len(2_500_000).unwrap();
    drop(file);
    bytes.truncate(2_500_000);
    bytes[1_500_000..1_500_006].copy_from_slice(b"edited");
    assert!(fs::read(&path).unwrap() == bytes);
    at.send_away(&path);
    assert!(fs::read(&path).unwrap() == bytes, "and once it was stored");
}

fn a_file_that_came_whole_is_read_on_by_all_handles(profile: Profile) {
    let (at, _) = Fixture::with_gate(profile);
    let path = at.path("file");
    let bytes = pattern(LEN);
    fs::write(&path, &bytes).unwrap();
    at.send_away(&path);
    let while_away = File::open(&path).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    let when_whole = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    when_whole.write_all_at(b"new", 100).unwrap();
    let mut piece = [0; 3];
    while_away.read_exact_at(&mut piece, 100).unwrap();
    assert_eq!(&piece, b"new");
    drop((while_away, when_whole));
    let again = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    again.write_all_at(b"NEW", 100).unwrap();
    assert_eq!(
        &fs::read(&path).unwrap()[98..104],
        [&bytes[98..100], b"NEW", &bytes[103..104]].concat()
    );
}

fn who_waits_for_a_store_holds_up_nobody_else(profile: Profile) {
    let (at, gate) = Fixture::with_gate(profile);
    let (path, here) = (at.path("file"), at.path("here"));
    let bytes = pattern(LEN);
    fs::write(&path, &bytes).unwrap();
    fs::write(&here, "here").unwrap();
    at.send_away(&path);
    gate.set(Gatekeeping::Shut);
    thread::scope(|threads| {
        let waits = threads.spawn(|| fs::read(&path));
        at.eventually("someone waits at the gate", || gate.waiting() > 0);
        assert_eq!(fs::read(&here).unwrap(), b"here");
        fs::write(at.path("new"), "new").unwrap();
        File::open(at.path("new")).unwrap().sync_all().unwrap();
        fs::rename(at.path("new"), at.path("moved")).unwrap();
        fs::hard_link(&path, at.path("link")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), LEN as u64);
        assert_eq!(fs::read_dir(at.root()).unwrap().count(), 4);
        assert!(!waits.is_finished());
        gate.set(Gatekeeping::Open);
        assert!(waits.join().unwrap().unwrap() == bytes);
    });
}

fn what_cannot_be_had_is_an_error_and_the_tree_goes_on(profile: Profile) {
    let (at, gate) = Fixture::with_gate(profile);
    let path = at.path("file");
    fs::write(&path, pattern(LEN)).unwrap();
    at.send_away(&path);
    for (state, expected) in [
        (Gatekeeping::Refusing, libc::ENETUNREACH),
        (Gatekeeping::Shut, libc::ETIMEDOUT),
    ] {
        gate.set(state);
        assert_eq!(errno(fs::read(&path)), expected, "{state:?}");
    }
    fs::rename(&path, at.path("moved")).unwrap();
    fs::write(at.path("new"), "new").unwrap();
    gate.set(Gatekeeping::Open);
    at.eventually("it can be read again", || {
        fs::read(at.path("moved")).is_ok()
    });
    assert!(fs::read(at.path("moved")).unwrap() == pattern(LEN));
}

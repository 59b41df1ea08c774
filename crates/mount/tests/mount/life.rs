//! The life of a mount: where it may be, how it ends, and who waits for whom.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use larder_mount::{Mended, MountError, MountOptions, Profile, is_mounted, mend, mount};

use crate::fixture::{Fixture, errno};
use crate::in_each_profile;

in_each_profile!(
    an_unmount_leaves_the_place_as_it_was,
    a_busy_mount_stays_and_names_who_uses_it,
    a_detached_mount_ends_when_the_last_file_closes,
    what_was_written_is_there_after_the_next_mount,
);

fn an_unmount_leaves_the_place_as_it_was(at: &Fixture) {
    fs::write(at.path("file"), "").unwrap();
    assert!(is_mounted(at.root()).unwrap());
    assert_eq!(mend(at.root()).unwrap(), Mended::Alive);
    at.mounted().unmount().unwrap();
    at.mounted().wait().unwrap();
    assert!(!is_mounted(at.root()).unwrap());
    assert_eq!(fs::read_dir(at.root()).unwrap().count(), 0);
    at.mounted().unmount().unwrap();
}

fn a_busy_mount_stays_and_names_who_uses_it(at: &Fixture) {
    let mut sleeper = Command::new("sleep")
        .arg("60")
        .current_dir(at.root())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let refused = at.mounted().unmount();
    let named = format!("sleep ({})", sleeper.id());
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(refused.unwrap_err().to_string().contains(&named), "{named}");
    assert!(is_mounted(at.root()).unwrap());
    at.eventually("it is free", || at.mounted().unmount().is_ok());
    at.mounted().wait().unwrap();
}

fn a_detached_mount_ends_when_the_last_file_closes(at: &Fixture) {
    fs::write(at.path("file"), "still").unwrap();
    let file = File::open(at.path("file")).unwrap();
    at.mounted().detach().unwrap();
    assert!(!is_mounted(at.root()).unwrap());
    assert_eq!(std::io::read_to_string(&file).unwrap(), "still");
    drop(file);
    at.mounted().wait().unwrap();
}

fn what_was_written_is_there_after_the_next_mount(at: &Fixture) {
    fs::write(at.path("file"), "kept").unwrap();
    let open_at_the_end = File::create(at.path("open")).unwrap();
    let before = fs::metadata(at.path("file")).unwrap();
    at.mounted().detach().unwrap();
    drop(open_at_the_end);
    at.mounted().wait().unwrap();
    let options = MountOptions {
        profile: at.mounted().profile(),
        allow_other: true,
    };
    let again = mount(at.volume().clone(), at.root(), &options).unwrap();
    let after = fs::metadata(at.path("file")).unwrap();
    assert_eq!(fs::read(at.path("file")).unwrap(), b"kept");
    assert_eq!(
        (before.ino(), before.modified().unwrap()),
        (after.ino(), after.modified().unwrap())
    );
    again.unmount().unwrap();
    again.wait().unwrap();
}

#[test]
fn one_place_holds_one_mount() {
    let at = Fixture::new(Profile::Cached);
    let again = mount(at.volume().clone(), at.root(), &MountOptions::default());
    assert!(matches!(again, Err(MountError::Taken(_))), "{again:?}");
}

#[test]
fn a_mount_without_others_holds_them_off() {
    let options = MountOptions {
        profile: Profile::Cached,
        allow_other: false,
    };
    let at = Fixture::with(&options);
    fs::write(at.path("file"), "").unwrap();
    assert!(!at.runs_as_nobody("ls -d ."));
    assert_eq!(errno(fs::read(at.path("none"))), libc::ENOENT);
}

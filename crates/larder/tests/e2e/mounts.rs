//! Mounts: several at once, busy ones, dead ones.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use larder_store::testing::noise;

use crate::machine::{Machine, picture, runs, signal, wait_for};
use crate::remote::{EAGER, Remote};

/// A volume beside the machine's first; unmounted when it goes.
struct Second<'a> {
    machine: &'a Machine,
    name: &'static str,
}

impl<'a> Second<'a> {
    fn new(machine: &'a Machine, name: &'static str, store: PathBuf) -> Self {
        let words = [
            "init",
            name,
            "--budget",
            "1G",
            "--passphrase-file",
            "passphrase",
            "--store",
        ];
        let args = words.map(OsString::from).into_iter().chain([store.into()]);
        machine.larder(args).ok();
        Self { machine, name }
    }

    fn root(&self) -> PathBuf {
        self.machine.path(self.name)
    }
}

impl Drop for Second<'_> {
    fn drop(&mut self) {
        for name in [self.name, "Larder"] {
            self.machine.larder(["unmount", "--force", name]);
        }
    }
}

#[test]
fn two_volumes_are_mounted_at_once_and_each_command_finds_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    let second = Second::new(&laptop, "Other", dir.path().join("other store"));
    laptop.mount();
    laptop.larder(["mount", "Other"]).ok();
    let (one, two) = (laptop.mount_point(), second.root());
    fs::write(one.join("same name"), noise(1, 200_000)).unwrap();
    fs::write(two.join("same name"), noise(2, 200_000)).unwrap();
    // Between volumes a file is copied, by the kernel's answer.
    let moved = fs::rename(one.join("same name"), two.join("moved")).unwrap_err();
    assert_eq!(moved.kind(), std::io::ErrorKind::CrossesDevices);
    fs::copy(one.join("same name"), two.join("copied")).unwrap();
    laptop.larder(["commit"]).ended(2);
    laptop.larder(["status"]).ended(2);
    for name in ["Larder", "Other"] {
        laptop.larder(["commit", "--volume", name]).ok();
        laptop.larder(["stash", name]).ok();
    }
    laptop.larder(["stash", "Larder", "Other"]).ended(2);
    assert_eq!(fs::read(one.join("same name")).unwrap(), noise(1, 200_000));
    assert_eq!(fs::read(two.join("same name")).unwrap(), noise(2, 200_000));
    assert_eq!(fs::read(two.join("copied")).unwrap(), noise(1, 200_000));
    laptop.larder(["unmount", "Other"]).ok();
    assert_eq!(fs::read_dir(&two).unwrap().count(), 0);
    assert_eq!(fs::read(one.join("same name")).unwrap(), noise(1, 200_000));
}

#[test]
fn a_busy_mount_names_who_uses_it_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let path = laptop.mount_point().join("held");
    fs::write(&path, "held").unwrap();
    let mut user = std::process::Command::new("sleep")
        .arg("1000")
        .stdin(fs::File::open(&path).unwrap())
        .spawn()
        .unwrap();
    let said = laptop
        .larder(["unmount"])
        .ended(1)
        .says("in use")
        .says("sleep");
    assert!(said.err.contains(&user.id().to_string()), "{said:?}");
    assert!(laptop.is_mounted());
    assert_eq!(fs::read_to_string(&path).unwrap(), "held");
    user.kill().unwrap();
    user.wait().unwrap();
    laptop.unmount();
}

#[test]
fn a_daemon_that_is_told_to_end_in_the_middle_of_its_work_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", &format!("{EAGER}\nupload = \"8M\""));
    laptop.mount();
    let root = laptop.mount_point();
    for i in 0..16 {
        fs::write(root.join(i.to_string()), noise(i, 2 << 20)).unwrap();
    }
    wait_for("uploads", || !remote.objects("packs/").is_empty());
    let before = picture(&root);
    let pid = laptop.daemon_pid().unwrap();
    signal(pid, "TERM");
    wait_for("the daemon to end", || !runs(pid));
    assert!(!laptop.is_mounted());
    let said = laptop.mount();
    assert!(!said.err.contains("Warning"), "{said:?}");
    assert_eq!(laptop.status()["warnings"].as_array().unwrap().len(), 0);
    assert_eq!(picture(&root), before);
    laptop.wait_until_stored();
    laptop.larder(["verify", "--stores"]).ok();
}

#[test]
fn a_dead_mount_is_mended_by_mount_and_by_doctor_though_programs_stand_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let root = laptop.mount_point();
    fs::write(root.join("file"), "kept").unwrap();
    let held = fs::File::open(root.join("file")).unwrap();
    held.sync_all().unwrap();
    laptop.kill_daemon();
    laptop.larder(["doctor"]).ok().says("taken away");
    assert!(!laptop.is_mounted());
    laptop.mount();
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "kept");
    laptop.kill_daemon();
    laptop.mount().says("dead daemon");
    assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "kept");
    laptop.larder(["doctor"]).ok();
    drop(held);
    laptop.unmount();
}

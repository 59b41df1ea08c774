//! Two machines with one volume, both mounted, that meet on an SSH server.

use std::fs;
use std::io::Read;

use larder_store::testing::Sshd;

use crate::machine::{Machine, wait_for};
use crate::remote::{EAGER, Remote, assert_no_diff, set_limits};

#[test]
fn what_two_machines_did_is_on_both_after_they_met() {
    let sshd = Sshd::start();
    let remote = Remote::sftp(&sshd);
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let here = |name: &str| laptop.mount_point().join(name);
    fs::create_dir(here("letters")).unwrap();
    fs::write(here("letters/anna"), "Dear Anna").unwrap();
    fs::write(here("picture"), vec![7; 2_000_000]).unwrap();
    laptop.larder(["commit"]).ok();
    let desktop = remote.another_machine();
    let there = |name: &str| desktop.mount_point().join(name);
    assert_eq!(fs::read(there("letters/anna")).unwrap(), b"Dear Anna");

    // Each goes on by itself. The kernel of the desktop knows what the laptop changes.
    let mut open = fs::File::open(there("letters/anna")).unwrap();
    fs::write(here("letters/anna"), "Dear Anna, thank you").unwrap();
    fs::rename(here("letters"), here("post")).unwrap();
    fs::remove_file(here("picture")).unwrap();
    fs::write(there("notes"), "of the desktop").unwrap();
    laptop.larder(["commit"]).ok();
    desktop.larder(["sync"]).ok().says("Took in 1 commit");
    assert_eq!(
        fs::read(there("post/anna")).unwrap(),
        b"Dear Anna, thank you"
    );
    assert!(!there("letters").exists() && !there("picture").exists());
    let mut kept = String::new();
    open.read_to_string(&mut kept).unwrap();
    assert_eq!(kept, "Dear Anna");
    laptop.larder(["sync"]).ok();
    assert_eq!(fs::read(here("notes")).unwrap(), b"of the desktop");
    desktop
        .larder(["sync"])
        .ok()
        .says("nothing new of other machines");
    laptop
        .larder(["sync"])
        .ok()
        .says("nothing new of other machines");

    // The same file on both: both versions stay, and it is said.
    fs::write(here("notes"), "of the laptop, later").unwrap();
    fs::write(there("notes"), "of the desktop, later").unwrap();
    laptop.larder(["commit"]).ok();
    desktop.larder(["sync"]).says("changed on two machines");
    laptop.larder(["sync"]);
    assert_no_diff(&laptop.mount_point(), &desktop.mount_point());
    let names = fs::read_dir(laptop.mount_point()).unwrap();
    let mut notes: Vec<_> = names
        .map(|name| name.unwrap().path())
        .filter(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("notes")
        })
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    notes.sort();
    assert_eq!(notes, ["of the desktop, later", "of the laptop, later"]);

    // A third machine has all of it.
    let third = Machine::new();
    remote
        .open(&third, ["--passphrase-file", "passphrase"])
        .ok();
    third.mount();
    third.larder(["sync"]);
    assert_no_diff(&laptop.mount_point(), &third.mount_point());
}

/// What one machine does comes to the other by itself; a file that both change is listed, and the
/// user says which version stays.
#[test]
fn machines_follow_each_other_and_a_conflict_ends_as_the_user_says() {
    const CURIOUS: &str = "commit-interval = \"1s\"\nsettle-quiet = \"0\"\nsync-interval = \"1s\"";
    let sshd = Sshd::start();
    let remote = Remote::sftp(&sshd);
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let here = |name: &str| laptop.mount_point().join(name);
    fs::write(here("notes"), "first").unwrap();
    laptop.larder(["commit"]).ok();
    let desktop = Machine::new();
    remote
        .open(&desktop, ["--passphrase-file", "passphrase"])
        .ok();
    set_limits(&desktop, CURIOUS);
    desktop.mount();
    let there = |name: &str| desktop.mount_point().join(name);
    assert_eq!(fs::read(there("notes")).unwrap(), b"first");
    assert!(!there("new").exists());
    fs::write(here("notes"), "of the laptop").unwrap();
    fs::write(here("new"), "of the laptop").unwrap();
    laptop.larder(["commit"]).ok();
    wait_for("the desktop follows", || {
        fs::read(there("new")).is_ok_and(|read| read == b"of the laptop")
    });
    assert_eq!(fs::read(there("notes")).unwrap(), b"of the laptop");

    // What the desktop did meanwhile: the laptop looks by hand, and asks first.
    fs::write(here("notes"), "of the laptop, later").unwrap();
    laptop.larder(["commit"]).ok();
    fs::write(there("only there"), "x").unwrap();
    desktop.larder(["commit"]).ok();
    laptop
        .larder(["sync", "--dry-run"])
        .ok()
        .says("added")
        .says("only there");
    assert!(!here("only there").exists());
    laptop.larder(["sync"]).ok();
    assert!(here("only there").exists());

    // Both change a file.
    desktop.unmount();
    let config = desktop.state_dir().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(
        &config,
        text.replace("sync-interval = \"1s\"", "sync-interval = \"0\""),
    )
    .unwrap();
    desktop.mount();
    desktop.larder(["sync"]).ok();
    fs::write(here("notes"), "one").unwrap();
    fs::write(there("notes"), "two").unwrap();
    laptop.larder(["commit"]).ok();
    desktop.larder(["sync"]).says("larder conflicts");
    laptop.larder(["sync"]);
    laptop.larder(["status"]).ok().says("Conflicts");
    let listed = laptop.larder(["conflicts", "--json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed.out).unwrap();
    let copy = listed[0]["versions"][1]["path"].as_str().unwrap();
    let kept = fs::read(here(copy)).unwrap();
    laptop.larder(["conflicts"]).says("  B  ").says(copy);
    let notes = here("notes");
    let resolve = ["resolve", notes.to_str().unwrap(), "--keep", "B"];
    laptop
        .larder(resolve)
        .ok()
        .says("Kept notes")
        .says("Removed notes");
    assert_eq!(fs::read(&notes).unwrap(), kept);
    assert!(!here(copy).exists());
    laptop.larder(["conflicts"]).ok().says("no conflicts");
    laptop.larder(["commit"]).ok();
    desktop.larder(["sync"]).ok();
    assert_no_diff(&laptop.mount_point(), &desktop.mount_point());
}

//! Two machines with one volume, both mounted, that meet on an SSH server.

use std::fs;
use std::io::Read;

use larder_store::testing::Sshd;

use crate::machine::Machine;
use crate::remote::{EAGER, Remote, assert_no_diff};

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

//! Old history goes from an SSH server once both machines know of it; what is kept stays readable.

use std::fs;

use larder_store::testing::Sshd;

use crate::machine::wait_for;
use crate::remote::{EAGER, Remote, assert_no_diff};

#[test]
fn old_history_goes_when_all_machines_know_and_the_rest_is_whole() {
    let sshd = Sshd::start();
    let remote = Remote::sftp(&sshd);
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let here = |name: &str| laptop.mount_point().join(name);
    let version = |n: u8| larder_store::testing::noise(n.into(), 500_000).to_vec();
    fs::write(here("letters"), "kept").unwrap();
    laptop.larder(["commit"]).ok();
    fs::write(here("draft"), version(0)).unwrap();
    laptop.larder(["commit", "-m", "the first draft"]).ok();
    for n in 1..20 {
        fs::write(here("draft"), version(n)).unwrap();
        laptop.larder(["commit"]).ok();
    }
    let desktop = remote.another_machine();
    // Nobody waits for a machine that has not said that it is there.
    wait_for("both to have said so", || {
        remote.objects("marks/").len() == 2
    });
    let there = |name: &str| desktop.mount_point().join(name);

    laptop.larder(["history"]).ok().says("All commits are kept");
    laptop.larder(["history", "keep"]).ended(2);
    laptop
        .larder(["history", "keep", "--hourly", "1", "--monthly", "all"])
        .ok()
        .says("each month");
    let stored = || remote.bytes("packs/");
    let before = stored();
    laptop
        .larder(["collect", "--dry-run"])
        .ok()
        .says("Would give up");
    laptop
        .larder(["collect"])
        .ok()
        .says("when these machines know of it");
    assert!(stored() >= before);
    desktop.larder(["sync"]).ok();
    desktop.larder(["history"]).ok().says("the newest hour");
    laptop.larder(["collect"]).ok().says("Deleted");
    assert!(stored() + 5_000_000 < before, "{} {before}", stored());

    // What is kept is whole: the tree on both, and what was named.
    assert_eq!(fs::read(there("draft")).unwrap(), version(19));
    assert_no_diff(&laptop.mount_point(), &desktop.mount_point());
    let restore = [
        "restore",
        "Larder/draft",
        "--at",
        "2",
        "--to",
        "Larder/first",
    ];
    laptop.larder(["log"]).ok().says("the first draft");
    let log = laptop.larder(["log"]).ok();
    let named = log
        .out
        .lines()
        .find(|line| line.contains("the first draft"));
    let id = named
        .unwrap()
        .split_whitespace()
        .find(|word| word.len() == 12);
    let restore = restore.map(|word| if word == "2" { id.unwrap() } else { word });
    laptop.larder(restore).ok();
    assert_eq!(fs::read(here("first")).unwrap(), version(0));
    for machine in [&laptop, &desktop] {
        machine.larder(["verify", "--stores"]).ok();
    }
    let third = remote.another_machine();
    assert_eq!(
        fs::read(third.mount_point().join("draft")).unwrap(),
        version(19)
    );
}

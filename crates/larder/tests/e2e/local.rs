//! Files that a rule keeps on this machine.

use std::fs;
use std::path::Path;

use crate::machine::Machine;
use crate::remote::{EAGER, Remote};

const KEPT: [&str; 5] = [
    "project/target/debug/program",
    "project/node_modules/a/index.js",
    "notes.tmp",
    "secret/diary",
    "logs/today.log",
];
const STORED: [&str; 4] = ["project/main.rs", "target", "logs/keep.log", "notes.txt"];

fn write(root: &Path, name: &str) {
    let path = root.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, name.repeat(100)).unwrap();
}

#[track_caller]
fn assert_reads(machine: &Machine, name: &str) {
    let read = fs::read_to_string(machine.mount_point().join(name)).unwrap();
    assert_eq!(read, name.repeat(100));
}

#[test]
fn what_a_rule_keeps_here_never_leaves_and_is_never_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let root = laptop.mount_point();
    fs::write(root.join(".larderignore"), "/secret\n*.log\n!keep.log\n").unwrap();
    KEPT.iter()
        .chain(&STORED)
        .for_each(|name| write(&root, name));
    laptop
        .larder(["commit"])
        .says("5 files stay on this machine only");
    let status = laptop.status();
    assert_eq!(status["files_local"], KEPT.len(), "{status}");
    for name in KEPT {
        let entry = laptop.entry(&format!("Larder/{name}"));
        assert_eq!(
            (&entry["local"], &entry["stores"]),
            (&true.into(), &0.into()),
            "{name}"
        );
    }
    for name in STORED {
        let entry = laptop.entry(&format!("Larder/{name}"));
        assert_eq!(
            (&entry["local"], &entry["stores"]),
            (&false.into(), &1.into()),
            "{name}"
        );
    }
    laptop
        .larder(["stash", "Larder"])
        .says("a rule keeps it local");
    for name in KEPT {
        assert_eq!(
            laptop.entry(&format!("Larder/{name}"))["presence"],
            "here",
            "{name}"
        );
    }
    for name in STORED {
        assert_eq!(
            laptop.entry(&format!("Larder/{name}"))["presence"],
            "away",
            "{name}"
        );
    }
    let desktop = remote.another_machine();
    STORED.iter().for_each(|name| assert_reads(&desktop, name));
    for gone in [
        "project/target",
        "project/node_modules",
        "notes.tmp",
        "secret",
        "logs/today.log",
    ] {
        assert!(
            !desktop.mount_point().join(gone).exists(),
            "{gone} travelled"
        );
    }
    drop(desktop);

    // Other rules: what they no longer keep travels; what is new and they keep, does not.
    fs::write(root.join(".larderignore"), "*.log\nmore/\n").unwrap();
    write(&root, "more/of it");
    laptop.unmount();
    laptop.mount();
    KEPT.iter()
        .chain(&STORED)
        .for_each(|name| assert_reads(&laptop, name));
    laptop.larder(["commit"]).ok();
    // A rule that comes later does not take away what travelled already.
    let desktop = remote.another_machine();
    for name in STORED.iter().chain(&["secret/diary"]) {
        assert_reads(&desktop, name);
    }
    for gone in ["more", "logs/today.log", "notes.tmp"] {
        assert!(
            !desktop.mount_point().join(gone).exists(),
            "{gone} travelled"
        );
    }
}

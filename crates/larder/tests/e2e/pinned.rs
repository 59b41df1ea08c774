//! What is pinned stays, and what is brought back comes on after a cut.

use std::fs;

use larder_store::testing::noise;

use crate::machine::wait_for;
use crate::remote::{EAGER, Remote, set_limits};

#[test]
fn a_pinned_directory_stays_when_space_is_needed_and_so_does_what_is_made_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("24M", EAGER);
    laptop.mount();
    let root = laptop.mount_point();
    fs::create_dir_all(root.join("work/sub")).unwrap();
    fs::write(root.join("work/old"), noise(1, 3 << 20)).unwrap();
    laptop.larder(["pin", "Larder/work"]).ok();
    fs::write(root.join("work/sub/new"), noise(2, 3 << 20)).unwrap();
    for i in 0..20 {
        fs::write(root.join(format!("other {i}")), noise(10 + i, 4 << 20)).unwrap();
    }
    fs::write(root.join("other 3"), noise(13, 4 << 20)).unwrap();
    fs::write(root.join("work/late"), noise(3, 2 << 20)).unwrap();
    laptop.wait_until_stored();
    wait_for("other content to go", || {
        laptop.status()["bytes_here"].as_u64().unwrap() <= 24 << 20
    });
    for name in ["work/old", "work/sub/new", "work/late"] {
        let entry = laptop.entry(&format!("Larder/{name}"));
        assert_eq!(
            (&entry["presence"], &entry["pinned"], &entry["stores"]),
            (&"here".into(), &true.into(), &1.into()),
            "{name}"
        );
    }
    let away = (0..20).filter(|i| laptop.entry(&format!("Larder/other {i}"))["presence"] == "away");
    assert!(away.count() > 10);

    // A pin of what is away brings it.
    laptop.larder(["unpin", "Larder/work"]).ok();
    laptop.larder(["stash", "Larder"]).ok();
    laptop.larder(["pin", "Larder/work"]).ok();
    wait_for("pinned content to come", || {
        laptop.entry("Larder/work/old")["presence"] == "here"
    });
}

#[test]
fn a_checkout_shows_how_far_it_is_and_goes_on_after_a_cut() {
    const FILE: u64 = 2 << 20;
    const FILES: u64 = 12;
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let root = laptop.mount_point();
    for i in 0..FILES {
        fs::write(root.join(i.to_string()), noise(i, FILE as usize)).unwrap();
    }
    laptop.larder(["commit"]).ok();
    laptop.larder(["stash", "Larder"]).ok();
    laptop.unmount();
    set_limits(&laptop, "download = \"6M\"");
    laptop.mount();
    let mut bringing = laptop
        .command()
        .args(["checkout", "Larder"])
        .spawn()
        .unwrap();
    let here = || laptop.status()["bytes_here"].as_u64().unwrap();
    wait_for("some content to be here", || here() > 3 * FILE);
    laptop.kill_daemon();
    assert!(!bringing.wait().unwrap().success());
    laptop.mount();
    assert!(here() > FILE, "what had come was lost");
    assert!(here() < FILES * FILE);
    // The bar is for a terminal.
    let command = format!("{} checkout --json Larder", env!("CARGO_BIN_EXE_larder"));
    let said = on_a_terminal(&laptop, &command);
    assert!(said.contains("MiB") || said.contains('%'), "{said}");
    let brought = said.split("\"fetched_bytes\": ").nth(1).expect("a report");
    let brought: u64 = brought
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(
        brought < FILES * FILE - FILE,
        "{brought} bytes were brought a second time"
    );
    for i in 0..FILES {
        assert_eq!(laptop.entry(&format!("Larder/{i}"))["presence"], "here");
        assert_eq!(
            fs::read(root.join(i.to_string())).unwrap(),
            noise(i, FILE as usize)
        );
    }
}

/// What a command says on a terminal.
fn on_a_terminal(laptop: &crate::machine::Machine, command: &str) -> String {
    let words = laptop.command();
    let mut script = std::process::Command::new("script");
    script.env_clear().envs(
        words
            .get_envs()
            .filter_map(|(key, value)| Some((key, value?))),
    );
    script
        .env("TERM", "xterm")
        .current_dir(words.get_current_dir().unwrap());
    let output = script
        .args(["-qec", command, "/dev/null"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

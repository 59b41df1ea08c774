//! The life of a volume, as its user sees it: made, filled, stashed, read back, kept, and
//! opened on other machines.

use std::fs;

use crate::machine::{Machine, Said, Shelf, copy_tree, make_tree, picture, wait_for};

#[test]
fn a_tree_that_is_copied_in_comes_out_the_same_on_every_machine() {
    let shelf = Shelf::new();
    let laptop = Machine::new();
    let made = laptop.init(&shelf).ok().says("shown this once").json();
    let recovery_key = made["recovery_key"].as_str().unwrap();
    let original = laptop.path("tree");
    make_tree(&original);
    laptop.mount().says("Mounted");
    copy_tree(&original, &laptop.mount_point());
    let tree = laptop.mount_point().join("tree");
    assert_eq!(picture(&tree), picture(&original));
    laptop
        .larder(["commit", "-m", "the tree"])
        .ok()
        .says("Made commit");
    laptop.larder(["log"]).ok().says("the tree");
    laptop.wait_until_stored();
    laptop
        .larder(["verify", "--stores"])
        .ok()
        .says("Found no damage");
    laptop.unmount();

    let desktop = Machine::new();
    desktop
        .open(&shelf, ["--passphrase-file", "passphrase"])
        .ok()
        .says("Opened volume");
    desktop.mount();
    let away = desktop.entry("Larder/tree/large");
    assert_eq!(
        (&away["size_bytes"], &away["presence"]),
        (&(3 << 20).into(), &"away".into())
    );
    assert_eq!(
        picture(&desktop.mount_point().join("tree")),
        picture(&original)
    );
    desktop.unmount();

    let rescued = Machine::new();
    fs::write(rescued.path("key"), recovery_key.to_lowercase()).unwrap();
    // A passphrase file that the shell's profile names does not stand in the way.
    let mut open = rescued.command();
    open.env("LARDER_PASSPHRASE_FILE", "passphrase");
    open.arg("open").arg(shelf.path()).arg("Larder");
    let open = open.args(["--recovery-key-file", "key"]).output().unwrap();
    Said::from(open).ok();
    rescued.mount();
    assert_eq!(
        picture(&rescued.mount_point().join("tree")),
        picture(&original)
    );
}

#[test]
fn a_wrong_passphrase_opens_nothing_and_leaves_nothing() {
    let shelf = Shelf::new();
    drop(Machine::with_volume(&shelf));
    let thief = Machine::new();
    fs::write(thief.path("guess"), "hunter2\n").unwrap();
    thief
        .open(&shelf, ["--passphrase-file", "guess"])
        .ended(1)
        .says("passphrase");
    thief
        .larder(["status"])
        .ended(2)
        .says("There is no volume on this machine");
    // The right one works afterwards, at the same place.
    thief.open(&shelf, ["--passphrase-file", "passphrase"]).ok();
}

#[test]
fn a_store_takes_one_volume() {
    let shelf = Shelf::new();
    drop(Machine::with_volume(&shelf));
    let second = Machine::new();
    second.init(&shelf).ended(1).says("larder open");
}

#[test]
fn stashed_content_goes_and_comes_back_when_it_is_read_or_checked_out() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let tree = laptop.mount_point().join("tree");
    make_tree(&tree);
    let before = picture(&tree);
    laptop.larder(["commit"]).ok();
    laptop
        .larder(["stash", "--dry-run", "Larder/tree"])
        .ok()
        .says("Would stash");
    assert_eq!(laptop.entry("Larder/tree/large")["presence"], "here");
    laptop.larder(["stash", "Larder/tree"]).ok().says("Stashed");
    let large = laptop.entry("Larder/tree/large");
    assert_eq!(
        (&large["presence"], &large["bytes_here"]),
        (&"away".into(), &0.into())
    );
    assert_eq!(
        (&large["size_bytes"], &large["stores"]),
        (&(3 << 20).into(), &1.into())
    );
    laptop
        .larder(["ls", "-l", "Larder/tree"])
        .ok()
        .says("away")
        .says("3145728");
    laptop
        .larder(["checkout", "Larder/tree/large"])
        .ok()
        .says("Brought 1 file, ");
    laptop
        .larder(["checkout", "Larder/tree/large"])
        .ok()
        .says("All is here already.");
    assert_eq!(laptop.entry("Larder/tree/large")["presence"], "here");
    assert_eq!(laptop.entry("Larder/tree/docs/text")["presence"], "away");
    assert_eq!(picture(&tree), before);
}

#[test]
fn what_is_dirty_or_pinned_is_kept_and_said_to_be() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let file = laptop.mount_point().join("file");
    fs::write(&file, "stored").unwrap();
    laptop.larder(["commit"]).ok();
    laptop
        .larder(["pin", "Larder/file"])
        .ok()
        .says("Pinned 1 path");
    assert_eq!(laptop.entry("Larder/file")["pinned"], true);
    laptop
        .larder(["stash", "Larder"])
        .ended(3)
        .says("Kept 1 file")
        .says("file:");
    assert_eq!(laptop.entry("Larder/file")["presence"], "here");
    laptop.larder(["unpin", "Larder/file"]).ok();
    laptop.larder(["stash", "Larder"]).ok();
    assert_eq!(laptop.entry("Larder/file")["presence"], "away");
    let recent = ["stash", "Larder", "--older-than", "1h"];
    assert_eq!(fs::read_to_string(&file).unwrap(), "stored");
    // Who reads is answered first.
    wait_for("what was read is here", || {
        laptop.entry("Larder/file")["presence"] == "here"
    });
    laptop.larder(recent).ended(3).says("file:");
}

#[test]
fn an_adopted_directory_is_in_the_volume_and_nowhere_else() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let photos = laptop.path("Photos");
    make_tree(&photos);
    let before = picture(&photos);
    let inode = |path: &std::path::Path| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path).unwrap().ino()
    };
    let old_inode = inode(&photos.join("large"));
    laptop
        .larder(["adopt", "Photos"])
        .ok()
        .says("Adopted Photos as Photos");
    assert!(!photos.exists());
    assert_eq!(picture(&laptop.mount_point().join("Photos")), before);
    let cached = fs::read_dir(laptop.state_dir().join("cache")).unwrap();
    let moved = walk(cached).any(|path| inode(&path) == old_inode);
    assert!(moved, "the content was copied, not moved");
    fs::create_dir(laptop.path("More")).unwrap();
    fs::write(laptop.path("More/a"), "a").unwrap();
    laptop
        .larder(["adopt", "More", "--to", "Larder/Photos/docs/More"])
        .ok();
    let text = fs::read_to_string(laptop.mount_point().join("Photos/docs/More/a")).unwrap();
    assert_eq!(text, "a");
    laptop.larder(["adopt", "Larder/Photos"]).ended(2);
}

fn walk(dir: fs::ReadDir) -> Box<dyn Iterator<Item = std::path::PathBuf>> {
    Box::new(dir.flatten().flat_map(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => walk(fs::read_dir(path).unwrap()),
            false => Box::new(std::iter::once(path)),
        }
    }))
}

#[test]
fn commits_are_listed_newest_first_with_their_messages() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    for message in ["first", "second"] {
        fs::write(laptop.mount_point().join("file"), message).unwrap();
        laptop.larder(["commit", "-m", message]).ok();
    }
    let log = laptop.larder(["log", "--json"]).ok().json();
    let messages: Vec<_> = log
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|commit| commit["message"].as_str())
        .collect();
    assert_eq!(messages, ["second", "first"]);
    let newest = laptop.larder(["log", "-n", "1", "--json"]).ok().json();
    assert_eq!(newest.as_array().unwrap().len(), 1);
}

#[test]
fn the_past_is_listed_compared_and_brought_back_on_a_mount() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let at = |path: &str| laptop.mount_point().join(path);
    let number = |said: Said| said.ok().json()["n"].as_u64().unwrap().to_string();
    fs::create_dir(at("photos")).unwrap();
    fs::write(at("photos/cat"), "a cat").unwrap();
    fs::write(at("photos/dog"), "a dog").unwrap();
    let first = number(laptop.larder(["commit", "-m", "pets", "--json"]));
    fs::write(at("photos/cat"), "a cat that was painted over").unwrap();
    fs::rename(at("photos/dog"), at("photos/hound")).unwrap();
    fs::write(at("draft"), "not yet").unwrap();
    let only = ["commit", "-m", "only photos", "Larder/photos", "--json"];
    let photos = number(laptop.larder(only));
    let said = laptop.larder(["show", &photos]).ok();
    let said = said.says("photos/hound (was photos/dog)");
    assert!(!said.out.contains("draft"), "{said:#?}");
    let second = number(laptop.larder(["commit", "-m", "art", "--json"]));

    laptop.larder(["show", &second]).ok().says("art");
    laptop
        .larder(["tag", &first, "before art"])
        .ok()
        .says("is named before art now");
    laptop
        .larder([
            "diff",
            "before art",
            "latest",
            "--path",
            "Larder/photos/cat",
        ])
        .ok()
        .says("changed")
        .says("photos/cat");
    laptop
        .larder(["log", "Larder/photos/hound"])
        .ok()
        .says("moved photos/hound (was photos/dog)")
        .says("added photos/dog");

    // A program that has the painted one open keeps it; the next one opens the cat.
    let open = fs::File::open(at("photos/cat")).unwrap();
    laptop
        .larder(["restore", "Larder/photos/cat", "--at", &first])
        .ok()
        .says("Brought back 1 file as in commit");
    assert_eq!(fs::read_to_string(at("photos/cat")).unwrap(), "a cat");
    let painted = std::io::read_to_string(open).unwrap();
    assert_eq!(painted, "a cat that was painted over");
    laptop
        .larder([
            "restore",
            "Larder/photos",
            "--at",
            "0d",
            "--to",
            "Larder/copy",
        ])
        .ok();
    assert_eq!(fs::read_to_string(at("copy/hound")).unwrap(), "a dog");

    fs::remove_dir_all(at("photos")).unwrap();
    laptop
        .larder(["undelete", "Larder/photos"])
        .ok()
        .says("2 files and 1 directory");
    assert_eq!(fs::read_to_string(at("photos/cat")).unwrap(), "a cat");
    assert_eq!(fs::read_to_string(at("photos/hound")).unwrap(), "a dog");
    laptop.larder(["commit"]).ok();
    laptop.unmount();

    // Another machine has the same past, whose content it fetches.
    let desktop = Machine::new();
    desktop
        .open(&shelf, ["--passphrase-file", "passphrase"])
        .ok();
    desktop.mount();
    desktop.larder(["log"]).ok().says("pets").says("art");
    desktop.larder(["sync"]).ok();
    desktop.larder(["log"]).ok().says("[before art] pets");
    desktop.larder(["tag"]).ok().says("before art");
    let was = desktop.mount_point().join(".larder/history/before art");
    let cat = fs::read_to_string(was.join("photos/cat")).unwrap();
    assert_eq!(cat, "a cat");
    desktop.larder(["show", "before art"]).ok().says("pets");
    desktop
        .larder(["tag", "--delete", "before art"])
        .ok()
        .says("is not named before art any more");
    desktop.larder(["sync"]).ok();
    assert_eq!(desktop.larder(["tag"]).ok().out, "");
    assert!(!was.exists());
    desktop
        .larder(["log", "Larder/photos/cat"])
        .ok()
        .says("changed photos/cat")
        .says("added photos/cat");
    let id = desktop.larder(["log", "--json"]).ok().json();
    let art = id.as_array().unwrap().iter();
    let art = art
        .clone()
        .find(|commit| commit["message"] == "art")
        .unwrap();
    let id = art["id"].as_str().unwrap();
    desktop
        .larder(["restore", "Larder/photos/cat", "--at", &id[..12]])
        .ok();
    let there = desktop.mount_point().join("photos/cat");
    assert_eq!(
        fs::read_to_string(there).unwrap(),
        "a cat that was painted over"
    );
    for wrong in [
        &["restore", "Larder/photos/cat", "--at", "never"][..],
        &["restore", "Larder/photos/cow", "--at", "latest"],
        &["undelete", "Larder/photos/cat"],
        &["show", "77777"],
        &["show", "before art"],
        &["tag", "latest", "3d"],
        &["tag", "latest"],
        &["commit", "Larder/photos/cow"],
    ] {
        assert_ne!(desktop.larder(wrong).code, Some(0), "{wrong:?}");
    }
}

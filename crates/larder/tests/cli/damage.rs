//! Stores that rot, and stores that are away: found, said, and never served.

use std::fs;

use crate::machine::{Machine, Shelf, noise};

#[test]
fn a_flipped_byte_on_the_store_is_found_and_never_served() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let file = laptop.mount_point().join("file");
    fs::write(&file, noise(9, 1 << 20)).unwrap();
    laptop.larder(["commit"]).ok();
    laptop.larder(["verify", "--stores"]).ok();
    laptop.larder(["stash", "Larder/file"]).ok();
    for pack in shelf.objects("/packs/") {
        let mut bytes = fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&pack, bytes).unwrap();
    }
    let verified = laptop
        .larder(["verify", "--stores", "--json"])
        .ended(3)
        .json();
    assert_ne!(
        verified["damaged"].as_array().unwrap().len(),
        0,
        "{verified:#}"
    );
    laptop
        .larder(["verify", "--stores"])
        .ended(3)
        .says("Damaged:");
    let read = fs::read(&file);
    assert!(read.is_err(), "read {} bytes", read.unwrap().len());
}

#[test]
fn a_missing_object_is_found() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    fs::write(laptop.mount_point().join("file"), noise(9, 1 << 20)).unwrap();
    laptop.larder(["commit"]).ok();
    shelf
        .objects("/packs/")
        .iter()
        .for_each(|pack| fs::remove_file(pack).unwrap());
    let verified = laptop
        .larder(["verify", "--stores", "--json"])
        .ended(3)
        .json();
    assert_ne!(
        verified["missing"].as_array().unwrap().len(),
        0,
        "{verified:#}"
    );
}

#[test]
fn content_that_rotted_here_is_found() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    fs::write(laptop.mount_point().join("file"), noise(9, 1 << 20)).unwrap();
    laptop.larder(["commit"]).ok();
    laptop.unmount();
    let rotten = files_in(&laptop.state_dir().join("cache"));
    assert_ne!(rotten.len(), 0);
    for path in rotten {
        let times = fs::metadata(&path).unwrap().modified().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        if bytes.is_empty() {
            continue;
        }
        bytes[0] ^= 1;
        fs::write(&path, bytes).unwrap();
        // Rot does not touch times.
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(times).unwrap();
    }
    let verified = laptop.larder(["verify", "Larder/file"]).ended(3);
    verified.says("file");
}

fn files_in(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files_in(&path)),
            false => found.push(path),
        }
    }
    found
}

#[test]
fn a_store_that_is_away_has_an_exit_code_of_its_own_and_shows_in_the_status() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.larder(["store", "check"]).ok().says("put");
    laptop.mount();
    fs::write(laptop.mount_point().join("file"), noise(9, 1 << 20)).unwrap();
    laptop.larder(["commit"]).ok();
    laptop.larder(["stash", "Larder"]).ok();
    let elsewhere = laptop.path("elsewhere");
    fs::rename(shelf.path(), &elsewhere).unwrap();
    laptop.larder(["store", "check"]).ended(4);
    laptop.larder(["checkout", "Larder/file"]).ended(4);
    assert!(fs::read(laptop.mount_point().join("file")).is_err());
    assert_eq!(laptop.status()["stores"][0]["reachable"], false);
    laptop.larder(["status"]).ok().says("not reachable");
    // The tree is all there without it, and can be changed.
    assert_eq!(
        fs::metadata(laptop.mount_point().join("file"))
            .unwrap()
            .len(),
        1 << 20
    );
    fs::rename(
        laptop.mount_point().join("file"),
        laptop.mount_point().join("moved"),
    )
    .unwrap();
    fs::rename(&elsewhere, shelf.path()).unwrap();
    crate::machine::wait_for("the store to be found again", || {
        laptop.larder(["checkout", "Larder/moved"]).code == Some(0)
    });
    let bytes = fs::read(laptop.mount_point().join("moved")).unwrap();
    assert_eq!(bytes, noise(9, 1 << 20));
}

//! Changes that do not come through the kernel are told to it.

use std::fs;

use larder_volume::ROOT;

use crate::fixture::{Fixture, errno};
use crate::in_each_profile;

in_each_profile!(
    what_is_adopted_is_found_and_listed,
    what_is_adopted_into_a_known_directory_is_found_and_listed,
);

fn listed(at: &Fixture, dir: &str) -> Vec<String> {
    let entries = fs::read_dir(at.path(dir)).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn what_is_adopted_is_found_and_listed(at: &Fixture) {
    fs::write(at.path("old"), "").unwrap();
    assert_eq!(listed(at, ""), ["old"]);
    assert_eq!(errno(fs::metadata(at.path("photos"))), libc::ENOENT);
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("one"), "first").unwrap();
    at.volume()
        .adopt(source.path(), ROOT, b"photos", &|_| ())
        .unwrap();
    at.eventually("it is found", || fs::metadata(at.path("photos")).is_ok());
    at.eventually("it is listed", || listed(at, "") == ["old", "photos"]);
    assert_eq!(fs::read(at.path("photos/one")).unwrap(), b"first");
}

fn what_is_adopted_into_a_known_directory_is_found_and_listed(at: &Fixture) {
    fs::create_dir(at.path("photos")).unwrap();
    assert_eq!(listed(at, "photos"), [""; 0]);
    assert_eq!(errno(fs::metadata(at.path("photos/one"))), libc::ENOENT);
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("one"), "first").unwrap();
    at.volume()
        .adopt(source.path(), ROOT, b"photos", &|_| ())
        .unwrap();
    at.eventually("it is found", || {
        fs::metadata(at.path("photos/one")).is_ok()
    });
    at.eventually("it is listed", || listed(at, "photos") == ["one"]);
}

//! The window `.larder/` at the root of each mount.

use std::fs;

use crate::fixture::{Fixture, errno};
use crate::in_each_profile;

in_each_profile!(
    the_status_is_read_and_stays_true,
    the_window_stands_in_no_listing,
    nobody_changes_the_window,
    a_window_elsewhere_is_a_name_like_any_other,
);

fn the_status_is_read_and_stays_true(at: &Fixture) {
    let read = || fs::read_to_string(at.path(".larder/status")).unwrap();
    let first = read();
    assert!(first.contains(&at.volume().id().to_string()), "{first}");
    assert_eq!(
        fs::metadata(at.path(".larder/status")).unwrap().len() as usize,
        read().len()
    );
    fs::write(at.path("new"), vec![7; 123_457]).unwrap();
    fs::File::open(at.path("new")).unwrap().sync_all().unwrap();
    at.eventually("the status shows what is dirty", || read() != first);
    let listed: Vec<_> = fs::read_dir(at.path(".larder"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(listed, ["status"]);
    assert!(at.sh("ls -la .larder/").contains("status"));
    assert_eq!(errno(fs::metadata(at.path(".larder/other"))), libc::ENOENT);
}

fn the_window_stands_in_no_listing(at: &Fixture) {
    assert!(fs::metadata(at.path(".larder")).unwrap().is_dir());
    assert_eq!(fs::read_dir(at.root()).unwrap().count(), 0);
    assert_eq!(at.sh("ls -A"), "");
}

fn nobody_changes_the_window(at: &Fixture) {
    let (window, status) = (at.path(".larder"), at.path(".larder/status"));
    fs::write(at.path("file"), "").unwrap();
    fs::create_dir(at.path("dir")).unwrap();
    assert_eq!(errno(fs::create_dir(&window)), libc::EEXIST);
    assert_eq!(errno(fs::remove_dir(&window)), libc::EPERM);
    assert_eq!(errno(fs::rename(&window, at.path("moved"))), libc::EPERM);
    assert_eq!(errno(fs::rename(at.path("dir"), &window)), libc::EPERM);
    assert_eq!(errno(fs::write(at.path(".larder/new"), "")), libc::EPERM);
    assert_eq!(errno(fs::create_dir(at.path(".larder/new"))), libc::EPERM);
    assert_eq!(
        errno(fs::hard_link(at.path("file"), at.path(".larder/new"))),
        libc::EPERM
    );
    assert_eq!(errno(fs::hard_link(&status, at.path("taken"))), libc::EPERM);
    assert_eq!(errno(fs::write(&status, "lies")), libc::EPERM);
    assert_eq!(errno(fs::remove_file(&status)), libc::EPERM);
}

fn a_window_elsewhere_is_a_name_like_any_other(at: &Fixture) {
    fs::create_dir_all(at.path("dir/.larder")).unwrap();
    fs::write(at.path("dir/.larder/status"), "mine").unwrap();
    assert_eq!(fs::read(at.path("dir/.larder/status")).unwrap(), b"mine");
    fs::remove_dir_all(at.path("dir")).unwrap();
}

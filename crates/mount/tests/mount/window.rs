//! The window `.larder/` at the root of each mount.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_volume::history::Which;
use rustix::fs::{XattrFlags, getxattr, setxattr};

use crate::fixture::{Fixture, errno, pattern};
use crate::in_each_profile;

in_each_profile!(
    the_status_is_read_and_stays_true,
    the_window_stands_in_no_listing,
    nobody_changes_the_window,
    a_window_elsewhere_is_a_name_like_any_other,
    what_was_is_read_as_files,
    moments_are_listed_and_found_by_time_number_and_id,
    nobody_changes_what_was,
    what_was_is_for_whom_the_root_belongs_to,
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
    assert_eq!(listed, ["status", "history"]);
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

/// Commits, and answers the commit's number and id.
fn commit(at: &Fixture) -> (u64, String) {
    at.commit();
    let moment = at.volume().moment(&Which::Latest).unwrap();
    (moment.commit.n, moment.id.to_string())
}

/// A tree of which most is changed after the commit that is answered.
fn changed_since(at: &Fixture) -> PathBuf {
    at.volume().run();
    let old = pattern(3_000_000);
    fs::create_dir_all(at.path("dir/deep")).unwrap();
    fs::write(at.path("dir/large"), &old).unwrap();
    fs::write(at.path("dir/deep/small"), "as it was").unwrap();
    symlink("large", at.path("dir/link")).unwrap();
    at.sh("truncate -s 5M holes");
    at.sh("chmod 640 dir/large; touch -d 2001-02-03T04:05:06Z dir/large; ln dir/large other");
    let flags = XattrFlags::empty();
    setxattr(at.path("dir/large"), "user.colour", b"red", flags).unwrap();
    let (n, _) = commit(at);
    fs::write(at.path("dir/large"), "new").unwrap();
    fs::remove_dir_all(at.path("dir/deep")).unwrap();
    fs::remove_file(at.path("dir/link")).unwrap();
    at.send_away(&at.path("dir/large"));
    at.path(format!(".larder/history/{n}"))
}

fn what_was_is_read_as_files(at: &Fixture) {
    let was = changed_since(at);
    let old = pattern(3_000_000);
    assert_eq!(fs::read(was.join("dir/large")).unwrap(), old);
    assert_eq!(fs::read(was.join("other")).unwrap(), old);
    assert_eq!(fs::read(was.join("dir/deep/small")).unwrap(), b"as it was");
    assert_eq!(
        fs::read_link(was.join("dir/link")).unwrap(),
        Path::new("large")
    );
    assert_eq!(fs::read(was.join("dir/link")).unwrap(), old);
    let meta = fs::metadata(was.join("dir/large")).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o640, 2));
    assert_eq!((meta.len(), meta.mtime()), (3_000_000, 981_173_106));
    assert_eq!(fs::metadata(was.join("other")).unwrap().ino(), meta.ino());
    assert_eq!(fs::read(at.path("dir/large")).unwrap(), b"new");
    let listed = at.sh(&format!("cd {} && find . | sort", was.display()));
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        [
            ".",
            "./dir",
            "./dir/deep",
            "./dir/deep/small",
            "./dir/large",
            "./dir/link",
            "./holes",
            "./other"
        ]
    );
    at.sh(&format!("cp -a {}/dir back", was.display()));
    at.sh(&format!("cp --sparse=always {}/holes back/", was.display()));
    assert_eq!(fs::metadata(at.path("back/holes")).unwrap().len(), 5 << 20);
    assert_eq!(fs::read(at.path("back/large")).unwrap(), old);
    let mut value = [0; 8];
    let len = getxattr(was.join("other"), "user.colour", &mut value).unwrap();
    assert_eq!(&value[..len], b"red");
    assert_eq!(errno(fs::metadata(was.join("dir/new"))), libc::ENOENT);
}

fn moments_are_listed_and_found_by_time_number_and_id(at: &Fixture) {
    at.volume().run();
    let names = || {
        let listed = fs::read_dir(at.path(".larder/history")).unwrap();
        let names = listed.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    fs::write(at.path("file"), "first").unwrap();
    let (n, id) = commit(at);
    let first = names();
    // The next one has another second.
    std::thread::sleep(Duration::from_millis(1100));
    fs::write(at.path("file"), "second").unwrap();
    commit(at);
    let both = names();
    assert_eq!(both.len(), first.len() + 1, "{first:?} {both:?}");
    assert_eq!(both[1..], first);
    let read = |moment: &str| {
        let path = at.path(".larder/history").join(moment).join("file");
        fs::read_to_string(path)
    };
    let number = n.to_string();
    for moment in [&*first[0], &number, &id, &id[..8]] {
        assert_eq!(read(moment).ok().as_deref(), Some("first"), "{moment}");
    }
    for moment in [&*both[0], "latest", "2199-01-01", "2199-01-01T10:00"] {
        assert_eq!(read(moment).ok().as_deref(), Some("second"), "{moment}");
    }
    for moment in ["1999-01-01", "123456", "yesterday", "\u{fffd}"] {
        assert_eq!(errno(read(moment)), libc::ENOENT, "{moment}");
    }
    assert!(at.sh("ls -l .larder/history").contains(&first[0]));
    // Two names of one moment are two directories to the kernel.
    let said = at.sh(&format!(
        "cd .larder/history/{n} && /bin/pwd && ls ../{id} > /dev/null && /bin/pwd"
    ));
    assert_eq!(said.lines().next(), said.lines().last());
    // A name that led nowhere may lead somewhere later.
    let next = (at.volume().moment(&Which::Latest).unwrap().commit.n + 1).to_string();
    assert_eq!(errno(read(&next)), libc::ENOENT);
    fs::write(at.path("file"), "third").unwrap();
    commit(at);
    assert_eq!(read(&next).unwrap(), "third");
    assert_eq!(read("latest").unwrap(), "third");
}

fn nobody_changes_what_was(at: &Fixture) {
    let was = changed_since(at);
    let file = was.join("dir/large");
    fs::write(at.path("mine"), "").unwrap();
    assert_eq!(errno(fs::write(&file, "lies")), libc::EPERM);
    assert_eq!(errno(fs::write(was.join("new"), "")), libc::EPERM);
    assert_eq!(errno(fs::create_dir(was.join("dir/new"))), libc::EPERM);
    assert_eq!(errno(fs::remove_file(&file)), libc::EPERM);
    assert_eq!(errno(fs::remove_dir(&was)), libc::EPERM);
    assert_eq!(errno(fs::rename(&file, at.path("taken"))), libc::EPERM);
    assert_eq!(errno(fs::rename(at.path("mine"), &file)), libc::EPERM);
    assert_eq!(errno(fs::hard_link(&file, at.path("taken"))), libc::EPERM);
    let mode = fs::Permissions::from_mode(0o777);
    assert_eq!(errno(fs::set_permissions(&file, mode)), libc::EPERM);
    assert_eq!(fs::read(&file).unwrap(), pattern(3_000_000));
}

/// What a user may not see today may have been there for all to see once.
fn what_was_is_for_whom_the_root_belongs_to(at: &Fixture) {
    let was = changed_since(at);
    let file = was.join("dir/deep/small");
    assert_eq!(fs::read(&file).unwrap(), b"as it was");
    assert!(!at.runs_as_nobody(&format!("cat {}", file.display())));
    assert!(!at.runs_as_nobody("ls .larder/history"));
    assert!(at.runs_as_nobody("cat .larder/status"));
}

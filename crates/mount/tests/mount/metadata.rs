//! Attributes: modes, owners, times, extended attributes, and room on the disk.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::fixture::Fixture;
use crate::in_each_profile;

in_each_profile!(
    times_have_nanoseconds_before_1970_too,
    changes_move_the_times_they_must,
    writers_without_the_right_drop_set_id_bits,
    a_new_owner_drops_set_id_bits,
    others_are_held_off_by_the_mode,
    extended_attributes_are_kept,
    a_label_that_a_file_lacks_is_no_label_anywhere,
    access_lists_are_refused_not_ignored,
    there_is_room_and_a_longest_name,
    programs_are_told_to_use_large_pieces,
);

fn times_have_nanoseconds_before_1970_too(at: &Fixture) {
    let path = at.path("file");
    fs::write(&path, "").unwrap();
    let set = |secs, nanos| {
        let time = Timespec {
            tv_sec: secs,
            tv_nsec: nanos,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (secs, nanos));
        assert_eq!((meta.atime(), meta.atime_nsec()), (secs, nanos));
        at.look_again(&path);
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (secs, nanos),
            "asked again"
        );
    };
    for (secs, nanos) in [
        (1_700_000_000, 123_456_789),
        (0, 0),
        (-1, 500_000_000),
        (5_000_000_000, 1),
    ] {
        set(secs, nanos);
    }
}

fn changes_move_the_times_they_must(at: &Fixture) {
    let (dir, file) = (at.path("dir"), at.path("dir/file"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "x").unwrap();
    let meta = |path| {
        let meta = fs::metadata(path).unwrap();
        let (m, c) = (meta.modified().unwrap(), (meta.ctime(), meta.ctime_nsec()));
        (m, c)
    };
    let wait = || std::thread::sleep(std::time::Duration::from_millis(20));
    let (before, parent_before) = (meta(&file), meta(&dir));
    wait();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let after_mode = meta(&file);
    assert!(
        after_mode.0 == before.0 && after_mode.1 > before.1,
        "chmod moves ctime only"
    );
    wait();
    fs::write(&file, "longer").unwrap();
    let after_write = meta(&file);
    assert!(
        after_write.0 > after_mode.0 && after_write.1 > after_mode.1,
        "a write moves both"
    );
    assert_eq!(
        meta(&dir),
        parent_before,
        "a directory does not care what its files hold"
    );
    wait();
    fs::hard_link(&file, dir.join("link")).unwrap();
    assert!(meta(&file).1 > after_write.1, "a link moves ctime");
    assert!(
        meta(&dir).0 > parent_before.0,
        "a new name moves the directory's mtime"
    );
    let parent_linked = meta(&dir);
    wait();
    fs::remove_file(&file).unwrap();
    assert!(meta(&dir).0 > parent_linked.0, "a name that goes does too");
}

/// A file of root's with this mode, that anyone may write.
fn set_id_file(at: &Fixture, mode: u32) -> std::path::PathBuf {
    let path = at.path("program");
    let _ = fs::remove_file(&path);
    fs::write(&path, "content").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn writers_without_the_right_drop_set_id_bits(at: &Fixture) {
    for script in [
        "echo x >> program",
        "echo x > program",
        "truncate -s 3 program",
        "fallocate -l 99 program",
    ] {
        let path = set_id_file(at, 0o6777);
        at.sh_as_nobody(script);
        assert_eq!(mode(&path), 0o777, "{script}");
        at.look_again(&path);
        assert_eq!(mode(&path), 0o777, "{script}, asked again");
        assert_eq!(
            at.volume()
                .attr(fs::metadata(&path).unwrap().ino())
                .unwrap()
                .mode,
            0o777
        );
    }
    let path = set_id_file(at, 0o6777);
    at.sh("echo x >> program");
    assert_eq!(mode(&path), 0o6777, "root keeps them");
}

fn a_new_owner_drops_set_id_bits(at: &Fixture) {
    let path = set_id_file(at, 0o6755);
    chown(&path, Some(1000), Some(1000)).unwrap();
    assert_eq!(mode(&path), 0o755);
    let path = set_id_file(at, 0o6745);
    chown(&path, Some(1000), None).unwrap();
    assert_eq!(mode(&path), 0o2745);
    at.sh("mkfifo pipe && chmod 5717 pipe");
    chown(at.path("pipe"), Some(0), Some(0)).unwrap();
    assert_eq!(mode(&at.path("pipe")), 0o1717, "and of what is no file");
    fs::create_dir(at.path("dir")).unwrap();
    fs::set_permissions(at.path("dir"), fs::Permissions::from_mode(0o2755)).unwrap();
    chown(at.path("dir"), Some(1000), None).unwrap();
    assert_eq!(
        mode(&at.path("dir")),
        0o2755,
        "a directory's mean something else"
    );
}

fn others_are_held_off_by_the_mode(at: &Fixture) {
    fs::write(at.path("secret"), "").unwrap();
    fs::set_permissions(at.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!at.runs_as_nobody("cat secret"));
    fs::create_dir(at.path("sticky")).unwrap();
    fs::set_permissions(at.path("sticky"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(at.path("sticky/file"), "").unwrap();
    assert!(!at.runs_as_nobody("rm -f sticky/file"));
    assert!(at.runs_as_nobody("touch sticky/own && rm sticky/own"));
}

fn extended_attributes_are_kept(at: &Fixture) {
    let path = at.path("file");
    fs::write(&path, "").unwrap();
    let set = |name, value: &[u8], flags| rustix::fs::setxattr(&path, name, value, flags);
    let large = vec![7; 60_000];
    set("user.a", b"1", XattrFlags::CREATE).unwrap();
    assert_eq!(set("user.a", b"2", XattrFlags::CREATE), Err(Errno::EXIST));
    assert_eq!(set("user.b", b"2", XattrFlags::REPLACE), Err(Errno::NODATA));
    set("user.a", b"", XattrFlags::REPLACE).unwrap();
    set("user.large", &large, XattrFlags::empty()).unwrap();
    set("trusted.t", b"root's", XattrFlags::empty()).unwrap();
    let mut value = vec![0; 65_536];
    assert_eq!(rustix::fs::getxattr(&path, "user.a", &mut value), Ok(0));
    assert_eq!(
        rustix::fs::getxattr(&path, "user.large", &mut value),
        Ok(60_000)
    );
    assert!(value[..60_000] == large);
    assert_eq!(rustix::fs::getxattr_query(&path, "user.large"), Ok(60_000));
    assert_eq!(
        rustix::fs::getxattr(&path, "user.large", &mut [0; 10][..]),
        Err(Errno::RANGE)
    );
    assert_eq!(
        rustix::fs::getxattr(&path, "user.none", &mut value),
        Err(Errno::NODATA)
    );
    let len = rustix::fs::listxattr(&path, &mut value).unwrap();
    let mut names: Vec<_> = value[..len]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    assert_eq!(names, [&b"trusted.t"[..], b"user.a", b"user.large"]);
    assert_eq!(
        rustix::fs::listxattr(&path, &mut [0; 3][..]),
        Err(Errno::RANGE)
    );
    rustix::fs::removexattr(&path, "user.large").unwrap();
    assert_eq!(
        rustix::fs::removexattr(&path, "user.large"),
        Err(Errno::NODATA)
    );
}

/// `ls -l` would ask for it file by file, which took longer than all else.
fn a_label_that_a_file_lacks_is_no_label_anywhere(at: &Fixture) {
    let path = at.path("file");
    fs::write(&path, "").unwrap();
    let label = || rustix::fs::getxattr(&path, "security.selinux", &mut [0; 10][..]);
    assert_eq!(label(), Err(Errno::OPNOTSUPP));
    let set = |name| rustix::fs::setxattr(&path, name, b"a:b", XattrFlags::empty());
    set("security.selinux").unwrap();
    assert_eq!(label(), Ok(3));
}

fn access_lists_are_refused_not_ignored(at: &Fixture) {
    let path = at.path("file");
    fs::write(&path, "").unwrap();
    // Version 2; one entry each for owner, group and others.
    let list = [
        &[2, 0, 0, 0][..],
        &[1, 0, 7, 0, 255, 255, 255, 255],
        &[4, 0, 5, 0, 255, 255, 255, 255],
        &[32, 0, 5, 0, 255, 255, 255, 255],
    ]
    .concat();
    let set = rustix::fs::setxattr(&path, "system.posix_acl_access", &list, XattrFlags::empty());
    assert_eq!(set, Err(Errno::OPNOTSUPP));
}

fn there_is_room_and_a_longest_name(at: &Fixture) {
    let stat = rustix::fs::statvfs(at.root()).unwrap();
    assert_eq!(stat.f_namemax, 255);
    assert!(stat.f_blocks >= stat.f_bfree && stat.f_bfree >= stat.f_bavail && stat.f_bavail > 0);
    assert!(stat.f_files >= stat.f_ffree && stat.f_frsize >= 512);
}

fn programs_are_told_to_use_large_pieces(at: &Fixture) {
    let file = File::create(at.path("file")).unwrap();
    assert_eq!(file.metadata().unwrap().blksize(), 128 << 10);
}

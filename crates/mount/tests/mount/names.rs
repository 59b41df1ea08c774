//! Names: links, renames, listings, and nodes that are no files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::{CWD, FileType, Mode, RenameFlags};

use crate::fixture::{Fixture, errno};
use crate::in_each_profile;

in_each_profile!(
    a_name_may_have_255_bytes_of_any_kind,
    a_name_that_was_missed_is_found_once_it_is_there,
    a_directory_is_empty_before_it_goes,
    hard_links_are_one_file,
    a_rename_replaces_refuses_or_exchanges,
    a_directory_moves_with_all_below_it,
    symlinks_lead_where_they_were_told,
    fifos_sockets_and_devices_work_as_such,
    a_directory_is_listed_whole_while_entries_go,
    listings_show_what_changed_since,
    a_set_group_id_directory_hands_its_group_on,
    the_umask_is_heeded,
);

fn a_name_may_have_255_bytes_of_any_kind(at: &Fixture) {
    let longest = at.path(OsStr::from_bytes(&[0xff; 255]));
    fs::write(&longest, "x").unwrap();
    let listed: Vec<_> = fs::read_dir(at.root())
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    assert_eq!(listed, [longest.as_path()]);
    let too_long = at.path("n".repeat(256));
    assert_eq!(errno(fs::metadata(&too_long)), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::write(&too_long, "")), libc::ENAMETOOLONG);
    assert_eq!(errno(fs::rename(&longest, &too_long)), libc::ENAMETOOLONG);
}

fn a_name_that_was_missed_is_found_once_it_is_there(at: &Fixture) {
    let file = at.path("late");
    assert_eq!(errno(fs::metadata(&file)), libc::ENOENT);
    fs::write(&file, "here").unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"here");
    fs::remove_file(&file).unwrap();
    assert_eq!(errno(fs::metadata(&file)), libc::ENOENT);
    fs::create_dir(&file).unwrap();
    assert!(fs::metadata(&file).unwrap().is_dir());
}

fn a_directory_is_empty_before_it_goes(at: &Fixture) {
    let (dir, file) = (at.path("d"), at.path("d/f"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, "").unwrap();
    assert_eq!(errno(fs::remove_dir(&dir)), libc::ENOTEMPTY);
    assert_eq!(errno(fs::remove_file(&dir)), libc::EISDIR);
    assert_eq!(errno(fs::remove_dir(&file)), libc::ENOTDIR);
    assert_eq!(fs::metadata(at.root()).unwrap().nlink(), 3);
    fs::remove_file(&file).unwrap();
    fs::remove_dir(&dir).unwrap();
    assert_eq!(fs::metadata(at.root()).unwrap().nlink(), 2);
}

fn hard_links_are_one_file(at: &Fixture) {
    let (one, other) = (at.path("one"), at.path("other"));
    fs::write(&one, "first").unwrap();
    fs::hard_link(&one, &other).unwrap();
    let (a, b) = (fs::metadata(&one).unwrap(), fs::metadata(&other).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    fs::write(&other, "second").unwrap();
    assert_eq!(fs::read(&one).unwrap(), b"second");
    fs::remove_file(&one).unwrap();
    assert_eq!(fs::metadata(&other).unwrap().nlink(), 1);
    assert_eq!(fs::read(&other).unwrap(), b"second");
    assert_eq!(errno(fs::hard_link(at.root(), at.path("l"))), libc::EPERM);
}

fn a_rename_replaces_refuses_or_exchanges(at: &Fixture) {
    let (a, b, dir) = (at.path("a"), at.path("b"), at.path("dir"));
    let rename = |from, to, flags| rustix::fs::renameat_with(CWD, from, CWD, to, flags);
    fs::write(&a, "A").unwrap();
    fs::write(&b, "B").unwrap();
    fs::create_dir(&dir).unwrap();
    assert_eq!(
        rename(&a, &b, RenameFlags::NOREPLACE),
        Err(rustix::io::Errno::EXIST)
    );
    rename(&a, &dir, RenameFlags::EXCHANGE).unwrap();
    assert!(a.is_dir() && dir.is_file());
    rename(&a, &dir, RenameFlags::EXCHANGE).unwrap();
    rename(&a, &b, RenameFlags::empty()).unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"A");
    assert_eq!(errno(fs::metadata(&a)), libc::ENOENT);
    rename(&b, &a, RenameFlags::NOREPLACE).unwrap();
    assert_eq!(fs::read(&a).unwrap(), b"A");
    assert_eq!(
        rename(&a, &b, RenameFlags::EXCHANGE),
        Err(rustix::io::Errno::NOENT)
    );
    assert_eq!(
        rename(&dir, &dir.join("in"), RenameFlags::empty()),
        Err(rustix::io::Errno::INVAL)
    );
}

fn a_directory_moves_with_all_below_it(at: &Fixture) {
    fs::create_dir_all(at.path("from/deep/er")).unwrap();
    fs::create_dir(at.path("to")).unwrap();
    fs::write(at.path("from/deep/er/file"), "kept").unwrap();
    fs::rename(at.path("from/deep"), at.path("to/deep")).unwrap();
    assert_eq!(fs::read(at.path("to/deep/er/file")).unwrap(), b"kept");
    assert_eq!(
        fs::read(at.path("to/deep/../deep/er/file")).unwrap(),
        b"kept"
    );
    assert_eq!(fs::metadata(at.path("from")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(at.path("to")).unwrap().nlink(), 3);
}

fn symlinks_lead_where_they_were_told(at: &Fixture) {
    let link = at.path("link");
    let long = "d/".repeat(2000);
    for target in ["file", "../nowhere", &long] {
        symlink(target, &link).unwrap();
        for _ in 0..2 {
            assert_eq!(fs::read_link(&link).unwrap().as_os_str(), target);
        }
        assert_eq!(
            fs::symlink_metadata(&link).unwrap().len(),
            target.len() as u64
        );
        fs::remove_file(&link).unwrap();
    }
}

fn fifos_sockets_and_devices_work_as_such(at: &Fixture) {
    let (fifo, socket, device) = (at.path("fifo"), at.path("socket"), at.path("null"));
    rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let writes = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, "through").unwrap()
    });
    assert_eq!(fs::read(&fifo).unwrap(), b"through");
    writes.join().unwrap();
    assert!(fs::metadata(&fifo).unwrap().file_type().is_fifo());

    let listens = UnixListener::bind(&socket).unwrap();
    let mut speaks = UnixStream::connect(&socket).unwrap();
    speaks.write_all(b"hello").unwrap();
    drop(speaks);
    let mut heard = String::new();
    listens
        .accept()
        .unwrap()
        .0
        .read_to_string(&mut heard)
        .unwrap();
    assert_eq!(heard, "hello");

    let number = rustix::fs::makedev(259, 70_000);
    for kind in [FileType::CharacterDevice, FileType::BlockDevice] {
        rustix::fs::mknodat(CWD, &device, kind, Mode::RUSR, number).unwrap();
        let meta = fs::metadata(&device).unwrap();
        assert_eq!(FileType::from_raw_mode(meta.mode()), kind);
        assert_eq!(meta.rdev(), number);
        fs::remove_file(&device).unwrap();
    }
}

fn a_directory_is_listed_whole_while_entries_go(at: &Fixture) {
    const ENTRIES: usize = 10_000;
    let dir = at.path("many");
    fs::create_dir(&dir).unwrap();
    for number in 0..ENTRIES {
        fs::write(dir.join(format!("{number:05}")), "").unwrap();
    }
    let mut listed = BTreeMap::new();
    for (count, entry) in fs::read_dir(&dir).unwrap().enumerate() {
        let entry = entry.unwrap();
        *listed.entry(entry.file_name()).or_insert(0) += 1;
        if count % 2 == 0 {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    assert_eq!(listed.len(), ENTRIES);
    assert!(listed.values().all(|&times| times == 1));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), ENTRIES / 2);
    fs::remove_dir_all(&dir).unwrap();
}

fn listings_show_what_changed_since(at: &Fixture) {
    let names = || {
        let mut names: Vec<_> = fs::read_dir(at.root())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(names(), "");
    fs::write(at.path("a"), "").unwrap();
    fs::write(at.path("b"), "").unwrap();
    assert_eq!((names(), names()), ("a b".into(), "a b".into()));
    fs::rename(at.path("a"), at.path("c")).unwrap();
    assert_eq!(names(), "b c");
    fs::remove_file(at.path("b")).unwrap();
    fs::hard_link(at.path("c"), at.path("d")).unwrap();
    assert_eq!(names(), "c d");
}

fn a_set_group_id_directory_hands_its_group_on(at: &Fixture) {
    let dir = at.path("shared");
    fs::create_dir(&dir).unwrap();
    std::os::unix::fs::chown(&dir, None, Some(1234)).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o2775)).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    symlink("x", dir.join("link")).unwrap();
    let meta = |name| fs::symlink_metadata(dir.join(name)).unwrap();
    for name in ["file", "sub", "link"] {
        assert_eq!(meta(name).gid(), 1234, "{name}");
    }
    assert_eq!(meta("sub").mode() & 0o2000, 0o2000);
    assert_eq!(meta("file").mode() & 0o2000, 0);
}

fn the_umask_is_heeded(at: &Fixture) {
    // The mask is the process's: it is set in a process of its own.
    let script = "umask 027; : > file; mkdir dir; mkfifo fifo";
    at.sh(script);
    let mode = |name| fs::metadata(at.path(name)).unwrap().mode() & 0o7777;
    assert_eq!(
        (mode("file"), mode("dir"), mode("fifo")),
        (0o640, 0o750, 0o640)
    );
}

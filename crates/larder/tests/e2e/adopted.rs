//! A directory that becomes part of the volume where it lies.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use larder_store::testing::noise;
use rustix::fs::{FileType, Mode, XattrFlags};

use crate::machine::{copy_tree, picture};
use crate::remote::{EAGER, Remote, run};

fn make_odd_tree(root: &Path) {
    fs::create_dir_all(root.join("sub/deep")).unwrap();
    for i in 0..700 {
        fs::write(root.join(format!("sub/f{i}")), noise(i, 700)).unwrap();
    }
    for i in 0..4 {
        fs::write(root.join(format!("big{i}")), noise(i, 5 << 20)).unwrap();
    }
    fs::hard_link(root.join("big0"), root.join("sub/hard")).unwrap();
    std::os::unix::fs::symlink("../big1", root.join("sub/sym")).unwrap();
    std::os::unix::fs::symlink("/nowhere at all", root.join("dangling")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("fifo"),
        FileType::Fifo,
        Mode::RUSR,
        0,
    )
    .unwrap();
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    fs::write(
        root.join(std::ffi::OsStr::from_bytes(b"\xff\xfe\nodd")),
        "odd",
    )
    .unwrap();
    fs::write(root.join("n".repeat(255)), "long").unwrap();
    fs::set_permissions(root.join("big3"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("sub"), fs::Permissions::from_mode(0o1777)).unwrap();
    rustix::fs::setxattr(
        root.join("big2"),
        "user.colour",
        b"blue",
        XattrFlags::empty(),
    )
    .unwrap();
    rustix::fs::setxattr(root.join("sub"), "user.d", b"\0\xff", XattrFlags::empty()).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    sparse.write_all_at(b"x", 50 << 20).unwrap();
    let old = UNIX_EPOCH + Duration::new(123_456_789, 987_654_321);
    for path in ["big1", "sub"] {
        File::open(root.join(path))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 100];
    let len = rustix::fs::getxattr(path, name, &mut value).unwrap();
    value.truncate(len);
    value
}

#[track_caller]
fn assert_xattrs(root: &Path) {
    assert_eq!(xattr(&root.join("big2"), "user.colour"), b"blue");
    assert_eq!(xattr(&root.join("sub"), "user.d"), b"\0\xff");
}

/// [`picture`] without the FIFO and the socket, which it would wait for, and those apart.
fn odd_picture(root: &Path) -> (Vec<(PathBuf, String)>, i64) {
    let kinds: Vec<_> = ["fifo", "socket"]
        .iter()
        .map(|name| fs::symlink_metadata(root.join(name)).unwrap().mode() & 0o170_000)
        .collect();
    assert_eq!(kinds, [0o010_000, 0o140_000]);
    let time = fs::metadata(root.join("sub")).unwrap();
    let aside = root.join("socket");
    let was = root.metadata().unwrap().modified().unwrap();
    fs::remove_file(aside).unwrap();
    File::open(root).unwrap().set_modified(was).unwrap();
    let painted = picture(root);
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap());
    (painted, time.mtime())
}

/// What the directory takes on the disk.
fn disk(dir: &Path) -> u64 {
    let said = run("du", ["-sk".as_ref(), dir.as_os_str()]);
    said.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn whatever_a_directory_holds_is_adopted_and_no_second_copy_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    let photos = laptop.path("Photos");
    make_odd_tree(&photos);
    let before = odd_picture(&photos);
    let (own, state) = (disk(&photos), disk(&laptop.path("home")));
    laptop.larder(["adopt", "Photos"]).ok();
    let after = disk(&laptop.path("home"));
    assert!(
        after < state + own + own / 4,
        "{own} KiB were adopted, {state} became {after}"
    );
    assert!(fs::symlink_metadata(&photos).is_err());
    laptop.mount();
    let there = laptop.mount_point().join("Photos");
    assert_eq!(odd_picture(&there), before);
    assert_xattrs(&there);
    laptop.larder(["commit"]).ok();
    laptop.larder(["stash", "Larder"]).ok();
    assert_eq!(odd_picture(&there), before);
    laptop.larder(["commit"]).ok();
    let desktop = remote.another_machine();
    let there = desktop.mount_point().join("Photos");
    assert_eq!(odd_picture(&there), before);
    assert_xattrs(&there);
    assert_eq!(fs::metadata(there.join("sparse")).unwrap().len(), 100 << 20);
}

/// Content by path, whatever became of links and of directories' times.
fn contents(root: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                left.push(path.clone());
            }
            let sum = match meta.is_file() {
                true => fs::read(&path)
                    .unwrap()
                    .iter()
                    .fold(meta.len(), |sum, byte| {
                        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
                    }),
                false => u64::from(meta.mode()),
            };
            found.push((path.strip_prefix(root).unwrap().to_owned(), sum));
        }
    }
    found.sort();
    found
}

#[test]
fn an_adoption_that_is_killed_is_finished_by_the_next_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    let original = laptop.path("original");
    make_odd_tree(&original);
    let before = contents(&original);
    laptop.mount();
    let mut cut = 0;
    for (round, delay_ms) in [10, 40, 80, 160, 320].into_iter().enumerate() {
        let name = format!("round {round}");
        copy_tree(&original, &laptop.path(&name));
        let mut adopting = laptop.command().args(["adopt", &name]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay_ms));
        laptop.kill_daemon();
        let ended = adopting.wait().unwrap();
        laptop.mount();
        if !ended.success() {
            cut += 1;
            // It may have been cut after its last step, before it could say so.
            if laptop.path(&name).exists() {
                laptop.larder(["adopt", &name]).ok();
            }
        }
        assert!(fs::symlink_metadata(laptop.path(&name)).is_err());
        let there = laptop.mount_point().join(&name);
        assert_eq!(contents(&there), before, "{name}");
        assert_xattrs(&there);
    }
    assert!(cut > 0, "no adoption was cut");
    laptop.larder(["commit"]).ok();
    laptop.larder(["verify", "--stores"]).ok();
}

//! The disk under the volume is full: writers are told, nothing is lost, and it passes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use larder_store::testing::{SmallDisk, noise};
use rustix::io::Errno;

use crate::machine::{Machine, picture};
use crate::remote::{EAGER, Remote, set_limits};

const DISK: u64 = 128 << 20;
const LIMITS: &str = "dirty-stall = \"10s\"\nread-wait = \"3s\"\nkeep-free = \"2M\"";

/// A machine whose state lies on a small disk. The disk goes after the machine.
struct Cramped {
    machine: Machine,
    profile: &'static str,
    _disk: SmallDisk,
}

impl Cramped {
    fn new(remote: &Remote, profile: &'static str) -> Option<Self> {
        let machine = Machine::new();
        let home = machine.path("home");
        fs::create_dir(&home).unwrap();
        let disk = SmallDisk::mount(&home, DISK)?;
        remote.init(&machine, "1G").ok();
        set_limits(&machine, &format!("{EAGER}\n{LIMITS}"));
        let cramped = Self {
            machine,
            profile,
            _disk: disk,
        };
        cramped.mount();
        Some(cramped)
    }

    #[track_caller]
    fn mount(&self) {
        let words = ["mount", "Larder", "--profile", self.profile];
        self.machine.larder(words).ok();
    }
}

/// Writes and syncs file after file until one cannot be; answers what was acknowledged, and
/// why it ended.
fn fill(root: &Path, from: u64) -> (BTreeMap<PathBuf, Vec<u8>>, Option<std::io::Error>) {
    let mut acknowledged = BTreeMap::new();
    for i in from..from + 100 {
        let path = root.join(format!("file {i}"));
        let bytes = noise(i, 3_000_000).to_vec();
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            // What is half there is taken away again, as cp and editors do.
            fs::remove_file(&path).unwrap();
            return (acknowledged, Some(error));
        }
        acknowledged.insert(path, bytes);
    }
    (acknowledged, None)
}

#[track_caller]
fn assert_all_there(acknowledged: &BTreeMap<PathBuf, Vec<u8>>) {
    for (path, bytes) in acknowledged {
        let read = fs::read(path).unwrap();
        assert!(read == *bytes, "{} differs", path.display());
    }
}

#[test]
fn a_full_disk_is_said_and_loses_nothing_and_passes() {
    a_full_disk_passes("cached");
}

/// In which files are written past the daemon, while there is room.
#[test]
fn so_it_is_with_passthrough() {
    a_full_disk_passes("passthrough");
}

fn a_full_disk_passes(profile: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let Some(cramped) = Cramped::new(&remote, profile) else {
        return;
    };
    let machine = &cramped.machine;
    let root = machine.mount_point();

    // Without the store nothing can go, and the disk fills up.
    let elsewhere = dir.path().join("elsewhere");
    fs::rename(&remote.files, &elsewhere).unwrap();
    let (mut acknowledged, why) = fill(&root, 0);
    let why = why.expect("100 files of 3 MB do not fit on a disk of 128 MB");
    assert_eq!(Errno::from_io_error(&why), Some(Errno::NOSPC), "{why}");
    assert!(acknowledged.len() > 5, "{} files", acknowledged.len());
    assert_all_there(&acknowledged);
    machine.larder(["status"]).ok();

    // A kill in the middle of it, and a start on the full disk.
    machine.kill_daemon();
    cramped.mount();
    assert_all_there(&acknowledged);

    // With the store there is room again, for more than the disk holds.
    fs::rename(&elsewhere, &remote.files).unwrap();
    machine.wait_until_stored();
    let (more, why) = fill(&root, 1000);
    assert!(why.is_none(), "{why:?}");
    acknowledged.extend(more);
    assert_all_there(&acknowledged);
    machine.wait_until_stored();
    let elsewhere = remote.another_machine();
    assert_eq!(picture(&elsewhere.mount_point()), picture(&root));
    machine.larder(["verify", "--stores"]).ok();
}

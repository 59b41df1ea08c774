//! `kill -9` of the daemon under load loses nothing that `fsync` acknowledged.
//!
//! Writers make, append to, overwrite and replace files on a real mount, and keep outside
//! what each `fsync` that returned has acknowledged. The daemon is killed at a moment
//! nobody chose, the volume is mounted again, and every acknowledged file must be what it
//! was, or what a write that was under way was making of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: u64 = 4;
const WRITERS: u64 = 3;

/// A volume with its own home; its daemon and its mount go with it.
struct Home {
    root: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("passphrase"), "correct horse\n").unwrap();
        let home = Self { root };
        let store = home.root.path().join("store");
        let mount = home.mount();
        std::fs::create_dir_all(&store).unwrap();
        home.larder(&[
            "init".as_ref(),
            mount.as_os_str(),
            "--store".as_ref(),
            store.as_os_str(),
            "--budget".as_ref(),
            "2G".as_ref(),
        ]);
        home
    }

    fn mount(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    fn run(&self, args: &[&std::ffi::OsStr]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_larder"))
            .args(args)
            .env("LARDER_HOME", self.root.path().join("home"))
            .env(
                "LARDER_PASSPHRASE_FILE",
                self.root.path().join("passphrase"),
            )
            .output()
            .unwrap()
    }

    fn larder(&self, args: &[&std::ffi::OsStr]) -> Output {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        output
    }

    fn start(&self) {
        self.larder(&["mount".as_ref(), self.mount().as_os_str()]);
    }

    fn daemon(&self) -> Option<rustix::process::Pid> {
        let volumes = std::fs::read_dir(self.root.path().join("home/volumes")).ok()?;
        let volume = volumes
            .flatten()
            .find(|entry| entry.path().join("lock").exists())?;
        let pid = std::fs::read_to_string(volume.path().join("lock")).ok()?;
        rustix::process::Pid::from_raw(pid.trim().parse().ok()?)
    }

    fn kill(&self) {
        let pid = self.daemon().expect("the lock names the daemon");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while rustix::process::test_kill_process(pid).is_ok() && !is_zombie(pid) {
            assert!(Instant::now() < until, "the daemon did not die");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether the process is dead and only waits for whoever started it to look.
fn is_zombie(pid: rustix::process::Pid) -> bool {
    let path = format!("/proc/{}/stat", pid.as_raw_nonzero());
    std::fs::read_to_string(path).map_or(true, |stat| stat.contains(") Z "))
}

impl Drop for Home {
    fn drop(&mut self) {
        let mount = self.mount();
        let left = self.run(&["unmount".as_ref(), "--force".as_ref(), mount.as_os_str()]);
        if !left.status.success() {
            let _ = rustix::mount::unmount(&mount, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// What is known of one file: what was acknowledged, and what a write under way makes.
#[derive(Clone, Default)]
struct Known {
    acknowledged: Option<Vec<u8>>,
    under_way: Option<Vec<u8>>,
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// Changes files of its own until the daemon is gone.
fn write_until(
    directory: &Path,
    seed: u64,
    known: &mut BTreeMap<PathBuf, Known>,
    stop: &AtomicBool,
) {
    for step in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let random = bytes(seed.wrapping_add(step), 8);
        let path = directory.join(format!("f{}", random[0] % 24));
        let file = known.entry(path.clone()).or_default();
        let before = file.acknowledged.clone().unwrap_or_default();
        let len = usize::from(random[1]) * 300 + 1;
        let fresh = bytes(seed ^ step, len);
        let (next, how) = match random[2] % 3 {
            0 => (fresh.clone(), How::Replace),
            1 => ([before.clone(), fresh.clone()].concat(), How::Append),
            _ => {
                let mut next = before.clone();
                let at = usize::from(random[3]) * next.len() / 256;
                let end = (at + len).min(next.len());
                next[at..end].copy_from_slice(&fresh[..end - at]);
                (next, How::Edit { at, end })
            }
        };
        file.under_way = Some(next.clone());
        let changed = match how {
            How::Replace => replace(&path, &fresh),
            How::Append => append(&path, &before, &fresh),
            How::Edit { at, end } if end > at => edit(&path, at, &next[at..end]),
            How::Edit { .. } => continue,
        };
        match changed {
            Ok(()) => {
                file.acknowledged = Some(next);
                file.under_way = None;
            }
            Err(_) => return,
        }
    }
}

enum How {
    Replace,
    Append,
    Edit { at: usize, end: usize },
}

/// As an editor does: a new file, synced, takes the old one's name; then the directory is
/// synced.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap())?.sync_all()
}

fn append(path: &Path, before: &[u8], more: &[u8]) -> std::io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    file.write_all_at(more, before.len() as u64)?;
    file.sync_data()?;
    File::open(path.parent().unwrap())?.sync_all()
}

fn edit(path: &Path, at: usize, piece: &[u8]) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(piece, at as u64)?;
    file.sync_data()
}

/// Whether `found` can be what is left of a write that was cut: each byte is one of
/// before or after, and so is the length.
fn is_between(found: &[u8], before: &[u8], after: &[u8]) -> bool {
    let within =
        (before.len().min(after.len())..=before.len().max(after.len())).contains(&found.len());
    within
        && found.iter().enumerate().all(|(at, byte)| {
            before.get(at) == Some(byte) || after.get(at) == Some(byte) || {
                // Behind the old end, what was not written yet reads as zero.
                at >= before.len() && *byte == 0
            }
        })
}

fn check(known: &mut BTreeMap<PathBuf, Known>, round: u64) -> u64 {
    let mut checked = 0;
    for (path, file) in known.iter_mut() {
        let Some(acknowledged) = &file.acknowledged else {
            // Nothing of it was ever acknowledged; start over with what is there.
            file.acknowledged = std::fs::read(path).ok();
            file.under_way = None;
            continue;
        };
        let found = std::fs::read(path)
            .unwrap_or_else(|error| panic!("round {round}: {} is lost: {error}", path.display()));
        let cut = file.under_way.as_ref();
        let is_right = found == *acknowledged
            || cut.is_some_and(|cut| found == *cut || is_between(&found, acknowledged, cut));
        assert!(
            is_right,
            "round {round}: {} is not what fsync acknowledged ({} bytes, {} acknowledged)",
            path.display(),
            found.len(),
            acknowledged.len()
        );
        file.acknowledged = Some(found);
        file.under_way = None;
        checked += 1;
    }
    checked
}

#[test]
fn a_killed_daemon_loses_nothing_that_fsync_acknowledged() {
    let home = Home::new();
    let mut known: Vec<BTreeMap<PathBuf, Known>> = vec![BTreeMap::new(); WRITERS as usize];
    home.start();
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (writer, known) in known.iter_mut().enumerate() {
                let directory = home.mount().join(format!("w{writer}"));
                std::fs::create_dir_all(&directory).unwrap();
                let seed = round * 1_000_003 + writer as u64 * 7_919;
                let stop = &stop;
                scope.spawn(move || write_until(&directory, seed, known, stop));
            }
            std::thread::sleep(Duration::from_millis(700 + 400 * round));
            home.kill();
            stop.store(true, Ordering::Relaxed);
        });
        home.start();
        let checked: u64 = known.iter_mut().map(|known| check(known, round)).sum();
        assert!(
            checked > 10,
            "round {round}: only {checked} files were written"
        );
        // Between the rounds some of it goes to the store and comes back.
        home.larder(&["commit".as_ref(), "-m".as_ref(), "between".as_ref()]);
        home.run(&["stash".as_ref(), home.mount().as_os_str()]);
    }
    for (path, file) in known.iter().flatten() {
        assert_eq!(
            std::fs::read(path).ok(),
            file.acknowledged,
            "{}",
            path.display()
        );
    }
}

#[test]
fn the_checker_finds_a_planted_loss() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("f");
    std::fs::write(&path, b"old").unwrap();
    let known = Known {
        acknowledged: Some(b"new".to_vec()),
        under_way: None,
    };
    let mut all = BTreeMap::from([(path.clone(), known.clone())]);
    let lost = std::panic::catch_unwind(move || check(&mut all, 0));
    assert!(
        lost.is_err(),
        "an old version passed for the acknowledged one"
    );
    std::fs::remove_file(&path).unwrap();
    let mut all = BTreeMap::from([(path, known)]);
    let lost = std::panic::catch_unwind(move || check(&mut all, 0));
    assert!(lost.is_err(), "a missing file passed");
}

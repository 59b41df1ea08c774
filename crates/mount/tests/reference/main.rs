//! A mount does what a plain directory does.
//!
//! Random sequences of operations are done on a plain directory and on a mount of a volume
//! whose cache lies on the same file system. In between, the volume stores what is dirty
//! and drops what it may. Each operation must answer alike, and both trees must be equal
//! at the end; a sequence that differs is made as short as possible.
//!
//! `LARDER_REFERENCE_CASES` says how many sequences each profile does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod ops;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use larder_format::ArgonParams;
use larder_mount::{MountOptions, Mounted, Profile, mount};
use larder_store::StoreOptions;
use larder_volume::{Settings, Volume};
use ops::{Op, Outcome, Side};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

const CASES: u32 = 60;
const OPS_MAX: usize = 50;

/// A mounted volume and a plain directory beside it.
struct Bench {
    runtime: tokio::runtime::Runtime,
    root: tempfile::TempDir,
    volume: Arc<Volume>,
    mounted: Mounted,
    round: std::cell::Cell<u32>,
    tally: std::cell::Cell<Tally>,
}

/// How much was really done, so that a run that does next to nothing is no proof.
#[derive(Clone, Copy, Default)]
struct Tally {
    done: u64,
    failed: u64,
    stashed: u64,
}

impl Bench {
    fn new(profile: Profile) -> Self {
        let root = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for name in ["store", "plain", "mnt"] {
            std::fs::create_dir(root.path().join(name)).unwrap();
        }
        let state = root.path().join("state");
        let mut settings = Settings::for_budget(4 << 30);
        settings.settle_quiet = Duration::from_millis(1);
        settings.commit_interval = Duration::from_millis(50);
        settings.local_rules = Vec::new();
        let volume = runtime.block_on(async {
            let address = root.path().join("store");
            let store = larder_store::open(address.to_str().unwrap(), &StoreOptions::default());
            let store = store.unwrap();
            let cheap = ArgonParams {
                memory_kib: 64,
                passes: 1,
                lanes: 1,
            };
            larder_volume::init_at_cost(&state, Arc::clone(&store), None, settings.clone(), cheap)
                .await
                .unwrap();
            let runtime = tokio::runtime::Handle::current();
            let volume = Volume::start(&state, store, settings, runtime).unwrap();
            volume.run();
            volume
        });
        let options = MountOptions {
            profile,
            allow_other: false,
        };
        let mounted = mount(Arc::clone(&volume), &root.path().join("mnt"), &options).unwrap();
        assert_eq!(
            mounted.profile(),
            profile,
            "the profile is not to be had here"
        );
        Self {
            runtime,
            root,
            volume,
            mounted,
            round: std::cell::Cell::new(0),
            tally: std::cell::Cell::default(),
        }
    }

    /// Fresh directories of the same name on both sides.
    fn fresh(&self) -> (PathBuf, PathBuf) {
        self.round.set(self.round.get() + 1);
        let name = format!("round{}", self.round.get());
        let plain = self.root.path().join("plain").join(&name);
        let mounted = self.mounted.path().join(&name);
        std::fs::create_dir(&plain).unwrap();
        std::fs::create_dir(&mounted).unwrap();
        (plain, mounted)
    }

    fn store(&self) {
        let quiet: fn(larder_volume::progress::Progress) = |_| ();
        self.runtime
            .block_on(self.volume.commit(None, &quiet))
            .expect("the store takes a commit");
    }

    /// Drops what may be dropped below `path` of the volume.
    fn stash(&self, path: &Path) -> u64 {
        use std::os::unix::ffi::OsStrExt;
        let Ok(ino) = self.volume.resolve(path.as_os_str().as_bytes()) else {
            return 0;
        };
        let options = larder_volume::StashOptions::default();
        let stashed = self.volume.stash(&[ino], &options, &|_| ());
        stashed.expect("the disk works").files
    }

    fn compare(&self, ops: &[Op]) -> Result<(), String> {
        let (plain_root, mounted_root) = self.fresh();
        let round = PathBuf::from(mounted_root.file_name().unwrap());
        let mut plain = Side::new(&plain_root);
        let mut mounted = Side::new(&mounted_root);
        let mut tally = self.tally.get();
        let populate = ops::populate();
        for (at, op) in populate.iter().chain(ops).enumerate() {
            match op {
                Op::Store => self.store(),
                Op::Stash { at } => {
                    let below = at.as_ref().map(Side::relative).unwrap_or_default();
                    tally.stashed += self.stash(&round.join(&below));
                    mounted.drop_pages(&below);
                }
                _ => {
                    let (expected, found) = (plain.run(op), mounted.run(op));
                    match expected {
                        Outcome::Failed(_) | Outcome::NoSlot => tally.failed += 1,
                        _ => tally.done += 1,
                    }
                    same(&expected, &found).map_err(|why| format!("op {at}, {op:?}: {why}"))?;
                }
            }
        }
        plain.close_all();
        mounted.close_all();
        self.store();
        tally.stashed += self.stash(&round);
        mounted.drop_pages(Path::new(""));
        self.tally.set(tally);
        let (expected, found) = (plain.whole_tree(), mounted.whole_tree());
        if expected.len() != found.len() {
            return Err(format!("{} nodes, not {}", found.len(), expected.len()));
        }
        for (expected, found) in expected.iter().zip(&found) {
            if expected.0 != found.0 {
                return Err(format!("{:?} instead of {:?}", found.0, expected.0));
            }
            same(&expected.1, &found.1).map_err(|why| format!("{:?}: {why}", expected.0))?;
            same(&expected.2, &found.2).map_err(|why| format!("{:?}: {why}", expected.0))?;
        }
        let _ = std::fs::remove_dir_all(&plain_root);
        let _ = std::fs::remove_dir_all(&mounted_root);
        Ok(())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        if self.mounted.unmount().is_err() {
            let _ = self.mounted.detach();
        }
        let _ = self.mounted.wait();
        let _ = self.runtime.block_on(self.volume.shutdown());
    }
}

/// Whether two outcomes are alike; bytes are not printed, but where they part is told.
fn same(expected: &Outcome, found: &Outcome) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    match (expected, found) {
        (Outcome::Bytes(expected), Outcome::Bytes(found)) => {
            let part = expected.iter().zip(found).position(|(a, b)| a != b);
            Err(format!(
                "{} bytes, not {}; the first that differs is at {part:?}",
                found.len(),
                expected.len()
            ))
        }
        _ => Err(format!("{found:?}, not {expected:?}")),
    }
}

fn cases() -> u32 {
    std::env::var("LARDER_REFERENCE_CASES")
        .ok()
        .and_then(|cases| cases.parse().ok())
        .unwrap_or(CASES)
}

fn compare_at_length(profile: Profile) {
    let bench = Bench::new(profile);
    let mut runner = TestRunner::new(Config {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 4000,
        ..Config::default()
    });
    let sequences = proptest::collection::vec(ops::op(), 1..=OPS_MAX);
    let outcome = runner.run(&sequences, |ops| {
        bench.compare(&ops).map_err(TestCaseError::fail)
    });
    if let Err(difference) = outcome {
        panic!("{profile:?}: {difference}");
    }
    let Tally {
        done,
        failed,
        stashed,
    } = bench.tally.get();
    println!("{done} operations done, {failed} failed alike, {stashed} files stashed");
    assert!(stashed > u64::from(cases()) / 2, "too little was stashed");
    assert!(done > failed / 2, "too little was done");
}

#[test]
fn a_passthrough_mount_does_what_a_plain_directory_does() {
    compare_at_length(Profile::Passthrough);
}

#[test]
fn a_cached_mount_does_what_a_plain_directory_does() {
    compare_at_length(Profile::Cached);
}

#[test]
fn a_no_open_mount_does_what_a_plain_directory_does() {
    compare_at_length(Profile::NoOpen);
}

#[test]
fn a_planted_difference_is_found() {
    let bytes = |bytes: &[u8]| Outcome::Bytes(bytes.to_vec());
    assert!(same(&bytes(b"abc"), &bytes(b"abd")).is_err());
    assert!(same(&Outcome::Done, &Outcome::Count(0)).is_err());
    let root = tempfile::tempdir().unwrap();
    let (a, b) = (root.path().join("a"), root.path().join("b"));
    for side in [&a, &b] {
        std::fs::create_dir(side).unwrap();
        std::fs::write(side.join("f"), b"content").unwrap();
    }
    assert_eq!(Side::new(&a).whole_tree(), Side::new(&b).whole_tree());
    std::fs::write(b.join("f"), b"contenT").unwrap();
    assert_ne!(Side::new(&a).whole_tree(), Side::new(&b).whole_tree());
}

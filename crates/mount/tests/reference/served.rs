//! The volume's own process.
//!
//! The mount is served by another process than the one that uses it, as in life. It must be
//! so where files are mapped: a page fault waits for the file system under its process's
//! memory lock, and who serves it in the same process may wait for that lock.
//!
//! The test starts its own program once more, for [`serve`] alone. Requests come as lines on
//! its input; each is answered by a line that starts with [`ANSWER`]. It ends, and the mount
//! with it, when its input does: also when the test was killed.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_format::ArgonParams;
use larder_mount::{MountOptions, Mounted, Profile, mount};
use larder_store::{Store, StoreOptions};
use larder_volume::{Settings, Volume, VolumeError};

const ROOT: &str = "LARDER_REFERENCE_SERVE";
const PROFILE: &str = "LARDER_REFERENCE_PROFILE";
const BUDGET: &str = "LARDER_REFERENCE_BUDGET";
const ANSWER: &str = "> ";
const PROFILES: [Profile; 3] = [Profile::Passthrough, Profile::Cached, Profile::NoOpen];

/// The process that serves a mount, as the test sees it.
pub struct Served {
    process: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Served {
    /// Makes a volume below `root` and mounts it at `mnt` there.
    pub fn start(root: &Path, profile: Profile, budget_bytes: u64) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "--ignored", "served::serve"])
            .env(ROOT, root)
            .env(PROFILE, format!("{profile:?}"))
            .env(BUDGET, budget_bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().unwrap());
        let mut served = Self {
            process,
            requests,
            answers,
        };
        served.answer();
        served
    }

    /// Has it do something; answers its number.
    pub fn ask(&mut self, request: &str) -> u64 {
        let requests = self.requests.as_mut().expect("it runs");
        writeln!(requests, "{request}").expect("the volume's process is gone");
        self.answer()
    }

    fn answer(&mut self) -> u64 {
        loop {
            let mut line = String::new();
            let read = self.answers.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "the volume's process is gone");
            // What the test program itself says may stand before it in the line.
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.trim().parse().unwrap();
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.requests.take());
        let _ = self.process.wait();
    }
}

#[test]
#[ignore = "started by the other tests, as a process of its own"]
fn serve() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let said = std::env::var(PROFILE).unwrap();
    let is_it = |profile: &Profile| format!("{profile:?}") == said;
    let profile = PROFILES.into_iter().find(is_it).unwrap();
    let budget_bytes = std::env::var(BUDGET).unwrap().parse().unwrap();
    tracing::subscriber::set_global_default(crate::said::ToTerminal).unwrap();
    let mut host = Host::new(&PathBuf::from(root), profile, budget_bytes);
    println!("{ANSWER}0");
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let answer = match line.split_once(' ') {
            Some(("stash", path)) => host.stash(&unhex(path)),
            _ if line == "store" => host.store(),
            _ if line == "restart" => host.restart(),
            _ => panic!("{line}"),
        };
        println!("{ANSWER}{answer}");
    }
}

/// A path as a word of a request.
pub fn hex(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes().iter();
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(word: &str) -> Vec<u8> {
    let pairs = word.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// The volume and its mount.
struct Host {
    runtime: tokio::runtime::Runtime,
    root: PathBuf,
    store: Arc<dyn Store>,
    settings: Settings,
    profile: Profile,
    live: Option<(Arc<Volume>, Mounted)>,
}

impl Host {
    fn new(root: &Path, profile: Profile, budget_bytes: u64) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for name in ["store", "mnt"] {
            std::fs::create_dir(root.join(name)).unwrap();
        }
        let mut settings = Settings::for_budget(budget_bytes);
        // Less would have its threads look all the time, in many volumes side by side.
        settings.settle_quiet = Duration::from_millis(8);
        settings.commit_interval = Duration::from_millis(50);
        settings.local_rules = Vec::new();
        settings.sync_interval = None;
        // What is dropped is tested here, not who has to wait for room.
        (settings.high_watermark, settings.low_watermark) = (0.15, 0.05);
        settings.dirty_soft_bytes = 1 << 30;
        settings.dirty_hard_bytes = 2 << 30;
        let store = runtime.block_on(async {
            let address = root.join("store");
            larder_store::open(address.to_str().unwrap(), &StoreOptions::default()).unwrap()
        });
        let cheap = ArgonParams {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        };
        let state = root.join("state");
        let made =
            larder_volume::init_at_cost(&state, Arc::clone(&store), None, settings.clone(), cheap);
        runtime.block_on(made).unwrap();
        let mut host = Self {
            runtime,
            root: root.to_owned(),
            store,
            settings,
            profile,
            live: None,
        };
        host.start();
        host
    }

    fn start(&mut self) {
        let state = self.root.join("state");
        let give_up = Instant::now() + Duration::from_secs(10);
        let volume = loop {
            let handle = self.runtime.handle().clone();
            let store = Arc::clone(&self.store);
            match Volume::start(&state, store, self.settings.clone(), handle) {
                // Who was just told to end may not have let go yet.
                Err(VolumeError::Locked(_)) if Instant::now() < give_up => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                started => break started.unwrap(),
            }
        };
        self.runtime.block_on(async { volume.run() });
        let options = MountOptions {
            profile: self.profile,
            allow_other: false,
        };
        let mounted = mount(Arc::clone(&volume), &self.root.join("mnt"), &options).unwrap();
        let found = mounted.profile();
        assert_eq!(found, self.profile, "the profile is not to be had here");
        self.live = Some((volume, mounted));
    }

    fn end(&mut self) {
        let Some((volume, mounted)) = self.live.take() else {
            return;
        };
        if mounted.unmount().is_err() {
            let _ = mounted.detach();
        }
        let _ = mounted.wait();
        drop(mounted);
        let _ = self.runtime.block_on(volume.shutdown());
    }

    fn restart(&mut self) -> u64 {
        self.end();
        self.start();
        0
    }

    fn volume(&self) -> &Arc<Volume> {
        &self.live.as_ref().expect("it runs").0
    }

    fn store(&self) -> u64 {
        let stored = self.runtime.block_on(self.volume().commit(None, &|_| ()));
        stored.expect("the store takes a commit");
        0
    }

    fn stash(&self, path: &[u8]) -> u64 {
        let Ok(ino) = self.volume().resolve(path) else {
            return 0;
        };
        let options = larder_volume::StashOptions::default();
        let stashed = self.volume().stash(&[ino], &options, &|_| ());
        stashed.expect("the disk works").files
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end();
    }
}

//! A fresh volume on a folder store, mounted; all of it goes when the test ends, however
//! it ends.

use std::fmt::Debug;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_mount::{MountOptions, Mounted, Profile, mount};
use larder_store::{Store, StoreOptions};
use larder_volume::{Dropped, Settings, Volume, VolumeError};
use tempfile::TempDir;

use crate::gate::Gate;

const NOBODY: u32 = 65534;

/// A mounted volume.
pub struct Fixture {
    mounted: Mounted,
    volume: Arc<Volume>,
    root: PathBuf,
    runtime: tokio::runtime::Runtime,
    _dir: TempDir,
}

impl Fixture {
    pub fn new(profile: Profile) -> Self {
        let at = Self::with(&MountOptions {
            profile,
            allow_other: true,
        });
        assert_eq!(at.mounted.profile(), profile);
        at
    }

    /// A volume that stores what is dirty, on a store with a gate before it.
    pub fn with_gate(profile: Profile) -> (Self, Arc<Gate>) {
        let dir = tempfile::tempdir().unwrap();
        let gate = Arc::new(Gate::before(folder_store(dir.path())));
        let mut settings = Settings::for_budget(1 << 30);
        settings.settle_quiet = Duration::from_millis(1);
        settings.read_wait = Duration::from_secs(2);
        settings.sync_interval = None;
        let options = MountOptions {
            profile,
            allow_other: false,
        };
        let at = Self::on_store(dir, Arc::clone(&gate) as _, settings, &options);
        at.volume.run();
        (at, gate)
    }

    pub fn with(options: &MountOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = folder_store(dir.path());
        let mut settings = Settings::for_budget(1 << 30);
        settings.sync_interval = None;
        Self::on_store(dir, store, settings, options)
    }

    /// A volume on this store; `dir` holds the rest.
    fn on_store(
        dir: TempDir,
        store: Arc<dyn Store>,
        settings: Settings,
        options: &MountOptions,
    ) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (state, root) = (dir.path().join("state"), dir.path().join("mount"));
        std::fs::create_dir(&root).unwrap();
        let init = larder_volume::init(&state, Arc::clone(&store), None, settings.clone());
        runtime.block_on(init).unwrap();
        let start = || {
            Volume::start(
                &state,
                Arc::clone(&store),
                settings.clone(),
                runtime.handle().clone(),
            )
        };
        // A child that another test is just starting has our files open until it is itself.
        let volume = until_found(|| match start() {
            Err(VolumeError::Locked(_)) => None,
            started => Some(started.unwrap()),
        });
        others_may_pass(dir.path());
        let mounted = mount(Arc::clone(&volume), &root, options).unwrap();
        Self {
            mounted,
            volume,
            root,
            runtime,
            _dir: dir,
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    pub fn volume(&self) -> &Arc<Volume> {
        &self.volume
    }

    pub fn mounted(&self) -> &Mounted {
        &self.mounted
    }

    /// Stores what is dirty, and commits.
    pub fn commit(&self) {
        let commit = self.volume.commit(None, &|_| ());
        self.runtime.block_on(commit).unwrap();
    }

    /// Stores what is dirty and drops the content of the file at `path`.
    pub fn send_away(&self, path: &Path) {
        let ino = std::fs::metadata(path).unwrap().ino();
        self.commit();
        // The kernel closes a file a moment after the program does.
        self.eventually("the file can be dropped", || {
            matches!(self.volume.drop_content(ino).unwrap(), Dropped::Freed(_))
        });
        // Or the kernel would read from the pages that it kept.
        let file = File::open(path).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }

    /// Runs a script in the mount; what it prints.
    pub fn sh(&self, script: &str) -> String {
        let output = self.shell(script).output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a script in the mount as a user without rights.
    pub fn sh_as_nobody(&self, script: &str) {
        let output = self.output_as_nobody(script);
        assert!(output.status.success(), "{script}: {output:?}");
    }

    /// Whether a script succeeds in the mount as a user without rights.
    pub fn runs_as_nobody(&self, script: &str) -> bool {
        self.output_as_nobody(script).status.success()
    }

    fn output_as_nobody(&self, script: &str) -> Output {
        let script = format!("cd '{}' && {script}", self.root.display());
        let mut shell = Command::new("/bin/sh");
        shell
            .args(["-c", &script])
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/");
        shell.output().unwrap()
    }

    fn shell(&self, script: &str) -> Command {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).current_dir(&self.root);
        shell
    }

    /// Makes the kernel ask again for what it knows of the node.
    pub fn look_again(&self, path: &Path) {
        // It asks whoever demands the truth of the server.
        let flags = rustix::fs::AtFlags::STATX_FORCE_SYNC;
        let wanted = rustix::fs::StatxFlags::BASIC_STATS;
        rustix::fs::statx(rustix::fs::CWD, path, flags, wanted).unwrap();
    }

    /// Waits for what comes to pass soon, but not at once.
    pub fn eventually(&self, what: &str, holds: impl Fn() -> bool) {
        println!("waiting until {what}");
        until_found(|| holds().then_some(()));
    }
}

/// What is found soon, but perhaps not at once.
pub fn until_found<T>(find: impl Fn() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = find() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if self.mounted.unmount().is_err() {
            let _ = self.mounted.detach();
        }
        let _ = self.runtime.block_on(self.volume.shutdown());
    }
}

fn folder_store(dir: &Path) -> Arc<dyn Store> {
    let store = dir.join("store");
    std::fs::create_dir(&store).unwrap();
    larder_store::open(store.to_str().unwrap(), &StoreOptions::default()).unwrap()
}

/// A user without rights must reach the mount through the directories above it.
fn others_may_pass(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let open = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir, open).unwrap();
}

/// The errno of what must fail.
pub fn errno<T: Debug>(result: io::Result<T>) -> i32 {
    let errno = result.expect_err("must fail").raw_os_error();
    errno.expect("an error of the system")
}

/// Bytes that look like no others.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

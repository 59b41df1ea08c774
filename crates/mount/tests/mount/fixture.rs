//! A fresh volume on a folder store, mounted; all of it goes when the test ends, however
//! it ends.

use std::fmt::Debug;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_mount::{MountOptions, Mounted, Profile, mount};
use larder_store::{Store, StoreOptions};
use larder_volume::{Settings, Volume, VolumeError};
use tempfile::TempDir;

const NOBODY: u32 = 65534;

/// A mounted volume. Dropped in this order: the mount, the volume, its directory.
pub struct Fixture {
    mounted: Mounted,
    volume: Arc<Volume>,
    root: PathBuf,
    _runtime: tokio::runtime::Runtime,
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

    pub fn with(options: &MountOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let store = larder_store::open(store.to_str().unwrap(), &StoreOptions::default()).unwrap();
        Self::on_store(dir, store, options)
    }

    /// A volume on this store; `dir` holds the rest.
    pub fn on_store(dir: TempDir, store: Arc<dyn Store>, options: &MountOptions) -> Self {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (state, root) = (dir.path().join("state"), dir.path().join("mount"));
        std::fs::create_dir(&root).unwrap();
        let settings = Settings::for_budget(1 << 30);
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
            _runtime: runtime,
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

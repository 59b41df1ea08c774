//! A machine for the tests: a home for Larder's state, a mount, and the real program.
//!
//! When a test ends, also by a panic, its daemon is ended and its mount taken away.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const PASSPHRASE: &str = "correct horse battery staple";
/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How much of a daemon's log a failed test shows.
const LOG_LINES: usize = 100;

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    /// The same, after it was found to have ended with this code.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    #[track_caller]
    pub fn ok(self) -> Self {
        self.ended(0)
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    #[track_caller]
    pub fn says(self, words: &str) -> Self {
        let said = self.out.contains(words) || self.err.contains(words);
        assert!(said, "{words:?} is not in {self:#?}");
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A store that several machines share.
pub struct Shelf {
    dir: tempfile::TempDir,
}

impl Shelf {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// All objects whose path contains `part`.
    pub fn objects(&self, part: &str) -> Vec<PathBuf> {
        files_below(&self.path())
            .into_iter()
            .filter(|path| path.to_string_lossy().contains(part))
            .collect()
    }
}

pub struct Machine {
    dir: tempfile::TempDir,
    home: PathBuf,
    /// What stands in front of each command.
    before: Vec<OsString>,
}

impl Machine {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("passphrase"), format!("{PASSPHRASE}\n")).unwrap();
        let home = dir.path().join("home");
        Self {
            dir,
            home,
            before: Vec::new(),
        }
    }

    /// A machine whose commands are started by these words: a program that starts what stands
    /// behind it.
    #[allow(dead_code, reason = "the tests with networks use it")]
    pub fn started_by(before: Vec<OsString>) -> Self {
        let mut machine = Self::new();
        machine.before = before;
        machine
    }

    /// A machine whose state lies under a path that is too long for a socket's.
    pub fn with_deep_home() -> Self {
        let mut machine = Self::new();
        machine.home = machine.path("deep").join("x".repeat(150));
        machine
    }

    /// A machine with a new volume on `shelf`.
    pub fn with_volume(shelf: &Shelf) -> Self {
        let machine = Self::new();
        machine.init(shelf).ok();
        machine
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn mount_point(&self) -> PathBuf {
        self.path("Larder")
    }

    /// The state directory of the only volume.
    pub fn state_dir(&self) -> PathBuf {
        self.find_state().expect("there is a volume")
    }

    fn find_state(&self) -> Option<PathBuf> {
        let mut dirs = fs::read_dir(self.home.join("volumes")).ok()?.flatten();
        let found = dirs.find(|dir| !dir.file_name().to_string_lossy().starts_with('.'));
        found.map(|dir| dir.path())
    }

    pub fn command(&self) -> Command {
        let mut words = self.before.iter().map(OsString::as_os_str);
        let program = OsStr::new(env!("CARGO_BIN_EXE_larder"));
        let mut command = Command::new(words.next().unwrap_or(program));
        if !self.before.is_empty() {
            command.args(words).arg(program);
        }
        command
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .env("HOME", self.dir.path())
            .env("LARDER_HOME", &self.home)
            .env("TZ", "UTC")
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    pub fn larder<I: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = I>) -> Said {
        self.command().args(args).output().unwrap().into()
    }

    pub fn init(&self, shelf: &Shelf) -> Said {
        let mut args: Vec<OsString> = ["init", "Larder", "--budget", "1G", "--store"]
            .map(OsString::from)
            .to_vec();
        args.push(shelf.path().into());
        args.extend(["--passphrase-file", "passphrase", "--json"].map(OsString::from));
        self.larder(args)
    }

    pub fn open(&self, shelf: &Shelf, credential: [&str; 2]) -> Said {
        let store = shelf.path();
        let args = [OsStr::new("open"), store.as_os_str(), OsStr::new("Larder")];
        let credential = credential.map(OsString::from);
        self.larder(
            args.into_iter()
                .chain(credential.iter().map(OsString::as_os_str)),
        )
    }

    #[track_caller]
    pub fn mount(&self) -> Said {
        self.larder(["mount", "Larder"]).ok()
    }

    #[track_caller]
    pub fn unmount(&self) {
        self.larder(["unmount"]).ok();
        assert!(!self.is_mounted());
    }

    pub fn status(&self) -> Value {
        self.larder(["status", "--json"]).ok().json()
    }

    /// Waits until every change is on the store.
    #[track_caller]
    pub fn wait_until_stored(&self) {
        wait_until("all to be stored", || {
            let status = self.status();
            match status["files_waiting"] == 0 && status["uncommitted_nodes"] == 0 {
                true => Ok(()),
                false => Err(status),
            }
        });
    }

    /// The line of `ls -l` about a path, as JSON.
    #[track_caller]
    pub fn entry(&self, path: &str) -> Value {
        let listed = self.larder(["ls", "-d", "--json", path]).ok().json();
        listed[0].clone()
    }

    pub fn daemon_pid(&self) -> Option<i32> {
        let lock = fs::read_to_string(self.find_state()?.join("lock")).ok()?;
        lock.trim().parse().ok()
    }

    pub fn is_mounted(&self) -> bool {
        let mount = format!(" {} ", self.mount_point().canonicalize_or_self().display());
        fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .contains(&mount)
    }

    /// Prints what may tell why a test failed: the status, and the end of the daemon's log.
    fn tell_how_it_is(&self) {
        let status = self.command().arg("status").output().map(Said::from);
        eprintln!("status of {}: {status:#?}", self.dir.path().display());
        let logs = self.find_state().map(|dir| dir.join("log"));
        let logs = logs.and_then(|dir| fs::read_dir(dir).ok());
        for path in logs.into_iter().flatten().flatten().map(|log| log.path()) {
            let text = fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("the end of {}:\n{}", path.display(), last.join("\n"));
        }
    }

    /// Ends the daemon as a power cut would.
    #[track_caller]
    pub fn kill_daemon(&self) {
        let pid = self.daemon_pid().expect("a daemon runs");
        signal(pid, "KILL");
        wait_for("the daemon to die", || !runs(pid));
    }
}

/// `path.canonicalize()`, which a dead mount does not answer.
trait CanonicalizeOrSelf {
    fn canonicalize_or_self(&self) -> PathBuf;
}

impl CanonicalizeOrSelf for PathBuf {
    fn canonicalize_or_self(&self) -> PathBuf {
        match (self.canonicalize(), self.parent(), self.file_name()) {
            (Ok(path), _, _) => path,
            (Err(_), Some(parent), Some(name)) => parent
                .canonicalize()
                .map_or_else(|_| self.clone(), |dir| dir.join(name)),
            _ => self.clone(),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.find_state().is_none() {
            return;
        }
        if std::thread::panicking() {
            self.tell_how_it_is();
        }
        self.larder(["unmount", "--force"]);
        let held = self.daemon_pid().filter(|pid| is_larder(*pid));
        if let Some(pid) = held {
            signal(pid, "KILL");
        }
        if self.is_mounted() {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(self.mount_point())
                .output();
        }
    }
}

pub fn signal(pid: i32, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), pid.to_string()])
        .status();
    assert!(status.unwrap().success(), "kill -{name} {pid}");
}

/// Whether the process runs; one that ended and was not waited for does not. After a kill
/// the first thread may be gone while others, and with them the volume's lock, are not.
pub fn runs(pid: i32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| threads > 1 || !stat.contains(") Z "))
}

/// Whether the process is the program under test: a number from a file may be another's.
fn is_larder(pid: i32) -> bool {
    runs(pid)
        && fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe == Path::new(env!("CARGO_BIN_EXE_larder")))
}

#[track_caller]
pub fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    wait_until(what, || match there() {
        true => Ok(()),
        false => Err("not yet"),
    });
}

/// Waits until this is done; what stood in the way at last is in the failure.
#[track_caller]
pub fn wait_until<E: std::fmt::Debug>(what: &str, mut done: impl FnMut() -> Result<(), E>) {
    let begin = Instant::now();
    while let Err(why) = done() {
        assert!(
            begin.elapsed() < PATIENCE,
            "waited in vain for {what}: {why:#?}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files_below(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Bytes that no compression makes smaller, always the same for a seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut next)
        .take(len / 8 + 1)
        .flatten()
        .collect();
    bytes.truncate(len);
    bytes
}

/// A small tree with what trees have: deep, empty, large and small files, odd names, links.
pub fn make_tree(root: &Path) {
    use std::os::unix::ffi::OsStrExt;
    fs::create_dir_all(root.join("docs/deep/er")).unwrap();
    fs::create_dir(root.join("empty dir")).unwrap();
    fs::write(root.join("large"), noise(1, 3 << 20)).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("docs/text"), "words\n".repeat(10_000)).unwrap();
    fs::write(root.join("docs/deep/er/naïve 名"), noise(2, 100_000)).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"docs/\xff\xfe")), "bytes").unwrap();
    for i in 0..50 {
        fs::write(root.join(format!("docs/deep/{i}")), noise(i + 3, 1000)).unwrap();
    }
    fs::hard_link(root.join("docs/text"), root.join("docs/same text")).unwrap();
    std::os::unix::fs::symlink("docs/text", root.join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("broken")).unwrap();
    let mode: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o750);
    fs::set_permissions(root.join("docs/deep"), mode).unwrap();
}

/// What a tree is to a program: each path with kind, mode, size, time and content.
pub fn picture(root: &Path) -> Vec<(PathBuf, String)> {
    let mut lines = Vec::new();
    paint(root, root, &mut lines);
    lines.sort();
    lines
}

fn paint(root: &Path, dir: &Path, lines: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let what = if kind.is_symlink() {
            format!("link to {}", fs::read_link(&path).unwrap().display())
        } else if kind.is_dir() {
            paint(root, &path, lines);
            format!("directory {:o}", meta.mode())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            let bytes = fs::read(&path).unwrap();
            let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, &byte| {
                (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let (mode, links) = (meta.mode(), meta.nlink());
            let time = (meta.mtime(), meta.mtime_nsec());
            format!("file {mode:o} {links} {} {time:?} {sum:x}", bytes.len())
        };
        lines.push((path.strip_prefix(root).unwrap().to_owned(), what));
    }
}

/// Copies a tree with its times, modes and links, as a user does.
pub fn copy_tree(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from)
        .arg(to)
        .output()
        .unwrap();
    assert!(copied.status.success(), "{copied:?}");
}

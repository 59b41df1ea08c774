//! A directory for one run with real volumes: made, used, and left behind clean.
//!
//! Below a fresh directory lie a home for each machine that is played, mount points and
//! a passphrase. When it is dropped, also after a failure, whatever is still mounted
//! below it is unmounted, its daemons end, and the directory goes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::run;

/// Names a program that is there, for runs that would build one.
const PROGRAM: &str = "LARDER_PROGRAM";

/// Where the program comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// It is built first.
    Build,
    /// `cargo test` has just built it. (Built alone it has other features of its crates,
    /// so cargo would build many of them once more.)
    Tested,
}

/// A directory for one run.
pub struct Playground {
    dir: TempDir,
    program: PathBuf,
}

impl Playground {
    /// Makes the directory, and the program if need be.
    pub fn new(name: &str, program: Program) -> Result<Self> {
        let program = match (program, std::env::var_os(PROGRAM)) {
            (Program::Build, Some(there)) => PathBuf::from(there),
            (Program::Build, None) => {
                run::show(run::cargo().args(["build", "--locked", "--package", "larder"]))?;
                run::target().join("debug/larder")
            }
            (Program::Tested, _) => run::target().join("debug/larder"),
        };
        let dir = tempfile::Builder::new()
            .prefix(&format!("larder-{name}-"))
            .tempdir()?;
        // The POSIX suite walks through it as users without rights.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let playground = Self { dir, program };
        let passphrase = playground.passphrase_file();
        fs::write(&passphrase, "open the larder\n")?;
        fs::set_permissions(&passphrase, Permissions::from_mode(0o600))?;
        Ok(playground)
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The file with the passphrase of its volumes.
    pub fn passphrase_file(&self) -> PathBuf {
        self.path("passphrase")
    }

    /// Shows what stands in the environment of `machine`.
    pub fn enter(&self, machine: &str) {
        println!(
            "$ export LARDER_HOME={} LARDER_PASSPHRASE_FILE={}",
            self.path(machine).display(),
            self.passphrase_file().display()
        );
    }

    /// `larder` as on the machine called `machine`.
    pub fn larder(&self, machine: &str) -> Command {
        let mut larder = Command::new(&self.program);
        larder
            .env("LARDER_HOME", self.path(machine))
            .env("LARDER_PASSPHRASE_FILE", self.passphrase_file())
            .current_dir(self.dir.path());
        larder
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        for mount in mounts_below(self.dir.path()) {
            eprintln!("Still mounted after a failure: {}", mount.display());
            // Its daemon sees the end of its connection and stops.
            let _ = run::output(Command::new("umount").arg("--lazy").arg(&mount))
                .or_else(|_| run::output(Command::new("fusermount3").arg("-uz").arg(&mount)));
        }
    }
}

/// Waits until something is mounted at `dir`.
pub fn wait_until_mounted(dir: &Path, mut is_alive: impl FnMut() -> Result<()>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while !mounts_below(dir).iter().any(|mount| mount == dir) {
        is_alive()?;
        if Instant::now() > end {
            bail!("Nothing is mounted at {} after a minute.", dir.display());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The fifth field is the mount point, with blanks as octal escapes: ours have none.
    let mounts = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    mounts.filter(|mount| mount.starts_with(dir)).collect()
}

/// Ends a child with SIGTERM, waits for it, and says how it ended.
pub fn end(child: &mut std::process::Child) -> Result<std::process::ExitStatus> {
    let pid = i32::try_from(child.id())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    if let (Some(pid), None) = (pid, child.try_wait()?) {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    }
    child
        .wait()
        .context("a child process could not be waited for")
}

/// Kills a child and all that it started, as a crash would.
pub fn kill(child: &mut std::process::Child) -> Result<()> {
    // Itself first, so that it starts no more of what is ended next.
    let others = descendants(child.id());
    child.kill()?;
    child.wait()?;
    for pid in others {
        // What ended with it is no failure.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    Ok(())
}

fn descendants(pid: u32) -> Vec<rustix::process::Pid> {
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let mut found = Vec::new();
    for child in listed.unwrap_or_default().split_whitespace() {
        if let Ok(number) = child.parse::<u32>() {
            found.extend(descendants(number));
            found.extend(
                i32::try_from(number)
                    .ok()
                    .and_then(rustix::process::Pid::from_raw),
            );
        }
    }
    found
}

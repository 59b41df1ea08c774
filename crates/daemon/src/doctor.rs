//! Looks for what is wrong with Larder on this machine, and says how to mend it.
//!
//! Each check gives one [`Finding`], also when all is well, so that a user sees what was
//! looked at. Nothing is changed, with one exception: a mount that a dead daemon left
//! answers every program with an error, holds nothing, and is taken away.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use larder_model::VolumeId;
use larder_mount::Mended;
use rustix::process::Resource;
use serde::{Deserialize, Serialize};

use crate::client::Client;
use crate::config::CONFIG_FILE;
use crate::failure::Failure;
use crate::home::{Home, Replica};
use crate::operations::{CheckDatabase, Status};
use crate::secrets::SECRETS_FILE;
use crate::session::Session;
use crate::stores::{self, Root};
use crate::units::ByteSize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is well.
    Ok,
    /// It works, and may not for long.
    Warning,
    /// Something does not work.
    Error,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at.
    pub check: String,
    /// What was found.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(level: Level, check: &str, message: impl Into<String>) -> Self {
        Self {
            level,
            check: check.to_owned(),
            message: message.into(),
            remedy: None,
        }
    }

    fn ok(check: &str, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, check, message)
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    fn of(level: Level, check: &str, failure: Failure) -> Self {
        Self {
            level,
            check: check.to_owned(),
            message: failure.message,
            remedy: failure.hint,
        }
    }
}

/// How long a store may take to answer.
const STORE_PATIENCE: Duration = Duration::from_secs(20);
/// Fewer open files than this are too few for a busy mount.
const FILES_WANTED: u64 = 4096;
/// A time in the state directory may be so far ahead of the clock.
const CLOCK_SLACK: Duration = Duration::from_secs(3600);

/// Looks at the machine and at each of `volumes`.
pub async fn examine(home: &Home, volumes: &[VolumeId]) -> Vec<Finding> {
    let mut findings = vec![fuse_device(), fuse_helper(), open_files()];
    for volume in volumes {
        let name = volume.to_string();
        let prefix = &name[..8];
        let mut about = match home.replica(*volume) {
            Ok(replica) => examine_replica(&replica).await,
            Err(failure) => vec![Finding::of(Level::Error, "settings", failure)],
        };
        if volumes.len() > 1 {
            for finding in &mut about {
                finding.check = format!("{prefix} {}", finding.check);
            }
        }
        findings.append(&mut about);
    }
    findings
}

async fn examine_replica(replica: &Replica) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        "settings",
        format!("{CONFIG_FILE} makes sense."),
    )];
    findings.extend(private_files(&replica.dir));
    findings.push(daemon(replica));
    findings.push(mount(replica));
    findings.extend(other_users(replica));
    findings.extend(volume(replica).await);
    findings.push(clock(&replica.dir));
    findings.push(store(replica).await);
    findings
}

fn fuse_device() -> Finding {
    const CHECK: &str = "FUSE";
    let path = Path::new("/dev/fuse");
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::ok(CHECK, "/dev/fuse can be used."),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Finding::new(Level::Error, CHECK, "There is no /dev/fuse.")
                .remedy("Load the kernel's module: `modprobe fuse` as root. In a container, pass the device in.")
        }
        Err(e) => Finding::new(Level::Error, CHECK, format!("/dev/fuse cannot be used: {e}."))
            .remedy("Its mode should be 0666, or you need to be in its group."),
    }
}

fn fuse_helper() -> Finding {
    const CHECK: &str = "fusermount3";
    if rustix::process::geteuid().is_root() {
        return Finding::ok(CHECK, "Not needed: root mounts by itself.");
    }
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|dir| dir.join("fusermount3").is_file())
    });
    if found {
        Finding::ok(CHECK, "It is installed.")
    } else {
        Finding::new(
            Level::Error,
            CHECK,
            "It is not installed, and only root mounts without it.",
        )
        .remedy("Install the package fuse3.")
    }
}

fn open_files() -> Finding {
    const CHECK: &str = "open files";
    let limit = rustix::process::getrlimit(Resource::Nofile).current;
    match limit {
        Some(limit) if limit < FILES_WANTED => Finding::new(
            Level::Warning,
            CHECK,
            format!("A process may open {limit} files only."),
        )
        .remedy(format!("`ulimit -n {FILES_WANTED}` before `larder mount`.")),
        Some(limit) => Finding::ok(CHECK, format!("A process may open {limit} files.")),
        None => Finding::ok(CHECK, "A process may open any number of files."),
    }
}

/// The state directory and what in it is secret: ours, and nobody else's.
fn private_files(dir: &Path) -> Vec<Finding> {
    let mut findings = vec![private("state directory", dir, 0o700)];
    findings.push(private("key", &dir.join("key"), 0o600));
    let secrets = dir.join(SECRETS_FILE);
    if secrets.exists() {
        findings.push(private("secrets", &secrets, 0o600));
    }
    findings
}

fn private(check: &str, path: &Path, wanted: u32) -> Finding {
    let shown = path.display();
    let meta = match fs::metadata(path) {
        Ok(meta) => meta,
        Err(e) => {
            return Finding::new(Level::Error, check, format!("{shown} cannot be read: {e}."));
        }
    };
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        return Finding::new(
            Level::Error,
            check,
            format!("{shown} belongs to user {}, not to you ({us}).", meta.uid()),
        )
        .remedy("Run Larder as the user who made the volume, never with sudo.");
    }
    if meta.mode() & 0o077 != 0 {
        return Finding::new(
            Level::Error,
            check,
            format!(
                "Others may use {shown} (mode {:04o}).",
                meta.mode() & 0o7777
            ),
        )
        .remedy(format!("chmod {wanted:o} {shown}"));
    }
    Finding::ok(check, "It is yours alone.")
}

fn daemon(replica: &Replica) -> Finding {
    const CHECK: &str = "daemon";
    match (Client::find(&replica.dir), lock_holder(&replica.dir)) {
        (Ok(Some(_)), Some(pid)) => Finding::ok(CHECK, format!("It runs, process {pid}.")),
        (Ok(Some(_)), None) => Finding::ok(CHECK, "It runs."),
        (Ok(None), None) => Finding::ok(CHECK, "None runs."),
        (Ok(None), Some(pid)) => Finding::new(
            Level::Warning,
            CHECK,
            format!("Process {pid} holds the volume and answers no commands."),
        )
        .remedy("If it is no other larder command at work, end it: the volume recovers by itself."),
        (Err(failure), _) => Finding::of(Level::Error, CHECK, failure),
    }
}

/// The process that holds the volume's lock, as it wrote itself into it.
fn lock_holder(state_dir: &Path) -> Option<String> {
    let path = state_dir.join("lock");
    let file = File::open(&path).ok()?;
    match file.try_lock_shared() {
        Ok(()) => None,
        Err(_) => Some(
            fs::read_to_string(&path)
                .unwrap_or_default()
                .trim()
                .to_owned(),
        ),
    }
}

fn mount(replica: &Replica) -> Finding {
    const CHECK: &str = "mount";
    let shown = replica.config.mount.display();
    let remedy = format!("Make it an empty directory, or set another in {CONFIG_FILE}.");
    match larder_mount::mend(&replica.config.mount) {
        Ok(Mended::Alive) => Finding::ok(CHECK, format!("The volume is mounted on {shown}.")),
        Ok(Mended::Detached) => Finding::new(
            Level::Warning,
            CHECK,
            format!("A dead daemon's mount was left on {shown}; it was taken away."),
        )
        .remedy("`larder mount` mounts the volume again."),
        Ok(Mended::NotMounted) => match is_empty(&replica.config.mount) {
            Ok(true) => Finding::ok(CHECK, format!("{shown} is there to mount on.")),
            Ok(false) => Finding::new(
                Level::Error,
                CHECK,
                format!("{shown} is not mounted and not empty."),
            )
            .remedy("Move what is in it away, or `larder adopt` it from another place."),
            Err(e) => Finding::new(Level::Error, CHECK, format!("{shown}: {e}.")).remedy(remedy),
        },
        Err(error) => Finding::of(Level::Error, CHECK, Failure::from(error)),
    }
}

fn is_empty(dir: &Path) -> std::io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

/// Whether other users may be let in, if the settings say that they are.
fn other_users(replica: &Replica) -> Option<Finding> {
    const CHECK: &str = "allow-other";
    if !replica.config.allow_other || rustix::process::geteuid().is_root() {
        return None;
    }
    let allowed = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    Some(if allowed {
        Finding::ok(CHECK, "/etc/fuse.conf permits it.")
    } else {
        Finding::new(Level::Error, CHECK, "/etc/fuse.conf does not permit it.")
            .remedy("Add the line `user_allow_other` to /etc/fuse.conf as root.")
    })
}

/// What the volume itself tells: whether its database is whole, and what it takes here.
async fn volume(replica: &Replica) -> Vec<Finding> {
    const CHECK: &str = "database";
    let session = match Session::start(replica).await {
        Ok(session) => session,
        Err(failure) => return vec![Finding::of(Level::Error, CHECK, failure)],
    };
    let problems = session.ask(CheckDatabase {}, &|_| {}).await;
    let status = session.ask(Status {}, &|_| {}).await;
    let ended = session.end().await;
    vec![
        match problems.and_then(|problems| ended.map(|()| problems)) {
            Err(failure) => Finding::of(Level::Error, CHECK, failure),
            Ok(problems) if problems.is_empty() => Finding::ok(CHECK, "It is whole."),
            Ok(problems) => damaged_database(CHECK, &problems),
        },
        match status {
            Err(failure) => Finding::of(Level::Error, "disk space", failure),
            Ok(status) => space(replica, status.bytes_here),
        },
    ]
}

fn damaged_database(check: &str, problems: &[String]) -> Finding {
    let said = problems.join("; ");
    Finding::new(Level::Error, check, format!("It is damaged: {said}.")).remedy(
        "Keep a copy of the state directory. What is stored is safe: move the directory away \
         and `larder open` the volume again; files that were not stored yet are in `cache/`.",
    )
}

fn space(replica: &Replica, here: u64) -> Finding {
    const CHECK: &str = "disk space";
    let stat = match rustix::fs::statvfs(&replica.dir) {
        Ok(stat) => stat,
        Err(e) => return Finding::new(Level::Error, CHECK, format!("It cannot be told: {e}.")),
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let settings = replica.config.settings();
    let to_come = settings.budget_bytes.saturating_sub(here);
    let message = format!(
        "{} free; the budget of {} may take {} more.",
        ByteSize(free),
        replica.config.budget,
        ByteSize(to_come),
    );
    if free < settings.keep_free_bytes {
        Finding::new(Level::Error, CHECK, message)
            .remedy("Free some space, or `larder stash` what is not needed here.")
    } else if free < to_come.saturating_add(settings.keep_free_bytes) {
        Finding::new(Level::Warning, CHECK, message).remedy(format!(
            "Lower `budget` in {CONFIG_FILE}, or free some space."
        ))
    } else {
        Finding::ok(CHECK, message)
    }
}

/// Whether the clock is behind what Larder wrote before.
fn clock(state_dir: &Path) -> Finding {
    const CHECK: &str = "clock";
    let newest = ["volume.db", "volume.db-wal", "lock", CONFIG_FILE]
        .iter()
        .filter_map(|file| fs::metadata(state_dir.join(file)).ok()?.modified().ok())
        .max();
    let ahead = newest.and_then(|time| time.duration_since(SystemTime::now()).ok());
    match ahead {
        Some(ahead) if ahead > CLOCK_SLACK => Finding::new(
            Level::Warning,
            CHECK,
            format!(
                "It is {} behind the last change here.",
                crate::units::show_duration(ahead)
            ),
        )
        .remedy("Set the clock; `timedatectl set-ntp true` keeps it right."),
        _ => Finding::ok(CHECK, "It is not behind what was written here."),
    }
}

async fn store(replica: &Replica) -> Finding {
    const CHECK: &str = "store";
    let address = &replica.config.store.address;
    let store = match stores::open(&replica.config.store, &replica.dir, Root::Expected) {
        Ok(store) => store,
        Err(failure) => return Finding::of(Level::Error, CHECK, failure),
    };
    let remedy = "`larder store check` tries it out step by step.";
    match tokio::time::timeout(STORE_PATIENCE, larder_volume::find_volume(&*store)).await {
        Ok(Ok(Some(volume))) if volume == replica.volume => {
            Finding::ok(CHECK, format!("{address} answers and holds this volume."))
        }
        Ok(Ok(Some(other))) => Finding::new(
            Level::Error,
            CHECK,
            format!("{address} holds another volume, {other}."),
        )
        .remedy(format!("Correct the address in {CONFIG_FILE}.")),
        Ok(Ok(None)) => Finding::new(
            Level::Error,
            CHECK,
            format!("{address} answers and holds no volume."),
        )
        .remedy(format!("Correct the address in {CONFIG_FILE}.")),
        Ok(Err(error)) => Finding::of(Level::Error, CHECK, error.into()).remedy(remedy),
        Err(_) => Finding::new(
            Level::Error,
            CHECK,
            format!(
                "{address} did not answer within {} s.",
                STORE_PATIENCE.as_secs()
            ),
        )
        .remedy(remedy),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_that_others_may_read_is_an_error_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        fs::write(&key, "").unwrap();
        for (mode, level) in [(0o600, Level::Ok), (0o644, Level::Error)] {
            fs::set_permissions(&key, Permissions::from_mode(mode)).unwrap();
            let finding = private("key", &key, 0o600);
            assert_eq!(finding.level, level);
            let mends = finding.remedy.is_some_and(|r| r.starts_with("chmod 600"));
            assert_eq!(mends, level == Level::Error);
        }
    }

    #[test]
    fn the_lock_tells_who_holds_it_and_whether() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(lock_holder(dir.path()), None);
        let lock = File::create(dir.path().join("lock")).unwrap();
        fs::write(dir.path().join("lock"), "42").unwrap();
        assert_eq!(lock_holder(dir.path()), None, "written and not held");
        lock.lock().unwrap();
        assert_eq!(lock_holder(dir.path()), Some("42".into()));
    }

    #[test]
    fn a_clock_that_went_back_is_a_warning() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("volume.db")).unwrap();
        assert_eq!(clock(dir.path()).level, Level::Ok);
        file.set_modified(SystemTime::now() + 24 * CLOCK_SLACK)
            .unwrap();
        assert_eq!(clock(dir.path()).level, Level::Warning);
    }
}

//! What a volume can be asked to do, and how each is done on it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use larder_model::Kind;
use larder_volume::progress::{Progress, Report, Unit};
use larder_volume::{Entry, Ino, StashOptions, Volume};
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use crate::failure::Failure;
use crate::host::Host;
use crate::report::{
    AdoptReport, CheckoutReport, CommitMade, DamageReport, EntryReport, KeptReport, NodeKind,
    PinReport, Presence, StashReport, StatusReport, StoreReport, TreePath, VerifyReport,
};
use crate::wire::Operation;

/// The state of the volume.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {}

/// What is at these paths, or below them.
#[derive(Debug, Serialize, Deserialize)]
pub struct List {
    /// Which.
    pub paths: Vec<TreePath>,
    /// All that is below directories too.
    pub recursive: bool,
    /// A directory itself, not what is in it.
    pub directory: bool,
}

/// Drop the local content of what is stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Stash {
    /// Which.
    pub paths: Vec<TreePath>,
    /// Only what was not used for so long.
    pub older_than_secs: Option<u64>,
    /// Only say what would be dropped.
    pub dry_run: bool,
}

/// Bring content.
#[derive(Debug, Serialize, Deserialize)]
pub struct Checkout {
    /// Of which.
    pub paths: Vec<TreePath>,
}

/// Pin or unpin.
#[derive(Debug, Serialize, Deserialize)]
pub struct Pin {
    /// Which.
    pub paths: Vec<TreePath>,
    /// Whether they are to be pinned.
    pub pinned: bool,
}

/// Take a directory in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Adopt {
    /// The directory's absolute path, as bytes.
    source: TreePath,
    /// Where it is to be.
    target: TreePath,
}

/// Make a commit of what is there now.
#[derive(Debug, Serialize, Deserialize)]
pub struct Commit {
    /// What it is.
    pub message: Option<String>,
    /// Of what; of all if empty.
    pub paths: Vec<TreePath>,
}

/// Compare content with its hashes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verify {
    /// Of which; of all if empty.
    pub paths: Vec<TreePath>,
    /// Also what the stores hold.
    pub stores: bool,
}

/// Have the database check itself: what is wrong with it, in words.
#[derive(Debug, Serialize, Deserialize)]
pub struct CheckDatabase {}

/// Unmount, and end the daemon; answers how many bytes are not stored yet.
#[derive(Debug, Serialize, Deserialize)]
pub struct Unmount {
    /// Although files are open in it.
    pub force: bool,
}

impl Operation for Status {
    const NAME: &'static str = "status";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = StatusReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<StatusReport, Failure> {
        let status = block_in_place(|| host.volume.status())?;
        let conflicts = block_in_place(|| host.volume.count_conflicts())?;
        let mounted = host.mounted.lock().is_some();
        let upload_bytes_per_sec = status.stores.iter().map(|s| s.upload_bytes_per_sec).sum();
        let waiting = status.stores.iter().map(|s| s.waiting_bytes).max();
        let bytes_waiting = waiting.unwrap_or(status.dirty_bytes);
        let left_secs = status.stores.iter().filter_map(|s| s.seconds_left).max();
        Ok(StatusReport {
            volume: status.volume,
            mount: host.replica.config.mount.clone(),
            mounted,
            daemon_pid: mounted.then(std::process::id),
            files: status.files,
            directories: status.directories,
            bytes_all: status.bytes_all,
            bytes_here: status.bytes_here,
            budget_bytes: status.budget_bytes,
            files_waiting: status.dirty_files,
            bytes_waiting,
            files_local: status.local_files,
            bytes_local: status.local_bytes,
            uncommitted_nodes: status.uncommitted_nodes,
            conflicts,
            upload_bytes_per_sec,
            left_secs,
            stores: status.stores.into_iter().map(StoreReport::from).collect(),
            warnings: status.warnings,
        })
    }
}

impl From<larder_volume::StoreStatus> for StoreReport {
    fn from(store: larder_volume::StoreStatus) -> Self {
        Self {
            address: store.address,
            reachable: store.reachable,
            last_error: store.last_error,
            bytes_waiting: store.waiting_bytes,
            upload_bytes_per_sec: store.upload_bytes_per_sec,
            download_bytes_per_sec: store.download_bytes_per_sec,
            left_secs: store.seconds_left,
        }
    }
}

impl Operation for List {
    const NAME: &'static str = "list";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = Vec<EntryReport>;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<Vec<EntryReport>, Failure> {
        let volume = &host.volume;
        block_in_place(|| {
            let mut found = Vec::new();
            for path in &self.paths {
                let ino = resolve(volume, path)?;
                match self.directory {
                    true => found.push(volume.entry(ino)?),
                    false => found.extend(volume.entries(ino, self.recursive)?),
                }
            }
            Ok(found.into_iter().map(EntryReport::from).collect())
        })
    }
}

impl From<Entry> for EntryReport {
    fn from(entry: Entry) -> Self {
        let attr = entry.attr;
        Self {
            path: TreePath(entry.path),
            kind: attr.kind.into(),
            mode: attr.mode,
            links: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            size_bytes: attr.size,
            modified: attr.mtime.0,
            presence: match entry.presence {
                larder_volume::Presence::Here => Presence::Here,
                larder_volume::Presence::Part => Presence::Part,
                larder_volume::Presence::Away => Presence::Away,
            },
            bytes_here: entry.bytes_here,
            dirty: entry.dirty,
            pinned: entry.pinned,
            local: entry.local,
            stores: entry.stores,
            target: entry.target.map(TreePath),
        }
    }
}

impl From<Kind> for NodeKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::File => Self::File,
            Kind::Directory => Self::Directory,
            Kind::Symlink => Self::Symlink,
            Kind::Fifo => Self::Fifo,
            Kind::Socket => Self::Socket,
            Kind::CharDevice => Self::CharDevice,
            Kind::BlockDevice => Self::BlockDevice,
        }
    }
}

impl Operation for Stash {
    const NAME: &'static str = "stash";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = StashReport;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<StashReport, Failure> {
        let options = StashOptions {
            older_than: self.older_than_secs.map(Duration::from_secs),
            dry_run: self.dry_run,
        };
        let stashed = block_in_place(|| {
            let inos = resolve_all(&host.volume, &self.paths)?;
            Ok::<_, Failure>(host.volume.stash(&inos, &options, report)?)
        })?;
        Ok(StashReport {
            dry_run: self.dry_run,
            files: stashed.files,
            freed_bytes: stashed.freed_bytes,
            kept: kept(stashed.kept),
        })
    }
}

fn kept(files: Vec<(Vec<u8>, String)>) -> Vec<KeptReport> {
    let report = |(path, reason)| KeptReport {
        path: TreePath(path),
        reason,
    };
    files.into_iter().map(report).collect()
}

impl Operation for Checkout {
    const NAME: &'static str = "checkout";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = CheckoutReport;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<CheckoutReport, Failure> {
        let inos = block_in_place(|| resolve_all(&host.volume, &self.paths))?;
        let brought = host.volume.checkout(&inos, report).await?;
        Ok(CheckoutReport {
            files: brought.files,
            fetched_bytes: brought.fetched_bytes,
            failed: kept(brought.failed),
            cut: brought.cut,
        })
    }
}

impl Operation for Pin {
    const NAME: &'static str = "pin";
    const STOPS_WITH_ASKER: bool = false;
    type Answer = PinReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<PinReport, Failure> {
        block_in_place(|| {
            let inos = resolve_all(&host.volume, &self.paths)?;
            match self.pinned {
                true => host.volume.pin(&inos)?,
                false => host.volume.unpin(&inos)?,
            }
            Ok(PinReport {
                changed: inos.len() as u64,
                pinned: self.pinned,
            })
        })
    }
}

impl Adopt {
    /// Take in the directory at `source`, an absolute path, as `target`.
    pub fn new(source: &Path, target: TreePath) -> Self {
        Self {
            source: TreePath(source.as_os_str().as_bytes().to_vec()),
            target,
        }
    }
}

impl Operation for Adopt {
    const NAME: &'static str = "adopt";
    const STOPS_WITH_ASKER: bool = false;
    type Answer = AdoptReport;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<AdoptReport, Failure> {
        let source = PathBuf::from(OsString::from_vec(self.source.0));
        let mount = &host.replica.config.mount;
        if source.starts_with(mount) || mount.starts_with(&source) {
            return Err(Failure::usage(format!(
                "{} and the mount at {} lie within each other.",
                source.display(),
                mount.display()
            )));
        }
        let (parent, name) = match self.target.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.target.0[..slash], &self.target.0[slash + 1..]),
            None => (&[][..], &self.target.0[..]),
        };
        let adopted = block_in_place(|| {
            let parent = resolve(&host.volume, &TreePath(parent.to_vec()))?;
            let adopted = host.volume.adopt(&source, parent, name, report);
            adopted.map_err(|error| Failure::about(&source.display(), &error))
        })?;
        let left = |(path, reason): (String, String)| KeptReport {
            path: TreePath(path.into_bytes()),
            reason,
        };
        Ok(AdoptReport {
            path: self.target.clone(),
            files: adopted.files,
            directories: adopted.directories,
            bytes: adopted.bytes,
            kept: adopted.left.into_iter().map(left).collect(),
        })
    }
}

impl Operation for Commit {
    const NAME: &'static str = "commit";
    const STOPS_WITH_ASKER: bool = false;
    const NEEDS_LOOPS: bool = true;
    type Answer = CommitMade;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<CommitMade, Failure> {
        let report = storing(host, report);
        let paths = self.paths.into_iter().map(|path| path.0).collect();
        let commit = host
            .volume
            .commit_paths(self.message, paths, &report)
            .await?;
        Ok(CommitMade {
            n: commit.n,
            id: commit.id,
            still_changing: commit.still_changing,
            files_local: host.volume.local_files(),
        })
    }
}

/// Tells of what is being stored in bytes, or one large file would stand still; and says so when
/// the store is away.
pub(crate) fn storing<'a>(
    host: &'a Host,
    report: Report<'a>,
) -> impl Fn(Progress) + Send + Sync + 'a {
    let most = AtomicU64::new(0);
    move |mut progress: Progress| {
        let status = host.volume.push_status();
        let waiting = status.waiting_bytes;
        progress.unit = Unit::Bytes;
        progress.total = most.fetch_max(waiting, Ordering::Relaxed).max(waiting);
        progress.done = progress.total - waiting;
        if let Some(error) = status.last_error {
            progress.phase = format!("waiting for the store ({error})");
        }
        report(progress);
    }
}

impl Operation for Verify {
    const NAME: &'static str = "verify";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = VerifyReport;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<VerifyReport, Failure> {
        let all = [TreePath::default()];
        let paths = match self.paths.as_slice() {
            [] => &all[..],
            paths => paths,
        };
        let inos = block_in_place(|| resolve_all(&host.volume, paths))?;
        let verified = host.volume.verify(&inos, self.stores, report).await?;
        Ok(VerifyReport {
            files: verified.files,
            bytes: verified.bytes,
            objects: verified.objects,
            damaged: damage(verified.damaged),
            missing: damage(verified.missing),
            unknown: damage(verified.unknown),
        })
    }
}

fn damage(found: Vec<larder_volume::Finding>) -> Vec<DamageReport> {
    let report = |finding: larder_volume::Finding| DamageReport {
        place: TreePath(finding.place),
        problem: finding.problem,
        mended: finding.mended,
    };
    found.into_iter().map(report).collect()
}

impl Operation for CheckDatabase {
    const NAME: &'static str = "check-database";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = Vec<String>;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<Vec<String>, Failure> {
        Ok(block_in_place(|| host.volume.database_check())?)
    }
}

impl Operation for Unmount {
    const NAME: &'static str = "unmount";
    const STOPS_WITH_ASKER: bool = false;
    type Answer = u64;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<u64, Failure> {
        block_in_place(|| host.unmount(self.force))?;
        let waiting = host.volume.push_status().waiting_bytes;
        host.ending.send_replace(true);
        Ok(waiting)
    }
}

fn resolve(volume: &Volume, path: &TreePath) -> Result<Ino, Failure> {
    let found = volume.resolve(&path.0);
    found.map_err(|error| Failure::about(path, &error))
}

fn resolve_all(volume: &Volume, paths: &[TreePath]) -> Result<Vec<Ino>, Failure> {
    paths.iter().map(|path| resolve(volume, path)).collect()
}

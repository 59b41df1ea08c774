//! What operations answer. These are the shapes that `--json` prints, so a field is never
//! renamed and never changes its meaning; new ones may come. Units are in the names; times
//! are nanoseconds since 1970.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A path within the volume: names joined by `/`. In JSON a string, or a list of its bytes
/// if it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TreePath(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written<'a> {
    Text(std::borrow::Cow<'a, str>),
    Bytes(Vec<u8>),
}

impl Serialize for TreePath {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => Written::Text(text.into()),
            Err(_) => Written::Bytes(self.0.clone()),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for TreePath {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Text(text) => text.into_owned().into_bytes(),
            Written::Bytes(bytes) => bytes,
        }))
    }
}

/// As a terminal may show it: what is not text, and control characters, are escaped; the
/// root is `/`.
impl fmt::Display for TreePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        for part in self.0.utf8_chunks() {
            for c in part.valid().chars() {
                match c.is_control() {
                    true => write!(f, "{}", c.escape_default())?,
                    false => write!(f, "{c}")?,
                }
            }
            part.invalid()
                .iter()
                .try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

/// The state of a volume on this machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusReport {
    /// The volume's id.
    pub volume: String,
    /// Where it is, or would be, mounted.
    pub mount: PathBuf,
    /// Whether it is mounted.
    pub mounted: bool,
    /// The daemon's process, if one runs.
    pub daemon_pid: Option<u32>,
    /// Files.
    pub files: u64,
    /// Directories, the root among them.
    pub directories: u64,
    /// Bytes of all files.
    pub bytes_all: u64,
    /// Bytes of content on this machine.
    pub bytes_here: u64,
    /// Bytes that are not stored yet.
    pub bytes_waiting: u64,
    /// Files that are not stored yet.
    pub files_waiting: u64,
    /// Bytes of files that rules keep on this machine only.
    pub bytes_local: u64,
    /// How many such files there are: no store has them.
    pub files_local: u64,
    /// What this machine may keep.
    pub budget_bytes: u64,
    /// Nodes that differ from the latest commit.
    pub uncommitted_nodes: u64,
    /// Files that stand there more than once: `conflicts` lists them.
    #[serde(default)]
    pub conflicts: u64,
    /// Bytes of files per second that are stored now: so fast goes what waits.
    pub upload_bytes_per_sec: u64,
    /// How long the rest takes at that speed, if it can be told.
    pub left_secs: Option<u64>,
    /// The stores.
    pub stores: Vec<StoreReport>,
    /// What the user should know, in words.
    pub warnings: Vec<String>,
}

/// The state of one store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoreReport {
    /// Its address, without secrets.
    pub address: String,
    /// Whether the last attempt to reach it worked.
    pub reachable: bool,
    /// Why it was not reached.
    pub last_error: Option<String>,
    /// Bytes on their way to it or waiting.
    pub bytes_waiting: u64,
    /// Bytes of files per second that it gets now: so fast goes what waits.
    pub upload_bytes_per_sec: u64,
    /// The speed from it now.
    pub download_bytes_per_sec: u64,
    /// How long the rest takes at that speed, if it can be told.
    pub left_secs: Option<u64>,
}

/// How much of a file is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// All.
    Here,
    /// Some.
    Part,
    /// Nothing.
    Away,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// One line of `ls`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryReport {
    /// Its path in the volume.
    pub path: TreePath,
    /// What it is.
    pub kind: NodeKind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Links to it.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Its true size in bytes, wherever they are.
    pub size_bytes: u64,
    /// Last change of its content.
    pub modified: i64,
    /// How much of it is here.
    pub presence: Presence,
    /// Bytes of it on this machine's disk.
    pub bytes_here: u64,
    /// Whether it holds what is not stored yet.
    pub dirty: bool,
    /// Whether it is pinned, itself or by a directory above.
    pub pinned: bool,
    /// Whether a rule keeps it on this machine.
    pub local: bool,
    /// How many stores hold all of it.
    pub stores: u32,
    /// Where a symlink leads.
    pub target: Option<TreePath>,
}

/// A file that was left as it is, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReport {
    /// Which.
    pub path: TreePath,
    /// Why, as "it is not stored yet".
    pub reason: String,
}

/// What `stash` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StashReport {
    /// Whether it only says what it would do.
    pub dry_run: bool,
    /// Files dropped from here.
    pub files: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Files kept.
    pub kept: Vec<KeptReport>,
}

/// What `checkout` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckoutReport {
    /// Files that are here whole now and were not before.
    pub files: u64,
    /// Bytes that were brought.
    pub fetched_bytes: u64,
    /// Files that could not be brought.
    pub failed: Vec<KeptReport>,
    /// Whether it ended before all was tried, because the store or the disk gave out.
    pub cut: bool,
}

/// What `pin` or `unpin` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinReport {
    /// How many paths changed.
    pub changed: u64,
    /// Whether they are pinned now.
    pub pinned: bool,
}

/// What `adopt` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptReport {
    /// Where the directory is now.
    pub path: TreePath,
    /// Files taken in.
    pub files: u64,
    /// Directories taken in.
    pub directories: u64,
    /// Bytes taken in.
    pub bytes: u64,
    /// What could not be taken in and stays where it was.
    pub kept: Vec<KeptReport>,
}

/// A named state of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReport {
    /// Its number among its author's commits, from 1.
    pub n: u64,
    /// Its id.
    pub id: String,
    /// When it was made, by its author's clock.
    pub time: i64,
    /// Its message.
    pub message: Option<String>,
    /// Whether a store holds it.
    pub stored: bool,
    /// The replica that made it.
    pub author: String,
    /// The names that it was given.
    pub tags: Vec<String>,
}

/// A name of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TagReport {
    /// The name, with the replica behind it if another commit has the plain name.
    pub name: String,
    /// The commit's id.
    pub commit: String,
    /// When the name was given, in nanoseconds since 1970; `None`: it was just taken back.
    pub time: Option<i64>,
    /// The replicas that gave it, the first one first.
    pub given_by: Vec<String>,
}

/// What `log` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogReport {
    /// The commits, the newest first.
    pub commits: Vec<CommitReport>,
    /// Why older ones could not be read, if so.
    pub cut: Option<String>,
}

/// What became of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// It was made, or came back.
    Added,
    /// It was deleted.
    Removed,
    /// Its content changed.
    Content,
    /// Its name or directory changed.
    Moved,
    /// Its mode, owner, time or extended attributes changed.
    Attributes,
}

/// A change from one commit to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReport {
    /// What.
    pub change: Change,
    /// Of what.
    pub kind: NodeKind,
    /// Where: in the newer commit, or in the older one if it was deleted.
    pub path: TreePath,
    /// Where it was, if elsewhere.
    pub from: Option<TreePath>,
    /// Its size before, in bytes.
    pub size_before: Option<u64>,
    /// Its size after, in bytes.
    pub size_after: Option<u64>,
}

/// A commit that changed a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventReport {
    /// The commit.
    pub commit: CommitReport,
    /// What it did to the path.
    pub change: ChangeReport,
}

/// What `show` and `diff` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReport {
    /// The older commit; none: an empty tree.
    pub from: Option<CommitReport>,
    /// The newer commit.
    pub to: CommitReport,
    /// What differs, by path.
    pub changes: Vec<ChangeReport>,
}

/// What `restore` or `undelete` did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    /// The commit that it came from.
    pub commit: CommitReport,
    /// Where it is now.
    pub path: TreePath,
    /// Files that came back.
    pub files: u64,
    /// Directories that came back.
    pub directories: u64,
    /// The bytes of these files.
    pub bytes: u64,
    /// Files that were as they are.
    pub same: u64,
    /// What could not come back.
    pub kept: Vec<KeptReport>,
}

/// What `commit` made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitMade {
    /// Its number on this replica; 0 if it is another replica's and nothing changed since.
    pub n: u64,
    /// Its id.
    pub id: String,
    /// Files that changed again whenever they were stored: the commit has them as they were
    /// stored last, if at all.
    pub still_changing: Vec<String>,
    /// Files that rules keep on this machine only: no commit has them.
    pub files_local: u64,
}

/// What `sync` brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncReport {
    /// Commits of other machines that are included now and were not before.
    pub commits: u64,
    /// Files, directories and the like that changed here.
    pub changed: u64,
    /// What was changed on both sides, and stands side by side now or has another name.
    pub conflicts: Vec<TreePath>,
    /// What is left for later, in words.
    pub left: Vec<String>,
}

/// What `sync` would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreviewReport {
    /// What would change here.
    pub coming: Vec<ChangeReport>,
    /// What was changed on both sides, and would stand side by side.
    pub conflicts: Vec<TreePath>,
    /// What was made or changed here since the latest commit, or is not stored yet.
    pub going: Vec<TreePath>,
    /// How many files, directories and the like were deleted here since the latest commit.
    pub going_deleted: u64,
    /// What could not be read, in words.
    pub left: Vec<String>,
}

/// A file that stands there more than once, as machines changed it apart from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictReport {
    /// The path that all of them had.
    pub path: TreePath,
    /// The one that has it still, if one does, then the others.
    pub versions: Vec<VersionReport>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReport {
    /// What `resolve` calls it.
    pub letter: String,
    /// Where it is.
    pub path: TreePath,
    /// What it is.
    pub kind: NodeKind,
    /// How long it is.
    pub size_bytes: u64,
    /// When its content changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// Whose it is, unless it has the name.
    pub replica: Option<String>,
    /// Of which day it is (`2026-11-21`), unless it has the name.
    pub day: Option<String>,
}

/// What became of a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedReport {
    /// What is there now.
    pub kept: Vec<TreePath>,
    /// What is not any more.
    pub removed: Vec<TreePath>,
}

/// Of how many periods the last commit is kept; `None`: of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Periods {
    /// Hours.
    pub hourly: Option<u64>,
    /// Days.
    pub daily: Option<u64>,
    /// Weeks, from Monday on.
    pub weekly: Option<u64>,
    /// Months.
    pub monthly: Option<u64>,
}

/// How much of the history is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReport {
    /// `None`: everything.
    pub keep: Option<Periods>,
}

/// What `collect` found and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectReport {
    /// Whether it only looked.
    pub dry_run: bool,
    /// Commits that are kept.
    pub commits_kept: u64,
    /// Commits that were given up.
    pub commits_given_up: u64,
    /// Packs that nothing kept needs, and that are not deleted yet.
    pub packs_condemned: u64,
    /// Their bytes on the store.
    pub bytes_condemned: u64,
    /// Packs that were deleted.
    pub packs_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Packs that had been condemned and are needed again.
    pub packs_let_off: u64,
    /// The machines that have to know first.
    pub waiting: Vec<WaitingReport>,
}

/// A machine that has to know before something is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingReport {
    /// Its id.
    pub replica: String,
    /// When something new was last seen of it, in nanoseconds since 1970.
    pub heard: i64,
}

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamageReport {
    /// Where: a path in the volume, or an object of a store.
    pub place: TreePath,
    /// What, in words.
    pub problem: String,
    /// Whether it is well again: the content was fetched anew.
    pub mended: bool,
}

/// What `verify` found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Files whose content here was compared with its hashes.
    pub files: u64,
    /// Bytes that were read and hashed, here and on the stores.
    pub bytes: u64,
    /// Objects of the stores that were read.
    pub objects: u64,
    /// What is not what it must be.
    pub damaged: Vec<DamageReport>,
    /// What should be there and is not.
    pub missing: Vec<DamageReport>,
    /// What could not be looked at; it may be well.
    pub unknown: Vec<DamageReport>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_of_any_bytes_goes_through_json_and_is_safe_on_a_terminal() {
        for (bytes, json, shown) in [
            (&b""[..], "\"\"", "/"),
            (b"a/\xc3\xa9", "\"a/é\"", "a/é"),
            (b"a\x1b[1m", "\"a\\u001b[1m\"", "a\\u{1b}[1m"),
            (b"\xffz", "[255,122]", "\\xffz"),
        ] {
            let path = TreePath(bytes.to_vec());
            assert_eq!(serde_json::to_string(&path).unwrap(), json);
            assert_eq!(serde_json::from_str::<TreePath>(json).unwrap(), path);
            assert_eq!(path.to_string(), shown);
        }
    }
}

//! What a volume tells of itself and of its files.

use larder_model::Kind;
use rusqlite::OptionalExtension;
use serde::{Deserialize, Serialize};

use crate::live::is_pinned;
use crate::{Attr, Ino, Result, Volume, VolumeError};

/// The state of a volume on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// The volume's id.
    pub volume: String,
    /// Regular files in the tree.
    pub files: u64,
    /// Directories in the tree, the root among them.
    pub directories: u64,
    /// Bytes of all files, wherever they are.
    pub bytes_all: u64,
    /// Bytes that content takes on this machine's disk.
    pub bytes_here: u64,
    /// How many this machine keeps.
    pub budget_bytes: u64,
    /// Files whose changes are not stored yet.
    pub dirty_files: u64,
    /// Their bytes.
    pub dirty_bytes: u64,
    /// Files that rules keep on this machine only: no store has them.
    pub local_files: u64,
    /// Their bytes.
    pub local_bytes: u64,
    /// Nodes that differ from the latest commit.
    pub uncommitted_nodes: u64,
    /// The stores.
    pub stores: Vec<StoreStatus>,
    /// What the user should know, in words.
    pub warnings: Vec<String>,
}

/// The state of a store as this machine sees it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Its address.
    pub address: String,
    /// Whether it answered when it was last asked.
    pub reachable: bool,
    /// Why not, if it did not.
    pub last_error: Option<String>,
    /// Bytes that wait to be stored.
    pub waiting_bytes: u64,
    /// Bytes of files per second that were stored, lately: so fast goes what waits.
    pub upload_bytes_per_sec: u64,
    /// Bytes per second from the store, lately.
    pub download_bytes_per_sec: u64,
    /// Seconds until all that waits is stored, at this rate; unknown if `None`.
    pub seconds_left: Option<u64>,
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

/// A node of the tree, and where its content is.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its path from the root.
    pub path: Vec<u8>,
    /// What `stat` shows.
    pub attr: Attr,
    /// Target, of symlinks.
    pub target: Option<Vec<u8>>,
    /// How much is here.
    pub presence: Presence,
    /// Bytes that it takes here.
    pub bytes_here: u64,
    /// Whether it has changes that are not stored yet.
    pub dirty: bool,
    /// Whether it, or a directory above it, is pinned.
    pub pinned: bool,
    /// Whether a rule keeps it on this machine only.
    pub local: bool,
    /// How many stores hold its content for sure.
    pub stores: u32,
}

impl Volume {
    /// The state of the volume. Counts the tree: some tenths of a second for a million
    /// nodes.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn status(&self) -> Result<Status> {
        let (files, directories, bytes_all, uncommitted) = self.db.read_snapshot(|connection| {
            let count = |kind: Kind| -> Result<(i64, i64)> {
                Ok(connection.query_row(
                    "SELECT count(*), coalesce(sum(size), 0) FROM nodes WHERE kind = ?1 AND nlink > 0",
                    [larder_format::kind_code(kind)],
                    |row| Ok((row.get(0)?, row.get(1)?)),
                )?)
            };
            let (files, bytes) = count(Kind::File)?;
            let (directories, _) = count(Kind::Directory)?;
            let uncommitted: i64 =
                connection.query_row("SELECT count(*) FROM changed", [], |row| row.get(0))?;
            Ok((files as u64, directories as u64, bytes as u64, uncommitted as u64))
        })?;
        let (dirty_bytes, dirty_files) = self.live.dirty_totals();
        let (local_bytes, local_files) = self.live.local_totals();
        let push = self.push_status();
        let pull = self.pull_status();
        let mut warnings = self.recovery_warnings()?;
        warnings.extend(push.warnings);
        warnings.extend(pull.warnings);
        Ok(Status {
            volume: self.id().to_string(),
            files,
            directories,
            bytes_all,
            bytes_here: self.live.here_bytes(),
            budget_bytes: self.settings.budget_bytes,
            dirty_files,
            dirty_bytes,
            local_files,
            local_bytes,
            uncommitted_nodes: uncommitted,
            stores: vec![StoreStatus {
                address: self.store.address().to_owned(),
                reachable: push.last_error.is_none() && pull.last_error.is_none(),
                last_error: push.last_error.or(pull.last_error),
                waiting_bytes: push.waiting_bytes,
                upload_bytes_per_sec: push.bytes_per_sec,
                download_bytes_per_sec: pull.bytes_per_sec,
                seconds_left: push.seconds_left,
            }],
            warnings,
        })
    }

    /// How many files rules keep on this machine only: no store has them.
    pub fn local_files(&self) -> u64 {
        self.live.local_totals().1
    }

    fn recovery_warnings(&self) -> Result<Vec<String>> {
        let listed = self.recovered()?;
        let mut warnings: Vec<_> = listed
            .iter()
            .take(20)
            .map(|(path, previous)| {
                let path = String::from_utf8_lossy(path);
                match previous {
                    true => format!(
                        "{path} was being changed when the machine went down; its previous \
                         version is kept in the commits"
                    ),
                    false => format!("{path} was being written when the machine went down"),
                }
            })
            .collect();
        if self.recovery.dropped_files > 0 {
            warnings.push(format!(
                "the machine went down while content was coming in: {} files are away again, \
                 and come when they are read",
                self.recovery.dropped_files
            ));
        }
        if self.recovery.strays > 0 {
            warnings.push(format!(
                "{} files that lost their names when the machine went down lie in {}",
                self.recovery.strays,
                self.dir.strays().display()
            ));
        }
        if listed.len() > 20 {
            warnings.push(format!("… and {} more such files", listed.len() - 20));
        }
        Ok(warnings)
    }

    /// A node, and where its content is.
    ///
    /// # Errors
    /// [`VolumeError::NoEntry`] if it is gone.
    pub fn entry(&self, ino: Ino) -> Result<Entry> {
        let attr = self.attr(ino)?;
        let path = self.path_of(ino)?.ok_or(VolumeError::NoEntry)?;
        let local = self.is_local(ino)?;
        let (cached, safe, target, pinned) = self.db.read_snapshot(|connection| {
            let cached: Option<(bool, bool, i64)> = connection
                .prepare_cached("SELECT whole, dirty, bytes FROM cached WHERE ino = ?1")?
                .query_row([ino as i64], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            let (safe, target) = connection
                .prepare_cached("SELECT safe, target FROM nodes WHERE ino = ?1")?
                .query_row([ino as i64], |row| {
                    Ok((row.get::<_, bool>(0)?, row.get(1)?))
                })?;
            Ok((cached, safe, target, is_pinned(connection, ino)?))
        })?;
        let (presence, dirty, bytes_here) = match cached {
            Some((whole, dirty, bytes)) => {
                let part = match whole {
                    true => Presence::Here,
                    false => Presence::Part,
                };
                (part, dirty, bytes as u64)
            }
            None if attr.kind == Kind::File && attr.size > 0 => (Presence::Away, false, 0),
            None => (Presence::Here, false, 0),
        };
        Ok(Entry {
            path,
            target,
            presence,
            bytes_here,
            dirty,
            pinned,
            local,
            stores: u32::from(attr.kind == Kind::File && safe && !dirty),
            attr,
        })
    }

    /// The nodes below `ino` (a node that is no directory: itself), sorted by name; of all
    /// directories below too if `recursive`.
    ///
    /// # Errors
    /// [`VolumeError::NoEntry`] if it is gone.
    pub fn entries(&self, ino: Ino, recursive: bool) -> Result<Vec<Entry>> {
        if self.attr(ino)?.kind != Kind::Directory {
            return Ok(vec![self.entry(ino)?]);
        }
        let mut found = Vec::new();
        for child in self.list_dir(ino)? {
            match self.entry(child.ino) {
                Ok(entry) => found.push(entry),
                Err(VolumeError::NoEntry) => continue,
                Err(error) => return Err(error),
            }
            if recursive && child.kind == Kind::Directory {
                found.extend(self.entries(child.ino, true)?);
            }
        }
        Ok(found)
    }

    /// What statfs(2) shows: the disk under the cache, with the volume's own nodes.
    ///
    /// # Errors
    /// If the disk does not answer.
    pub fn statfs(&self) -> Result<StatFs> {
        let disk = rustix::fs::statvfs(self.cache.root())
            .map_err(|error| VolumeError::io(self.cache.root(), error.into()))?;
        Ok(StatFs {
            block_size: disk.f_frsize,
            blocks: disk.f_blocks,
            free: disk.f_bfree,
            available: disk.f_bavail,
            files: disk.f_files,
            files_free: disk.f_ffree,
        })
    }

    /// A short text for people: what is here, what is dirty, and whether the store answers.
    pub fn status_text(&self) -> String {
        let (dirty_bytes, dirty_files) = self.live.dirty_totals();
        let push = self.push_status();
        let mut text = format!(
            "volume {}\nhere {} bytes of a budget of {}\ndirty {dirty_files} files, {dirty_bytes} bytes\n\
             store {}\n",
            self.id(),
            self.live.here_bytes(),
            self.settings.budget_bytes,
            self.store.address(),
        );
        let pull = self.pull_status();
        for error in push.last_error.iter().chain(&pull.last_error) {
            text.push_str(&format!("error {error}\n"));
        }
        for warning in push.warnings.iter().chain(&pull.warnings) {
            text.push_str(&format!("warning {warning}\n"));
        }
        text
    }
}

/// What statfs(2) shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in a block.
    pub block_size: u64,
    /// Blocks of the disk.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Free ones that an ordinary user may have.
    pub available: u64,
    /// Nodes that the disk can have.
    pub files: u64,
    /// Free ones of them.
    pub files_free: u64,
}

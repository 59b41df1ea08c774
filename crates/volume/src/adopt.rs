//! Taking an existing directory in, without a second copy of its files.
//!
//! Files are taken in batches, so that a crash at any instant loses none:
//!
//! 1. Each file of a batch gets a second name in the cache (a hard link; a copy if the
//!    directory lies on another file system, or the file has names elsewhere). One that a
//!    program has open for writing is left alone.
//! 2. The cache's directories are synced, then one durable transaction makes the nodes.
//! 3. Only then the old names go, each if it still is that of the file that was taken in.
//!
//! At the end the bytes of all files are synced, too: what was reported as taken in is there
//! after a power cut. Until then a file's bytes are as safe as they were under its old name.
//!
//! A crash between 2 and 3 leaves a file both in the volume and under its old name.
//! Running the command again finds that both are the same file, and goes on.
//!
//! Files that have been quiet for long enough are stored while others are taken in.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_model::{Kind, LinkId, Name, Time};
use serde::{Deserialize, Serialize};

use crate::cache::allocated;
use crate::db::Transaction;
use crate::names::new_node_id;
use crate::node::Attr;
use crate::progress::{Progress, Report, Unit};
use crate::stored_node::insert_row;
use crate::{Ino, Result, Volume, VolumeError};

/// How many files the first batch has. Each further one has twice as many, up to the most:
/// what a batch is made durable by costs the same for a few files as for many.
const FIRST_BATCH_FILES: usize = 512;
const MOST_BATCH_FILES: usize = 2048;
/// A file with more names that seems to be in use is looked at so often, with a pause between.
const LOOKS: u32 = 20;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
/// What was changed longer ago counts as changed so long ago: such files are stored in the
/// order in which they are taken in, so that those of one directory come to one pack.
const LONGEST_QUIET: Duration = Duration::from_secs(60);

/// What an adoption did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct AdoptReport {
    /// Files taken in.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories taken in.
    pub directories: u64,
    /// What was left where it was, and why.
    pub left: Vec<(String, String)>,
}

/// A file that is about to be taken in.
struct Candidate {
    source: PathBuf,
    parent: Ino,
    name: Name,
    meta: Metadata,
}

struct Adoption<'a> {
    volume: &'a Volume,
    report: AdoptReport,
    progress: Report<'a>,
    total: u64,
    batch: Vec<Candidate>,
    batch_files: usize,
    /// The directory of the cache that was made last.
    cache_directory: PathBuf,
    /// Directories that were gone through, those below before those above.
    directories: Vec<(PathBuf, Ino, Metadata)>,
    /// Files with several names: how many of them lie in the directory, and the node once
    /// it is made.
    shared: HashMap<(u64, u64), (u64, Option<Ino>)>,
    /// Nodes that were copied.
    copied: HashSet<Ino>,
}

impl Volume {
    /// Moves all that is in the directory `source` into the volume, as the directory
    /// `name` in `parent`. What the volume has already at that place stays; what cannot be
    /// taken in stays where it is and is listed.
    ///
    /// # Errors
    /// If `source` cannot be read, holds this volume's own state, or the disk fails. What
    /// was taken in until then is in the volume; running it again goes on.
    pub fn adopt(
        &self,
        source: &Path,
        parent: Ino,
        name: &[u8],
        progress: Report<'_>,
    ) -> Result<AdoptReport> {
        let source = std::fs::canonicalize(source).map_err(|e| VolumeError::io(source, e))?;
        let state = std::fs::canonicalize(self.dir.root())
            .map_err(|e| VolumeError::io(self.dir.root(), e))?;
        if state.starts_with(&source) || source.starts_with(&state) {
            return Err(VolumeError::Invalid(
                "the directory holds this volume's own state",
            ));
        }
        let meta = std::fs::symlink_metadata(&source).map_err(|e| VolumeError::io(&source, e))?;
        if !meta.is_dir() {
            return Err(VolumeError::NotDirectory);
        }
        let mut adoption = Adoption {
            volume: self,
            report: AdoptReport::default(),
            progress,
            total: 0,
            batch: Vec::new(),
            batch_files: FIRST_BATCH_FILES,
            cache_directory: PathBuf::new(),
            directories: Vec::new(),
            shared: HashMap::new(),
            copied: HashSet::new(),
        };
        adoption.survey(&source)?;
        let top = adoption.directory(parent, &Name::new(name)?, &meta)?;
        self.notify.tell(|face| face.entry_changed(parent, name));
        adoption.take_in(&source, top)?;
        adoption.directories.push((source, top, meta));
        adoption.finish()?;
        // Once more: the kernel may have noted meanwhile that names were not there yet.
        self.notify.tell(|face| face.entry_changed(parent, name));
        Ok(adoption.report)
    }
}

impl Adoption<'_> {
    /// Counts what there is, and the names of files that have several.
    fn survey(&mut self, directory: &Path) -> Result<()> {
        for entry in read_directory(directory)? {
            let meta = entry
                .metadata()
                .map_err(|e| VolumeError::io(entry.path(), e))?;
            if meta.is_dir() {
                self.survey(&entry.path())?;
            } else if meta.is_file() {
                self.total += 1;
                if meta.nlink() > 1 {
                    self.shared.entry((meta.dev(), meta.ino())).or_default().0 += 1;
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, directory: &Path, ino: Ino) -> Result<()> {
        for entry in read_directory(directory)? {
            let path = entry.path();
            let meta = entry.metadata().map_err(|e| VolumeError::io(&path, e))?;
            let name = Name::new(entry.file_name().as_bytes())?;
            if meta.is_dir() {
                let below = self.directory(ino, &name, &meta)?;
                self.take_in(&path, below)?;
                self.directories.push((path, below, meta));
            } else if meta.is_file() {
                self.batch.push(Candidate {
                    source: path,
                    parent: ino,
                    name,
                    meta,
                });
                if self.batch.len() >= self.batch_files {
                    self.flush()?;
                    self.batch_files = (self.batch_files * 2).min(MOST_BATCH_FILES);
                }
            } else {
                self.other(&path, ino, &name, &meta)?;
            }
        }
        Ok(())
    }

    /// The directory of this name, made if it is not there.
    fn directory(&mut self, parent: Ino, name: &Name, meta: &Metadata) -> Result<Ino> {
        if let Some(there) = self.volume.lookup(parent, name.as_bytes())? {
            return match there.kind {
                Kind::Directory => Ok(there.ino),
                _ => Err(VolumeError::Exists),
            };
        }
        let volume = self.volume;
        volume.inos.reserve(&volume.db, 1)?;
        let attr = attr_of(volume.inos.take(), Kind::Directory, meta);
        volume.db.write(|tx| {
            insert_row(tx, &attr, new_node_id(attr.btime)?, Some(parent), None)?;
            volume.add_first_name(tx, parent, name, attr.ino, Kind::Directory)
        })?;
        self.report.directories += 1;
        Ok(attr.ino)
    }

    /// Takes in what is left, and sees to the directories.
    fn finish(&mut self) -> Result<()> {
        self.flush()?;
        // An empty directory must be in the volume for sure before its source goes.
        self.volume.db.write_synced(|_| Ok(()))?;
        for some in std::mem::take(&mut self.directories).chunks(MOST_BATCH_FILES) {
            self.finish_directories(some)?;
        }
        // Once for all: a sync waits for whatever other programs have written, too.
        self.volume.cache.sync_all()?;
        self.volume.db.write_synced(|_| Ok(()))
    }

    /// Gives directories the times of their sources, and removes those that are empty now.
    fn finish_directories(&mut self, some: &[(PathBuf, Ino, Metadata)]) -> Result<()> {
        for (source, ino, _) in some {
            copy_xattrs(self.volume, source, *ino);
        }
        self.volume.db.write(|tx| {
            for (_, ino, meta) in some {
                let attr = attr_of(*ino, Kind::Directory, meta);
                tx.prepare_cached("UPDATE nodes SET mtime = ?2 WHERE ino = ?1")?
                    .execute((*ino as i64, attr.mtime.0))?;
                self.volume.mark_changed(tx, *ino)?;
            }
            Ok(())
        })?;
        for (source, ..) in some {
            if let Err(error) = std::fs::remove_dir(source) {
                self.leave(source, &error.to_string());
            }
        }
        Ok(())
    }

    /// Takes in a symlink, FIFO, socket or device.
    fn other(&mut self, source: &Path, parent: Ino, name: &Name, meta: &Metadata) -> Result<()> {
        let Some(kind) = kind_of(meta) else {
            self.leave(source, "it is of a kind that a volume cannot hold");
            return Ok(());
        };
        let target = match kind {
            Kind::Symlink => {
                Some(std::fs::read_link(source).map_err(|e| VolumeError::io(source, e))?)
            }
            _ => None,
        };
        let target = target.as_ref().map(|target| target.as_os_str().as_bytes());
        let volume = self.volume;
        if let Some(there) = volume.lookup(parent, name.as_bytes())? {
            // An earlier run took it in, and died before its old name went.
            if is_taken_in(volume, &there, kind, meta, target)? {
                return self.remove_source(source, meta, Taken::AsItWas);
            }
            self.leave(source, "the volume has a file of this name");
            return Ok(());
        }
        volume.inos.reserve(&volume.db, 1)?;
        let mut attr = attr_of(volume.inos.take(), kind, meta);
        attr.size = target.map_or(0, |target| target.len() as u64);
        volume.db.write_synced(|tx| {
            insert_row(tx, &attr, new_node_id(attr.btime)?, None, target)?;
            volume.add_first_name(tx, parent, name, attr.ino, kind)
        })?;
        self.remove_source(source, meta, Taken::AsItWas)
    }

    /// Takes in the files of the batch: links, makes durable, and only then removes.
    fn flush(&mut self) -> Result<()> {
        let batch = std::mem::take(&mut self.batch);
        let mut taken: Vec<(&Candidate, Attr, Option<Ino>)> = Vec::new();
        let mut done: Vec<(&Candidate, Ino)> = Vec::new();
        for candidate in &batch {
            match self.prepare(candidate)? {
                Prepared::New(attr) => taken.push((candidate, attr, None)),
                Prepared::MoreNamesOf(ino) => {
                    let attr = attr_of(ino, Kind::File, &candidate.meta);
                    taken.push((candidate, attr, Some(ino)));
                }
                Prepared::Done(ino) => done.push((candidate, ino)),
                Prepared::Left => {}
            }
        }
        if !taken.is_empty() {
            let new = taken.iter().map(|(_, attr, _)| attr.ino);
            let recorded = self.volume.cache.sync_entries(new).and_then(|()| {
                self.volume.db.write_synced(|tx| {
                    taken
                        .iter()
                        .try_for_each(|(candidate, attr, of)| self.record(tx, candidate, attr, *of))
                })
            });
            if let Err(error) = recorded {
                for (_, attr, _) in taken.iter().filter(|(.., of)| of.is_none()) {
                    self.volume.cache.remove(attr.ino)?;
                }
                return Err(error);
            }
        }
        for (candidate, attr, of) in &taken {
            copy_xattrs(self.volume, &candidate.source, attr.ino);
            let as_taken = match self.copied.contains(&attr.ino) {
                true => Taken::AsItWas,
                false => Taken::Itself,
            };
            self.remove_source(&candidate.source, &candidate.meta, as_taken)?;
            if of.is_none() {
                if attr.mode & 0o600 != 0o600 {
                    self.volume.cache.allow_owner(attr.ino)?;
                }
                let bytes = attr.size.min(attr.blocks * 512);
                let quiet_for = quiet_for(candidate);
                self.volume.live.note_taken_in(attr.ino, bytes, quiet_for);
                self.volume.live.count_more(attr.blocks * 512);
                self.report.files += 1;
                self.report.bytes += attr.size;
            }
        }
        for (candidate, ino) in &done {
            // The run that took it in may have died before it got to these.
            copy_xattrs(self.volume, &candidate.source, *ino);
            self.remove_source(&candidate.source, &candidate.meta, Taken::Itself)?;
            self.volume.cache.allow_owner(*ino)?;
        }
        crate::push::look_for_files(self.volume);
        (self.progress)(Progress {
            phase: "adopting".to_owned(),
            done: self.report.files,
            total: self.total,
            unit: Unit::Files,
            path: batch.last().map(|last| last.source.display().to_string()),
        });
        Ok(())
    }

    /// Gives a file a name, or a copy, in the cache.
    fn prepare(&mut self, candidate: &Candidate) -> Result<Prepared> {
        let volume = self.volume;
        let key = (candidate.meta.dev(), candidate.meta.ino());
        if let Some(there) = volume.lookup(candidate.parent, candidate.name.as_bytes())? {
            let cached = std::fs::metadata(volume.cache.path(there.ino));
            let same = cached.is_ok_and(|meta| (meta.dev(), meta.ino()) == key);
            if same {
                return Ok(Prepared::Done(there.ino));
            }
            self.leave(&candidate.source, "the volume has a file of this name");
            return Ok(Prepared::Left);
        }
        let all_names_here = match self.shared.get(&key) {
            Some((_, Some(ino))) => return Ok(Prepared::MoreNamesOf(*ino)),
            Some((names, None)) => *names == candidate.meta.nlink(),
            None => true,
        };
        if is_in_use(volume, candidate) {
            self.leave(&candidate.source, "a program has it open for writing");
            return Ok(Prepared::Left);
        }
        volume.inos.reserve(&volume.db, 1)?;
        let ino = volume.inos.take();
        let path = volume.cache.path(ino);
        if let Some(directory) = path.parent().filter(|at| *at != self.cache_directory) {
            std::fs::create_dir_all(directory).map_err(|e| VolumeError::io(directory, e))?;
            directory.clone_into(&mut self.cache_directory);
        }
        let linked = all_names_here && std::fs::hard_link(&candidate.source, &path).is_ok();
        if !linked && let Err(error) = copy_file(&candidate.source, &path) {
            volume.cache.remove(ino)?;
            return Err(error);
        }
        let there = std::fs::symlink_metadata(&candidate.source).ok();
        let same = there.filter(|there| {
            (there.dev(), there.ino()) == key
                && (linked || bytes_of(there) == bytes_of(&candidate.meta))
        });
        let Some(there) = same else {
            volume.cache.remove(ino)?;
            self.leave(&candidate.source, "it changed while it was taken in");
            return Ok(Prepared::Left);
        };
        if let Some((_, node)) = self.shared.get_mut(&key) {
            *node = Some(ino);
        }
        if !linked {
            self.copied.insert(ino);
        }
        Ok(Prepared::New(attr_of(ino, Kind::File, &there)))
    }

    fn record(
        &self,
        tx: &Transaction<'_>,
        candidate: &Candidate,
        attr: &Attr,
        of: Option<Ino>,
    ) -> Result<()> {
        let volume = self.volume;
        let (parent, name) = (candidate.parent, &candidate.name);
        if let Some(ino) = of {
            tx.prepare_cached("UPDATE nodes SET nlink = nlink + 1 WHERE ino = ?1")?
                .execute([ino as i64])?;
            let link = LinkId(crate::names::random_u64()?.max(1));
            return volume.add_name(tx, parent, name, ino, Kind::File, link);
        }
        insert_row(tx, attr, new_node_id(attr.btime)?, None, None)?;
        tx.prepare_cached(
            "INSERT INTO cached(ino, whole, dirty, generation, since, bytes, epoch, used)
             VALUES(?1, 1, 1, 1, ?2, ?3, 0, ?4)",
        )?
        .execute((
            attr.ino as i64,
            attr.ctime.0,
            (attr.blocks * 512) as i64,
            attr.mtime.0 / 1_000_000_000,
        ))?;
        volume.add_first_name(tx, parent, name, attr.ino, Kind::File)
    }

    /// Removes what was taken in from where it was, if it still is that.
    fn remove_source(&mut self, path: &Path, meta: &Metadata, taken: Taken) -> Result<()> {
        let now = match std::fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            now => now.map_err(|e| VolumeError::io(path, e))?,
        };
        let same_file = (now.dev(), now.ino()) == (meta.dev(), meta.ino());
        let unchanged = taken == Taken::Itself || bytes_of(&now) == bytes_of(meta);
        if !same_file || !unchanged {
            self.leave(
                path,
                "it changed after it was taken in, so it stays here, too",
            );
            return Ok(());
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(VolumeError::io(path, error))
            }
            _ => Ok(()),
        }
    }

    fn leave(&mut self, source: &Path, why: &str) {
        self.report
            .left
            .push((source.display().to_string(), why.to_owned()));
    }
}

/// How long ago a file was last changed, as far as that tells when it can be stored. One
/// with more names waits for them: it counts as in use until all were taken in.
fn quiet_for(candidate: &Candidate) -> Duration {
    if candidate.meta.nlink() > 1 {
        return Duration::ZERO;
    }
    let changed = candidate.meta.modified().ok();
    let ago = changed.and_then(|changed| changed.elapsed().ok());
    ago.unwrap_or_default().min(LONGEST_QUIET)
}

/// What is to be done with a file of a batch.
enum Prepared {
    /// It becomes a new node.
    New(Attr),
    /// It is one more name of a node of this adoption.
    MoreNamesOf(Ino),
    /// An earlier run took it in as this node: only its old name is left.
    Done(Ino),
    /// It stays where it is.
    Left,
}

fn read_directory(path: &Path) -> Result<Vec<std::fs::DirEntry>> {
    let entries = std::fs::read_dir(path).map_err(|e| VolumeError::io(path, e))?;
    let mut entries = entries
        .collect::<io::Result<Vec<_>>>()
        .map_err(|e| VolumeError::io(path, e))?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    Ok(entries)
}

/// What is in the volume of a file that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// The file itself: whatever is written to it is there.
    Itself,
    /// What it was at that moment.
    AsItWas,
}

/// What tells whether a file's bytes changed.
fn bytes_of(meta: &Metadata) -> (u64, i64, i64) {
    (meta.len(), meta.mtime(), meta.mtime_nsec())
}

/// Whether a program has the file open for writing. One of its names may be in the volume
/// already, taken in by a run that died: then the volume itself may have it open, to store it.
fn is_in_use(volume: &Volume, candidate: &Candidate) -> bool {
    if !is_being_written(&candidate.source) {
        return false;
    }
    if candidate.meta.nlink() < 2 {
        return true;
    }
    let key = (candidate.meta.dev(), candidate.meta.ino());
    (0..LOOKS).all(|_| {
        let in_use = is_being_written(&candidate.source) && !volume.holds_alone(key);
        if in_use {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        in_use
    })
}

/// Whether a program has the file open for writing; false if that cannot be found out.
fn is_being_written(path: &Path) -> bool {
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    opened.is_ok_and(|file| crate::lease::is_written_elsewhere(&file))
}

fn copy_file(source: &Path, target: &Path) -> Result<()> {
    std::fs::copy(source, target)
        .and_then(|_| File::open(target)?.sync_all())
        .map_err(|error| VolumeError::io(source, error))
}

fn kind_of(meta: &Metadata) -> Option<Kind> {
    let kind = meta.file_type();
    [
        (kind.is_symlink(), Kind::Symlink),
        (kind.is_fifo(), Kind::Fifo),
        (kind.is_socket(), Kind::Socket),
        (kind.is_char_device(), Kind::CharDevice),
        (kind.is_block_device(), Kind::BlockDevice),
    ]
    .into_iter()
    .find_map(|(is, kind)| is.then_some(kind))
}

fn attr_of(ino: Ino, kind: Kind, meta: &Metadata) -> Attr {
    let nanos = |secs: i64, nanos: i64| Time(secs.saturating_mul(1_000_000_000) + nanos);
    let now = crate::node::now();
    let is_directory = kind == Kind::Directory;
    Attr {
        ino,
        kind,
        mode: meta.mode() & 0o7777,
        nlink: if is_directory { 2 } else { 1 },
        uid: meta.uid(),
        gid: meta.gid(),
        rdev: meta.rdev(),
        size: if is_directory { 4096 } else { meta.len() },
        blocks: if is_directory {
            8
        } else {
            allocated(meta) / 512
        },
        atime: nanos(meta.atime(), meta.atime_nsec()),
        mtime: nanos(meta.mtime(), meta.mtime_nsec()),
        ctime: now,
        btime: now,
    }
}

/// Whether the node is what this symlink, FIFO, socket or device becomes when it is taken in.
fn is_taken_in(
    volume: &Volume,
    there: &Attr,
    kind: Kind,
    meta: &Metadata,
    target: Option<&[u8]>,
) -> Result<bool> {
    let taken = attr_of(there.ino, kind, meta);
    let what = |attr: &Attr| {
        (
            attr.kind, attr.mode, attr.uid, attr.gid, attr.rdev, attr.mtime,
        )
    };
    Ok(what(there) == what(&taken)
        && match target {
            Some(target) => volume.read_link(there.ino)? == target,
            None => true,
        })
}

/// Takes a source's extended attributes over, as far as they can be read.
fn copy_xattrs(volume: &Volume, source: &Path, ino: Ino) {
    if rustix::fs::llistxattr_query(source).is_ok_and(|len| len == 0) {
        return;
    }
    let mut names = vec![0; 64 << 10];
    let Ok(len) = rustix::fs::llistxattr(source, &mut names) else {
        return;
    };
    for name in names[..len]
        .split(|&byte| byte == 0)
        .filter(|n| !n.is_empty())
    {
        let mut value = vec![0; 64 << 10];
        if let Ok(len) = rustix::fs::lgetxattr(source, name, &mut value)
            && let Err(error) = volume.set_xattr(ino, name, &value[..len], crate::XattrMode::Any)
        {
            tracing::warn!(path = %source.display(), %error, "could not take over an attribute");
        }
    }
}

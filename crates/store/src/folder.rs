//! A store in a directory: a disk, a mounted share.
//!
//! An object `packs/ab/x` is the plain file of that path. A put writes a temporary file
//! beside the objects, syncs it, renames it to its name and syncs the directory: after a
//! power cut it is there whole or not at all, and acknowledged means synced. What a dead
//! process left in the temporary directory goes after a day, by the clock of the file
//! system that holds it.
//!
//! Symlinks, sockets and the like are never followed where an object or a directory of
//! objects should be: meeting one is an error. A missing root is an error too, so that an
//! unmounted disk is never taken for an empty store. Only `std` is used, so this works
//! wherever Rust does; directories are synced where the system can do it (Unix).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use crate::key::{is_segment, prefix_directory};
use crate::{
    Durability, ErrorKind, Key, MAX_OBJECT_BYTES, ObjectMeta, Store, StoreError, StoreOptions,
    temporary,
};

/// A directory that holds objects.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    address: String,
    root: PathBuf,
    options: StoreOptions,
    /// Set once the temporary directory was looked through for leftovers.
    swept: AtomicBool,
}

impl Folder {
    /// The store in `root`. Nothing is touched yet.
    pub(crate) fn new(address: &str, root: PathBuf, options: &StoreOptions) -> Self {
        Self {
            inner: Arc::new(Inner {
                address: address.to_owned(),
                root,
                options: options.clone(),
                swept: AtomicBool::new(false),
            }),
        }
    }

    /// Runs file work on a thread that may block, for as long as `bytes` are worth.
    async fn work<T: Send + 'static>(
        &self,
        bytes: u64,
        job: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        let running = tokio::task::spawn_blocking(move || job(&inner));
        match tokio::time::timeout(self.inner.options.patience(bytes), running).await {
            Ok(Ok(result)) => result,
            Ok(Err(broken)) => Err(self
                .inner
                .error(ErrorKind::Unavailable, "the work on this folder broke off")
                .caused_by(broken)),
            Err(_) => Err(self.inner.error(
                ErrorKind::Unavailable,
                "the file system does not answer; is a disk failing, or a share gone?",
            )),
        }
    }
}

/// Tells the thread of a put that nobody waits for it any more.
struct Abandon(Arc<AtomicBool>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[async_trait]
impl Store for Folder {
    fn address(&self) -> &str {
        &self.inner.address
    }

    fn durability(&self) -> Durability {
        Durability::Synced
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        let key = key.clone();
        let abandoned = Arc::new(AtomicBool::new(false));
        let abandon = Abandon(abandoned.clone());
        let size = bytes.len() as u64;
        let result = self
            .work(size, move |inner| inner.put(&key, &bytes, &abandoned))
            .await;
        drop(abandon);
        result
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let key = key.clone();
        self.work(MAX_OBJECT_BYTES, move |inner| inner.get(&key))
            .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let key = key.clone();
        let size = range.end.saturating_sub(range.start);
        self.work(size, move |inner| inner.get_range(&key, &range))
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let prefix = prefix.to_owned();
        self.work(MAX_OBJECT_BYTES, move |inner| inner.list(&prefix))
            .await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        let key = key.clone();
        self.work(0, move |inner| inner.stat(&key)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let key = key.clone();
        self.work(0, move |inner| inner.delete(&key)).await
    }
}

impl Inner {
    fn error(&self, kind: ErrorKind, message: impl std::fmt::Display) -> StoreError {
        StoreError::new(kind, &self.address, message)
    }

    /// What an I/O error on `path` means for the caller.
    fn failed(&self, doing: &str, path: &Path, error: io::Error) -> StoreError {
        let (kind, hint) = match error.kind() {
            io::ErrorKind::StorageFull => (ErrorKind::Full, "; make room on that disk"),
            io::ErrorKind::QuotaExceeded => (ErrorKind::Full, "; the quota is reached"),
            io::ErrorKind::PermissionDenied => {
                (ErrorKind::Refused, "; give this user the right to do it")
            }
            io::ErrorKind::ReadOnlyFilesystem => (ErrorKind::Refused, "; it is mounted read-only"),
            io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => (
                ErrorKind::Invalid,
                "; something else lies in the place of this store's files",
            ),
            _ => (ErrorKind::Unavailable, ""),
        };
        let words = match self.below(path) {
            Some(below) => format!("cannot {doing} {}: {error}{hint}", below.display()),
            None => format!("cannot {doing} it: {error}{hint}"),
        };
        self.error(kind, words).caused_by(error)
    }

    /// The path below the root, which the error names already; `None` for the root itself.
    fn below<'a>(&self, path: &'a Path) -> Option<&'a Path> {
        let below = path.strip_prefix(&self.root).unwrap_or(path);
        (!below.as_os_str().is_empty()).then_some(below)
    }

    fn path(&self, key: &str) -> PathBuf {
        let mut path = self.root.clone();
        path.extend(key.split('/').filter(|segment| !segment.is_empty()));
        path
    }

    /// An answer of "not found" counts only while the root is there.
    fn ensure_root(&self) -> Result<(), StoreError> {
        match fs::metadata(&self.root) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(self.error(ErrorKind::Invalid, "this is not a folder")),
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.options.create => {
                make_directories(&self.root)
                    .map_err(|error| self.failed("make the folder", &self.root, error))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self
                .error(
                    ErrorKind::Unavailable,
                    "the folder is not there; is its disk mounted?",
                )
                .caused_by(error)),
            Err(error) => Err(self.failed("look at", &self.root, error)),
        }
    }

    /// The file of an object; `None` if there is none below a root that is there.
    fn object(&self, key: &Key) -> Result<Option<(PathBuf, u64)>, StoreError> {
        let path = self.path(key.as_str());
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() => Ok(Some((path, meta.len()))),
            Ok(_) => Err(self.surprise(&path)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                self.ensure_root()?;
                Ok(None)
            }
            Err(error) => Err(self.failed("look at", &path, error)),
        }
    }

    fn surprise(&self, path: &Path) -> StoreError {
        self.error(
            ErrorKind::Invalid,
            format!(
                "{} is neither a plain file nor a folder; a store holds nothing else, remove it",
                self.below(path).unwrap_or(path).display()
            ),
        )
    }

    /// Makes a folder below the root, never the root: its disk may have gone this moment, and what
    /// is put into a folder of that name on another disk would count as stored.
    fn make_below(&self, path: &Path) -> io::Result<()> {
        if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
            return Ok(());
        }
        let parent = path.parent().filter(|_| path != self.root);
        let parent = parent.ok_or(io::ErrorKind::NotFound)?;
        self.make_below(parent)?;
        make_directory(path, Some(parent))
    }

    fn put(&self, key: &Key, bytes: &[u8], abandoned: &AtomicBool) -> Result<(), StoreError> {
        self.ensure_root()?;
        let target = self.path(key.as_str());
        let directory = self.path(key.directory());
        self.make_below(&directory)
            .map_err(|error| self.failed("make the folder", &directory, error))?;
        let waiting = self.path(temporary::DIRECTORY);
        self.make_below(&waiting)
            .map_err(|error| self.failed("make the folder", &waiting, error))?;

        let name =
            temporary::name().map_err(|error| self.failed("name a file in", &waiting, error))?;
        let written = waiting.join(name);
        let result = write_synced(&written, bytes)
            .map_err(|error| self.failed("write", &written, error))
            .and_then(|()| {
                self.sweep(&waiting, &written);
                if abandoned.load(Ordering::Acquire) {
                    return Err(self.error(ErrorKind::Unavailable, "the put was given up"));
                }
                fs::rename(&written, &target)
                    .map_err(|error| self.failed("put in place", &target, error))
            });
        if result.is_err() {
            // Best effort: what stays is never listed and goes with the next sweep.
            let _ = fs::remove_file(&written);
            return result;
        }
        sync_directory(&directory).map_err(|error| self.failed("sync", &directory, error))
    }

    /// Removes what puts of dead processes left, once for each opened store. `mine` was
    /// written just now, so its time is the file system's idea of now.
    fn sweep(&self, waiting: &Path, mine: &Path) {
        if self.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let Ok(now) = fs::metadata(mine).and_then(|meta| meta.modified()) else {
            return;
        };
        for entry in fs::read_dir(waiting).into_iter().flatten().flatten() {
            let ours = entry.file_name().to_str().is_some_and(temporary::is_ours);
            let stale = entry
                .metadata()
                .is_ok_and(|meta| meta.is_file() && is_stale(&meta, now));
            if ours && stale {
                tracing::info!(path = %entry.path().display(), "removed a put that was never finished");
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let Some((path, size)) = self.object(key)? else {
            return Ok(None);
        };
        if size > MAX_OBJECT_BYTES {
            let words = format!(
                "{} has {size} bytes; no object is that large",
                path.display()
            );
            return Err(self.error(ErrorKind::Damaged, words));
        }
        self.read(&path, 0, size)
    }

    fn get_range(&self, key: &Key, range: &Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let Some((path, size)) = self.object(key)? else {
            return Ok(None);
        };
        if range.start >= range.end {
            return Ok(Some(Bytes::new()));
        }
        if range.end > size {
            return Err(self.too_short(&path, range.end, size));
        }
        self.read(&path, range.start, range.end - range.start)
    }

    fn too_short(&self, path: &Path, wanted: u64, size: u64) -> StoreError {
        let words = format!(
            "{} has {size} bytes where at least {wanted} belong",
            path.display()
        );
        self.error(ErrorKind::Damaged, words)
    }

    /// Exactly `len` bytes; `None` if the file went away meanwhile.
    fn read(&self, path: &Path, start: u64, len: u64) -> Result<Option<Bytes>, StoreError> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.ensure_root()?;
                return Ok(None);
            }
            Err(error) => return Err(self.failed("read", path, error)),
        };
        let failed = |error| self.failed("read", path, error);
        file.seek(SeekFrom::Start(start)).map_err(failed)?;
        let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or(0));
        file.take(len).read_to_end(&mut bytes).map_err(failed)?;
        if (bytes.len() as u64) < len {
            return Err(self.too_short(path, start + len, start + bytes.len() as u64));
        }
        Ok(Some(Bytes::from(bytes)))
    }

    fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.ensure_root()?;
        let mut found = Vec::new();
        let mut waiting = vec![prefix_directory(prefix).to_owned()];
        while let Some(directory) = waiting.pop() {
            self.list_directory(&directory, &mut found, &mut waiting)?;
        }
        found.retain(|meta| meta.key.as_str().starts_with(prefix));
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn list_directory(
        &self,
        directory: &str,
        found: &mut Vec<ObjectMeta>,
        waiting: &mut Vec<String>,
    ) -> Result<(), StoreError> {
        let path = self.path(directory);
        let failed = |error| self.failed("list", &path, error);
        if !directory.is_empty() && fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_dir()) {
            return Err(self.surprise(&path));
        }
        let entries = match fs::read_dir(&path) {
            Ok(entries) => entries,
            // No such directory: no object lies in it. The root was seen above.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| is_segment(name)) else {
                continue;
            };
            let text = if directory.is_empty() {
                name.to_owned()
            } else {
                format!("{directory}/{name}")
            };
            let meta = match fs::symlink_metadata(entry.path()) {
                Ok(meta) => meta,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            if meta.is_dir() {
                waiting.push(text);
            } else if !meta.is_file() {
                return Err(self.surprise(&entry.path()));
            } else if let Ok(key) = Key::new(text) {
                found.push(ObjectMeta {
                    key,
                    size: meta.len(),
                });
            }
        }
        Ok(())
    }

    fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        let object = self.object(key)?;
        Ok(object.map(|(_, size)| ObjectMeta {
            key: key.clone(),
            size,
        }))
    }

    fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let Some((path, _)) = self.object(key)? else {
            return Ok(());
        };
        match fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(self.failed("delete", &path, error)),
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a directory and those above it, each synced into its parent, so that a put below
/// it cannot lose its way in a power cut.
fn make_directories(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        make_directories(parent)?;
    }
    make_directory(path, parent)
}

fn make_directory(path: &Path, parent: Option<&Path>) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
        Ok(()) => parent.map_or(Ok(()), sync_directory),
    }
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Elsewhere a directory cannot be opened to be synced; NTFS journals a rename.
#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

fn is_stale(meta: &fs::Metadata, now: SystemTime) -> bool {
    meta.modified().is_ok_and(|then| {
        now.duration_since(then)
            .is_ok_and(|age| age > temporary::STALE)
    })
}

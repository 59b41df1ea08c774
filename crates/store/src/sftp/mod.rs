//! A directory on an SSH server, by SFTP.
//!
//! An object `packs/ab/x` is the plain file of that path below the root. A put writes a
//! temporary file with many writes in flight, syncs it (`fsync@openssh.com`), renames it,
//! and syncs the directory that it came to: whole or not there, and acknowledged means
//! synced where the server can do both. It costs three round trips, a small read one
//! (two if the object was not read lately).
//!
//! The line is made at first use and again when it breaks; a call whose line breaks is
//! made once more on a new one. A missing root is an error, so that an unmounted disk on
//! the server is never taken for an empty store.

mod host_key;
mod lane;
mod line;
mod login;
mod ssh_config;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use russh_sftp::protocol::{FileAttributes, FileType, StatusCode};
use tokio::runtime::Handle as Runtime;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::lane::{Fault, Lane, OpenFile};
use self::line::{Line, NoLine, Target};
use crate::address::{Server, decode};
use crate::key::{is_segment, prefix_directory};
use crate::{
    Durability, ErrorKind, Key, MAX_OBJECT_BYTES, ObjectMeta, Pace, Store, StoreError,
    StoreOptions, temporary,
};

/// Directories that are listed at a time.
const LISTING: usize = 8;

/// A store on an SSH server.
pub(crate) struct Sftp {
    address: String,
    target: Target,
    /// Path of the root on the server, without a slash at its end; may be relative to the
    /// login directory.
    root: String,
    options: StoreOptions,
    line: Mutex<LineState>,
    /// Set by a put that was synced together with its directory.
    synced: AtomicBool,
    /// Set once the temporary directory was looked through for leftovers.
    swept: AtomicBool,
}

#[derive(Default)]
struct LineState {
    line: Option<Arc<Line>>,
    /// The last attempt that failed, and when: who waited for it shares its answer.
    failed: Option<(Instant, NoLine)>,
}

/// How one call on a line ended, if not well.
enum Trouble {
    /// While doing something with a path.
    At(&'static str, String, Fault),
    /// Already in words.
    Said(StoreError),
}

impl Trouble {
    fn is_broken(&self) -> bool {
        matches!(self, Self::At(_, _, fault) if fault.is_broken())
    }
}

/// Names what was done when a fault came.
trait Doing<T> {
    fn doing(self, what: &'static str, path: &str) -> Result<T, Trouble>;
}

impl<T> Doing<T> for Result<T, Fault> {
    fn doing(self, what: &'static str, path: &str) -> Result<T, Trouble> {
        self.map_err(|fault| Trouble::At(what, path.to_owned(), fault))
    }
}

impl Sftp {
    pub(crate) fn new(
        address: &str,
        server: &Server,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let wrong = |words: &str| StoreError::new(ErrorKind::Invalid, address, words);
        let path = decode(&server.path).map_err(|words| wrong(&words))?;
        let root = match path.strip_prefix("/~") {
            Some("" | "/") => ".".to_owned(),
            Some(below) if below.starts_with('/') => below.trim_matches('/').to_owned(),
            _ => path.trim_end_matches('/').to_owned(),
        };
        Ok(Self {
            address: address.to_owned(),
            target: Target {
                user: server.user.clone(),
                host: server.host.clone(),
                port: server.port,
            },
            root,
            options: options.clone(),
            line: Mutex::new(LineState::default()),
            synced: AtomicBool::new(false),
            swept: AtomicBool::new(false),
        })
    }

    fn path(&self, below: &str) -> String {
        match below {
            "" if self.root.is_empty() => "/".to_owned(),
            "" => self.root.clone(),
            below => format!("{}/{below}", self.root),
        }
    }

    fn error(&self, kind: ErrorKind, message: impl fmt::Display) -> StoreError {
        StoreError::new(kind, &self.address, message)
    }

    /// The line, made now if there is none that lives.
    async fn line(&self) -> Result<Arc<Line>, StoreError> {
        let asked = Instant::now();
        let mut state = self.line.lock().await;
        if let Some(line) = state.line.as_ref().filter(|line| line.is_alive()) {
            return Ok(line.clone());
        }
        state.line = None;
        let shared = state.failed.as_ref().filter(|(when, _)| *when >= asked);
        if let Some((_, no_line)) = shared {
            return Err(self.error(no_line.kind, &no_line.words));
        }
        match Line::connect(&self.target, &self.options).await {
            Ok(line) => {
                let line = Arc::new(line);
                state.line = Some(line.clone());
                Ok(line)
            }
            Err(no_line) => {
                let error = self.error(no_line.kind, &no_line.words);
                state.failed = Some((Instant::now(), no_line));
                Err(error)
            }
        }
    }

    /// Makes a call on a line; once more on a new one, if the line had broken meanwhile.
    async fn call<T, F>(&self, job: impl Fn(Arc<Line>) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let start = Instant::now();
        loop {
            let line = self.line().await?;
            let trouble = match job(line.clone()).await {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            if trouble.is_broken() {
                line.give_up();
                if line.born < start {
                    continue;
                }
            }
            return Err(self.explain(trouble));
        }
    }

    /// What trouble means for the caller, in words.
    fn explain(&self, trouble: Trouble) -> StoreError {
        let (doing, path, fault) = match trouble {
            Trouble::Said(error) => return error,
            Trouble::At(doing, path, fault) => (doing, path, fault),
        };
        let cannot = format!("cannot {doing} {path}");
        let (kind, words) = match fault {
            Fault::Broken(why) => (
                ErrorKind::Unavailable,
                format!("{cannot}: the line broke ({why})"),
            ),
            Fault::Silent => (
                ErrorKind::Unavailable,
                format!(
                    "{cannot}: the server was silent for {} s",
                    self.options.stall_timeout.as_secs()
                ),
            ),
            Fault::Short { size } => (
                ErrorKind::Damaged,
                format!("{path} has {size} bytes, which is less than belongs there"),
            ),
            Fault::Huge { size } => (
                ErrorKind::Damaged,
                format!("{path} has {size} bytes; no object is like that"),
            ),
            Fault::Status(StatusCode::PermissionDenied, _) => (
                ErrorKind::Refused,
                format!("{cannot}: the server forbids it to this user"),
            ),
            Fault::Status(StatusCode::OpUnsupported, _) => (
                ErrorKind::Invalid,
                format!("{cannot}: the server cannot do this at all"),
            ),
            Fault::Status(_, said) => (
                ErrorKind::Unavailable,
                format!("{cannot}: the server says: {said}"),
            ),
        };
        self.error(kind, words)
    }

    /// An answer of "no such file" counts only while the root is there.
    async fn ensure_root(&self, lane: &Arc<Lane>) -> Result<(), Trouble> {
        let root = self.path("");
        match lane.stat(&root).await {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(Trouble::Said(self.error(
                ErrorKind::Invalid,
                format!("{root} is not a directory there"),
            ))),
            Err(fault) if fault.is_status(StatusCode::NoSuchFile) && self.options.create => {
                self.make_directories(lane, &root).await
            }
            Err(fault) if fault.is_status(StatusCode::NoSuchFile) => {
                Err(Trouble::Said(self.error(
                    ErrorKind::Unavailable,
                    format!(
                        "the directory {root} is not there; is it spelled right, its disk mounted?"
                    ),
                )))
            }
            Err(fault) => Err(fault).doing("look at", &root),
        }
    }

    /// `None` for "no such file" below a root that is there.
    async fn absent_or<T>(
        &self,
        lane: &Arc<Lane>,
        result: Result<T, Fault>,
        doing: &'static str,
        path: &str,
    ) -> Result<Option<T>, Trouble> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(fault) if fault.is_status(StatusCode::NoSuchFile) => {
                self.ensure_root(lane).await?;
                Ok(None)
            }
            Err(fault) => Err(fault).doing(doing, path),
        }
    }

    /// Makes a directory and those above it, each synced into its parent if the server can.
    async fn make_directories(&self, lane: &Arc<Lane>, path: &str) -> Result<(), Trouble> {
        let slashes = path
            .match_indices('/')
            .map(|(at, _)| at)
            .filter(|at| *at > 0);
        for end in slashes.chain([path.len()]) {
            let directory = &path[..end];
            match lane.make_directory(directory).await {
                Ok(()) => self.sync_parent(lane, directory).await,
                Err(fault) if fault.is_broken() => {
                    return Err(fault).doing("make the directory", directory);
                }
                // It is there already, or belongs to somebody else: the last one decides.
                Err(fault) => {
                    let there = lane.stat(directory).await.is_ok_and(|meta| meta.is_dir());
                    if !there {
                        return Err(fault).doing("make the directory", directory);
                    }
                }
            }
        }
        Ok(())
    }

    async fn sync_parent(&self, lane: &Arc<Lane>, path: &str) {
        let parent = match path.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((parent, _)) => parent,
            None => ".",
        };
        if lane.extensions().fsync
            && let Ok(parent) = lane.open_directory(parent).await
        {
            // Best effort: whether directories can be synced here shows with each put.
            let _ = lane.sync(&parent).await;
        }
    }

    async fn put_on(
        &self,
        line: Arc<Line>,
        key: &Key,
        bytes: &Bytes,
        pace: Option<&dyn Pace>,
    ) -> Result<(), Trouble> {
        let lane = line.writer().await;
        let name = temporary::name().map_err(|error| {
            Trouble::Said(
                self.error(ErrorKind::Unavailable, "no random numbers")
                    .caused_by(error),
            )
        })?;
        let from = self.path(&format!("{}/{name}", temporary::DIRECTORY));
        let to = self.path(key.as_str());
        let place = self.path(key.directory());

        let mut unfinished = Unfinished {
            lane: lane.clone(),
            path: Some(from.clone()),
        };
        let (file, directory) = futures::join!(
            self.create(&lane, &from),
            self.directory_to_sync(&lane, &place)
        );
        let (file, directory) = (file?, directory?);
        let placed = match lane.fill(&file, bytes, pace).await {
            Ok(()) => {
                self.sweep(&lane, &from).await;
                self.settle(&lane, file, &from, &to, directory.as_deref())
                    .await
            }
            Err(fault) => {
                let trouble = self.full_or(&lane, fault, bytes.len(), &from).await;
                if !trouble.is_broken() {
                    lane.close(file).await;
                }
                Err(trouble)
            }
        };
        if let Err(trouble) = placed {
            // Now and not some time later, for it may fill the disk; the line being cut,
            // it waits for a sweep.
            if !trouble.is_broken() && lane.remove(&from).await.is_ok() {
                unfinished.path = None;
            }
            return Err(trouble);
        }
        unfinished.path = None;
        self.synced.store(directory.is_some(), Ordering::Release);
        line.reader().forget(&to);
        Ok(())
    }

    /// The temporary file, below a root that is there.
    async fn create(&self, lane: &Arc<Lane>, path: &str) -> Result<OpenFile, Trouble> {
        match lane.create(path).await {
            Err(fault) if fault.is_status(StatusCode::NoSuchFile) => {
                self.ensure_root(lane).await?;
                self.make_directories(lane, &self.path(temporary::DIRECTORY))
                    .await?;
                lane.create(path).await.doing("write", path)
            }
            other => other.doing("write", path),
        }
    }

    /// The directory that an object goes to, opened to be synced; `None` if the server
    /// cannot sync it.
    async fn directory_to_sync(
        &self,
        lane: &Arc<Lane>,
        path: &str,
    ) -> Result<Option<Arc<OpenFile>>, Trouble> {
        if !lane.extensions().fsync {
            return Ok(None);
        }
        match lane.open_directory(path).await {
            Ok(directory) => Ok(Some(directory)),
            Err(fault) if fault.is_status(StatusCode::NoSuchFile) => {
                self.ensure_root(lane).await?;
                self.make_directories(lane, path).await?;
                Ok(lane.open_directory(path).await.ok())
            }
            Err(fault) if fault.is_broken() => Err(fault).doing("open", path),
            Err(_) => Ok(None),
        }
    }

    /// OpenSSH says "Failure" for a full disk as for anything else.
    async fn full_or(&self, lane: &Arc<Lane>, fault: Fault, size: usize, path: &str) -> Trouble {
        if fault.is_status(StatusCode::Failure) {
            let root = self.path("");
            if let Some(free) = lane.free_bytes(&root).await
                && free < size as u64
            {
                let words = format!("the disk of {root} is full: {free} bytes are left there");
                return Trouble::Said(self.error(ErrorKind::Full, words));
            }
        }
        Trouble::At("write", path.to_owned(), fault)
    }

    /// Brings a filled temporary file to its place.
    async fn settle(
        &self,
        lane: &Arc<Lane>,
        file: OpenFile,
        from: &str,
        to: &str,
        directory: Option<&OpenFile>,
    ) -> Result<(), Trouble> {
        let mut settled = lane.settle(file, from, to, directory).await;
        if matches!(&settled, Err(fault) if fault.is_status(StatusCode::NoSuchFile)) {
            // Only where directories are not opened beforehand.
            let place = to.rsplit_once('/').map_or(".", |(place, _)| place);
            self.make_directories(lane, place).await?;
            settled = lane.rename(from, to).await;
        }
        match settled {
            Err(fault)
                if fault.is_status(StatusCode::Failure) && !lane.extensions().posix_rename =>
            {
                self.replace(lane, from, to).await
            }
            other => other.doing("put in place", to),
        }
    }

    /// A plain SFTP rename does not replace. What lies there already is most likely the
    /// same object, put before; only if it differs, it makes way.
    async fn replace(&self, lane: &Arc<Lane>, from: &str, to: &str) -> Result<(), Trouble> {
        lane.forget(to);
        let (mine, there) = futures::join!(
            lane.read_all(from, MAX_OBJECT_BYTES),
            lane.read_all(to, MAX_OBJECT_BYTES)
        );
        lane.forget(from);
        lane.forget(to);
        if there.is_ok_and(|there| mine.is_ok_and(|mine| mine == there)) {
            return lane.remove(from).await.doing("remove", from);
        }
        lane.remove(to).await.doing("replace", to)?;
        lane.rename(from, to).await.doing("put in place", to)
    }

    /// Removes what puts of dead processes left, once for each opened store. `mine` was
    /// written just now, so its time is the server's idea of now.
    async fn sweep(&self, lane: &Arc<Lane>, mine: &str) {
        if self.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let waiting = self.path(temporary::DIRECTORY);
        let (now, entries) = futures::join!(lane.lstat(mine), lane.list(&waiting));
        let (
            Ok(FileAttributes {
                mtime: Some(now), ..
            }),
            Ok(entries),
        ) = (now, entries)
        else {
            return;
        };
        for (name, meta) in entries {
            let age = meta
                .mtime
                .map(|then| Duration::from_secs(now.saturating_sub(then).into()));
            if temporary::is_ours(&name) && age.is_some_and(|age| age > temporary::STALE) {
                let path = format!("{waiting}/{name}");
                tracing::info!(path, "removed a put that was never finished");
                let _ = lane.remove(&path).await;
            }
        }
    }

    async fn list_on(&self, lane: Arc<Lane>, prefix: &str) -> Result<Vec<ObjectMeta>, Trouble> {
        let mut found = Vec::new();
        let mut waiting = BTreeSet::from([prefix_directory(prefix).to_owned()]);
        let mut flying = FuturesUnordered::new();
        loop {
            while flying.len() < LISTING
                && let Some(directory) = waiting.pop_first()
            {
                flying.push(self.list_directory(&lane, directory));
            }
            let Some(listed) = flying.next().await else {
                break;
            };
            let (objects, directories) = listed?;
            found.extend(objects);
            waiting.extend(directories);
        }
        found.retain(|meta: &ObjectMeta| meta.key.as_str().starts_with(prefix));
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The objects and directories that lie in one directory.
    async fn list_directory(
        &self,
        lane: &Arc<Lane>,
        directory: String,
    ) -> Result<(Vec<ObjectMeta>, Vec<String>), Trouble> {
        let path = self.path(&directory);
        let listed = lane.list(&path).await;
        let entries = self
            .absent_or(lane, listed, "list", &path)
            .await?
            .unwrap_or_default();
        let (mut objects, mut directories) = (Vec::new(), Vec::new());
        for (name, meta) in entries.into_iter().filter(|(name, _)| is_segment(name)) {
            let text = match directory.as_str() {
                "" => name,
                directory => format!("{directory}/{name}"),
            };
            let path = self.path(&text);
            let meta = match (meta.permissions, meta.size) {
                (Some(_), Some(_)) => Some(meta),
                // The protocol lets a server tell names only.
                _ => {
                    self.absent_or(lane, lane.lstat(&path).await, "look at", &path)
                        .await?
                }
            };
            let Some(meta) = meta else { continue };
            match (meta.file_type(), Key::new(text.as_str())) {
                (FileType::Dir, _) => directories.push(text),
                (FileType::File, Ok(key)) => {
                    objects.push(ObjectMeta {
                        key,
                        size: meta.size.unwrap_or(0),
                    });
                }
                (FileType::File, Err(_)) => {}
                _ => return Err(Trouble::Said(self.surprise(&path))),
            }
        }
        Ok((objects, directories))
    }

    fn surprise(&self, path: &str) -> StoreError {
        self.error(
            ErrorKind::Invalid,
            format!("{path} is neither a plain file nor a directory; a store holds nothing else, remove it"),
        )
    }

    async fn stat_on(&self, lane: Arc<Lane>, key: &Key) -> Result<Option<ObjectMeta>, Trouble> {
        let path = self.path(key.as_str());
        let told = lane.lstat(&path).await;
        match self.absent_or(&lane, told, "look at", &path).await? {
            None => Ok(None),
            Some(FileAttributes {
                size: Some(size),
                permissions,
                ..
            }) if permissions.is_none_or(|mode| FileType::from(mode).is_file()) => {
                Ok(Some(ObjectMeta {
                    key: key.clone(),
                    size,
                }))
            }
            Some(_) => Err(Trouble::Said(self.surprise(&path))),
        }
    }
}

/// Removes a temporary file unless it came to its place, also when the future of the put
/// is dropped.
struct Unfinished {
    lane: Arc<Lane>,
    path: Option<String>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let (Some(path), Ok(runtime)) = (self.path.take(), Runtime::try_current()) {
            let lane = self.lane.clone();
            // Best effort: what stays is never listed and goes with a later sweep.
            runtime.spawn(async move { lane.remove(&path).await });
        }
    }
}

impl fmt::Debug for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sftp")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Store for Sftp {
    fn address(&self) -> &str {
        &self.address
    }

    fn durability(&self) -> Durability {
        match self.synced.load(Ordering::Acquire) {
            true => Durability::Synced,
            false => Durability::Accepted,
        }
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        self.call(|line| self.put_on(line, key, &bytes, None)).await
    }

    async fn put_paced(&self, key: &Key, bytes: Bytes, pace: &dyn Pace) -> Result<(), StoreError> {
        self.call(|line| self.put_on(line, key, &bytes, Some(pace)))
            .await
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(key.as_str());
        self.call(|line| async {
            let lane = line.reader();
            drop(line);
            let read = lane.read_all(&path, MAX_OBJECT_BYTES).await;
            self.absent_or(&lane, read, "read", &path).await
        })
        .await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let path = self.path(key.as_str());
        self.call(|line| async {
            let lane = line.reader();
            drop(line);
            let read = lane.read_range(&path, range.clone()).await;
            self.absent_or(&lane, read, "read", &path).await
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.call(|line| self.list_on(line.reader(), prefix)).await
    }

    async fn renew(&self) {
        let line = self.line.lock().await.line.take();
        if let Some(line) = line {
            line.give_up();
        }
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        self.call(|line| self.stat_on(line.reader(), key)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.path(key.as_str());
        self.call(|line| async {
            let lane = line.reader();
            drop(line);
            lane.forget(&path);
            let removed = lane.remove(&path).await;
            self.absent_or(&lane, removed, "delete", &path)
                .await
                .map(drop)
        })
        .await
    }
}

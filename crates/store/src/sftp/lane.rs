//! One SFTP session: requests in flight, whole files written, ranges read.
//!
//! `russh-sftp` gives one future for each request and sends at its first poll. A lane
//! polls each once as it is made ([`Lane::send`]), keeps many in flight, and awaits the
//! answers: so a range of any length costs the round trips of its first piece. It also
//! keeps recently read objects open, for they are immutable, so that the next range of the
//! same object costs one round trip.
//!
//! Waiting is bounded by silence, not by time: as long as the line brings answers to
//! anyone, a request may take long; when nothing came for `stall_timeout`, it is over.
//!
//! `russh-sftp` keeps handles as text, and OpenSSH counts them as binary numbers, which
//! are UTF-8 below 128 only. A lane therefore never has that many open.

use std::collections::HashMap;
use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use futures::{FutureExt, StreamExt};
use russh_sftp::client::{Config, RawSftpSession, error::Error as SftpError};
use russh_sftp::protocol::{FileAttributes, OpenFlags, Packet, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::Pace;

/// Bytes in flight for one object that is read: enough for 80 MB/s at 100 ms.
const READ_WINDOW_BYTES: u64 = 8 << 20;

/// Bytes in flight for one object that is written. OpenSSH takes no more ahead in a session,
/// so what is beyond would wait in memory only.
const WRITE_WINDOW_BYTES: u64 = 2 << 20;

/// Read or write size where the server tells none: what every server takes.
const PLAIN_BYTES: u64 = 32 << 10;

/// Largest read or write that is asked for, whatever a server offers.
const LARGEST_BYTES: u64 = 256 << 10;

/// Objects that are kept open, directories of objects likewise.
const OPEN_OBJECTS: usize = 32;
const OPEN_DIRECTORIES: usize = 16;

/// Files that are opened at a time beyond those.
const OPENING: usize = 32;

/// Open objects are opened anew after this, so that one which was mended by another
/// replica is seen soon.
const OPEN_FOR: Duration = Duration::from_secs(60);

/// Memory that is set aside before any bytes came, at most.
const RESERVE_BYTES: u64 = 32 << 20;

/// How much of an object is asked for before its size is known.
const HEAD_BYTES: u64 = 1 << 20;

/// Why a request gave nothing.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// The line is cut, or the server talks nonsense.
    Broken(String),
    /// Nothing came for too long.
    Silent,
    /// The server's answer.
    Status(StatusCode, String),
    /// The object ends before the bytes that were asked for.
    Short { size: u64 },
    /// The object is larger than any object.
    Huge { size: u64 },
}

impl Fault {
    /// Whether another line may help.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self, Self::Broken(_) | Self::Silent)
    }

    pub(super) fn is_status(&self, wanted: StatusCode) -> bool {
        matches!(self, Self::Status(code, _) if *code == wanted)
    }
}

impl From<SftpError> for Fault {
    fn from(error: SftpError) -> Self {
        match error {
            SftpError::Status(status) => Self::Status(status.status_code, status.error_message),
            other => Self::Broken(other.to_string()),
        }
    }
}

/// Whether a line lives, for all lanes of it.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    stall: Duration,
    /// When it last brought an answer.
    heard: Arc<Mutex<Instant>>,
    /// Fails to change when the connection has ended. `russh-sftp` alone may not notice, if
    /// it waits for the server to take more at that moment.
    ended: watch::Receiver<()>,
}

impl Pulse {
    /// Of a line that was just made, and may be silent for as long as `stall`.
    pub(super) fn new(stall: Duration, ended: watch::Receiver<()>) -> Self {
        Self {
            stall,
            heard: Arc::new(Mutex::new(Instant::now())),
            ended,
        }
    }

    pub(super) fn stall(&self) -> Duration {
        self.stall
    }

    /// Awaits an answer, for as long as the line lives and is not silent.
    async fn wait<T>(
        &self,
        request: impl Future<Output = Result<T, SftpError>>,
    ) -> Result<T, Fault> {
        let mut request = std::pin::pin!(request);
        let mut ended = self.ended.clone();
        loop {
            let answer = async {
                tokio::select! {
                    biased;
                    answer = &mut request => Some(answer),
                    _ = ended.changed() => None,
                }
            };
            match timeout(self.stall, answer).await {
                Ok(Some(answer)) => {
                    *lock(&self.heard) = Instant::now();
                    return answer.map_err(Fault::from);
                }
                Ok(None) => return Err(Fault::Broken("the connection ended".to_owned())),
                Err(_) if lock(&self.heard).elapsed() < self.stall => {}
                Err(_) => return Err(Fault::Silent),
            }
        }
    }
}

/// An answer that is on its way.
type Sent<'a, T> = BoxFuture<'a, Result<T, Fault>>;

/// What a server can do beyond SFTP version 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) fsync: bool,
    pub(super) posix_rename: bool,
    pub(super) statvfs: bool,
}

/// One SFTP session.
pub(super) struct Lane {
    session: RawSftpSession,
    extensions: Extensions,
    read_bytes: u64,
    write_bytes: u64,
    pulse: Pulse,
    opening: Semaphore,
    objects: Mutex<OpenFiles>,
    directories: Mutex<OpenFiles>,
}

impl Lane {
    /// Speaks first on a channel whose other end is an SFTP server.
    pub(super) async fn start(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        pulse: Pulse,
    ) -> Result<Self, Fault> {
        let config = Config {
            // Waiting is bounded here; see the module's words.
            request_timeout_secs: 24 * 60 * 60,
            max_packet_len: 1 << 20,
            ..Config::default()
        };
        let session = RawSftpSession::new_with_config(stream, config);
        let mut lane = Self {
            session,
            extensions: Extensions {
                fsync: false,
                posix_rename: false,
                statvfs: false,
            },
            read_bytes: PLAIN_BYTES,
            write_bytes: PLAIN_BYTES,
            pulse,
            opening: Semaphore::new(OPENING),
            objects: Mutex::new(OpenFiles::new(OPEN_OBJECTS)),
            directories: Mutex::new(OpenFiles::new(OPEN_DIRECTORIES)),
        };
        let version = lane.wait(lane.session.init()).await?;
        let has = |name: &str| version.extensions.contains_key(name);
        lane.extensions = Extensions {
            fsync: has("fsync@openssh.com"),
            posix_rename: has("posix-rename@openssh.com"),
            statvfs: has("statvfs@openssh.com"),
        };
        if has("limits@openssh.com") {
            let limits = lane.wait(lane.session.limits()).await?;
            let within = |told: u64| match told {
                0 => PLAIN_BYTES,
                told => told.min(LARGEST_BYTES),
            };
            lane.read_bytes = within(limits.max_read_len);
            lane.write_bytes = within(limits.max_write_len);
        }
        Ok(lane)
    }

    pub(super) fn extensions(&self) -> Extensions {
        self.extensions
    }

    async fn wait<T>(
        &self,
        request: impl Future<Output = Result<T, SftpError>>,
    ) -> Result<T, Fault> {
        self.pulse.wait(request).await
    }

    /// Puts a request on the line now, ahead of all that are made after it.
    async fn send<'a, T: Send + 'a>(
        &'a self,
        request: impl Future<Output = Result<T, SftpError>> + Send + 'a,
    ) -> Sent<'a, T> {
        let mut sent = self.wait(request).boxed();
        match futures::poll!(&mut sent) {
            std::task::Poll::Ready(answer) => std::future::ready(answer).boxed(),
            std::task::Poll::Pending => sent,
        }
    }

    /// Opens a new file for writing.
    pub(super) async fn create(self: &Arc<Self>, path: &str) -> Result<OpenFile, Fault> {
        let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
        let opened = self
            .wait(self.session.open(path, flags, FileAttributes::empty()))
            .await?;
        Ok(OpenFile::new(self, opened.handle))
    }

    async fn open(self: &Arc<Self>, path: &str) -> Result<Arc<OpenFile>, Fault> {
        // The semaphore is never closed, so an error cannot come; going on is right then.
        let _turn = self.opening.acquire().await;
        let opened = self
            .wait(
                self.session
                    .open(path, OpenFlags::READ, FileAttributes::empty()),
            )
            .await?;
        Ok(Arc::new(OpenFile::new(self, opened.handle)))
    }

    /// The object at `path`, opened now or a short while ago.
    async fn open_object(self: &Arc<Self>, path: &str) -> Result<Arc<OpenFile>, Fault> {
        if let Some(file) = lock(&self.objects).find(path) {
            return Ok(file);
        }
        let file = self.open(path).await?;
        lock(&self.objects).keep(path, &file);
        Ok(file)
    }

    /// Does not use what is open at `path` any more.
    pub(super) fn forget(&self, path: &str) {
        lock(&self.objects).let_go(path);
    }

    /// A directory, opened to be synced. OpenSSH on Unix allows it; elsewhere this is an
    /// answer of failure.
    pub(super) async fn open_directory(
        self: &Arc<Self>,
        path: &str,
    ) -> Result<Arc<OpenFile>, Fault> {
        if let Some(file) = lock(&self.directories).find(path) {
            return Ok(file);
        }
        let file = self.open(path).await?;
        lock(&self.directories).keep(path, &file);
        Ok(file)
    }

    /// Writes all of a new file and syncs it, if the server can, in two round trips; slower,
    /// if `pace` says so.
    pub(super) async fn fill(
        &self,
        file: &OpenFile,
        bytes: &Bytes,
        pace: Option<&dyn Pace>,
    ) -> Result<(), Fault> {
        let piece = usize::try_from(self.write_bytes).unwrap_or(usize::MAX);
        let window = pieces_in_flight(WRITE_WINDOW_BYTES, self.write_bytes);
        let mut flying = FuturesUnordered::new();
        let mut offset = 0;
        for chunk in bytes.chunks(piece) {
            if flying.len() >= window
                && let Some(answer) = flying.next().await
            {
                answer?;
            }
            if let Some(pace) = pace {
                pace.may_send(chunk.len() as u64).await;
            }
            let write = self.session.write(&file.handle, offset, chunk.to_vec());
            let sent = self.send(write).await;
            flying.push(sent);
            offset += chunk.len() as u64;
        }
        if self.extensions.fsync {
            // A server works in order, so this covers the writes before it.
            let sent = self.send(self.session.fsync(&file.handle)).await;
            flying.push(sent);
        }
        while let Some(answer) = flying.next().await {
            answer?;
        }
        Ok(())
    }

    /// Closes a filled file, renames it, and syncs the directory that it came to: one round
    /// trip if the server could sync the file before, else two.
    pub(super) async fn settle(
        &self,
        file: OpenFile,
        from: &str,
        to: &str,
        directory: Option<&OpenFile>,
    ) -> Result<(), Fault> {
        let handle = file.give_up();
        let close = self.send(self.session.close(handle)).await;
        if !self.extensions.fsync {
            // Without a sync, closing may be the first to tell that the disk is full.
            close.await?;
            return self.rename(from, to).await;
        }
        let rename = self.send(self.rename_request(from, to)).await;
        let synced = match directory {
            Some(directory) => Some(self.send(self.session.fsync(&directory.handle)).await),
            None => None,
        };
        let (closed, renamed) = futures::join!(close, rename);
        renamed?;
        closed?;
        match synced {
            Some(synced) => synced.await.map(drop),
            None => Ok(()),
        }
    }

    /// Closes a file of which nothing more is wanted.
    pub(super) async fn close(&self, file: OpenFile) {
        // The server closes it with the session at the latest.
        let _ = self.wait(self.session.close(file.give_up())).await;
    }

    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), Fault> {
        self.wait(self.rename_request(from, to)).await
    }

    async fn rename_request(&self, from: &str, to: &str) -> Result<(), SftpError> {
        if !self.extensions.posix_rename {
            return self.session.rename(from, to).await.map(drop);
        }
        let mut data = Vec::with_capacity(8 + from.len() + to.len());
        for path in [from, to] {
            data.extend_from_slice(&(path.len() as u32).to_be_bytes());
            data.extend_from_slice(path.as_bytes());
        }
        match self
            .session
            .extended("posix-rename@openssh.com", data)
            .await?
        {
            Packet::Status(status) if status.status_code == StatusCode::Ok => Ok(()),
            Packet::Status(status) => Err(SftpError::Status(status)),
            _ => Err(SftpError::UnexpectedPacket),
        }
    }

    /// Syncs a directory that was opened for it.
    pub(super) async fn sync(&self, directory: &OpenFile) -> Result<(), Fault> {
        self.wait(self.session.fsync(&directory.handle))
            .await
            .map(drop)
    }

    /// The whole object, of at most `most` bytes.
    pub(super) async fn read_all(self: &Arc<Self>, path: &str, most: u64) -> Result<Bytes, Fault> {
        let file = self.open_object(path).await?;
        let result = self.read_open(&file, most).await;
        if result.is_err() {
            self.forget(path);
        }
        result
    }

    async fn read_open(&self, file: &OpenFile, most: u64) -> Result<Bytes, Fault> {
        let mut bytes = BytesMut::new();
        if let Some(&size) = file.size.get() {
            return self.read(file, 0..size, bytes).await;
        }
        // What is small comes with its size; the rest of what is large is asked for then.
        let told = self.send(self.session.fstat(&file.handle)).await;
        let (told, head) = futures::join!(told, self.read_into(file, 0..HEAD_BYTES, &mut bytes));
        head?;
        let (size, came) = (told?.attrs.size.unwrap_or(0), bytes.len() as u64);
        if size > most || size < came {
            return Err(Fault::Huge {
                size: size.max(came),
            });
        }
        if came < size.min(HEAD_BYTES) {
            return Err(Fault::Short { size: came });
        }
        let _ = file.size.set(size);
        self.read(file, came..size, bytes).await
    }

    /// The bytes of an object in `range`, all of them.
    pub(super) async fn read_range(
        self: &Arc<Self>,
        path: &str,
        range: Range<u64>,
    ) -> Result<Bytes, Fault> {
        let file = self.open_object(path).await?;
        let result = self.read(&file, range, BytesMut::new()).await;
        if result.is_err() {
            self.forget(path);
        }
        result
    }

    /// `bytes`, and behind them all bytes in `range`.
    async fn read(
        &self,
        file: &OpenFile,
        range: Range<u64>,
        mut bytes: BytesMut,
    ) -> Result<Bytes, Fault> {
        let wanted = range.end.saturating_sub(range.start);
        bytes.reserve(usize::try_from(wanted.min(RESERVE_BYTES)).unwrap_or(0));
        let before = bytes.len();
        self.read_into(file, range.clone(), &mut bytes).await?;
        match (bytes.len() - before) as u64 {
            came if came == wanted => Ok(bytes.freeze()),
            came => Err(Fault::Short {
                size: range.start + came,
            }),
        }
    }

    /// Adds the bytes in `range`, as far as the file has them.
    async fn read_into(
        &self,
        file: &OpenFile,
        range: Range<u64>,
        bytes: &mut BytesMut,
    ) -> Result<(), Fault> {
        let window = pieces_in_flight(READ_WINDOW_BYTES, self.read_bytes);
        let mut flying = FuturesOrdered::new();
        let mut next = range.start;
        loop {
            while flying.len() < window && next < range.end {
                let end = range.end.min(next + self.read_bytes);
                let piece = self.read_piece(file, next..end).await;
                flying.push_back(piece);
                next = end;
            }
            let Some(piece) = flying.next().await else {
                return Ok(());
            };
            let (piece, wanted) = piece?;
            bytes.extend_from_slice(&piece);
            if (piece.len() as u64) < wanted {
                return Ok(());
            }
        }
    }

    /// One piece, and how many bytes it should have. Servers may give less than asked for
    /// in one answer; only an answer of "end of file" ends a file.
    async fn read_piece<'a>(
        &'a self,
        file: &'a OpenFile,
        range: Range<u64>,
    ) -> Sent<'a, (Bytes, u64)> {
        let wanted = range.end - range.start;
        let first = self
            .send(self.session.read(&file.handle, range.start, wanted as u32))
            .await;
        async move {
            let mut answer = first.await;
            let mut bytes = BytesMut::new();
            loop {
                let data = match answer {
                    Ok(data) => data.data,
                    Err(fault) if fault.is_status(StatusCode::Eof) => {
                        return Ok((bytes.freeze(), wanted));
                    }
                    Err(fault) => return Err(fault),
                };
                if data.is_empty() || (bytes.len() + data.len()) as u64 > wanted {
                    return Err(Fault::Broken("a read answered with nonsense".to_owned()));
                }
                if data.len() as u64 == wanted {
                    return Ok((Bytes::from(data), wanted));
                }
                bytes.extend_from_slice(&data);
                let left = wanted - bytes.len() as u64;
                if left == 0 {
                    return Ok((bytes.freeze(), wanted));
                }
                let start = range.end - left;
                answer = self
                    .wait(self.session.read(&file.handle, start, left as u32))
                    .await;
            }
        }
        .boxed()
    }

    /// What lies in a directory, `.` and `..` too.
    pub(super) async fn list(
        self: &Arc<Self>,
        path: &str,
    ) -> Result<Vec<(String, FileAttributes)>, Fault> {
        let _turn = self.opening.acquire().await;
        let opened = self.wait(self.session.opendir(path)).await?;
        let directory = OpenFile::new(self, opened.handle);
        let mut found = Vec::new();
        let mut ended = false;
        let mut flying = FuturesUnordered::new();
        loop {
            // A server gives some hundred names in an answer: ask for several.
            while !ended && flying.len() < 4 {
                let sent = self.send(self.session.readdir(&directory.handle)).await;
                flying.push(sent);
            }
            match flying.next().await {
                None => return Ok(found),
                Some(Ok(names)) => {
                    found.extend(
                        names
                            .files
                            .into_iter()
                            .map(|file| (file.filename, file.attrs)),
                    );
                }
                Some(Err(fault)) if fault.is_status(StatusCode::Eof) => ended = true,
                Some(Err(fault)) => return Err(fault),
            }
        }
    }

    /// The attributes of what `path` leads to.
    pub(super) async fn stat(&self, path: &str) -> Result<FileAttributes, Fault> {
        Ok(self.wait(self.session.stat(path)).await?.attrs)
    }

    /// The attributes of `path` itself, also if it is a symlink.
    pub(super) async fn lstat(&self, path: &str) -> Result<FileAttributes, Fault> {
        Ok(self.wait(self.session.lstat(path)).await?.attrs)
    }

    pub(super) async fn make_directory(&self, path: &str) -> Result<(), Fault> {
        self.wait(self.session.mkdir(path, FileAttributes::empty()))
            .await
            .map(drop)
    }

    pub(super) async fn remove(&self, path: &str) -> Result<(), Fault> {
        self.wait(self.session.remove(path)).await.map(drop)
    }

    /// Bytes that the user may still write on the file system of `path`; `None` if the
    /// server does not tell.
    pub(super) async fn free_bytes(&self, path: &str) -> Option<u64> {
        if !self.extensions.statvfs {
            return None;
        }
        let told = self.wait(self.session.statvfs(path)).await.ok()?;
        Some(told.blocks_avail.saturating_mul(told.fragment_size))
    }
}

fn pieces_in_flight(window_bytes: u64, piece_bytes: u64) -> usize {
    usize::try_from((window_bytes / piece_bytes.max(1)).max(1)).unwrap_or(1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file that is open on the server, and closed there when this is dropped.
pub(super) struct OpenFile {
    lane: std::sync::Weak<Lane>,
    handle: String,
    size: OnceLock<u64>,
    given_up: bool,
}

impl OpenFile {
    fn new(lane: &Arc<Lane>, handle: String) -> Self {
        Self {
            lane: Arc::downgrade(lane),
            handle,
            size: OnceLock::new(),
            given_up: false,
        }
    }

    /// The handle, for who closes it.
    fn give_up(mut self) -> String {
        self.given_up = true;
        std::mem::take(&mut self.handle)
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        if self.given_up {
            return;
        }
        // The server closes all by itself when the session ends, so this is best effort.
        if let (Some(lane), Ok(runtime)) = (self.lane.upgrade(), Runtime::try_current()) {
            let handle = std::mem::take(&mut self.handle);
            runtime.spawn(async move { lane.wait(lane.session.close(handle)).await.map(drop) });
        }
    }
}

/// Files that stay open for a while: the least recently used goes first.
struct OpenFiles {
    most: usize,
    uses: u64,
    files: HashMap<String, Kept>,
}

struct Kept {
    file: Arc<OpenFile>,
    opened: Instant,
    used: u64,
}

impl OpenFiles {
    fn new(most: usize) -> Self {
        Self {
            most,
            uses: 0,
            files: HashMap::new(),
        }
    }

    fn find(&mut self, path: &str) -> Option<Arc<OpenFile>> {
        self.uses += 1;
        let kept = self.files.get_mut(path)?;
        if kept.opened.elapsed() >= OPEN_FOR {
            self.files.remove(path);
            return None;
        }
        kept.used = self.uses;
        Some(kept.file.clone())
    }

    fn keep(&mut self, path: &str, file: &Arc<OpenFile>) {
        self.uses += 1;
        let kept = Kept {
            file: file.clone(),
            opened: Instant::now(),
            used: self.uses,
        };
        self.files.insert(path.to_owned(), kept);
        if self.files.len() > self.most {
            let oldest = self.files.iter().min_by_key(|(_, kept)| kept.used);
            let oldest = oldest.map(|(path, _)| path.clone());
            oldest.and_then(|path| self.files.remove(&path));
        }
    }

    fn let_go(&mut self, path: &str) {
        self.files.remove(path);
    }
}

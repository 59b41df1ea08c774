//! Nodes in use, and the lock under which a file's content changes state.
//!
//! A file's content is here whole, in part, or not at all; and it is clean or dirty:
//!
//! ```text
//!   away --fetch--> part --fetch--> whole      clean: `nodes.content` says all of it,
//!     ^               |               |               and its chunks are stored
//!     +----- drop ----+----- drop ----+        dirty: the cache file holds bytes that
//!                                                     `nodes.content` does not
//!   clean --first write (durable)--> dirty --settle--> clean
//! ```
//!
//! Only [`Volume::drop_content`] takes content away, and only clean content that an
//! acknowledged head reaches. Each step holds the node's lock, and each settle compares
//! the generation and the file's fingerprint with what was read.
//!
//! Sizes and times of a file that is being written are kept here (`pending`) and go to
//! the database when it is closed, synced, settled, or after a moment.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_format::Verified;
use larder_model::{ChunkId, Content, Extent, Kind, Time};
use larder_plan::settle::{Due, SettleRules};
use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::cache::allocated;
use crate::node::{self, Attr};
use crate::{Ino, Result, Volume, VolumeError};

/// Nodes that stay in memory, with their cache file open, while nobody uses them.
const IDLE_KEPT: usize = 384;
/// Files that were dropped since the last synced transaction, before there is another.
const DROPS_NOTED: usize = 4096;
/// Edits of files from this size on are known by their place.
const TRACKED_BYTES: u64 = 256 << 10;

/// What a piece of a file's working map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes that only the cache file holds.
    Local,
    /// Zeros.
    Hole,
    /// The whole of a stored chunk.
    Stored {
        /// The chunk.
        chunk: ChunkId,
        /// Whether its bytes are in the cache file.
        present: bool,
    },
}

/// A piece of a file's working map, with its place in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkingExtent {
    /// Where it starts, in bytes.
    pub off: u64,
    /// How long it is, in bytes; never 0.
    pub len: u64,
    /// What it is.
    pub piece: Piece,
}

/// A stored chunk that is not here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Missing {
    /// Where it starts in the file, in bytes.
    pub off: u64,
    /// How long it is, in bytes.
    pub len: u64,
    /// The chunk.
    pub chunk: ChunkId,
}

/// A dirty file that is being stored: what it was when its bytes were synced.
#[derive(Debug)]
pub struct Settling {
    /// The file.
    pub ino: Ino,
    /// Its generation.
    pub generation: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The cache file, for as long as it is read.
    pub file: Option<Arc<File>>,
    /// Whether someone has it open for writing, or may have.
    pub open: bool,
    /// What it is made of; one local piece if nothing is known of it.
    pub extents: Vec<WorkingExtent>,
    fingerprint: Fingerprint,
    writes: u64,
}

/// Which bytes of a file were stored: as long as it is the same, they are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    fingerprint: Fingerprint,
    writes: u64,
}

impl Settling {
    /// Which bytes these are.
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp {
            fingerprint: self.fingerprint,
            writes: self.writes,
        }
    }
}

/// What became of a settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The content is recorded, and the file is clean.
    Clean,
    /// The content is recorded, but the file may still be written past this process, and
    /// stays dirty.
    StillOpen,
    /// The file changed in the meantime: nothing was recorded.
    ChangedMeanwhile,
    /// The file is gone.
    Gone,
}

/// What became of a drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped {
    /// So many bytes were freed.
    Freed(u64),
    /// Nothing was dropped, for this reason.
    Kept(KeptReason),
}

/// Why content was not dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptReason {
    /// There is nothing of it here.
    NotHere,
    /// It has changes that are not stored yet.
    Dirty,
    /// It is stored, but no acknowledged head reaches it yet.
    NotCommitted,
    /// A program has it open.
    Open,
    /// It, or a directory above it, is pinned.
    Pinned,
    /// A rule keeps it local.
    Local,
    /// It is no regular file.
    NotAFile,
}

impl KeptReason {
    /// The reason in the user's words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotHere => "nothing of it is here",
            Self::Dirty => "it has changes that are not stored yet",
            Self::NotCommitted => "no stored commit holds it yet",
            Self::Open => "a program has it open",
            Self::Pinned => "it is pinned",
            Self::Local => "a rule keeps it local",
            Self::NotAFile => "it is not a regular file",
        }
    }
}

/// What tells that a cache file's bytes changed: size, mtime and ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    ctime: Time,
}

impl Fingerprint {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        let nanos = |secs: i64, nanos: i64| Time(secs.saturating_mul(1_000_000_000) + nanos);
        Self {
            size: meta.len(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// How much of the content is here.
#[derive(Debug)]
pub(crate) enum Here {
    /// Nothing.
    Away,
    /// What the map says: `absent` of its pieces are not here, and `local` bytes only are.
    /// It is in the database only once `stored`.
    Part {
        map: Map,
        absent: usize,
        local: u64,
        stored: bool,
    },
    /// Every byte.
    Whole,
}

impl Here {
    pub(crate) fn part(map: Map, stored: bool) -> Self {
        let absent = map.values().filter(|(_, piece)| !piece.is_here()).count();
        let local = map
            .values()
            .filter(|(_, piece)| *piece == Piece::Local)
            .map(|(len, _)| len)
            .sum();
        Self::Part {
            map,
            absent,
            local,
            stored,
        }
    }
}

/// The working map: pieces by offset, from 0 to the size, without gap or overlap.
pub(crate) type Map = BTreeMap<u64, (u64, Piece)>;

/// What is known of a file in use; only touched under its node's lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) opens: u32,
    pub(crate) writers: u32,
    pub(crate) here: Here,
    pub(crate) dirty: bool,
    /// Whether a stored version exists that an edit in place would spoil.
    pub(crate) has_content: bool,
    pub(crate) generation: u64,
    pub(crate) size: u64,
    pub(crate) bytes: u64,
    /// Times not yet in the database.
    pub(crate) pending: Option<Pending>,
    /// Whether the database's map of it makes no sense.
    spoilt: bool,
    /// Counts changes of content through this process.
    pub(crate) writes: u64,
    /// Whether bytes were written since the last sync.
    pub(crate) unsynced: bool,
    /// How often bytes came that need not have reached the disk, and up to which time they
    /// have.
    fills: u64,
    fills_synced: u64,
    /// The cache file as it was when last looked at.
    pub(crate) seen: Option<Fingerprint>,
    /// How many handles have the cache file itself.
    pub(crate) direct: u32,
    /// Whether, when it was stored last, others had the cache file whom nobody told of.
    elsewhere: bool,
    /// How many writers tell the times of their writes themselves.
    pub(crate) times_told: u32,
    /// Whether the cache file's name survives a power cut.
    pub(crate) entry_synced: bool,
    file: Option<Arc<File>>,
}

/// The size, and the time of the last change unless the writer tells it, that the database
/// does not have yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) time: Option<Time>,
}

/// A file in use.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) ino: Ino,
    slot: Mutex<Slot>,
    used: AtomicU64,
}

/// What the table has of a file. Whoever waited for a lock may find that the file was let
/// go of meanwhile, and that another has its place in the table: so a slot that left the
/// table says so, for ever.
#[derive(Debug)]
enum Slot {
    /// Nothing yet: whoever has the lock loads it.
    New,
    Known(State),
    /// It is not in the table any more.
    Gone,
}

impl Slot {
    fn known(&self) -> Option<&State> {
        match self {
            Self::Known(state) => Some(state),
            Self::New | Self::Gone => None,
        }
    }

    fn known_mut(&mut self) -> Option<&mut State> {
        match self {
            Self::Known(state) => Some(state),
            Self::New | Self::Gone => None,
        }
    }
}

/// All files in use, the unlinked ones, and the dirty ones.
#[derive(Debug)]
pub(crate) struct Lives {
    table: Mutex<HashMap<Ino, Arc<Live>>>,
    orphans: Mutex<HashSet<Ino>>,
    /// Unlinked nodes of which nothing is left but the database's note.
    deleted: Mutex<Vec<Ino>>,
    /// Files whose cache file was removed, with [`crate::Db::syncs`] as it was then.
    dropped: Mutex<HashMap<Ino, u64>>,
    /// How many files left the table.
    ended: AtomicU64,
    dirty: Mutex<DirtyFiles>,
    started: Instant,
    uses: AtomicU64,
    dirty_bytes: AtomicU64,
    here_bytes: AtomicU64,
    pub(crate) fill_epoch: AtomicU64,
    pub(crate) filled: AtomicU64,
}

/// Dirty files by the time of their last change.
#[derive(Debug, Default)]
struct DirtyFiles {
    by_ino: HashMap<Ino, DirtyFile>,
    /// By lane.
    by_change: [BTreeSet<(u64, Ino)>; 2],
}

#[derive(Debug, Clone, Copy)]
struct DirtyFile {
    bytes: u64,
    since_ms: u64,
    changed_ms: u64,
    writers: u32,
    aside: Option<Aside>,
}

/// Files of one lane are stored one after the other; a large one does not hold up small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Files of less than [`LARGE_FILE`] bytes.
    Small = 0,
    /// All others.
    Large = 1,
}

/// From this size on, in bytes, a file is a large one.
const LARGE_FILE: u64 = 32 << 20;

/// Why a dirty file is not offered to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aside {
    /// Its chunks are on their way.
    Storing,
    /// A rule keeps it local: its bytes wait for nothing, and are not counted.
    Local,
    /// It is open for writing, and stored as it is: until it changes, it waits for nothing.
    Stored,
}

impl DirtyFile {
    fn lane(&self) -> Lane {
        if self.bytes < LARGE_FILE {
            Lane::Small
        } else {
            Lane::Large
        }
    }

    fn waits(&self) -> bool {
        matches!(self.aside, None | Some(Aside::Storing))
    }

    fn counted(&self) -> u64 {
        if self.waits() { self.bytes } else { 0 }
    }
}

impl DirtyFiles {
    fn is_due(&self, ino: Ino, rules: &SettleRules, now: Duration) -> bool {
        self.by_ino.get(&ino).is_some_and(|file| {
            let seen = larder_plan::settle::DirtyFile {
                size: file.bytes,
                dirty_since: Duration::from_millis(file.since_ms),
                last_write: Duration::from_millis(file.changed_ms),
                open: file.writers > 0,
            };
            file.aside.is_none() && rules.due(now, &seen) == Due::Now
        })
    }

    /// Replaces what is known of a file. Answers the bytes that counted before and count now.
    fn replace(&mut self, ino: Ino, file: Option<DirtyFile>) -> (u64, u64) {
        let before = self.by_ino.remove(&ino);
        if let Some(before) = before {
            self.by_change[before.lane() as usize].remove(&(before.changed_ms, ino));
        }
        if let Some(file) = file {
            self.by_ino.insert(ino, file);
            if file.aside.is_none() {
                self.by_change[file.lane() as usize].insert((file.changed_ms, ino));
            }
        }
        let counted = |file: Option<DirtyFile>| file.map_or(0, |file| file.counted());
        (counted(before), counted(file))
    }
}

impl Lives {
    pub(crate) fn new() -> Self {
        Self {
            table: Mutex::default(),
            orphans: Mutex::default(),
            deleted: Mutex::default(),
            dropped: Mutex::default(),
            ended: AtomicU64::new(0),
            dirty: Mutex::default(),
            started: Instant::now(),
            uses: AtomicU64::new(0),
            dirty_bytes: AtomicU64::new(0),
            here_bytes: AtomicU64::new(0),
            fill_epoch: AtomicU64::new(1),
            filled: AtomicU64::new(0),
        }
    }

    /// Reads what the database knows of dirty and cached files.
    pub(crate) fn load(&self, connection: &Connection) -> Result<()> {
        let here: i64 =
            connection.query_row("SELECT coalesce(sum(bytes), 0) FROM cached", [], |row| {
                row.get(0)
            })?;
        self.here_bytes.store(here as u64, Ordering::Relaxed);
        let mut statement = connection.prepare(
            "SELECT c.ino, min(c.bytes, n.size) FROM cached c JOIN nodes n ON n.ino = c.ino
             WHERE c.dirty = 1 AND n.nlink > 0",
        )?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
        })?;
        for row in rows {
            let (ino, bytes) = row?;
            self.note_dirty(ino, bytes, 0);
        }
        let mut statement = connection.prepare("SELECT ino FROM orphans")?;
        let epoch = crate::db::meta_u64(connection, "synced_epoch")?;
        self.fill_epoch.store(epoch + 1, Ordering::SeqCst);
        let orphans = statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?;
        let mut known = self.orphans.lock();
        for ino in orphans {
            known.insert(ino?);
        }
        Ok(())
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Notes a change of a dirty file.
    pub(crate) fn note_dirty(&self, ino: Ino, bytes: u64, writers: u32) {
        let now = self.now_ms();
        let mut dirty = self.dirty.lock();
        let known = dirty.by_ino.get(&ino).copied();
        // One that was stored as it is begins anew.
        let before = known.filter(|known| known.aside != Some(Aside::Stored));
        if before.is_some_and(|before| {
            before.changed_ms == now && before.bytes == bytes && before.writers == writers
        }) {
            return;
        }
        let file = DirtyFile {
            bytes,
            since_ms: before.map_or(now, |before| before.since_ms),
            changed_ms: now,
            writers,
            aside: before.and_then(|before| before.aside),
        };
        let counted = dirty.replace(ino, Some(file));
        self.count_dirty(counted);
    }

    fn note_clean(&self, ino: Ino) {
        let counted = self.dirty.lock().replace(ino, None);
        self.count_dirty(counted);
    }

    /// Offers a dirty file to be stored no more (`Some`), or again.
    pub(crate) fn set_aside(&self, ino: Ino, aside: Option<Aside>) {
        let mut dirty = self.dirty.lock();
        if let Some(&file) = dirty.by_ino.get(&ino) {
            let counted = dirty.replace(ino, Some(DirtyFile { aside, ..file }));
            self.count_dirty(counted);
        }
    }

    /// Offers a file again that rules keep local: it has another name.
    pub(crate) fn offer_again(&self, ino: Ino) {
        let mut dirty = self.dirty.lock();
        if let Some(&file) = dirty.by_ino.get(&ino)
            && file.aside == Some(Aside::Local)
        {
            let counted = dirty.replace(
                ino,
                Some(DirtyFile {
                    aside: None,
                    ..file
                }),
            );
            self.count_dirty(counted);
        }
    }

    /// Offers all files again that rules keep local: the rules changed.
    pub(crate) fn offer_local_again(&self) {
        let mut dirty = self.dirty.lock();
        let local: Vec<_> = dirty
            .by_ino
            .iter()
            .filter(|(_, file)| file.aside == Some(Aside::Local))
            .map(|(&ino, &file)| (ino, file))
            .collect();
        for (ino, file) in local {
            let counted = dirty.replace(
                ino,
                Some(DirtyFile {
                    aside: None,
                    ..file
                }),
            );
            self.count_dirty(counted);
        }
    }

    /// Whether a dirty file would take more of the disk if it reached to `end`. A file that
    /// is not dirty does not yet.
    pub(crate) fn would_grow(&self, ino: Ino, end: u64) -> bool {
        let dirty = self.dirty.lock();
        dirty.by_ino.get(&ino).is_none_or(|file| end > file.bytes)
    }

    fn count_dirty(&self, (before, after): (u64, u64)) {
        self.dirty_bytes.fetch_add(after, Ordering::Relaxed);
        self.dirty_bytes.fetch_sub(before, Ordering::Relaxed);
    }

    /// Bytes and number of dirty files that wait to be stored.
    pub(crate) fn dirty_totals(&self) -> (u64, u64) {
        let dirty = self.dirty.lock();
        let files = dirty.by_ino.values().filter(|file| file.waits()).count() as u64;
        (self.dirty_bytes.load(Ordering::Relaxed), files)
    }

    /// Bytes of dirty files that wait to be stored; no lock.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that cache files take; no lock.
    pub(crate) fn here_bytes(&self) -> u64 {
        self.here_bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that came here past any node in use.
    pub(crate) fn count_more(&self, bytes: u64) {
        self.count_here(0, bytes);
    }

    fn count_here(&self, before: u64, after: u64) {
        self.here_bytes.fetch_add(after, Ordering::Relaxed);
        self.here_bytes.fetch_sub(before, Ordering::Relaxed);
    }

    pub(crate) fn note_orphan(&self, ino: Ino) {
        self.orphans.lock().insert(ino);
    }

    pub(crate) fn take_orphan(&self, ino: Ino) -> bool {
        self.orphans.lock().remove(&ino)
    }

    pub(crate) fn is_orphan(&self, ino: Ino) -> bool {
        self.orphans.lock().contains(&ino)
    }

    pub(crate) fn orphans(&self) -> Vec<Ino> {
        self.orphans.lock().iter().copied().collect()
    }

    /// Remembers a file that was just made, so that opening it asks no database.
    pub(crate) fn note_new_file(&self, ino: Ino) {
        let live = Live {
            ino,
            slot: Mutex::new(Slot::Known(State {
                here: Here::Whole,
                dirty: true,
                has_content: false,
                generation: 1,
                ..State::empty()
            })),
            used: AtomicU64::new(self.uses.fetch_add(1, Ordering::Relaxed)),
        };
        // Whoever found it by its name in the meantime has it in use already.
        self.table
            .lock()
            .entry(ino)
            .or_insert_with(|| Arc::new(live));
        self.note_dirty(ino, 0, 0);
    }

    pub(crate) fn is_in_use(&self, ino: Ino) -> bool {
        self.table.lock().contains_key(&ino)
    }

    /// Takes a file out of the table. Whoever waits for its lock looks there again.
    fn end(&self, live: &Arc<Live>, slot: &mut Slot) {
        *slot = Slot::Gone;
        self.ended.fetch_add(1, Ordering::SeqCst);
        let mut table = self.table.lock();
        if table
            .get(&live.ino)
            .is_some_and(|other| Arc::ptr_eq(other, live))
        {
            table.remove(&live.ino);
        }
    }

    fn find(&self, ino: Ino) -> Option<Arc<Live>> {
        self.table.lock().get(&ino).cloned()
    }
}

impl State {
    fn empty() -> Self {
        Self {
            opens: 0,
            writers: 0,
            here: Here::Away,
            dirty: false,
            has_content: false,
            generation: 0,
            size: 0,
            bytes: 0,
            pending: None,
            spoilt: false,
            writes: 0,
            unsynced: false,
            fills: 0,
            fills_synced: 0,
            seen: None,
            direct: 0,
            elsewhere: false,
            times_told: 0,
            entry_synced: false,
            file: None,
        }
    }

    /// Whether all of `range` can be read from the cache file.
    pub(crate) fn holds(&self, range: &Range<u64>) -> bool {
        match &self.here {
            Here::Whole => true,
            Here::Away => self.size == 0,
            Here::Part { map, .. } => pieces_in(map, range).all(|(_, _, piece)| piece.is_here()),
        }
    }

    /// Whether all of `range` is local bytes already, so that writing there changes no map.
    pub(crate) fn is_local(&self, range: &Range<u64>) -> bool {
        match &self.here {
            Here::Whole => true,
            Here::Away => false,
            Here::Part { map, .. } => {
                range.end <= self.size
                    && pieces_in(map, range).all(|(_, _, piece)| piece == Piece::Local)
            }
        }
    }

    /// Notes that the size, and the times with it, changed.
    pub(crate) fn note_times(&mut self, now: Time) {
        let before = self.pending.and_then(|pending| pending.time);
        let time = if self.times_told > 0 {
            before
        } else {
            Some(now)
        };
        self.pending = Some(Pending { time });
    }
}

impl Piece {
    pub(crate) fn is_here(self) -> bool {
        !matches!(self, Self::Stored { present: false, .. })
    }
}

/// The pieces that overlap `range`, as (offset, length, piece).
pub(crate) fn pieces_in<'a>(
    map: &'a Map,
    range: &Range<u64>,
) -> impl Iterator<Item = (u64, u64, Piece)> + 'a {
    let (start, end) = (range.start, range.end);
    let first = map
        .range(..=start)
        .next_back()
        .map_or(start, |(&off, _)| off);
    map.range(first..end.max(first))
        .map(|(&off, &(len, piece))| (off, len, piece))
        .filter(move |(off, len, _)| off + len > start && *off < end)
}

/// The working map of a list of pieces, nothing of which is here.
pub(crate) fn map_of(extents: &[Extent]) -> Map {
    let mut map = Map::new();
    let mut off = 0;
    for extent in extents {
        let piece = match *extent {
            Extent::Hole { .. } => Piece::Hole,
            Extent::Chunk { id, .. } => Piece::Stored {
                chunk: id,
                present: false,
            },
        };
        if !extent.is_empty() {
            map.insert(off, (extent.len(), piece));
            off += extent.len();
        }
    }
    map
}

/// Makes `range` local in the map, growing it if `range` ends behind `size`. A piece that
/// the range cuts becomes local as a whole: its bytes must be here. Says whether anything
/// changed.
pub(crate) fn make_local(map: &mut Map, size: u64, range: &Range<u64>) -> bool {
    if range.end > size {
        map.insert(size, (range.end - size, Piece::Local));
    }
    let touched: Vec<_> = pieces_in(map, range).collect();
    let changed = range.end > size || touched.iter().any(|(.., piece)| *piece != Piece::Local);
    if !changed {
        return false;
    }
    let (mut start, mut end) = match (touched.first(), touched.last()) {
        (Some(first), Some(last)) => (first.0, last.0 + last.1),
        _ => return false,
    };
    for (off, ..) in touched {
        map.remove(&off);
    }
    if let Some((&off, &(len, Piece::Local))) = map.range(..start).next_back()
        && off + len == start
    {
        map.remove(&off);
        start = off;
    }
    if let Some(&(len, Piece::Local)) = map.get(&end) {
        map.remove(&end);
        end += len;
    }
    map.insert(start, (end - start, Piece::Local));
    true
}

/// Whether a piece is here, but its bytes are not the file's own.
fn is_others(piece: Piece) -> bool {
    piece.is_here() && piece != Piece::Local
}

/// Makes the pieces of `range` that are here local, each as a whole.
fn make_here_local(map: &mut Map, range: &Range<u64>) {
    let here: Vec<_> = pieces_in(map, range)
        .filter(|(.., piece)| is_others(*piece))
        .map(|(off, len, _)| off..off + len)
        .collect();
    for piece in here {
        make_local(map, u64::MAX, &piece);
    }
}

/// Cuts the map at `size`; a piece that is cut becomes local.
pub(crate) fn cut(map: &mut Map, size: u64) {
    map.split_off(&size);
    if let Some((&off, &(len, piece))) = map.iter().next_back()
        && off + len > size
    {
        let piece = match piece {
            Piece::Hole => Piece::Hole,
            Piece::Local | Piece::Stored { .. } => Piece::Local,
        };
        map.insert(off, (size - off, piece));
    }
}

/// A node's lock, held, with what is known of the file.
pub(crate) struct Held<'a> {
    volume: &'a Volume,
    pub(crate) ino: Ino,
    slot: MutexGuard<'a, Slot>,
}

impl std::ops::Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        match self.slot.known() {
            Some(state) => state,
            // Whoever makes a `Held` looks first.
            None => unreachable!("a held node has a state"),
        }
    }
}

impl std::ops::DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        match self.slot.known_mut() {
            Some(state) => state,
            None => unreachable!("a held node has a state"),
        }
    }
}

impl Held<'_> {
    /// The cache file, open to read and write.
    pub(crate) fn file(&mut self) -> Result<Arc<File>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(self.volume.cache.open_or_make(self.ino)?);
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Looks at the cache file: writes that went past this process (passthrough, mmap)
    /// show in its size and times.
    pub(crate) fn observe(&mut self) -> Result<()> {
        if !self.dirty || !matches!(self.here, Here::Whole) {
            return Ok(());
        }
        let Some(file) = self.file.clone() else {
            return Ok(());
        };
        let meta = file
            .metadata()
            .map_err(|error| VolumeError::io(self.volume.cache.path(self.ino), error))?;
        let now = Fingerprint::of(&meta);
        let changed = self
            .seen
            .is_none_or(|seen| seen.mtime != now.mtime || seen.size != now.size);
        if changed && self.seen.is_some() {
            self.note_times(now.mtime);
            self.writes += 1;
            self.unsynced = true;
            self.note_dirty();
        }
        self.size = now.size;
        self.seen = Some(now);
        Ok(())
    }

    /// Whether somebody has the cache file who is not known to have it open: a program that
    /// mapped and closed it, or one that had it open when it was taken in; or it has another
    /// name somewhere. Only whole files are given away.
    pub(crate) fn is_elsewhere(&mut self) -> Result<bool> {
        if !matches!(self.here, Here::Whole) {
            return Ok(false);
        }
        let file = self.file()?;
        let meta = file
            .metadata()
            .map_err(|error| VolumeError::io(self.volume.cache.path(self.ino), error))?;
        Ok(meta.nlink() > 1 || crate::lease::is_open_elsewhere(&file))
    }

    /// Offers a file again to be stored that others had when it was, once they do not.
    fn look_elsewhere(&mut self) -> Result<()> {
        if self.elsewhere && !self.is_elsewhere()? {
            self.elsewhere = false;
            self.note_dirty();
        }
        Ok(())
    }

    /// Notes a change of a dirty file: when it was, and how many bytes wait to be stored.
    /// Holes do not, so it is what the cache file takes on the disk that counts.
    pub(crate) fn note_dirty(&self) {
        let taken = self.file.as_ref().and_then(|file| file.metadata().ok());
        let taken = taken.map_or(self.size, |meta| allocated(&meta).min(meta.len()));
        let bytes = match self.here {
            Here::Part { local, .. } => local.min(taken),
            Here::Whole | Here::Away => taken,
        };
        self.volume.live.note_dirty(self.ino, bytes, self.writers);
    }

    /// Takes the cache file as it is now for known, so that a time that is set by hand
    /// stays.
    pub(crate) fn refresh_seen(&mut self) -> Result<()> {
        if let Some(file) = self.file.clone() {
            let meta = file
                .metadata()
                .map_err(|error| VolumeError::io(self.volume.cache.path(self.ino), error))?;
            self.seen = Some(Fingerprint::of(&meta));
        }
        Ok(())
    }

    /// Marks the file dirty before its first change. Durable, if a stored version exists
    /// whose bytes are about to be overwritten in place. The database has all of the working
    /// map from here on.
    pub(crate) fn mark_dirty(&mut self) -> Result<()> {
        if self.dirty {
            return Ok(());
        }
        if self.has_content {
            self.sync_fills()?;
        }
        let whole = matches!(self.here, Here::Whole);
        self.begin_generation(whole)?;
        if let Here::Part { stored, .. } = &mut self.here {
            *stored = true;
        }
        self.note_dirty();
        self.refresh_seen()
    }

    fn begin_generation(&mut self, whole: bool) -> Result<()> {
        let volume = self.volume;
        let (ino, generation) = (self.ino, next_generation(self.generation));
        let epoch = volume.live.fill_epoch.load(Ordering::SeqCst);
        let unstored = matches!(self.here, Here::Part { stored: false, .. });
        let change = |tx: &Transaction<'_>| {
            upsert_cached(tx, ino as i64, whole, true, generation, epoch)?;
            tx.prepare_cached("DELETE FROM recovered WHERE ino = ?1")?
                .execute([ino as i64])?;
            if unstored {
                store_map(tx, ino, &self.here)?;
            }
            Ok(())
        };
        match self.has_content {
            true => volume.db.write_synced(change)?,
            false => volume.db.write(change)?,
        }
        self.generation = generation;
        self.dirty = true;
        Ok(())
    }

    /// Whether bytes came that need not have reached the disk, and that must before the
    /// file's first change: better to sync them first, without the lock
    /// ([`Volume::sync_ahead`]).
    pub(crate) fn must_sync(&self) -> bool {
        !self.dirty
            && self.has_content
            && self.fills > self.fills_synced
            && !matches!(self.here, Here::Away)
    }

    /// Makes fetched bytes survive a power cut, before they count as the user's own: zeros
    /// in their place would be taken for a change.
    fn sync_fills(&mut self) -> Result<()> {
        if self.fills > self.fills_synced && !matches!(self.here, Here::Away) {
            self.file()?
                .sync_data()
                .map_err(|error| VolumeError::io(self.volume.cache.path(self.ino), error))?;
            self.fills_synced = self.fills;
        }
        Ok(())
    }

    /// Writes sizes and times that only memory has to the database.
    pub(crate) fn flush_pending(&mut self) -> Result<()> {
        let Some(pending) = self.pending else {
            return Ok(());
        };
        let (ino, size) = (self.ino, self.size);
        let bytes = match &self.file {
            Some(file) => allocated(
                &file
                    .metadata()
                    .map_err(|error| VolumeError::io(self.volume.cache.path(ino), error))?,
            ),
            None => self.bytes,
        };
        let whole = matches!(self.here, Here::Whole);
        self.volume.db.write(|tx| {
            tx.prepare_cached(
                "UPDATE nodes SET size = ?2, mtime = coalesce(?3, mtime),
                        ctime = max(ctime, coalesce(?3, ctime)),
                        alloc = iif(?5, ?4, alloc)
                 WHERE ino = ?1",
            )?
            .execute((
                ino as i64,
                size as i64,
                pending.time.map(|time| time.0),
                bytes as i64,
                whole,
            ))?;
            tx.prepare_cached("UPDATE cached SET bytes = ?2 WHERE ino = ?1")?
                .execute((ino as i64, bytes as i64))?;
            // What is dirty is noted when it is stored.
            match self.dirty {
                true => Ok(()),
                false => self.volume.mark_changed(tx, ino),
            }
        })?;
        self.volume.live.count_here(self.bytes, bytes);
        self.bytes = bytes;
        self.pending = None;
        Ok(())
    }

    /// Gives a file that is away an empty cache file. If it was not empty it is dirty by
    /// that, in the same transaction.
    pub(crate) fn begin_empty(&mut self) -> Result<()> {
        let (volume, ino) = (self.volume, self.ino);
        volume.before_new_file(ino)?;
        self.file()?
            .set_len(0)
            .map_err(|error| VolumeError::io(volume.cache.path(ino), error))?;
        if self.size > 0 {
            self.begin_generation(true)?;
        } else {
            let (dirty, generation) = (self.dirty, self.generation);
            let epoch = volume.live.fill_epoch.load(Ordering::SeqCst);
            volume
                .db
                .write(|tx| upsert_cached(tx, ino as i64, true, dirty, generation, epoch))?;
        }
        self.size = 0;
        self.here = Here::Whole;
        self.refresh_seen()
    }

    /// Gives a whole file a working map, all local; the database has it with the next
    /// change.
    pub(crate) fn begin_map(&mut self) {
        if matches!(self.here, Here::Whole) {
            let map = match self.size {
                0 => Map::new(),
                len => Map::from([(0, (len, Piece::Local))]),
            };
            self.here = Here::part(map, false);
        }
    }

    /// Makes what is here of `range` local, before it is changed: its bytes are the stored
    /// ones still, so a crash from here on loses none. What is away stays so.
    pub(crate) fn take_over(&mut self, range: &Range<u64>) -> Result<()> {
        let Here::Part { map, .. } = &self.here else {
            return Ok(());
        };
        if !pieces_in(map, range).any(|(.., piece)| is_others(piece)) {
            return Ok(());
        }
        self.sync_fills()?;
        self.change_map(range, |map| make_here_local(map, range))
    }

    /// Makes all of `range` local, now that its bytes are in the cache file.
    pub(crate) fn claim(&mut self, range: &Range<u64>) -> Result<()> {
        if self.is_local(range) {
            return Ok(());
        }
        let size = self.size;
        self.change_map(range, |map| {
            make_local(map, size, range);
        })
    }

    /// Cuts off what a failed write left behind the end, before the file grows past it. Of
    /// a whole file the cache file is the truth.
    pub(crate) fn trim_tail(&mut self) -> Result<()> {
        if !matches!(self.here, Here::Part { .. }) {
            return Ok(());
        }
        let (file, size) = (self.file()?, self.size);
        file.metadata()
            .and_then(|meta| match meta.len() > size {
                true => file.set_len(size),
                false => Ok(()),
            })
            .map_err(|error| VolumeError::io(self.volume.cache.path(self.ino), error))
    }

    /// Changes the size of a dirty file.
    pub(crate) fn resize(&mut self, size: u64) -> Result<()> {
        let before = self.size;
        let path = self.volume.cache.path(self.ino);
        let failed = |error| VolumeError::io(&path, error);
        let file = self.file()?;
        if size < before {
            // The map first: it must never say more than the file has.
            self.sync_fills()?;
            self.change_map(&(size..before), |map| cut(map, size))?;
            if matches!(self.here, Here::Part { .. }) {
                self.size = size;
            }
            return file.set_len(size).map_err(failed);
        }
        self.trim_tail()?;
        file.set_len(size).map_err(failed)?;
        let grown = self.change_map(&(before..size), |map| {
            make_local(map, before, &(before..size));
        });
        if grown.is_err() {
            // If this fails, too, the tail is cut off before the file grows again.
            let _ = file.set_len(before);
        }
        grown
    }

    /// Gives a clean, whole file, that nobody writes past this process, the working map of
    /// its stored content, so that an edit is known by its place.
    pub(crate) fn begin_tracking(&mut self, extents: &[Extent]) {
        let size: u64 = extents.iter().map(Extent::len).sum();
        if self.may_track() && size == self.size {
            let mut map = map_of(extents);
            for (_, piece) in map.values_mut() {
                if let Piece::Stored { present, .. } = piece {
                    *present = true;
                }
            }
            self.here = Here::part(map, false);
        }
    }

    /// Whether an edit should first be given a map to be known by its place: small files
    /// are read anew instead.
    pub(crate) fn may_track(&self) -> bool {
        matches!(self.here, Here::Whole)
            && !self.dirty
            && self.has_content
            && self.direct == 0
            && self.size >= TRACKED_BYTES
    }

    /// Changes the working map in and next to `range` by `change`, and the database with
    /// it. The map of a clean file that says that every byte is here goes: the file is
    /// whole. A dirty one keeps it: it says what is stored already.
    pub(crate) fn change_map(
        &mut self,
        range: &Range<u64>,
        change: impl FnOnce(&mut Map),
    ) -> Result<()> {
        let (ino, generation, dirty) = (self.ino as i64, self.generation, self.dirty);
        let db = &self.volume.db;
        let epoch = self.volume.live.fill_epoch.load(Ordering::SeqCst);
        let Some(state) = self.slot.known_mut() else {
            return Ok(());
        };
        let Here::Part {
            map,
            absent,
            local,
            stored,
        } = &mut state.here
        else {
            return Ok(());
        };
        let region = around(map, range);
        let before: Vec<_> = entries(map, &region);
        change(map);
        let after: Vec<_> = entries(map, &region);
        let left = *absent + count_absent(&after) - count_absent(&before);
        let local_now = *local + count_local(&after) - count_local(&before);
        let whole = left == 0 && !dirty;
        let written = db.write(|tx| {
            upsert_cached(tx, ino, whole, dirty, generation, epoch)?;
            if whole {
                tx.prepare_cached("DELETE FROM extents WHERE ino = ?1")?
                    .execute([ino])?;
            } else if *stored {
                replace_pieces(tx, ino, &before, &after)?;
            } else {
                insert_map(tx, ino, map)?;
            }
            Ok(())
        });
        if let Err(error) = written {
            after.iter().for_each(|(off, _)| {
                map.remove(off);
            });
            map.extend(before);
            return Err(error);
        }
        *absent = left;
        *local = local_now;
        *stored = true;
        if whole {
            state.here = Here::Whole;
        }
        Ok(())
    }
}

/// `range`, widened by a piece on each side, so that pieces that merge are inside; open to
/// the right if the range reaches the map's end.
fn around(map: &Map, range: &Range<u64>) -> Range<u64> {
    let start = map
        .range(..=range.start)
        .rev()
        .nth(1)
        .or_else(|| map.iter().next())
        .map_or(0, |(&off, _)| off);
    let end = map
        .range(range.end..)
        .nth(1)
        .map_or(u64::MAX, |(&off, _)| off);
    start..end
}

fn entries(map: &Map, region: &Range<u64>) -> Vec<(u64, (u64, Piece))> {
    map.range(region.clone())
        .map(|(&off, &piece)| (off, piece))
        .collect()
}

fn count_local(pieces: &[(u64, (u64, Piece))]) -> u64 {
    pieces
        .iter()
        .filter(|(_, (_, piece))| *piece == Piece::Local)
        .map(|(_, (len, _))| len)
        .sum()
}

fn count_absent(pieces: &[(u64, (u64, Piece))]) -> usize {
    pieces
        .iter()
        .filter(|(_, (_, piece))| !piece.is_here())
        .count()
}

fn upsert_cached(
    tx: &Transaction<'_>,
    ino: i64,
    whole: bool,
    dirty: bool,
    generation: u64,
    epoch: u64,
) -> Result<()> {
    let now = node::now().0;
    tx.prepare_cached(
        "INSERT INTO cached(ino, whole, dirty, generation, since, bytes, epoch, used)
         VALUES(?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)
         ON CONFLICT(ino) DO UPDATE SET
             since = iif(dirty = 1, since, excluded.since), whole = excluded.whole,
             dirty = excluded.dirty, generation = excluded.generation, epoch = excluded.epoch",
    )?
    .execute((
        ino,
        whole,
        dirty,
        generation as i64,
        now,
        epoch as i64,
        now / 1_000_000_000,
    ))?;
    Ok(())
}

/// Writes the working map to the database as it is: replaces all rows of the file.
fn store_map(tx: &Transaction<'_>, ino: Ino, here: &Here) -> Result<()> {
    match here {
        Here::Part { map, .. } => insert_map(tx, ino as i64, map),
        Here::Whole | Here::Away => insert_map(tx, ino as i64, &Map::new()),
    }
}

fn insert_map(tx: &Transaction<'_>, ino: i64, map: &Map) -> Result<()> {
    tx.prepare_cached("DELETE FROM extents WHERE ino = ?1")?
        .execute([ino])?;
    for (&off, &(len, piece)) in map {
        insert_piece(tx, ino, off, len, piece)?;
    }
    Ok(())
}

fn insert_piece(tx: &Transaction<'_>, ino: i64, off: u64, len: u64, piece: Piece) -> Result<()> {
    let (chunk, present): (Option<&[u8]>, bool) = match &piece {
        Piece::Local => (None, true),
        Piece::Hole => (Some(&[]), true),
        Piece::Stored { chunk, present } => (Some(chunk.as_bytes()), *present),
    };
    tx.prepare_cached(
        "INSERT OR REPLACE INTO extents(ino, off, len, chunk, present) VALUES(?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((ino, off as i64, len as i64, chunk, present))?;
    Ok(())
}

fn replace_pieces(
    tx: &Transaction<'_>,
    ino: i64,
    before: &[(u64, (u64, Piece))],
    after: &[(u64, (u64, Piece))],
) -> Result<()> {
    for (off, _) in before.iter().filter(|old| !after.contains(old)) {
        tx.prepare_cached("DELETE FROM extents WHERE ino = ?1 AND off = ?2")?
            .execute((ino, *off as i64))?;
    }
    for (off, (len, piece)) in after.iter().filter(|new| !before.contains(new)) {
        insert_piece(tx, ino, *off, *len, *piece)?;
    }
    Ok(())
}

fn load_map(connection: &Connection, ino: Ino) -> Result<Map> {
    let mut statement =
        connection.prepare_cached("SELECT off, len, chunk, present FROM extents WHERE ino = ?1")?;
    let rows = statement.query_map([ino as i64], |row| {
        let chunk: Option<Vec<u8>> = row.get(2)?;
        let piece = match chunk {
            None => Some(Piece::Local),
            Some(chunk) if chunk.is_empty() => Some(Piece::Hole),
            Some(chunk) => ChunkId::from_slice(&chunk).map(|chunk| Piece::Stored {
                chunk,
                present: row.get(3).unwrap_or(false),
            }),
        };
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, piece))
    })?;
    let mut map = Map::new();
    for row in rows {
        let (off, len, piece) = row?;
        let piece = piece.ok_or_else(|| {
            VolumeError::Damaged("the database's map of a file is damaged".to_owned())
        })?;
        map.insert(off as u64, (len as u64, piece));
    }
    Ok(map)
}

/// Where a map ends whose pieces lie one behind the other from 0; `None` if they do not.
fn end_of(map: &Map) -> Option<u64> {
    map.iter().try_fold(0u64, |end, (&off, &(len, _))| {
        let next = off.checked_add(len)?;
        (off == end && len > 0 && next <= i64::MAX as u64).then_some(next)
    })
}

fn load_state(connection: &Connection, ino: Ino) -> Result<State> {
    let row = connection
        .prepare_cached(
            "SELECT n.kind, n.size, n.content IS NOT NULL, c.whole, c.dirty, c.generation, c.bytes
             FROM nodes n LEFT JOIN cached c ON c.ino = n.ino WHERE n.ino = ?1",
        )?
        .query_row([ino as i64], |row| {
            Ok((
                node::kind_of_code(row.get(0)?),
                row.get::<_, i64>(1)? as u64,
                row.get::<_, bool>(2)?,
                row.get::<_, Option<bool>>(3)?,
                row.get::<_, Option<bool>>(4)?.unwrap_or(false),
                row.get::<_, Option<i64>>(5)?.unwrap_or(0) as u64,
                row.get::<_, Option<i64>>(6)?.unwrap_or(0) as u64,
            ))
        })
        .optional()?;
    let (kind, size, has_content, whole, dirty, generation, bytes) =
        row.ok_or(VolumeError::NoEntry)?;
    match kind {
        Kind::File => {}
        Kind::Directory => return Err(VolumeError::IsDirectory),
        _ => return Err(VolumeError::Invalid("it is not a regular file")),
    }
    let (here, mapped) = match whole {
        None => (Here::Away, Some(size)),
        Some(true) => (Here::Whole, Some(size)),
        Some(false) => {
            let map = load_map(connection, ino)?;
            let end = end_of(&map);
            (Here::part(map, true), end)
        }
    };
    let mapped = match (mapped, dirty) {
        (Some(mapped), _) => mapped,
        // Its bytes are stored.
        (None, false) => u64::MAX,
        (None, true) => {
            return Err(VolumeError::Damaged(
                "the database's map of a changed file is damaged".to_owned(),
            ));
        }
    };
    // What was written behind the end may not be in `nodes` yet, but its piece is here.
    let pending = (dirty && mapped != size).then_some(Pending { time: None });
    Ok(State {
        here,
        dirty,
        has_content,
        generation,
        size: if dirty { mapped } else { size },
        spoilt: !dirty && mapped != size,
        pending,
        bytes,
        fills: u64::from(has_content),
        ..State::empty()
    })
}

impl Volume {
    /// Takes the node's lock for as long as `act` runs.
    pub(crate) fn hold<T>(
        &self,
        ino: Ino,
        act: impl FnOnce(&mut Held<'_>) -> Result<T>,
    ) -> Result<T> {
        loop {
            let live = self.live_of(ino);
            let mut slot = live.slot.lock();
            match *slot {
                Slot::Known(_) => {}
                Slot::New => match self.load_checked(ino) {
                    Ok(loaded) => *slot = Slot::Known(loaded),
                    Err(error) => {
                        self.live.end(&live, &mut slot);
                        return Err(error);
                    }
                },
                Slot::Gone => continue,
            }
            let mut held = Held {
                volume: self,
                ino,
                slot,
            };
            return act(&mut held);
        }
    }

    fn live_of(&self, ino: Ino) -> Arc<Live> {
        let stamp = self.live.uses.fetch_add(1, Ordering::Relaxed);
        let mut table = self.live.table.lock();
        let live = table.entry(ino).or_insert_with(|| {
            Arc::new(Live {
                ino,
                slot: Mutex::new(Slot::New),
                used: AtomicU64::new(stamp),
            })
        });
        live.used.store(stamp, Ordering::Relaxed);
        Arc::clone(live)
    }

    /// What the database knows of a file, checked against its cache file: a clean file
    /// whose cache file is not what it must be is away (its bytes are stored), and a dirty
    /// one has the size that its cache file has.
    fn load_checked(&self, ino: Ino) -> Result<State> {
        let mut state = self.db.look(|connection| load_state(connection, ino))?;
        if matches!(state.here, Here::Away) {
            return Ok(state);
        }
        let path = self.cache.path(ino);
        let found = self.cache.open_file(ino)?;
        let Some(file) = found else {
            return match (state.dirty, state.has_content) {
                (false, _) => self.come_anew(ino, state),
                (true, true) => self.take_back(ino),
                (true, false) => self.begin_again(ino, state),
            };
        };
        let meta = file
            .metadata()
            .map_err(|error| VolumeError::io(&path, error))?;
        let now = Fingerprint::of(&meta);
        if now.size != state.size || state.spoilt {
            match (&state.here, state.dirty) {
                (_, false) => return self.come_anew(ino, state),
                (Here::Whole, true) => {
                    state.size = now.size;
                    state.note_times(now.mtime);
                }
                (_, true) => file
                    .set_len(state.size)
                    .map_err(|error| VolumeError::io(&path, error))?,
            }
        }
        state.unsynced = state.dirty;
        state.seen = Some(now);
        state.file = Some(Arc::new(file));
        Ok(state)
    }

    /// A clean file whose cache file is not what it must be is away from now on.
    fn come_anew(&self, ino: Ino, mut state: State) -> Result<State> {
        tracing::warn!(
            ino,
            "a cache file is not what it must be; it is fetched anew"
        );
        self.db.write(|tx| delete_cached(tx, ino))?;
        self.live.count_here(state.bytes, 0);
        state.bytes = 0;
        state.here = Here::Away;
        self.note_dropped(ino)?;
        self.cache.remove(ino)?;
        Ok(state)
    }

    /// A dirty file without a cache file is what was stored of it last: its changes are
    /// lost, and it is listed with what a crash hit.
    fn take_back(&self, ino: Ino) -> Result<State> {
        tracing::warn!(
            ino,
            "a changed file is gone from the cache; its stored version stays"
        );
        let content = larder_format::decode_content(&self.stored_content(ino)?)?;
        self.db.write(|tx| {
            tx.prepare_cached(
                "INSERT OR IGNORE INTO recovered(ino, time, previous)
                 SELECT ino, ?2, content FROM nodes WHERE ino = ?1",
            )?
            .execute((ino as i64, node::now().0))?;
            delete_cached(tx, ino)?;
            tx.prepare_cached("UPDATE nodes SET size = ?2 WHERE ino = ?1")?
                .execute((ino as i64, content.size() as i64))?;
            self.mark_changed(tx, ino)
        })?;
        self.db.look(|connection| load_state(connection, ino))
    }

    /// A new file that lost its cache file begins anew: of what it shares with others
    /// nothing is here.
    fn begin_again(&self, ino: Ino, mut state: State) -> Result<State> {
        let file = self.cache.open_or_make(ino)?;
        if let Here::Part { mut map, .. } = std::mem::replace(&mut state.here, Here::Whole) {
            for (_, piece) in map.values_mut() {
                if let Piece::Stored { present, .. } = piece {
                    *present = false;
                }
            }
            file.set_len(state.size)
                .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
            state.here = Here::part(map, true);
            self.db.write(|tx| store_map(tx, ino, &state.here))?;
        } else {
            state.size = 0;
            state.note_times(node::now());
        }
        state.unsynced = true;
        state.file = Some(Arc::new(file));
        Ok(state)
    }

    /// After a crash: notes the sizes that dirty files really have, before anybody asks.
    pub(crate) fn note_real_sizes(&self) {
        let dirty: Vec<_> = self.live.dirty.lock().by_ino.keys().copied().collect();
        for ino in dirty {
            if let Err(error) = self.hold(ino, |held| held.flush_pending()) {
                tracing::warn!(ino, %error, "could not look at a changed file");
            }
            self.trim_lives();
        }
    }

    /// Lets idle nodes go, oldest first, so that no descriptor is held for each node.
    pub(crate) fn trim_lives(&self) {
        let idle = {
            let table = self.live.table.lock();
            if table.len() <= IDLE_KEPT {
                return;
            }
            let mut idle: Vec<_> = table
                .values()
                .filter(|live| Arc::strong_count(live) == 1)
                .map(|live| (live.used.load(Ordering::Relaxed), Arc::clone(live)))
                .collect();
            idle.sort_unstable_by_key(|(used, _)| *used);
            idle.truncate(table.len().saturating_sub(IDLE_KEPT / 2));
            idle
        };
        for (_, live) in idle {
            self.let_go(&live);
        }
    }

    fn let_go(&self, live: &Arc<Live>) {
        let Some(slot) = live.slot.try_lock() else {
            return;
        };
        if slot
            .known()
            .is_none_or(|state| state.opens > 0 || state.elsewhere)
        {
            return;
        }
        let mut held = Held {
            volume: self,
            ino: live.ino,
            slot,
        };
        if let Err(error) = held.flush_pending() {
            tracing::warn!(ino = live.ino, %error, "could not note a file's size");
            return;
        }
        self.live.end(live, &mut held.slot);
    }

    /// Deletes a node that has no name, and its content. False if it has a name after all.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn delete_unlinked(&self, ino: Ino) -> Result<bool> {
        let live = self.live_of(ino);
        let mut slot = live.slot.lock();
        let gone = std::mem::take(&mut *self.live.deleted.lock());
        let deleted = self.db.write(|tx| {
            crate::names::forget_orphans(tx, &gone)?;
            crate::names::delete_node(tx, ino)
        });
        if deleted.is_err() {
            self.live.deleted.lock().extend(gone);
        }
        let bytes = match (&deleted, slot.known()) {
            (Ok(Some(_)), Some(state)) => Some(state.bytes),
            (Ok(noted), _) => *noted,
            (Err(_), _) => None,
        };
        if bytes.is_some() || slot.known().is_none() {
            self.live.end(&live, &mut slot);
        }
        deleted?;
        let Some(bytes) = bytes else {
            return Ok(false);
        };
        self.live.count_here(bytes, 0);
        self.live.note_clean(ino);
        self.cache.remove(ino)?;
        self.live.deleted.lock().push(ino);
        Ok(true)
    }

    /// The database need not note any more which nodes were deleted: of none anything is
    /// left.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn forget_deleted(&self) -> Result<()> {
        let gone = std::mem::take(&mut *self.live.deleted.lock());
        self.db.write(|tx| crate::names::forget_orphans(tx, &gone))
    }

    /// The database's row of a cache file is gone, and the file itself goes next. If the row
    /// came back after a power cut, a new file in the same place would be taken for the old
    /// one; so none is made before the row's end is synced ([`Volume::before_new_file`]).
    fn note_dropped(&self, ino: Ino) -> Result<()> {
        let syncs = self.db.syncs();
        let many = {
            let mut dropped = self.live.dropped.lock();
            if dropped.len() >= DROPS_NOTED {
                dropped.retain(|_, at| *at >= syncs);
            }
            dropped.insert(ino, syncs);
            dropped.len() > DROPS_NOTED
        };
        if many {
            self.db.write_synced(|_| Ok(()))?;
        }
        Ok(())
    }

    fn before_new_file(&self, ino: Ino) -> Result<()> {
        let dropped = self.live.dropped.lock().get(&ino).copied();
        if dropped.is_some_and(|at| at >= self.db.syncs()) {
            self.db.write_synced(|_| Ok(()))?;
        }
        self.live.dropped.lock().remove(&ino);
        Ok(())
    }

    /// Reads something of files until none left the table meanwhile: what the database had
    /// before one did, and the table no longer had after it, would be news from yesterday.
    pub(crate) fn settled<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        let mut tries = 8;
        loop {
            let before = self.live.ended.load(Ordering::SeqCst);
            let value = read()?;
            tries -= 1;
            if tries == 0 || before == self.live.ended.load(Ordering::SeqCst) {
                return Ok(value);
            }
        }
    }

    /// Writes the sizes and times of all files in use to the database, and sees to those that
    /// others had.
    pub(crate) fn flush_lives(&self) {
        let lives: Vec<_> = self.live.table.lock().values().cloned().collect();
        for live in lives {
            let slot = live.slot.lock();
            if slot.known().is_none() {
                continue;
            }
            let mut held = Held {
                volume: self,
                ino: live.ino,
                slot,
            };
            let flushed = held
                .observe()
                .and_then(|()| held.flush_pending())
                .and_then(|()| held.look_elsewhere());
            if let Err(error) = flushed {
                tracing::warn!(ino = live.ino, %error, "could not note a file's size");
            }
        }
    }

    /// The attributes with what only memory knows of them.
    pub(crate) fn with_live(&self, mut attr: Attr) -> Attr {
        if attr.kind != Kind::File {
            return attr;
        }
        let Some(live) = self.live.find(attr.ino) else {
            return attr;
        };
        let slot = live.slot.lock();
        if slot.known().is_none() {
            return attr;
        }
        let mut held = Held {
            volume: self,
            ino: attr.ino,
            slot,
        };
        if held.writers > 0
            && let Err(error) = held.observe()
        {
            tracing::warn!(ino = attr.ino, %error, "could not look at a cache file");
        }
        attr.size = held.size;
        if let Some(time) = held.pending.and_then(|pending| pending.time) {
            attr.mtime = time;
            attr.ctime = attr.ctime.max(time);
        }
        if held.dirty
            && matches!(held.here, Here::Whole)
            && let Some(file) = &held.file
            && let Ok(meta) = file.metadata()
        {
            attr.blocks = meta.blocks();
        }
        attr
    }

    /// A file's stored content, as the database has it now.
    fn stored_content(&self, ino: Ino) -> Result<Vec<u8>> {
        let content: Option<Option<Vec<u8>>> = self.db.look(|connection| {
            Ok(connection
                .prepare_cached("SELECT content FROM nodes WHERE ino = ?1")?
                .query_row([ino as i64], |row| row.get(0))
                .optional()?)
        })?;
        content.ok_or(VolumeError::NoEntry)?.ok_or_else(|| {
            VolumeError::Damaged("the database knows no content of a file".to_owned())
        })
    }

    /// A file's stored content, and its pieces. Blocks while the pages of a long list come
    /// from the store; meanwhile the file may be stored anew, so whoever uses the pieces
    /// compares the content again, under the node's lock.
    fn stored_extents(&self, ino: Ino) -> Result<(Vec<u8>, Vec<Extent>)> {
        let content = self.stored_content(ino)?;
        let extents = self.expand(&larder_format::decode_content(&content)?)?;
        Ok((content, extents))
    }

    /// Syncs what came of a clean file, as it must be before the file's first change, without
    /// the node's lock: it may take long, and others only want to look at the file.
    pub(crate) fn sync_ahead(&self, ino: Ino) -> Result<()> {
        let waiting = self.hold(ino, |held| {
            let fills = held.fills;
            held.must_sync()
                .then(|| Ok((held.file()?, fills)))
                .transpose()
        })?;
        let Some((file, fills)) = waiting else {
            return Ok(());
        };
        file.sync_data()
            .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
        self.hold(ino, |held| {
            held.fills_synced = held.fills_synced.max(fills);
            Ok(())
        })
    }

    /// Gives a whole file that is about to be edited the map of what is stored of it, if
    /// that can be had.
    pub(crate) fn track(&self, ino: Ino) -> Result<()> {
        match self.stored_extents(ino) {
            Ok((content, extents)) => self.hold(ino, |held| {
                if self.stored_content(ino)? == content {
                    held.begin_tracking(&extents);
                }
                Ok(())
            }),
            Err(error) => {
                tracing::debug!(ino, %error, "an edited file will be read anew as a whole");
                Ok(())
            }
        }
    }

    /// Gives a file that is away its working map, all absent, unless it was stored anew in
    /// the meantime. Blocks while the pages of a long list come from the store.
    ///
    /// # Errors
    /// If the list cannot be had.
    pub(crate) fn materialise(&self, ino: Ino) -> Result<()> {
        let (content, extents) = self.stored_extents(ino)?;
        self.hold(ino, |held| {
            if !matches!(held.here, Here::Away) || self.stored_content(ino)? != content {
                return Ok(());
            }
            let size: u64 = extents.iter().map(Extent::len).sum();
            if size != held.size {
                return Err(VolumeError::Damaged(
                    "a file's list of chunks does not add up to its size".to_owned(),
                ));
            }
            let map = map_of(&extents);
            self.before_new_file(ino)?;
            let file = held.file()?;
            file.set_len(0)
                .and_then(|()| file.set_len(size))
                .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
            held.here = Here::part(map, false);
            if held.holds(&(0..size)) {
                held.change_map(&(0..0), |_| ())?;
            }
            Ok(())
        })
    }

    /// The stored chunks in `range` that are not here, in order.
    ///
    /// # Errors
    /// If the file's list cannot be had.
    pub fn missing(&self, ino: Ino, range: Range<u64>) -> Result<Vec<Missing>> {
        loop {
            let found = self.hold(ino, |held| match &held.here {
                Here::Whole => Ok(Some(Vec::new())),
                Here::Away if held.size == 0 => Ok(Some(Vec::new())),
                Here::Away => Ok(None),
                Here::Part { map, .. } => Ok(Some(
                    pieces_in(map, &range)
                        .filter_map(|(off, len, piece)| match piece {
                            Piece::Stored {
                                chunk,
                                present: false,
                            } => Some(Missing { off, len, chunk }),
                            _ => None,
                        })
                        .collect(),
                )),
            })?;
            match found {
                Some(missing) => return Ok(missing),
                None => self.materialise(ino)?,
            }
        }
    }

    /// Puts verified chunks into the cache file and marks them present, each only if the
    /// working map still wants it there.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn fill(&self, ino: Ino, chunks: &[(Missing, Arc<Verified>)]) -> Result<()> {
        self.hold(ino, |held| {
            let Here::Part { map, .. } = &held.here else {
                return Ok(());
            };
            let wanted: Vec<_> = chunks
                .iter()
                .filter(|(missing, bytes)| {
                    let absent = Piece::Stored {
                        chunk: missing.chunk,
                        present: false,
                    };
                    bytes.id() == missing.chunk
                        && bytes.len() as u64 == missing.len
                        && map.get(&missing.off) == Some(&(missing.len, absent))
                })
                .collect();
            if wanted.is_empty() {
                return Ok(());
            }
            let file = held.file()?;
            for (missing, bytes) in &wanted {
                use std::os::unix::fs::FileExt;
                file.write_all_at(bytes, missing.off)
                    .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
            }
            let start = wanted.iter().map(|(missing, _)| missing.off).min();
            let end = wanted
                .iter()
                .map(|(missing, _)| missing.off + missing.len)
                .max();
            held.change_map(&(start.unwrap_or(0)..end.unwrap_or(0)), |map| {
                for (missing, _) in &wanted {
                    if let Some((_, Piece::Stored { present, .. })) = map.get_mut(&missing.off) {
                        *present = true;
                    }
                }
            })?;
            let more: u64 = wanted.iter().map(|(missing, _)| missing.len).sum();
            self.live.filled.fetch_add(more, Ordering::Relaxed);
            let bytes = held.bytes + more;
            self.db.write(|tx| {
                tx.prepare_cached("UPDATE cached SET bytes = ?2 WHERE ino = ?1")?
                    .execute((ino as i64, bytes as i64))?;
                Ok(())
            })?;
            self.live.count_here(held.bytes, bytes);
            held.bytes = bytes;
            held.fills += 1;
            held.refresh_seen()
        })
    }

    /// Dirty files of a lane that are to be stored now, and that are not set aside; those
    /// that changed longest ago first.
    pub(crate) fn settle_candidates(
        &self,
        lane: Lane,
        rules: &SettleRules,
        max: usize,
    ) -> Vec<Ino> {
        let now = Duration::from_millis(self.live.now_ms());
        let dirty = self.live.dirty.lock();
        dirty.by_change[lane as usize]
            .iter()
            .take_while(|(changed, _)| Duration::from_millis(*changed) + rules.quiet <= now)
            .filter(|(_, ino)| dirty.is_due(*ino, rules, now))
            .take(max)
            .map(|&(_, ino)| ino)
            .collect()
    }

    /// Whether a dirty file is to be stored now.
    pub(crate) fn is_settle_due(&self, ino: Ino, rules: &SettleRules) -> bool {
        let now = Duration::from_millis(self.live.now_ms());
        self.live.dirty.lock().is_due(ino, rules, now)
    }

    /// All dirty files that wait to be stored.
    pub(crate) fn dirty_files(&self) -> Vec<Ino> {
        let dirty = self.live.dirty.lock();
        let waiting = dirty.by_ino.iter().filter(|(_, file)| file.waits());
        waiting.map(|(&ino, _)| ino).collect()
    }

    /// Tells what a dirty file is made of, to be stored; `None` if it is not dirty, is
    /// gone, or is being written at this moment.
    ///
    /// Nothing is synced: what is stored is the store's to keep, and a cache file that a
    /// power cut may have hit is dropped then (`recover`). But a file that a program may
    /// change through a map is synced, so that its next change shows in its times.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn begin_settle(&self, ino: Ino) -> Result<Option<Settling>> {
        let found = self.look_to_settle(ino).and_then(|found| match found {
            Some((settling, true)) => self.sync_to_settle(settling),
            Some((settling, false)) => Ok(Some(settling)),
            None => Ok(None),
        });
        match found {
            Err(VolumeError::NoEntry) => {
                self.live.note_clean(ino);
                Ok(None)
            }
            other => other,
        }
    }

    fn sync_to_settle(&self, before: Settling) -> Result<Option<Settling>> {
        if let Some(file) = &before.file {
            file.sync_data()
                .map_err(|error| VolumeError::io(self.cache.path(before.ino), error))?;
        }
        let after = self.look_to_settle(before.ino)?;
        Ok(after.map(|(after, _)| after).filter(|after| {
            before.generation == after.generation
                && before.writes == after.writes
                && before.fingerprint == after.fingerprint
        }))
    }

    /// What a dirty file is made of, and whether programs write it past this process.
    fn look_to_settle(&self, ino: Ino) -> Result<Option<(Settling, bool)>> {
        if self.live.is_orphan(ino) {
            return Err(VolumeError::NoEntry);
        }
        self.hold(ino, |held| {
            held.observe()?;
            held.flush_pending()?;
            if !held.dirty {
                self.live.note_clean(ino);
                return Ok(None);
            }
            let file = held.file()?;
            let elsewhere = held.is_elsewhere()?;
            let meta = file
                .metadata()
                .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
            let extents = match &held.here {
                Here::Part { map, .. } => map
                    .iter()
                    .map(|(&off, &(len, piece))| WorkingExtent { off, len, piece })
                    .collect(),
                Here::Whole if held.size > 0 => vec![WorkingExtent {
                    off: 0,
                    len: held.size,
                    piece: Piece::Local,
                }],
                Here::Whole | Here::Away => Vec::new(),
            };
            let settling = Settling {
                ino,
                generation: held.generation,
                size: held.size,
                file: Some(file),
                open: held.writers > 0 || elsewhere,
                extents,
                fingerprint: Fingerprint::of(&meta),
                writes: held.writes,
            };
            let past_us = elsewhere || (held.writers > 0 && held.direct > 0);
            Ok(Some((settling, past_us)))
        })
    }

    /// Records the content of a dirty file, all of whose chunks the store acknowledged, if
    /// the file is still what [`Volume::begin_settle`] saw.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn finish_settle(
        &self,
        settling: &Settling,
        content: &Content,
        extents: &[Extent],
    ) -> Result<Settled> {
        let ino = settling.ino;
        let finished = self.hold(ino, |held| {
            held.observe()?;
            let file = held.file()?;
            let meta = file
                .metadata()
                .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
            let same = held.dirty
                && held.generation == settling.generation
                && held.writes == settling.writes
                && Fingerprint::of(&meta) == settling.fingerprint;
            if !same {
                return Ok(Settled::ChangedMeanwhile);
            }
            held.flush_pending()?;
            // Writes that come through this process make it dirty again; others do not show.
            let elsewhere = held.is_elsewhere()?;
            let clean = !elsewhere && (held.writers == 0 || held.direct == 0);
            let epoch = self.live.fill_epoch.load(Ordering::SeqCst);
            let generation = next_generation(held.generation);
            let encoded = larder_format::encode_content(content);
            let next = match &held.here {
                Here::Part { map, .. } => settled_here(map, extents),
                Here::Whole | Here::Away => Here::Whole,
            };
            let whole = matches!(next, Here::Whole);
            let before = std::mem::replace(&mut held.here, next);
            let recorded = self.db.write(|tx| {
                // Not safe, even if the bytes are those of before: only the next commit, which
                // is synced, may let go of them. A power cut could make the file dirty again.
                tx.prepare_cached("UPDATE nodes SET content = ?2, safe = 0 WHERE ino = ?1")?
                    .execute((ino as i64, &encoded))?;
                tx.prepare_cached(
                    "UPDATE cached SET dirty = ?2, generation = ?3, whole = ?4, epoch = ?5
                     WHERE ino = ?1",
                )?
                .execute((
                    ino as i64,
                    !clean,
                    generation as i64,
                    whole,
                    epoch as i64,
                ))?;
                store_map(tx, ino, &held.here)?;
                self.mark_changed(tx, ino)
            });
            if let Err(error) = recorded {
                held.here = before;
                return Err(error);
            }
            self.live.filled.fetch_add(1, Ordering::Relaxed);
            held.fills += 1;
            held.generation = generation;
            held.has_content = true;
            held.dirty = !clean;
            held.elsewhere = elsewhere;
            if clean {
                held.unsynced = false;
                self.live.note_clean(ino);
                Ok(Settled::Clean)
            } else {
                self.live.note_clean(ino);
                held.note_dirty();
                self.live.set_aside(ino, Some(Aside::Stored));
                Ok(Settled::StillOpen)
            }
        });
        match finished {
            Err(VolumeError::NoEntry) => {
                self.live.note_clean(ino);
                Ok(Settled::Gone)
            }
            other => other,
        }
    }

    /// The head of a commit was acknowledged: what it took of these files, at these
    /// generations, is safe on the store.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn set_head_acked(&self, tx: &Transaction<'_>, files: &[(Ino, u64)]) -> Result<()> {
        for &(ino, generation) in files {
            tx.prepare_cached(
                "UPDATE nodes SET safe = 1 WHERE ino = ?1 AND EXISTS(
                     SELECT 1 FROM cached WHERE ino = ?1 AND generation = ?2 AND dirty = 0)",
            )?
            .execute((ino as i64, generation as i64))?;
        }
        Ok(())
    }

    /// Drops what is here of a file's content, if it is safe to.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn drop_content(&self, ino: Ino) -> Result<Dropped> {
        let dropped = self.hold(ino, |held| {
            if let Some(reason) = self.reason_to_keep(held)? {
                return Ok(Dropped::Kept(reason));
            }
            held.flush_pending()?;
            self.db.write(|tx| delete_cached(tx, ino))?;
            held.here = Here::Away;
            held.file = None;
            held.seen = None;
            self.live.count_here(held.bytes, 0);
            held.bytes = 0;
            self.note_dropped(ino)?;
            Ok(Dropped::Freed(self.cache.remove(ino)?))
        });
        match dropped {
            Err(VolumeError::IsDirectory | VolumeError::Invalid(_)) => {
                Ok(Dropped::Kept(KeptReason::NotAFile))
            }
            other => other,
        }
    }

    /// Why the content of this file would be kept by [`Volume::drop_content`] now; `None`
    /// if it would go.
    ///
    /// # Errors
    /// If the node is gone, or the database fails.
    pub fn would_keep(&self, ino: Ino) -> Result<Option<KeptReason>> {
        match self.hold(ino, |held| self.reason_to_keep(held)) {
            Err(VolumeError::IsDirectory | VolumeError::Invalid(_)) => {
                Ok(Some(KeptReason::NotAFile))
            }
            other => other,
        }
    }

    fn reason_to_keep(&self, held: &Held<'_>) -> Result<Option<KeptReason>> {
        let ino = held.ino;
        if matches!(held.here, Here::Away | Here::Part { stored: false, .. }) {
            return Ok(Some(KeptReason::NotHere));
        }
        // While writers wait for room, what is open may go too: whoever reads it through
        // this process gets it from the store again.
        if held.opens > 0 && (held.direct > 0 || !self.is_pressed()) {
            return Ok(Some(KeptReason::Open));
        }
        if self.is_local(ino)? {
            return Ok(Some(KeptReason::Local));
        }
        if held.dirty {
            return Ok(Some(KeptReason::Dirty));
        }
        self.db.read(|connection| {
            let safe: bool = connection
                .prepare_cached("SELECT safe AND nlink > 0 FROM nodes WHERE ino = ?1")?
                .query_row([ino as i64], |row| row.get(0))?;
            Ok(if !safe {
                Some(KeptReason::NotCommitted)
            } else if is_pinned(connection, ino)? {
                Some(KeptReason::Pinned)
            } else {
                None
            })
        })
    }
}

/// A generation that no content of the file had before, also not before it was dropped and
/// came back: an old commit must not be taken for one that holds it.
fn next_generation(last: u64) -> u64 {
    let now = u64::try_from(node::now_precise().0).unwrap_or(0);
    now.max(last + 1)
}

/// What is here of a file whose new content is `extents`, when `map` was its working map.
fn settled_here(map: &Map, extents: &[Extent]) -> Here {
    let mut next = map_of(extents);
    for (&off, (len, piece)) in &mut next {
        if let Piece::Stored { present, .. } = piece {
            *present = pieces_in(map, &(off..off + *len)).all(|(.., old)| old.is_here());
        }
    }
    if next.values().all(|(_, piece)| piece.is_here()) {
        Here::Whole
    } else {
        Here::part(next, true)
    }
}

/// Removes what the database has of a file's local content.
pub(crate) fn delete_cached(tx: &Transaction<'_>, ino: Ino) -> Result<()> {
    for statement in [
        "DELETE FROM extents WHERE ino = ?1",
        "DELETE FROM cached WHERE ino = ?1",
    ] {
        tx.prepare_cached(statement)?.execute([ino as i64])?;
    }
    Ok(())
}

/// Whether the node, or a directory above any of its names, is pinned.
pub(crate) fn is_pinned(connection: &Connection, ino: Ino) -> Result<bool> {
    Ok(connection
        .prepare_cached(
            "WITH RECURSIVE above(ino) AS (
                 VALUES(?1) UNION
                 SELECT d.parent FROM dentries d JOIN above a ON d.child = a.ino)
             SELECT 1 FROM above a JOIN nodes n ON n.ino = a.ino WHERE n.pin = 1 LIMIT 1",
        )?
        .exists([ino as i64])?)
}

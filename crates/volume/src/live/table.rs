//! The table of files in use, and the way to a node's lock.
//!
//! Whoever wants a file's content takes its lock by [`Volume::hold`]: what is known of it is
//! loaded then. Files that nobody uses leave the table again, so that no descriptor is held
//! for each file.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use larder_model::Kind;
use parking_lot::Mutex;
use rusqlite::Connection;

use super::dirty::DirtyFiles;
use super::held::Held;
use super::state::{Here, State};
use crate::node::Attr;
use crate::{Ino, Result, Volume};

/// Nodes that stay in memory, with their cache file open, while nobody uses them.
const IDLE_KEPT: usize = 384;

/// A file in use.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) ino: Ino,
    pub(super) slot: Mutex<Slot>,
    used: AtomicU64,
}

/// What the table has of a file. Whoever waited for a lock may find that the file was let
/// go of meanwhile, and that another has its place in the table: so a slot that left the
/// table says so, for ever.
#[derive(Debug)]
pub(super) enum Slot {
    /// Nothing yet: whoever has the lock loads it.
    New,
    Known(State),
    /// It is not in the table any more.
    Gone,
}

impl Slot {
    pub(super) fn known(&self) -> Option<&State> {
        match self {
            Self::Known(state) => Some(state),
            Self::New | Self::Gone => None,
        }
    }

    pub(super) fn known_mut(&mut self) -> Option<&mut State> {
        match self {
            Self::Known(state) => Some(state),
            Self::New | Self::Gone => None,
        }
    }
}

/// All files in use, the unlinked ones, and the dirty ones.
#[derive(Debug)]
pub(crate) struct Lives {
    pub(super) table: Mutex<HashMap<Ino, Arc<Live>>>,
    orphans: Mutex<HashSet<Ino>>,
    /// How often each file is open lightly ([`Volume::open_lightly`]).
    lightly: Mutex<HashMap<Ino, usize>>,
    /// Unlinked nodes of which nothing is left but the database's note.
    pub(super) deleted: Mutex<Vec<Ino>>,
    /// Files whose cache file was removed, with [`crate::Db::syncs`] as it was then.
    pub(super) dropped: Mutex<HashMap<Ino, u64>>,
    /// How many files left the table.
    pub(super) ended: AtomicU64,
    pub(super) dirty: Mutex<DirtyFiles>,
    pub(super) started: Instant,
    uses: AtomicU64,
    pub(super) dirty_bytes: AtomicU64,
    pub(super) here_bytes: AtomicU64,
    pub(crate) fill_epoch: AtomicU64,
    pub(crate) filled: AtomicU64,
}

impl Lives {
    pub(crate) fn new() -> Self {
        Self {
            table: Mutex::default(),
            orphans: Mutex::default(),
            lightly: Mutex::default(),
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

    /// Bytes that cache files take; no lock.
    pub(crate) fn here_bytes(&self) -> u64 {
        self.here_bytes.load(Ordering::Relaxed)
    }

    /// Counts bytes that came here past any node in use.
    pub(crate) fn count_more(&self, bytes: u64) {
        self.count_here(0, bytes);
    }

    pub(super) fn count_here(&self, before: u64, after: u64) {
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

    pub(crate) fn open_lightly(&self, ino: Ino) {
        *self.lightly.lock().entry(ino).or_insert(0) += 1;
    }

    pub(crate) fn close_lightly(&self, ino: Ino) {
        if let Entry::Occupied(mut open) = self.lightly.lock().entry(ino) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }

    pub(super) fn is_open_lightly(&self, ino: Ino) -> bool {
        self.lightly.lock().contains_key(&ino)
    }

    /// See [`Volume::may_change_unseen`]. A file that is dirty may: whether somebody kept it
    /// mapped is looked at when it becomes clean.
    fn may_change_unseen(&self, ino: Ino) -> bool {
        let is_dirty = self.dirty.lock().by_ino.contains_key(&ino);
        is_dirty
            || self.find(ino).is_some_and(|live| {
                let slot = live.slot.lock();
                let unseen = |state: &State| state.dirty || state.direct > 0 || state.elsewhere;
                slot.known().is_some_and(unseen)
            })
    }

    pub(crate) fn is_in_use(&self, ino: Ino) -> bool {
        self.table.lock().contains_key(&ino)
    }

    /// Whether a program has the file open through this process.
    pub(crate) fn is_open(&self, ino: Ino) -> bool {
        self.is_open_lightly(ino)
            || self.find(ino).is_some_and(|live| {
                let slot = live.slot.lock();
                slot.known().is_some_and(|state| state.opens > 0)
            })
    }

    /// Whether a program has the file open to write, through this process.
    pub(crate) fn has_writer(&self, ino: Ino) -> bool {
        self.find(ino).is_some_and(|live| {
            let slot = live.slot.lock();
            slot.known().is_some_and(|state| state.writers > 0)
        })
    }

    /// Takes a file out of the table. Whoever waits for its lock looks there again.
    pub(super) fn end(&self, live: &Arc<Live>, slot: &mut Slot) {
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

    pub(super) fn find(&self, ino: Ino) -> Option<Arc<Live>> {
        self.table.lock().get(&ino).cloned()
    }
}

impl Volume {
    /// Whether the file may change without this process being told: somebody has the cache
    /// file itself, or had it to write and may have kept it mapped. What the kernel keeps of
    /// such a file could be wrong.
    pub fn may_change_unseen(&self, ino: Ino) -> bool {
        self.live.may_change_unseen(ino)
    }

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

    pub(super) fn live_of(&self, ino: Ino) -> Arc<Live> {
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

    /// Whether the file with this device and inode number is open here and nowhere else.
    pub(crate) fn holds_alone(&self, (dev, ino): (u64, u64)) -> bool {
        let lives: Vec<_> = self.live.table.lock().values().cloned().collect();
        lives.iter().any(|live| {
            let Some(slot) = live.slot.try_lock() else {
                return false;
            };
            let file = slot.known().and_then(|state| state.file.as_ref());
            file.is_some_and(|file| {
                let meta = file.metadata();
                meta.is_ok_and(|meta| (meta.dev(), meta.ino()) == (dev, ino))
                    && !crate::lease::is_open_elsewhere(file)
            })
        })
    }

    pub(super) fn let_go(&self, live: &Arc<Live>) {
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
}

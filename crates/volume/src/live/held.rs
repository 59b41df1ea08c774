//! A node's lock, held: all that changes what is known of a file's content.
//!
//! Memory follows the database: each change here is written there first, and is undone in
//! memory if that fails. The order of a change of map and of bytes is always the one after
//! which a crash loses nothing; it is told where it is done.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_model::Extent;
use parking_lot::MutexGuard;

use super::map::{
    Map, Piece, around, count_absent, count_local, cut, entries, is_others, make_here_local,
    make_local, map_of, pieces_in,
};
use super::rows::{insert_map, replace_pieces, store_map, upsert_cached};
use super::state::{Fingerprint, Here, State, next_generation};
use super::table::Slot;
use crate::cache::allocated;
use crate::db::Transaction;
use crate::{Ino, Result, Volume, VolumeError};

/// Edits of files from this size on are known by their place.
const TRACKED_BYTES: u64 = 256 << 10;

/// A node's lock, held, with what is known of the file.
pub(crate) struct Held<'a> {
    pub(super) volume: &'a Volume,
    pub(crate) ino: Ino,
    pub(super) slot: MutexGuard<'a, Slot>,
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
        // The kernel may be opening it just now, for a program that does not wait
        // (O_NONBLOCK): a lease, if only for a moment, would be an error to that.
        if self.direct > 0 {
            return Ok(true);
        }
        let file = self.file()?;
        let meta = file
            .metadata()
            .map_err(|error| VolumeError::io(self.volume.cache.path(self.ino), error))?;
        Ok(meta.nlink() > 1 || crate::lease::is_open_elsewhere(&file))
    }

    /// Offers a file again to be stored that others had when it was, once they do not.
    pub(super) fn look_elsewhere(&mut self) -> Result<()> {
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

    pub(super) fn begin_generation(&mut self, whole: bool) -> Result<()> {
        let volume = self.volume;
        let (ino, generation) = (self.ino, next_generation(self.generation));
        let epoch = volume.live.fill_epoch.load(Ordering::SeqCst);
        let unstored = matches!(self.here, Here::Part { stored: false, .. });
        let change = |tx: &Transaction<'_>| {
            // What is written to a file that another took the place of would be nobody's.
            let is_replaced = tx
                .prepare_cached("SELECT 1 FROM replaced WHERE ino = ?1")?
                .exists([ino as i64])?;
            if is_replaced {
                return Err(VolumeError::Stale);
            }
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
    pub(super) fn sync_fills(&mut self) -> Result<()> {
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
        self.volume.db.write_soon(|tx| {
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
        // It is empty now, and whoever wanted it so is told.
        if let Err(error) = self.refresh_seen() {
            self.seen = None;
            tracing::warn!(ino, %error, "a file that was emptied could not be looked at");
        }
        Ok(())
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
            let cut_off = file.set_len(size);
            if matches!(self.here, Here::Part { .. }) {
                // The map says what the file is. A tail that stays goes before it grows.
                self.size = size;
                return Ok(());
            }
            return cut_off.map_err(failed);
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
        self.change_map_to(range, None, change)
    }

    /// As [`Held::change_map`], for bytes that came: `here` are here of the file then. The
    /// database has it a moment later, together with that of other files.
    pub(super) fn change_map_soon(
        &mut self,
        range: &Range<u64>,
        here: u64,
        change: impl FnOnce(&mut Map),
    ) -> Result<()> {
        self.change_map_to(range, Some(here), change)
    }

    fn change_map_to(
        &mut self,
        range: &Range<u64>,
        here: Option<u64>,
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
        let write = |tx: &Transaction<'_>| {
            upsert_cached(tx, ino, whole, dirty, generation, epoch)?;
            if let Some(bytes) = here {
                tx.prepare_cached("UPDATE cached SET bytes = ?2 WHERE ino = ?1")?
                    .execute((ino, bytes as i64))?;
            }
            if whole {
                tx.prepare_cached("DELETE FROM extents WHERE ino = ?1")?
                    .execute([ino])?;
            } else if *stored {
                replace_pieces(tx, ino, &before, &after)?;
            } else {
                insert_map(tx, ino, map)?;
            }
            Ok(())
        };
        let written = match here {
            None => db.write(write),
            Some(_) => db.write_soon(write),
        };
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

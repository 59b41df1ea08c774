//! Settling: a dirty file whose chunks the store acknowledged becomes clean.
//!
//! Between the look at the file and the record of its content no lock is held, for as long as
//! the upload takes. So the record compares generation, writes and fingerprint with what was
//! read, and records nothing if any of them changed.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_model::{Content, Extent};

use super::dirty::Aside;
use super::map::{Map, Piece, WorkingExtent, map_of, pieces_in};
use super::rows::store_map;
use super::state::{Fingerprint, Here, next_generation};
use crate::db::Transaction;
use crate::{Ino, Result, Volume, VolumeError};

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
    /// Whether its bytes have reached this disk.
    pub(crate) synced: bool,
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

    /// Whether the cache file is what it was when it was looked at.
    pub(crate) fn still_is(&self, file: &File) -> bool {
        file.metadata()
            .is_ok_and(|meta| Fingerprint::of(&meta) == self.fingerprint)
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

impl Volume {
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

    pub(super) fn sync_to_settle(&self, before: Settling) -> Result<Option<Settling>> {
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
    pub(super) fn look_to_settle(&self, ino: Ino) -> Result<Option<(Settling, bool)>> {
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
            // Once it is whole, the cache file says how long the file is.
            held.trim_tail()?;
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
                synced: false,
            };
            let past_us = elsewhere || (held.writers > 0 && held.direct > 0);
            Ok(Some((settling, past_us)))
        })
    }

    /// Brings to this disk what is being stored, for a store that may lose it yet.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn sync_settling(&self, settling: &mut Settling) -> Result<()> {
        if !settling.synced
            && let Some(file) = self.cache.open_file(settling.ino)?
        {
            file.sync_data()
                .map_err(|error| VolumeError::io(self.cache.path(settling.ino), error))?;
            settling.synced = true;
        }
        Ok(())
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
            let epoch = match settling.synced {
                true => 0,
                false => self.live.fill_epoch.load(Ordering::SeqCst),
            };
            let generation = next_generation(held.generation);
            let encoded = larder_format::encode_content(content);
            let next = match &held.here {
                Here::Part { map, .. } => settled_here(map, extents),
                Here::Whole | Here::Away => Here::Whole,
            };
            let whole = matches!(next, Here::Whole);
            let before = std::mem::replace(&mut held.here, next);
            let recorded = self.db.write_soon(|tx| {
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

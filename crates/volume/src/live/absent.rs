//! Content that is away: which chunks are missing, and how they come in.
//!
//! A file that is away gets its working map first, all absent. A chunk counts as here only
//! after its verified bytes are in the cache file.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_format::Verified;
use larder_model::{Content, Extent};
use rusqlite::OptionalExtension;

use super::held::Held;
use super::map::{Map, Missing, Piece, map_of, pieces_in};
use super::state::Here;
use crate::{Ino, Result, Volume, VolumeError};

impl Volume {
    /// A file's stored content, as the database has it now.
    pub(super) fn stored_content(&self, ino: Ino) -> Result<Vec<u8>> {
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
    pub(super) fn stored_extents(&self, ino: Ino) -> Result<(Vec<u8>, Vec<Extent>)> {
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
            let map = whole_map(&extents, held.size)?;
            held.begin_absent(map, &[])?;
            let size = held.size;
            if held.holds(&(0..size)) {
                held.change_map(&(0..0), |_| ())?;
            }
            Ok(())
        })
    }

    /// The map of a file that is away, if its list is short enough to be had at once.
    pub(super) fn short_map(&self, held: &Held<'_>) -> Result<Option<Map>> {
        let content = larder_format::decode_content(&self.stored_content(held.ino)?)?;
        match content {
            Content::Extents(extents) => whole_map(&extents, held.size).map(Some),
            Content::None | Content::List { .. } | Content::Target(_) => Ok(None),
        }
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
                // It gets its cache file when its first bytes come: many small files may be
                // asked for long before that. What is all holes gets it now.
                Here::Away => {
                    let map = self.short_map(held)?;
                    let missing = map.map(|map| absent_in(&map, &range));
                    Ok(missing.filter(|missing| !missing.is_empty()))
                }
                Here::Part { map, .. } => Ok(Some(absent_in(map, &range))),
            })?;
            match found {
                Some(missing) => return Ok(missing),
                None => self.materialise(ino)?,
            }
        }
    }

    /// Puts verified chunks into the cache file and marks them present, each only if the
    /// file still wants it there. Answers the bytes that are here of the file then.
    ///
    /// That they are here is in the database a moment later: a crash before that costs their
    /// coming again.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn fill(&self, ino: Ino, chunks: &[(Missing, Arc<Verified>)]) -> Result<u64> {
        loop {
            let filled = self.hold(ino, |held| match &held.here {
                Here::Whole => Ok(Some(held.bytes)),
                Here::Away if held.size == 0 => Ok(Some(held.bytes)),
                Here::Away => {
                    let Some(map) = self.short_map(held)? else {
                        return Ok(None);
                    };
                    let wanted = wanted_by(&map, chunks);
                    if !wanted.is_empty() {
                        held.begin_absent(map, &wanted)?;
                        held.take_in(&wanted)?;
                    }
                    Ok(Some(held.bytes))
                }
                Here::Part { map, .. } => {
                    let wanted = wanted_by(map, chunks);
                    if !wanted.is_empty() {
                        held.take_in(&wanted)?;
                    }
                    Ok(Some(held.bytes))
                }
            })?;
            match filled {
                Some(bytes) => return Ok(bytes),
                None => self.materialise(ino)?,
            }
        }
    }
}

impl Held<'_> {
    /// Gives a file that is away a cache file, of which nothing is here. These chunks are
    /// written to it next: if they reach to its end they give it its size.
    fn begin_absent(&mut self, map: Map, next: &[(Missing, Arc<Verified>)]) -> Result<()> {
        let (volume, ino, size) = (self.volume, self.ino, self.size);
        volume.before_new_file(ino)?;
        let file = self.file()?;
        let is_sized = next.iter().any(|(piece, _)| piece.off + piece.len == size);
        let sized = file.metadata().and_then(|meta| {
            // One that a crash left.
            if meta.len() > 0 {
                file.set_len(0)?;
            }
            match is_sized {
                true => Ok(()),
                false => file.set_len(size),
            }
        });
        sized.map_err(|error| VolumeError::io(volume.cache.path(ino), error))?;
        self.here = Here::part(map, false);
        Ok(())
    }

    /// Writes chunks that the map wants to the cache file, and notes that they are here.
    fn take_in(&mut self, wanted: &[(Missing, Arc<Verified>)]) -> Result<()> {
        let (volume, ino) = (self.volume, self.ino);
        let file = self.file()?;
        for (missing, bytes) in wanted {
            file.write_all_at(bytes, missing.off)
                .map_err(|error| VolumeError::io(volume.cache.path(ino), error))?;
        }
        let start = wanted.iter().map(|(missing, _)| missing.off).min();
        let end = wanted
            .iter()
            .map(|(missing, _)| missing.off + missing.len)
            .max();
        let more: u64 = wanted.iter().map(|(missing, _)| missing.len).sum();
        let bytes = self.bytes + more;
        self.change_map_soon(&(start.unwrap_or(0)..end.unwrap_or(0)), bytes, |map| {
            for (missing, _) in wanted {
                if let Some((_, Piece::Stored { present, .. })) = map.get_mut(&missing.off) {
                    *present = true;
                }
            }
        })?;
        volume.live.filled.fetch_add(more, Ordering::Relaxed);
        volume.live.count_here(self.bytes, bytes);
        self.bytes = bytes;
        self.fills += 1;
        self.refresh_seen()
    }
}

/// The map of a list, if it is as long as the file.
fn whole_map(extents: &[Extent], size: u64) -> Result<Map> {
    if extents.iter().map(Extent::len).sum::<u64>() == size {
        return Ok(map_of(extents));
    }
    Err(VolumeError::Damaged(
        "a file's list of chunks does not add up to its size".to_owned(),
    ))
}

/// The chunks in `range` that are not here.
pub(crate) fn absent_in(map: &Map, range: &Range<u64>) -> Vec<Missing> {
    pieces_in(map, range)
        .filter_map(|(off, len, piece)| match piece {
            Piece::Stored {
                chunk,
                present: false,
            } => Some(Missing { off, len, chunk }),
            Piece::Stored { .. } | Piece::Local | Piece::Hole => None,
        })
        .collect()
}

/// Those of the chunks that the map wants where they are to go.
fn wanted_by(map: &Map, chunks: &[(Missing, Arc<Verified>)]) -> Vec<(Missing, Arc<Verified>)> {
    let is_wanted = |(missing, bytes): &&(Missing, Arc<Verified>)| {
        let absent = Piece::Stored {
            chunk: missing.chunk,
            present: false,
        };
        bytes.id() == missing.chunk
            && bytes.len() as u64 == missing.len
            && map.get(&missing.off) == Some(&(missing.len, absent))
    };
    chunks.iter().filter(is_wanted).cloned().collect()
}

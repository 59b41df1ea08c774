//! Content that is away: which chunks are missing, and how they come in.
//!
//! A file that is away gets its working map first, all absent. A chunk counts as here only
//! after its verified bytes are in the cache file.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use larder_format::Verified;
use larder_model::Extent;
use rusqlite::OptionalExtension;

use super::map::{Missing, Piece, map_of, pieces_in};
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
            self.db.write_soon(|tx| {
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
}

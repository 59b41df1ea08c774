//! A read for which something just came: from memory what came, from the cache file the rest.
//!
//! So its reader need not wait until what came is in the cache file. It gets what the file
//! held at one moment, under the node's lock, as with any other read.

use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use larder_format::Verified;

use super::map::{Map, Missing, Piece, pieces_in};
use super::state::Here;
use crate::{Ino, Result, Volume, VolumeError};

/// Chunks that came, each with its place in the file.
type Landed = [(Missing, Arc<Verified>)];

/// Where the bytes of a part of a read are.
enum Source<'a> {
    Nowhere,
    CacheFile,
    Memory(&'a [u8]),
}

impl Volume {
    /// Reads what is here, and of what is not what `landed` has. Bytes read; `None` if more
    /// than that is needed.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn read_with(
        &self,
        ino: Ino,
        off: u64,
        buf: &mut [u8],
        landed: &Landed,
    ) -> Result<Option<usize>> {
        let found = self.hold(ino, |held| {
            let end = held.size.min(off.saturating_add(buf.len() as u64));
            let range = off..end.max(off);
            let parts = match &held.here {
                Here::Whole => None,
                Here::Part { map, .. } => parts_of(map, &range, landed),
                Here::Away => self
                    .short_map(held)?
                    .and_then(|map| parts_of(&map, &range, landed)),
            };
            let Some(parts) = parts else {
                return Ok(None);
            };
            let is_here = |(_, source): &(_, Source<'_>)| matches!(source, Source::CacheFile);
            let file = match parts.iter().any(is_here) {
                true => Some(held.file()?),
                false => None,
            };
            Ok(Some((parts, file)))
        })?;
        let Some((parts, file)) = found else {
            return Ok(None);
        };
        let mut read = 0;
        for (range, source) in parts {
            let into = &mut buf[read..read + (range.end - range.start) as usize];
            read += into.len();
            match (source, &file) {
                (Source::Nowhere, _) => into.fill(0),
                (Source::Memory(bytes), _) => into.copy_from_slice(bytes),
                (Source::CacheFile, None) => return Ok(None),
                (Source::CacheFile, Some(file)) => match file.read_exact_at(into, range.start) {
                    Ok(()) => {}
                    // It was cut meanwhile.
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
                    Err(error) => return Err(VolumeError::io(self.cache.path(ino), error)),
                },
            }
        }
        Ok(Some(read))
    }
}

/// The parts of `range`, in order; `None` if one is neither here nor in `landed`.
fn parts_of<'a>(
    map: &Map,
    range: &Range<u64>,
    landed: &'a Landed,
) -> Option<Vec<(Range<u64>, Source<'a>)>> {
    let part = |(off, len, piece): (u64, u64, Piece)| {
        let cut = off.max(range.start)..(off + len).min(range.end);
        let source = match piece {
            Piece::Hole => Source::Nowhere,
            Piece::Local | Piece::Stored { present: true, .. } => Source::CacheFile,
            Piece::Stored { chunk, .. } => {
                let missing = Missing { off, len, chunk };
                let (_, bytes) = landed.iter().find(|(came, bytes)| {
                    *came == missing && bytes.id() == chunk && bytes.len() as u64 == len
                })?;
                Source::Memory(bytes.get((cut.start - off) as usize..(cut.end - off) as usize)?)
            }
        };
        Some((cut, source))
    };
    pieces_in(map, range).map(part).collect()
}

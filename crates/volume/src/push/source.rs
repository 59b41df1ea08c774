//! Reading the cache file of a dirty file: where its data and its holes are, and its bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};

use larder_format::OldPiece;
use rustix::fs::{Advice, SeekFrom, fadvise, seek};

use crate::live::{Piece, Settling, WorkingExtent};

/// A shorter hole is taken for zeros: they cost nothing once compressed, and lists stay short.
const SHORTEST_HOLE: u64 = 16 << 10;
/// Of a larger file, what was read is given back to the page cache's other users.
const LARGE_FILE: u64 = 64 << 20;
const GIVE_BACK: u64 = 8 << 20;

/// What the file is made of, local bytes parted into data and holes.
///
/// # Errors
/// If the disk fails.
pub(super) fn pieces(settling: &Settling, file: &File) -> io::Result<Vec<OldPiece>> {
    let meta = file.metadata()?;
    let may_have_holes = meta.blocks() * 512 < settling.size;
    let mut pieces = Pieces::default();
    for extent in &settling.extents {
        match extent.piece {
            Piece::Hole => pieces.hole(extent.len),
            Piece::Stored { chunk, present } => pieces.0.push(OldPiece::Stored {
                id: chunk,
                len: u32::try_from(extent.len).map_err(|_| {
                    io::Error::other("a stored chunk is longer than a chunk can be")
                })?,
                here: present,
            }),
            Piece::Local if may_have_holes => split(file, extent, &mut pieces)?,
            Piece::Local => pieces.local(extent.len),
        }
    }
    Ok(pieces.0)
}

fn split(file: &File, extent: &WorkingExtent, pieces: &mut Pieces) -> io::Result<()> {
    let end = extent.off + extent.len;
    let mut at = extent.off;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            // No more data up to the end of the file.
            Err(rustix::io::Errno::NXIO) => end,
            Err(error) => return Err(error.into()),
        };
        let hole = if data < end {
            seek(file, SeekFrom::Hole(data))?.min(end)
        } else {
            end
        };
        if data - at >= SHORTEST_HOLE {
            pieces.hole(data - at);
        } else {
            pieces.local(data - at);
        }
        pieces.local(hole - data);
        at = hole;
    }
    Ok(())
}

#[derive(Default)]
struct Pieces(Vec<OldPiece>);

impl Pieces {
    fn hole(&mut self, more: u64) {
        match self.0.last_mut() {
            Some(OldPiece::Hole { len }) => *len += more,
            _ if more > 0 => self.0.push(OldPiece::Hole { len: more }),
            _ => {}
        }
    }

    fn local(&mut self, more: u64) {
        match self.0.last_mut() {
            Some(OldPiece::Local { len }) => *len += more,
            _ if more > 0 => self.0.push(OldPiece::Local { len: more }),
            _ => {}
        }
    }
}

/// Reads a file from the front to the back without sweeping the page cache.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    file: &'a File,
    size: u64,
    given_back: u64,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File, size: u64) -> Self {
        if size > LARGE_FILE {
            // Only a wish: without it the reading is right all the same.
            let _ = fadvise(file, 0, None, Advice::Sequential);
        }
        Self {
            file,
            size,
            given_back: 0,
        }
    }

    /// Fills `into` with the bytes at `offset`.
    ///
    /// # Errors
    /// If the disk fails, or the file is shorter by now.
    pub(super) fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)?;
        if self.size > LARGE_FILE && offset >= self.given_back + GIVE_BACK {
            self.give_back(offset);
        }
        Ok(())
    }

    fn give_back(&mut self, up_to: u64) {
        if let Some(len) = std::num::NonZeroU64::new(up_to - self.given_back) {
            // Only a wish, too. Dirty and mapped pages stay.
            let _ = fadvise(self.file, self.given_back, Some(len), Advice::DontNeed);
        }
        self.given_back = up_to;
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        if self.size > LARGE_FILE {
            self.give_back(self.size);
        }
    }
}

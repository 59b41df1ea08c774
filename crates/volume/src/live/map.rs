//! The working map of a file: which of its pieces are here, and whose bytes they are.
//!
//! Pure: a map knows neither the database nor the cache file. It tiles the file from 0 to
//! its size; each function here keeps that, if it was so before.

use std::collections::BTreeMap;
use std::ops::Range;

use larder_model::{ChunkId, Extent};

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

/// The working map: pieces by offset, from 0 to the size, without gap or overlap.
pub(crate) type Map = BTreeMap<u64, (u64, Piece)>;

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
pub(super) fn is_others(piece: Piece) -> bool {
    piece.is_here() && piece != Piece::Local
}

/// Makes the pieces of `range` that are here local, each as a whole.
pub(super) fn make_here_local(map: &mut Map, range: &Range<u64>) {
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

/// `range`, widened by a piece on each side, so that pieces that merge are inside; open to
/// the right if the range reaches the map's end.
pub(super) fn around(map: &Map, range: &Range<u64>) -> Range<u64> {
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

pub(super) fn entries(map: &Map, region: &Range<u64>) -> Vec<(u64, (u64, Piece))> {
    map.range(region.clone())
        .map(|(&off, &piece)| (off, piece))
        .collect()
}

pub(super) fn count_local(pieces: &[(u64, (u64, Piece))]) -> u64 {
    pieces
        .iter()
        .filter(|(_, (_, piece))| *piece == Piece::Local)
        .map(|(_, (len, _))| len)
        .sum()
}

pub(super) fn count_absent(pieces: &[(u64, (u64, Piece))]) -> usize {
    pieces
        .iter()
        .filter(|(_, (_, piece))| !piece.is_here())
        .count()
}

/// Where a map ends whose pieces lie one behind the other from 0; `None` if they do not.
pub(super) fn end_of(map: &Map) -> Option<u64> {
    map.iter().try_fold(0u64, |end, (&off, &(len, _))| {
        let next = off.checked_add(len)?;
        (off == end && len > 0 && next <= i64::MAX as u64).then_some(next)
    })
}

//! Cutting an edited file anew, only around the edit.
//!
//! What is stored and untouched stays as it is. Bytes that are only here are cut from the
//! start of their run. Where the run ends in the middle of nothing, its last chunk ends with
//! it; only when that would be shorter than the class's minimum, or when the chunk before the
//! run is shorter than its average (the end of a file that grows by small appends), is the
//! stored neighbour cut anew too, if its bytes are here. So nothing is fetched in order to be
//! cut, an edit sends what it touched, and many small edits do not grind a file to dust. A
//! whole new file is one run.

use larder_model::{ChunkId, Extent};

use crate::Chunker;

/// A piece of a file as it is now; the pieces of a file tile it in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldPiece {
    /// A stored chunk, untouched.
    Stored {
        /// The chunk.
        id: ChunkId,
        /// Its length in bytes.
        len: u32,
        /// Whether its bytes can be read here.
        here: bool,
    },
    /// Bytes that are only here.
    Local {
        /// Their length.
        len: u64,
    },
    /// A hole.
    Hole {
        /// Its length in bytes.
        len: u64,
    },
}

impl OldPiece {
    fn len(&self) -> u64 {
        match self {
            Self::Stored { len, .. } => u64::from(*len),
            Self::Local { len } | Self::Hole { len } => *len,
        }
    }
}

/// A piece of the file's new list; given in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewPiece<'a> {
    /// A stored chunk or a hole, as it was.
    Kept(Extent),
    /// One chunk cut from what is here. It may turn out to be stored already.
    Fresh {
        /// Where it begins in the file.
        offset: u64,
        /// Its bytes.
        bytes: &'a [u8],
    },
}

/// Gives the file's new pieces. `read` fills a buffer with the file's bytes at an offset; it
/// is asked only for bytes that are here. Memory is bounded by a few chunks.
///
/// # Errors
/// Those of `read` and `each`.
pub fn rechunk<E>(
    chunker: &Chunker,
    old: &[OldPiece],
    read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    mut each: impl FnMut(NewPiece<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut window = Window {
        read,
        bytes: Vec::new(),
        start: 0,
        offset: 0,
    };
    let (mut offset, mut at) = (0, 0);
    while at < old.len() {
        if begins_run(chunker, &old[at..]) {
            let (run_end, next) = cut_run(chunker, old, at, offset, &mut window, &mut each)?;
            (offset, at) = (run_end, next);
            continue;
        }
        let len = old[at].len();
        match old[at] {
            OldPiece::Stored { id, len, .. } => {
                each(NewPiece::Kept(Extent::Chunk { id, len }))?;
            }
            OldPiece::Hole { len } => each(NewPiece::Kept(Extent::Hole { len }))?,
            OldPiece::Local { .. } => {}
        }
        offset += len;
        at += 1;
    }
    Ok(())
}

/// Whether what is cut anew begins with the first of these pieces.
fn begins_run(chunker: &Chunker, pieces: &[OldPiece]) -> bool {
    match pieces {
        [OldPiece::Local { len: 1.. }, ..] => true,
        [
            OldPiece::Stored {
                len, here: true, ..
            },
            OldPiece::Local { len: 1.. },
            ..,
        ] => (*len as usize) < chunker.class().average(),
        _ => false,
    }
}

/// Cuts the run that begins with piece `at`. Returns where it ends, and the piece behind it.
fn cut_run<E, R: FnMut(u64, &mut [u8]) -> Result<(), E>>(
    chunker: &Chunker,
    old: &[OldPiece],
    mut at: usize,
    mut offset: u64,
    window: &mut Window<R>,
    each: &mut impl FnMut(NewPiece<'_>) -> Result<(), E>,
) -> Result<(u64, usize), E> {
    let mut end = offset + old[at].len();
    at += 1;
    loop {
        while let Some(OldPiece::Local { len }) = old.get(at) {
            end += len;
            at += 1;
        }
        if offset == end {
            return Ok((end, at));
        }
        let class = chunker.class();
        let ahead = (end - offset).min(class.max() as u64) as usize;
        let bytes = window.fill(offset, ahead, end)?;
        let len = chunker.cut(bytes, true).unwrap_or(ahead);
        let is_rest = len as u64 == end - offset;
        if is_rest
            && len < class.min()
            && let Some(OldPiece::Stored {
                len, here: true, ..
            }) = old.get(at)
        {
            end += u64::from(*len);
            at += 1;
            continue;
        }
        let bytes = &bytes[..len];
        each(NewPiece::Fresh { offset, bytes })?;
        offset += len as u64;
    }
}

/// The part of the file that is in memory, read ahead in large pieces.
struct Window<R> {
    read: R,
    bytes: Vec<u8>,
    /// Where in `bytes` the part begins, and where in the file.
    start: usize,
    offset: u64,
}

/// How many bytes are read ahead at least, where there are as many.
const READ_AHEAD: usize = 1 << 20;

impl<R> Window<R> {
    /// The `len` bytes at `offset`; what is read ahead ends at `end`. The offset never goes
    /// back.
    fn fill<E>(&mut self, offset: u64, len: usize, end: u64) -> Result<&[u8], E>
    where
        R: FnMut(u64, &mut [u8]) -> Result<(), E>,
    {
        let have_end = self.offset + (self.bytes.len() - self.start) as u64;
        if offset > have_end {
            self.bytes.clear();
            self.start = 0;
        } else {
            self.start += (offset - self.offset) as usize;
        }
        self.offset = offset;
        let have = self.bytes.len() - self.start;
        if have < len {
            self.bytes.drain(..self.start);
            self.start = 0;
            let want = (end - offset).min(len.max(READ_AHEAD) as u64) as usize;
            self.bytes.resize(want, 0);
            (self.read)(offset + have as u64, &mut self.bytes[have..])?;
        }
        Ok(&self.bytes[self.start..self.start + len])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{keys, noise};
    use crate::{SizeClass, VolumeKeys};
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn chunker() -> Chunker {
        Chunker::new(&keys(), SizeClass::Small)
    }

    /// The new list of a file, and how many bytes of it were cut anew.
    fn recut(keys: &VolumeKeys, old: &[OldPiece], file: &[u8]) -> (Vec<Extent>, u64) {
        let here = here_map(old);
        let (mut list, mut fresh) = (Vec::new(), 0);
        let read = |offset: u64, out: &mut [u8]| {
            let range = offset as usize..offset as usize + out.len();
            assert!(
                here[range.clone()].iter().all(|&h| h),
                "read what is not here"
            );
            out.copy_from_slice(&file[range]);
            Ok::<_, Infallible>(())
        };
        rechunk(&chunker(), old, read, |piece| {
            list.push(match piece {
                NewPiece::Kept(extent) => extent,
                NewPiece::Fresh { offset, bytes } => {
                    let at = offset as usize;
                    assert_eq!(bytes, &file[at..at + bytes.len()]);
                    fresh += bytes.len() as u64;
                    let id = keys.chunk_id(bytes);
                    Extent::Chunk {
                        id,
                        len: bytes.len() as u32,
                    }
                }
            });
            Ok(())
        })
        .unwrap();
        (list, fresh)
    }

    fn here_map(old: &[OldPiece]) -> Vec<bool> {
        let here = |piece: &OldPiece| match piece {
            OldPiece::Stored { here, .. } => *here,
            OldPiece::Local { .. } => true,
            OldPiece::Hole { .. } => false,
        };
        old.iter()
            .flat_map(|piece| std::iter::repeat_n(here(piece), piece.len() as usize))
            .collect()
    }

    fn as_stored(list: &[Extent], here: bool) -> Vec<OldPiece> {
        let stored = |extent: &Extent| match *extent {
            Extent::Chunk { id, len } => OldPiece::Stored { id, len, here },
            Extent::Hole { len } => OldPiece::Hole { len },
        };
        list.iter().map(stored).collect()
    }

    fn whole(file: &[u8]) -> Vec<Extent> {
        recut(
            &keys(),
            &[OldPiece::Local {
                len: file.len() as u64,
            }],
            file,
        )
        .0
    }

    #[test]
    fn a_new_file_is_cut_as_a_whole() {
        let file = noise(1, 5 << 20);
        let list = whole(&file);
        let mut rest = &file[..];
        for extent in &list {
            assert_eq!(chunker().cut(rest, true), Some(extent.len() as usize));
            rest = &rest[extent.len() as usize..];
        }
        assert!(rest.is_empty());
        assert_eq!(recut(&keys(), &[], &[]), (vec![], 0));
    }

    #[test]
    fn an_edit_of_a_file_that_is_away_cuts_only_what_it_touched() {
        let mut file = noise(1, 5 << 20);
        let list = whole(&file);
        let mut old = as_stored(&list, false);
        // The edit cuts the third chunk, which was fetched for it.
        let at: u64 = list[..2].iter().map(Extent::len).sum();
        let len = old[2].len();
        old[2] = OldPiece::Local { len };
        file[at as usize + 100] ^= 1;
        let (after, fresh) = recut(&keys(), &old, &file);
        assert_eq!(fresh, len);
        assert_eq!(after[..2], list[..2]);
        assert_eq!(after[after.len() - (list.len() - 3)..], list[3..]);
    }

    #[test]
    fn an_edit_of_a_file_that_is_here_makes_no_more_than_the_chunks_around_it_new() {
        let mut file = noise(1, 5 << 20);
        let list = whole(&file);
        for edited in 1..list.len() - 1 {
            let mut old = as_stored(&list, true);
            let at: u64 = list[..edited].iter().map(Extent::len).sum();
            old[edited] = OldPiece::Local {
                len: list[edited].len(),
            };
            file[at as usize] ^= 1;
            let (after, _) = recut(&keys(), &old, &file);
            file[at as usize] ^= 1;
            let is_new = |extent: &&Extent| !list.contains(extent);
            assert!(after.iter().filter(is_new).count() <= 3, "chunk {edited}");
        }
    }

    #[test]
    fn many_small_appends_do_not_grind_a_file_to_dust() {
        let file = noise(1, 2 << 20);
        let (mut list, mut size) = (Vec::new(), 0);
        while size < file.len() {
            let len = 5_000.min(file.len() - size);
            let mut old = as_stored(&list, true);
            old.push(OldPiece::Local { len: len as u64 });
            size += len;
            (list, _) = recut(&keys(), &old, &file[..size]);
        }
        assert!(list.len() < 2 * whole(&file).len(), "{} chunks", list.len());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_new_list_is_the_file_whatever_was_edited(
            pieces in proptest::collection::vec((0u8..4, 0u64..200_000), 0..12)
        ) {
            let total: u64 = pieces.iter().map(|p| p.1).sum();
            let file = noise(3, total as usize);
            let mut offset = 0usize;
            let mut old = Vec::new();
            for (kind, len) in pieces {
                let bytes = &file[offset..offset + len as usize];
                offset += len as usize;
                old.push(match kind {
                    0 => OldPiece::Local { len },
                    1 => OldPiece::Hole { len },
                    _ => OldPiece::Stored {
                        id: keys().chunk_id(bytes), len: len as u32, here: kind == 2,
                    },
                });
            }
            let (list, _) = recut(&keys(), &old, &file);
            let mut at = 0usize;
            for extent in list {
                let end = at + extent.len() as usize;
                if let Extent::Chunk { id, .. } = extent {
                    prop_assert_eq!(keys().chunk_id(&file[at..end]), id);
                }
                at = end;
            }
            prop_assert_eq!(at as u64, total);
        }
    }
}

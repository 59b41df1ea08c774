//! Index objects: which chunk lies in which pack, and where.
//!
//! The entries of all packs of an index object are sorted by chunk id and sealed in blocks of
//! 512; the fences tell the first id of each block, and the last 24 bytes tell where table and
//! fences lie. So a reader that looks for one chunk needs the end, the fences and one block,
//! and one that takes it all reads it once. The table repeats what opens each pack's chunks,
//! so that a chunk is fetched by range without reading its pack's header.

use std::ops::Range;

use larder_model::{ChunkId, IndexId, PackId};

use crate::object::{ObjectKind, SealedHeader, object_hash};
use crate::pack::PACK_HEADER_LEN;
use crate::seal::{Part, Seal, TAG_LEN};
use crate::wire::{Reader, put_varint};
use crate::{Codec, FormatError, MAX_CHUNK_BYTES, PackEntry, PackKind, PackRef, VolumeKeys};

type Result<T> = std::result::Result<T, FormatError>;

const NOUN: &str = ObjectKind::Index.noun();
const BLOCK_ENTRIES: usize = 512;
const TRAILER_LEN: usize = 8 + TAG_LEN;
const PACK_LEN: usize = PackId::LEN + 1 + 4 + 32 + 4;

/// A pack, and its chunks that an index object tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedPack {
    /// The pack.
    pub id: PackId,
    /// What opens its chunks.
    pub seal: PackRef,
    /// Its size in bytes.
    pub size: u32,
    /// Its chunks, in their order in the pack.
    pub entries: Vec<PackEntry>,
}

/// An index object, ready to be put on a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexObject {
    /// Its id: the hash of its bytes.
    pub id: IndexId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Makes the index object of these packs. `salt` must be random and fresh.
///
/// # Errors
/// If it would be over 4 GiB.
pub fn encode_index(
    keys: &VolumeKeys,
    salt: [u8; 32],
    packs: &[IndexedPack],
) -> Result<IndexObject> {
    let header = SealedHeader {
        epoch: keys.newest_epoch(),
        salt,
    };
    let seal = Seal::new(keys, ObjectKind::Index, &header)?;
    let mut bytes = header.encode(ObjectKind::Index);
    let fences = put_blocks(&seal, &mut bytes, packs)?;

    let table_at = bytes.len();
    put_table(&mut bytes, packs);
    seal.seal(Part::Table, 0, &mut bytes, table_at)?;
    let fences_at = bytes.len();
    bytes.extend_from_slice(&fences);
    seal.seal(Part::Fences, 0, &mut bytes, fences_at)?;
    let trailer_at = bytes.len();
    for len in [fences_at - table_at, trailer_at - fences_at] {
        bytes.extend_from_slice(&fits_u32(len)?.to_le_bytes());
    }
    seal.seal(Part::Trailer, 0, &mut bytes, trailer_at)?;
    Ok(IndexObject {
        id: IndexId(object_hash(&bytes)),
        bytes,
    })
}

fn fits_u32(len: usize) -> Result<u32> {
    u32::try_from(len).map_err(|_| FormatError::TooLarge {
        what: NOUN,
        bytes: len as u64,
        limit: u32::MAX.into(),
    })
}

/// Appends the sealed blocks; gives the plain fences.
fn put_blocks(seal: &Seal, bytes: &mut Vec<u8>, packs: &[IndexedPack]) -> Result<Vec<u8>> {
    let of_pack = |(at, pack)| entries_of(at, pack);
    let mut sorted: Vec<(usize, &PackEntry)> = packs.iter().enumerate().flat_map(of_pack).collect();
    sorted.sort_unstable_by_key(|(pack, entry)| (entry.chunk, *pack, entry.entry));
    let mut fences = Vec::new();
    put_varint(&mut fences, sorted.len().div_ceil(BLOCK_ENTRIES) as u64);
    for (number, block) in sorted.chunks(BLOCK_ENTRIES).enumerate() {
        let at = bytes.len();
        fences.extend_from_slice(block[0].1.chunk.as_bytes());
        for (pack, entry) in block {
            put_entry(bytes, *pack, entry);
        }
        seal.seal(Part::Body, number as u64, bytes, at)?;
        put_varint(&mut fences, (bytes.len() - at) as u64);
        put_varint(&mut fences, block.len() as u64);
    }
    Ok(fences)
}

fn entries_of(at: usize, pack: &IndexedPack) -> impl Iterator<Item = (usize, &PackEntry)> {
    pack.entries.iter().map(move |entry| (at, entry))
}

fn put_entry(out: &mut Vec<u8>, pack: usize, entry: &PackEntry) {
    out.extend_from_slice(entry.chunk.as_bytes());
    put_varint(out, pack as u64);
    for number in [entry.entry, entry.off, entry.len, entry.raw_len] {
        put_varint(out, number.into());
    }
    out.push(entry.codec.code());
}

fn put_table(out: &mut Vec<u8>, packs: &[IndexedPack]) {
    put_varint(out, packs.len() as u64);
    for pack in packs {
        out.extend_from_slice(pack.id.as_bytes());
        out.push(pack.seal.kind.code());
        out.extend_from_slice(&pack.seal.epoch.to_le_bytes());
        out.extend_from_slice(&pack.seal.salt);
        out.extend_from_slice(&pack.size.to_le_bytes());
    }
}

/// Reads a whole index object: its packs in its order, each with its chunks.
///
/// # Errors
/// If it is damaged, of a newer version, or sealed with a key that is missing.
pub fn decode_index(keys: &VolumeKeys, bytes: &[u8]) -> Result<Vec<IndexedPack>> {
    let index = Index::open(keys, bytes)?;
    let mut packs = index.table()?;
    let (mut last, mut at) = (None, SealedHeader::LEN);
    for (number, fence) in index.fences()?.into_iter().enumerate() {
        let range = at..at + fence.sealed_len;
        at = range.end;
        let block = index.block(number as u64, range)?;
        let mut reader = Reader::new(NOUN, &block);
        for place in 0..fence.entries {
            let (pack, entry) = read_entry(&mut reader)?;
            let order = (entry.chunk, pack, entry.entry);
            reader.ensure(last < Some(order), "its chunks are not in order")?;
            let first_is_fence = place > 0 || entry.chunk == fence.first;
            reader.ensure(first_is_fence, "a fence is not the first of its block")?;
            last = Some(order);
            let pack = packs
                .get_mut(pack)
                .ok_or_else(|| reader.damaged("a chunk lies in no pack"))?;
            let lies_in_pack =
                entry.off as usize >= PACK_HEADER_LEN && entry.range().end <= u64::from(pack.size);
            reader.ensure(lies_in_pack, "a chunk lies outside its pack")?;
            pack.entries.push(entry);
        }
        reader.finish()?;
    }
    if at != index.blocks_end {
        return Err(index.damaged("its blocks do not fill it"));
    }
    for pack in &mut packs {
        pack.entries.sort_unstable_by_key(|entry| entry.entry);
    }
    Ok(packs)
}

fn read_entry(reader: &mut Reader<'_>) -> Result<(usize, PackEntry)> {
    let chunk = ChunkId(reader.array()?);
    let pack = reader.varint32()? as usize;
    let entry = PackEntry {
        chunk,
        entry: reader.varint32()?,
        off: reader.varint32()?,
        len: reader.varint32()?,
        raw_len: reader.varint32()?,
        codec: Codec::from_code(reader.u8()?)?,
    };
    let fits = entry.raw_len as usize <= MAX_CHUNK_BYTES && entry.len as usize >= TAG_LEN;
    reader.ensure(fits, "a chunk has an impossible length")?;
    Ok((pack, entry))
}

/// An index object whose trailer was read.
struct Index<'a> {
    seal: Seal,
    bytes: &'a [u8],
    blocks_end: usize,
    table_end: usize,
    fences_end: usize,
}

struct Fence {
    first: ChunkId,
    sealed_len: usize,
    entries: usize,
}

impl<'a> Index<'a> {
    fn open(keys: &VolumeKeys, bytes: &'a [u8]) -> Result<Self> {
        let header = SealedHeader::decode(ObjectKind::Index, bytes)?;
        let seal = Seal::new(keys, ObjectKind::Index, &header)?;
        let fences_end = bytes.len().saturating_sub(TRAILER_LEN);
        let plain = seal.open_copy(Part::Trailer, 0, &bytes[fences_end..])?;
        let mut reader = Reader::new(NOUN, &plain);
        let (table_len, fences_len) = (reader.u32()? as usize, reader.u32()? as usize);
        let ends = fences_end
            .checked_sub(fences_len)
            .and_then(|table_end| Some((table_end.checked_sub(table_len)?, table_end)))
            .filter(|(blocks_end, _)| *blocks_end >= SealedHeader::LEN);
        let (blocks_end, table_end) =
            ends.ok_or_else(|| reader.damaged("it is shorter than its parts"))?;
        reader.finish()?;
        Ok(Self {
            seal,
            bytes,
            blocks_end,
            table_end,
            fences_end,
        })
    }

    fn damaged(&self, why: &'static str) -> FormatError {
        FormatError::Damaged { what: NOUN, why }
    }

    fn table(&self) -> Result<Vec<IndexedPack>> {
        let sealed = &self.bytes[self.blocks_end..self.table_end];
        let plain = self.seal.open_copy(Part::Table, 0, sealed)?;
        let mut reader = Reader::new(NOUN, &plain);
        let count = reader.count(PACK_LEN)?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            let id = PackId(reader.array()?);
            let kind = PackKind::from_code(reader.u8()?)
                .ok_or_else(|| reader.damaged("a pack is of an unknown kind"))?;
            let (epoch, salt) = (reader.u32()?, reader.array()?);
            packs.push(IndexedPack {
                id,
                seal: PackRef { kind, epoch, salt },
                size: reader.u32()?,
                entries: Vec::new(),
            });
        }
        reader.finish()?;
        Ok(packs)
    }

    fn fences(&self) -> Result<Vec<Fence>> {
        let sealed = &self.bytes[self.table_end..self.fences_end];
        let plain = self.seal.open_copy(Part::Fences, 0, sealed)?;
        let mut reader = Reader::new(NOUN, &plain);
        let count = reader.count(ChunkId::LEN + 2)?;
        let mut fences = Vec::with_capacity(count);
        for _ in 0..count {
            fences.push(Fence {
                first: ChunkId(reader.array()?),
                sealed_len: reader.varint32()? as usize,
                entries: reader.varint32()? as usize,
            });
        }
        reader.finish()?;
        Ok(fences)
    }

    fn block(&self, number: u64, range: Range<usize>) -> Result<Vec<u8>> {
        let sealed = self.bytes[..self.blocks_end]
            .get(range)
            .ok_or_else(|| self.damaged("a block lies outside it"))?;
        self.seal.open_copy(Part::Body, number, sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{a_newer_version_is_refused, every_change_is_found, keys, noise};

    /// Packs with `count` chunks each, of which the last is in all of them.
    fn packs(packs: u64, count: u32) -> Vec<IndexedPack> {
        let pack = |number: u64| {
            let entry = |entry: u32| PackEntry {
                chunk: match entry {
                    0 => keys().chunk_id(b"in all"),
                    _ => keys().chunk_id(&noise(number << 32 | u64::from(entry), 8)),
                },
                entry,
                off: PACK_HEADER_LEN as u32 + 100 * entry,
                len: 100,
                raw_len: 200,
                codec: Codec::Zstd,
            };
            IndexedPack {
                id: PackId([number as u8; 32]),
                seal: PackRef {
                    kind: if number == 0 {
                        PackKind::Tree
                    } else {
                        PackKind::Data
                    },
                    epoch: 1,
                    salt: [number as u8; 32],
                },
                size: PACK_HEADER_LEN as u32 + 100 * count + 50,
                entries: (0..count).map(entry).collect(),
            }
        };
        (0..packs).map(pack).collect()
    }

    fn encode(packs: &[IndexedPack]) -> IndexObject {
        encode_index(&keys(), [0x88; 32], packs).unwrap()
    }

    #[test]
    fn an_index_of_any_size_is_read_back() {
        for (count, chunks) in [(0, 0), (1, 0), (1, 1), (3, 7), (2, 256), (5, 1000)] {
            let packs = packs(count, chunks);
            let object = encode(&packs);
            assert_eq!(object.id.0, object_hash(&object.bytes));
            assert_eq!(decode_index(&keys(), &object.bytes), Ok(packs));
        }
    }

    #[test]
    fn any_change_of_an_index_is_found() {
        for object in [encode(&[]), encode(&packs(2, 4))] {
            every_change_is_found(&object.bytes, |bytes| {
                decode_index(&keys(), bytes).map(drop)
            });
        }
    }

    #[test]
    fn a_newer_index_is_refused_in_words() {
        a_newer_version_is_refused(&encode(&packs(1, 1)).bytes, |bytes| {
            decode_index(&keys(), bytes).err()
        });
    }

    #[test]
    fn an_entry_outside_its_pack_is_refused() {
        for change in [
            |entry: &mut PackEntry| entry.off = 0,
            |entry: &mut PackEntry| entry.len = 1 << 30,
            |entry: &mut PackEntry| entry.off = u32::MAX,
            |entry: &mut PackEntry| entry.raw_len = u32::MAX,
            |entry: &mut PackEntry| entry.len = 0,
        ] {
            let mut packs = packs(1, 3);
            change(&mut packs[0].entries[1]);
            assert!(decode_index(&keys(), &encode(&packs).bytes).is_err());
        }
    }

    #[test]
    fn a_chunk_costs_an_index_less_than_fifty_bytes() {
        let object = encode(&packs(4, 4000));
        assert!(object.bytes.len() < 16_000 * 50);
    }
}

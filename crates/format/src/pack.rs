//! Packs: many sealed chunks in one immutable object, with their index at its end.
//!
//! A chunk is sealed by itself, so that it can be fetched by range and opened with what an
//! index object says of it. The index at the end says the same, so that a lost index object
//! can be made again from its packs: the last [`PACK_TRAILER_LEN`] bytes tell where it lies.
//! A pack is named by the BLAKE3 hash of its bytes. Sizes are bounded: see
//! [`MAX_PACK_ENTRIES`], [`MAX_PACK_BYTES`] and [`MAX_CHUNK_BYTES`].

use std::ops::Range;

use larder_model::{ChunkId, PackId};

use crate::object::{ObjectKind, SealedHeader, object_hash};
use crate::seal::{Part, Seal, TAG_LEN};
use crate::wire::Reader;
use crate::{Codec, FormatError, Verified, VolumeKeys};

type Result<T> = std::result::Result<T, FormatError>;

/// The size at which a pack is full, in bytes; it may pass it by one chunk.
pub const PACK_TARGET_BYTES: usize = 16 << 20;
/// The most chunks in a pack.
pub const MAX_PACK_ENTRIES: usize = 16 * 1024;
/// The largest pack, in bytes.
pub const MAX_PACK_BYTES: u64 = 64 << 20;
/// The largest plaintext of a chunk, in bytes.
pub const MAX_CHUNK_BYTES: usize = 8 << 20;

/// How many bytes of a pack's front [`PackHead::decode`] needs.
pub const PACK_HEADER_LEN: usize = SealedHeader::LEN;
/// How many bytes of a pack's end [`PackHead::decode`] needs.
pub const PACK_TRAILER_LEN: usize = 8 + TAG_LEN;

const ENTRY_LEN: usize = ChunkId::LEN + 4 + 4 + 1;

/// What a pack holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PackKind {
    /// Chunks of files.
    Data,
    /// Pages of trees and lists, and commits.
    Tree,
}

impl PackKind {
    /// The number that stands for it in index objects and the database.
    pub const fn code(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Tree => 2,
        }
    }

    /// The kind of this number.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Data),
            2 => Some(Self::Tree),
            _ => None,
        }
    }

    const fn object(self) -> ObjectKind {
        match self {
            Self::Data => ObjectKind::DataPack,
            Self::Tree => ObjectKind::TreePack,
        }
    }
}

/// What is needed to open a pack's chunks, next to the volume's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackRef {
    /// What the pack holds.
    pub kind: PackKind,
    /// The epoch of the seal key.
    pub epoch: u32,
    /// The pack's salt.
    pub salt: [u8; 32],
}

impl PackRef {
    fn header(&self) -> SealedHeader {
        SealedHeader {
            epoch: self.epoch,
            salt: self.salt,
        }
    }

    fn seal(&self, keys: &VolumeKeys) -> Result<Seal> {
        Seal::new(keys, self.kind.object(), &self.header())
    }
}

/// Where a chunk lies in its pack, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PackEntry {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its place among the pack's chunks, from 0.
    pub entry: u32,
    /// Where its sealed bytes begin in the pack.
    pub off: u32,
    /// How many sealed bytes there are.
    pub len: u32,
    /// How many plain bytes it has.
    pub raw_len: u32,
    /// How the plain bytes are coded.
    pub codec: Codec,
}

impl PackEntry {
    /// Where its sealed bytes lie in the pack.
    pub fn range(&self) -> Range<u64> {
        let off = u64::from(self.off);
        off..off + u64::from(self.len)
    }
}

/// A finished pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pack {
    /// Its id: the hash of its bytes.
    pub id: PackId,
    /// What opens its chunks.
    pub seal: PackRef,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its chunks in order.
    pub entries: Vec<PackEntry>,
}

/// A pack that is being filled.
pub struct PackWriter {
    pack: PackRef,
    seal: Seal,
    bytes: Vec<u8>,
    entries: Vec<PackEntry>,
}

impl PackWriter {
    /// An empty pack, sealed with the newest seal key. `salt` must be random and fresh: two
    /// packs of one salt would tell a store about their contents.
    ///
    /// # Errors
    /// None that is known; the cryptographic library may refuse.
    pub fn new(keys: &VolumeKeys, kind: PackKind, salt: [u8; 32]) -> Result<Self> {
        let pack = PackRef {
            kind,
            epoch: keys.newest_epoch(),
            salt,
        };
        Ok(Self {
            pack,
            seal: pack.seal(keys)?,
            bytes: pack.header().encode(kind.object()),
            entries: Vec::new(),
        })
    }

    /// Appends a chunk: `coded` is what a [`Compressor`](crate::Compressor) made of its
    /// `raw_len` plain bytes.
    ///
    /// # Errors
    /// If the chunk is larger than a chunk may be, or the pack is past its bounds.
    pub fn push(
        &mut self,
        chunk: ChunkId,
        codec: Codec,
        raw_len: u32,
        coded: &[u8],
    ) -> Result<PackEntry> {
        let limit = |what, bytes: usize, limit: usize| {
            if bytes <= limit {
                return Ok(());
            }
            Err(FormatError::TooLarge {
                what,
                bytes: bytes as u64,
                limit: limit as u64,
            })
        };
        limit("chunk", coded.len().max(raw_len as usize), MAX_CHUNK_BYTES)?;
        let index_len = (self.entries.len() + 1) * ENTRY_LEN + TAG_LEN + PACK_TRAILER_LEN;
        let len = self.bytes.len() + coded.len() + TAG_LEN + index_len;
        limit("pack", len, MAX_PACK_BYTES as usize)?;
        limit("pack's index", self.entries.len() + 1, MAX_PACK_ENTRIES)?;

        let (off, entry) = (self.bytes.len(), self.entries.len());
        self.bytes.reserve(coded.len() + TAG_LEN);
        self.bytes.extend_from_slice(coded);
        self.seal
            .seal(Part::Body, entry as u64, &mut self.bytes, off)?;
        let entry = PackEntry {
            chunk,
            entry: entry as u32,
            off: off as u32,
            len: (self.bytes.len() - off) as u32,
            raw_len,
            codec,
        };
        self.entries.push(entry);
        Ok(entry)
    }

    /// How many bytes it has so far, without its index.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether no chunk was pushed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The chunks so far.
    pub fn entries(&self) -> &[PackEntry] {
        &self.entries
    }

    /// Whether it is time to finish it.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_TARGET_BYTES || self.entries.len() >= MAX_PACK_ENTRIES
    }

    /// Seals the index and names the pack.
    ///
    /// # Errors
    /// None that is known; the cryptographic library may refuse.
    pub fn finish(mut self) -> Result<Pack> {
        let index_at = self.bytes.len();
        self.bytes
            .reserve(self.entries.len() * ENTRY_LEN + 2 * TAG_LEN + 8);
        for entry in &self.entries {
            self.bytes.extend_from_slice(entry.chunk.as_bytes());
            self.bytes.extend_from_slice(&entry.len.to_le_bytes());
            self.bytes.extend_from_slice(&entry.raw_len.to_le_bytes());
            self.bytes.push(entry.codec.code());
        }
        self.seal.seal(Part::Table, 0, &mut self.bytes, index_at)?;
        let trailer_at = self.bytes.len();
        let index_len = (trailer_at - index_at) as u32;
        self.bytes.extend_from_slice(&index_len.to_le_bytes());
        self.bytes
            .extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        self.seal
            .seal(Part::Trailer, 0, &mut self.bytes, trailer_at)?;
        Ok(Pack {
            id: PackId(object_hash(&self.bytes)),
            seal: self.pack,
            bytes: self.bytes,
            entries: self.entries,
        })
    }
}

/// Opens a chunk from its sealed bytes and checks it against its id.
///
/// # Errors
/// If anything about it does not fit, or the key of the pack's epoch is missing.
pub fn open_chunk(
    keys: &VolumeKeys,
    pack: &PackRef,
    entry: &PackEntry,
    sealed: &[u8],
) -> Result<Verified> {
    let coded = pack
        .seal(keys)?
        .open_copy(Part::Body, entry.entry.into(), sealed)?;
    let raw = entry.codec.decode(coded, entry.raw_len)?;
    Verified::check(keys, entry.chunk, raw)
}

/// What a pack's first and last bytes tell, for reading its index by range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHead {
    /// What opens the pack's chunks.
    pub seal: PackRef,
    /// Where the sealed index lies in the pack.
    pub index: Range<u64>,
    count: u32,
}

impl PackHead {
    /// Reads the first [`PACK_HEADER_LEN`] and the last [`PACK_TRAILER_LEN`] bytes of a pack
    /// of `pack_len` bytes.
    ///
    /// # Errors
    /// If they do not belong to a pack of this length of this volume.
    pub fn decode(
        keys: &VolumeKeys,
        kind: PackKind,
        front: &[u8],
        trailer: &[u8],
        pack_len: u64,
    ) -> Result<Self> {
        let header = SealedHeader::decode(kind.object(), front)?;
        let seal = PackRef {
            kind,
            epoch: header.epoch,
            salt: header.salt,
        };
        let plain = seal.seal(keys)?.open_copy(Part::Trailer, 0, trailer)?;
        let mut reader = Reader::new(kind.object().noun(), &plain);
        let (index_len, count) = (reader.u32()?, reader.u32()?);
        let chunks_len = pack_len
            .checked_sub((PACK_HEADER_LEN + PACK_TRAILER_LEN) as u64)
            .and_then(|len| len.checked_sub(index_len.into()));
        let expected_len = u64::from(count) * ENTRY_LEN as u64 + TAG_LEN as u64;
        reader.ensure(
            count as usize <= MAX_PACK_ENTRIES && u64::from(index_len) == expected_len,
            "its index has an impossible length",
        )?;
        reader.ensure(
            pack_len <= MAX_PACK_BYTES,
            "it is larger than a pack can be",
        )?;
        let chunks_len =
            chunks_len.ok_or_else(|| reader.damaged("it is shorter than its parts"))?;
        reader.finish()?;
        let index_at = PACK_HEADER_LEN as u64 + chunks_len;
        Ok(Self {
            seal,
            index: index_at..index_at + u64::from(index_len),
            count,
        })
    }

    /// Reads the sealed index, the bytes of [`index`](Self::index).
    ///
    /// # Errors
    /// If it is not this pack's index.
    pub fn entries(&self, keys: &VolumeKeys, index: &[u8]) -> Result<Vec<PackEntry>> {
        let plain = self.seal.seal(keys)?.open_copy(Part::Table, 0, index)?;
        let mut reader = Reader::new(self.seal.kind.object().noun(), &plain);
        let mut entries = Vec::with_capacity((plain.len() / ENTRY_LEN).min(MAX_PACK_ENTRIES));
        let mut off = PACK_HEADER_LEN as u64;
        for entry in 0..self.count {
            let chunk = ChunkId(reader.array()?);
            let (len, raw_len) = (reader.u32()?, reader.u32()?);
            entries.push(PackEntry {
                chunk,
                entry,
                // Checked below: all of them end where the index begins.
                off: off as u32,
                len,
                raw_len,
                codec: Codec::from_code(reader.u8()?)?,
            });
            off += u64::from(len);
        }
        reader.ensure(off == self.index.start, "its chunks do not fill it")?;
        reader.finish()?;
        Ok(entries)
    }
}

/// Reads a whole pack's index and checks the pack against its id. The chunks are not opened.
///
/// # Errors
/// If the bytes are not this pack, whole and unaltered.
pub fn read_pack(
    keys: &VolumeKeys,
    kind: PackKind,
    id: &PackId,
    bytes: &[u8],
) -> Result<(PackRef, Vec<PackEntry>)> {
    let damaged = |why| FormatError::Damaged {
        what: kind.object().noun(),
        why,
    };
    if object_hash(bytes) != id.0 {
        // A newer version is told from damage first: its words help more.
        SealedHeader::decode(kind.object(), bytes)?;
        return Err(damaged("its bytes do not match its id"));
    }
    let trailer = bytes.len().saturating_sub(PACK_TRAILER_LEN);
    let head = PackHead::decode(keys, kind, bytes, &bytes[trailer..], bytes.len() as u64)?;
    let index = &bytes[head.index.start as usize..head.index.end as usize];
    Ok((head.seal, head.entries(keys, index)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compressor;
    use crate::testing::{a_newer_version_is_refused, every_change_is_found, keys, noise};
    use proptest::prelude::*;

    fn pack_of(kind: PackKind, chunks: &[Vec<u8>]) -> Pack {
        let (keys, mut compressor) = (keys(), Compressor::new().unwrap());
        let mut writer = PackWriter::new(&keys, kind, [0x55; 32]).unwrap();
        for raw in chunks {
            let (codec, coded) = compressor.compress(raw);
            let id = keys.chunk_id(raw);
            writer.push(id, codec, raw.len() as u32, coded).unwrap();
        }
        writer.finish().unwrap()
    }

    fn small_pack() -> Pack {
        pack_of(
            PackKind::Data,
            &[noise(1, 100), b"text ".repeat(40), vec![]],
        )
    }

    fn open_all(pack: &PackRef, entries: &[PackEntry], bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        entries
            .iter()
            .map(|entry| {
                let range = entry.range();
                let sealed = &bytes[range.start as usize..range.end as usize];
                open_chunk(&keys(), pack, entry, sealed).map(Verified::into_bytes)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_chunks_of_a_pack_are_read_back(
            chunks in proptest::collection::vec(
                proptest::collection::vec(prop_oneof![Just(7u8), any::<u8>()], 0..600), 0..20)
        ) {
            let pack = pack_of(PackKind::Tree, &chunks);
            let (seal, entries) =
                read_pack(&keys(), PackKind::Tree, &pack.id, &pack.bytes).unwrap();
            prop_assert_eq!((seal, &entries), (pack.seal, &pack.entries));
            prop_assert_eq!(open_all(&seal, &entries, &pack.bytes).unwrap(), chunks);
        }
    }

    #[test]
    fn any_change_of_a_pack_is_found_by_its_id() {
        let pack = small_pack();
        every_change_is_found(&pack.bytes, |bytes| {
            read_pack(&keys(), PackKind::Data, &pack.id, bytes).map(drop)
        });
    }

    #[test]
    fn any_change_of_a_pack_is_found_by_its_seals_alone() {
        // As an attacker would who also renames the pack to fit its bytes.
        let pack = small_pack();
        every_change_is_found(&pack.bytes, |bytes| {
            let id = PackId(object_hash(bytes));
            let (seal, entries) = read_pack(&keys(), PackKind::Data, &id, bytes)?;
            open_all(&seal, &entries, bytes).map(drop)
        });
    }

    #[test]
    fn a_chunk_opens_only_as_the_entry_it_is() {
        let pack = small_pack();
        let [first, second, _] = pack.entries[..] else {
            panic!()
        };
        let sealed = &pack.bytes[first.range().start as usize..first.range().end as usize];
        let open = |keys: &VolumeKeys, pack: &PackRef, entry: &PackEntry| {
            open_chunk(keys, pack, entry, sealed).map(drop)
        };
        assert_eq!(open(&keys(), &pack.seal, &first), Ok(()));
        let moved = PackEntry { entry: 1, ..first };
        assert!(open(&keys(), &pack.seal, &moved).is_err());
        let renamed = PackEntry {
            chunk: second.chunk,
            ..first
        };
        assert!(open(&keys(), &pack.seal, &renamed).is_err());
        let resized = PackEntry {
            raw_len: 99,
            ..first
        };
        assert!(open(&keys(), &pack.seal, &resized).is_err());
        let retyped = PackRef {
            kind: PackKind::Tree,
            ..pack.seal
        };
        assert!(open(&keys(), &retyped, &first).is_err());
        let resalted = PackRef {
            salt: [0; 32],
            ..pack.seal
        };
        assert!(open(&keys(), &resalted, &first).is_err());
        let newer = PackRef {
            epoch: 2,
            ..pack.seal
        };
        assert!(matches!(
            open(&keys(), &newer, &first),
            Err(FormatError::NoKey { epoch: 2, .. })
        ));
        let other = VolumeKeys::new(larder_model::VolumeId([9; 16]), [0x22; 32], [0x33; 32]);
        assert!(open(&other, &pack.seal, &first).is_err());
    }

    #[test]
    fn equal_chunks_in_two_packs_look_different() {
        let pack = pack_of(PackKind::Data, &[noise(1, 64), noise(1, 64)]);
        let [a, b] = [0, 1].map(|i| {
            let range = pack.entries[i].range();
            &pack.bytes[range.start as usize..range.end as usize]
        });
        assert_ne!(a, b);
    }

    #[test]
    fn an_old_pack_opens_after_the_seal_key_changed() {
        let pack = small_pack();
        let mut keys = keys();
        keys.add_epoch([0x77; 32]);
        assert!(read_pack(&keys, PackKind::Data, &pack.id, &pack.bytes).is_ok());
        let newer = PackWriter::new(&keys, PackKind::Data, [1; 32]).unwrap();
        assert_eq!(newer.finish().unwrap().seal.epoch, 2);
    }

    #[test]
    fn a_newer_pack_is_refused_in_words() {
        let pack = small_pack();
        a_newer_version_is_refused(&pack.bytes, |bytes| {
            read_pack(&keys(), PackKind::Data, &pack.id, bytes).err()
        });
    }

    #[test]
    fn a_pack_that_a_member_made_with_impossible_lengths_is_refused() {
        let (pack, keys) = (small_pack(), keys());
        let seal = pack.seal.seal(&keys).unwrap();
        let trailer_at = pack.bytes.len() - PACK_TRAILER_LEN;
        for (index_len, count) in [
            (0, 0),
            (u32::MAX, 3),
            (u32::MAX, u32::MAX),
            (139, 2),
            (98, 2),
        ] {
            let mut bytes = pack.bytes[..trailer_at].to_vec();
            bytes.extend_from_slice(&u32::to_le_bytes(index_len));
            bytes.extend_from_slice(&u32::to_le_bytes(count));
            seal.seal(Part::Trailer, 0, &mut bytes, trailer_at).unwrap();
            let id = PackId(object_hash(&bytes));
            assert!(read_pack(&keys, PackKind::Data, &id, &bytes).is_err());
        }
    }

    #[test]
    fn a_pack_does_not_grow_beyond_its_bounds() {
        let keys = keys();
        let mut writer = PackWriter::new(&keys, PackKind::Data, [1; 32]).unwrap();
        let id = keys.chunk_id(b"");
        let big = vec![0; MAX_CHUNK_BYTES + 1];
        assert!(writer.push(id, Codec::Raw, big.len() as u32, &big).is_err());
        for _ in 0..MAX_PACK_ENTRIES {
            assert!(!writer.is_full());
            writer.push(id, Codec::Raw, 0, &[]).unwrap();
        }
        assert!(writer.is_full());
        assert!(writer.push(id, Codec::Raw, 0, &[]).is_err());
        let pack = writer.finish().unwrap();
        assert!(read_pack(&keys, PackKind::Data, &pack.id, &pack.bytes).is_ok());
    }
}

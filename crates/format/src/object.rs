//! Where objects lie on a store, and how each begins.
//!
//! An object's first eight bytes are `LARDER`, a letter for its kind and a version. A sealed
//! object goes on with the epoch of the seal key and a random salt, from which its own key is
//! derived. A name is the object's key on a store: it tells the kind and the id, nothing else.

use larder_model::{IndexId, PackId, ReplicaId, SlotId, VolumeId};

use crate::wire::Reader;
use crate::{FormatError, PackKind};

type Result<T> = std::result::Result<T, FormatError>;

/// The name of the volume header.
pub const VOLUME: &str = "volume";
/// Where key slots lie.
pub const KEYS: &str = "keys";
/// Where data packs lie.
pub const PACKS: &str = "packs";
/// Where tree packs lie.
pub const TREES: &str = "trees";
/// Where index objects lie.
pub const INDEX: &str = "index";
/// Where heads lie, and the tags beside them: one listing shows both.
pub const HEADS: &str = "heads";
/// Where marks lie.
pub const MARKS: &str = "marks";

const MAGIC: &[u8; 6] = b"LARDER";

/// The bytes with which every object of one kind and version begins.
pub(crate) const MAGIC_LEN: usize = 8;

/// The kinds of objects that stand alone, on a store or in the state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectKind {
    /// The plain volume header.
    Volume,
    /// A key slot.
    Slot,
    /// The local key file.
    KeyFile,
    /// A pack of chunks of files.
    DataPack,
    /// A pack of pages, lists and commits.
    TreePack,
    /// An index object.
    Index,
    /// A head.
    Head,
    /// A replica's list of tags.
    Tags,
    /// A mark.
    Mark,
}

impl ObjectKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Volume,
        Self::Slot,
        Self::KeyFile,
        Self::DataPack,
        Self::TreePack,
        Self::Index,
        Self::Head,
        Self::Tags,
        Self::Mark,
    ];

    /// The letter in the object's first bytes.
    pub const fn letter(self) -> u8 {
        match self {
            Self::Volume => b'V',
            Self::Slot => b'S',
            Self::KeyFile => b'K',
            Self::DataPack => b'P',
            Self::TreePack => b'T',
            Self::Index => b'I',
            Self::Head => b'H',
            Self::Tags => b'N',
            Self::Mark => b'M',
        }
    }

    /// The version that is written, and the newest that is read.
    pub const fn version(self) -> u8 {
        1
    }

    /// What a message calls it.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Volume => "volume header",
            Self::Slot => "key slot",
            Self::KeyFile => "key file",
            Self::DataPack => "data pack",
            Self::TreePack => "tree pack",
            Self::Index => "index object",
            Self::Head => "head",
            Self::Tags => "list of tags",
            Self::Mark => "mark",
        }
    }

    /// The first bytes of every such object.
    pub(crate) const fn magic(self) -> [u8; MAGIC_LEN] {
        let [a, b, c, d, e, f] = *MAGIC;
        [a, b, c, d, e, f, self.letter(), self.version()]
    }

    /// A reader of the object's bytes behind its first eight, which are checked.
    pub(crate) fn open(self, bytes: &[u8]) -> Result<Reader<'_>> {
        let mut reader = Reader::new(self.noun(), bytes);
        let magic: [u8; 7] = reader.array()?;
        reader.ensure(magic == self.magic()[..7], "it begins with other bytes")?;
        let version = reader.u8()?;
        reader.ensure(version != 0, "it has version 0")?;
        if version > self.version() {
            return Err(FormatError::Newer {
                what: self.noun(),
                version: version.into(),
                known: self.version().into(),
            });
        }
        Ok(reader)
    }
}

/// The plain front of a sealed object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealedHeader {
    /// Which seal key its own key was derived from.
    pub epoch: u32,
    /// What makes its own key differ from all others.
    pub salt: [u8; 32],
}

impl SealedHeader {
    /// Its length in bytes, with the first eight.
    pub const LEN: usize = MAGIC_LEN + 4 + 32;

    /// The bytes of the front.
    pub fn encode(&self, kind: ObjectKind) -> Vec<u8> {
        let mut out = kind.magic().to_vec();
        out.extend_from_slice(&self.epoch.to_le_bytes());
        out.extend_from_slice(&self.salt);
        out
    }

    /// Reads the front of an object of this kind.
    pub fn decode(kind: ObjectKind, bytes: &[u8]) -> Result<Self> {
        let mut reader = kind.open(bytes)?;
        Ok(Self {
            epoch: reader.u32()?,
            salt: reader.array()?,
        })
    }
}

/// The BLAKE3 hash that names an immutable object by its bytes.
pub fn object_hash(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// The name of a pack: `packs/ab/abcd…` or `trees/ab/abcd…`.
pub fn pack_name(kind: PackKind, id: &PackId) -> String {
    let folder = match kind {
        PackKind::Data => PACKS,
        PackKind::Tree => TREES,
    };
    format!("{folder}/{:02x}/{id}", id.0[0])
}

/// The pack that has this name.
pub fn parse_pack_name(name: &str) -> Option<(PackKind, PackId)> {
    let (folder, rest) = name.split_once('/')?;
    let kind = match folder {
        PACKS => PackKind::Data,
        TREES => PackKind::Tree,
        _ => return None,
    };
    let id = rest.split_once('/')?.1.parse().ok()?;
    (pack_name(kind, &id) == name).then_some((kind, id))
}

/// The name of an index object.
pub fn index_name(id: &IndexId) -> String {
    format!("{INDEX}/{id}")
}

/// The index object that has this name.
pub fn parse_index_name(name: &str) -> Option<IndexId> {
    let id = name.strip_prefix(INDEX)?.strip_prefix('/')?.parse().ok()?;
    (index_name(&id) == name).then_some(id)
}

/// The name of a key slot.
pub fn slot_name(id: &SlotId) -> String {
    format!("{KEYS}/{id}")
}

/// The key slot that has this name.
pub fn parse_slot_name(name: &str) -> Option<SlotId> {
    let id = name.strip_prefix(KEYS)?.strip_prefix('/')?.parse().ok()?;
    (slot_name(&id) == name).then_some(id)
}

/// The name of a replica's head for its commit `n`: padded, so that names sort as numbers.
pub fn head_name(replica: &ReplicaId, n: u64) -> String {
    numbered_name(HEADS, replica, n)
}

/// The replica and the commit number whose head has this name.
pub fn parse_head_name(name: &str) -> Option<(ReplicaId, u64)> {
    parse_numbered_name(HEADS, name)
}

/// The name of a replica's mark `n`.
pub fn mark_name(replica: &ReplicaId, n: u64) -> String {
    numbered_name(MARKS, replica, n)
}

/// The replica and the number whose mark has this name.
pub fn parse_mark_name(name: &str) -> Option<(ReplicaId, u64)> {
    parse_numbered_name(MARKS, name)
}

fn numbered_name(folder: &str, replica: &ReplicaId, n: u64) -> String {
    format!("{folder}/{replica}/{n:020}")
}

fn parse_numbered_name(folder: &str, name: &str) -> Option<(ReplicaId, u64)> {
    let rest = name.strip_prefix(folder)?.strip_prefix('/')?;
    let (replica, n) = rest.split_once('/')?;
    let (replica, n) = (replica.parse().ok()?, n.parse().ok()?);
    (numbered_name(folder, &replica, n) == name).then_some((replica, n))
}

/// The name of a replica's list of tags number `n`. It lies beside its heads.
pub fn tags_name(replica: &ReplicaId, n: u64) -> String {
    format!("{HEADS}/{replica}/tags-{n:020}")
}

/// The replica and the number of the list of tags that has this name.
pub fn parse_tags_name(name: &str) -> Option<(ReplicaId, u64)> {
    let (replica, n) = name
        .strip_prefix(HEADS)?
        .strip_prefix('/')?
        .split_once("/tags-")?;
    let (replica, n) = (replica.parse().ok()?, n.parse().ok()?);
    (tags_name(&replica, n) == name).then_some((replica, n))
}

/// The plain object that tells a store's volume: nothing in it is secret.
pub fn encode_volume_header(volume: VolumeId) -> Vec<u8> {
    let mut out = ObjectKind::Volume.magic().to_vec();
    out.extend_from_slice(volume.as_bytes());
    let hash = object_hash(&out);
    out.extend_from_slice(&hash);
    out
}

/// Reads the volume header.
///
/// # Errors
/// If the bytes are not one, or of a newer version.
pub fn decode_volume_header(bytes: &[u8]) -> Result<VolumeId> {
    let mut reader = ObjectKind::Volume.open(bytes)?;
    let volume = VolumeId(reader.array()?);
    let hash: [u8; 32] = reader.array()?;
    let hashed = &bytes[..MAGIC_LEN + VolumeId::LEN];
    reader.ensure(hash == object_hash(hashed), "its checksum does not match")?;
    reader.finish()?;
    Ok(volume)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_no_other_text_is_taken_for_one() {
        let (pack, replica) = (PackId([0xab; 32]), ReplicaId([7; 32]));
        for kind in [PackKind::Data, PackKind::Tree] {
            let name = pack_name(kind, &pack);
            assert_eq!(parse_pack_name(&name), Some((kind, pack)));
            assert_eq!(parse_pack_name(&name.replace("/ab/", "/aa/")), None);
            assert_eq!(parse_pack_name(&name.to_uppercase()), None);
        }
        let head = head_name(&replica, 12);
        assert_eq!(parse_head_name(&head), Some((replica, 12)));
        assert_eq!(parse_head_name(&head.replace("0012", "12")), None);
        assert_eq!(parse_head_name(&head.replace("0012", "+012")), None);
        let tags = tags_name(&replica, 12);
        assert_eq!(parse_tags_name(&tags), Some((replica, 12)));
        assert_eq!(parse_tags_name(&tags.replace("0012", "12")), None);
        assert_eq!(
            (parse_tags_name(&head), parse_head_name(&tags)),
            (None, None)
        );
        let mark = mark_name(&replica, 12);
        assert_eq!(parse_mark_name(&mark), Some((replica, 12)));
        assert_eq!(parse_mark_name(&head), None);
        let index = IndexId([3; 32]);
        assert_eq!(parse_index_name(&index_name(&index)), Some(index));
        assert_eq!(parse_index_name(&head), None);
        let slot = SlotId([4; 32]);
        assert_eq!(parse_slot_name(&slot_name(&slot)), Some(slot));
        assert_eq!(parse_slot_name(VOLUME), None);
    }

    #[test]
    fn the_names_of_heads_sort_as_their_numbers() {
        let name = |n| head_name(&ReplicaId([1; 32]), n);
        assert!(name(9) < name(10) && name(10) < name(u64::MAX));
    }
}

//! Every decoder of `larder-format`, fed with any bytes.
//!
//! A function here must come back, whatever it is given, and what a decoder accepts must be
//! what an encoder writes. Objects are tried as a store would hand them out that has no keys:
//! with the checksums and ids that anyone can make. Pages are tried as a member of the volume
//! could have made them: their ids fit whatever they hold.

use larder_format::peer::Message;
use larder_format::tree::{
    Tree, TreeKind, decode_name_entry, diff, encode_name_entry, parse_name_key, parse_node_key,
};
use larder_format::{
    Commit, Credential, FormatError, KeyFile, PACK_HEADER_LEN, PACK_TRAILER_LEN, PackHead,
    PackKind, PageSource, RecoveryKey, References, Ticket, VolumeKeys, decode_content,
    decode_index, decode_node, decode_tags, decode_volume_header, encode_content, encode_node,
    encode_tags, list, object_hash, open_head, open_mark, open_slot, open_tags, parse_head_name,
    parse_index_name, parse_mark_name, parse_pack_name, parse_slot_name, parse_tags_name,
    read_mark, read_pack, slot_kind,
};
use larder_model::{ChunkId, Content, PackId, ReplicaId, VolumeId};

/// So many entries or extents are read of one tree or list: its pages may refer to each
/// other so that it has more than anyone could count.
const ENTRIES_MAX: usize = 2000;
/// A checksum of this many bytes ends a slot.
const SLOT_CHECKSUM_LEN: usize = 16;

fn keys() -> VolumeKeys {
    let mut keys = VolumeKeys::new(VolumeId(*b"golden volume id"), [0x22; 32], [0x33; 32]);
    keys.add_epoch([0x34; 32]);
    keys
}

/// What lies on a store or in a state directory: packs, indexes, heads, slots, key files.
pub fn objects(bytes: &[u8]) {
    let keys = keys();
    let _ = decode_volume_header(bytes);
    let _ = decode_index(&keys, bytes);
    let _ = open_head(&keys, &ReplicaId([7; 32]), 300, bytes);
    let _ = open_tags(&keys, &ReplicaId([7; 32]), 3, bytes);
    if let Ok(tags) = decode_tags(bytes) {
        assert_eq!(encode_tags(&tags).as_deref(), Ok(bytes));
    }
    let _ = open_mark(&keys, &ReplicaId([7; 32]), 300, bytes);
    let _ = References::of_page(bytes);
    if let Ok(mark) = read_mark(bytes) {
        assert_eq!(mark.plain(), bytes);
    }
    let _ = KeyFile::decode(bytes);
    for kind in [PackKind::Data, PackKind::Tree] {
        let _ = read_pack(&keys, kind, &PackId(object_hash(bytes)), bytes);
        let front = &bytes[..bytes.len().min(PACK_HEADER_LEN)];
        let trailer = &bytes[bytes.len().saturating_sub(PACK_TRAILER_LEN)..];
        let _ = PackHead::decode(&keys, kind, front, trailer, bytes.len() as u64);
    }
    slots(bytes);
}

fn slots(bytes: &[u8]) {
    let recovery = RecoveryKey::from_secret(std::array::from_fn(|i| 8 * i as u8 + 1));
    let mut summed = bytes.to_vec();
    if let Some((body, sum)) = summed.split_last_chunk_mut::<SLOT_CHECKSUM_LEN>() {
        sum.copy_from_slice(&object_hash(body)[..SLOT_CHECKSUM_LEN]);
    }
    for bytes in [bytes, &summed] {
        let _ = slot_kind(bytes);
        // Not with a passphrase: that is meant to take long.
        let _ = open_slot(bytes, &Credential::RecoveryKey(&recovery));
    }
}

/// Nodes, contents and entries of directories.
pub fn nodes(bytes: &[u8]) {
    if let Ok(node) = decode_node(bytes) {
        assert_eq!(encode_node(&node).as_deref(), Ok(bytes));
    }
    if let Ok(content) = decode_content(bytes) {
        assert_eq!(encode_content(&content), bytes);
    }
    if let Ok(entry) = decode_name_entry(bytes) {
        assert_eq!(encode_name_entry(&entry), bytes);
    }
    let _ = parse_node_key(bytes);
    let _ = parse_name_key(bytes);
}

/// Commits.
pub fn commits(bytes: &[u8]) {
    if let Ok(commit) = Commit::decode(bytes) {
        assert_eq!(commit.encode().as_deref(), Ok(bytes));
    }
}

/// The bytes cut into pages, each id leading to one of them.
struct Pages<'a>(Vec<&'a [u8]>);

impl<'a> Pages<'a> {
    /// The first byte says how many pages there are; each has two bytes for its length.
    fn of(bytes: &'a [u8]) -> Self {
        let &[count, ref rest @ ..] = bytes else {
            return Self(vec![bytes]);
        };
        let mut pages = Vec::new();
        let mut rest = rest;
        for _ in 1..count % 8 {
            let Some((len, more)) = rest.split_first_chunk::<2>() else {
                break;
            };
            let len = usize::from(u16::from_le_bytes(*len)).min(more.len());
            pages.push(&more[..len]);
            rest = &more[len..];
        }
        pages.push(rest);
        Self(pages)
    }
}

impl<'a> PageSource for Pages<'a> {
    type Bytes = &'a [u8];
    type Error = FormatError;

    fn page(&mut self, id: &ChunkId) -> Result<&'a [u8], FormatError> {
        let at = usize::from(id.as_bytes()[0]) % self.0.len();
        Ok(self.0[at])
    }
}

const ENOUGH: FormatError = FormatError::Damaged {
    what: "list",
    why: "it is longer than this test reads",
};

/// Lists of the chunks of long files.
pub fn lists(bytes: &[u8]) {
    for size in [5_000_000_000, 3_000_000, i64::MAX as u64] {
        // Pages as they are, and several in one.
        for mut pages in [Pages(vec![bytes]), Pages::of(bytes)] {
            let content = Content::List {
                root: ChunkId([0; 32]),
                size,
            };
            let mut left = ENTRIES_MAX;
            let mut count = |_, _| {
                left = left.checked_sub(1).ok_or(ENOUGH)?;
                Ok(())
            };
            let _ = list::expand(&content, &mut pages, &mut count);
            let mut left = ENTRIES_MAX;
            let _ = list::pages(&content, &mut pages, |_| {
                left = left.checked_sub(1).ok_or(ENOUGH)?;
                Ok(())
            });
        }
    }
}

/// The trees of nodes and of names.
pub fn trees(bytes: &[u8]) {
    for kind in [TreeKind::Nodes, TreeKind::Names] {
        let tree = |root| Tree {
            kind,
            root: ChunkId([root; 32]),
        };
        let of_one = |_: &ChunkId| Ok::<_, FormatError>(bytes);
        tree(0).scan(&[], of_one).take(ENTRIES_MAX).for_each(drop);
        let mut several = Pages::of(bytes);
        let scan = tree(0).scan(&[3; 16], |id: &ChunkId| several.page(id));
        scan.take(ENTRIES_MAX).for_each(drop);
        let _ = tree(0).get(&[7; 16], &mut several);
        let mut left = ENTRIES_MAX;
        let _ = diff(&tree(0), &tree(1), &mut several, |_| {
            left = left.checked_sub(1).ok_or(ENOUGH)?;
            Ok(())
        });
    }
}

/// What comes as text: names of objects, recovery keys.
pub fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let _ = parse_pack_name(text);
    let _ = parse_index_name(text);
    let _ = parse_slot_name(text);
    let _ = parse_head_name(text);
    let _ = parse_tags_name(text);
    let _ = parse_mark_name(text);
    if let Ok(key) = RecoveryKey::parse(text) {
        assert!(RecoveryKey::parse(&key.to_text()).is_ok());
    }
    if let Ok(ticket) = Ticket::parse(text) {
        assert_eq!(Ticket::parse(&ticket.to_text()), Ok(ticket));
    }
}

/// What another replica says.
pub fn peers(bytes: &[u8]) {
    if let Ok(message) = Message::decode(bytes) {
        assert_eq!(message.encode(), bytes);
    }
}

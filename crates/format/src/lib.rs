//! Every durable or sent byte of Larder: encode, decode, seal.
//!
//! `docs/format.md` specifies what this room writes; the golden files under `tests/golden`
//! hold it. From below: [`VolumeKeys`] name chunks and make the keys that seal objects;
//! [`Chunker`], [`rechunk`] and [`Compressor`] turn a file into chunks; [`PackWriter`] and
//! [`encode_index`] turn chunks into objects; [`list`], [`encode_node`] and [`tree`] say what
//! the chunks mean; [`Commit`] and [`seal_head`] say which state is the newest.
//!
//! Promises: all of it is pure (salts and times are parameters); no input makes a decoder
//! panic, return bytes that were not checked, or allocate more than a small multiple of what
//! it was given; a value has one encoding; a newer version is refused in words.

mod chunking;
mod commit;
mod compress;
mod content;
#[cfg(test)]
mod documented;
mod error;
mod head;
mod index;
mod keys;
mod kind;
pub mod list;
mod mark;
mod node;
pub mod object;
mod pack;
mod pages;
pub mod peer;
mod reach;
mod rechunk;
mod recovery;
mod seal;
mod slot;
mod tags;
#[cfg(test)]
mod testing;
mod ticket;
pub mod tree;
mod verified;
mod wire;

pub use chunking::{Chunker, SizeClass};
pub use commit::{Commit, MAX_MESSAGE_BYTES};
pub use compress::{Codec, Compressor};
pub use content::{decode_content, encode_content};
pub use error::FormatError;
pub use head::{Head, open_head, seal_head};
pub use index::{IndexObject, IndexedPack, decode_index, encode_index};
pub use keys::{KeyFile, ReplicaKey, VolumeKeys};
pub use kind::{kind_code, kind_from_code};
pub use list::{INLINE_EXTENTS, ListWriter};
pub use mark::{Mark, encode_retention, open_mark, read_mark, read_retention, seal_mark};
pub use node::{MAX_NODE_BYTES, decode_node, encode_node};
pub use object::{
    ObjectKind, decode_volume_header, encode_volume_header, head_name, index_name, mark_name,
    object_hash, pack_name, parse_head_name, parse_index_name, parse_mark_name, parse_pack_name,
    parse_slot_name, parse_tags_name, slot_name, tags_name,
};
pub use pack::{
    MAX_CHUNK_BYTES, MAX_PACK_BYTES, MAX_PACK_ENTRIES, PACK_HEADER_LEN, PACK_TARGET_BYTES,
    PACK_TRAILER_LEN, Pack, PackEntry, PackHead, PackKind, PackRef, PackWriter, open_chunk,
    read_pack,
};
pub use pages::{PageKind, PageSource, PageStore};
pub use reach::References;
pub use rechunk::{NewPiece, OldPiece, rechunk};
pub use recovery::{RecoveryKey, RecoveryKeyError};
pub use slot::{
    ArgonParams, Credential, Slot, SlotError, SlotKind, open_slot, seal_passphrase_slot,
    seal_recovery_slot, slot_kind,
};
pub use tags::{MAX_TAGS_BYTES, decode_tags, encode_tags, open_tags, seal_tags};
pub use ticket::Ticket;
pub use verified::Verified;

//! How a node's content is written, in trees and in the database.

use larder_model::{ChunkId, Content, Extent};

use crate::wire::{Reader, put_counted, put_varint};
use crate::{FormatError, MAX_CHUNK_BYTES};

type Result<T> = std::result::Result<T, FormatError>;

const NOUN: &str = "file content";
const NONE: u8 = 0;
const TARGET: u8 = 1;
const EXTENTS: u8 = 2;
const LIST: u8 = 3;

/// A file has at most as many bytes as a file offset can count.
pub(crate) const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// The bytes of a content.
pub fn encode_content(content: &Content) -> Vec<u8> {
    let mut out = Vec::new();
    put_content(&mut out, content);
    out
}

/// Reads a content.
///
/// # Errors
/// If the bytes are not one, or of a form that is newer than this program.
pub fn decode_content(bytes: &[u8]) -> Result<Content> {
    let mut reader = Reader::new(NOUN, bytes);
    let content = read_content(&mut reader)?;
    reader.finish()?;
    Ok(content)
}

pub(crate) fn put_content(out: &mut Vec<u8>, content: &Content) {
    match content {
        Content::None => out.push(NONE),
        Content::Target(target) => {
            out.push(TARGET);
            put_counted(out, target);
        }
        Content::Extents(extents) => {
            out.push(EXTENTS);
            put_varint(out, extents.len() as u64);
            extents.iter().for_each(|extent| put_extent(out, extent));
        }
        Content::List { root, size } => {
            out.push(LIST);
            out.extend_from_slice(root.as_bytes());
            put_varint(out, *size);
        }
    }
}

pub(crate) fn read_content(reader: &mut Reader<'_>) -> Result<Content> {
    match reader.u8()? {
        NONE => Ok(Content::None),
        TARGET => Ok(Content::Target(reader.counted()?.to_vec())),
        EXTENTS => read_extents(reader).map(Content::Extents),
        LIST => {
            let root = ChunkId(reader.array()?);
            let size = reader.varint()?;
            reader.ensure(size <= MAX_FILE_BYTES, "a file is larger than files can be")?;
            Ok(Content::List { root, size })
        }
        tag => Err(FormatError::Newer {
            what: NOUN,
            version: tag.into(),
            known: LIST.into(),
        }),
    }
}

fn read_extents(reader: &mut Reader<'_>) -> Result<Vec<Extent>> {
    let count = reader.count(2)?;
    let (mut extents, mut size) = (Vec::with_capacity(count), 0);
    for _ in 0..count {
        let extent = read_extent(reader)?;
        size = add_len(reader, size, extent.len())?;
        extents.push(extent);
    }
    Ok(extents)
}

/// A chunk is its length and its id, a hole a zero and its length.
pub(crate) fn put_extent(out: &mut Vec<u8>, extent: &Extent) {
    match extent {
        Extent::Chunk { id, len } => {
            put_varint(out, (*len).into());
            out.extend_from_slice(id.as_bytes());
        }
        Extent::Hole { len } => {
            out.push(0);
            put_varint(out, *len);
        }
    }
}

pub(crate) fn read_extent(reader: &mut Reader<'_>) -> Result<Extent> {
    match reader.varint32()? {
        0 => {
            let len = reader.varint()?;
            reader.ensure(len != 0, "a hole has no length")?;
            Ok(Extent::Hole { len })
        }
        len => {
            let fits = len as usize <= MAX_CHUNK_BYTES;
            reader.ensure(fits, "a chunk is larger than chunks can be")?;
            let id = ChunkId(reader.array()?);
            Ok(Extent::Chunk { id, len })
        }
    }
}

/// `size + len`, as long as a file can have so many bytes.
pub(crate) fn add_len(reader: &Reader<'_>, size: u64, len: u64) -> Result<u64> {
    size.checked_add(len)
        .filter(|&sum| sum <= MAX_FILE_BYTES)
        .ok_or_else(|| reader.damaged("a file is larger than files can be"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::any_content;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_content_is_read_back(content in any_content()) {
            prop_assert_eq!(decode_content(&encode_content(&content)), Ok(content));
        }

        #[test]
        fn no_bytes_make_the_decoder_fail_otherwise_than_by_an_error(bytes: Vec<u8>) {
            if let Ok(content) = decode_content(&bytes) {
                prop_assert_eq!(encode_content(&content), bytes);
            }
        }
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let over = Content::Extents(vec![
            Extent::Hole {
                len: MAX_FILE_BYTES,
            },
            Extent::Hole { len: 1 },
        ]);
        assert!(decode_content(&encode_content(&over)).is_err());
        let empty = Content::Extents(vec![Extent::Hole { len: 0 }]);
        assert!(decode_content(&encode_content(&empty)).is_err());
        let id = ChunkId([1; 32]);
        let big = Content::Extents(vec![Extent::Chunk { id, len: u32::MAX }]);
        assert!(decode_content(&encode_content(&big)).is_err());
        assert!(decode_content(&[EXTENTS, 0xff, 0xff, 0xff, 0xff, 0x0f]).is_err());
    }

    #[test]
    fn a_newer_form_of_content_is_refused_as_newer() {
        assert!(matches!(
            decode_content(&[4]),
            Err(FormatError::Newer { version: 4, .. })
        ));
    }
}

//! What a file holds.

use crate::ChunkId;

/// A piece of a file: stored bytes, or a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// `len` bytes, the whole of chunk `id`.
    Chunk {
        /// The chunk.
        id: ChunkId,
        /// Its plaintext length in bytes, never 0.
        len: u32,
    },
    /// `len` bytes of zeros that are not stored.
    Hole {
        /// Length in bytes, never 0.
        len: u64,
    },
}

impl Extent {
    /// How many bytes of the file this piece is.
    pub fn len(&self) -> u64 {
        match self {
            Self::Chunk { len, .. } => u64::from(*len),
            Self::Hole { len } => *len,
        }
    }

    /// Whether the piece has no bytes; a well-formed one never is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a node holds. The order has no meaning but to be the same everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// Nothing: a directory, FIFO, socket or device.
    None,
    /// The target of a symlink.
    Target(Vec<u8>),
    /// A file with a short list: its pieces in order.
    Extents(Vec<Extent>),
    /// A file with a long list: the chunk that holds the root of the list's tree.
    List {
        /// The root page of the list.
        root: ChunkId,
        /// The file's size in bytes.
        size: u64,
    },
}

impl Content {
    /// The file's size, or the target's length, in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Target(target) => target.len() as u64,
            Self::Extents(extents) => extents.iter().map(Extent::len).sum(),
            Self::List { size, .. } => *size,
        }
    }
}

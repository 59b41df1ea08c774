//! Pages: the chunks that trees and lists are made of, and where they come from and go.

use larder_model::ChunkId;

use crate::FormatError;

/// Gives pages by their id. Any `FnMut(&ChunkId) -> Result<impl AsRef<[u8]>, E>` is one.
///
/// What it gives must have been checked against its id; what reads pages checks their shape
/// only.
pub trait PageSource {
    /// A page's plaintext.
    type Bytes: AsRef<[u8]>;
    /// What can fail.
    type Error: From<FormatError>;

    /// The page with this id.
    ///
    /// # Errors
    /// If it cannot be had.
    fn page(&mut self, id: &ChunkId) -> Result<Self::Bytes, Self::Error>;
}

impl<F, B, E> PageSource for F
where
    F: FnMut(&ChunkId) -> Result<B, E>,
    B: AsRef<[u8]>,
    E: From<FormatError>,
{
    type Bytes = B;
    type Error = E;

    fn page(&mut self, id: &ChunkId) -> Result<B, E> {
        self(id)
    }
}

/// Takes the pages that a change made, and is told which it left behind.
pub trait PageStore: PageSource {
    /// Takes a new page. It may be one that an older tree had too.
    ///
    /// # Errors
    /// If it cannot be taken; the change fails with it.
    fn put(&mut self, id: ChunkId, bytes: Vec<u8>) -> Result<(), Self::Error>;

    /// Is told of a page of the old tree that the new one has no more.
    ///
    /// # Errors
    /// If that cannot be noted; the change fails with it.
    fn dropped(&mut self, id: ChunkId) -> Result<(), Self::Error>;
}

/// The kinds of chunks that are not content, by their first byte; the second is a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageKind {
    /// A page of the tree of nodes.
    Nodes,
    /// A page of the tree of names.
    Names,
    /// A value of a tree that is too long for its page.
    Value,
    /// A page of the list of a file's chunks.
    List,
    /// A commit.
    Commit,
}

impl PageKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Nodes,
        Self::Names,
        Self::Value,
        Self::List,
        Self::Commit,
    ];

    /// The chunk's first byte.
    pub const fn letter(self) -> u8 {
        match self {
            Self::Nodes => b'n',
            Self::Names => b'd',
            Self::Value => b'v',
            Self::List => b'l',
            Self::Commit => b'c',
        }
    }

    /// The version that is written, and the newest that is read.
    pub const fn version(self) -> u8 {
        1
    }

    /// What a message calls it.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Nodes => "page of the tree of nodes",
            Self::Names => "page of the tree of names",
            Self::Value => "long value of a tree",
            Self::List => "page of a chunk list",
            Self::Commit => "commit",
        }
    }

    /// The chunk's first bytes.
    pub(crate) const fn front(self) -> [u8; 2] {
        [self.letter(), self.version()]
    }

    /// A reader of the chunk's bytes behind its first two, which are checked.
    pub(crate) fn open(self, bytes: &[u8]) -> Result<crate::wire::Reader<'_>, FormatError> {
        let mut reader = crate::wire::Reader::new(self.noun(), bytes);
        let [letter, version] = reader.array()?;
        reader.ensure(letter == self.letter(), "it begins with another letter")?;
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

//! Search trees of sealed pages: `NodeId -> Node`, and `(parent, name) -> node`.
//!
//! A prolly tree: the entries in the order of their keys, cut into pages where the hash of a
//! key says so, then the pages' last keys and ids cut the same way, up to one root. Since the
//! cuts depend on keys alone, equal maps have equal roots, whatever changes led to them; a
//! change makes new pages only on its way to the root; and two trees differ only where their
//! pages' ids do. A page has 64 entries on average. A value of over [`MAX_INLINE_BYTES`] has a
//! page of its own.
//!
//! Memory is bounded by one path of the tree, and for a change by the pages it touches too
//! (some fifty bytes for each). A page is believed only as far as it fits its parent: its
//! level, its last key, and keys in order; so a hostile tree cannot make a reader run in
//! circles or out of memory.

mod apply;
mod cursor;
mod diff;
mod entry;
mod page;

use larder_model::ChunkId;

pub use apply::Change;
pub use cursor::{Finder, Scan};
pub use diff::{Difference, diff};
pub use entry::{
    NameEntry, decode_name_entry, encode_name_entry, name_key, node_key, parse_name_key,
    parse_node_key,
};
pub use page::{MAX_INLINE_BYTES, MAX_KEY_BYTES, references};
pub(crate) use page::{leaf_values, own_value};

use crate::{FormatError, PageKind, PageSource, PageStore, VolumeKeys};

/// The BLAKE3 derivation context of the key that says where pages end.
pub(crate) const BOUNDARY_CONTEXT: &str = "larder 1 tree boundary key";

/// Which of a volume's two trees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TreeKind {
    /// From a node's id to the node.
    Nodes,
    /// From a directory and a name to the node of that name.
    Names,
}

impl TreeKind {
    const fn page(self) -> PageKind {
        match self {
            Self::Nodes => PageKind::Nodes,
            Self::Names => PageKind::Names,
        }
    }

    fn damaged(self, why: &'static str) -> FormatError {
        FormatError::Damaged {
            what: self.page().noun(),
            why,
        }
    }
}

/// A tree: its kind and the id of its root page. An empty tree has a page too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tree {
    /// What it maps.
    pub kind: TreeKind,
    /// Its root page.
    pub root: ChunkId,
}

impl Tree {
    /// Makes the tree of these entries: [`apply`](Self::apply) to nothing.
    ///
    /// # Errors
    /// As for [`apply`](Self::apply).
    pub fn build<S: PageStore>(
        keys: &VolumeKeys,
        kind: TreeKind,
        changes: impl IntoIterator<Item = Result<Change, S::Error>>,
        store: &mut S,
    ) -> Result<Self, S::Error> {
        let root = apply::apply(keys, kind, None, changes, store)?;
        Ok(Self { kind, root })
    }

    /// Makes the tree that differs from this one by the changes, whose keys must ascend. The
    /// store takes the pages that are new and is told of those that are left behind.
    /// Removing what is not there, and putting what is there already, is no change.
    ///
    /// # Errors
    /// Those of the store and of `changes`; that keys do not ascend or are too long; that a
    /// page is damaged.
    pub fn apply<S: PageStore>(
        &self,
        keys: &VolumeKeys,
        changes: impl IntoIterator<Item = Result<Change, S::Error>>,
        store: &mut S,
    ) -> Result<Self, S::Error> {
        let root = apply::apply(keys, self.kind, Some(self.root), changes, store)?;
        Ok(Self { root, ..*self })
    }

    /// The value of a key.
    ///
    /// # Errors
    /// Those of the source; that a page is damaged.
    pub fn get<S: PageSource>(
        &self,
        key: &[u8],
        source: &mut S,
    ) -> Result<Option<Vec<u8>>, S::Error> {
        self.finder().get(key, source)
    }

    /// Looks for many keys, best in order: a page that was read serves all that lie in it.
    pub fn finder<B: AsRef<[u8]>>(&self) -> Finder<B> {
        Finder::new(*self)
    }

    /// The entries from the key `from` on, in order.
    pub fn scan<S: PageSource>(&self, from: &[u8], source: S) -> Scan<S> {
        Scan::new(*self, from.to_vec(), Vec::new(), source)
    }

    /// The entries whose keys begin with `prefix`, in order: with a directory's id, its
    /// entries in the tree of names.
    pub fn scan_prefix<S: PageSource>(&self, prefix: &[u8], source: S) -> Scan<S> {
        Scan::new(*self, prefix.to_vec(), prefix.to_vec(), source)
    }
}

/// Where the pages of a volume's trees end.
struct Boundaries {
    key: [u8; 32],
}

impl Boundaries {
    fn new(keys: &VolumeKeys) -> Self {
        let key = blake3::derive_key(BOUNDARY_CONTEXT, keys.id_key());
        Self { key }
    }

    /// Whether a page of this level ends with this key: one key in 64 ends a leaf, one of 64
    /// of those also the page above, and so on.
    fn ends_page(&self, key: &[u8], level: u8) -> bool {
        let hash = blake3::keyed_hash(&self.key, key);
        let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
        let zeros = u64::from_le_bytes([a, b, c, d, e, f, g, h]).trailing_zeros();
        zeros >= 6 * (u32::from(level) + 1)
    }
}

#[cfg(test)]
mod tests;

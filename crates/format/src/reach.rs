//! What a page refers to: how everything that a commit needs is found without knowing what it is for.
//!
//! A deleted node keeps its content in the tree, so that it can be undone; but a commit needs it
//! only as far as a commit before it does. So it does not count here.

use larder_model::{ChunkId, Content, Extent};

use crate::tree::{self, TreeKind};
use crate::{Commit, FormatError, PageKind, decode_node, list};

/// What a page refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    /// Pages, which refer to more.
    pub pages: Vec<ChunkId>,
    /// Chunks of files.
    pub chunks: Vec<ChunkId>,
}

impl References {
    /// What a page of a tree or a list refers to, or a commit, but for its parents.
    ///
    /// # Errors
    /// If it is no page, or damaged.
    pub fn of_page(page: &[u8]) -> Result<Self, FormatError> {
        let mut found = Self::default();
        let letter = page.first().copied();
        match PageKind::ALL
            .into_iter()
            .find(|kind| Some(kind.letter()) == letter)
        {
            Some(PageKind::Commit) => {
                let commit = Commit::decode(page)?;
                found.pages = vec![commit.nodes, commit.names];
            }
            Some(PageKind::Nodes) => {
                found.pages = tree::references(page)?;
                tree::leaf_values(TreeKind::Nodes, page, |value| found.add_node(value))?;
            }
            Some(PageKind::Names) => found.pages = tree::references(page)?,
            Some(PageKind::Value) => {
                if let Some(value) = tree::own_value(TreeKind::Nodes, page)? {
                    found.add_node(value)?;
                }
            }
            Some(PageKind::List) => match list::children(page)? {
                list::Children::Pages(pages) => found.pages = pages,
                list::Children::Extents(extents) => found.add_extents(&extents),
            },
            None => {
                return Err(FormatError::Damaged {
                    what: "page",
                    why: "it begins with a letter that no page has",
                });
            }
        }
        Ok(found)
    }

    /// What a file's content refers to.
    pub fn of_content(content: &Content) -> Self {
        let mut found = Self::default();
        found.add_content(content);
        found
    }

    fn add_node(&mut self, value: &[u8]) -> Result<(), FormatError> {
        let node = decode_node(value)?;
        if node.is_alive() {
            // Of contents that stand side by side each is somebody's.
            node.content
                .0
                .iter()
                .for_each(|valued| self.add_content(&valued.value));
        }
        Ok(())
    }

    fn add_content(&mut self, content: &Content) {
        match content {
            Content::Extents(extents) => self.add_extents(extents),
            Content::List { root, .. } => self.pages.push(*root),
            Content::None | Content::Target(_) => {}
        }
    }

    fn add_extents(&mut self, extents: &[Extent]) {
        let chunks = extents.iter().filter_map(|extent| match extent {
            Extent::Chunk { id, .. } => Some(*id),
            Extent::Hole { .. } => None,
        });
        self.chunks.extend(chunks);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use larder_model::{Dot, NodeId, Register, ReplicaId, Valued};

    use super::*;
    use crate::testing::{Pages, keys};
    use crate::tree::{Change, Tree, node_key};
    use crate::{ListWriter, PageSource, encode_node};

    fn chunk(n: u64) -> Extent {
        let id = keys().chunk_id(&n.to_le_bytes());
        Extent::Chunk { id, len: 5 }
    }

    fn dot(commit: u64) -> Dot {
        Dot {
            replica: ReplicaId([1; 32]),
            commit,
        }
    }

    fn node(contents: &[Content], xattr_bytes: usize) -> larder_model::Node {
        let mut node = larder_model::Node::without_values(larder_model::Kind::File);
        node.claim(dot(1));
        let mut attrs = larder_model::Attrs::default();
        attrs
            .xattrs
            .insert(b"user.x".to_vec(), vec![7; xattr_bytes]);
        node.write_attrs(attrs, dot(1));
        let valued = contents.iter().zip(1..).map(|(content, commit)| Valued {
            value: content.clone(),
            dots: [dot(commit)].into(),
        });
        node.content = Register(valued.collect());
        node
    }

    /// Everything from these pages on.
    fn all(pages: &mut Pages, from: Vec<ChunkId>) -> BTreeSet<ChunkId> {
        let (mut seen, mut waiting) = (BTreeSet::new(), from);
        while let Some(id) = waiting.pop() {
            if seen.insert(id) {
                let page = pages.page(&id).unwrap();
                let found = References::of_page(page.as_ref()).unwrap();
                seen.extend(found.chunks);
                waiting.extend(found.pages);
            }
        }
        seen
    }

    #[test]
    fn all_that_the_living_hold_is_found_and_nothing_of_the_dead() {
        let mut pages = Pages::default();
        let volume_keys = keys();
        let mut list = ListWriter::new(&volume_keys);
        let mut sink = |id, bytes| -> Result<(), FormatError> {
            pages.map.insert(id, bytes);
            Ok(())
        };
        for n in 1000..3000 {
            list.push(chunk(n), &mut sink).unwrap();
        }
        let long = list.finish(&mut sink).unwrap();
        let list_pages = pages.map.len();
        assert!(list_pages > 10);
        let mut nodes = std::collections::BTreeMap::new();
        for n in 0..500u64 {
            let mut id = [0; 16];
            id[8..].copy_from_slice(&n.to_be_bytes());
            let short = Content::Extents(vec![chunk(n), Extent::Hole { len: 3 }]);
            let node = match n {
                // One with a page of its own, one with two contents, one that is deleted.
                7 => node(&[short], 6000),
                8 => node(&[short, long.clone()], 0),
                9 => {
                    let mut gone = node(&[short], 0);
                    gone.delete(dot(2));
                    gone
                }
                _ => node(&[short], 0),
            };
            nodes.insert(node_key(&NodeId(id)), encode_node(&node).unwrap());
        }
        let changes = nodes.into_iter().map(|(key, value)| {
            let value = Some(value);
            Ok::<_, FormatError>(Change { key, value })
        });
        let tree = Tree::build(&keys(), TreeKind::Nodes, changes, &mut pages).unwrap();
        let found = all(&mut pages, vec![tree.root]);
        let Extent::Chunk { id: dead, .. } = chunk(9) else {
            panic!("a chunk");
        };
        assert!(!found.contains(&dead));
        let chunks = 499 + 2000;
        assert_eq!(found.len(), pages.map.len() + chunks);
    }

    #[test]
    fn what_is_no_page_is_refused() {
        assert!(References::of_page(b"").is_err());
        assert!(References::of_page(b"x\x01").is_err());
        assert!(References::of_page(b"n\x02").is_err());
    }
}

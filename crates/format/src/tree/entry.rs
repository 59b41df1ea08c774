//! What the two trees map: the shapes of their keys, and the values of the tree of names.

use larder_model::{Kind, LinkId, Name, NodeId};

use crate::node::read_name;
use crate::wire::{Reader, put_varint};
use crate::{FormatError, PageKind, kind_code, kind_from_code};

type Result<T> = std::result::Result<T, FormatError>;

/// The key of a node in the tree of nodes: its id.
pub fn node_key(id: &NodeId) -> Vec<u8> {
    id.as_bytes().to_vec()
}

/// The node of a key of the tree of nodes.
///
/// # Errors
/// If it is no such key.
pub fn parse_node_key(key: &[u8]) -> Result<NodeId> {
    NodeId::from_slice(key).ok_or(FormatError::Damaged {
        what: PageKind::Nodes.noun(),
        why: "a key in it is no node id",
    })
}

/// The key of an entry of a directory in the tree of names: the directory's id, the name.
pub fn name_key(parent: &NodeId, name: &Name) -> Vec<u8> {
    [parent.as_bytes(), name.as_bytes()].concat()
}

/// The directory and the name of a key of the tree of names.
///
/// # Errors
/// If it is no such key.
pub fn parse_name_key(key: &[u8]) -> Result<(NodeId, Name)> {
    let mut reader = Reader::new(PageKind::Names.noun(), key);
    let parent = NodeId(reader.array()?);
    let name = read_name(&mut reader, |reader| Ok(reader.rest()))?;
    Ok((parent, name))
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameEntry {
    /// The node.
    pub node: NodeId,
    /// By which of its links.
    pub link: LinkId,
    /// What the node is, so that a directory is listed without reading its nodes.
    pub kind: Kind,
}

/// The value of a name in the tree of names.
pub fn encode_name_entry(entry: &NameEntry) -> Vec<u8> {
    let mut out = vec![kind_code(entry.kind)];
    out.extend_from_slice(entry.node.as_bytes());
    put_varint(&mut out, entry.link.0);
    out
}

/// Reads the value of a name.
///
/// # Errors
/// If the bytes are not one.
pub fn decode_name_entry(bytes: &[u8]) -> Result<NameEntry> {
    let mut reader = Reader::new(PageKind::Names.noun(), bytes);
    let kind = reader.u8()?;
    let entry = NameEntry {
        kind: kind_from_code(kind)
            .ok_or_else(|| reader.damaged("a name stands for an unknown kind"))?,
        node: NodeId(reader.array()?),
        link: LinkId(reader.varint()?),
    };
    reader.finish()?;
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_of_the_tree_of_names_are_read_back() {
        let (parent, name) = (NodeId([7; 16]), Name::new("naïve").unwrap());
        let key = name_key(&parent, &name);
        assert_eq!(parse_name_key(&key), Ok((parent, name)));
        for key in [&key[..15], &key[..16], &[&key[..16], b"a/b"].concat()] {
            assert!(parse_name_key(key).is_err());
        }
        let entry = NameEntry {
            node: NodeId([8; 16]),
            link: LinkId(u64::MAX),
            kind: Kind::Symlink,
        };
        let bytes = encode_name_entry(&entry);
        assert_eq!(decode_name_entry(&bytes), Ok(entry));
        assert!((0..bytes.len()).all(|at| decode_name_entry(&bytes[..at]).is_err()));
    }
}

//! The tree as one commit has it.

use std::collections::HashMap;

use larder_format::tree::{
    NameEntry, Tree, TreeKind, decode_name_entry, name_key, node_key, parse_name_key,
};
use larder_format::{Commit, decode_node};
use larder_model::{ChunkId, Kind, Name, Node, NodeId, Place};

use crate::{Result, Volume, VolumeError};

/// No tree is deeper; one that says so runs in a circle.
const DEPTH_MAX: usize = 65_536;

/// The tree of one commit. Reading it fetches its pages only.
pub(crate) struct Past<'a> {
    volume: &'a Volume,
    nodes: Tree,
    names: Tree,
    /// The paths of directories, as far as they were asked for.
    paths: HashMap<NodeId, Vec<u8>>,
}

impl<'a> Past<'a> {
    pub(crate) fn new(volume: &'a Volume, commit: &Commit) -> Self {
        Self {
            volume,
            nodes: Tree {
                kind: TreeKind::Nodes,
                root: commit.nodes,
            },
            names: Tree {
                kind: TreeKind::Names,
                root: commit.names,
            },
            paths: HashMap::from([(NodeId::ROOT, Vec::new())]),
        }
    }

    pub(crate) fn nodes(&self) -> &Tree {
        &self.nodes
    }

    /// A node, alive or deleted; `None` if it was not made yet.
    pub(crate) fn node(&self, id: &NodeId) -> Result<Option<Node>> {
        let mut pages = |id: &ChunkId| self.volume.tree_page(id);
        let value = self.nodes.get(&node_key(id), &mut pages)?;
        Ok(value.map(|bytes| decode_node(&bytes)).transpose()?)
    }

    /// What a name in a directory stands for.
    pub(crate) fn entry(&self, parent: &NodeId, name: &Name) -> Result<Option<NameEntry>> {
        let mut pages = |id: &ChunkId| self.volume.tree_page(id);
        let value = self.names.get(&name_key(parent, name), &mut pages)?;
        Ok(value.map(|bytes| decode_name_entry(&bytes)).transpose()?)
    }

    /// The names in a directory, in order.
    pub(crate) fn entries(&self, directory: &NodeId) -> Result<Vec<(Name, NameEntry)>> {
        let pages = |id: &ChunkId| self.volume.tree_page(id);
        let entries = self.names.scan_prefix(directory.as_bytes(), pages);
        entries
            .map(|entry| {
                let (key, value) = entry?;
                let (_, name) = parse_name_key(&key)?;
                Ok((name, decode_name_entry(&value)?))
            })
            .collect()
    }

    /// The node at a path from the root, as bytes with `/` between; `None` if there is none.
    pub(crate) fn resolve(&self, path: &[u8]) -> Result<Option<NodeId>> {
        let mut at = NodeId::ROOT;
        let mut kind = Kind::Directory;
        for part in path.split(|&byte| byte == b'/').filter(|p| !p.is_empty()) {
            if kind != Kind::Directory {
                return Ok(None);
            }
            let Ok(name) = Name::new(part) else {
                return Ok(None);
            };
            let Some(entry) = self.entry(&at, &name)? else {
                return Ok(None);
            };
            (at, kind) = (entry.node, entry.kind);
        }
        Ok(Some(at))
    }

    /// The path of a place, from the root.
    pub(crate) fn path(&mut self, place: &Place) -> Result<Vec<u8>> {
        let mut path = self.directory(place.parent)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(place.name.as_bytes());
        Ok(path)
    }

    /// The path of a directory; of one that was deleted, where it was last.
    pub(crate) fn directory(&mut self, id: NodeId) -> Result<Vec<u8>> {
        let mut above: Vec<(NodeId, Name)> = Vec::new();
        let mut at = id;
        let mut path = loop {
            if let Some(known) = self.paths.get(&at) {
                break known.clone();
            }
            let node = self.node(&at)?;
            let link = node.as_ref().and_then(Node::latest_link);
            let Some((_, link)) = link.filter(|_| above.len() < DEPTH_MAX) else {
                return Err(VolumeError::Damaged(format!(
                    "directory {at} of a commit's tree is not in any directory"
                )));
            };
            above.push((at, link.place.name.clone()));
            at = link.place.parent;
        };
        for (id, name) in above.into_iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
            self.paths.insert(id, path.clone());
        }
        Ok(path)
    }
}

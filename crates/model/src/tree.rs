//! Looking into a tree of nodes, wherever it is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use crate::{Clock, LinkId, Name, Node, NodeId};

/// An entry of a directory: a name, the node, and by which of its links.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The name.
    pub name: Name,
    /// The node of that name.
    pub node: NodeId,
    /// The link.
    pub link: LinkId,
}

/// A tree that can be asked for a node and for what a directory has. Names are those of live
/// nodes (`Node::names`), whatever became of the directory.
pub trait Tree {
    /// Why it cannot be read.
    type Error;

    /// The node, deleted ones too.
    ///
    /// # Errors
    /// If the tree cannot be read.
    fn node(&mut self, id: &NodeId) -> Result<Option<Arc<Node>>, Self::Error>;

    /// The entries of that name: one at most in a tree in order.
    ///
    /// # Errors
    /// If the tree cannot be read.
    fn named(&mut self, parent: &NodeId, name: &Name) -> Result<Vec<Entry>, Self::Error>;

    /// All entries of a directory.
    ///
    /// # Errors
    /// If the tree cannot be read.
    fn children(&mut self, parent: &NodeId) -> Result<Vec<Entry>, Self::Error>;
}

/// Nodes in memory, with an index of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Nodes {
    nodes: BTreeMap<NodeId, Arc<Node>>,
    names: BTreeSet<(NodeId, Entry)>,
}

/// A volume's state: every node, and what is included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The nodes.
    pub nodes: Nodes,
    /// What they include.
    pub clock: Clock,
}

impl Nodes {
    /// The node.
    pub fn get(&self, id: &NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    /// All nodes, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&NodeId, &Arc<Node>)> {
        self.nodes.iter()
    }

    /// Puts a node in, or takes it out.
    pub fn set(&mut self, id: NodeId, node: Option<Arc<Node>>) {
        if let Some(before) = self.nodes.remove(&id) {
            for named in names_of(id, &before) {
                self.names.remove(&named);
            }
        }
        if let Some(node) = node {
            self.names.extend(names_of(id, &node));
            self.nodes.insert(id, node);
        }
    }

    /// The entries of that name.
    pub fn named(&self, parent: &NodeId, name: &Name) -> impl Iterator<Item = &Entry> {
        let first = Entry {
            name: name.clone(),
            node: NodeId([0; 16]),
            link: LinkId(0),
        };
        let wanted = name.clone();
        self.names
            .range((*parent, first)..)
            .take_while(move |(at, entry)| at == parent && entry.name == wanted)
            .map(|(_, entry)| entry)
    }

    /// All entries of a directory, by name.
    pub fn children(&self, parent: NodeId) -> impl Iterator<Item = &Entry> {
        // No name is less than this one, and none equals it: it is not valid.
        let first = Entry {
            name: Name::least(),
            node: NodeId([0; 16]),
            link: LinkId(0),
        };
        self.names
            .range((Bound::Included((parent, first)), Bound::Unbounded))
            .take_while(move |(at, _)| *at == parent)
            .map(|(_, entry)| entry)
    }
}

fn names_of(id: NodeId, node: &Node) -> impl Iterator<Item = (NodeId, Entry)> {
    node.names().map(move |(link, at)| {
        let entry = Entry {
            name: at.place.name.clone(),
            node: id,
            link,
        };
        (at.place.parent, entry)
    })
}

impl FromIterator<(NodeId, Arc<Node>)> for Nodes {
    fn from_iter<I: IntoIterator<Item = (NodeId, Arc<Node>)>>(nodes: I) -> Self {
        let mut all = Self::default();
        for (id, node) in nodes {
            all.set(id, Some(node));
        }
        all
    }
}

impl Tree for &Nodes {
    type Error = Infallible;

    fn node(&mut self, id: &NodeId) -> Result<Option<Arc<Node>>, Infallible> {
        Ok(self.get(id).cloned())
    }

    fn named(&mut self, parent: &NodeId, name: &Name) -> Result<Vec<Entry>, Infallible> {
        Ok(Nodes::named(self, parent, name).cloned().collect())
    }

    fn children(&mut self, parent: &NodeId) -> Result<Vec<Entry>, Infallible> {
        Ok(Nodes::children(self, *parent).cloned().collect())
    }
}

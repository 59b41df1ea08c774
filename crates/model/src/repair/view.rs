//! The tree before the join, with what the join and repair made of it laid over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Naming;
use crate::conflict_name::{Mark, conflict_name};
use crate::{
    Change, Dot, Entry, Hlc, Kind, Life, Link, LinkId, Name, Node, NodeId, Nodes, Place, ReplicaId,
    Touched, Tree, Write,
};

/// Stands for the dot that the changes will get: only values are compared here.
const NO_DOT: Dot = Dot {
    replica: ReplicaId([0; 32]),
    commit: 0,
};

pub(super) struct View<'a, T> {
    tree: T,
    pub(super) naming: &'a Naming<'a>,
    /// The nodes that are laid over, as the join left them.
    joined: BTreeMap<NodeId, Option<Arc<Node>>>,
    /// The same nodes as they are now.
    now: Nodes,
    /// Whose version a new conflict copy is.
    authors: BTreeMap<NodeId, ReplicaId>,
}

impl<'a, T: Tree> View<'a, T> {
    pub(super) fn new(tree: T, touched: &Touched, naming: &'a Naming<'a>) -> Self {
        let nodes = touched.nodes.iter();
        Self {
            tree,
            naming,
            joined: touched.nodes.clone(),
            now: nodes
                .filter_map(|(&id, node)| Some((id, node.clone()?)))
                .collect(),
            authors: BTreeMap::new(),
        }
    }

    pub(super) fn node(&mut self, id: &NodeId) -> Result<Option<Arc<Node>>, T::Error> {
        if self.joined.contains_key(id) {
            return Ok(self.now.get(id).cloned());
        }
        self.tree.node(id)
    }

    /// The nodes of a name, in the order of their ids.
    pub(super) fn named(
        &mut self,
        parent: &NodeId,
        name: &Name,
    ) -> Result<BTreeSet<Entry>, T::Error> {
        let before = self.tree.named(parent, name)?;
        let here = self.now.named(parent, name).cloned();
        Ok(overlay(&self.joined, before, here))
    }

    /// The entries of a directory, in the order of their names.
    pub(super) fn children(&mut self, parent: NodeId) -> Result<BTreeSet<Entry>, T::Error> {
        let before = self.tree.children(&parent)?;
        let here = self.now.children(parent).cloned();
        Ok(overlay(&self.joined, before, here))
    }

    pub(super) fn write(&mut self, id: NodeId, write: &Write) -> Result<(), T::Error> {
        if !self.joined.contains_key(&id) {
            let node = self.tree.node(&id)?;
            self.now.set(id, node.clone());
            self.joined.insert(id, node);
        }
        let node = self.now.get(&id).map(|node| node.as_ref().clone());
        self.now.set(id, write.apply(node, NO_DOT).map(Arc::new));
        Ok(())
    }

    /// Writes where a link is, one tick after it came to where it was.
    pub(super) fn place(
        &mut self,
        id: NodeId,
        link: LinkId,
        was: Hlc,
        place: Place,
        present: bool,
    ) -> Result<(), T::Error> {
        let time = Hlc(was.0.saturating_add(1));
        let value = Link {
            place,
            present,
            time,
        };
        self.write(id, &Write::Link(link, value))
    }

    pub(super) fn write_life(&mut self, id: NodeId, life: Life) -> Result<(), T::Error> {
        self.write(id, &Write::Life(life))
    }

    pub(super) fn set_author(&mut self, copy: NodeId, author: Option<ReplicaId>) {
        self.authors.extend(author.map(|author| (copy, author)));
    }

    /// A conflict name for a link that nothing has in that directory.
    pub(super) fn free_name(
        &mut self,
        parent: &NodeId,
        id: NodeId,
        link: LinkId,
        kind: Kind,
        at: &Link,
    ) -> Result<Name, T::Error> {
        let author = self.author(id, link)?;
        let replica = author.map_or_else(String::new, |author| (self.naming.replica)(&author));
        let mut tag: Option<String> = None;
        loop {
            let mark = Mark {
                replica: &replica,
                time: at.time,
                tag: tag.as_deref(),
            };
            let name = conflict_name(&at.place.name, kind, mark);
            if self.named(parent, &name)?.is_empty() {
                return Ok(name);
            }
            tag = Some(next_tag(id, link, tag.as_deref()));
        }
    }

    /// Who put the link where it is, as the join left it.
    fn author(&mut self, id: NodeId, link: LinkId) -> Result<Option<ReplicaId>, T::Error> {
        if let Some(author) = self.authors.get(&id) {
            return Ok(Some(*author));
        }
        let joined = match self.joined.get(&id) {
            Some(node) => node.clone(),
            None => self.tree.node(&id)?,
        };
        let Some(node) = joined else {
            return Ok(None);
        };
        let Some(register) = node.links.get(&link) else {
            return Ok(None);
        };
        let read = node.link(link);
        let written = register.0.iter().filter(|v| Some(&v.value) == read);
        let last = written.flat_map(|valued| &valued.dots).max();
        Ok(last.map(|dot| dot.replica))
    }

    /// What differs from what the join left.
    pub(super) fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for (&id, joined) in &self.joined {
            if let Some(now) = self.now.get(&id) {
                let writes = writes(joined.as_deref(), now);
                changes.extend(writes.into_iter().map(|write| Change { node: id, write }));
            }
        }
        changes
    }
}

fn overlay(
    joined: &BTreeMap<NodeId, Option<Arc<Node>>>,
    before: Vec<Entry>,
    here: impl Iterator<Item = Entry>,
) -> BTreeSet<Entry> {
    let before = before.into_iter();
    before
        .filter(|entry| !joined.contains_key(&entry.node))
        .chain(here)
        .collect()
}

/// Tells a node from others of its name: by the end of its id, then by its link, then by a number.
fn next_tag(id: NodeId, link: LinkId, last: Option<&str>) -> String {
    let id = id.to_string();
    let short = id.get(24..).unwrap_or(&id);
    let linked = format!("{id}-{:x}", link.0);
    match last {
        None => short.to_owned(),
        Some(last) if last == short => linked,
        Some(last) => {
            let number = last.strip_prefix(&linked).and_then(|n| n.strip_prefix('-'));
            let number: u64 = number.and_then(|n| n.parse().ok()).unwrap_or(0);
            format!("{linked}-{}", number + 1)
        }
    }
}

fn writes(joined: Option<&Node>, now: &Node) -> Vec<Write> {
    let mut writes = Vec::new();
    if joined.is_none() {
        writes.push(Write::New(now.kind));
    }
    if !joined.is_some_and(|node| node.life.says_the_same(&now.life)) {
        let life = match now.is_alive() {
            true => Life::Alive,
            false => Life::Deleted,
        };
        writes.push(Write::Life(life));
    }
    for (id, register) in &now.links {
        let before = joined.and_then(|node| node.links.get(id));
        if !before.is_some_and(|before| before.says_the_same(register))
            && let Some(link) = now.link(*id)
        {
            writes.push(Write::Link(*id, link.clone()));
        }
    }
    if !joined.is_some_and(|node| node.attrs.says_the_same(&now.attrs))
        && let Some(attrs) = now.attrs()
    {
        writes.push(Write::Attrs(attrs.clone()));
    }
    if !joined.is_some_and(|node| node.content.says_the_same(&now.content))
        && let Some(content) = now.content()
    {
        writes.push(match joined {
            Some(_) => Write::Keep(content.clone()),
            None => Write::Content(content.clone()),
        });
    }
    writes
}

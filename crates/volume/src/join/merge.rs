//! Two committed trees become the one that includes both. Nothing is written.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use larder_format::tree::{
    self, Tree, decode_name_entry, name_key, node_key, parse_name_key, parse_node_key,
};
use larder_format::{Commit, PageSource, decode_node, object_hash};
use larder_model::{
    Change, ChunkId, Clock, Entry, Kind, Name, Naming, Node, NodeId, ReplicaId, Side, Touched,
    Write, join, repair,
};
use rusqlite::Connection;

use crate::pull::Found;
use crate::push::{
    Beside, Draft, Fetched, Pages, base_commit, beside, draft_of_join, next_number, trees_of,
};
use crate::{Result, Volume, VolumeError};

/// What a join comes to, if nothing changes here before it is applied.
#[derive(Debug)]
pub(crate) struct Merged {
    /// The base commit that it starts from.
    pub(crate) from: ChunkId,
    /// The base commit that it makes.
    pub(crate) base: NewBase,
    /// What stands beside that, and is included.
    pub(crate) beside: Vec<ChunkId>,
    /// The nodes that change here.
    pub(crate) changes: Vec<Changed>,
    /// Pages that the table of pages needs from now on, and does not any more.
    pub(crate) pages: Fetched,
    pub(crate) left: Vec<ChunkId>,
    /// Nodes that repair made or renamed: what was changed on both sides.
    pub(crate) conflicts: Vec<NodeId>,
    /// How many files the base commit has.
    pub(crate) files: u64,
}

impl Merged {
    /// How many nodes go.
    pub(crate) fn gone(&self) -> u64 {
        let is_alive = |node: &Option<Arc<Node>>| node.as_ref().is_some_and(|node| node.is_alive());
        let goes = |changed: &&Changed| is_alive(&changed.before) && !is_alive(&changed.after);
        self.changes.iter().filter(goes).count() as u64
    }
}

/// The commit that the next one is based on.
#[derive(Debug)]
pub(crate) enum NewBase {
    /// The one of before.
    Ours,
    /// Theirs, encoded.
    Theirs(Vec<u8>),
    /// A new one.
    Made(Box<Draft>),
}

/// A node that changes: as the base has it, and as it becomes.
#[derive(Debug, Clone)]
pub(crate) struct Changed {
    pub(crate) id: NodeId,
    pub(crate) before: Option<Arc<Node>>,
    pub(crate) after: Option<Arc<Node>>,
}

impl Changed {
    /// Whether the node of before gives way to another: its content is another one, or it is gone.
    /// Directories keep their numbers.
    pub(crate) fn is_replaced(&self) -> bool {
        let Some(before) = self.before.as_deref().filter(|node| node.is_alive()) else {
            return false;
        };
        match self.after.as_deref().filter(|node| node.is_alive()) {
            Some(after) => before.kind != Kind::Directory && before.content() != after.content(),
            None => true,
        }
    }
}

/// What a node is in the two trees.
type Both = (Option<Arc<Node>>, Option<Arc<Node>>);

/// Joins `other` with the base commit; `None` if that includes it. `fetched` has the pages of its
/// trees that the database lacks.
///
/// # Errors
/// If a page is damaged or cannot be had, or the database fails.
pub(crate) fn merge(
    volume: &Volume,
    connection: &Connection,
    other: &Found,
    fetched: Fetched,
) -> Result<Option<Merged>> {
    let Some((from, ours)) = base_commit(volume, connection)? else {
        return Err(VolumeError::State(
            "nothing was committed here yet".to_owned(),
        ));
    };
    let already = beside(connection)?;
    let mut included = ours.clock.clone();
    included.join(&Beside::new(&already).clock);
    let theirs = &other.commit;
    if included.includes(&theirs.clock) {
        return Ok(None);
    }
    let pages = RefCell::new(Pages::new(volume, connection, Some(&fetched)));
    let differing = differing(&pages, &ours, theirs)?;
    let mut touched = Touched::default();
    for (id, (a, b)) in &differing {
        let (a, b) = (a.as_ref(), b.as_ref());
        let ours = Side {
            has: &a,
            clock: &included,
        };
        let theirs = Side {
            has: &b,
            clock: &theirs.clock,
        };
        touched.take(*id, a, join(ours, theirs));
    }
    let [nodes, names] = trees_of(&ours);
    let committed = Committed {
        nodes,
        names,
        pages: &pages,
    };
    let label = |replica: &ReplicaId| label(replica);
    let naming = Naming {
        replica: &label,
        hash: &object_hash,
    };
    let repairs = repair(&committed, &touched, &naming)?;
    let mut all = included.clone();
    all.join(&theirs.clock);
    let n = next_number(volume, connection, &all)?;
    let dot = larder_model::Dot {
        replica: volume.replica().id(),
        commit: n,
    };
    let mut after = touched.nodes;
    for Change { node, write } in &repairs {
        let now = match after.get(node) {
            Some(now) => now.clone(),
            None => committed.get(node)?,
        };
        let now = write.apply(now.as_deref().cloned(), dot);
        after.insert(*node, now.map(Arc::new));
    }
    let mut changes = Vec::with_capacity(after.len());
    for (id, after) in after {
        let before = match differing.get(&id) {
            Some((before, _)) => before.clone(),
            None => committed.get(&id)?,
        };
        if before != after {
            changes.push(Changed { id, before, after });
        }
    }
    let is_theirs = repairs.is_empty() && is_as_theirs(&differing, &changes);
    // A commit that includes all that is included here is followed, also when the trees are the same:
    // so the history has what stood beside.
    let is_ahead = theirs.clock.includes(&included);
    let mut beside: Vec<(ChunkId, Commit)> = already;
    let base = if changes.is_empty() && !(is_theirs && is_ahead) {
        beside.push((other.id, theirs.clone()));
        NewBase::Ours
    } else if is_theirs {
        beside.retain(|(_, commit)| !theirs.clock.includes(&commit.clock));
        if !theirs.clock.includes(&ours.clock) {
            beside.push((from, ours.clone()));
        }
        NewBase::Theirs(other.bytes.clone())
    } else {
        beside.push((other.id, theirs.clone()));
        let put = changes.iter().map(|changed| {
            let Changed { id, before, after } = changed;
            (*id, before.as_deref(), after.as_deref())
        });
        let base = (from, ours.clone());
        let beside_it = Beside::new(&beside);
        let draft = draft_of_join(volume, connection, &fetched, base, beside_it, n, put)?;
        beside.clear();
        NewBase::Made(Box::new(draft))
    };
    let left = match &base {
        NewBase::Theirs(_) => left_pages(&pages, &ours, theirs, &fetched)?,
        NewBase::Ours | NewBase::Made(_) => Vec::new(),
    };
    let conflicts = conflicts(&repairs);
    drop(pages);
    let mut keep = match &base {
        NewBase::Theirs(_) => fetched,
        NewBase::Ours | NewBase::Made(_) => Fetched::new(),
    };
    // What stands beside the base is read from there.
    keep.insert(other.id, other.bytes.clone());
    keep.insert(from, ours.encode()?);
    Ok(Some(Merged {
        from,
        base,
        beside: beside.into_iter().map(|(id, _)| id).collect(),
        changes,
        pages: keep,
        left,
        conflicts,
        files: ours.files,
    }))
}

/// The nodes in which the two trees differ.
fn differing(
    pages: &RefCell<Pages<'_>>,
    ours: &Commit,
    theirs: &Commit,
) -> Result<BTreeMap<NodeId, Both>> {
    let ([ours, _], [nodes, _]) = (trees_of(ours), trees_of(theirs));
    let mut differing = BTreeMap::new();
    let mut read = |id: &ChunkId| pages.borrow_mut().page(id);
    tree::diff(&ours, &nodes, &mut read, |difference| {
        let id = parse_node_key(difference.key)?;
        let node = |bytes: Option<&[u8]>| -> Result<Option<Arc<Node>>> {
            Ok(bytes.map(decode_node).transpose()?.map(Arc::new))
        };
        let (a, b) = (node(difference.old)?, node(difference.new)?);
        if let Some(b) = &b {
            refuse_unknown_dots(b, &theirs.clock, &id)?;
        }
        differing.insert(id, (a, b));
        Ok(())
    })?;
    Ok(differing)
}

/// What a commit's clock does not include cannot be in its tree: others would take it for deleted.
fn refuse_unknown_dots(node: &Node, clock: &Clock, id: &NodeId) -> Result<()> {
    match node.dots().find(|dot| !clock.covers(dot)) {
        None => Ok(()),
        Some(dot) => Err(VolumeError::Damaged(format!(
            "node {id} of another replica's tree was written in commit {} of {}, which that tree \
             does not include",
            dot.commit, dot.replica
        ))),
    }
}

/// Whether all that changes becomes what it is in their tree, and all else is the same there.
fn is_as_theirs(differing: &BTreeMap<NodeId, Both>, changes: &[Changed]) -> bool {
    let all_differ = changes.len() == differing.len();
    all_differ
        && changes.iter().all(|changed| {
            let theirs = differing.get(&changed.id).map(|(_, theirs)| theirs);
            theirs == Some(&changed.after)
        })
}

/// Nodes that repair made, renamed or moved.
fn conflicts(repairs: &[Change]) -> Vec<NodeId> {
    let is_seen = |write: &Write| matches!(write, Write::New(_) | Write::Link(..));
    let mut nodes: Vec<_> = repairs
        .iter()
        .filter(|change| is_seen(&change.write))
        .map(|change| change.node)
        .collect();
    nodes.dedup();
    nodes
}

/// The pages of our trees that theirs have not: each page that they share is the root of one, or
/// stands below a page that was fetched, and with it all below it.
fn left_pages(
    pages: &RefCell<Pages<'_>>,
    ours: &Commit,
    theirs: &Commit,
    fetched: &Fetched,
) -> Result<Vec<ChunkId>> {
    let mut shared = HashSet::from([theirs.nodes, theirs.names]);
    for bytes in fetched.values() {
        shared.extend(tree::references(bytes)?);
    }
    let (mut left, mut waiting) = (Vec::new(), vec![ours.nodes, ours.names]);
    let mut seen = HashSet::new();
    while let Some(id) = waiting.pop() {
        if shared.contains(&id) || fetched.contains_key(&id) || !seen.insert(id) {
            continue;
        }
        let bytes = pages.borrow_mut().page(&id)?;
        waiting.extend(tree::references(&bytes)?);
        left.push(id);
    }
    Ok(left)
}

/// What a replica is called in the names of conflict copies: the first digits of its id.
fn label(replica: &ReplicaId) -> String {
    replica.to_string().chars().take(8).collect()
}

/// The base commit's tree, as repair looks into it.
struct Committed<'a, 'b> {
    nodes: Tree,
    names: Tree,
    pages: &'a RefCell<Pages<'b>>,
}

impl Committed<'_, '_> {
    fn get(&self, id: &NodeId) -> Result<Option<Arc<Node>>> {
        let mut read = |id: &ChunkId| self.pages.borrow_mut().page(id);
        let found = self.nodes.get(&node_key(id), &mut read)?;
        Ok(found
            .map(|bytes| decode_node(&bytes))
            .transpose()?
            .map(Arc::new))
    }
}

impl larder_model::Tree for &Committed<'_, '_> {
    type Error = VolumeError;

    fn node(&mut self, id: &NodeId) -> Result<Option<Arc<Node>>> {
        self.get(id)
    }

    fn named(&mut self, parent: &NodeId, name: &Name) -> Result<Vec<Entry>> {
        let mut read = |id: &ChunkId| self.pages.borrow_mut().page(id);
        let found = self.names.get(&name_key(parent, name), &mut read)?;
        let entry = found.map(|bytes| decode_name_entry(&bytes)).transpose()?;
        let entry = entry.map(|entry| Entry {
            name: name.clone(),
            node: entry.node,
            link: entry.link,
        });
        Ok(entry.into_iter().collect())
    }

    fn children(&mut self, parent: &NodeId) -> Result<Vec<Entry>> {
        let read = |id: &ChunkId| self.pages.borrow_mut().page(id);
        let entries = self.names.scan_prefix(parent.as_bytes(), read);
        entries
            .map(|entry| {
                let (key, value) = entry?;
                let (_, name) = parse_name_key(&key)?;
                let entry = decode_name_entry(&value)?;
                Ok(Entry {
                    name,
                    node: entry.node,
                    link: entry.link,
                })
            })
            .collect()
    }
}

//! The next commit, computed from one state of the database: the trees as they will be.
//!
//! It starts from the tree of the commit before and changes the nodes that are noted as
//! changed or gone. What a commit may not tell yet stays as it was there: the content of a
//! file whose new bytes are not stored, with the time of its last change. A new file none of
//! whose content is stored, and what a rule keeps local, is held back. A directory that the
//! tree does not have yet comes along with the first node in it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use larder_format::tree::{
    Change, Finder, NameEntry, Tree, TreeKind, encode_name_entry, name_key, node_key,
};
use larder_format::{Commit, PageSource, PageStore, VolumeKeys, decode_node, encode_node};
use larder_model::{ChunkId, Clock, Content, Dot, Hlc, Kind, LinkId, Node, NodeId, Time};
use rusqlite::{Connection, OptionalExtension};

use super::partial::choose;
use super::written::{Seen, write_deleted, write_node};
use crate::db::{Transaction, meta, set_meta};
use crate::{Ino, ROOT, Result, Volume, VolumeError};

/// The row of `meta` with the commits that are included beside the base commit, by id.
const BESIDE: &str = "beside";

/// A commit that is not durable yet.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) id: ChunkId,
    pub(crate) commit: Commit,
    /// The pages that the tree before did not have, the commit itself among them.
    pub(crate) pages: Vec<(ChunkId, Vec<u8>)>,
    /// The pages that only the tree before had.
    pub(crate) left: Vec<ChunkId>,
    /// Whether the trees differ from those before.
    pub(crate) differs: bool,
    pub(crate) taken: Taken,
}

/// What a commit takes from the database's notes of changes.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Nodes, with the number of the change that was taken.
    pub(super) nodes: Vec<(Ino, i64)>,
    /// Nodes that are held back, with the same.
    pub(super) held: Vec<(Ino, i64)>,
    /// Files whose content the commit reaches, with their generation.
    pub(super) files: Vec<(Ino, u64)>,
    /// Nodes that are gone, with the time.
    pub(super) gone: Vec<(NodeId, i64)>,
    /// Whether changes are left for another commit.
    pub(super) more: bool,
}

/// The commit whose tree the database has, if there is one.
///
/// # Errors
/// If the database fails or holds something else.
pub(crate) fn base_commit(
    volume: &Volume,
    connection: &Connection,
) -> Result<Option<(ChunkId, Commit)>> {
    let Some(bytes) = meta(connection, "commit")? else {
        return Ok(None);
    };
    let commit = Commit::decode(&bytes)?;
    Ok(Some((volume.keys.chunk_id(&bytes), commit)))
}

/// Makes `commit` (encoded) the one whose tree the database has; its pages must be in
/// `pages`, or be had from the store.
///
/// # Errors
/// If the database fails.
pub(crate) fn set_base_commit(tx: &Transaction<'_>, commit: &[u8]) -> Result<()> {
    set_meta(tx, "commit", commit)
}

/// Whether the latest commit has the node.
///
/// # Errors
/// If the database fails or is damaged.
pub(super) fn is_committed(volume: &Volume, connection: &Connection, ino: Ino) -> Result<bool> {
    let (Some((_, commit)), Some(id)) =
        (base_commit(volume, connection)?, node_id(connection, ino)?)
    else {
        return Ok(false);
    };
    let [nodes, _] = trees_of(&commit);
    let mut pages = Pages::new(volume, connection, None);
    Ok(nodes.get(&node_key(&id), &mut pages)?.is_some())
}

/// The commits that are included beside the base commit, and change nothing in its tree.
///
/// # Errors
/// If the database fails or is damaged.
pub(crate) fn beside(connection: &Connection) -> Result<Vec<(ChunkId, Commit)>> {
    let ids = meta(connection, BESIDE)?.unwrap_or_default();
    let mut page = connection.prepare_cached("SELECT bytes FROM pages WHERE id = ?1")?;
    ids.chunks(ChunkId::LEN)
        .map(|id| {
            let bytes: Vec<u8> = page.query_row([id], |row| row.get(0))?;
            let id = ChunkId::from_slice(id).ok_or_else(|| {
                VolumeError::Damaged("the database's list of commits is damaged".to_owned())
            })?;
            Ok((id, Commit::decode(&bytes)?))
        })
        .collect()
}

/// Notes which commits are included beside the base commit; their bytes must be in `pages`.
///
/// # Errors
/// If the database fails.
pub(crate) fn set_beside(tx: &Transaction<'_>, ids: &[ChunkId]) -> Result<()> {
    let ids: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
    set_meta(tx, BESIDE, &ids)
}

/// What a commit includes beside its base.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    /// Its other parents.
    pub(crate) parents: Vec<ChunkId>,
    /// What they include.
    pub(crate) clock: Clock,
    /// The latest time among theirs.
    pub(crate) time: Hlc,
}

impl Beside {
    /// All of these.
    pub(crate) fn new<'a>(commits: impl IntoIterator<Item = &'a (ChunkId, Commit)>) -> Self {
        let mut beside = Self::default();
        for (id, commit) in commits {
            beside.parents.push(*id);
            beside.clock.join(&commit.clock);
            beside.time = beside.time.max(commit.time);
        }
        beside
    }
}

/// The commit number `n` of this replica as it would be now, with at most `most_nodes`
/// changed nodes; if there are `paths`, with what is at and below these only. If that leaves some
/// of it for another commit, that one has the message.
///
/// # Errors
/// If the database fails or is damaged.
pub(super) fn draft(
    volume: &Volume,
    connection: &Connection,
    n: u64,
    message: Option<String>,
    most_nodes: u64,
    paths: &[Vec<u8>],
) -> Result<Draft> {
    let base = base_commit(volume, connection)?;
    let chosen = match paths {
        [] => None,
        paths => {
            let commit = base.as_ref().map(|(_, commit)| commit);
            Some(choose(volume, connection, commit, paths, most_nodes)?)
        }
    };
    let beside = Beside::new(&beside(connection)?);
    let pages = Pages::new(volume, connection, None);
    let mut drafting = Drafting::new(volume, connection, pages, base, beside, n);
    let Some(chosen) = chosen else {
        drafting.take_changes(most_nodes)?;
        drafting.take_gone(most_nodes)?;
        return drafting.finish(message);
    };
    drafting.take_these(chosen.nodes)?;
    drafting.take_these_gone(chosen.gone)?;
    drafting.taken.more = chosen.more;
    drafting.finish(message.filter(|_| !chosen.more))
}

/// The commit number `n` of this replica that includes its base and what stands beside it, and in
/// which these nodes changed: each as it is in the base, and as it becomes.
///
/// # Errors
/// If the database fails or is damaged.
pub(crate) fn draft_of_join<'a>(
    volume: &Volume,
    connection: &Connection,
    fetched: &Fetched,
    base: (ChunkId, Commit),
    beside: Beside,
    n: u64,
    changes: impl IntoIterator<Item = (NodeId, Option<&'a Node>, Option<&'a Node>)>,
) -> Result<Draft> {
    let pages = Pages::new(volume, connection, Some(fetched));
    let mut drafting = Drafting::new(volume, connection, pages, Some(base), beside, n);
    for (id, before, after) in changes {
        drafting.put(id, before, after)?;
    }
    drafting.finish(None)
}

/// The trees of nodes and of names of a commit.
pub(crate) fn trees_of(commit: &Commit) -> [Tree; 2] {
    [
        Tree {
            kind: TreeKind::Nodes,
            root: commit.nodes,
        },
        Tree {
            kind: TreeKind::Names,
            root: commit.names,
        },
    ]
}

struct Drafting<'a> {
    volume: &'a Volume,
    connection: &'a Connection,
    pages: Pages<'a>,
    /// The trees of nodes and of names before.
    trees: Option<[Tree; 2]>,
    nodes_before: Option<Finder<Arc<[u8]>>>,
    base: Option<(ChunkId, Commit)>,
    beside: Beside,
    dot: Dot,
    wall: Time,
    time: Hlc,
    nodes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    names_gone: Vec<(Vec<u8>, NodeId)>,
    names_set: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether the tree has, or will have, the directory.
    in_tree: HashMap<Ino, bool>,
    /// Files that are alive, and their bytes.
    count: (u64, u64),
    taken: Taken,
}

impl<'a> Drafting<'a> {
    fn new(
        volume: &'a Volume,
        connection: &'a Connection,
        pages: Pages<'a>,
        base: Option<(ChunkId, Commit)>,
        beside: Beside,
        n: u64,
    ) -> Self {
        let wall = crate::node::now();
        let commit = base.as_ref().map(|(_, commit)| commit);
        let before = commit.map_or(beside.time, |commit| commit.time.max(beside.time));
        let trees = commit.map(trees_of);
        Self {
            volume,
            connection,
            pages,
            trees,
            nodes_before: trees.map(|[nodes, _]| nodes.finder()),
            dot: Dot {
                replica: volume.replica().id(),
                commit: n,
            },
            wall,
            time: before.next(u64::try_from(wall.0).unwrap_or(0)),
            nodes: BTreeMap::new(),
            names_gone: Vec::new(),
            names_set: BTreeMap::new(),
            in_tree: HashMap::new(),
            count: commit.map_or((0, 0), |commit| (commit.files, commit.bytes)),
            taken: Taken::default(),
            base,
            beside,
        }
    }

    fn take_changes(&mut self, most: u64) -> Result<()> {
        let rows = self
            .connection
            .prepare_cached("SELECT ino, seq FROM changed WHERE seq > 0 ORDER BY seq LIMIT ?1")?
            .query_map([most as i64 + 1], |row| {
                Ok((row.get::<_, i64>(0)? as Ino, row.get(1)?))
            })?
            .collect::<Result<Vec<(Ino, i64)>, _>>()?;
        self.taken.more = rows.len() as u64 > most;
        self.take_these(rows.into_iter().take(most as usize))
    }

    fn take_these(&mut self, changes: impl IntoIterator<Item = (Ino, i64)>) -> Result<()> {
        let mut taken = HashSet::new();
        for (ino, change) in changes {
            if taken.contains(&ino) {
                continue;
            }
            self.take_with_parents(ino, change, &mut taken)?;
        }
        Ok(())
    }

    /// Takes a node, and first the directories above it that the tree does not have.
    fn take_with_parents(&mut self, ino: Ino, change: i64, taken: &mut HashSet<Ino>) -> Result<()> {
        let Some(seen) = Seen::read(self.connection, ino)? else {
            self.taken.nodes.push((ino, change));
            return Ok(());
        };
        let before = self.node_before(&seen.id)?;
        if self.is_held_back(&seen, before.as_ref())? {
            self.taken.held.push((ino, change));
            return Ok(());
        }
        let mut missing = Vec::new();
        for link in &seen.links {
            self.missing_above(link.parent, &mut missing)?;
        }
        for directory in missing.into_iter().rev() {
            if taken.insert(directory)
                && let Some(seen) = Seen::read(self.connection, directory)?
            {
                self.take(&seen, None)?;
            }
        }
        if taken.insert(ino) {
            self.take(&seen, before)?;
        }
        self.taken.nodes.push((ino, change));
        Ok(())
    }

    /// The directories from `ino` up that the tree does not have, the lowest first.
    fn missing_above(&mut self, ino: Ino, missing: &mut Vec<Ino>) -> Result<()> {
        let mut at = ino;
        while !self.has_directory(at)? {
            missing.push(at);
            if at == ROOT {
                break;
            }
            at = self
                .connection
                .prepare_cached("SELECT parent FROM nodes WHERE ino = ?1")?
                .query_row([at as i64], |row| row.get::<_, Option<i64>>(0))
                .optional()?
                .flatten()
                .map_or(ROOT, |parent| parent as Ino);
        }
        Ok(())
    }

    fn has_directory(&mut self, ino: Ino) -> Result<bool> {
        if let Some(&known) = self.in_tree.get(&ino) {
            return Ok(known);
        }
        let id = node_id(self.connection, ino)?.ok_or(VolumeError::NoEntry)?;
        let has = self.node_before(&id)?.is_some();
        self.in_tree.insert(ino, has);
        Ok(has)
    }

    fn is_held_back(&self, seen: &Seen, before: Option<&Node>) -> Result<bool> {
        if before.is_some() || seen.ino == ROOT {
            return Ok(false);
        }
        if seen.kind == Kind::File && seen.content.is_none() {
            return Ok(true);
        }
        Ok(seen.content.is_none() && self.volume.push.rules.match_node(self.volume, seen.ino)?)
    }

    fn take(&mut self, seen: &Seen, before: Option<Node>) -> Result<()> {
        let mut places = Vec::with_capacity(seen.links.len());
        for link in &seen.links {
            let parent = node_id(self.connection, link.parent)?.ok_or(VolumeError::NoEntry)?;
            places.push((link.id, parent, link.name.clone()));
        }
        let node = write_node(seen, places, before.as_ref(), self.dot, self.time);
        self.put(seen.id, before.as_ref(), Some(&node))?;
        if seen.kind == Kind::Directory {
            self.in_tree.insert(seen.ino, true);
        }
        if let Some(generation) = seen.generation
            && !seen.dirty
            && seen.content.is_some()
        {
            self.taken.files.push((seen.ino, generation));
        }
        Ok(())
    }

    /// Notes what a node becomes, in both trees and in the counts; `None`: no commit has it any
    /// more.
    fn put(&mut self, id: NodeId, before: Option<&Node>, after: Option<&Node>) -> Result<()> {
        if before == after {
            return Ok(());
        }
        let encoded = after.map(encode_node).transpose()?;
        self.nodes.insert(node_key(&id), encoded);
        let names = before.map(names_of).unwrap_or_default();
        for key in names.into_keys() {
            self.names_gone.push((key, id));
        }
        for (node, key, link) in after.into_iter().flat_map(|node| {
            let names = names_of(node).into_iter();
            names.map(move |(key, link)| (node, key, link))
        }) {
            let entry = NameEntry {
                node: id,
                link,
                kind: node.kind,
            };
            self.names_set.insert(key, encode_name_entry(&entry));
        }
        let (files, bytes) = before.map_or((0, 0), counted);
        let (files_now, bytes_now) = after.map_or((0, 0), counted);
        self.count.0 = (self.count.0 + files_now).saturating_sub(files);
        self.count.1 = (self.count.1 + bytes_now).saturating_sub(bytes);
        Ok(())
    }

    fn take_gone(&mut self, most: u64) -> Result<()> {
        let rows = self
            .connection
            .prepare_cached("SELECT id, time FROM tombstones LIMIT ?1")?
            .query_map([most as i64 + 1], |row| {
                Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?))
            })?
            .collect::<Result<Vec<(Vec<u8>, i64)>, _>>()?;
        self.taken.more |= rows.len() as u64 > most;
        let gone = rows
            .into_iter()
            .map(|(id, time)| {
                let id = NodeId::from_slice(&id).ok_or_else(|| {
                    VolumeError::Damaged(
                        "the database's list of deleted nodes is damaged".to_owned(),
                    )
                })?;
                Ok((id, time))
            })
            .collect::<Result<Vec<_>>>()?;
        self.take_these_gone(gone)
    }

    fn take_these_gone(&mut self, gone: Vec<(NodeId, i64)>) -> Result<()> {
        for (id, time) in gone {
            let Some(before) = self.node_before(&id)? else {
                self.taken.gone.push((id, time));
                continue;
            };
            if self.is_being_replaced(&before)? {
                continue;
            }
            let node = write_deleted(&before, self.dot);
            self.put(id, Some(&before), Some(&node))?;
            self.taken.gone.push((id, time));
        }
        Ok(())
    }

    /// Whether a file that is held back takes the node's place: then the node stays in the
    /// tree until that one comes, so that no commit has neither.
    fn is_being_replaced(&self, before: &Node) -> Result<bool> {
        let mut statement = self.connection.prepare_cached(
            "SELECT d.child FROM dentries d JOIN nodes p ON p.ino = d.parent
             JOIN nodes n ON n.ino = d.child
             WHERE p.id = ?1 AND d.name = ?2 AND n.kind = ?3 AND n.content IS NULL",
        )?;
        for place in before.names().map(|(_, link)| &link.place) {
            let child: Option<i64> = statement
                .query_row(
                    (
                        place.parent.as_bytes(),
                        place.name.as_bytes(),
                        larder_format::kind_code(Kind::File),
                    ),
                    |row| row.get(0),
                )
                .optional()?;
            if let Some(child) = child
                && !self
                    .volume
                    .push
                    .rules
                    .match_node(self.volume, child as Ino)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn node_before(&mut self, id: &NodeId) -> Result<Option<Node>> {
        let Some(nodes) = &mut self.nodes_before else {
            return Ok(None);
        };
        let found = nodes.get(&node_key(id), &mut self.pages)?;
        Ok(found.map(|bytes| decode_node(&bytes)).transpose()?)
    }

    fn finish(mut self, message: Option<String>) -> Result<Draft> {
        let names = self.name_changes()?;
        let nodes = std::mem::take(&mut self.nodes);
        let keys = &self.volume.keys;
        let nodes = apply(
            keys,
            TreeKind::Nodes,
            self.trees.map(|[tree, _]| tree),
            nodes,
            &mut self.pages,
        )?;
        let names = apply(
            keys,
            TreeKind::Names,
            self.trees.map(|[_, tree]| tree),
            names,
            &mut self.pages,
        )?;
        let differs = self.trees.is_none_or(|[old_nodes, old_names]| {
            old_nodes.root != nodes.root || old_names.root != names.root
        });
        let mut clock = self.beside.clock;
        if let Some((_, base)) = &self.base {
            clock.join(&base.clock);
        }
        clock.include(self.dot);
        let base = self.base.into_iter().map(|(id, _)| id);
        let commit = Commit {
            nodes: nodes.root,
            names: names.root,
            clock,
            author: self.dot.replica,
            n: self.dot.commit,
            time: self.time,
            wall: self.wall,
            message,
            parents: base.chain(self.beside.parents).collect(),
            files: self.count.0,
            bytes: self.count.1,
        };
        let bytes = commit.encode()?;
        let id = keys.chunk_id(&bytes);
        let (mut pages, left) = self.pages.into_changes();
        pages.push((id, bytes));
        Ok(Draft {
            id,
            commit,
            pages,
            left,
            differs,
            taken: self.taken,
        })
    }

    /// What changes in the tree of names. A name goes only if it still means the node that
    /// left it: another node may have taken it in an earlier commit.
    fn name_changes(&mut self) -> Result<BTreeMap<Vec<u8>, Option<Vec<u8>>>> {
        let mut changes: BTreeMap<_, _> = std::mem::take(&mut self.names_set)
            .into_iter()
            .map(|(key, value)| (key, Some(value)))
            .collect();
        let Some([_, names]) = self.trees else {
            return Ok(changes);
        };
        for (key, id) in std::mem::take(&mut self.names_gone) {
            if changes.contains_key(&key) {
                continue;
            }
            let entry = names.get(&key, &mut self.pages)?;
            let means = entry
                .map(|bytes| larder_format::tree::decode_name_entry(&bytes))
                .transpose()?;
            if means.is_some_and(|entry| entry.node == id) {
                changes.insert(key, None);
            }
        }
        Ok(changes)
    }
}

/// The tree that differs from `before` by these changes.
fn apply(
    keys: &VolumeKeys,
    kind: TreeKind,
    before: Option<Tree>,
    changes: impl IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
    pages: &mut Pages<'_>,
) -> Result<Tree> {
    let changes = changes
        .into_iter()
        .map(|(key, value)| Ok(Change { key, value }));
    match before {
        Some(tree) => tree.apply(keys, changes, pages),
        None => Tree::build(keys, kind, changes, pages),
    }
}

pub(super) fn node_id(connection: &Connection, ino: Ino) -> Result<Option<NodeId>> {
    let id: Option<Vec<u8>> = connection
        .prepare_cached("SELECT id FROM nodes WHERE ino = ?1")?
        .query_row([ino as i64], |row| row.get(0))
        .optional()?;
    Ok(id.and_then(|id| NodeId::from_slice(&id)))
}

/// The keys of a node's names, and the link that each is.
fn names_of(node: &Node) -> BTreeMap<Vec<u8>, LinkId> {
    node.names()
        .map(|(id, link)| (name_key(&link.place.parent, &link.place.name), id))
        .collect()
}

/// What a node adds to the counts of files and of bytes.
fn counted(node: &Node) -> (u64, u64) {
    if node.kind != Kind::File || !node.is_alive() {
        return (0, 0);
    }
    (1, node.content().map_or(0, Content::size))
}

/// The pages of the tree before, and those that the new one adds.
pub(crate) struct Pages<'a> {
    volume: &'a Volume,
    connection: &'a Connection,
    fetched: Option<&'a Fetched>,
    read: HashMap<ChunkId, Arc<[u8]>>,
    added: HashMap<ChunkId, Vec<u8>>,
    left: HashSet<ChunkId>,
}

/// Pages that came from the store, and that the database does not have.
pub(crate) type Fetched = HashMap<ChunkId, Vec<u8>>;

/// So many pages that were read are kept; they are a few KiB each.
const PAGES_KEPT: usize = 2048;

impl<'a> Pages<'a> {
    pub(crate) fn new(
        volume: &'a Volume,
        connection: &'a Connection,
        fetched: Option<&'a Fetched>,
    ) -> Self {
        Self {
            volume,
            connection,
            fetched,
            read: HashMap::new(),
            added: HashMap::new(),
            left: HashSet::new(),
        }
    }

    fn into_changes(self) -> (Vec<(ChunkId, Vec<u8>)>, Vec<ChunkId>) {
        let left = self.left.into_iter().collect();
        let mut added: Vec<_> = self.added.into_iter().collect();
        added.sort_unstable_by_key(|(id, _)| *id);
        (added, left)
    }

    fn read(&self, id: &ChunkId) -> Result<Arc<[u8]>> {
        if let Some(bytes) = self.fetched.and_then(|fetched| fetched.get(id)) {
            return Ok(bytes.as_slice().into());
        }
        let bytes: Option<Vec<u8>> = self
            .connection
            .prepare_cached("SELECT bytes FROM pages WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        match bytes {
            Some(bytes) => Ok(bytes.into()),
            // Only a database that was put together from a store may lack one.
            None => Ok((&**self.volume.fetch_page(id)?).into()),
        }
    }
}

impl PageSource for Pages<'_> {
    type Bytes = Arc<[u8]>;
    type Error = VolumeError;

    fn page(&mut self, id: &ChunkId) -> Result<Arc<[u8]>> {
        if let Some(bytes) = self.added.get(id) {
            return Ok(bytes.as_slice().into());
        }
        if let Some(bytes) = self.read.get(id) {
            return Ok(Arc::clone(bytes));
        }
        let bytes = self.read(id)?;
        if self.read.len() >= PAGES_KEPT {
            self.read.clear();
        }
        self.read.insert(*id, Arc::clone(&bytes));
        Ok(bytes)
    }
}

impl PageStore for Pages<'_> {
    fn put(&mut self, id: ChunkId, bytes: Vec<u8>) -> Result<()> {
        if !self.left.remove(&id) {
            self.added.insert(id, bytes);
        }
        Ok(())
    }

    fn dropped(&mut self, id: ChunkId) -> Result<()> {
        if self.added.remove(&id).is_none() {
            self.left.insert(id);
        }
        Ok(())
    }
}

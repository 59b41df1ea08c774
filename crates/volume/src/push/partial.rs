//! What a commit of some paths takes of what is noted as changed.
//!
//! A changed node is wanted if it stands at or below one of the paths, now or in the latest
//! commit: so what was moved out of a directory, and what was deleted in it, belong to a commit of
//! that directory. What is taken has to be a tree in order together with what stays as it was:
//! with a node go the directories above it that are new or have another place, whoever had its
//! place before, and what was in a directory that goes (`larder_model::Working` has the same rule).
//!
//! No change has a dot before a commit takes it. So what is left behind gets the dot of a later
//! commit, and no clock says that it was seen.

use std::collections::{BTreeMap, HashMap};

use larder_format::Commit;
use larder_model::{Kind, Node, NodeId};
use rusqlite::{Connection, OptionalExtension};

use super::draft::node_id;
use super::written::Seen;
use crate::history::Past;
use crate::{Ino, ROOT, Result, Volume, VolumeError};

/// A tree that is deeper is none.
const DEPTH_MAX: usize = 1 << 16;

/// What a commit is to take of the notes of changes.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Nodes, with the number of their change.
    pub(super) nodes: Vec<(Ino, i64)>,
    /// Nodes that are gone, with the time.
    pub(super) gone: Vec<(NodeId, i64)>,
    /// Whether some are left for another commit.
    pub(super) more: bool,
}

/// The changes at and below these paths, with what has to go with them; not many more than `most`.
///
/// # Errors
/// If the database fails or is damaged.
pub(super) fn choose(
    volume: &Volume,
    connection: &Connection,
    base: Option<&Commit>,
    paths: &[Vec<u8>],
    most: u64,
) -> Result<Chosen> {
    let mut choosing = Choosing {
        connection,
        past: base.map(|commit| Past::new(volume, commit)),
        below: Below::new(connection, paths)?,
        below_before: HashMap::new(),
        nodes: BTreeMap::new(),
        gone: BTreeMap::new(),
    };
    for path in paths {
        if let Some(past) = &choosing.past
            && let Some(id) = past.resolve(path)?
        {
            choosing.below_before.insert(id, true);
        }
    }
    choosing.choose(most as usize)
}

/// What stands at or below some paths now.
pub(super) struct Below<'a> {
    connection: &'a Connection,
    known: HashMap<Ino, bool>,
}

impl<'a> Below<'a> {
    /// Below these paths; one that leads nowhere has nothing below it.
    pub(super) fn new(connection: &'a Connection, paths: &[Vec<u8>]) -> Result<Self> {
        let mut known = HashMap::new();
        for path in paths {
            match crate::names::resolve(connection, path) {
                Ok(ino) => drop(known.insert(ino, true)),
                Err(VolumeError::NoEntry | VolumeError::NotDirectory) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { connection, known })
    }

    /// Whether any of the node's names is there.
    pub(super) fn has(&mut self, ino: Ino) -> Result<bool> {
        if let Some(&known) = self.known.get(&ino) {
            return Ok(known);
        }
        for parent in parents(self.connection, ino)? {
            if self.has_directory(parent)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has_directory(&mut self, directory: Ino) -> Result<bool> {
        let (mut at, mut way) = (directory, Vec::new());
        let is_below = loop {
            if let Some(&known) = self.known.get(&at) {
                break known;
            }
            way.push(at);
            let above = parents(self.connection, at)?.first().copied();
            match above.filter(|_| at != ROOT && way.len() < DEPTH_MAX) {
                Some(parent) => at = parent,
                None => break false,
            }
        };
        self.known
            .extend(way.into_iter().map(|ino| (ino, is_below)));
        Ok(is_below)
    }
}

/// The directories that a node has names in.
fn parents(connection: &Connection, ino: Ino) -> Result<Vec<Ino>> {
    let mut statement =
        connection.prepare_cached("SELECT DISTINCT parent FROM dentries WHERE child = ?1")?;
    let rows = statement.query_map([ino as i64], |row| Ok(row.get::<_, i64>(0)? as Ino))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

struct Choosing<'a> {
    connection: &'a Connection,
    /// The tree of the latest commit.
    past: Option<Past<'a>>,
    below: Below<'a>,
    /// Whether a node of that tree stands at or below one of the paths there.
    below_before: HashMap<NodeId, bool>,
    /// What was chosen, with the numbers and times of the notes.
    nodes: BTreeMap<Ino, i64>,
    gone: BTreeMap<NodeId, i64>,
}

/// A note of a change.
#[derive(Debug, Clone, Copy)]
enum Note {
    Changed(Ino, i64),
    Gone(NodeId, i64),
}

impl Choosing<'_> {
    fn choose(mut self, most: usize) -> Result<Chosen> {
        let mut more = false;
        for note in self.notes()? {
            if !self.is_wanted(note)? {
                continue;
            }
            more = self.nodes.len() + self.gone.len() >= most;
            if more {
                break;
            }
            self.take(note)?;
        }
        Ok(Chosen {
            nodes: self.nodes.into_iter().collect(),
            gone: self.gone.into_iter().collect(),
            more,
        })
    }

    fn notes(&self) -> Result<Vec<Note>> {
        let mut changed = self
            .connection
            .prepare_cached("SELECT ino, seq FROM changed WHERE seq > 0 ORDER BY seq")?;
        let changed = changed.query_map([], |row| {
            Ok(Note::Changed(row.get::<_, i64>(0)? as Ino, row.get(1)?))
        })?;
        let mut notes: Vec<_> = changed.collect::<Result<_, _>>()?;
        let mut gone = self
            .connection
            .prepare_cached("SELECT id, time FROM tombstones")?;
        let mut rows = gone.query([])?;
        while let Some(row) = rows.next()? {
            let id: Vec<u8> = row.get(0)?;
            let id = NodeId::from_slice(&id).ok_or_else(|| {
                VolumeError::Damaged("the database's list of deleted nodes is damaged".to_owned())
            })?;
            notes.push(Note::Gone(id, row.get(1)?));
        }
        Ok(notes)
    }

    fn is_wanted(&mut self, note: Note) -> Result<bool> {
        let id = match note {
            Note::Changed(ino, _) => {
                if self.below.has(ino)? {
                    return Ok(true);
                }
                match node_id(self.connection, ino)? {
                    Some(id) => id,
                    None => return Ok(false),
                }
            }
            Note::Gone(id, _) => id,
        };
        self.was_wanted(id)
    }

    /// Whether the node was at or below one of the paths in the latest commit.
    fn was_wanted(&mut self, id: NodeId) -> Result<bool> {
        if let Some(&known) = self.below_before.get(&id) {
            return Ok(known);
        }
        let Some(before) = self.node_before(&id)? else {
            return Ok(false);
        };
        for (_, link) in before.names() {
            if self.was_directory_wanted(link.place.parent)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn was_directory_wanted(&mut self, directory: NodeId) -> Result<bool> {
        let (mut at, mut way) = (directory, Vec::new());
        let was_wanted = loop {
            if let Some(&known) = self.below_before.get(&at) {
                break known;
            }
            way.push(at);
            let before = self.node_before(&at)?;
            let above = before.as_ref().and_then(|node| node.names().next());
            match above.filter(|_| way.len() < DEPTH_MAX) {
                Some((_, link)) => at = link.place.parent,
                None => break false,
            }
        };
        self.below_before
            .extend(way.into_iter().map(|id| (id, was_wanted)));
        Ok(was_wanted)
    }

    fn node_before(&self, id: &NodeId) -> Result<Option<Node>> {
        match &self.past {
            Some(past) => past.node(id),
            None => Ok(None),
        }
    }

    /// Takes a change, and those without which the tree would not be in order.
    fn take(&mut self, note: Note) -> Result<()> {
        let mut waiting = vec![note];
        while let Some(note) = waiting.pop() {
            match note {
                Note::Changed(ino, change) if self.nodes.insert(ino, change).is_none() => {
                    self.needed_by(ino, &mut waiting)?;
                }
                Note::Gone(id, time) if self.gone.insert(id, time).is_none() => {
                    self.left_by(&id, &mut waiting)?;
                }
                Note::Changed(..) | Note::Gone(..) => {}
            }
        }
        Ok(())
    }

    /// The directories above a node that have another place than before, and whoever had its
    /// names.
    fn needed_by(&self, ino: Ino, needed: &mut Vec<Note>) -> Result<()> {
        let Some(seen) = Seen::read(self.connection, ino)? else {
            return Ok(());
        };
        for link in &seen.links {
            self.moved_above(link.parent, needed)?;
            let (Some(past), Some(parent)) = (&self.past, node_id(self.connection, link.parent)?)
            else {
                continue;
            };
            if let Some(entry) = past.entry(&parent, &link.name)?
                && entry.node != seen.id
            {
                needed.extend(self.note_of(&entry.node)?);
            }
        }
        Ok(())
    }

    fn moved_above(&self, directory: Ino, needed: &mut Vec<Note>) -> Result<()> {
        let mut at = directory;
        for _ in 0..DEPTH_MAX {
            let (Some(id), false) = (node_id(self.connection, at)?, at == ROOT) else {
                return Ok(());
            };
            let Some(seen) = Seen::read(self.connection, at)? else {
                return Ok(());
            };
            let Some(link) = seen.links.first() else {
                return Ok(());
            };
            if !self.nodes.contains_key(&at) {
                let parent = node_id(self.connection, link.parent)?;
                let before = self.node_before(&id)?;
                let stays = before.is_some_and(|before| {
                    before.names().any(|(_, was)| {
                        Some(was.place.parent) == parent && was.place.name == link.name
                    })
                });
                if !stays {
                    needed.extend(self.note_of(&id)?);
                }
            }
            at = link.parent;
        }
        Ok(())
    }

    /// What was in a directory that goes.
    fn left_by(&self, id: &NodeId, needed: &mut Vec<Note>) -> Result<()> {
        let Some(past) = &self.past else {
            return Ok(());
        };
        let before = past.node(id)?;
        if before.is_some_and(|before| before.kind == Kind::Directory) {
            for (_, entry) in past.entries(id)? {
                needed.extend(self.note_of(&entry.node)?);
            }
        }
        Ok(())
    }

    /// The note of a node's change, if there is one.
    fn note_of(&self, id: &NodeId) -> Result<Option<Note>> {
        let changed = self
            .connection
            .prepare_cached(
                "SELECT c.ino, c.seq FROM changed c JOIN nodes n ON n.ino = c.ino
                 WHERE n.id = ?1 AND c.seq > 0",
            )?
            .query_row([id.as_bytes()], |row| {
                Ok(Note::Changed(row.get::<_, i64>(0)? as Ino, row.get(1)?))
            })
            .optional()?;
        if changed.is_some() {
            return Ok(changed);
        }
        let gone = self
            .connection
            .prepare_cached("SELECT time FROM tombstones WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| Ok(Note::Gone(*id, row.get(0)?)))
            .optional()?;
        Ok(gone)
    }
}

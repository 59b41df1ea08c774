//! The tables, from the tree of one commit to that of another.
//!
//! The names go first that are not there any more, then nodes that are new come, then names; so no
//! name is taken twice on the way, however nodes changed places. A local name that no commit knows,
//! of a file that a rule keeps here or that is not stored yet, gives way under another one. So does
//! nobody's content: where the content of a file changes, the file gets a new number, and the old
//! one keeps what is here for whoever has it open.

use std::collections::{BTreeMap, BTreeSet};

use larder_format::kind_code;
use larder_model::{Kind, LinkId, Name, Node, NodeId, Place};
use rusqlite::OptionalExtension;

use super::merge::{Changed, Merged, NewBase};
use crate::db::Transaction;
use crate::names::{leave_unnamed, new_node_id};
use crate::node::{self, Attr};
use crate::pull::{forget_pages, keep_pages};
use crate::push::{base_commit, make_durable_in, set_base_commit, set_beside};
use crate::stored_node::StoredNode;
use crate::{Ino, Result, Volume, VolumeError};

/// What others must be told once the tables are as the new tree.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Names that mean something else now, or nothing.
    pub(crate) entries: BTreeSet<(Ino, Vec<u8>)>,
    /// Nodes whose attributes changed.
    pub(crate) attributes: BTreeSet<Ino>,
    /// Nodes that were moved.
    pub(crate) moved: Vec<(Ino, Kind)>,
    /// Nodes without a name.
    pub(crate) orphans: Vec<Ino>,
    /// Files whose content is not here.
    pub(crate) arrived: Vec<Ino>,
}

/// Whether a join was applied.
#[derive(Debug)]
pub(crate) enum Applied {
    /// It was.
    Done(Effects),
    /// Something changed here since it was computed: nothing was done.
    Changed,
    /// This file is being changed here, and is not stored yet: nothing was done.
    Busy(Vec<u8>),
    /// So many nodes would go: nothing was done.
    Guarded(u64),
}

/// Applies a join, if nothing changed here since; `head` is that of the commit that it made.
///
/// # Errors
/// If the disk fails; then nothing was done.
pub(crate) fn apply(volume: &Volume, merged: &Merged, head: Option<&[u8]>) -> Result<Applied> {
    volume
        .inos
        .reserve(&volume.db, merged.changes.len() as u64)?;
    if let Some(path) = being_written(volume, &merged.changes)? {
        return Ok(Applied::Busy(path));
    }
    volume.db.write_synced(|tx| {
        let base = base_commit(volume, tx)?;
        if base.is_none_or(|(id, _)| id != merged.from) || is_changed(tx)? {
            return Ok(Applied::Changed);
        }
        if let Some(path) = busy(tx, &merged.changes)? {
            return Ok(Applied::Busy(path));
        }
        let mut applying = Applying {
            volume,
            tx,
            effects: Effects::default(),
            directories: BTreeSet::new(),
            files: BTreeSet::new(),
        };
        applying.all(&merged.changes)?;
        keep_pages(tx, merged.pages.iter().map(|(id, bytes)| (id, &**bytes)))?;
        match &merged.base {
            NewBase::Ours => {}
            NewBase::Theirs(commit) => set_base_commit(tx, commit)?,
            NewBase::Made(draft) => make_durable_in(tx, draft, head.unwrap_or_default())?,
        }
        set_beside(tx, &merged.beside)?;
        forget_pages(tx, &merged.left)?;
        Ok(Applied::Done(applying.effects))
    })
}

/// Whether something here is in no commit that the store has acknowledged, but for what is held
/// back.
fn is_changed(tx: &Transaction<'_>) -> Result<bool> {
    Ok(tx.query_row(
        "SELECT EXISTS(SELECT 1 FROM changed WHERE seq > 0)
             OR EXISTS(SELECT 1 FROM tombstones)
             OR EXISTS(SELECT 1 FROM commits WHERE acked = 0)",
        [],
        |row| row.get(0),
    )?)
}

/// The path of a file that changes elsewhere and that a program has open to write here. One that is
/// opened a moment later is stale by then, and opened again.
fn being_written(volume: &Volume, changes: &[Changed]) -> Result<Option<Vec<u8>>> {
    volume.db.read_snapshot(|connection| {
        let mut find = connection.prepare_cached("SELECT ino FROM nodes WHERE id = ?1")?;
        for changed in changes.iter().filter(|changed| changed.is_replaced()) {
            let ino: Option<i64> = find
                .query_row([changed.id.as_bytes()], |row| row.get(0))
                .optional()?;
            if let Some(ino) = ino
                && volume.live.has_writer(ino as Ino)
            {
                let path = crate::names::path_of(connection, ino as Ino)?;
                return Ok(Some(path.unwrap_or_default()));
            }
        }
        Ok(None)
    })
}

/// The path of a file that changes elsewhere and is dirty here.
fn busy(tx: &Transaction<'_>, changes: &[Changed]) -> Result<Option<Vec<u8>>> {
    let mut dirty = tx.prepare_cached(
        "SELECT n.ino FROM nodes n JOIN cached c ON c.ino = n.ino
         WHERE n.id = ?1 AND c.dirty = 1 AND n.nlink > 0",
    )?;
    for changed in changes {
        let found: Option<i64> = dirty
            .query_row([changed.id.as_bytes()], |row| row.get(0))
            .optional()?;
        if let Some(ino) = found {
            let path = crate::names::path_of(tx, ino as Ino)?;
            return Ok(Some(path.unwrap_or_default()));
        }
    }
    Ok(None)
}

struct Applying<'a, 'tx> {
    volume: &'a Volume,
    tx: &'a Transaction<'tx>,
    effects: Effects,
    /// Directories whose count of links must be made again.
    directories: BTreeSet<Ino>,
    /// Other nodes whose names changed.
    files: BTreeSet<Ino>,
}

impl Applying<'_, '_> {
    fn all(&mut self, changes: &[Changed]) -> Result<()> {
        for changed in changes {
            self.remove_names(changed)?;
        }
        for changed in changes {
            self.enter(changed)?;
        }
        for changed in changes {
            self.add_names(changed)?;
        }
        self.remove_nodes(changes)?;
        self.count_links()
    }

    fn ino(&self, id: &NodeId) -> Result<Option<Ino>> {
        let found: Option<i64> = self
            .tx
            .prepare_cached("SELECT ino FROM nodes WHERE id = ?1 AND nlink > 0")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        Ok(found.map(|ino| ino as Ino))
    }

    /// Takes away the names that are not there any more.
    fn remove_names(&mut self, changed: &Changed) -> Result<()> {
        let (was, is) = (
            names(changed.before.as_deref()),
            names(changed.after.as_deref()),
        );
        for (link, place) in &was {
            if is.get(link) == Some(place) {
                continue;
            }
            let Some(parent) = self.ino(&place.parent)? else {
                continue;
            };
            let name = place.name.as_bytes();
            self.tx
                .prepare_cached(
                    "DELETE FROM dentries WHERE parent = ?1 AND name = ?2
                     AND child = (SELECT ino FROM nodes WHERE id = ?3)",
                )?
                .execute((parent as i64, name, changed.id.as_bytes()))?;
            self.effects.entries.insert((parent, name.to_vec()));
            self.directories.insert(parent);
            if let (Some(ino), Some(node)) = (self.ino(&changed.id)?, &changed.before) {
                self.note_link_count(ino, node.kind);
            }
        }
        Ok(())
    }

    /// Makes the node's row as the new tree has it.
    fn enter(&mut self, changed: &Changed) -> Result<()> {
        let Some(after) = changed.after.as_deref().filter(|node| node.is_alive()) else {
            return Ok(());
        };
        let stored = StoredNode::new(&changed.id, after)?;
        let Some(ino) = self.ino(&changed.id)? else {
            self.insert(changed, &stored, None)?;
            return Ok(());
        };
        let before = changed.before.as_deref();
        if changed.is_replaced() {
            return self.replace(ino, changed, &stored);
        }
        if before.and_then(Node::attrs) != after.attrs() {
            stored.write_attrs(self.tx, ino)?;
            self.effects.attributes.insert(ino);
        }
        Ok(())
    }

    fn insert(
        &mut self,
        changed: &Changed,
        stored: &StoredNode<'_>,
        pin: Option<i64>,
    ) -> Result<Ino> {
        // An unnamed node may have the id still: it was deleted here a moment ago.
        self.give_up_id(&changed.id)?;
        let attr = Attr {
            ino: self.volume.inos.take(),
            nlink: 0,
            ..stored.attr
        };
        stored.insert(self.tx, &attr, changed.id, None)?;
        if let Some(pin) = pin {
            self.tx
                .prepare_cached("UPDATE nodes SET pin = ?2 WHERE ino = ?1")?
                .execute((attr.ino as i64, pin))?;
        }
        self.note_link_count(attr.ino, attr.kind);
        if attr.kind == Kind::File {
            self.effects.arrived.push(attr.ino);
        }
        Ok(attr.ino)
    }

    fn give_up_id(&self, id: &NodeId) -> Result<()> {
        let other = new_node_id(node::now())?;
        self.tx
            .prepare_cached("UPDATE nodes SET id = ?2 WHERE id = ?1")?
            .execute((id.as_bytes(), other.as_bytes()))?;
        Ok(())
    }

    /// A file with another content has another number: nobody who has the old one open sees the
    /// new content in it.
    fn replace(&mut self, old: Ino, changed: &Changed, stored: &StoredNode<'_>) -> Result<()> {
        let pin: i64 = self
            .tx
            .prepare_cached("SELECT pin FROM nodes WHERE ino = ?1")?
            .query_row([old as i64], |row| row.get(0))?;
        let new = self.insert(changed, stored, Some(pin))?;
        let places = self
            .tx
            .prepare_cached("SELECT parent, name FROM dentries WHERE child = ?1")?
            .query_map([old as i64], |row| {
                Ok((row.get::<_, i64>(0)? as Ino, row.get::<_, Vec<u8>>(1)?))
            })?
            .collect::<Result<Vec<_>, _>>()?;
        self.effects.entries.extend(places);
        self.tx
            .prepare_cached("UPDATE dentries SET child = ?2 WHERE child = ?1")?
            .execute((old as i64, new as i64))?;
        self.unname(old)
    }

    /// The node has no name left; it goes when the kernel forgets it.
    fn unname(&mut self, ino: Ino) -> Result<()> {
        self.tx
            .prepare_cached("UPDATE nodes SET nlink = 0, ctime = ?2 WHERE ino = ?1")?
            .execute((ino as i64, node::now().0))?;
        leave_unnamed(self.tx, ino)?;
        self.tx
            .prepare_cached("INSERT OR IGNORE INTO replaced(ino) VALUES(?1)")?
            .execute([ino as i64])?;
        self.files.remove(&ino);
        self.directories.remove(&ino);
        self.effects.orphans.push(ino);
        Ok(())
    }

    /// Gives the node the names that it did not have.
    fn add_names(&mut self, changed: &Changed) -> Result<()> {
        let Some(after) = changed.after.as_deref() else {
            return Ok(());
        };
        let was = names(changed.before.as_deref());
        for (link, place) in names(Some(after)) {
            if was.get(&link) != Some(&place) {
                self.add_name(&changed.id, after.kind, link, &place)?;
            }
        }
        Ok(())
    }

    fn add_name(&mut self, id: &NodeId, kind: Kind, link: LinkId, place: &Place) -> Result<()> {
        let damaged = || {
            VolumeError::Damaged(format!(
                "the joined tree has no directory {} for node {id}",
                place.parent
            ))
        };
        let parent = self.entered(&place.parent)?.ok_or_else(damaged)?;
        let child = self.entered(id)?.ok_or_else(damaged)?;
        let name = place.name.as_bytes();
        self.make_way(parent, &place.name)?;
        self.tx
            .prepare_cached(
                "INSERT INTO dentries(parent, name, child, kind, link) VALUES(?1, ?2, ?3, ?4, ?5)",
            )?
            .execute((
                parent as i64,
                name,
                child as i64,
                kind_code(kind),
                link.0 as i64,
            ))?;
        if kind == Kind::Directory {
            self.tx
                .prepare_cached("UPDATE nodes SET parent = ?2 WHERE ino = ?1")?
                .execute((child as i64, parent as i64))?;
        }
        self.effects.entries.insert((parent, name.to_vec()));
        self.effects.moved.push((child, kind));
        self.directories.insert(parent);
        self.note_link_count(child, kind);
        Ok(())
    }

    fn note_link_count(&mut self, ino: Ino, kind: Kind) {
        match kind {
            Kind::Directory => self.directories.insert(ino),
            _ => self.files.insert(ino),
        };
    }

    /// The number of a node that may have no name yet.
    fn entered(&self, id: &NodeId) -> Result<Option<Ino>> {
        let found: Option<i64> = self
            .tx
            .prepare_cached("SELECT ino FROM nodes WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        Ok(found.map(|ino| ino as Ino))
    }

    /// What has the name is in no commit: it gets another one here.
    fn make_way(&mut self, parent: Ino, name: &Name) -> Result<()> {
        let other = self.free_name(parent, name)?;
        if other == *name {
            return Ok(());
        }
        self.tx
            .prepare_cached("UPDATE dentries SET name = ?3 WHERE parent = ?1 AND name = ?2")?
            .execute((parent as i64, name.as_bytes(), other.as_bytes()))?;
        self.effects
            .entries
            .insert((parent, other.as_bytes().to_vec()));
        Ok(())
    }

    /// The name, or one like it that nothing has in this directory.
    fn free_name(&self, parent: Ino, name: &Name) -> Result<Name> {
        let mut is_taken = self
            .tx
            .prepare_cached("SELECT 1 FROM dentries WHERE parent = ?1 AND name = ?2")?;
        let mut free = name.clone();
        let mut n = 0;
        while is_taken.exists((parent as i64, free.as_bytes()))? {
            n += 1;
            let ending = match n {
                1 => " (only here)".to_owned(),
                n => format!(" (only here, {n})"),
            };
            let kept = name.as_bytes().len().min(Name::MAX - ending.len());
            free = Name::new([&name.as_bytes()[..kept], ending.as_bytes()].concat())?;
        }
        Ok(free)
    }

    /// Removes the nodes that are not there any more. A directory in which something lies that no
    /// commit knows stays, with those above it, and the next commit has it again.
    fn remove_nodes(&mut self, changes: &[Changed]) -> Result<()> {
        let is_alive = |node: &Node| node.is_alive();
        let gone: BTreeMap<NodeId, &Changed> = changes
            .iter()
            .filter(|changed| {
                changed.before.as_deref().is_some_and(is_alive)
                    && !changed.after.as_deref().is_some_and(is_alive)
            })
            .map(|changed| (changed.id, changed))
            .collect();
        let mut staying = BTreeSet::new();
        for (id, changed) in &gone {
            let Some(ino) = self.ino(id)? else { continue };
            let holds_any = self
                .tx
                .prepare_cached("SELECT 1 FROM dentries WHERE parent = ?1 LIMIT 1")?
                .exists([ino as i64])?;
            let mut above = holds_any.then_some(*changed);
            while let Some(changed) = above.filter(|changed| staying.insert(changed.id)) {
                let place = names(changed.before.as_deref()).into_values().next();
                above = place.and_then(|place| gone.get(&place.parent).copied());
            }
        }
        for (id, changed) in gone {
            if staying.contains(&id) {
                self.keep_directory(changed)?;
            } else if let Some(ino) = self.ino(&id)? {
                self.unname(ino)?;
            }
        }
        Ok(())
    }

    /// The directory stays. If the new tree has its name for something else, for the directory that it
    /// was merged into for one, it gets another: what the tree has keeps its name everywhere.
    fn keep_directory(&mut self, changed: &Changed) -> Result<()> {
        let places = names(changed.before.as_deref()).into_iter().next();
        let (Some(ino), Some((link, mut place))) = (self.ino(&changed.id)?, places) else {
            return Ok(());
        };
        if let Some(parent) = self.entered(&place.parent)? {
            place.name = self.free_name(parent, &place.name)?;
        }
        self.add_name(&changed.id, Kind::Directory, link, &place)?;
        self.volume.mark_changed(self.tx, ino)
    }

    fn count_links(&mut self) -> Result<()> {
        for &ino in &self.files {
            self.tx
                .prepare_cached(
                    "UPDATE nodes SET nlink = (SELECT count(*) FROM dentries WHERE child = ?1)
                     WHERE ino = ?1",
                )?
                .execute([ino as i64])?;
        }
        for &ino in &self.directories {
            self.tx
                .prepare_cached(
                    "UPDATE nodes SET nlink = 2 + (SELECT count(*) FROM dentries
                                                   WHERE parent = ?1 AND kind = ?2)
                     WHERE ino = ?1",
                )?
                .execute((ino as i64, kind_code(Kind::Directory)))?;
        }
        Ok(())
    }
}

/// The places of a node that is alive, by link.
fn names(node: Option<&Node>) -> BTreeMap<LinkId, Place> {
    let links = node.into_iter().flat_map(Node::names);
    links.map(|(id, link)| (id, link.place.clone())).collect()
}

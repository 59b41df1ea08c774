//! A node as the next commit has it: pure, from what the database shows of it now and what
//! the commit before has.
//!
//! A register that says the same as before keeps its dots; one that says something new gets
//! the dot of the commit (`larder_model::change`).

use std::collections::BTreeMap;

use larder_model::{Attrs, Content, Dot, Hlc, Kind, Link, LinkId, Name, Node, NodeId, Place, Time};
use rusqlite::{Connection, OptionalExtension};

use crate::{Ino, Result, VolumeError};

/// What the database shows of a node.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) ino: Ino,
    pub(super) id: NodeId,
    pub(super) kind: Kind,
    pub(super) attrs: Attrs,
    /// Of files: what was stored last.
    pub(super) content: Option<Content>,
    /// Of symlinks.
    pub(super) target: Option<Vec<u8>>,
    /// Of files: whether the cache file holds bytes that `content` does not.
    pub(super) dirty: bool,
    /// Of files that are here.
    pub(super) generation: Option<u64>,
    pub(super) links: Vec<SeenLink>,
}

/// One name of a node.
#[derive(Debug)]
pub(super) struct SeenLink {
    pub(super) id: LinkId,
    pub(super) parent: Ino,
    pub(super) name: Name,
}

impl Seen {
    /// Reads a node; `None` if it is gone or has no name left.
    ///
    /// # Errors
    /// If the database fails or is damaged.
    pub(super) fn read(connection: &Connection, ino: Ino) -> Result<Option<Self>> {
        let row = connection
            .prepare_cached(
                "SELECT n.id, n.kind, n.mode, n.uid, n.gid, n.rdev, n.mtime, n.ctime, n.btime,
                        n.content, n.target, n.xattrs, n.nlink, c.dirty, c.generation
                 FROM nodes n LEFT JOIN cached c ON c.ino = n.ino WHERE n.ino = ?1",
            )?
            .query_row([ino as i64], |row| {
                let attrs = Attrs {
                    mode: row.get(2)?,
                    uid: row.get(3)?,
                    gid: row.get(4)?,
                    rdev: row.get::<_, i64>(5)? as u64,
                    mtime: Time(row.get(6)?),
                    ctime: Time(row.get(7)?),
                    btime: Time(row.get(8)?),
                    xattrs: BTreeMap::new(),
                    time: Hlc::default(),
                };
                Ok(Row {
                    id: row.get(0)?,
                    kind: row.get(1)?,
                    attrs,
                    content: row.get(9)?,
                    target: row.get(10)?,
                    xattrs: row.get(11)?,
                    nlink: row.get(12)?,
                    dirty: row.get::<_, Option<bool>>(13)?.unwrap_or(false),
                    generation: row.get::<_, Option<i64>>(14)?,
                })
            })
            .optional()?;
        match row {
            Some(row) if row.nlink > 0 => Ok(Some(row.seen(connection, ino)?)),
            _ => Ok(None),
        }
    }
}

struct Row {
    id: Vec<u8>,
    kind: u8,
    attrs: Attrs,
    content: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    xattrs: i64,
    nlink: u32,
    dirty: bool,
    generation: Option<i64>,
}

impl Row {
    fn seen(self, connection: &Connection, ino: Ino) -> Result<Seen> {
        let mut attrs = self.attrs;
        if self.xattrs > 0 {
            attrs.xattrs = read_xattrs(connection, ino)?;
        }
        let content = self
            .content
            .map(|bytes| larder_format::decode_content(&bytes))
            .transpose()?;
        Ok(Seen {
            ino,
            id: NodeId::from_slice(&self.id).ok_or_else(damaged)?,
            kind: larder_format::kind_from_code(self.kind).ok_or_else(damaged)?,
            attrs,
            content,
            target: self.target,
            dirty: self.dirty,
            generation: self.generation.map(|generation| generation as u64),
            links: read_links(connection, ino)?,
        })
    }
}

fn damaged() -> VolumeError {
    VolumeError::Damaged("the database's row of a node is damaged".to_owned())
}

fn read_xattrs(connection: &Connection, ino: Ino) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut statement =
        connection.prepare_cached("SELECT name, value FROM xattrs WHERE ino = ?1")?;
    let rows = statement.query_map([ino as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn read_links(connection: &Connection, ino: Ino) -> Result<Vec<SeenLink>> {
    let rows = connection
        .prepare_cached("SELECT link, parent, name FROM dentries WHERE child = ?1")?
        .query_map([ino as i64], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, Vec<u8>>(2)?,
            ))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    rows.into_iter()
        .map(|(link, parent, name)| {
            Ok(SeenLink {
                id: LinkId(link as u64),
                parent: parent as Ino,
                name: Name::new(name)?,
            })
        })
        .collect()
}

/// The node that a commit with this dot and time holds. `places` are its links, with the
/// ids of the directories; `before` is the node in the commit before.
pub(super) fn write_node(
    seen: &Seen,
    places: Vec<(LinkId, NodeId, Name)>,
    before: Option<&Node>,
    dot: Dot,
    time: Hlc,
) -> Node {
    let content = content_now(seen, before);
    let attrs = attrs_now(seen, &content, before, time);
    let mut node = before
        .cloned()
        .unwrap_or_else(|| Node::without_values(seen.kind));
    write_links(&mut node, places, dot, time);
    if node.attrs() != Some(&attrs) {
        node.write_attrs(attrs, dot);
    }
    if node.content() != Some(&content) {
        node.write_content(content, dot);
    }
    if !node.is_alive() {
        node.claim(dot);
    }
    node
}

/// The node, deleted: it keeps its last place and content, so that it can come back.
pub(super) fn write_deleted(before: &Node, dot: Dot) -> Node {
    let mut node = before.clone();
    if node.is_alive() {
        node.delete(dot);
    }
    node
}

fn content_now(seen: &Seen, before: Option<&Node>) -> Content {
    match seen.kind {
        Kind::Symlink => Content::Target(seen.target.clone().unwrap_or_default()),
        Kind::File => seen
            .content
            .clone()
            .or_else(|| before?.content().cloned())
            .unwrap_or(Content::Extents(Vec::new())),
        _ => Content::None,
    }
}

fn attrs_now(seen: &Seen, content: &Content, before: Option<&Node>, time: Hlc) -> Attrs {
    let mut attrs = Attrs {
        time,
        ..seen.attrs.clone()
    };
    let Some(before) = before else {
        return attrs;
    };
    let Some(old) = before.attrs() else {
        return attrs;
    };
    // The time of a change whose bytes are not stored yet is not told yet either.
    if seen.dirty && before.content() == Some(content) {
        attrs.mtime = old.mtime;
    }
    let as_before = Attrs {
        time: old.time,
        ..attrs.clone()
    };
    if as_before == *old { as_before } else { attrs }
}

fn write_links(node: &mut Node, places: Vec<(LinkId, NodeId, Name)>, dot: Dot, time: Hlc) {
    let now: BTreeMap<_, _> = places
        .into_iter()
        .map(|(id, parent, name)| (id, Place { parent, name }))
        .collect();
    let present = node.present_links().map(|(id, _)| id);
    let gone: Vec<_> = present.filter(|id| !now.contains_key(id)).collect();
    for id in gone {
        node.remove_link(id, time, dot);
    }
    for (id, place) in now {
        let is_there = |link: &Link| link.present && link.place == place;
        if !node.link(id).is_some_and(is_there) {
            node.write_link(id, place, time, dot);
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_model::{ChunkId, Extent, Life, Register, ReplicaId};

    use super::*;

    const HOME: NodeId = NodeId([7; 16]);

    fn dot(commit: u64) -> Dot {
        Dot {
            replica: ReplicaId([1; 32]),
            commit,
        }
    }

    fn content(byte: u8) -> Content {
        Content::Extents(vec![Extent::Chunk {
            id: ChunkId([byte; 32]),
            len: 5,
        }])
    }

    fn seen(stored: Content) -> Seen {
        Seen {
            ino: 5,
            id: NodeId([5; 16]),
            kind: Kind::File,
            attrs: Attrs {
                mode: 0o644,
                mtime: Time(100),
                ..Attrs::default()
            },
            content: Some(stored),
            target: None,
            dirty: false,
            generation: Some(1),
            links: Vec::new(),
        }
    }

    fn at(name: &str) -> Vec<(LinkId, NodeId, Name)> {
        vec![(LinkId::BIRTH, HOME, Name::new(name).unwrap())]
    }

    fn committed() -> Node {
        write_node(&seen(content(1)), at("a"), None, dot(1), Hlc(10))
    }

    #[test]
    fn what_did_not_change_keeps_its_dots() {
        let before = committed();
        let same = write_node(&seen(content(1)), at("a"), Some(&before), dot(2), Hlc(20));
        assert_eq!(same, before);
        let moved = write_node(&seen(content(1)), at("b"), Some(&before), dot(2), Hlc(20));
        assert_eq!(moved.content, before.content);
        assert_eq!(moved.attrs, before.attrs);
        assert_eq!(
            moved.links[&LinkId::BIRTH].0[0].dots,
            [dot(2)].into_iter().collect()
        );
    }

    #[test]
    fn an_edit_that_is_not_stored_yet_shows_neither_bytes_nor_time() {
        let before = committed();
        let mut edited = seen(content(1));
        edited.dirty = true;
        edited.attrs.mtime = Time(999);
        let node = write_node(&edited, at("a"), Some(&before), dot(2), Hlc(20));
        assert_eq!(node, before);
        edited.dirty = false;
        edited.content = Some(content(2));
        let node = write_node(&edited, at("a"), Some(&before), dot(3), Hlc(30));
        assert_eq!(node.content, Register::one(content(2), dot(3)));
        assert_eq!(node.attrs.0[0].value.mtime, Time(999));
    }

    #[test]
    fn a_hard_link_that_went_stays_as_a_removed_one() {
        let mut links = at("a");
        links.push((LinkId(9), HOME, Name::new("b").unwrap()));
        let before = write_node(&seen(content(1)), links, None, dot(1), Hlc(10));
        let node = write_node(&seen(content(1)), at("a"), Some(&before), dot(2), Hlc(20));
        let gone = &node.links[&LinkId(9)].0[0].value;
        assert!(!gone.present && gone.place.name.as_bytes() == b"b");
        assert_eq!(node.links[&LinkId::BIRTH], before.links[&LinkId::BIRTH]);
    }

    #[test]
    fn a_deleted_node_keeps_its_place_and_content() {
        let before = committed();
        let node = write_deleted(&before, dot(2));
        assert_eq!(node.life, Register::one(Life::Deleted, dot(2)));
        assert_eq!(
            (&node.links, &node.content),
            (&before.links, &before.content)
        );
    }
}

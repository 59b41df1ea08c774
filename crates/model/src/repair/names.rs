//! One name, one node.
//!
//! Directories of one name become one: the one with the least id, which is the oldest, stays,
//! what is in the others goes into it, and they are deleted. Ids never change, so every
//! replica merges the same way, whatever else happened to the names. A directory keeps its name
//! against nodes of other kinds, since paths below it go on being right; of those, the one
//! that came there first keeps it.

use std::collections::BTreeSet;

use super::view::View;
use crate::{Entry, Hlc, Kind, Life, Link, LinkId, Name, NodeId, Place, Tree};

/// A name of a directory.
type Key = (NodeId, Name);

/// Settles the names of the nodes in `dirty`, and those that come up on the way.
pub(super) fn settle<T: Tree>(
    view: &mut View<'_, T>,
    dirty: &BTreeSet<NodeId>,
) -> Result<(), T::Error> {
    let mut waiting: BTreeSet<Key> = BTreeSet::new();
    for id in dirty {
        if let Some(node) = view.node(id)? {
            let keys = node.names().map(|(_, link)| &link.place);
            waiting.extend(keys.map(|place| (place.parent, place.name.clone())));
        }
    }
    while let Some(key) = waiting.pop_first() {
        settle_one(view, &key, &mut waiting)?;
    }
    Ok(())
}

/// A node that has the name.
struct Bearer {
    node: NodeId,
    link: LinkId,
    kind: Kind,
    at: Link,
}

impl Bearer {
    /// Who came first keeps the name.
    fn order(&self) -> (Hlc, NodeId, LinkId) {
        (self.at.time, self.node, self.link)
    }
}

fn settle_one<T: Tree>(
    view: &mut View<'_, T>,
    key: &Key,
    waiting: &mut BTreeSet<Key>,
) -> Result<(), T::Error> {
    let entries = view.named(&key.0, &key.1)?;
    if entries.len() < 2 {
        return Ok(());
    }
    let bearers = once_each(view, entries)?;
    let (directories, mut others): (Vec<_>, Vec<_>) = bearers
        .into_iter()
        .partition(|bearer| bearer.kind == Kind::Directory);
    let has_directory = !directories.is_empty();
    let mut directories = directories.into_iter();
    if let Some(kept) = directories.next() {
        for other in directories {
            merge(view, other.node, kept.node, waiting)?;
        }
    }
    others.sort_by_key(Bearer::order);
    for later in others.iter().skip(usize::from(!has_directory)) {
        let name = view.free_name(&key.0, later.node, later.link, later.kind, &later.at)?;
        let place = Place {
            parent: key.0,
            name,
        };
        view.place(later.node, later.link, later.at.time, place, true)?;
    }
    Ok(())
}

/// The nodes of some entries, in the order of their ids. One node twice at one place is one
/// link: the one with the least id.
fn once_each<T: Tree>(
    view: &mut View<'_, T>,
    entries: BTreeSet<Entry>,
) -> Result<Vec<Bearer>, T::Error> {
    let mut bearers: Vec<Bearer> = Vec::with_capacity(entries.len());
    for entry in entries {
        let Some(node) = view.node(&entry.node)? else {
            continue;
        };
        let Some(at) = node.link(entry.link).cloned() else {
            continue;
        };
        if bearers.last().is_some_and(|last| last.node == entry.node) {
            view.place(entry.node, entry.link, at.time, at.place, false)?;
            continue;
        }
        bearers.push(Bearer {
            node: entry.node,
            link: entry.link,
            kind: node.kind,
            at,
        });
    }
    Ok(bearers)
}

/// Moves what is in a directory into another, and deletes it.
fn merge<T: Tree>(
    view: &mut View<'_, T>,
    from: NodeId,
    into: NodeId,
    waiting: &mut BTreeSet<Key>,
) -> Result<(), T::Error> {
    for entry in view.children(from)? {
        let Some(node) = view.node(&entry.node)? else {
            continue;
        };
        let Some(at) = node.link(entry.link) else {
            continue;
        };
        let place = Place {
            parent: into,
            name: entry.name.clone(),
        };
        view.place(entry.node, entry.link, at.time, place, true)?;
        waiting.insert((into, entry.name));
    }
    view.write_life(from, Life::Deleted)
}

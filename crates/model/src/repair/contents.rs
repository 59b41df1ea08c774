//! Concurrent contents: one stays, each of the others becomes a conflict copy.
//!
//! The one that stays is that of the highest dot, and it keeps its dots. So who goes on editing
//! it elsewhere, while others repair, has overwritten it and makes no new conflict. The
//! others lose their dots here. That is safe because all replicas choose alike: the highest
//! write of all that a replica has seen is the highest of what any other saw of it, and no
//! overwritten one is higher than what overwrote it. (Could two replicas give up what the
//! other one keeps, their join would have nothing; it would then keep both.)
//!
//! The id of a copy comes from the node and the content, so every replica makes the same one,
//! whichever of the dots of the content it knows. If that node is there and says something else
//! (it was edited, or deleted), the copy is another node.

use std::collections::{BTreeMap, BTreeSet};

use super::Naming;
use super::view::View;
use crate::conflict_name::{Mark, conflict_name};
use crate::{
    Attrs, Content, Extent, Hlc, Kind, Life, Link, LinkId, Node, NodeId, Place, Tree, Valued, Write,
};

/// Parts the contents of live nodes that have several. The copies are added to `dirty`.
pub(super) fn part<T: Tree>(
    view: &mut View<'_, T>,
    dirty: &mut BTreeSet<NodeId>,
) -> Result<(), T::Error> {
    for id in dirty.clone() {
        let Some(node) = view.node(&id)? else {
            continue;
        };
        // Others hold nothing, so there is nothing to keep.
        let holds = matches!(node.kind, Kind::File | Kind::Symlink);
        if node.content.0.len() < 2 || !node.is_alive() || !holds {
            continue;
        }
        let Some(kept) = node.content().cloned() else {
            continue;
        };
        let others: BTreeMap<&Content, &Valued<Content>> = node
            .content
            .0
            .iter()
            .filter(|valued| valued.value != kept)
            .map(|valued| (&valued.value, valued))
            .collect();
        for valued in others.values() {
            copy(view, dirty, id, &node, valued)?;
        }
        if let Some(attrs) = attrs_without(&node, &kept) {
            view.write(id, &Write::Attrs(attrs))?;
        }
        view.write(id, &Write::Keep(kept))?;
    }
    Ok(())
}

fn copy<T: Tree>(
    view: &mut View<'_, T>,
    dirty: &mut BTreeSet<NodeId>,
    of: NodeId,
    node: &Node,
    valued: &Valued<Content>,
) -> Result<(), T::Error> {
    let place = node.names().next().map(|(_, link)| link);
    let place = place.or_else(|| node.latest_link().map(|(_, link)| link));
    let last = valued
        .dots
        .iter()
        .max_by_key(|dot| (dot.commit, dot.replica));
    let Some(link) = place else {
        return Ok(());
    };
    let Some(id) = free_id(view, of, &valued.value)? else {
        return Ok(());
    };
    let attrs = attrs_of(node, valued);
    let author = last.map(|dot| dot.replica);
    let replica = author.map_or_else(String::new, |author| (view.naming.replica)(&author));
    let mark = Mark {
        replica: &replica,
        time: attrs.time,
        tag: None,
    };
    let link = Link {
        place: Place {
            parent: link.place.parent,
            name: conflict_name(&link.place.name, node.kind, mark),
        },
        present: true,
        time: attrs.time,
    };
    for write in [
        Write::New(node.kind),
        Write::Life(Life::Alive),
        Write::Link(LinkId::BIRTH, link),
        Write::Attrs(attrs),
        Write::Content(valued.value.clone()),
    ] {
        view.write(id, &write)?;
    }
    view.set_author(id, author);
    dirty.insert(id);
    Ok(())
}

/// The id of the copy of a content; `None` if that copy is there.
fn free_id<T: Tree>(
    view: &mut View<'_, T>,
    of: NodeId,
    content: &Content,
) -> Result<Option<NodeId>, T::Error> {
    for attempt in 0u64.. {
        let id = copy_id(view.naming, of, content, attempt);
        match view.node(&id)? {
            None => return Ok(Some(id)),
            Some(node) if node.is_alive() && node.content() == Some(content) => return Ok(None),
            Some(_) => {}
        }
    }
    Ok(None)
}

/// The first six bytes, a time, are those of the node, so that both lie together; the rest is
/// a hash, marked as a UUID of version 8.
fn copy_id(naming: &Naming<'_>, of: NodeId, content: &Content, attempt: u64) -> NodeId {
    let mut bytes = b"larder 1 conflict copy".to_vec();
    bytes.extend_from_slice(of.as_bytes());
    bytes.extend_from_slice(&attempt.to_le_bytes());
    put_content(&mut bytes, content);
    let hash = (naming.hash)(&bytes);
    let NodeId(mut id) = of;
    for (byte, hashed) in id.iter_mut().zip(hash).skip(6) {
        *byte = hashed;
    }
    id[6] = 0x80 | (id[6] & 0x0f);
    id[8] = 0x80 | (id[8] & 0x3f);
    NodeId(id)
}

/// Bytes that tell contents apart. Each form begins with a byte of its own and has parts of fixed
/// length, but for a target, which ends all.
fn put_content(bytes: &mut Vec<u8>, content: &Content) {
    match content {
        Content::None => bytes.push(0),
        Content::Target(target) => {
            bytes.push(1);
            bytes.extend_from_slice(target);
        }
        Content::Extents(extents) => {
            bytes.push(2);
            for extent in extents {
                match extent {
                    Extent::Chunk { id, len } => {
                        bytes.push(0);
                        bytes.extend_from_slice(id.as_bytes());
                        bytes.extend_from_slice(&len.to_le_bytes());
                    }
                    Extent::Hole { len } => {
                        bytes.push(1);
                        bytes.extend_from_slice(&len.to_le_bytes());
                    }
                }
            }
        }
        Content::List { root, size } => {
            bytes.push(3);
            bytes.extend_from_slice(root.as_bytes());
            bytes.extend_from_slice(&size.to_le_bytes());
        }
    }
}

/// The attributes that were written with a content, else those that are read.
fn attrs_of(node: &Node, valued: &Valued<Content>) -> Attrs {
    let together = node
        .attrs
        .0
        .iter()
        .filter(|attrs| !attrs.dots.is_disjoint(&valued.dots))
        .map(|attrs| &attrs.value)
        .max_by_key(|attrs| (attrs.time, *attrs));
    together.or(node.attrs()).cloned().unwrap_or_default()
}

/// The attributes that the node must get, if those that are read were written with a content that
/// goes into a copy: the latest of the others.
fn attrs_without(node: &Node, kept: &Content) -> Option<Attrs> {
    let gone = |valued: &Valued<Attrs>| {
        let with = |content: &&Valued<Content>| !content.dots.is_disjoint(&valued.dots);
        let mut contents = node.content.0.iter().filter(with).peekable();
        contents.peek().is_some() && contents.all(|content| &content.value != kept)
    };
    let latest = node.attrs()?;
    let is_gone = |valued: &&Valued<Attrs>| gone(valued);
    node.attrs
        .0
        .iter()
        .find(|valued| &valued.value == latest)
        .filter(is_gone)?;
    let others = node.attrs.0.iter().filter(|valued| !gone(valued));
    let best = others
        .map(|valued| &valued.value)
        .max_by_key(|attrs| (attrs.time, *attrs))?;
    let time = Hlc(latest.time.0.saturating_add(1));
    Some(Attrs {
        time,
        ..best.clone()
    })
}

//! Every live node has a place, in a directory that is alive.

use std::collections::BTreeSet;

use super::view::View;
use crate::{Kind, Life, Link, LinkId, Name, Node, NodeId, Place, Tree};

/// Links without a directory: nothing is known of it, or it was in a circle.
pub(super) type Adrift = BTreeSet<(NodeId, LinkId)>;

/// Brings back what live nodes need: a link for those that have none, and the deleted
/// directories above them. What was looked at is added to `dirty`. The answer is the links
/// whose directory is not known.
///
/// Each step adds, and none takes away what another looks at: so their order does not matter.
pub(super) fn find<T: Tree>(
    view: &mut View<'_, T>,
    dirty: &mut BTreeSet<NodeId>,
) -> Result<Adrift, T::Error> {
    let mut adrift = Adrift::new();
    let mut waiting = dirty.clone();
    while let Some(id) = waiting.pop_first() {
        dirty.insert(id);
        let node = view.node(&id)?;
        if node.as_ref().is_none_or(|node| !node.is_alive()) {
            let is_root = id == NodeId::ROOT && node.is_some();
            let is_directory = node.is_some_and(|node| node.kind == Kind::Directory);
            let children = view.children(id)?;
            if is_directory && (is_root || !children.is_empty()) {
                view.write_life(id, Life::Alive)?;
                waiting.insert(id);
            } else {
                waiting.extend(children.into_iter().map(|entry| entry.node));
            }
            continue;
        }
        let Some(node) = node.filter(|_| id != NodeId::ROOT) else {
            continue;
        };
        for (link, at) in links(view, id, &node)? {
            if at.place.parent == NodeId::ROOT {
                continue;
            }
            match view.node(&at.place.parent)? {
                Some(parent) if parent.kind == Kind::Directory => {
                    if !parent.is_alive() {
                        waiting.insert(at.place.parent);
                    }
                }
                _ => {
                    adrift.insert((id, link));
                }
            }
        }
    }
    Ok(adrift)
}

/// The present links of a live node: at least one, and one only of a directory.
fn links<T: Tree>(
    view: &mut View<'_, T>,
    id: NodeId,
    node: &Node,
) -> Result<Vec<(LinkId, Link)>, T::Error> {
    let mut links: Vec<(LinkId, Link)> = node
        .present_links()
        .map(|(id, link)| (id, link.clone()))
        .collect();
    if links.is_empty() {
        let (link, at) = match node.latest_link() {
            Some((link, at)) => (link, at.clone()),
            None => (LinkId::BIRTH, nowhere(id)),
        };
        view.place(id, link, at.time, at.place.clone(), true)?;
        links.push((link, at));
    }
    if node.kind == Kind::Directory && links.len() > 1 {
        links.sort_by_key(|(id, link)| (link.time, *id));
        let last = links.pop();
        for (link, at) in links.drain(..) {
            view.place(id, link, at.time, at.place, false)?;
        }
        links.extend(last);
    }
    Ok(links)
}

/// For a node that never had a link, which no replica makes: the root, by its id.
fn nowhere(id: NodeId) -> Link {
    Link {
        place: Place {
            parent: NodeId::ROOT,
            name: Name::new(id.to_string()).unwrap_or_else(|_| Name::least()),
        },
        present: true,
        time: crate::Hlc::default(),
    }
}

/// Puts what is adrift into the root directory. The conflict name says whose it was and keeps
/// a directory from becoming one with another of its name there.
pub(super) fn bring_to_root<T: Tree>(
    view: &mut View<'_, T>,
    adrift: &Adrift,
) -> Result<(), T::Error> {
    for &(id, link) in adrift {
        let Some(node) = view.node(&id)? else {
            continue;
        };
        let Some(at) = node.link(link) else {
            continue;
        };
        let name = view.free_name(&NodeId::ROOT, id, link, node.kind, at)?;
        let place = Place {
            parent: NodeId::ROOT,
            name,
        };
        view.place(id, link, at.time, place, true)?;
    }
    Ok(())
}

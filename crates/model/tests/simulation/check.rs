//! What must hold of a tree.

use std::collections::{BTreeMap, BTreeSet};

use larder_model::{Content, Extent, Kind, NodeId, Nodes};

/// Why a tree is not in order, or a node in it is not whole.
pub fn disorder(nodes: &Nodes) -> Option<String> {
    for (id, node) in nodes.iter() {
        let registers = !node.life.0.is_empty()
            && !node.attrs.0.is_empty()
            && !node.content.0.is_empty()
            && (!node.links.is_empty() || *id == NodeId::ROOT);
        if !registers {
            return Some(format!("a register of {id} is empty"));
        }
    }
    misplaced(nodes)
}

/// Why a tree is not in order.
pub fn misplaced(nodes: &Nodes) -> Option<String> {
    let mut names = BTreeSet::new();
    let mut children: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    let mut live = BTreeSet::new();
    for (id, node) in nodes.iter() {
        if !node.is_alive() {
            continue;
        }
        live.insert(*id);
        if node.content.0.len() > 1 && node.kind != Kind::Directory {
            return Some(format!("{id} has several contents"));
        }
        let mut count = 0;
        for (_, link) in node.names() {
            count += 1;
            if !names.insert((link.place.parent, link.place.name.clone())) {
                return Some(format!("two have the name {:?}", link.place));
            }
            children.entry(link.place.parent).or_default().push(*id);
        }
        if node.kind == Kind::Directory && *id != NodeId::ROOT && count != 1 {
            return Some(format!("the directory {id} has {count} names"));
        }
    }
    let mut reached = BTreeSet::from([NodeId::ROOT]);
    let mut waiting = vec![NodeId::ROOT];
    while let Some(at) = waiting.pop() {
        let is_directory = nodes
            .get(&at)
            .is_some_and(|node| node.kind == Kind::Directory);
        for child in children.remove(&at).unwrap_or_default() {
            if !is_directory {
                return Some(format!("{child} is in {at}, which is no directory"));
            }
            if reached.insert(child) {
                waiting.push(child);
            }
        }
    }
    live.difference(&reached)
        .next()
        .map(|id| format!("{id} is alive and cannot be reached"))
}

/// What live files hold: the nodes of each content.
pub fn contents(nodes: &Nodes) -> BTreeMap<u64, BTreeSet<NodeId>> {
    let mut contents: BTreeMap<u64, BTreeSet<NodeId>> = BTreeMap::new();
    for (id, node) in nodes.iter() {
        if let (true, Some(token)) = (node.is_alive(), node.content().and_then(token)) {
            contents.entry(token).or_default().insert(*id);
        }
    }
    contents
}

/// A content that stands for a number.
pub fn content(token: u64) -> Content {
    let mut id = [0; 32];
    // The order of contents must not be that of writes.
    id[..8].copy_from_slice(&token.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    id[24..].copy_from_slice(&token.to_le_bytes());
    let id = larder_model::ChunkId(id);
    Content::Extents(vec![Extent::Chunk { id, len: 1 }])
}

/// A target that stands for a number.
pub fn target(token: u64) -> Content {
    Content::Target(format!("{:x} {token}", token.wrapping_mul(0x9e37_79b9)).into_bytes())
}

/// The number that a content stands for.
pub fn token(content: &Content) -> Option<u64> {
    match content {
        Content::Extents(extents) => match extents.as_slice() {
            [Extent::Chunk { id, .. }] => Some(u64::from_le_bytes(id.0[24..].try_into().ok()?)),
            _ => None,
        },
        Content::Target(target) => {
            let text = std::str::from_utf8(target).ok()?;
            text.split(' ').next_back()?.parse().ok()
        }
        _ => None,
    }
}

//! What differs between two commits. The cost follows the differences: of trees that are
//! equal in a part, that part is not read.

use larder_format::decode_node;
use larder_format::tree::{diff, parse_node_key};
use larder_model::{Attrs, ChunkId, Content, Hlc, Kind, Node, NodeId, Time};

use super::Moment;
use super::past::Past;
use crate::{Result, Volume};

/// What became of a node between two commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// It was made, or came back.
    Added,
    /// It was deleted.
    Removed,
    /// Its content changed.
    Content,
    /// Its name or directory changed, and nothing else of it.
    Moved,
    /// Its mode, owner or extended attributes changed, and nothing else of it; of a file also
    /// its time.
    Attributes,
}

/// A node that two commits have differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What became of it.
    pub what: What,
    /// What it is.
    pub kind: Kind,
    /// Its path in the newer commit; in the older one if it was deleted.
    pub path: Vec<u8>,
    /// Its path in the older commit, where that is another.
    pub from: Option<Vec<u8>>,
    /// Its size before, in bytes, if it was there.
    pub size_before: Option<u64>,
    /// Its size after, in bytes, if it is there.
    pub size_after: Option<u64>,
}

impl Volume {
    /// What the commit `after` has differently from `before` (`None`: from an empty tree) at or
    /// below the path `below`, in the order of the paths.
    ///
    /// # Errors
    /// If a page of a tree cannot be had.
    pub fn differences(
        &self,
        before: Option<&Moment>,
        after: &Moment,
        below: &[u8],
    ) -> Result<Vec<Difference>> {
        let mut new = Past::new(self, &after.commit);
        let mut found = Vec::new();
        match before {
            Some(before) => {
                let mut old = Past::new(self, &before.commit);
                let (from, to) = (*old.nodes(), *new.nodes());
                let mut pages = |id: &ChunkId| self.tree_page(id);
                diff(&from, &to, &mut pages, |one| {
                    let read = |bytes: Option<&[u8]>| bytes.map(decode_node).transpose();
                    let (was, is) = (read(one.old)?, read(one.new)?);
                    found.extend(difference(
                        Some(&mut old),
                        &mut new,
                        was.as_ref(),
                        is.as_ref(),
                    )?);
                    Ok(())
                })?;
            }
            None => {
                let nodes = *new.nodes();
                for entry in nodes.scan(&[], |id: &ChunkId| self.tree_page(id)) {
                    let (key, value) = entry?;
                    if parse_node_key(&key)? != NodeId::ROOT {
                        found.extend(difference(
                            None,
                            &mut new,
                            None,
                            Some(&decode_node(&value)?),
                        )?);
                    }
                }
            }
        }
        found.retain(|one: &Difference| {
            lies_below(&one.path, below)
                || one.from.as_deref().is_some_and(|p| lies_below(p, below))
        });
        found.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

/// Whether a path is `top` or lies below it.
pub(super) fn lies_below(path: &[u8], top: &[u8]) -> bool {
    match path.strip_prefix(top) {
        Some(rest) => top.is_empty() || rest.is_empty() || rest.starts_with(b"/"),
        None => false,
    }
}

/// What became of one node, if a user would call it a change.
pub(super) fn difference(
    old: Option<&mut Past<'_>>,
    new: &mut Past<'_>,
    was: Option<&Node>,
    is: Option<&Node>,
) -> Result<Option<Difference>> {
    let alive_before = was.filter(|node| node.is_alive());
    let alive_after = is.filter(|node| node.is_alive());
    let Some(kind) = alive_after.or(alive_before).map(|node| node.kind) else {
        return Ok(None);
    };
    let path_before = match (old, alive_before) {
        (Some(old), Some(node)) => path_of(old, node)?,
        _ => None,
    };
    let path_after = alive_after
        .map(|node| path_of(new, node))
        .transpose()?
        .flatten();
    Ok(became(
        kind,
        alive_before,
        alive_after,
        path_before,
        path_after,
    ))
}

/// What became of a node: as it was if it was alive, as it is if it is, and its paths.
pub(crate) fn became(
    kind: Kind,
    before: Option<&Node>,
    after: Option<&Node>,
    path_before: Option<Vec<u8>>,
    path_after: Option<Vec<u8>>,
) -> Option<Difference> {
    let what = match (before, after) {
        (None, _) => What::Added,
        (Some(_), None) => What::Removed,
        (Some(before), Some(after)) => changed(before, after, path_before != path_after)?,
    };
    let from = path_before
        .clone()
        .filter(|_| path_after.is_some() && path_before != path_after);
    // The root has none: its name is nothing that changes.
    let path = path_after.or(path_before)?;
    Some(Difference {
        what,
        kind,
        path,
        from,
        size_before: before.map(size),
        size_after: after.map(size),
    })
}

pub(crate) fn path_of(past: &mut Past<'_>, node: &Node) -> Result<Option<Vec<u8>>> {
    let place = node.names().map(|(_, link)| &link.place).min().cloned();
    place.map(|place| past.path(&place)).transpose()
}

fn changed(before: &Node, after: &Node, moved: bool) -> Option<What> {
    if before.content() != after.content() {
        return Some(What::Content);
    }
    if moved {
        return Some(What::Moved);
    }
    (told(before) != told(after)).then_some(What::Attributes)
}

/// What a user knows of attributes: not who wrote them when. A directory's time changes with
/// each name in it.
fn told(node: &Node) -> Option<Attrs> {
    let attrs = node.attrs()?;
    Some(Attrs {
        mtime: match node.kind {
            Kind::Directory => Time(0),
            _ => attrs.mtime,
        },
        ctime: Time(0),
        time: Hlc(0),
        ..attrs.clone()
    })
}

fn size(node: &Node) -> u64 {
    node.content().map_or(0, Content::size)
}

#[cfg(test)]
mod tests {
    use super::lies_below;

    #[test]
    fn a_path_lies_below_itself_and_what_is_above_it_and_below_no_other() {
        for top in [&b""[..], b"a", b"a/b"] {
            assert!(lies_below(b"a/b", top));
        }
        for top in [&b"a/b/c"[..], b"a/", b"b", b"a/bc"] {
            assert!(!lies_below(b"a/bb", top), "{top:?}");
        }
    }
}

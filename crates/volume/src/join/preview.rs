//! What a sync would do, without doing it.

use std::collections::HashMap;
use std::sync::Arc;

use larder_model::{Node, NodeId, Place};
use rusqlite::Connection;

use super::find::unseen;
use super::merge::{Merged, merge};
use super::missing_pages;
use crate::history::{Difference, Past, became, path_of};
use crate::pull::{Found, list_heads};
use crate::push::{base_commit, blocking};
use crate::{Ino, Result, Volume, VolumeError};

/// What a sync would do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preview {
    /// What would change here, in the order of the paths.
    pub coming: Vec<Difference>,
    /// Paths of what was changed on both sides, and would stand side by side. What is in no
    /// commit yet is not looked at.
    pub conflicts: Vec<Vec<u8>>,
    /// Paths of what was made or changed here since the latest commit, or is not stored yet.
    pub going: Vec<Vec<u8>>,
    /// How many nodes were deleted here since the latest commit.
    pub going_deleted: u64,
    /// What could not be read, in words.
    pub left: Vec<String>,
}

impl Volume {
    /// What a sync would do now. Nothing is changed, here or on the store.
    ///
    /// # Errors
    /// If the store cannot be asked, a page of another's tree cannot be had or is damaged, or the
    /// database fails.
    pub async fn preview(self: &Arc<Self>) -> Result<Preview> {
        let listed = list_heads(self.fetcher()).await?;
        let (others, left) = unseen(self, &listed).await?;
        let mut preview = Preview {
            left,
            ..Preview::default()
        };
        for other in others {
            let pages = missing_pages(self, &other.commit).await?;
            let merging = Arc::clone(self);
            let (coming, conflicts) = blocking(move || {
                merging.db.read_snapshot(|connection| {
                    match merge(&merging, connection, &other, pages)? {
                        Some(merged) => foreseen(&merging, connection, &other, &merged),
                        None => Ok(Default::default()),
                    }
                })
            })
            .await?;
            preview.coming.extend(coming);
            preview.conflicts.extend(conflicts);
        }
        // Of two others that know of each other, both bring the same.
        preview.coming.sort_by(|a, b| a.path.cmp(&b.path));
        preview.coming.dedup();
        preview.conflicts.sort();
        preview.conflicts.dedup();
        let reading = Arc::clone(self);
        let (going, deleted) = blocking(move || reading.going()).await?;
        (preview.going, preview.going_deleted) = (going, deleted);
        Ok(preview)
    }

    fn going(&self) -> Result<(Vec<Vec<u8>>, u64)> {
        self.flush_lives();
        let mut paths = Vec::new();
        let waiting = self.dirty_files().into_iter().map(|(ino, _)| ino);
        let deleted = self.db.read_snapshot(|connection| {
            let mut changed = connection.prepare_cached("SELECT ino FROM changed WHERE seq > 0")?;
            let changed = changed
                .query_map([], |row| Ok(row.get::<_, i64>(0)? as Ino))?
                .collect::<Result<Vec<_>, _>>()?;
            for ino in changed.into_iter().chain(waiting) {
                let path = crate::names::path_of(connection, ino)?;
                paths.extend(path.filter(|path| !path.is_empty()));
            }
            let deleted: i64 =
                connection.query_row("SELECT count(*) FROM tombstones", [], |row| row.get(0))?;
            Ok(deleted as u64)
        })?;
        paths.sort();
        paths.dedup();
        Ok((paths, deleted))
    }
}

/// What of a join a user would call a change, and the paths of its conflicts.
fn foreseen(
    volume: &Volume,
    connection: &Connection,
    other: &Found,
    merged: &Merged,
) -> Result<(Vec<Difference>, Vec<Vec<u8>>)> {
    let Some((_, base)) = base_commit(volume, connection)? else {
        return Ok(Default::default());
    };
    let mut past = Past::new(volume, &base);
    let after: HashMap<NodeId, Option<&Node>> = merged
        .changes
        .iter()
        .map(|changed| (changed.id, changed.after.as_deref()))
        .collect();
    let alive = |node: &&Node| node.is_alive();
    let (mut coming, mut conflicts) = (Vec::new(), Vec::new());
    for changed in &merged.changes {
        let was = changed.before.as_deref().filter(alive);
        let is = changed.after.as_deref().filter(alive);
        let Some(kind) = is.or(was).map(|node| node.kind) else {
            continue;
        };
        let path_before = match was {
            Some(node) => path_of(&mut past, node)?,
            None => None,
        };
        let place = is.and_then(|node| node.names().map(|(_, link)| &link.place).min());
        let path_after = place
            .map(|place| path_then(&mut past, &after, place))
            .transpose()?;
        if merged.conflicts.contains(&changed.id) {
            conflicts.extend(path_after.clone());
        }
        coming.extend(became(kind, was, is, path_before, path_after));
    }
    tracing::debug!(commit = %other.id, changes = coming.len(), "looked at what would come");
    Ok((coming, conflicts))
}

/// The path that a place has after the join.
fn path_then(
    past: &mut Past<'_>,
    after: &HashMap<NodeId, Option<&Node>>,
    place: &Place,
) -> Result<Vec<u8>> {
    let mut names = vec![place.name.clone()];
    let mut parent = place.parent;
    while let Some(node) = after.get(&parent).filter(|_| parent != NodeId::ROOT) {
        let link = node.and_then(Node::latest_link);
        let Some((_, link)) = link.filter(|_| names.len() < after.len() + 2) else {
            return Err(VolumeError::Damaged(format!(
                "directory {parent} of the joined tree is not in any directory"
            )));
        };
        names.push(link.place.name.clone());
        parent = link.place.parent;
    }
    let mut path = past.directory(parent)?;
    for name in names.iter().rev() {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
    }
    Ok(path)
}

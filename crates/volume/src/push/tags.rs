//! Lists of tags go to the store, and those of others come from there.
//!
//! They lie beside the heads, so that one listing shows both, and nothing is read that was seen
//! before. A list's number is durable before it leaves, so none is put over another; a list with a
//! lower number than was seen is stale, and is not looked at. A list names commits that the store
//! has, so it may go at any time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use larder_format::{MAX_TAGS_BYTES, open_tags, parse_tags_name, seal_tags, tags_name};
use larder_model::{ReplicaId, Tags};
use larder_store::ObjectMeta;

use super::index::blocking;
use super::ingest::salt;
use super::proof;
use super::shared::Shared;
use super::upload::{key, put};
use crate::history::{Numbered, due_tags, keep_tag_list, own_list, set_due_tags, tag_lists};
use crate::{Result, Volume, VolumeError};

/// What a list's seal, signature and names take at most.
const AROUND_A_LIST: u64 = 1024;
/// So many lists of this replica stay on the store: who listed them reads one a moment later.
const LISTS_KEPT: usize = 2;

type Listed<'a> = BTreeMap<ReplicaId, Vec<(u64, &'a ObjectMeta)>>;

/// The lists among these objects, of each replica the newest first.
fn lists_in(listed: &[ObjectMeta]) -> Listed<'_> {
    let mut lists = Listed::new();
    for found in listed {
        if let Some((replica, n)) = parse_tags_name(found.key.as_str()) {
            lists.entry(replica).or_default().push((n, found));
        }
    }
    for numbers in lists.values_mut() {
        numbers.sort_unstable_by_key(|(n, _)| std::cmp::Reverse(*n));
    }
    lists
}

/// The number of the newest list of each replica among these objects.
pub(crate) fn newest_tags(listed: &[ObjectMeta]) -> BTreeMap<ReplicaId, u64> {
    let newest = |(replica, numbers): (ReplicaId, Vec<(u64, &ObjectMeta)>)| {
        let (n, _) = numbers.first()?;
        Some((replica, *n))
    };
    lists_in(listed).into_iter().filter_map(newest).collect()
}

/// Reads the lists that are newer than those seen before. What cannot be used is answered, in
/// words.
///
/// # Errors
/// If the store cannot be asked, or the database fails.
pub(crate) async fn take_in_tags(
    volume: &Arc<Volume>,
    listed: &[ObjectMeta],
) -> Result<Vec<String>> {
    let lists = lists_in(listed);
    if lists.is_empty() {
        return Ok(Vec::new());
    }
    let reading = Arc::clone(volume);
    let seen = blocking(move || reading.db.read_snapshot(tag_lists)).await?;
    let mut warnings = Vec::new();
    for (replica, numbers) in lists {
        let before = seen.get(&replica).map_or(0, |list| list.n);
        for (n, object) in numbers.into_iter().take_while(|(n, _)| *n > before) {
            match read(volume, replica, n, object).await {
                Ok(tags) => {
                    let keeping = Arc::clone(volume);
                    blocking(move || keeping.keep_tags(replica, Numbered { n, tags })).await?;
                    break;
                }
                Err(error @ (VolumeError::Damaged(_) | VolumeError::Format(_))) => {
                    warnings.push(format!("{} cannot be used: {error}", object.key));
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(warnings)
}

async fn read(
    volume: &Arc<Volume>,
    replica: ReplicaId,
    n: u64,
    object: &ObjectMeta,
) -> Result<Tags> {
    if object.size > MAX_TAGS_BYTES as u64 + AROUND_A_LIST {
        return Err(VolumeError::Damaged(
            "it is larger than a list of tags can be".to_owned(),
        ));
    }
    let deadline = Instant::now() + volume.settings.read_wait * 4;
    let source = &volume.fetcher().source;
    let bytes = source.fetch_whole(object, deadline).await?;
    Ok(open_tags(&volume.keys, &replica, n, &bytes)?)
}

impl Volume {
    /// Keeps a list that came from the store. If it is of this replica (the state here is a restored
    /// backup, say), what either has is in both.
    fn keep_tags(&self, replica: ReplicaId, mut list: Numbered) -> Result<()> {
        let own = self.replica().id();
        self.db.write(|tx| {
            if replica == own {
                let there = list.tags.clone();
                list.tags
                    .join(&own_list(&tag_lists(tx)?, due_tags(tx)?, &own).tags);
                if list.tags != there {
                    set_due_tags(tx, Some(&own))?;
                }
            }
            keep_tag_list(tx, &replica, &list)
        })
    }

    /// The list of this replica that is to be put, if one is, with its number durable. It is above
    /// all numbers of `listed`.
    fn next_tags(&self, listed: u64) -> Result<Option<Numbered>> {
        let own = self.replica().id();
        let next = |connection: &rusqlite::Connection| -> Result<Option<Numbered>> {
            let Some(due) = due_tags(connection)? else {
                return Ok(None);
            };
            let mut list = own_list(&tag_lists(connection)?, Some(due), &own);
            list.n = list.n.max(listed).saturating_add(1);
            Ok(Some(list))
        };
        if self.db.read_snapshot(due_tags)?.is_none() {
            return Ok(None);
        }
        self.db.write_synced(|tx| {
            let next = next(tx)?;
            if let Some(list) = &next {
                keep_tag_list(tx, &own, list)?;
                set_due_tags(tx, Some(&own))?;
            }
            Ok(next)
        })
    }
}

/// Puts this replica's list, if it changed since it was put. `listed` is what lies beside the heads.
///
/// # Errors
/// [`VolumeError::Stopping`], and failures of the database.
pub(super) async fn put_due_tags(
    shared: &Shared,
    volume: &Arc<Volume>,
    listed: &[ObjectMeta],
) -> Result<()> {
    let replica = volume.replica();
    let earlier = lists_in(listed).remove(&replica.id()).unwrap_or_default();
    let highest = earlier.first().map_or(0, |(n, _)| *n);
    let looking = Arc::clone(volume);
    let Some(list) = blocking(move || looking.next_tags(highest)).await? else {
        return Ok(());
    };
    let name = key(tags_name(&replica.id(), list.n))?;
    let sealed = seal_tags(&volume.keys, &replica, list.n, &list.tags, salt()?)?;
    let accepted = put(shared, &volume.store, &name, Bytes::from(sealed)).await?;
    let noting = Arc::clone(volume);
    blocking(move || {
        noting.db.write(|tx| {
            if let Some(accepted) = &accepted {
                accepted.note(tx)?;
            }
            // What was tagged meanwhile is due still.
            match tag_lists(tx)?.get(&replica.id()) == Some(&list) {
                true => set_due_tags(tx, None),
                false => Ok(()),
            }
        })
    })
    .await?;
    for (_, old) in earlier.iter().skip(LISTS_KEPT - 1) {
        proof::forget(volume, &old.key)?;
        if let Err(error) = volume.store.delete(&old.key).await {
            tracing::debug!(%error, "an old list of tags stays");
        }
    }
    Ok(())
}

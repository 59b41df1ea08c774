//! What others have on the store that is not included here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use larder_format::Commit;
use larder_model::{Clock, ReplicaId};
use larder_store::{Key, ObjectMeta};
use parking_lot::Mutex;

use crate::pull::{Found, heads_in, learn_indexes, newest_of};
use crate::push::{base_commit, beside, blocking};
use crate::{Result, Volume};

/// What was seen on the store already, and need not be read again.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Index objects.
    indexes: Mutex<HashSet<Key>>,
    /// Of each other replica the number of the newest head, and whether it was included here.
    heads: Mutex<HashMap<ReplicaId, u64>>,
    /// This replica's mark that could be read, and when that was, in nanoseconds since 1970.
    pub(crate) own_mark: Mutex<Option<(u64, i64)>>,
}

impl Seen {
    /// Whether the newest commit that this replica had on the store is included here.
    pub(crate) fn includes(&self, replica: &ReplicaId) -> bool {
        self.heads.lock().contains_key(replica)
    }

    /// This commit of another replica is included here from now on.
    pub(crate) fn note(&self, commit: &Commit) {
        self.heads.lock().insert(commit.author, commit.n);
    }

    /// The index objects that were read.
    pub(crate) fn indexes(&self) -> &Mutex<HashSet<Key>> {
        &self.indexes
    }

    /// All index objects are read again.
    pub(crate) fn forget_indexes(&self) {
        self.indexes.lock().clear();
    }
}

/// What the tree here includes.
///
/// # Errors
/// If the database fails.
pub(crate) fn included(volume: &Volume) -> Result<Clock> {
    volume.db.read_snapshot(|connection| {
        let base = base_commit(volume, connection)?;
        let mut clock = base.map(|(_, commit)| commit.clock).unwrap_or_default();
        for (_, commit) in beside(connection)? {
            clock.join(&commit.clock);
        }
        Ok(clock)
    })
}

/// The newest commit of each other replica with a head among `listed` that is not included here, the
/// latest first; and what could not be read, in words. The packs that hold them are known.
///
/// # Errors
/// If the store cannot be asked, or the database fails.
pub(crate) async fn unseen(
    volume: &Arc<Volume>,
    listed: &[ObjectMeta],
) -> Result<(Vec<Found>, Vec<String>)> {
    let (fetcher, wait) = (volume.fetcher(), volume.settings.read_wait * 4);
    let own = volume.replica().id();
    let seen = &volume.seen;
    let mut heads: BTreeMap<_, _> = heads_in(listed);
    heads.retain(|replica, heads| {
        let newest = heads.iter().map(|(n, _)| *n).max();
        *replica != own && newest > seen.heads.lock().get(replica).copied()
    });
    if heads.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    // After the heads: what they name was indexed before.
    let mut warnings = learn_indexes(fetcher, &volume.db, &seen.indexes, wait).await?;
    let reading = Arc::clone(volume);
    let included = blocking(move || included(&reading)).await?;
    let mut unseen = Vec::new();
    for (replica, mut heads) in heads {
        heads.sort_unstable_by_key(|(n, _)| std::cmp::Reverse(*n));
        let newest = newest_of(fetcher, &volume.db, replica, &heads, wait, &mut warnings).await?;
        match newest {
            Some(found) if included.includes(&found.commit.clock) => {
                seen.note(&found.commit);
            }
            Some(found) => unseen.push(found),
            None => {}
        }
    }
    unseen.sort_unstable_by_key(|found| std::cmp::Reverse(found.commit.time));
    Ok((unseen, warnings))
}

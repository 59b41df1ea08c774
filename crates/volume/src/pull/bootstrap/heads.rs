//! Which commit is the newest.
//!
//! Each replica's highest head that verifies counts. Of their commits the one whose clock
//! includes all others is the newest. If there is none, replicas worked apart: the latest
//! is taken, with a warning. Nothing of the others is lost; it stays on the store.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use larder_format::{Commit, Head, object, open_head, parse_head_name};
use larder_model::{ChunkId, ReplicaId};
use larder_store::ObjectMeta;
use rusqlite::Connection;

use super::super::request::Fetcher;
use super::tree::fetch_chunks;
use crate::db::Db;
use crate::{Result, VolumeError};

/// What makes no sense is asked for so often again, with a pause before each: an empty list of
/// heads, or a head that is damaged. The line may have harmed it, not the store; and a machine that
/// begins with an older tree than there is looks as if it had lost something.
pub(super) const AGAIN: u32 = 2;
pub(super) const PAUSE: Duration = Duration::from_millis(100);

/// A commit, as its bytes say it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) id: ChunkId,
    pub(crate) commit: Commit,
    pub(crate) bytes: Vec<u8>,
}

/// The heads of each replica on the store, with their numbers.
///
/// # Errors
/// If the store cannot be asked.
async fn heads_of(fetcher: &Fetcher) -> Result<Heads> {
    Ok(heads_in(&list_heads(fetcher).await?))
}

/// What lies beside the heads on the store, and they themselves: one listing.
///
/// # Errors
/// If the store cannot be asked.
pub(crate) async fn list_heads(fetcher: &Fetcher) -> Result<Vec<ObjectMeta>> {
    let store = fetcher.source.store();
    Ok(store.list(&format!("{}/", object::HEADS)).await?)
}

/// The heads among these objects.
pub(crate) fn heads_in(listed: &[ObjectMeta]) -> Heads {
    let mut heads = Heads::new();
    for found in listed {
        if let Some((replica, n)) = parse_head_name(found.key.as_str()) {
            heads.entry(replica).or_default().push((n, found.clone()));
        }
    }
    heads
}

/// Heads by replica, with their numbers.
pub(crate) type Heads = BTreeMap<ReplicaId, Vec<(u64, ObjectMeta)>>;

/// The newest commit on the store, if there is any, and what a user should know of it.
///
/// # Errors
/// If the store cannot be reached, or no head of any replica can be used though there are
/// some, or packs: a store that lost its heads must not look like an empty volume.
pub(super) async fn newest(
    fetcher: &Fetcher,
    db: &Db,
    wait: Duration,
) -> Result<(Option<Found>, Vec<String>)> {
    let mut by_replica = heads_of(fetcher).await?;
    for _ in 0..AGAIN {
        if !by_replica.is_empty() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
        by_replica = heads_of(fetcher).await?;
    }
    if by_replica.is_empty() && db.write(|tx| has_packs(tx))? {
        return Err(VolumeError::State(format!(
            "{} holds content, but no head that names a commit. If another machine is storing \
             its first commit there now, wait until it has; otherwise the heads were lost",
            fetcher.source.store().address()
        )));
    }
    let replicas = by_replica.len();
    let mut warnings = Vec::new();
    let mut commits = Vec::new();
    for (replica, mut heads) in by_replica {
        heads.sort_unstable_by_key(|(n, _)| std::cmp::Reverse(*n));
        let mut unusable = Vec::new();
        let mut found = newest_of(fetcher, db, replica, &heads, wait, &mut unusable).await?;
        for _ in 0..AGAIN {
            if unusable.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
            unusable.clear();
            found = newest_of(fetcher, db, replica, &heads, wait, &mut unusable).await?;
        }
        warnings.extend(unusable);
        commits.extend(found);
    }
    if commits.is_empty() && replicas > 0 {
        return Err(VolumeError::Damaged(format!(
            "no commit on {} can be read. {}",
            fetcher.source.store().address(),
            warnings.join("; ")
        )));
    }
    let (newest, apart) = choose(commits);
    warnings.extend(apart);
    Ok((newest, warnings))
}

fn has_packs(connection: &Connection) -> Result<bool> {
    Ok(connection.query_row("SELECT EXISTS(SELECT 1 FROM packs)", [], |row| row.get(0))?)
}

/// The commit of a replica's highest head that verifies and whose commit is there. `heads` has the
/// highest first. What cannot be used is told in `warnings`.
///
/// # Errors
/// If the store cannot be reached.
pub(crate) async fn newest_of(
    fetcher: &Fetcher,
    db: &Db,
    replica: ReplicaId,
    heads: &[(u64, ObjectMeta)],
    wait: Duration,
    warnings: &mut Vec<String>,
) -> Result<Option<Found>> {
    for (n, object) in heads {
        let read = async {
            let deadline = Instant::now() + wait;
            let bytes = fetcher.source.fetch_whole(object, deadline).await?;
            let head = open_head(&fetcher.keys, &replica, *n, &bytes)?;
            read_commit(fetcher, db, &head, wait).await
        };
        match read.await {
            Ok(found) => return Ok(Some(found)),
            Err(error @ (VolumeError::Damaged(_) | VolumeError::Format(_))) => {
                warnings.push(format!("{} cannot be used: {error}", object.key));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The commit that a head names.
async fn read_commit(fetcher: &Fetcher, db: &Db, head: &Head, wait: Duration) -> Result<Found> {
    let found = commit(fetcher, db, head.commit, wait).await?;
    if found.commit.author != head.replica || found.commit.n != head.n {
        return Err(VolumeError::Damaged(
            "its head names another commit's author or number".to_owned(),
        ));
    }
    Ok(found)
}

/// The commit of this id.
///
/// # Errors
/// If there is none on the store, or it cannot be had.
pub(super) async fn commit(
    fetcher: &Fetcher,
    db: &Db,
    id: ChunkId,
    wait: Duration,
) -> Result<Found> {
    let mut found: Option<Vec<u8>> = None;
    fetch_chunks(fetcher, db, &[id], wait, &mut |_: ChunkId, bytes| {
        found = Some(bytes.to_vec());
        Ok(())
    })
    .await?;
    let bytes =
        found.ok_or_else(|| VolumeError::Damaged(format!("commit {id} is not on the store")))?;
    let commit = Commit::decode(&bytes)?;
    Ok(Found { id, commit, bytes })
}

/// The commit that includes all others, else the latest with a warning.
fn choose(mut commits: Vec<Found>) -> (Option<Found>, Option<String>) {
    commits.sort_unstable_by_key(|found| (found.commit.time, found.commit.author));
    let all = commits.iter().position(|one| {
        commits
            .iter()
            .all(|other| one.commit.clock.includes(&other.commit.clock))
    });
    if let Some(at) = all {
        return (Some(commits.swap_remove(at)), None);
    }
    let apart = commits.len();
    let latest = commits.pop();
    let warning = latest.as_ref().map(|latest| {
        let others: Vec<_> = commits
            .iter()
            .filter(|other| !latest.commit.clock.includes(&other.commit.clock))
            .map(|other| other.id.to_string())
            .collect();
        format!(
            "{apart} replicas changed the volume apart from each other. This one starts from \
             the latest state, of replica {}; the changes of the others are safe on the store, \
             and not joined. `larder open` with `--commit` and one of these shows them, in a \
             directory of its own: {}",
            latest.commit.author,
            others.join(" ")
        )
    });
    (latest, warning)
}

#[cfg(test)]
mod tests {
    use larder_model::{Clock, Dot, Hlc, Time};

    use super::*;

    fn commit(author: u8, clock: &[(u8, u64)], time: u64) -> Found {
        let replica = |byte| ReplicaId([byte; 32]);
        let clock: Clock = clock
            .iter()
            .map(|&(byte, commit)| Dot {
                replica: replica(byte),
                commit,
            })
            .collect();
        Found {
            id: ChunkId([author; 32]),
            commit: Commit {
                nodes: ChunkId([0; 32]),
                names: ChunkId([0; 32]),
                n: clock.get(&replica(author)),
                clock,
                author: replica(author),
                time: Hlc(time),
                wall: Time(0),
                message: None,
                parents: Vec::new(),
                files: 0,
                bytes: 0,
            },
            bytes: Vec::new(),
        }
    }

    #[test]
    fn the_commit_that_includes_the_others_is_the_newest_whatever_its_time() {
        let older = commit(1, &[(1, 3)], 900);
        let newer = commit(2, &[(1, 3), (2, 1)], 100);
        let (chosen, warning) = choose(vec![older, newer]);
        assert_eq!(chosen.unwrap().commit.author, ReplicaId([2; 32]));
        assert_eq!(warning, None);
    }

    #[test]
    fn of_commits_made_apart_the_latest_is_taken_and_said_so() {
        let one = commit(1, &[(1, 3)], 900);
        let two = commit(2, &[(1, 2), (2, 1)], 100);
        let (chosen, warning) = choose(vec![one, two]);
        assert_eq!(chosen.unwrap().commit.author, ReplicaId([1; 32]));
        let warning = warning.unwrap();
        assert!(warning.contains("apart") && warning.contains(&ChunkId([2; 32]).to_string()));
    }

    #[test]
    fn a_store_without_commits_has_no_newest() {
        assert!(choose(Vec::new()).0.is_none());
    }
}

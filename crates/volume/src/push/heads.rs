//! This replica's heads on the store.
//!
//! Before its first push a replica compares itself with its own newest head there. If that
//! is ahead of the database (a restored backup, a cloned machine, a lost tail of the
//! database), or is another than the one made here, a commit number would be used twice:
//! it goes on as a new replica ([`super::identity`]). The same is checked again before each
//! head is put.
//!
//! Only a head with this replica's signature proves such a thing. Bytes that are no head
//! prove a bad line or a bad disk; a head is put over them.

use std::sync::Arc;

use bytes::Bytes;
use larder_format::{FormatError, Head, head_name, object, open_head, parse_head_name};
use larder_store::{Key, Store};
use rusqlite::{Connection, OptionalExtension};

use super::identity::{self, Apart};
use super::proof::{self, Accepted};
use super::shared::Shared;
use super::upload::{key, put};
use crate::db::{meta_u64, set_meta};
use crate::{Result, Volume, VolumeError};

/// The row of `meta` with the head that the store had acknowledged and does not show.
const DOUBT: &str = "doubt";
const WARNING: &str = "heads";
/// So many heads are kept on the store.
const HEADS_KEPT: u64 = 8;

/// What the store shows of this replica's heads.
#[derive(Debug)]
pub(super) enum Compared {
    /// This replica may push.
    Clear,
    /// It must go on as a new one.
    Apart(Apart),
}

/// What became of a head.
#[derive(Debug)]
pub(super) enum Pushed {
    /// It is there. What is to be noted if the store did not sync it.
    Put(Option<Accepted>),
    /// Another one is there: this replica must go on as a new one.
    Apart(Apart),
}

/// Compares the newest own head on the store with the database.
///
/// # Errors
/// [`VolumeError::Stopping`], and failures of the database.
pub(super) async fn compare(shared: &Shared, volume: &Arc<Volume>) -> Result<Compared> {
    let there = numbers(shared, volume).await?;
    let made = identity::own_commits(&volume.db, HEADS_KEPT + 1)?;
    let mut acknowledged = 0;
    for (n, _) in made.iter().filter(|(_, acked)| *acked) {
        // One that the store took without syncing is looked after already.
        let name = key(head_name(&volume.replica().id(), *n))?;
        if !proof::is_unproven(volume, &name)? {
            acknowledged = acknowledged.max(*n);
        }
    }
    let (mut newest, mut is_damaged) = (0, false);
    for &n in there.iter().rev() {
        let name = key(head_name(&volume.replica().id(), n))?;
        match lies_there(shared, volume, &name, n).await? {
            There::Another(head) => {
                let common = common(shared, volume, &there).await?;
                return Ok(Compared::Apart(Apart {
                    newest: head,
                    common,
                }));
            }
            There::Damaged => {
                is_damaged = true;
                let words = format!(
                    "{name} on {} is damaged. Check the store with `larder verify --stores`",
                    volume.store.address()
                );
                shared.warnings.set(WARNING, words);
            }
            There::Same => {
                newest = n;
                break;
            }
            There::Nothing => {}
        }
    }
    if newest < acknowledged && !is_damaged {
        note_doubt(volume, acknowledged)?;
    }
    settle_doubt(shared, volume).await?;
    Ok(Compared::Clear)
}

/// The store acknowledged this replica's head `n` and does not show it: it may be an old copy of
/// itself, without what was put since. From here on nothing is dropped. A doubt of before stays:
/// that a later head is there does not answer it.
fn note_doubt(volume: &Volume, n: u64) -> Result<()> {
    volume.db.write_synced(|tx| match meta_u64(tx, DOUBT)? {
        0 => set_meta(tx, DOUBT, &n.to_be_bytes()),
        _ => Ok(()),
    })
}

/// Whether the store may have lost what it had acknowledged.
///
/// # Errors
/// If the database fails.
pub(crate) fn is_in_doubt(connection: &Connection) -> Result<bool> {
    Ok(meta_u64(connection, DOUBT)? != 0)
}

/// All that the store must have was found there.
///
/// # Errors
/// If the database fails.
pub(crate) fn end_doubt(volume: &Volume) -> Result<()> {
    if volume.db.read(is_in_doubt)? {
        volume.db.write(|tx| {
            tx.execute("DELETE FROM meta WHERE key = ?1", [DOUBT])?;
            Ok(())
        })?;
    }
    volume.push.shared.warnings.clear(WARNING);
    Ok(())
}

/// A list that was stale does no harm: where the head is there after all, the doubt ends. Else it
/// is said.
async fn settle_doubt(shared: &Shared, volume: &Arc<Volume>) -> Result<()> {
    let n = volume.db.read(|connection| meta_u64(connection, DOUBT))?;
    if n == 0 {
        return Ok(());
    }
    let name = key(head_name(&volume.replica().id(), n))?;
    if let There::Same = lies_there(shared, volume, &name, n).await? {
        return end_doubt(volume);
    }
    shared.warnings.set(
        WARNING,
        format!(
            "{} does not have commit {n} of this machine, which it had acknowledged: it may have \
             lost objects, or be an old copy of itself. Nothing is dropped here until `larder \
             verify --stores` finds all there",
            volume.store.address()
        ),
    );
    Ok(())
}

/// The numbers of this replica's heads that the store lists, in order.
async fn numbers(shared: &Shared, volume: &Volume) -> Result<Vec<u64>> {
    let replica = volume.replica().id();
    let prefix = format!("{}/{replica}/", object::HEADS);
    let list = || volume.store.list(&prefix);
    let listed = shared.keep_trying(list).await;
    let mut numbers: Vec<_> = listed
        .ok_or(VolumeError::Stopping)?
        .iter()
        .filter_map(|object| parse_head_name(object.key.as_str()))
        .filter(|(of, _)| *of == replica)
        .map(|(_, n)| n)
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The newest commit that is the same here and on the store, as far as heads show it: one
/// that was acknowledged, and whose head has gone since, is.
async fn common(shared: &Shared, volume: &Volume, there: &[u64]) -> Result<u64> {
    for (n, acked) in identity::own_commits(&volume.db, HEADS_KEPT + 1)? {
        let is_common = match there.contains(&n) {
            true => {
                let name = key(head_name(&volume.replica().id(), n))?;
                match lies_there(shared, volume, &name, n).await? {
                    There::Same => true,
                    There::Nothing | There::Damaged => acked,
                    There::Another(_) => false,
                }
            }
            false => acked,
        };
        if is_common {
            return Ok(n);
        }
    }
    Ok(0)
}

enum There {
    Nothing,
    Same,
    /// What is no head of this replica.
    Damaged,
    /// A head that was signed by this replica's key and not made here.
    Another(Head),
}

/// What lies under the name of head `n`, compared with the head made here.
async fn lies_there(shared: &Shared, volume: &Volume, name: &Key, n: u64) -> Result<There> {
    let store = &volume.store;
    let get = || store.get(name);
    let there = shared.keep_trying(get).await.ok_or(VolumeError::Stopping)?;
    let Some(there) = there else {
        return Ok(There::Nothing);
    };
    let here = volume.db.read(|connection| {
        let head: Option<Option<Vec<u8>>> = connection
            .query_row("SELECT head FROM commits WHERE n = ?1", [n as i64], |row| {
                row.get(0)
            })
            .optional()?;
        Ok(head.flatten())
    })?;
    if here.is_some_and(|here| here == there) {
        return Ok(There::Same);
    }
    match open_head(&volume.keys, &volume.replica().id(), n, &there) {
        Ok(head) => Ok(There::Another(head)),
        Err(newer @ FormatError::Newer { .. }) => Err(newer.into()),
        Err(_) => Ok(There::Damaged),
    }
}

/// Whether a head lies under this name that was signed by this replica's key and not made
/// here.
///
/// # Errors
/// [`VolumeError::Stopping`], and failures of the database.
pub(super) async fn is_anothers(shared: &Shared, volume: &Volume, name: &Key) -> Result<bool> {
    let Some((_, n)) = parse_head_name(name.as_str()) else {
        return Ok(false);
    };
    let there = lies_there(shared, volume, name, n).await?;
    Ok(matches!(there, There::Another(_)))
}

/// Puts the head of commit `n`, unless another one lies there.
///
/// # Errors
/// [`VolumeError::Stopping`], and failures of the database.
pub(super) async fn push(
    shared: &Shared,
    volume: &Arc<Volume>,
    n: u64,
    head: Vec<u8>,
) -> Result<Pushed> {
    let name = key(head_name(&volume.replica().id(), n))?;
    let head = Bytes::from(head);
    match lies_there(shared, volume, &name, n).await? {
        There::Same => Ok(Pushed::Put(Accepted::of(&*volume.store, &name, &head))),
        There::Nothing | There::Damaged => {
            let accepted = put(shared, &volume.store, &name, head).await?;
            Ok(Pushed::Put(accepted))
        }
        There::Another(newest) => {
            let there = numbers(shared, volume).await?;
            let common = common(shared, volume, &there).await?;
            Ok(Pushed::Apart(Apart { newest, common }))
        }
    }
}

/// Deletes the head that is too old to be kept, now that a new one is there. That it stays
/// does no harm.
pub(super) async fn drop_old(volume: &Volume, store: &Arc<dyn Store>) {
    let deleted = async {
        // Only the head that is looked for can answer the doubt.
        if volume.db.read(is_in_doubt)? {
            return Ok(());
        }
        let made = identity::own_commits(&volume.db, HEADS_KEPT + 1)?;
        let Some((old, _)) = made.get(HEADS_KEPT as usize) else {
            return Ok(());
        };
        let name = key(head_name(&volume.replica().id(), *old))?;
        proof::forget(volume, &name)?;
        Ok::<_, VolumeError>(store.delete(&name).await?)
    };
    if let Err(error) = deleted.await {
        tracing::debug!(%error, "an old head stays");
    }
}

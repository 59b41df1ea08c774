//! This replica's heads on the store.
//!
//! Before its first push a replica compares itself with its own newest head there. If that
//! is ahead of the database (a restored backup, a cloned machine, a lost tail of the
//! database), or is another than the one made here, nothing may be pushed: a commit number
//! would be used twice. The same is checked again before each head is put.
//!
//! Only a head with this replica's signature proves such a thing. Bytes that are no head
//! prove a bad line or a bad disk; a head is put over them.

use std::sync::Arc;

use bytes::Bytes;
use larder_format::{FormatError, head_name, object, open_head, parse_head_name};
use larder_store::{Key, Store};
use rusqlite::OptionalExtension;

use super::proof::{self, Accepted};
use super::shared::Shared;
use super::upload::{key, put};
use crate::{Result, Volume, VolumeError};

/// So many heads are kept on the store.
const HEADS_KEPT: u64 = 8;

/// What the store shows of this replica's heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compared {
    /// This replica may push.
    Clear,
    /// It must not.
    Refused,
}

/// Compares the newest own head on the store with the database.
///
/// # Errors
/// [`VolumeError::Stopping`], and failures of the database.
pub(super) async fn compare(shared: &Shared, volume: &Arc<Volume>) -> Result<Compared> {
    let store = Arc::clone(&volume.store);
    let replica = volume.replica.id();
    let prefix = format!("{}/{replica}/", object::HEADS);
    let list = || store.list(&prefix);
    let listed = shared
        .keep_trying(list)
        .await
        .ok_or(VolumeError::Stopping)?;
    let newest = listed
        .iter()
        .filter_map(|object| parse_head_name(object.key.as_str()))
        .filter(|(of, _)| *of == replica)
        .map(|(_, n)| n)
        .max()
        .unwrap_or(0);
    let (made, acknowledged) = volume.db.read(|connection| {
        Ok(connection.query_row(
            "SELECT coalesce(max(n), 0), coalesce(max(iif(acked, n, 0)), 0) FROM commits",
            [],
            |row| Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64)),
        )?)
    })?;
    if newest > made {
        return Ok(refuse(
            shared,
            volume,
            &format!(
                "the store has commit {newest} of this machine, and the database here knows \
             {made} only"
            ),
        ));
    }
    if newest < acknowledged {
        shared.warnings.set(
            "heads",
            format!(
                "{} shows commit {newest} of this machine as its newest, though {acknowledged} \
                 was acknowledged: it may have lost objects. Check it with `larder verify \
                 --stores`",
                store.address()
            ),
        );
    }
    if newest == 0 {
        return Ok(Compared::Clear);
    }
    let name = key(head_name(&replica, newest))?;
    Ok(match lies_there(shared, volume, &name, newest).await? {
        There::Another => refuse(
            shared,
            volume,
            &format!("commit {newest} of this machine on the store is not the one made here"),
        ),
        There::Damaged => {
            let words = format!(
                "{name} on {} is damaged. Check the store with `larder verify --stores`",
                store.address()
            );
            shared.warnings.set("heads", words);
            Compared::Clear
        }
        There::Same | There::Nothing => Compared::Clear,
    })
}

fn refuse(shared: &Shared, volume: &Volume, what: &str) -> Compared {
    shared.warnings.refuse(format!(
        "nothing is stored any more: {what}. Its state directory is an old copy (a restored \
         backup, a cloned machine). Nothing is lost: what is dirty stays here, in {}. Open \
         the volume anew with `larder open`, and copy there what is newer here",
        volume.dir.root().display()
    ));
    Compared::Refused
}

enum There {
    Nothing,
    Same,
    /// What is no head of this replica.
    Damaged,
    /// A head that was signed by this replica's key and not made here, or that a newer
    /// Larder wrote.
    Another,
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
    if here.is_none_or(|here| here == there) {
        return Ok(There::Same);
    }
    Ok(
        match open_head(&volume.keys, &volume.replica.id(), n, &there) {
            Ok(_) | Err(FormatError::Newer { .. }) => There::Another,
            Err(_) => There::Damaged,
        },
    )
}

/// Puts the head of commit `n`. Answers what is to be noted if the store did not sync it.
///
/// # Errors
/// [`VolumeError::Stopping`]; or the refusal, if another head lies there.
pub(super) async fn push(
    shared: &Shared,
    volume: &Arc<Volume>,
    n: u64,
    head: Vec<u8>,
) -> Result<Option<Accepted>> {
    let name = key(head_name(&volume.replica.id(), n))?;
    let head = Bytes::from(head);
    match lies_there(shared, volume, &name, n).await? {
        There::Same => Ok(Accepted::of(&*volume.store, &name, &head)),
        There::Nothing | There::Damaged => put(shared, &volume.store, &name, head).await,
        There::Another => {
            refuse(
                shared,
                volume,
                &format!("another machine with this one's key has stored commit {n}"),
            );
            Err(VolumeError::State(
                shared.warnings.refusal().unwrap_or_default(),
            ))
        }
    }
}

/// Deletes the head that is too old to be kept, now that head `n` is there. That it stays
/// does no harm.
pub(super) async fn drop_old(volume: &Volume, store: &Arc<dyn Store>, n: u64) {
    let Some(old) = n.checked_sub(HEADS_KEPT).filter(|&old| old > 0) else {
        return;
    };
    let deleted = async {
        let name = key(head_name(&volume.replica.id(), old))?;
        proof::forget(volume, &name)?;
        Ok::<_, VolumeError>(store.delete(&name).await?)
    };
    if let Err(error) = deleted.await {
        tracing::debug!(%error, old, "an old head stays");
    }
}

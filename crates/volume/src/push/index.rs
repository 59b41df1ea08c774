//! Index objects: which chunk lies in which pack.
//!
//! Each commit that sent packs writes one for them, before its head. Sixteen of about one
//! size are merged into one, so that whoever opens the volume reads few. An index object
//! only repeats what the packs say themselves, and the merged ones go only after a later
//! head was acknowledged, when the bigger one has long been there.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use larder_format::{
    Codec, IndexedPack, PackEntry, PackKind, PackRef, decode_index, encode_index, index_name,
};
use larder_model::{ChunkId, IndexId, PackId};
use parking_lot::Mutex;
use rusqlite::Connection;

use super::ingest::salt;
use super::proof::{self, Accepted};
use super::shared::Shared;
use super::upload::{self, key, put};
use crate::{Result, Volume, VolumeError};

/// So many index objects of one level become one of the next.
const MERGED_AT_ONCE: usize = 8;
/// A level's index objects list this many packs, up to where the next one begins. Those of
/// the last are left as they are: about 8 GiB of content, and some MiB of memory to make.
const LEVELS: [std::ops::Range<usize>; 2] = [1..8, 8..64];
/// One index object lists so many packs at most.
const MOST_PACKS: usize = 1024;

/// What lies in packs that no index object lists yet, as far as this process sent them.
#[derive(Debug, Default)]
pub(super) struct Unindexed(Mutex<HashMap<PackId, Vec<PackEntry>>>);

impl Unindexed {
    /// Remembers what lies in a pack that was acknowledged.
    pub(super) fn remember(&self, pack: PackId, entries: Vec<PackEntry>) {
        self.0.lock().insert(pack, entries);
    }

    fn take(&self, pack: &PackId) -> Option<Vec<PackEntry>> {
        self.0.lock().remove(pack)
    }
}

/// Puts index objects for all packs that none lists yet.
///
/// # Errors
/// [`VolumeError::Stopping`], and failures of the database.
pub(crate) async fn push(shared: &Shared, volume: &Arc<Volume>) -> Result<()> {
    loop {
        let reading = Arc::clone(volume);
        let packs = blocking(move || unindexed(&reading)).await?;
        if packs.is_empty() {
            return Ok(());
        }
        let index = encode_index(&volume.keys, salt()?, &packs)?;
        announce(volume, &index.id)?;
        let name = key(index_name(&index.id))?;
        let accepted = put(shared, &volume.store, &name, Bytes::from(index.bytes)).await?;
        let noting = Arc::clone(volume);
        blocking(move || note(&noting, &index.id, &packs, &[], accepted.as_ref())).await?;
    }
}

/// Runs what asks the database away from the tasks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A bug: it is said, and whoever asked goes on.
        Err(error) if error.is_panic() => Err(VolumeError::State(format!(
            "a task of Larder failed: {error}"
        ))),
        Err(_) => Err(VolumeError::Stopping),
    }
}

fn unindexed(volume: &Volume) -> Result<Vec<IndexedPack>> {
    let mut packs: Vec<(i64, IndexedPack)> = volume.db.read(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT pack, id, kind, size, epoch, salt FROM packs
             WHERE indexed = 0 AND condemned = 0 LIMIT ?1",
        )?;
        let rows = statement.query_map([MOST_PACKS as i64], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, u8>(2)?,
                row.get::<_, u32>(3)?,
                row.get::<_, u32>(4)?,
                row.get::<_, Vec<u8>>(5)?,
            ))
        })?;
        rows.map(|row| {
            let (pack, id, kind, size, epoch, salt) = row?;
            let seal = PackRef {
                kind: PackKind::from_code(kind).ok_or_else(damaged)?,
                epoch,
                salt: salt.try_into().map_err(|_| damaged())?,
            };
            let id = PackId::from_slice(&id).ok_or_else(damaged)?;
            let entries = Vec::new();
            Ok((
                pack,
                IndexedPack {
                    id,
                    seal,
                    size,
                    entries,
                },
            ))
        })
        .collect::<Result<_>>()
    })?;
    let mut unknown = HashMap::new();
    for (at, (number, pack)) in packs.iter_mut().enumerate() {
        match volume.push.unindexed.take(&pack.id) {
            Some(entries) => pack.entries = entries,
            None => {
                unknown.insert(*number, at);
            }
        }
    }
    if !unknown.is_empty() {
        volume.db.read(|connection| {
            each_entry(connection, |number, entry| {
                if let Some(&at) = unknown.get(&number) {
                    packs[at].1.entries.push(entry);
                }
            })
        })?;
    }
    let mut packs: Vec<_> = packs.into_iter().map(|(_, pack)| pack).collect();
    for pack in &mut packs {
        pack.entries.sort_unstable_by_key(|entry| entry.entry);
    }
    Ok(packs)
}

/// Gives all chunks that are recorded. Only after a crash are there packs whose chunks are
/// not in memory.
fn each_entry(connection: &Connection, mut each: impl FnMut(i64, PackEntry)) -> Result<()> {
    let mut statement =
        connection.prepare("SELECT pack, id, entry, off, len, raw_len, codec FROM chunks")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let id: Vec<u8> = row.get(1)?;
        let entry = PackEntry {
            chunk: ChunkId::from_slice(&id).ok_or_else(damaged)?,
            entry: row.get(2)?,
            off: row.get(3)?,
            len: row.get(4)?,
            raw_len: row.get(5)?,
            codec: Codec::from_code(row.get(6)?)?,
        };
        each(row.get(0)?, entry);
    }
    Ok(())
}

fn damaged() -> VolumeError {
    VolumeError::Damaged("the database's list of packs is damaged".to_owned())
}

/// An index object is about to be put. If a crash comes before it is noted it goes with those that
/// were replaced: else it would tell for ever of packs that are deleted one day.
fn announce(volume: &Volume, id: &IndexId) -> Result<()> {
    volume.db.write(|tx| {
        tx.prepare_cached("INSERT OR IGNORE INTO indexes(id, packs, replaced) VALUES(?1, 0, 0)")?
            .execute([id.as_bytes()])?;
        Ok(())
    })
}

/// Notes an index object that the store acknowledged, and which ones it replaces.
fn note(
    volume: &Volume,
    id: &IndexId,
    packs: &[IndexedPack],
    replaced: &[IndexId],
    accepted: Option<&Accepted>,
) -> Result<()> {
    volume.db.write(|tx| {
        if let Some(accepted) = accepted {
            accepted.note(tx)?;
        }
        tx.prepare_cached("INSERT OR REPLACE INTO indexes(id, packs) VALUES(?1, ?2)")?
            .execute((id.as_bytes(), packs.len() as i64))?;
        for pack in packs {
            tx.prepare_cached("UPDATE packs SET indexed = 1 WHERE id = ?1")?
                .execute([pack.id.as_bytes()])?;
        }
        for old in replaced {
            tx.prepare_cached(
                "UPDATE indexes SET replaced = (SELECT coalesce(max(n), 0) FROM commits)
                 WHERE id = ?1",
            )?
            .execute([old.as_bytes()])?;
        }
        Ok(())
    })
}

/// Tidies up after the head of commit `n` was acknowledged: merges index objects if there
/// are many of one level, and deletes those that were replaced before this commit. What
/// fails is done after a later commit.
///
/// # Errors
/// The store's, and those of the database.
pub(super) async fn tidy(volume: &Arc<Volume>, n: u64) -> Result<()> {
    let replaced = ids(volume, "SELECT id FROM indexes WHERE replaced < ?1", n)?;
    for id in replaced {
        let name = key(index_name(&id))?;
        proof::forget(volume, &name)?;
        volume.store.delete(&name).await?;
        volume.db.write(|tx| {
            tx.prepare_cached("DELETE FROM indexes WHERE id = ?1")?
                .execute([id.as_bytes()])?;
            Ok(())
        })?;
    }
    if let Some(small) = to_merge(volume)? {
        merge(volume, &small).await?;
    }
    Ok(())
}

/// Writes anew this replica's index objects that tell of packs which were deleted, without them.
///
/// # Errors
/// The store's, and those of the database.
pub(super) async fn forget_deleted(shared: &Shared, volume: &Arc<Volume>) -> Result<()> {
    for id in ids(volume, "SELECT id FROM indexes LIMIT ?1", i64::MAX as u64)? {
        let name = key(index_name(&id))?;
        let get = || volume.store.get(&name);
        let Some(bytes) = shared.keep_trying(get).await.ok_or(VolumeError::Stopping)? else {
            continue;
        };
        let (reading, bytes) = (Arc::clone(volume), bytes);
        let packs = blocking(move || {
            let all = decode_index(&reading.keys, &bytes)?;
            let left = reading.db.read(|tx| not_deleted(tx, &all))?;
            Ok((left.len() < all.len()).then_some(left))
        })
        .await?;
        let Some(packs) = packs else {
            continue;
        };
        // From here on it is not missed: the crash may come before its row is gone.
        if packs.is_empty() {
            volume.db.write(|tx| {
                tx.prepare_cached("UPDATE indexes SET replaced = 0 WHERE id = ?1")?
                    .execute([id.as_bytes()])?;
                Ok(())
            })?;
        } else {
            let index = encode_index(&volume.keys, salt()?, &packs)?;
            announce(volume, &index.id)?;
            let name = key(index_name(&index.id))?;
            let accepted = put(shared, &volume.store, &name, Bytes::from(index.bytes)).await?;
            note(volume, &index.id, &packs, &[id], accepted.as_ref())?;
        }
        upload::delete(volume, &name).await?;
        volume.db.write(|tx| {
            tx.prepare_cached("DELETE FROM indexes WHERE id = ?1")?
                .execute([id.as_bytes()])?;
            Ok(())
        })?;
    }
    Ok(())
}

fn not_deleted(connection: &Connection, packs: &[IndexedPack]) -> Result<Vec<IndexedPack>> {
    let mut is_gone =
        connection.prepare_cached("SELECT 1 FROM doomed WHERE pack = ?1 AND gone > 0")?;
    let mut left = Vec::new();
    for pack in packs {
        if !is_gone.exists([pack.id.as_bytes()])? {
            left.push(pack.clone());
        }
    }
    Ok(left)
}

fn ids(volume: &Volume, query: &str, n: u64) -> Result<Vec<IndexId>> {
    volume.db.read(|connection| {
        let mut statement = connection.prepare_cached(query)?;
        let rows = statement.query_map([n as i64], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|id| IndexId::from_slice(&id?).ok_or_else(damaged))
            .collect()
    })
}

/// Index objects that are to become one: of the lowest level that has enough of them.
fn to_merge(volume: &Volume) -> Result<Option<Vec<IndexId>>> {
    for level in LEVELS {
        let query = format!(
            "SELECT id FROM indexes WHERE replaced IS NULL
             AND packs >= {} AND packs < {} LIMIT ?1",
            level.start, level.end
        );
        let small = ids(volume, &query, MERGED_AT_ONCE as u64)?;
        if small.len() == MERGED_AT_ONCE {
            return Ok(Some(small));
        }
    }
    Ok(None)
}

async fn merge(volume: &Arc<Volume>, small: &[IndexId]) -> Result<()> {
    let mut packs = Vec::new();
    for id in small {
        let bytes = volume.store.get(&key(index_name(id))?).await?;
        let Some(bytes) = bytes else {
            return Err(VolumeError::Damaged(format!(
                "the index object {id} is missing on {}",
                volume.store.address()
            )));
        };
        packs.extend(decode_index(&volume.keys, &bytes)?);
    }
    let packs = volume.db.read(|tx| not_deleted(tx, &packs))?;
    let index = encode_index(&volume.keys, salt()?, &packs)?;
    announce(volume, &index.id)?;
    let name = key(index_name(&index.id))?;
    let bytes = Bytes::from(index.bytes);
    volume.store.put(&name, bytes.clone()).await?;
    let accepted = Accepted::of(&*volume.store, &name, &bytes);
    note(volume, &index.id, &packs, small, accepted.as_ref())
}

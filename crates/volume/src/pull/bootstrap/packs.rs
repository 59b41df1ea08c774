//! Where everything lies: the tables of packs and chunks, from the store's index objects.
//!
//! A pack that no index object tells of (one was lost, or a push was cut) is asked for its
//! own sealed index, by range. So a lost index object loses nothing. A pack that an index
//! object tells of and that the store does not list was lost there: its chunks are looked
//! for in other packs.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, stream};
use larder_format::{
    IndexedPack, PACK_HEADER_LEN, PACK_TRAILER_LEN, PackHead, PackKind, VolumeKeys, decode_index,
    object, object_hash, parse_index_name, parse_pack_name,
};
use larder_model::PackId;
use larder_store::{Key, ObjectMeta};
use parking_lot::Mutex;
use rusqlite::OptionalExtension;

use super::super::failure::Failure;
use super::super::request::Fetcher;
use super::super::source::{Source, Urgency};
use crate::db::{Db, Transaction};
use crate::progress::{Progress, Report, Unit};
use crate::{Result, VolumeError};

/// Objects that are read at once.
const AT_ONCE: usize = 8;

/// Fills the tables of packs and chunks. Answers what went wrong and was made good, or
/// not, in words.
///
/// # Errors
/// If the store cannot be reached, or the disk fails.
pub(super) async fn learn_packs(
    source: &Source,
    keys: &Arc<VolumeKeys>,
    db: &Db,
    wait: Duration,
    report: Report<'_>,
) -> Result<Vec<String>> {
    let mut warnings = read_indexes(source, keys, db, wait, report).await?;
    let known: HashSet<PackId> = db.write(known_packs)?;
    let (mut unknown, mut listed) = (Vec::new(), HashSet::new());
    for prefix in [object::TREES, object::PACKS] {
        for found in source.store().list(&format!("{prefix}/")).await? {
            if let Some((kind, id)) = parse_pack_name(found.key.as_str()) {
                listed.insert(id);
                if !known.contains(&id) {
                    unknown.push((kind, id, found));
                }
            }
        }
    }
    let lost: Vec<_> = known.difference(&listed).copied().collect();
    if !lost.is_empty() {
        db.write(|tx| condemn(tx, &lost))?;
        // Once more, now that the lost packs give way to others.
        read_indexes(source, keys, db, wait, report).await?;
    }
    let mut reading = stream::iter(unknown)
        .map(|(kind, id, found)| async move {
            let read = read_own_index(source, keys, kind, id, &found, wait).await;
            (found.key, read)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((key, read)) = reading.next().await {
        match read {
            Ok(pack) => db.write(|tx| insert_pack(tx, &pack, false))?,
            Err(VolumeError::Away(why)) => return Err(VolumeError::Away(why)),
            Err(error) => warnings.push(format!("{key} cannot be read: {error}")),
        }
    }
    let missed = db.write(forget_replaced)?;
    if missed > 0 {
        warnings.push(format!(
            "{missed} packs are not listed by {}, and content in them may be lost. `larder \
             verify --stores` tells which",
            source.store().address()
        ));
    }
    Ok(warnings)
}

/// Lets packs that the store does not list give way to others with the same chunks.
fn condemn(tx: &Transaction<'_>, lost: &[PackId]) -> Result<()> {
    let mut update = tx.prepare_cached("UPDATE packs SET condemned = 1 WHERE id = ?1")?;
    for id in lost {
        update.execute([id.as_bytes()])?;
    }
    Ok(())
}

/// Forgets condemned packs all of whose chunks lie elsewhere. Answers how many others are
/// left.
fn forget_replaced(tx: &Transaction<'_>) -> Result<u64> {
    let count = "SELECT count(*) FROM packs WHERE condemned = 1";
    let left = || -> Result<i64> { Ok(tx.query_row(count, [], |row| row.get(0))?) };
    if left()? > 0 {
        tx.execute(
            "DELETE FROM packs WHERE condemned = 1 AND pack NOT IN (SELECT pack FROM chunks)",
            [],
        )?;
    }
    Ok(left()? as u64)
}

async fn read_indexes(
    source: &Source,
    keys: &Arc<VolumeKeys>,
    db: &Db,
    wait: Duration,
    report: Report<'_>,
) -> Result<Vec<String>> {
    let objects = source.store().list(&format!("{}/", object::INDEX)).await?;
    let (warnings, _) = read_each(source, keys, db, objects, wait, report).await?;
    Ok(warnings)
}

/// Reads the index objects that are not in `known`, and enters their packs. Answers what could not
/// be read, in words.
///
/// # Errors
/// If the store cannot be reached, or the disk fails.
pub(crate) async fn learn_indexes(
    fetcher: &Fetcher,
    db: &Db,
    known: &Mutex<HashSet<Key>>,
    wait: Duration,
) -> Result<Vec<String>> {
    let (source, keys) = (&fetcher.source, &fetcher.keys);
    let mut objects = source.store().list(&format!("{}/", object::INDEX)).await?;
    objects.retain(|found| !known.lock().contains(&found.key));
    let (warnings, read) = read_each(source, keys, db, objects, wait, &|_| {}).await?;
    known.lock().extend(read);
    Ok(warnings)
}

/// Enters the packs of index objects. Answers what could not be read, and what was.
async fn read_each(
    source: &Source,
    keys: &Arc<VolumeKeys>,
    db: &Db,
    objects: Vec<ObjectMeta>,
    wait: Duration,
    report: Report<'_>,
) -> Result<(Vec<String>, Vec<Key>)> {
    let total = objects.len() as u64;
    let (mut warnings, mut known) = (Vec::new(), Vec::new());
    let mut reading = stream::iter(objects)
        .map(|found| async move {
            let read = read_index(source, keys, &found, wait).await;
            (found.key, read)
        })
        .buffer_unordered(AT_ONCE);
    let mut done = 0;
    while let Some((key, read)) = reading.next().await {
        match read {
            Ok(packs) => {
                db.write(|tx| {
                    packs
                        .iter()
                        .try_for_each(|pack| insert_pack(tx, pack, true))
                })?;
                known.push(key);
            }
            Err(VolumeError::Away(why)) => return Err(VolumeError::Away(why)),
            Err(error) => warnings.push(format!(
                "{key} cannot be read ({error}); the packs tell themselves what they hold"
            )),
        }
        done += 1;
        report(Progress {
            phase: "reading indexes".to_owned(),
            done,
            total,
            unit: Unit::Files,
            path: None,
        });
    }
    Ok((warnings, known))
}

async fn read_index(
    source: &Source,
    keys: &Arc<VolumeKeys>,
    found: &ObjectMeta,
    wait: Duration,
) -> Result<Vec<IndexedPack>> {
    let id = parse_index_name(found.key.as_str())
        .ok_or_else(|| VolumeError::Damaged("its name is not an index's".to_owned()))?;
    let bytes = source.fetch_whole(found, Instant::now() + wait).await?;
    let keys = Arc::clone(keys);
    let decoding = tokio::task::spawn_blocking(move || {
        if object_hash(&bytes) != id.0 {
            return Err(VolumeError::Damaged(
                "its bytes do not match its name".to_owned(),
            ));
        }
        Ok(decode_index(&keys, &bytes)?)
    });
    decoding.await.map_err(|_| VolumeError::Stopping)?
}

/// Reads a pack's own index: its ends, and what lies between.
async fn read_own_index(
    source: &Source,
    keys: &VolumeKeys,
    kind: PackKind,
    id: PackId,
    found: &ObjectMeta,
    wait: Duration,
) -> Result<IndexedPack> {
    let size = u32::try_from(found.size)
        .map_err(|_| VolumeError::Damaged("it is larger than a pack can be".to_owned()))?;
    let ends = (PACK_HEADER_LEN + PACK_TRAILER_LEN) as u64;
    if found.size < ends {
        return Err(VolumeError::Damaged(
            "it is shorter than a pack can be".to_owned(),
        ));
    }
    let part = |range: Range<u64>| async move {
        let deadline = Instant::now() + wait;
        let bytes = source
            .fetch(&found.key, range, Urgency::Behind, deadline)
            .await?;
        Ok::<Bytes, Failure>(bytes)
    };
    let front = part(0..PACK_HEADER_LEN as u64).await?;
    let trailer = part(found.size - PACK_TRAILER_LEN as u64..found.size).await?;
    let head = PackHead::decode(keys, kind, &front, &trailer, found.size)?;
    let index = part(head.index.clone()).await?;
    Ok(IndexedPack {
        id,
        seal: head.seal,
        size,
        entries: head.entries(keys, &index)?,
    })
}

fn known_packs(tx: &Transaction<'_>) -> Result<HashSet<PackId>> {
    let mut statement = tx.prepare("SELECT id FROM packs")?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    let mut known = HashSet::new();
    for row in rows {
        known.extend(PackId::from_slice(&row?));
    }
    Ok(known)
}

/// Enters a pack and its chunks. A chunk that another pack has too keeps its first place,
/// unless that one is lost.
fn insert_pack(tx: &Transaction<'_>, pack: &IndexedPack, indexed: bool) -> Result<()> {
    let doomed: Option<Option<i64>> = tx
        .prepare_cached("SELECT max(gone) FROM doomed WHERE pack = ?1")?
        .query_row([pack.id.as_bytes()], |row| row.get(0))
        .optional()?;
    let doomed = doomed.flatten();
    if doomed.is_some_and(|gone| gone > 0) {
        return Ok(());
    }
    tx.prepare_cached(
        "INSERT OR IGNORE INTO packs(id, kind, size, epoch, salt, indexed, condemned)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute((
        pack.id.as_bytes(),
        pack.seal.kind.code(),
        pack.size,
        pack.seal.epoch,
        pack.seal.salt,
        indexed,
        doomed.is_some(),
    ))?;
    let row: i64 = tx
        .prepare_cached("SELECT pack FROM packs WHERE id = ?1")?
        .query_row([pack.id.as_bytes()], |row| row.get(0))?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO chunks(id, pack, entry, off, len, raw_len, codec)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT(id) DO UPDATE SET pack = excluded.pack, entry = excluded.entry,
             off = excluded.off, len = excluded.len, raw_len = excluded.raw_len,
             codec = excluded.codec
         WHERE EXISTS(SELECT 1 FROM packs p WHERE p.pack = chunks.pack AND p.condemned = 1)
           AND EXISTS(SELECT 1 FROM packs p WHERE p.pack = excluded.pack AND p.condemned = 0)",
    )?;
    for entry in &pack.entries {
        insert.execute((
            entry.chunk.as_bytes(),
            row,
            entry.entry,
            entry.off,
            entry.len,
            entry.raw_len,
            entry.codec.code(),
        ))?;
    }
    Ok(())
}

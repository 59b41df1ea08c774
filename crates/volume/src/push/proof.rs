//! What a store took without syncing it is proven again before anything relies on it.
//!
//! A put that the store only accepted ([`Durability::Accepted`]) may be lost by a power cut
//! there. Its object is noted in `unproven`, in the transaction that notes that it was put;
//! a file that rests on it is not safe, and so not dropped, but noted in `awaiting`. After
//! two pauses, by when a server has usually written what it took, the object is looked at,
//! and after one more pause once more, on a new connection. An object that is there both
//! times is proven. The look reads small objects whole, and of a large pack its size, its
//! front and its sealed index, which lies at the end: that shows a pack that was cut, left
//! empty or mixed up, and not one that rotted in the middle, as `verify` does.
//!
//! An object that is lost is put again: all but data packs are kept in `unproven` for that.
//! The content of a lost data pack is here, as nothing that rests on it was dropped; the
//! files go back to dirty and are stored anew, in another pack.
//!
//! A store that syncs costs one query for each commit.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use larder_format::{
    PACK_HEADER_LEN, PACK_TRAILER_LEN, PackHead, PackKind, decode_content, object_hash,
    parse_pack_name,
};
use larder_model::{ChunkId, Content, Extent, PackId};
use larder_store::{Durability, ErrorKind, Key, Store, StoreError};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::oneshot;

use super::heads;
use super::index::blocking;
use super::shared::Shared;
use super::upload;
use crate::db::Transaction;
use crate::live::{Held, Here, Piece};
use crate::{Ino, Result, Volume, VolumeError};

/// So often an object must have been found.
const LOOKS: u32 = 2;
/// An object that is not found so often in a row is lost.
const TRIES: u32 = 3;
/// An object up to this size is read whole.
const READ_WHOLE: u64 = 256 << 10;
/// In `awaiting`, in place of the last object that is waited for: all marks have to be read first.
const UNREAD: i64 = i64::MAX;
/// So many objects are looked at before what was found is noted.
const AT_ONCE: usize = 64;

/// An object that a store took and need not have on its medium.
#[derive(Debug)]
pub(crate) struct Accepted {
    name: String,
    size: u64,
    /// What is kept to put it again.
    bytes: Option<Bytes>,
}

impl Accepted {
    /// What is to be noted of an object that was just put; nothing, if the store synced it.
    pub(crate) fn of(store: &dyn Store, name: &Key, bytes: &Bytes) -> Option<Self> {
        if store.durability() == Durability::Synced {
            return None;
        }
        let is_data = matches!(parse_pack_name(name.as_str()), Some((PackKind::Data, _)));
        Some(Self {
            name: name.to_string(),
            size: bytes.len() as u64,
            bytes: (!is_data).then(|| bytes.clone()),
        })
    }

    /// Notes it, in the transaction that notes that the object was put.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn note(&self, connection: &Connection) -> Result<()> {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO unproven(name, size, bytes) VALUES(?1, ?2, ?3)",
            )?
            .execute((&self.name, self.size as i64, self.bytes.as_deref()))?;
        Ok(())
    }
}

/// The object is about to be deleted on purpose, and is not to be missed.
///
/// # Errors
/// If the database fails.
pub(super) fn forget(volume: &Volume, name: &Key) -> Result<()> {
    if !volume.push.shared.is_unproven() {
        return Ok(());
    }
    volume.db.write(|tx| {
        tx.prepare_cached("DELETE FROM unproven WHERE name = ?1")?
            .execute([name.as_str()])?;
        Ok(())
    })
}

/// Whether the store took the object without syncing it, and it is not proven yet.
///
/// # Errors
/// If the database fails.
pub(super) fn is_unproven(volume: &Volume, name: &Key) -> Result<bool> {
    volume.db.read(|connection| {
        Ok(connection
            .prepare_cached("SELECT 1 FROM unproven WHERE name = ?1")?
            .exists([name.as_str()])?)
    })
}

/// An acknowledged head reaches these files, at these generations: they are safe now, or
/// once all that was put by now is proven.
///
/// # Errors
/// If the database fails.
pub(super) fn reached(volume: &Volume, tx: &Transaction<'_>, files: &[(Ino, u64)]) -> Result<()> {
    let Some(last) = edge(tx, "SELECT max(seq) FROM unproven")? else {
        return volume.set_head_acked(tx, files);
    };
    let mut insert = tx.prepare_cached(
        "INSERT OR REPLACE INTO awaiting(ino, generation, seq) VALUES(?1, ?2, ?3)",
    )?;
    for &(ino, generation) in files {
        insert.execute((ino as i64, generation as i64, last))?;
    }
    Ok(())
}

/// An acknowledged head reaches these files, at these generations; but not all marks could be read
/// since, so that they are not safe until [`marks_are_read`].
///
/// # Errors
/// If the database fails.
pub(super) fn reached_unread(tx: &Transaction<'_>, files: &[(Ino, u64)]) -> Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT OR REPLACE INTO awaiting(ino, generation, seq) VALUES(?1, ?2, ?3)",
    )?;
    for &(ino, generation) in files {
        insert.execute((ino as i64, generation as i64, UNREAD))?;
    }
    Ok(())
}

/// All marks were read: what only waited for that is safe, or once all that was put by now is
/// proven.
///
/// # Errors
/// If the database fails.
pub(crate) fn marks_are_read(volume: &Volume, tx: &Transaction<'_>) -> Result<()> {
    let last = edge(tx, "SELECT max(seq) FROM unproven")?.unwrap_or(i64::MIN);
    let waiting = tx
        .prepare_cached("UPDATE awaiting SET seq = ?2 WHERE seq = ?1")?
        .execute((UNREAD, last))?;
    match waiting {
        0 => Ok(()),
        _ => release(volume, tx),
    }
}

/// Whether the file waits for all marks to be read.
///
/// # Errors
/// If the database fails.
pub(crate) fn is_unread(connection: &Connection, ino: Ino) -> Result<bool> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM awaiting WHERE ino = ?1 AND seq = ?2")?
        .exists((ino as i64, UNREAD))?)
}

/// Whether the file only waits for the store to be proven.
///
/// # Errors
/// If the database fails.
pub(crate) fn is_awaited(connection: &Connection, ino: Ino) -> Result<bool> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM awaiting WHERE ino = ?1 AND seq < ?2")?
        .exists((ino as i64, UNREAD))?)
}

/// Whether anything waits to be proven.
///
/// # Errors
/// If the database fails.
pub(super) fn is_any_unproven(connection: &Connection) -> Result<bool> {
    Ok(edge(connection, "SELECT max(seq) FROM unproven")?.is_some())
}

fn edge(connection: &Connection, query: &str) -> Result<Option<i64>> {
    Ok(connection
        .prepare_cached(query)?
        .query_row([], |row| row.get(0))?)
}

/// Starts the task that looks; the answer ends when it has ended.
pub(super) fn start(volume: &Arc<Volume>) -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    let shared = Arc::clone(&volume.push.shared);
    let weak = Arc::downgrade(volume);
    let delay = volume.settings.proof_delay;
    volume.runtime.spawn(async move {
        // What was put before this start is as old as it.
        let mut seen = None;
        let mut first = true;
        while shared.pause(delay).await {
            let Some(volume) = weak.upgrade() else {
                break;
            };
            let round = async {
                let newest = newest(&volume).await?;
                shared.set_unproven(newest.is_some());
                let due = if first { newest } else { seen };
                if let (Some(due), Some(_)) = (due, newest) {
                    prove(&shared, &volume, due).await?;
                }
                Ok::<_, VolumeError>(newest)
            };
            match round.await {
                Ok(newest) => {
                    shared.warnings.clear("proof");
                    (seen, first) = (newest, false);
                }
                Err(VolumeError::Stopping) => break,
                Err(error) => shared.warnings.set(
                    "proof",
                    format!("what the store took could not be looked at again: {error}"),
                ),
            }
        }
        drop(end);
    });
    ended
}

async fn newest(volume: &Arc<Volume>) -> Result<Option<i64>> {
    let reading = Arc::clone(volume);
    blocking(move || {
        reading
            .db
            .read(|connection| edge(connection, "SELECT max(seq) FROM unproven"))
    })
    .await
}

/// A row of `unproven`, without its bytes.
struct Row {
    seq: i64,
    name: Key,
    size: u64,
    looks: u32,
}

/// What a round found.
#[derive(Default)]
struct Found {
    proven: Vec<i64>,
    lost: Vec<Row>,
}

/// Looks at all objects up to `due`.
async fn prove(shared: &Shared, volume: &Arc<Volume>, due: i64) -> Result<()> {
    let mut after = i64::MIN;
    let mut is_renewed = false;
    loop {
        let reading = Arc::clone(volume);
        let rows = blocking(move || reading.db.read(|tx| rows(tx, after, due))).await?;
        let Some(last) = rows.last() else {
            return Ok(());
        };
        after = last.seq;
        let mut found = Found::default();
        for row in rows {
            if row.looks > 0 && !is_renewed {
                volume.store.renew().await;
                is_renewed = true;
            }
            match look(shared, volume, &row).await? {
                true => found.proven.push(row.seq),
                false => found.lost.push(row),
            }
        }
        let noting = Arc::clone(volume);
        let lost = blocking(move || {
            note_proven(&noting, &found.proven)?;
            Ok(found.lost)
        })
        .await?;
        if !lost.is_empty() {
            restore(shared, volume, lost).await?;
        }
        crate::pull::make_room_soon(volume);
    }
}

fn rows(connection: &Connection, after: i64, due: i64) -> Result<Vec<Row>> {
    let mut statement = connection.prepare_cached(
        "SELECT seq, name, size, looks FROM unproven
         WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
    )?;
    let rows = statement.query_map((after, due, AT_ONCE as i64), |row| {
        Ok((
            row.get(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, i64>(2)? as u64,
            row.get(3)?,
        ))
    })?;
    rows.map(|row| {
        let (seq, name, size, looks) = row?;
        Ok(Row {
            seq,
            name: upload::key(name)?,
            size,
            looks,
        })
    })
    .collect()
}

/// Whether the object is there as it was put, however long it takes to have an answer. A bad
/// line or a server in trouble is not yet a loss: so often it must be said.
async fn look(shared: &Shared, volume: &Volume, row: &Row) -> Result<bool> {
    for _ in 0..TRIES {
        if look_once(shared, volume, row).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn look_once(shared: &Shared, volume: &Volume, row: &Row) -> Result<bool> {
    let request = || async {
        match is_there(volume, row).await {
            // That is an answer, and says that these are not the bytes.
            Err(error) if error.kind == ErrorKind::Damaged => Ok(false),
            other => other,
        }
    };
    shared
        .keep_trying(request)
        .await
        .ok_or(VolumeError::Stopping)
}

async fn is_there(volume: &Volume, row: &Row) -> Result<bool, StoreError> {
    let (store, name) = (&volume.store, &row.name);
    let Some(meta) = store.stat(name).await? else {
        return Ok(false);
    };
    if meta.size != row.size {
        return Ok(false);
    }
    match parse_pack_name(name.as_str()) {
        Some((kind, id)) if row.size > READ_WHOLE => {
            is_pack(volume, name, kind, row.size, &id).await
        }
        parsed => {
            let Some(bytes) = store.get(name).await? else {
                return Ok(false);
            };
            Ok(match parsed {
                Some((_, id)) => object_hash(&bytes) == id.0,
                None => kept(volume, row.seq).is_none_or(|kept| kept == bytes),
            })
        }
    }
}

/// Whether the ends of a pack and its sealed index are what they must be.
async fn is_pack(
    volume: &Volume,
    name: &Key,
    kind: PackKind,
    size: u64,
    id: &PackId,
) -> Result<bool, StoreError> {
    let part = |range| volume.store.get_range(name, range);
    let front = part(0..PACK_HEADER_LEN as u64).await?;
    let trailer = part(size - PACK_TRAILER_LEN as u64..size).await?;
    let (Some(front), Some(trailer)) = (front, trailer) else {
        return Ok(false);
    };
    let Ok(head) = PackHead::decode(&volume.keys, kind, &front, &trailer, size) else {
        return Ok(false);
    };
    // Another pack of the volume would pass but for its salt.
    let salt: Result<Option<Vec<u8>>> = volume.db.read(|connection| {
        Ok(connection
            .prepare_cached("SELECT salt FROM packs WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?)
    });
    if let Ok(Some(salt)) = salt
        && salt != head.seal.salt
    {
        return Ok(false);
    }
    let index = part(head.index.clone()).await?;
    Ok(index.is_some_and(|index| head.entries(&volume.keys, &index).is_ok()))
}

/// The bytes that are kept of an object; `None` if none are, or they cannot be read.
fn kept(volume: &Volume, seq: i64) -> Option<Bytes> {
    let bytes: Result<Option<Vec<u8>>> = volume.db.read(|connection| {
        Ok(connection
            .prepare_cached("SELECT bytes FROM unproven WHERE seq = ?1")?
            .query_row([seq], |row| row.get(0))
            .optional()?
            .flatten())
    });
    bytes.ok().flatten().map(Bytes::from)
}

/// These objects were found once more; what waited for no others is safe.
fn note_proven(volume: &Volume, proven: &[i64]) -> Result<()> {
    volume.db.write(|tx| {
        for seq in proven {
            tx.prepare_cached("UPDATE unproven SET looks = looks + 1 WHERE seq = ?1")?
                .execute([seq])?;
        }
        tx.prepare_cached("DELETE FROM unproven WHERE looks >= ?1")?
            .execute([LOOKS])?;
        release(volume, tx)
    })
}

/// Files that wait for nothing any more are safe.
fn release(volume: &Volume, tx: &Transaction<'_>) -> Result<()> {
    let first = edge(tx, "SELECT min(seq) FROM unproven")?.unwrap_or(i64::MAX);
    let files = tx
        .prepare_cached("SELECT ino, generation FROM awaiting WHERE seq < ?1")?
        .query_map([first], |row| {
            Ok((row.get::<_, i64>(0)? as Ino, row.get::<_, i64>(1)? as u64))
        })?
        .collect::<Result<Vec<_>, _>>()?;
    volume.set_head_acked(tx, &files)?;
    tx.prepare_cached("DELETE FROM awaiting WHERE seq < ?1")?
        .execute([first])?;
    Ok(())
}

/// Puts again what was lost, or makes dirty what it held.
async fn restore(shared: &Shared, volume: &Arc<Volume>, mut lost: Vec<Row>) -> Result<()> {
    let reading = Arc::clone(volume);
    let lost = blocking(move || {
        // What was deleted on purpose meanwhile is not lost.
        let noted = reading.db.read(|connection| {
            let mut is_noted =
                connection.prepare_cached("SELECT 1 FROM unproven WHERE seq = ?1")?;
            lost.iter()
                .map(|row| Ok(is_noted.exists([row.seq])?))
                .collect::<Result<Vec<_>>>()
        })?;
        let mut noted = noted.into_iter();
        lost.retain(|_| noted.next().unwrap_or(false));
        Ok(lost)
    })
    .await?;
    if lost.is_empty() {
        return Ok(());
    }
    shared.warnings.set(
        "lost",
        format!(
            "{} lost {} objects that it had taken, {} among them (a power cut there?). What they \
             held is here, and is stored again",
            volume.store.address(),
            lost.len(),
            lost.first().map_or("", |row| row.name.as_str()),
        ),
    );
    let mut packs = Vec::new();
    for row in lost {
        if let Some((PackKind::Data, id)) = parse_pack_name(row.name.as_str()) {
            packs.push((row, id));
        } else if heads::is_anothers(shared, volume, &row.name).await? {
            // A copy of this replica put it: the next push sees to that.
            forget(volume, &row.name)?;
        } else {
            put_again(shared, volume, &row).await?;
        }
    }
    if packs.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = packs.iter().map(|(_, id)| *id).collect();
    let marking = Arc::clone(volume);
    blocking(move || marking.store_anew(&ids)).await?;
    for (row, _) in &packs {
        // What is left of it would be taken for damage of a pack that counts.
        if let Err(error) = volume.store.delete(&row.name).await {
            tracing::debug!(%error, name = %row.name, "the rest of a lost pack stays");
        }
    }
    let forgetting = Arc::clone(volume);
    blocking(move || {
        forgetting.db.write_synced(|tx| {
            for (row, id) in &packs {
                forget_pack(tx, row.seq, id)?;
            }
            release(&forgetting, tx)
        })
    })
    .await?;
    shared.ring();
    Ok(())
}

async fn put_again(shared: &Shared, volume: &Arc<Volume>, row: &Row) -> Result<()> {
    let (reading, seq) = (Arc::clone(volume), row.seq);
    let Some(bytes) = blocking(move || Ok(kept(&reading, seq))).await? else {
        return Err(VolumeError::Damaged(format!(
            "the database does not have {} any more, which was lost on the store",
            row.name
        )));
    };
    // Not every store replaces what is there.
    let delete = || volume.store.delete(&row.name);
    let deleted = shared.keep_trying(delete).await;
    deleted.ok_or(VolumeError::Stopping)?;
    let (store, patience) = (&volume.store, upload::Patience::Endless);
    upload::put_with(shared, store, &row.name, bytes, patience).await?;
    let noting = Arc::clone(volume);
    blocking(move || {
        noting.db.write(|tx| {
            tx.prepare_cached("UPDATE unproven SET looks = 0 WHERE seq = ?1")?
                .execute([seq])?;
            Ok(())
        })
    })
    .await
}

fn forget_pack(tx: &Transaction<'_>, seq: i64, id: &PackId) -> Result<()> {
    tx.prepare_cached("DELETE FROM chunks WHERE pack = (SELECT pack FROM packs WHERE id = ?1)")?
        .execute([id.as_bytes()])?;
    tx.prepare_cached("DELETE FROM packs WHERE id = ?1")?
        .execute([id.as_bytes()])?;
    tx.prepare_cached("DELETE FROM unproven WHERE seq = ?1")?
        .execute([seq])?;
    Ok(())
}

impl Volume {
    /// Makes all dirty that rests on these packs, which the store lost. From the first step
    /// on the packs do not count, so their chunks are packed again; their rows go last, so
    /// that a crash in between does all of it again.
    fn store_anew(&self, packs: &[PackId]) -> Result<()> {
        let mut losses = self.push.losses.write();
        // What is being cut or waits for its packs may rest on them, and is cut again.
        *losses += 1;
        let chunks = self.db.write(|tx| condemn(tx, packs))?;
        for ino in self.db.read(|connection| resting_on(connection, &chunks))? {
            match self.hold(ino, |held| make_local_again(held, &chunks)) {
                Ok(gone) => {
                    self.live.set_aside(ino, None);
                    if gone > 0 {
                        self.tell_lost(ino, gone);
                    }
                }
                Err(VolumeError::NoEntry) => {}
                Err(error) => return Err(error),
            }
        }
        self.push.attempts.forget_stored();
        Ok(())
    }

    /// Cannot happen as long as nothing unproven is dropped; if it does all the same, it
    /// must not go unseen.
    fn tell_lost(&self, ino: Ino, bytes: u64) {
        let path = self.path_of(ino).ok().flatten().unwrap_or_default();
        self.push.shared.warnings.set(
            "gone",
            format!(
                "{bytes} bytes of {} are neither here nor on {}",
                String::from_utf8_lossy(&path),
                self.store.address()
            ),
        );
    }
}

/// Lets the packs count no more. Answers the chunks that lie in them.
fn condemn(tx: &Transaction<'_>, packs: &[PackId]) -> Result<HashSet<ChunkId>> {
    for id in packs {
        tx.prepare_cached("UPDATE packs SET condemned = 1 WHERE id = ?1")?
            .execute([id.as_bytes()])?;
    }
    let mut statement = tx.prepare(
        "SELECT id FROM chunks WHERE pack IN (SELECT pack FROM packs WHERE condemned = 1)",
    )?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    let mut chunks = HashSet::new();
    for row in rows {
        chunks.extend(ChunkId::from_slice(&row?));
    }
    Ok(chunks)
}

/// The files here that may rest on these chunks and are not safe. Of a long list of chunks
/// the pages may be away: it is taken to.
fn resting_on(connection: &Connection, chunks: &HashSet<ChunkId>) -> Result<Vec<Ino>> {
    let mut statement = connection.prepare(
        "SELECT n.ino, n.content FROM cached c JOIN nodes n ON n.ino = c.ino
         WHERE n.content IS NOT NULL AND (n.safe = 0 OR c.dirty = 1)",
    )?;
    let mut rows = statement.query([])?;
    let mut resting = Vec::new();
    while let Some(row) = rows.next()? {
        let content: Vec<u8> = row.get(1)?;
        let rests = match decode_content(&content)? {
            Content::Extents(extents) => extents
                .iter()
                .any(|extent| matches!(extent, Extent::Chunk { id, .. } if chunks.contains(id))),
            Content::List { .. } => true,
            Content::None | Content::Target(_) => false,
        };
        if rests {
            resting.push(row.get::<_, i64>(0)? as Ino);
        }
    }
    Ok(resting)
}

/// Makes a file dirty, and its pieces that lie in these chunks its own again. Answers how
/// many bytes of them are not here.
fn make_local_again(held: &mut Held<'_>, chunks: &HashSet<ChunkId>) -> Result<u64> {
    if matches!(held.here, Here::Away) {
        return Ok(0);
    }
    held.mark_dirty()?;
    let mut gone = 0;
    let all = 0..held.size.max(1);
    held.change_map(&all, |map| {
        for (len, piece) in map.values_mut() {
            match piece {
                Piece::Stored { chunk, present } if chunks.contains(chunk) => match present {
                    true => *piece = Piece::Local,
                    false => gone += *len,
                },
                _ => {}
            }
        }
    })?;
    held.note_dirty();
    Ok(gone)
}

//! Packs go to the store.
//!
//! Each pack is a task of its own; so many at once send. When the store has acknowledged a
//! pack, one transaction records it and its chunks; only then are the files that waited for
//! it recorded as settled. So a crash in between sends at most the packs again that the
//! store had taken and the database had not noted.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use larder_format::{Pack, PackEntry, PackKind, PackRef, pack_name};
use larder_model::PackId;
use larder_store::{Key, Store};

use super::outbox::{Cut, Number};
use super::proof::{self, Accepted};
use super::shared::Shared;
use crate::live::Settled;
use crate::{Result, Volume, VolumeError};

/// More files at once are not synced one by one.
const SYNCED_EACH: usize = 4;

/// A sealed pack, with its number in the outbox.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) number: Number,
    pub(super) pack: Pack,
}

/// A pack that the store acknowledged.
#[derive(Debug)]
pub(crate) struct Sent {
    id: PackId,
    seal: PackRef,
    size: u64,
    entries: Vec<PackEntry>,
    accepted: Option<Accepted>,
}

/// Sends a pack in the background.
pub(super) fn dispatch(volume: &Arc<Volume>, parcel: Parcel) {
    let shared = Arc::clone(&volume.push.shared);
    let store = Arc::clone(&volume.store);
    let volume_then = Arc::downgrade(volume);
    volume
        .runtime
        .spawn(async move { carry(shared, store, volume_then, parcel).await });
}

async fn carry(shared: Arc<Shared>, store: Arc<dyn Store>, volume: Weak<Volume>, parcel: Parcel) {
    let Ok(_turn) = shared.turns.acquire().await else {
        return;
    };
    let sending = carry_to(&shared, &store, parcel.pack, Patience::Endless);
    let sent = match sending.await {
        Ok(sent) => sent,
        Err(VolumeError::Stopping) => return,
        Err(error) => return shared.warnings.set("upload", error.to_string()),
    };
    let Some(volume) = volume.upgrade() else {
        return;
    };
    let number = parcel.number;
    let recording = tokio::task::spawn_blocking(move || note_delivery(&volume, number, sent));
    if let Err(error) = recording.await {
        tracing::error!(%error, "recording a pack ended early");
    }
}

/// Whether a refusal is waited out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// A task that does nothing else waits until a user has seen to it.
    Endless,
    /// Somebody may ask for what helps.
    UnlessRefused,
}

/// Puts a pack on the store, however long it takes, unless the store refuses it.
///
/// # Errors
/// [`VolumeError::Stopping`] if the volume stops first, and the store's refusal.
pub(crate) async fn send(shared: &Shared, store: &Arc<dyn Store>, pack: Pack) -> Result<Sent> {
    carry_to(shared, store, pack, Patience::UnlessRefused).await
}

async fn carry_to(
    shared: &Shared,
    store: &Arc<dyn Store>,
    pack: Pack,
    patience: Patience,
) -> Result<Sent> {
    let key = key(pack_name(pack.seal.kind, &pack.id))?;
    let bytes = Bytes::from(pack.bytes);
    let size = bytes.len() as u64;
    let accepted = put_with(shared, store, &key, bytes, patience).await?;
    Ok(Sent {
        id: pack.id,
        seal: pack.seal,
        size,
        entries: pack.entries,
        accepted,
    })
}

/// Puts an object on the store, however long it takes unless the store refuses it, within the
/// bandwidth limit. Answers what is to be noted if the store did not sync it.
///
/// # Errors
/// [`VolumeError::Stopping`] if the volume stops first, and the store's refusal.
pub(crate) async fn put(
    shared: &Shared,
    store: &Arc<dyn Store>,
    key: &Key,
    bytes: Bytes,
) -> Result<Option<Accepted>> {
    put_with(shared, store, key, bytes, Patience::UnlessRefused).await
}

/// As [`put`], with this patience.
pub(super) async fn put_with(
    shared: &Shared,
    store: &Arc<dyn Store>,
    key: &Key,
    bytes: Bytes,
    patience: Patience,
) -> Result<Option<Accepted>> {
    let put = || async {
        match shared.is_limited() {
            true => store.put_paced(key, bytes.clone(), shared).await,
            false => store.put(key, bytes.clone()).await,
        }
    };
    match patience {
        Patience::Endless => shared.keep_trying(put).await.ok_or(VolumeError::Stopping)?,
        Patience::UnlessRefused => shared.try_unless_refused(put).await?,
    }
    let accepted = Accepted::of(&**store, key, &bytes);
    if accepted.is_some() {
        shared.set_unproven(true);
    }
    Ok(accepted)
}

/// Deletes an object that is not needed any more, however long it takes unless the store refuses.
///
/// # Errors
/// [`VolumeError::Stopping`] if the volume stops first, the store's refusal, and failures of the
/// database.
pub(crate) async fn delete(volume: &Volume, key: &Key) -> Result<()> {
    proof::forget(volume, key)?;
    let delete = || volume.store.delete(key);
    volume.push.shared.try_unless_refused(delete).await
}

/// The key of this name. Names of objects are made by us, so one that is no key is a bug
/// that shows here.
pub(crate) fn key(name: impl Into<String>) -> Result<Key> {
    Key::new(name).map_err(|error| VolumeError::State(error.to_string()))
}

fn note_delivery(volume: &Volume, number: Number, sent: Sent) {
    let chunks: Vec<_> = sent.entries.iter().map(|entry| entry.chunk).collect();
    // Before it is recorded: a commit that finds the record takes this away.
    let entries = sent.entries.clone();
    volume.push.unindexed.remember(sent.id, entries);
    while let Err(error) = record(volume, &sent) {
        // The disk may be full for a while. Until this is noted the pack is not stored.
        volume.push.shared.warnings.set(
            "record",
            format!("what the store acknowledged could not be noted: {error}"),
        );
        volume.push.shared.rest(std::time::Duration::from_secs(2));
        if volume.push.shared.is_stopping() {
            return;
        }
    }
    volume.push.shared.warnings.clear("record");
    if sent.seal.kind == PackKind::Data {
        let raw = sent.entries.iter().map(|entry| u64::from(entry.raw_len));
        volume.push.shared.note_stored(raw.sum());
    }
    let done = volume.push.shared.outbox.acknowledged(number, chunks);
    volume.push.throttle.note_drain(volume.push.shared.now());
    let all_synced = done.len() > SYNCED_EACH && sync_all(volume);
    for mut cut in done {
        cut.settling.synced = all_synced;
        finish(volume, &mut cut);
        volume.trim_lives();
    }
    volume.push.shared.ring();
}

/// Brings all that is stored to this disk at once, for a store that may lose it yet.
/// Answers whether that was done.
fn sync_all(volume: &Volume) -> bool {
    volume.push.shared.is_unproven()
        && volume
            .cache
            .sync_all()
            .inspect_err(|error| tracing::warn!(%error, "the cache could not be synced"))
            .is_ok()
}

/// Records an acknowledged pack and where its chunks lie, in one transaction. A chunk that
/// another pack has too keeps its first place: files that rest on it may be safe already.
pub(super) fn record(volume: &Volume, sent: &Sent) -> Result<()> {
    volume.db.write(|tx| {
        tx.prepare_cached(
            "INSERT INTO packs(id, kind, size, epoch, salt) VALUES(?1, ?2, ?3, ?4, ?5)
             ON CONFLICT(id) DO NOTHING",
        )?
        .execute((
            sent.id.as_bytes(),
            sent.seal.kind.code(),
            sent.size as i64,
            sent.seal.epoch,
            sent.seal.salt.as_slice(),
        ))?;
        let pack: i64 = tx
            .prepare_cached("SELECT pack FROM packs WHERE id = ?1")?
            .query_row([sent.id.as_bytes()], |row| row.get(0))?;
        let mut insert = tx.prepare_cached(
            "INSERT INTO chunks(id, pack, entry, off, len, raw_len, codec)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT(id) DO UPDATE SET pack = excluded.pack, entry = excluded.entry,
                 off = excluded.off, len = excluded.len, raw_len = excluded.raw_len,
                 codec = excluded.codec
             WHERE NOT EXISTS(
                 SELECT 1 FROM packs p WHERE p.pack = chunks.pack AND p.condemned = 0)",
        )?;
        for entry in &sent.entries {
            insert.execute((
                entry.chunk.as_bytes(),
                pack,
                entry.entry,
                entry.off,
                entry.len,
                entry.raw_len,
                entry.codec.code(),
            ))?;
        }
        if let Some(accepted) = &sent.accepted {
            accepted.note(tx)?;
        }
        Ok(())
    })
}

/// Records and remembers a pack that a commit sent.
pub(crate) fn record_for_commit(volume: &Volume, sent: Sent) -> Result<()> {
    record(volume, &sent)?;
    volume.push.unindexed.remember(sent.id, sent.entries);
    Ok(())
}

/// All chunks of a file are stored: records its content.
pub(super) fn finish(volume: &Volume, cut: &mut Cut) {
    let ino = cut.settling.ino;
    let settled = settle(volume, cut);
    let attempts = &volume.push.attempts;
    match settled {
        Ok(Settled::Clean | Settled::Gone) | Err(VolumeError::NoEntry) => attempts.settled(ino),
        Ok(Settled::StillOpen) => attempts.stored_open(ino, cut.settling.stamp()),
        Ok(Settled::ChangedMeanwhile) => {
            attempts.changed(ino);
            volume.live.set_aside(ino, None);
        }
        Err(error) => {
            volume.live.set_aside(ino, None);
            tracing::warn!(ino, %error, "a stored file could not be noted as such");
        }
    }
}

fn settle(volume: &Volume, cut: &mut Cut) -> Result<Settled> {
    if volume.push.shared.is_unproven() {
        // The store may lose in a power cut what it has, and this machine in the same one.
        volume.sync_settling(&mut cut.settling)?;
    }
    let losses = volume.push.losses.read();
    if *losses != cut.losses {
        return Ok(Settled::ChangedMeanwhile);
    }
    volume.finish_settle(&cut.settling, &cut.content, &cut.extents)
}

//! Making a new volume.
//!
//! The store gets the key slots first and the header last: a store without a header holds
//! no volume, whatever an interrupted attempt left there. Slots of another attempt carry
//! another volume's id and open nothing.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use larder_format::{
    ArgonParams, KeyFile, RecoveryKey, ReplicaKey, Slot, VolumeKeys, encode_volume_header,
    seal_passphrase_slot, seal_recovery_slot, slot_name,
};
use larder_model::{Kind, NodeId, VolumeId};
use larder_store::Store;

use super::super::locate::key;
use super::join::find_volume;
use super::slots::note_slots;
use super::staging::{Staging, random};
use crate::db::{Transaction, set_meta};
use crate::push::Accepted;
use crate::stored_node::insert_row;
use crate::{Attr, ROOT, Result, Settings, VolumeError, node};

/// What a user must know of a new volume.
#[derive(Clone)]
pub struct InitReport {
    /// The volume.
    pub volume: VolumeId,
    /// The recovery key, to be printed and kept: it opens the volume without passphrase.
    pub recovery_key: String,
}

/// Makes a new volume on `store`, with its first replica in `state_dir`. Without a
/// passphrase only the recovery key opens it elsewhere.
///
/// # Errors
/// If the store cannot be reached or holds a volume already, or the disk fails.
pub async fn init(
    state_dir: &Path,
    store: Arc<dyn Store>,
    passphrase: Option<&str>,
    settings: Settings,
) -> Result<InitReport> {
    init_at_cost(
        state_dir,
        store,
        passphrase,
        settings,
        ArgonParams::STANDARD,
    )
    .await
}

/// As [`init`], with other costs of guessing the passphrase; for tests, that need it cheap.
///
/// # Errors
/// As [`init`].
pub async fn init_at_cost(
    state_dir: &Path,
    store: Arc<dyn Store>,
    passphrase: Option<&str>,
    _settings: Settings,
    cost: ArgonParams,
) -> Result<InitReport> {
    refuse_if_taken(&*store).await?;
    let staging = Staging::begin(state_dir)?;
    let volume = new_volume_id()?;
    let keys = VolumeKeys::new(volume, random()?, random()?);
    let recovery = RecoveryKey::from_secret(random()?);
    staging.write_keys(&KeyFile {
        keys: keys.clone(),
        replica: ReplicaKey::from_seed(random()?)?,
    })?;
    staging.db().write(first_node)?;

    let mut slots = vec![seal_recovery_slot(&keys, &recovery, random()?).map_err(refused)?];
    if let Some(passphrase) = passphrase {
        slots.push(passphrase_slot(&keys, passphrase, cost).await?);
    }
    let ids: Vec<_> = slots.iter().map(|slot| slot.id).collect();
    staging.db().write(|tx| note_slots(tx, &ids))?;
    let mut accepted = Vec::new();
    for slot in slots {
        accepted.extend(put(&*store, slot_name(&slot.id), slot.bytes).await?);
    }
    let header = encode_volume_header(volume);
    accepted.extend(put(&*store, larder_format::object::VOLUME, header).await?);
    staging
        .db()
        .write(|tx| accepted.iter().try_for_each(|object| object.note(tx)))?;
    staging.finish()?;
    Ok(InitReport {
        volume,
        recovery_key: recovery.to_text().to_string(),
    })
}

async fn refuse_if_taken(store: &dyn Store) -> Result<()> {
    if let Some(volume) = find_volume(store).await? {
        return Err(VolumeError::State(format!(
            "{} holds volume {volume} already. `larder open` brings it to this machine; a new \
             volume needs an empty place",
            store.address()
        )));
    }
    let heads = store
        .list(&format!("{}/", larder_format::object::HEADS))
        .await?;
    if !heads.is_empty() {
        return Err(VolumeError::State(format!(
            "{} holds a volume whose header is missing. A new volume needs an empty place",
            store.address()
        )));
    }
    Ok(())
}

async fn passphrase_slot(keys: &VolumeKeys, passphrase: &str, cost: ArgonParams) -> Result<Slot> {
    let (keys, passphrase, salt) = (keys.clone(), passphrase.to_owned(), random()?);
    // Argon2id takes its time on purpose.
    let sealing = tokio::task::spawn_blocking(move || {
        seal_passphrase_slot(&keys, passphrase.as_bytes(), cost, salt)
    });
    let sealed = sealing.await.map_err(|_| VolumeError::Stopping)?;
    sealed.map_err(refused)
}

fn refused(error: larder_format::SlotError) -> VolumeError {
    VolumeError::State(format!("could not seal the volume's keys: {error}"))
}

/// Puts an object; answers what is to be noted if the store did not sync it.
async fn put(
    store: &dyn Store,
    name: impl Into<String>,
    bytes: Vec<u8>,
) -> Result<Option<Accepted>> {
    let (name, bytes) = (key(name)?, Bytes::from(bytes));
    store.put(&name, bytes.clone()).await?;
    Ok(Accepted::of(store, &name, &bytes))
}

fn new_volume_id() -> Result<VolumeId> {
    let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = random()?;
    Ok(VolumeId(id))
}

/// Gives a new tree its root, for the first commit to take.
pub(super) fn first_node(tx: &Transaction<'_>) -> Result<()> {
    let now = node::now();
    let root = Attr {
        ino: ROOT,
        kind: Kind::Directory,
        mode: 0o755,
        nlink: 2,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        size: 4096,
        blocks: 8,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    };
    insert_row(tx, &root, NodeId::ROOT, None, None)?;
    tx.execute("INSERT INTO changed(ino, seq) VALUES(?1, 1)", [ROOT as i64])?;
    set_meta(tx, "inos_reserved", &(ROOT + 1).to_be_bytes())
}

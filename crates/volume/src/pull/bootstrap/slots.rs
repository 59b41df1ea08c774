//! The volume's keys, from a passphrase or the recovery key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_format::{
    RecoveryKey, SlotError, SlotKind, VolumeKeys, open_slot, parse_slot_name, slot_kind,
};
use larder_model::{SlotId, VolumeId};
use rusqlite::Connection;

use super::super::source::Source;
use super::Credential;
use crate::db::{meta, set_meta};
use crate::{Result, VolumeError};

/// The ids of the key slots that were on the store when this replica was made.
const SLOTS: &str = "slots";

/// Notes which key slots are on the store, so that a lost one is missed.
///
/// # Errors
/// Failures of the database.
pub(super) fn note_slots(connection: &Connection, ids: &[SlotId]) -> Result<()> {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
    set_meta(connection, SLOTS, &bytes)
}

/// The key slots that must be on the store, as far as is known.
///
/// # Errors
/// Failures of the database.
pub(in crate::pull) fn noted_slots(connection: &Connection) -> Result<Vec<SlotId>> {
    let bytes = meta(connection, SLOTS)?.unwrap_or_default();
    let (ids, _) = bytes.as_chunks();
    Ok(ids.iter().copied().map(SlotId).collect())
}

/// Opens the slot of the volume that the credential fits. Answers the ids of all slots, too.
///
/// # Errors
/// If none does, or the store cannot be reached.
pub(super) async fn open_keys(
    source: &Source,
    volume: VolumeId,
    credential: &Credential,
    wait: Duration,
) -> Result<(VolumeKeys, Vec<SlotId>)> {
    let prefix = format!("{}/", larder_format::object::KEYS);
    let slots = source.store().list(&prefix).await?;
    let ids = slots
        .iter()
        .filter_map(|slot| parse_slot_name(slot.key.as_str()))
        .collect();
    let secret = match credential {
        Credential::Passphrase(words) => Secret::Passphrase(words.clone()),
        Credential::RecoveryKey(text) => RecoveryKey::parse(text)
            .map(Secret::Recovery)
            .map_err(|error| VolumeError::State(error.to_string()))?,
        Credential::Keys(keys) if keys.volume() == volume => return Ok((keys.clone(), ids)),
        Credential::Keys(keys) => {
            let address = source.store().address();
            return Err(VolumeError::State(format!(
                "{address} holds volume {volume}, and not volume {}",
                keys.volume()
            )));
        }
    };
    let secret = Arc::new(secret);
    let mut others = Vec::new();
    for slot in &slots {
        let bytes = source.fetch_whole(slot, Instant::now() + wait).await?;
        if slot_kind(&bytes).is_ok_and(|kind| kind != secret.kind()) {
            continue;
        }
        let trying = Arc::clone(&secret);
        // Argon2id takes its time on purpose.
        let opening = tokio::task::spawn_blocking(move || trying.open(&bytes));
        match opening.await.map_err(|_| VolumeError::Stopping)? {
            Ok(keys) if keys.volume() == volume => return Ok((keys, ids)),
            Ok(_) | Err(SlotError::WrongCredential | SlotError::OtherCredential) => {}
            Err(error) => others.push(format!("{}: {error}", slot.key)),
        }
    }
    let address = source.store().address();
    Err(VolumeError::State(if let Some(first) = others.first() {
        format!("no key slot on {address} could be opened. {first}")
    } else if slots.is_empty() {
        format!("{address} has no key slot: the volume cannot be opened from it")
    } else {
        match secret.kind() {
            SlotKind::Passphrase => format!("the passphrase opens no key slot on {address}"),
            SlotKind::RecoveryKey => format!("the recovery key opens no key slot on {address}"),
        }
    }))
}

enum Secret {
    Passphrase(String),
    Recovery(RecoveryKey),
}

impl Secret {
    fn kind(&self) -> SlotKind {
        match self {
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Recovery(_) => SlotKind::RecoveryKey,
        }
    }

    fn open(&self, slot: &[u8]) -> Result<VolumeKeys, SlotError> {
        let credential = match self {
            Self::Passphrase(words) => larder_format::Credential::Passphrase(words.as_bytes()),
            Self::Recovery(key) => larder_format::Credential::RecoveryKey(key),
        };
        open_slot(slot, &credential)
    }
}

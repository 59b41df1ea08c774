//! The volume's keys, from a passphrase or the recovery key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_format::{RecoveryKey, SlotError, SlotKind, VolumeKeys, open_slot, slot_kind};
use larder_model::VolumeId;

use super::super::source::Source;
use super::Credential;
use crate::{Result, VolumeError};

/// Opens the slot of the volume that the credential fits.
///
/// # Errors
/// If none does, or the store cannot be reached.
pub(super) async fn open_keys(
    source: &Source,
    volume: VolumeId,
    credential: &Credential,
    wait: Duration,
) -> Result<VolumeKeys> {
    let secret = Arc::new(Secret::of(credential)?);
    let prefix = format!("{}/", larder_format::object::KEYS);
    let slots = source.store().list(&prefix).await?;
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
            Ok(keys) if keys.volume() == volume => return Ok(keys),
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
    fn of(credential: &Credential) -> Result<Self> {
        match credential {
            Credential::Passphrase(words) => Ok(Self::Passphrase(words.clone())),
            Credential::RecoveryKey(text) => RecoveryKey::parse(text)
                .map(Self::Recovery)
                .map_err(|error| VolumeError::State(error.to_string())),
        }
    }

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

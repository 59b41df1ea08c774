//! Key slots: the volume's keys, sealed with something that a person has.
//!
//! A passphrase goes through Argon2id with parameters that the slot carries; a recovery key
//! has 256 random bits and needs no stretching. The key that seals is fresh for each slot
//! (its salt is random), so the nonce is always zero. A plain checksum at the end tells a
//! damaged slot from a wrong passphrase. Parameters from a slot are bounded before they are
//! used, so that a hostile slot costs at most [`ArgonParams::MAX`].

use argon2::{Algorithm, Argon2, Params, Version};
use larder_model::{SlotId, VolumeId};
use ring::aead::{Aad, NONCE_LEN, Nonce};
use zeroize::Zeroizing;

use crate::object::{ObjectKind, object_hash};
use crate::seal::{TAG_LEN, aead_key};
use crate::wire::Reader;
use crate::{FormatError, RecoveryKey, VolumeKeys};

/// The BLAKE3 derivation context of the key that seals a passphrase slot.
pub(crate) const PASSPHRASE_CONTEXT: &str = "larder 1 passphrase slot key";
/// The BLAKE3 derivation context of the key that seals a recovery slot.
pub(crate) const RECOVERY_CONTEXT: &str = "larder 1 recovery slot key";

const CHECKSUM_LEN: usize = 16;

/// What a slot asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotKind {
    /// A passphrase.
    Passphrase,
    /// The printed recovery key.
    RecoveryKey,
}

/// What opens a slot.
#[derive(Debug, Clone, Copy)]
pub enum Credential<'a> {
    /// The passphrase's bytes, as they were typed.
    Passphrase(&'a [u8]),
    /// The recovery key.
    RecoveryKey(&'a RecoveryKey),
}

impl Credential<'_> {
    /// Which slots it may open.
    pub fn kind(&self) -> SlotKind {
        match self {
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::RecoveryKey(_) => SlotKind::RecoveryKey,
        }
    }
}

/// What Argon2id (version 0x13) costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgonParams {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl ArgonParams {
    /// What new slots use: about half a second and 256 MiB, since whoever holds a store can
    /// guess offline.
    pub const STANDARD: Self = Self {
        memory_kib: 256 * 1024,
        passes: 3,
        lanes: 1,
    };

    /// The most that is used when a slot asks for it.
    pub const MAX: Self = Self {
        memory_kib: 1024 * 1024,
        passes: 16,
        lanes: 16,
    };

    fn is_allowed(&self) -> bool {
        self.memory_kib <= Self::MAX.memory_kib
            && self.passes <= Self::MAX.passes
            && self.lanes <= Self::MAX.lanes
    }

    /// The key of this passphrase and salt.
    fn stretch(
        &self,
        passphrase: &[u8],
        salt: &[u8; 32],
    ) -> Result<Zeroizing<[u8; 32]>, SlotError> {
        if !self.is_allowed() {
            return Err(SlotError::Parameters);
        }
        let params = Params::new(self.memory_kib, self.passes, self.lanes, Some(32))
            .map_err(|_| SlotError::Parameters)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase, salt, &mut *key)
            .map_err(|_| SlotError::OutOfMemory {
                mib: self.memory_kib / 1024,
            })?;
        Ok(key)
    }
}

/// Why a slot did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The slot is whole; the passphrase or the recovery key is not its own.
    #[error("the passphrase or recovery key is not the right one")]
    WrongCredential,
    /// The slot asks for the other kind of credential.
    #[error("this key slot opens with another kind of credential")]
    OtherCredential,
    /// The Argon2id parameters are impossible, or beyond [`ArgonParams::MAX`].
    #[error("the key slot's Argon2id parameters are out of bounds")]
    Parameters,
    /// Argon2id did not get its memory.
    #[error("not enough memory to check the passphrase: {mib} MiB are needed")]
    OutOfMemory {
        /// How much it needs, in MiB.
        mib: u32,
    },
    /// The slot's bytes are no slot.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// A sealed slot, ready to be put on a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its id: the hash of its bytes.
    pub id: SlotId,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Seals the volume's keys with a passphrase. `salt` must be random and fresh.
///
/// # Errors
/// If the parameters are out of bounds, or the memory for them is not there.
pub fn seal_passphrase_slot(
    keys: &VolumeKeys,
    passphrase: &[u8],
    params: ArgonParams,
    salt: [u8; 32],
) -> Result<Slot, SlotError> {
    let front = Front {
        kind: SlotKind::Passphrase,
        volume: keys.volume(),
        params,
        salt,
    };
    front.seal(keys, &Credential::Passphrase(passphrase))
}

/// Seals the volume's keys with a recovery key. `salt` must be random and fresh.
///
/// # Errors
/// None that is known; the cryptographic library may refuse.
pub fn seal_recovery_slot(
    keys: &VolumeKeys,
    recovery: &RecoveryKey,
    salt: [u8; 32],
) -> Result<Slot, SlotError> {
    let front = Front {
        kind: SlotKind::RecoveryKey,
        volume: keys.volume(),
        params: ArgonParams {
            memory_kib: 0,
            passes: 0,
            lanes: 0,
        },
        salt,
    };
    front.seal(keys, &Credential::RecoveryKey(recovery))
}

/// What the slot asks for.
///
/// # Errors
/// If the bytes are not a slot, or of a newer version.
pub fn slot_kind(bytes: &[u8]) -> Result<SlotKind, FormatError> {
    Front::decode(bytes).map(|(front, _)| front.kind)
}

/// Opens a slot.
///
/// # Errors
/// See [`SlotError`].
pub fn open_slot(bytes: &[u8], credential: &Credential<'_>) -> Result<VolumeKeys, SlotError> {
    let (front, sealed) = Front::decode(bytes)?;
    let key = aead_key(&*front.key(credential)?)?;
    let mut secret = Zeroizing::new(sealed.to_vec());
    let plain = key
        .open_in_place(
            zero_nonce(),
            Aad::from(front.encode()),
            secret.as_mut_slice(),
        )
        .map_err(|_| SlotError::WrongCredential)?;
    let mut reader = Reader::new(ObjectKind::Slot.noun(), plain);
    let keys = VolumeKeys::decode(&mut reader)?;
    reader.ensure(keys.volume() == front.volume, "it names two volumes")?;
    reader.finish()?;
    Ok(keys)
}

/// The plain front of a slot; the sealed keys are bound to all of it.
struct Front {
    kind: SlotKind,
    volume: VolumeId,
    params: ArgonParams,
    salt: [u8; 32],
}

impl Front {
    const LEN: usize = 8 + 1 + 16 + 12 + 32;

    fn encode(&self) -> Vec<u8> {
        let mut out = ObjectKind::Slot.magic().to_vec();
        out.push(match self.kind {
            SlotKind::Passphrase => 1,
            SlotKind::RecoveryKey => 2,
        });
        out.extend_from_slice(self.volume.as_bytes());
        for number in [
            self.params.memory_kib,
            self.params.passes,
            self.params.lanes,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.salt);
        out
    }

    /// Reads the front and checks the checksum; gives the sealed keys too.
    fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), FormatError> {
        let mut reader = ObjectKind::Slot.open(bytes)?;
        let (body, checksum) = bytes
            .split_last_chunk::<CHECKSUM_LEN>()
            .ok_or_else(|| reader.damaged("it ends too early"))?;
        reader.ensure(
            object_hash(body)[..CHECKSUM_LEN] == *checksum,
            "its checksum does not match",
        )?;
        let kind = match reader.u8()? {
            1 => SlotKind::Passphrase,
            2 => SlotKind::RecoveryKey,
            _ => return Err(reader.damaged("it is for an unknown kind of credential")),
        };
        let front = Self {
            kind,
            volume: VolumeId(reader.array()?),
            params: ArgonParams {
                memory_kib: reader.u32()?,
                passes: reader.u32()?,
                lanes: reader.u32()?,
            },
            salt: reader.array()?,
        };
        let sealed = body.get(Self::LEN..).unwrap_or_default();
        reader.ensure(sealed.len() > TAG_LEN, "it ends too early")?;
        Ok((front, sealed))
    }

    /// The key that this credential makes with the slot's salt.
    fn key(&self, credential: &Credential<'_>) -> Result<Zeroizing<[u8; 32]>, SlotError> {
        let derived = match (self.kind, credential) {
            (SlotKind::Passphrase, Credential::Passphrase(passphrase)) => {
                let stretched = self.params.stretch(passphrase, &self.salt)?;
                blake3::derive_key(PASSPHRASE_CONTEXT, &*stretched)
            }
            (SlotKind::RecoveryKey, Credential::RecoveryKey(recovery)) => {
                let mut material = Zeroizing::new([0; 64]);
                material[..32].copy_from_slice(recovery.secret());
                material[32..].copy_from_slice(&self.salt);
                blake3::derive_key(RECOVERY_CONTEXT, &*material)
            }
            _ => return Err(SlotError::OtherCredential),
        };
        Ok(Zeroizing::new(derived))
    }

    fn seal(&self, keys: &VolumeKeys, credential: &Credential<'_>) -> Result<Slot, SlotError> {
        let key = aead_key(&*self.key(credential)?)?;
        let mut bytes = self.encode();
        let mut secret = Zeroizing::new(Vec::new());
        keys.encode(&mut secret);
        let tag = key
            .seal_in_place_separate_tag(zero_nonce(), Aad::from(&bytes), secret.as_mut_slice())
            .map_err(|_| FormatError::TooLarge {
                what: ObjectKind::Slot.noun(),
                bytes: secret.len() as u64,
                limit: u32::MAX.into(),
            })?;
        bytes.extend_from_slice(&secret);
        bytes.extend_from_slice(tag.as_ref());
        let hash = object_hash(&bytes);
        bytes.extend_from_slice(&hash[..CHECKSUM_LEN]);
        Ok(Slot {
            id: SlotId(object_hash(&bytes)),
            bytes,
        })
    }
}

/// The key of a slot seals once.
fn zero_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; NONCE_LEN])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{a_newer_version_is_refused, every_change_is_found, keys};

    const CHEAP: ArgonParams = ArgonParams {
        memory_kib: 8,
        passes: 1,
        lanes: 1,
    };

    fn passphrase_slot() -> Slot {
        seal_passphrase_slot(&keys(), b"correct horse", CHEAP, [5; 32]).unwrap()
    }

    #[test]
    fn a_slot_opens_with_its_passphrase_only() {
        let slot = passphrase_slot();
        let opened = open_slot(&slot.bytes, &Credential::Passphrase(b"correct horse")).unwrap();
        assert_eq!(opened.chunk_id(b"x"), keys().chunk_id(b"x"));
        assert_eq!(opened.volume(), keys().volume());
        for wrong in [&b""[..], b"correct horsf", b"correct horse "] {
            let error = open_slot(&slot.bytes, &Credential::Passphrase(wrong)).unwrap_err();
            assert_eq!(error, SlotError::WrongCredential);
        }
    }

    #[test]
    fn a_slot_opens_with_its_recovery_key_only() {
        let right = RecoveryKey::from_secret([6; 32]);
        let slot = seal_recovery_slot(&keys(), &right, [5; 32]).unwrap();
        assert_eq!(slot_kind(&slot.bytes), Ok(SlotKind::RecoveryKey));
        let opened = open_slot(&slot.bytes, &Credential::RecoveryKey(&right)).unwrap();
        assert_eq!(opened.chunk_id(b"x"), keys().chunk_id(b"x"));
        let wrong = RecoveryKey::from_secret([7; 32]);
        assert_eq!(
            open_slot(&slot.bytes, &Credential::RecoveryKey(&wrong)).unwrap_err(),
            SlotError::WrongCredential
        );
        assert_eq!(
            open_slot(&slot.bytes, &Credential::Passphrase(&[6; 32])).unwrap_err(),
            SlotError::OtherCredential
        );
    }

    #[test]
    fn damage_is_told_from_a_wrong_passphrase() {
        let slot = passphrase_slot();
        let credential = Credential::Passphrase(b"correct horse");
        every_change_is_found(&slot.bytes, |bytes| open_slot(bytes, &credential).map(drop));
        for at in 0..slot.bytes.len() {
            let mut bytes = slot.bytes.clone();
            bytes[at] ^= 1;
            let error = open_slot(&bytes, &credential).unwrap_err();
            assert!(
                matches!(error, SlotError::Format(_)),
                "byte {at}: {error:?}"
            );
        }
    }

    #[test]
    fn a_newer_slot_is_refused_in_words() {
        a_newer_version_is_refused(&passphrase_slot().bytes, |bytes| {
            match open_slot(bytes, &Credential::Passphrase(b"x")) {
                Err(SlotError::Format(error)) => Some(error),
                _ => None,
            }
        });
    }

    #[test]
    fn a_hostile_slot_cannot_ask_for_all_memory() {
        for params in [
            ArgonParams {
                memory_kib: u32::MAX,
                ..CHEAP
            },
            ArgonParams {
                passes: 1 << 20,
                ..CHEAP
            },
            ArgonParams {
                lanes: 1 << 20,
                ..CHEAP
            },
            ArgonParams { passes: 0, ..CHEAP },
        ] {
            let front = Front {
                kind: SlotKind::Passphrase,
                volume: keys().volume(),
                params,
                salt: [0; 32],
            };
            let mut bytes = front.encode();
            bytes.extend_from_slice(&[0; 100]);
            let hash = object_hash(&bytes);
            bytes.extend_from_slice(&hash[..CHECKSUM_LEN]);
            assert_eq!(
                open_slot(&bytes, &Credential::Passphrase(b"x")).unwrap_err(),
                SlotError::Parameters
            );
        }
    }
}

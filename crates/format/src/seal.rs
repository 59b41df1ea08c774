//! How objects are sealed: AES-256-GCM with a key for each object.
//!
//! An object's key is derived from the volume's seal key of its epoch, the volume, the
//! object's kind and version, and its random salt. Within an object each sealed part has its
//! own number, and that is the nonce; so no nonce is used twice with one key as long as no
//! salt is. The additional data of every part are the object's first eight bytes (kind and
//! version) and the volume id, so that nothing opens as what it is not, or elsewhere.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::object::{MAGIC_LEN, ObjectKind, SealedHeader};
use crate::{FormatError, VolumeKeys};

type Result<T> = std::result::Result<T, FormatError>;

/// By how many bytes a sealed part is longer than the plain one.
pub(crate) const TAG_LEN: usize = 16;

/// The BLAKE3 derivation context of an object's own key.
pub(crate) const OBJECT_KEY_CONTEXT: &str = "larder 1 object key";

const AAD_LEN: usize = MAGIC_LEN + 16;

/// Which run of parts in an object; with the number in the run it makes the nonce.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// Chunks of a pack, blocks of an index object, the only part of a head.
    Body = 0,
    /// The index of a pack, the table of packs of an index object.
    Table = 1,
    /// The fences of an index object.
    Fences = 2,
    /// What tells where the others lie.
    Trailer = 3,
}

/// The key of one object.
pub(crate) struct Seal {
    what: &'static str,
    key: LessSafeKey,
    aad: [u8; AAD_LEN],
}

impl Seal {
    /// The key of the object of this kind with this header.
    pub fn new(keys: &VolumeKeys, kind: ObjectKind, header: &SealedHeader) -> Result<Self> {
        let seal_key = keys.seal_key(kind.noun(), header.epoch)?;
        let volume = keys.volume();
        let mut material = Zeroizing::new([0; 32 + 16 + MAGIC_LEN + 4 + 32]);
        let parts: [&[u8]; 5] = [
            seal_key,
            volume.as_bytes(),
            &kind.magic(),
            &header.epoch.to_le_bytes(),
            &header.salt,
        ];
        let mut at = 0;
        for part in parts {
            material[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let key = Zeroizing::new(blake3::derive_key(OBJECT_KEY_CONTEXT, &*material));
        let mut aad = [0; AAD_LEN];
        aad[..MAGIC_LEN].copy_from_slice(&kind.magic());
        aad[MAGIC_LEN..].copy_from_slice(volume.as_bytes());
        Ok(Self {
            what: kind.noun(),
            key: aead_key(&key)?,
            aad,
        })
    }

    /// Seals `out[from..]` in place and appends the tag.
    pub fn seal(&self, part: Part, number: u64, out: &mut Vec<u8>, from: usize) -> Result<()> {
        let bytes = (out.len() - from) as u64;
        let plain = &mut out[from..];
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(part, number), Aad::from(self.aad), plain)
            .map_err(|_| FormatError::TooLarge {
                what: self.what,
                bytes,
                limit: u32::MAX.into(),
            })?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Opens a sealed part in place; its plain bytes are the front of `sealed`.
    pub fn open<'b>(&self, part: Part, number: u64, sealed: &'b mut [u8]) -> Result<&'b mut [u8]> {
        self.key
            .open_in_place(nonce(part, number), Aad::from(self.aad), sealed)
            .map_err(|_| FormatError::Damaged {
                what: self.what,
                why: "a part of it does not open with the volume's key",
            })
    }

    /// Opens a copy of a sealed part.
    pub fn open_copy(&self, part: Part, number: u64, sealed: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = sealed.to_vec();
        let len = self.open(part, number, &mut bytes)?.len();
        bytes.truncate(len);
        Ok(bytes)
    }
}

/// The AES-256-GCM key of these bytes.
pub(crate) fn aead_key(key: &[u8; 32]) -> Result<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key)
        .map(LessSafeKey::new)
        .map_err(|_| FormatError::Damaged {
            what: "key",
            why: "it has another length than AES-256 takes",
        })
}

fn nonce(part: Part, number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[0] = part as u8;
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

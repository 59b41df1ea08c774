//! Bytes that were checked against their chunk id.

use std::fmt;
use std::ops::Deref;

use larder_model::ChunkId;

use crate::{FormatError, VolumeKeys};

/// The plaintext of a chunk, checked against its id: no other code can make one, so what
/// takes a `Verified` cannot be given bytes that nobody checked.
#[derive(Clone, PartialEq, Eq)]
pub struct Verified {
    id: ChunkId,
    bytes: Vec<u8>,
}

impl Verified {
    /// Checks bytes that are said to be chunk `id`.
    ///
    /// # Errors
    /// If they are not.
    pub fn check(keys: &VolumeKeys, id: ChunkId, bytes: Vec<u8>) -> Result<Self, FormatError> {
        if keys.chunk_id(&bytes) == id {
            Ok(Self { id, bytes })
        } else {
            Err(FormatError::Damaged {
                what: "chunk",
                why: "its bytes do not match its id",
            })
        }
    }

    /// The chunk.
    pub fn id(&self) -> ChunkId {
        self.id
    }

    /// Its plaintext.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Deref for Verified {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Verified {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verified({}, {} bytes)", self.id, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::keys;

    #[test]
    fn only_the_bytes_of_an_id_pass_its_check() {
        let id = keys().chunk_id(b"bytes");
        let verified = Verified::check(&keys(), id, b"bytes".to_vec()).unwrap();
        assert_eq!((verified.id(), &*verified), (id, &b"bytes"[..]));
        assert!(Verified::check(&keys(), id, b"bytez".to_vec()).is_err());
        assert!(Verified::check(&keys(), id, b"byte".to_vec()).is_err());
    }
}

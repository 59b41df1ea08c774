//! Identifiers. Each is a fixed number of bytes, shown as lower-case hex.

use std::fmt;
use std::str::FromStr;

/// Text that is not the id it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {noun}: expected {digits} hexadecimal digits")]
pub struct IdError {
    noun: &'static str,
    digits: usize,
    text: String,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// How many bytes the id has.
            pub const LEN: usize = $bytes;

            /// The id's bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The id that these bytes are; `None` unless there are exactly [`Self::LEN`].
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let wrong = || IdError {
                    noun: $noun,
                    digits: 2 * $bytes,
                    text: text.to_owned(),
                };
                let digits_only = text.bytes().all(|b| b.is_ascii_hexdigit());
                if text.len() != 2 * $bytes || !digits_only {
                    return Err(wrong());
                }
                let mut bytes = [0; $bytes];
                for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
                    let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
                    *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

id!(
    /// One tree of files, shared by its replicas. Random.
    VolumeId, 16, "volume id"
);
id!(
    /// One machine's copy of a volume: its Ed25519 public key.
    ReplicaId, 32, "replica id"
);
id!(
    /// A node of the tree; outlives renames. A UUIDv7, so that nodes made together lie
    /// together.
    NodeId, 16, "node id"
);
id!(
    /// A chunk: the keyed BLAKE3 hash of its plaintext. The key is the volume's id key.
    ChunkId, 32, "chunk id"
);
id!(
    /// A pack: the BLAKE3 hash of its bytes as they lie on a store.
    PackId, 32, "pack id"
);
id!(
    /// An index object: the BLAKE3 hash of its bytes as they lie on a store.
    IndexId, 32, "index id"
);
id!(
    /// A key slot: the BLAKE3 hash of its bytes as they lie on a store.
    SlotId, 32, "key slot id"
);

impl NodeId {
    /// The root directory of every volume.
    pub const ROOT: Self = Self([0; 16]);
}

/// One link of a node; unique within its node. Zero is the link a node was born with,
/// any other is random, so that hard links made on two replicas at once stay two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

impl LinkId {
    /// The link a node is born with.
    pub const BIRTH: Self = Self(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_from_its_text() {
        let id = ChunkId(std::array::from_fn(|i| i as u8));
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn text_of_another_shape_is_refused_in_words() {
        for text in [
            "",
            "00",
            "+0000000000000000000000000000000",
            "é0000000000000000000000000000000",
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
        assert_eq!(
            "xy".parse::<NodeId>().map_err(|e| e.to_string()),
            Err("\"xy\" is not a node id: expected 32 hexadecimal digits".into())
        );
    }
}

//! The secrets of a volume and of a replica.
//!
//! A volume has one id key, fixed for its life, that names chunks, and one seal key for each
//! epoch; the newest seals, and all open. No seal key ever seals by itself: each object gets
//! its own key from it (see `seal`). A replica has an Ed25519 key; its public half is its id.
//! Secrets are wiped from memory when they are dropped, and `Debug` does not show them.

use std::collections::BTreeMap;
use std::fmt;

use larder_model::{ChunkId, ReplicaId, VolumeId};
use ring::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

use crate::FormatError;
use crate::object::{MAGIC_LEN, ObjectKind, object_hash};
use crate::wire::Reader;

type Result<T> = std::result::Result<T, FormatError>;
type Secret = Zeroizing<[u8; 32]>;

/// What all replicas of a volume share: its id, its id key, and its seal keys by epoch.
#[derive(Clone)]
pub struct VolumeKeys {
    volume: VolumeId,
    id_key: Secret,
    /// Never empty.
    seal_keys: BTreeMap<u32, Secret>,
    newest: u32,
}

impl VolumeKeys {
    /// The keys of a new volume: `seal_key` is that of epoch 1. Both keys must be random.
    pub fn new(volume: VolumeId, id_key: [u8; 32], seal_key: [u8; 32]) -> Self {
        Self {
            volume,
            id_key: Secret::new(id_key),
            seal_keys: BTreeMap::from([(1, Secret::new(seal_key))]),
            newest: 1,
        }
    }

    /// The volume.
    pub fn volume(&self) -> VolumeId {
        self.volume
    }

    /// The id of a chunk with this plaintext.
    pub fn chunk_id(&self, plaintext: &[u8]) -> ChunkId {
        ChunkId(*blake3::keyed_hash(&self.id_key, plaintext).as_bytes())
    }

    /// The epoch whose key seals.
    pub fn newest_epoch(&self) -> u32 {
        self.newest
    }

    /// Adds a random seal key for a new epoch, which is returned and seals from now on.
    pub fn add_epoch(&mut self, seal_key: [u8; 32]) -> u32 {
        self.newest += 1;
        self.seal_keys.insert(self.newest, Secret::new(seal_key));
        self.newest
    }

    pub(crate) fn id_key(&self) -> &[u8; 32] {
        &self.id_key
    }

    pub(crate) fn seal_key(&self, what: &'static str, epoch: u32) -> Result<&[u8; 32]> {
        self.seal_keys
            .get(&epoch)
            .map(|key| &**key)
            .ok_or(FormatError::NoKey { what, epoch })
    }

    /// Appends the secret bytes, for a slot or the key file.
    pub(crate) fn encode(&self, out: &mut Zeroizing<Vec<u8>>) {
        // Reserved at once: a vector that grows leaves unwiped copies behind.
        out.reserve(16 + 32 + 4 + self.seal_keys.len() * 36 + 64);
        out.extend_from_slice(self.volume.as_bytes());
        out.extend_from_slice(&*self.id_key);
        out.extend_from_slice(&(self.seal_keys.len() as u32).to_le_bytes());
        for (epoch, key) in &self.seal_keys {
            out.extend_from_slice(&epoch.to_le_bytes());
            out.extend_from_slice(&**key);
        }
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub(crate) fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let volume = VolumeId(reader.array()?);
        let id_key = Secret::new(reader.array()?);
        let count = reader.u32()?;
        reader.ensure(count != 0, "it has no seal key")?;
        let (mut seal_keys, mut newest) = (BTreeMap::new(), 0);
        for _ in 0..count {
            let epoch = reader.u32()?;
            reader.ensure(
                epoch > newest && epoch < u32::MAX,
                "its epochs are not in order",
            )?;
            seal_keys.insert(epoch, Secret::new(reader.array()?));
            newest = epoch;
        }
        Ok(Self {
            volume,
            id_key,
            seal_keys,
            newest,
        })
    }
}

impl fmt::Debug for VolumeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "VolumeKeys({}, epoch {}, ..)",
            self.volume,
            self.newest_epoch()
        )
    }
}

/// The key with which one replica signs.
pub struct ReplicaKey {
    seed: Secret,
    pair: Ed25519KeyPair,
    id: ReplicaId,
}

impl ReplicaKey {
    /// The key of this random seed.
    ///
    /// # Errors
    /// If the cryptographic library refuses the seed, which it does for none known.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self> {
        let refused = || FormatError::Damaged {
            what: "replica key",
            why: "its seed makes no Ed25519 key",
        };
        let seed = Secret::new(seed);
        let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| refused())?;
        let id = ReplicaId::from_slice(pair.public_key().as_ref()).ok_or_else(refused)?;
        Ok(Self { seed, pair, id })
    }

    /// The random bytes that it is made of, for who else speaks in this replica's name.
    pub fn seed(&self) -> &Zeroizing<[u8; 32]> {
        &self.seed
    }

    /// The replica: the public key.
    pub fn id(&self) -> ReplicaId {
        self.id
    }

    /// An Ed25519 signature over `message`.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

impl fmt::Debug for ReplicaKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplicaKey({}, ..)", self.id)
    }
}

/// What a replica keeps in its key file (mode 0600), so that it opens without asking.
#[derive(Debug)]
pub struct KeyFile {
    /// The volume's keys.
    pub keys: VolumeKeys,
    /// The replica's own.
    pub replica: ReplicaKey,
}

impl KeyFile {
    /// The file's bytes, all of them secret.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut secret = Zeroizing::new(Vec::new());
        self.keys.encode(&mut secret);
        let mut out = Zeroizing::new(Vec::with_capacity(MAGIC_LEN + secret.len() + 64));
        out.extend_from_slice(&ObjectKind::KeyFile.magic());
        out.extend_from_slice(&secret);
        out.extend_from_slice(&*self.replica.seed);
        let hash = object_hash(&out);
        out.extend_from_slice(&hash);
        out
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// If the bytes are damaged or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = ObjectKind::KeyFile.open(bytes)?;
        let (body, hash) = bytes
            .split_last_chunk::<32>()
            .ok_or_else(|| reader.damaged("it ends too early"))?;
        reader.ensure(*hash == object_hash(body), "its checksum does not match")?;
        let keys = VolumeKeys::decode(&mut reader)?;
        let replica = ReplicaKey::from_seed(reader.array()?)?;
        reader.take(hash.len())?;
        reader.finish()?;
        Ok(Self { keys, replica })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{keys, replica};

    #[test]
    fn a_key_file_is_read_back() {
        let mut file = KeyFile {
            keys: keys(),
            replica: replica(),
        };
        assert_eq!(file.keys.add_epoch([9; 32]), 2);
        let read = KeyFile::decode(&file.encode()).unwrap();
        assert_eq!(read.encode(), file.encode());
        assert_eq!(read.replica.id(), file.replica.id());
        assert_eq!(read.keys.newest_epoch(), 2);
    }

    #[test]
    fn any_change_of_a_key_file_is_found() {
        let file = KeyFile {
            keys: keys(),
            replica: replica(),
        };
        crate::testing::every_change_is_found(&file.encode(), |bytes| {
            KeyFile::decode(bytes).map(drop)
        });
    }

    #[test]
    fn secrets_are_not_shown() {
        let keys = VolumeKeys::new(VolumeId([1; 16]), [0xaa; 32], [0xbb; 32]);
        let shown = format!("{keys:?} {:?}", replica());
        assert!(!shown.contains("aaaa") && !shown.contains("bbbb") && !shown.contains("170"));
    }

    #[test]
    fn a_chunk_has_another_id_in_another_volume() {
        let other = VolumeKeys::new(VolumeId([1; 16]), [3; 32], [4; 32]);
        assert_ne!(keys().chunk_id(b"same"), other.chunk_id(b"same"));
    }
}

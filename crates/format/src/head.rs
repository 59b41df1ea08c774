//! Heads: a replica's signed word which commit is its newest, sealed.
//!
//! The seal keeps a store from learning anything; the signature keeps other members from
//! speaking for the replica. Both bind the head to its volume, its replica and its number, so
//! a head cannot stand in another's place.

use larder_model::{ChunkId, ReplicaId, VolumeId};
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::object::{ObjectKind, SealedHeader};
use crate::seal::{Part, Seal};
use crate::wire::Reader;
use crate::{FormatError, ReplicaKey, VolumeKeys};

type Result<T> = std::result::Result<T, FormatError>;

/// What stands before the signed bytes.
pub(crate) const SIGNATURE_CONTEXT: &str = "larder 1 head";

const BODY_LEN: usize = 16 + 32 + 8 + 32;

/// A replica's word which commit is its newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The volume.
    pub volume: VolumeId,
    /// The replica that signed.
    pub replica: ReplicaId,
    /// The number of the commit among the replica's.
    pub n: u64,
    /// The commit.
    pub commit: ChunkId,
}

impl Head {
    fn body(&self) -> [u8; BODY_LEN] {
        let mut body = [0; BODY_LEN];
        body[..16].copy_from_slice(self.volume.as_bytes());
        body[16..48].copy_from_slice(self.replica.as_bytes());
        body[48..56].copy_from_slice(&self.n.to_le_bytes());
        body[56..].copy_from_slice(self.commit.as_bytes());
        body
    }

    fn signed_bytes(&self) -> Vec<u8> {
        [
            SIGNATURE_CONTEXT.as_bytes(),
            &ObjectKind::Head.magic(),
            &self.body(),
        ]
        .concat()
    }
}

/// The head object of a replica for its commit `n`. `salt` must be random and fresh.
///
/// # Errors
/// None that is known; the cryptographic library may refuse.
pub fn seal_head(
    keys: &VolumeKeys,
    replica: &ReplicaKey,
    n: u64,
    commit: ChunkId,
    salt: [u8; 32],
) -> Result<Vec<u8>> {
    let head = Head {
        volume: keys.volume(),
        replica: replica.id(),
        n,
        commit,
    };
    let header = SealedHeader {
        epoch: keys.newest_epoch(),
        salt,
    };
    let mut out = header.encode(ObjectKind::Head);
    out.extend_from_slice(&head.body());
    out.extend_from_slice(&replica.sign(&head.signed_bytes()));
    Seal::new(keys, ObjectKind::Head, &header)?.seal(Part::Body, 0, &mut out, SealedHeader::LEN)?;
    Ok(out)
}

/// Opens the head object that lies under the name of `replica` and `n`, and checks its
/// signature.
///
/// # Errors
/// If it is damaged, of a newer version, or not this replica's head with this number.
pub fn open_head(keys: &VolumeKeys, replica: &ReplicaId, n: u64, bytes: &[u8]) -> Result<Head> {
    let header = SealedHeader::decode(ObjectKind::Head, bytes)?;
    let seal = Seal::new(keys, ObjectKind::Head, &header)?;
    let plain = seal.open_copy(Part::Body, 0, &bytes[SealedHeader::LEN..])?;
    let mut reader = Reader::new(ObjectKind::Head.noun(), &plain);
    let head = Head {
        volume: VolumeId(reader.array()?),
        replica: ReplicaId(reader.array()?),
        n: reader.u64()?,
        commit: ChunkId(reader.array()?),
    };
    let signature: [u8; 64] = reader.array()?;
    if head.volume != keys.volume() {
        return Err(FormatError::Foreign {
            what: ObjectKind::Head.noun(),
        });
    }
    let in_place = head.replica == *replica && head.n == n;
    reader.ensure(in_place, "it lies under another's name")?;
    let signed = UnparsedPublicKey::new(&ED25519, head.replica.as_bytes())
        .verify(&head.signed_bytes(), &signature)
        .is_ok();
    reader.ensure(signed, "its signature is not the replica's")?;
    reader.finish()?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{a_newer_version_is_refused, every_change_is_found, keys, replica};

    const COMMIT: ChunkId = ChunkId([0x66; 32]);

    fn head() -> Vec<u8> {
        seal_head(&keys(), &replica(), 7, COMMIT, [0x77; 32]).unwrap()
    }

    #[test]
    fn a_head_is_read_back() {
        let head = open_head(&keys(), &replica().id(), 7, &head()).unwrap();
        assert_eq!((head.n, head.commit), (7, COMMIT));
        assert_eq!(
            (head.volume, head.replica),
            (keys().volume(), replica().id())
        );
    }

    #[test]
    fn any_change_of_a_head_is_found() {
        every_change_is_found(&head(), |bytes| {
            open_head(&keys(), &replica().id(), 7, bytes).map(drop)
        });
    }

    #[test]
    fn a_head_does_not_stand_in_anothers_place() {
        let other = ReplicaKey::from_seed([1; 32]).unwrap().id();
        assert!(open_head(&keys(), &other, 7, &head()).is_err());
        assert!(open_head(&keys(), &replica().id(), 8, &head()).is_err());
    }

    #[test]
    fn a_member_cannot_speak_for_another_replica() {
        // Sealed with the volume's keys, but signed by another replica.
        let forger = ReplicaKey::from_seed([1; 32]).unwrap();
        let (keys, victim) = (keys(), replica().id());
        let head = Head {
            volume: keys.volume(),
            replica: victim,
            n: 7,
            commit: COMMIT,
        };
        let header = SealedHeader {
            epoch: 1,
            salt: [0; 32],
        };
        let mut bytes = header.encode(ObjectKind::Head);
        bytes.extend_from_slice(&head.body());
        bytes.extend_from_slice(&forger.sign(&head.signed_bytes()));
        let seal = Seal::new(&keys, ObjectKind::Head, &header).unwrap();
        seal.seal(Part::Body, 0, &mut bytes, SealedHeader::LEN)
            .unwrap();
        let error = open_head(&keys, &victim, 7, &bytes).unwrap_err();
        assert!(error.to_string().contains("signature"), "{error}");
    }

    #[test]
    fn a_newer_head_is_refused_in_words() {
        a_newer_version_is_refused(&head(), |bytes| {
            open_head(&keys(), &replica().id(), 7, bytes).err()
        });
    }
}

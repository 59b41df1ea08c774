//! A replica's list of tags: the names that it gave to commits, sealed and signed as a head is.

use larder_model::{ChunkId, Hlc, ReplicaId, TagName, Tags};
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::object::{ObjectKind, SealedHeader};
use crate::seal::{Part, Seal};
use crate::wire::{Reader, put_counted, put_varint};
use crate::{FormatError, ReplicaKey, VolumeKeys};

type Result<T> = std::result::Result<T, FormatError>;

/// What stands before the signed bytes.
pub(crate) const SIGNATURE_CONTEXT: &str = "larder 1 tags";

/// The longest list, in bytes: some 40,000 tags.
pub const MAX_TAGS_BYTES: usize = 2 << 20;

const SIGNATURE_LEN: usize = 64;

/// The bytes of a list.
///
/// # Errors
/// If it is longer than [`MAX_TAGS_BYTES`].
pub fn encode_tags(tags: &Tags) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    put_varint(&mut out, tags.given.len() as u64);
    for (time, (name, commit)) in &tags.given {
        out.extend_from_slice(&time.0.to_le_bytes());
        out.extend_from_slice(commit.as_bytes());
        put_counted(&mut out, name.as_str().as_bytes());
    }
    put_varint(&mut out, tags.taken_back.len() as u64);
    for (replica, time) in &tags.taken_back {
        out.extend_from_slice(replica.as_bytes());
        out.extend_from_slice(&time.0.to_le_bytes());
    }
    if out.len() > MAX_TAGS_BYTES {
        return Err(FormatError::TooLarge {
            what: ObjectKind::Tags.noun(),
            bytes: out.len() as u64,
            limit: MAX_TAGS_BYTES as u64,
        });
    }
    Ok(out)
}

/// Reads a list.
///
/// # Errors
/// If the bytes are not one.
pub fn decode_tags(bytes: &[u8]) -> Result<Tags> {
    let mut reader = Reader::new(ObjectKind::Tags.noun(), bytes);
    let mut tags = Tags::default();
    for _ in 0..reader.count(8 + ChunkId::LEN + 1)? {
        let time = Hlc(reader.u64()?);
        let commit = ChunkId(reader.array()?);
        let name = std::str::from_utf8(reader.counted()?).ok();
        let name = name.and_then(TagName::new);
        let name = name.ok_or_else(|| reader.damaged("it has a name that is none"))?;
        let is_next = tags.given.keys().next_back() < Some(&time);
        reader.ensure(is_next, "its tags are not in order")?;
        tags.given.insert(time, (name, commit));
    }
    for _ in 0..reader.count(ReplicaId::LEN + 8)? {
        let taken_back = (ReplicaId(reader.array()?), Hlc(reader.u64()?));
        let is_next = tags.taken_back.last() < Some(&taken_back);
        reader.ensure(is_next, "what it takes back is not in order")?;
        tags.taken_back.insert(taken_back);
    }
    reader.finish()?;
    Ok(tags)
}

/// Volume, replica and number, then the list.
fn body(keys: &VolumeKeys, replica: &ReplicaId, n: u64, tags: &[u8]) -> Vec<u8> {
    [
        keys.volume().as_bytes().as_slice(),
        replica.as_bytes(),
        &n.to_le_bytes(),
        tags,
    ]
    .concat()
}

fn signed_bytes(body: &[u8]) -> Vec<u8> {
    [
        SIGNATURE_CONTEXT.as_bytes(),
        &ObjectKind::Tags.magic(),
        body,
    ]
    .concat()
}

/// The object with a replica's list number `n`. `salt` must be random and fresh.
///
/// # Errors
/// If the list is too long; the cryptographic library may refuse.
pub fn seal_tags(
    keys: &VolumeKeys,
    replica: &ReplicaKey,
    n: u64,
    tags: &Tags,
    salt: [u8; 32],
) -> Result<Vec<u8>> {
    let header = SealedHeader {
        epoch: keys.newest_epoch(),
        salt,
    };
    let body = body(keys, &replica.id(), n, &encode_tags(tags)?);
    let mut out = header.encode(ObjectKind::Tags);
    out.extend_from_slice(&replica.sign(&signed_bytes(&body)));
    out.extend_from_slice(&body);
    Seal::new(keys, ObjectKind::Tags, &header)?.seal(Part::Body, 0, &mut out, SealedHeader::LEN)?;
    Ok(out)
}

/// Opens the object that lies under the name of `replica` and `n`, and checks its signature.
///
/// # Errors
/// If it is damaged, of a newer version, or not this replica's list with this number.
pub fn open_tags(keys: &VolumeKeys, replica: &ReplicaId, n: u64, bytes: &[u8]) -> Result<Tags> {
    let header = SealedHeader::decode(ObjectKind::Tags, bytes)?;
    let seal = Seal::new(keys, ObjectKind::Tags, &header)?;
    let plain = seal.open_copy(Part::Body, 0, &bytes[SealedHeader::LEN..])?;
    let mut reader = Reader::new(ObjectKind::Tags.noun(), &plain);
    let signature: [u8; SIGNATURE_LEN] = reader.array()?;
    let signed = reader.rest();
    let front = body(keys, replica, n, &[]);
    let in_place = reader.take(front.len())? == front;
    reader.ensure(in_place, "it lies under another's name")?;
    let is_signed = UnparsedPublicKey::new(&ED25519, replica.as_bytes())
        .verify(&signed_bytes(signed), &signature)
        .is_ok();
    reader.ensure(is_signed, "its signature is not the replica's")?;
    decode_tags(reader.rest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{a_newer_version_is_refused, every_change_is_found, keys, replica};
    use proptest::prelude::*;

    fn tags() -> Tags {
        let name = |text| TagName::new(text).unwrap();
        Tags {
            given: [
                (Hlc(5), (name("v1"), ChunkId([1; 32]))),
                (Hlc(6), (name("before the move"), ChunkId([2; 32]))),
            ]
            .into(),
            taken_back: [(ReplicaId([3; 32]), Hlc(4))].into(),
        }
    }

    fn object() -> Vec<u8> {
        seal_tags(&keys(), &replica(), 7, &tags(), [0x77; 32]).unwrap()
    }

    proptest! {
        #[test]
        fn a_list_has_one_encoding_only(at: prop::sample::Index, flip: u8) {
            let mut bytes = encode_tags(&tags()).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = decode_tags(&bytes) {
                prop_assert_eq!(encode_tags(&other).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn a_list_is_read_back() {
        assert_eq!(
            open_tags(&keys(), &replica().id(), 7, &object()),
            Ok(tags())
        );
    }

    #[test]
    fn any_change_of_a_list_is_found() {
        every_change_is_found(&object(), |bytes| {
            open_tags(&keys(), &replica().id(), 7, bytes).map(drop)
        });
    }

    #[test]
    fn a_list_does_not_stand_in_anothers_place() {
        let other = ReplicaKey::from_seed([1; 32]).unwrap();
        assert!(open_tags(&keys(), &other.id(), 7, &object()).is_err());
        assert!(open_tags(&keys(), &replica().id(), 8, &object()).is_err());
        // Nor does a member speak for another one: it has the keys, and not his.
        let body = body(&keys(), &replica().id(), 7, &encode_tags(&tags()).unwrap());
        let header = SealedHeader {
            epoch: keys().newest_epoch(),
            salt: [0x77; 32],
        };
        let mut forged = header.encode(ObjectKind::Tags);
        forged.extend_from_slice(&other.sign(&signed_bytes(&body)));
        forged.extend_from_slice(&body);
        Seal::new(&keys(), ObjectKind::Tags, &header)
            .unwrap()
            .seal(Part::Body, 0, &mut forged, SealedHeader::LEN)
            .unwrap();
        assert!(open_tags(&keys(), &replica().id(), 7, &forged).is_err());
    }

    #[test]
    fn a_newer_list_is_refused_in_words() {
        a_newer_version_is_refused(&object(), |bytes| {
            open_tags(&keys(), &replica().id(), 7, bytes).err()
        });
    }

    #[test]
    fn a_list_without_bound_is_not_written() {
        let name = TagName::new(&"x".repeat(TagName::MAX)).unwrap();
        let given = (0..10_000).map(|n| (Hlc(n), (name.clone(), ChunkId([1; 32]))));
        let tags = Tags {
            given: given.collect(),
            ..Tags::default()
        };
        assert!(encode_tags(&tags).is_err());
    }
}

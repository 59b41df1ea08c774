//! Marks: what a replica says of the volume's history and of what is deleted for it, sealed and
//! signed as a head is.
//!
//! A mark says all that its replica has to say; so the newest replaces those before it.

use std::collections::{BTreeMap, BTreeSet};

use larder_model::{ChunkId, Hlc, KeepPolicy, PackId, ReplicaId, Retention, Time};
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::object::{ObjectKind, SealedHeader};
use crate::seal::{Part, Seal};
use crate::wire::{Reader, put_varint};
use crate::{FormatError, ReplicaKey, VolumeKeys};

type Result<T> = std::result::Result<T, FormatError>;

/// What stands before the signed bytes.
pub(crate) const SIGNATURE_CONTEXT: &str = "larder 1 mark";

const NOUN: &str = ObjectKind::Mark.noun();
const SIGNATURE_LEN: usize = 64;

/// What a replica says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mark {
    /// What its wall clock showed.
    pub wall: Time,
    /// The commits that its tree stands on.
    pub bases: BTreeSet<ChunkId>,
    /// Of which marks of other replicas it has taken notice: the number of the latest.
    pub seen: BTreeMap<ReplicaId, u64>,
    /// What it said last of the volume's history.
    pub retention: Option<Retention>,
    /// Commits that are kept, and that no chain of kept commits leads to.
    pub kept: BTreeSet<ChunkId>,
    /// Commits that were given up, as far as others name them.
    pub given_up: BTreeSet<ChunkId>,
    /// Packs that nothing kept needs, and that are deleted once all members know.
    pub condemned: BTreeSet<PackId>,
    /// Packs that are deleted, or will be at any moment.
    pub deleted: BTreeSet<PackId>,
    /// Replicas whose word it does not wait for any longer.
    pub without: BTreeSet<ReplicaId>,
}

/// The mark object with the number `n` of a replica. `salt` must be random and fresh.
///
/// # Errors
/// If it is too large to be sealed.
pub fn seal_mark(
    keys: &VolumeKeys,
    replica: &ReplicaKey,
    n: u64,
    mark: &Mark,
    salt: [u8; 32],
) -> Result<Vec<u8>> {
    let header = SealedHeader {
        epoch: keys.newest_epoch(),
        salt,
    };
    let mut body = keys.volume().as_bytes().to_vec();
    body.extend_from_slice(replica.id().as_bytes());
    body.extend_from_slice(&n.to_le_bytes());
    mark.put(&mut body);
    let mut out = header.encode(ObjectKind::Mark);
    out.extend_from_slice(&body);
    out.extend_from_slice(&replica.sign(&signed(&body)));
    Seal::new(keys, ObjectKind::Mark, &header)?.seal(Part::Body, 0, &mut out, SealedHeader::LEN)?;
    Ok(out)
}

/// Opens the mark object that lies under the name of `replica` and `n`, and checks its signature.
/// Answers its plain bytes; [`read_mark`] reads them.
///
/// # Errors
/// If it is damaged, of a newer version, or not this replica's mark with this number.
pub fn open_mark(keys: &VolumeKeys, replica: &ReplicaId, n: u64, bytes: &[u8]) -> Result<Vec<u8>> {
    let header = SealedHeader::decode(ObjectKind::Mark, bytes)?;
    let seal = Seal::new(keys, ObjectKind::Mark, &header)?;
    let mut plain = seal.open_copy(Part::Body, 0, &bytes[SealedHeader::LEN..])?;
    let reader = Reader::new(NOUN, &plain);
    let Some((body, signature)) = plain.split_last_chunk::<SIGNATURE_LEN>() else {
        return Err(reader.damaged("it ends too early"));
    };
    let is_signed = UnparsedPublicKey::new(&ED25519, replica.as_bytes())
        .verify(&signed(body), signature)
        .is_ok();
    let mut front = Reader::new(NOUN, body);
    if front.array()? != *keys.volume().as_bytes() {
        return Err(FormatError::Foreign { what: NOUN });
    }
    let in_place = front.array()? == *replica.as_bytes() && front.u64()? == n;
    reader.ensure(in_place, "it lies under another's name")?;
    reader.ensure(is_signed, "its signature is not the replica's")?;
    let said = front.rest();
    read_mark(said)?;
    let (from, to) = (body.len() - said.len(), body.len());
    plain.truncate(to);
    Ok(plain.split_off(from))
}

/// Reads the plain bytes of a mark.
///
/// # Errors
/// If they are damaged.
pub fn read_mark(bytes: &[u8]) -> Result<Mark> {
    let mut reader = Reader::new(NOUN, bytes);
    let mark = Mark::take(&mut reader)?;
    reader.finish()?;
    Ok(mark)
}

fn signed(body: &[u8]) -> Vec<u8> {
    [
        SIGNATURE_CONTEXT.as_bytes(),
        &ObjectKind::Mark.magic(),
        body,
    ]
    .concat()
}

impl Mark {
    /// Its plain bytes, which [`read_mark`] reads.
    pub fn plain(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.wall.0.to_le_bytes());
        put_ids(out, self.bases.iter().map(ChunkId::as_bytes));
        put_varint(out, self.seen.len() as u64);
        for (replica, n) in &self.seen {
            out.extend_from_slice(replica.as_bytes());
            put_varint(out, *n);
        }
        put_retention(out, self.retention);
        put_ids(out, self.kept.iter().map(ChunkId::as_bytes));
        put_ids(out, self.given_up.iter().map(ChunkId::as_bytes));
        put_ids(out, self.condemned.iter().map(PackId::as_bytes));
        put_ids(out, self.deleted.iter().map(PackId::as_bytes));
        put_ids(out, self.without.iter().map(ReplicaId::as_bytes));
    }

    fn take(reader: &mut Reader<'_>) -> Result<Self> {
        let wall = Time(i64::from_le_bytes(reader.array()?));
        let bases = take_ids(reader, ChunkId)?;
        let mut seen = BTreeMap::new();
        for _ in 0..reader.count(ReplicaId::LEN + 1)? {
            let (replica, n) = (ReplicaId(reader.array()?), reader.varint()?);
            let ascends = seen
                .last_key_value()
                .is_none_or(|(last, _)| *last < replica);
            reader.ensure(ascends, "its replicas are not in order")?;
            seen.insert(replica, n);
        }
        let mark = Self {
            wall,
            bases,
            seen,
            retention: take_retention(reader)?,
            kept: take_ids(reader, ChunkId)?,
            given_up: take_ids(reader, ChunkId)?,
            condemned: take_ids(reader, PackId)?,
            deleted: take_ids(reader, PackId)?,
            without: take_ids(reader, ReplicaId)?,
        };
        let apart = mark.condemned.is_disjoint(&mark.deleted);
        reader.ensure(apart, "a pack is both condemned and deleted")?;
        Ok(mark)
    }
}

fn put_ids<'a>(out: &mut Vec<u8>, ids: impl ExactSizeIterator<Item = &'a [u8; 32]>) {
    put_varint(out, ids.len() as u64);
    ids.for_each(|id| out.extend_from_slice(id));
}

fn take_ids<T: Ord + Copy>(
    reader: &mut Reader<'_>,
    id: impl Fn([u8; 32]) -> T,
) -> Result<BTreeSet<T>> {
    let mut ids = Vec::new();
    for _ in 0..reader.count(32)? {
        ids.push(id(reader.array()?));
    }
    let in_order = ids.is_sorted_by(|a, b| a < b);
    reader.ensure(in_order, "a list of ids is not in order")?;
    Ok(ids.into_iter().collect())
}

fn put_retention(out: &mut Vec<u8>, retention: Option<Retention>) {
    let Some(Retention { time, keep }) = retention else {
        return out.push(0);
    };
    out.push(1 + u8::from(keep.is_some()));
    out.extend_from_slice(&time.0.to_le_bytes());
    if let Some(keep) = keep {
        for periods in [keep.hourly, keep.daily, keep.weekly, keep.monthly] {
            put_varint(out, periods);
        }
    }
}

/// The bytes of what was said of a volume's history.
pub fn encode_retention(retention: Option<Retention>) -> Vec<u8> {
    let mut out = Vec::new();
    put_retention(&mut out, retention);
    out
}

/// Reads what [`encode_retention`] wrote.
///
/// # Errors
/// If the bytes are damaged.
pub fn read_retention(bytes: &[u8]) -> Result<Option<Retention>> {
    let mut reader = Reader::new(NOUN, bytes);
    let retention = take_retention(&mut reader)?;
    reader.finish()?;
    Ok(retention)
}

fn take_retention(reader: &mut Reader<'_>) -> Result<Option<Retention>> {
    let has_rules = match reader.u8()? {
        0 => return Ok(None),
        1 => false,
        2 => true,
        _ => return Err(reader.damaged("what it says of the history is of no known form")),
    };
    let time = Hlc(reader.u64()?);
    let keep = match has_rules {
        false => None,
        true => Some(KeepPolicy {
            hourly: reader.varint()?,
            daily: reader.varint()?,
            weekly: reader.varint()?,
            monthly: reader.varint()?,
        }),
    };
    Ok(Some(Retention { time, keep }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{a_newer_version_is_refused, every_change_is_found, keys, replica};

    fn mark() -> Mark {
        let ids = |byte: u8| [byte, byte + 1].map(|byte| [byte; 32]).into_iter();
        Mark {
            wall: Time(-5),
            bases: ids(1).map(ChunkId).collect(),
            seen: ids(3).map(|id| (ReplicaId(id), 300)).collect(),
            retention: Some(Retention {
                time: Hlc(9),
                keep: Some(KeepPolicy {
                    hourly: 24,
                    monthly: KeepPolicy::ALL,
                    ..KeepPolicy::default()
                }),
            }),
            kept: ids(5).map(ChunkId).collect(),
            given_up: ids(7).map(ChunkId).collect(),
            condemned: ids(9).map(PackId).collect(),
            deleted: ids(11).map(PackId).collect(),
            without: ids(13).map(ReplicaId).collect(),
        }
    }

    fn sealed() -> Vec<u8> {
        seal_mark(&keys(), &replica(), 7, &mark(), [0x77; 32]).unwrap()
    }

    #[test]
    fn a_mark_is_read_back() {
        let plain = open_mark(&keys(), &replica().id(), 7, &sealed()).unwrap();
        assert_eq!(read_mark(&plain), Ok(mark()));
        assert_eq!(plain, mark().plain());
        for retention in [
            None,
            Some(Retention {
                time: Hlc(1),
                keep: None,
            }),
        ] {
            let mark = Mark {
                retention,
                ..Mark::default()
            };
            assert_eq!(read_mark(&mark.plain()), Ok(mark));
        }
    }

    #[test]
    fn any_change_of_a_mark_is_found() {
        every_change_is_found(&sealed(), |bytes| {
            open_mark(&keys(), &replica().id(), 7, bytes).map(drop)
        });
    }

    #[test]
    fn a_mark_does_not_stand_in_anothers_place() {
        let other = ReplicaKey::from_seed([1; 32]).unwrap();
        assert!(open_mark(&keys(), &other.id(), 7, &sealed()).is_err());
        assert!(open_mark(&keys(), &replica().id(), 8, &sealed()).is_err());
        // Nor can a member speak for another one.
        let mut forged = SealedHeader {
            epoch: 1,
            salt: [0; 32],
        }
        .encode(ObjectKind::Mark);
        let mut body = keys().volume().as_bytes().to_vec();
        body.extend_from_slice(replica().id().as_bytes());
        body.extend_from_slice(&7u64.to_le_bytes());
        mark().put(&mut body);
        forged.extend_from_slice(&body);
        forged.extend_from_slice(&other.sign(&signed(&body)));
        let header = SealedHeader {
            epoch: 1,
            salt: [0; 32],
        };
        let seal = Seal::new(&keys(), ObjectKind::Mark, &header).unwrap();
        seal.seal(Part::Body, 0, &mut forged, SealedHeader::LEN)
            .unwrap();
        let error = open_mark(&keys(), &replica().id(), 7, &forged).unwrap_err();
        assert!(error.to_string().contains("signature"), "{error}");
    }

    #[test]
    fn a_newer_mark_is_refused_in_words() {
        a_newer_version_is_refused(&sealed(), |bytes| {
            open_mark(&keys(), &replica().id(), 7, bytes).err()
        });
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_fail_otherwise_than_by_an_error(bytes: Vec<u8>) {
            if let Ok(mark) = read_mark(&bytes) {
                prop_assert_eq!(mark.plain(), bytes);
            }
        }
    }
}

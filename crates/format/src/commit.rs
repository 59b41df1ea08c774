//! Commits: what the volume was at one moment. A commit is a chunk of a tree pack.

use larder_model::{ChunkId, Clock, Dot, Hlc, ReplicaId, Time};

use crate::FormatError;
use crate::pages::PageKind;
use crate::wire::{put_counted, put_varint};

type Result<T> = std::result::Result<T, FormatError>;

/// The longest message, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// A tree, what it includes, and who made it when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The root of the tree of nodes.
    pub nodes: ChunkId,
    /// The root of the tree of names.
    pub names: ChunkId,
    /// What is included, this commit too.
    pub clock: Clock,
    /// The replica that made it.
    pub author: ReplicaId,
    /// Its number among the author's commits, from 1.
    pub n: u64,
    /// Its hybrid logical time.
    pub time: Hlc,
    /// What the author's wall clock showed.
    pub wall: Time,
    /// What the user said about it.
    pub message: Option<String>,
    /// The commits it follows; none for the first.
    pub parents: Vec<ChunkId>,
    /// How many files that are alive it holds.
    pub files: u64,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

impl Commit {
    /// The commit's bytes; its id is that of a chunk with them.
    ///
    /// # Errors
    /// If the message is longer than [`MAX_MESSAGE_BYTES`].
    pub fn encode(&self) -> Result<Vec<u8>> {
        let message = self.message.as_deref().unwrap_or_default();
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(FormatError::TooLarge {
                what: "commit message",
                bytes: message.len() as u64,
                limit: MAX_MESSAGE_BYTES as u64,
            });
        }
        let mut out = PageKind::Commit.front().to_vec();
        out.extend_from_slice(self.nodes.as_bytes());
        out.extend_from_slice(self.names.as_bytes());
        out.extend_from_slice(self.author.as_bytes());
        put_varint(&mut out, self.n);
        out.extend_from_slice(&self.time.0.to_le_bytes());
        out.extend_from_slice(&self.wall.0.to_le_bytes());
        put_varint(&mut out, self.clock.iter().count() as u64);
        for dot in self.clock.iter() {
            out.extend_from_slice(dot.replica.as_bytes());
            put_varint(&mut out, dot.commit);
        }
        put_varint(&mut out, self.parents.len() as u64);
        for parent in &self.parents {
            out.extend_from_slice(parent.as_bytes());
        }
        put_varint(&mut out, self.files);
        put_varint(&mut out, self.bytes);
        out.push(self.message.is_some().into());
        if self.message.is_some() {
            put_counted(&mut out, message.as_bytes());
        }
        Ok(out)
    }

    /// Reads a commit.
    ///
    /// # Errors
    /// If the bytes are not one, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = PageKind::Commit.open(bytes)?;
        let (nodes, names) = (ChunkId(reader.array()?), ChunkId(reader.array()?));
        let author = ReplicaId(reader.array()?);
        let n = reader.varint()?;
        let time = Hlc(reader.u64()?);
        let wall = Time(i64::from_le_bytes(reader.array()?));
        let mut dots: Vec<Dot> = Vec::new();
        for _ in 0..reader.count(ReplicaId::LEN + 1)? {
            let replica = ReplicaId(reader.array()?);
            let commit = reader.varint()?;
            dots.push(Dot { replica, commit });
        }
        let in_order = dots.is_sorted_by(|a, b| a.replica < b.replica);
        reader.ensure(in_order, "its clock is not in order")?;
        let mut parents = Vec::new();
        for _ in 0..reader.count(ChunkId::LEN)? {
            parents.push(ChunkId(reader.array()?));
        }
        let (files, bytes) = (reader.varint()?, reader.varint()?);
        let message = match reader.u8()? {
            0 => None,
            1 => Some(String::from_utf8(reader.counted()?.to_vec()))
                .transpose()
                .map_err(|_| reader.damaged("its message is not text"))?,
            _ => return Err(reader.damaged("it neither has a message nor has none")),
        };
        reader.finish()?;
        Ok(Self {
            nodes,
            names,
            clock: dots.into_iter().collect(),
            author,
            n,
            time,
            wall,
            message,
            parents,
            files,
            bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::commit;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_commit_is_read_back(
            n: u64, time: u64, wall: i64, message: Option<String>, files: u64, bytes: u64,
            clock in proptest::collection::btree_map(any::<[u8; 32]>(), any::<u64>(), 0..4),
            parents: Vec<[u8; 32]>,
        ) {
            let commit = Commit {
                n, message, files, bytes,
                time: Hlc(time),
                wall: Time(wall),
                clock: clock
                    .into_iter()
                    .map(|(id, commit)| Dot { replica: ReplicaId(id), commit })
                    .collect(),
                parents: parents.into_iter().map(ChunkId).collect(),
                ..commit()
            };
            prop_assert_eq!(Commit::decode(&commit.encode().unwrap()), Ok(commit));
        }

        #[test]
        fn a_commit_has_one_encoding_only(at: prop::sample::Index, flip: u8) {
            let mut bytes = commit().encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = Commit::decode(&bytes) {
                prop_assert_eq!(other.encode().unwrap(), bytes);
            }
        }
    }

    #[test]
    fn a_cut_commit_is_refused_and_a_newer_one_in_words() {
        let mut bytes = commit().encode().unwrap();
        for at in 0..bytes.len() {
            assert!(Commit::decode(&bytes[..at]).is_err());
        }
        bytes[1] = 2;
        assert!(matches!(
            Commit::decode(&bytes),
            Err(FormatError::Newer { .. })
        ));
    }

    #[test]
    fn a_message_without_bound_is_not_written() {
        let message = Some("x".repeat(MAX_MESSAGE_BYTES + 1));
        assert!(
            Commit {
                message,
                ..commit()
            }
            .encode()
            .is_err()
        );
    }
}

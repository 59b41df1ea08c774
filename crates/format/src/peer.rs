//! What two replicas say to each other when they are connected directly.
//!
//! A connection is encrypted, and each side knows the other's replica id by it before a byte of
//! this is read; but an id is not yet a member. [`Meeting`] makes the proofs by which each side
//! shows that it holds a secret: the volume's newest seal key, or that of an invitation. They hold
//! for this one connection only: both ids and a fresh nonce of each side are in them.
//!
//! `docs/peers.md` says who sends which [`Message`] when. Decoders take hostile input, as all do
//! here, and a message is never longer than [`Message::MAX_BYTES`].

use larder_model::{ChunkId, NodeId, ReplicaId, VolumeId};

use crate::pack::MAX_CHUNK_BYTES;
use crate::wire::{Reader, put_counted, put_varint};
use crate::{FormatError, VolumeKeys};

type Result<T> = std::result::Result<T, FormatError>;

/// The protocol's name, with its version, as it is agreed on before anything is said.
pub const PROTOCOL: &[u8] = b"larder/peer/1";

/// The BLAKE3 derivation contexts of the proofs' keys.
pub(crate) const MEMBER_CONTEXT: &str = "larder 1 peer proof";
pub(crate) const INVITED_CONTEXT: &str = "larder 1 invitation proof";

/// Pieces that are asked for at once.
pub const MAX_PIECES: usize = 256;
/// Bytes of a replica's name.
pub const MAX_NAME_BYTES: usize = 64;
const MAX_SLOT_BYTES: usize = 32 << 10;

/// Random bytes of one side for one connection.
pub type Nonce = [u8; 32];
/// What shows that a side holds a secret.
pub type Proof = [u8; 32];

/// Which side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that called.
    Caller,
    /// The one that was called.
    Called,
}

/// One connection, as both sides know it before either trusts the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meeting {
    /// Who called, and its nonce.
    pub caller: (ReplicaId, Nonce),
    /// Who was called, and its nonce.
    pub called: (ReplicaId, Nonce),
}

impl Meeting {
    /// Shows that `side` holds the volume's newest seal key.
    pub fn proof_of_member(&self, keys: &VolumeKeys, side: Side) -> Result<Proof> {
        let seal_key = keys.seal_key("proof", keys.newest_epoch())?;
        Ok(self.proof(MEMBER_CONTEXT, seal_key, keys.volume(), side))
    }

    /// Shows that `side` holds the secret of an invitation to `volume`.
    pub fn proof_of_invitation(&self, secret: &[u8; 32], volume: VolumeId, side: Side) -> Proof {
        self.proof(INVITED_CONTEXT, secret, volume, side)
    }

    fn proof(&self, context: &str, secret: &[u8; 32], volume: VolumeId, side: Side) -> Proof {
        let key = blake3::Hasher::new_derive_key(context)
            .update(secret)
            .update(volume.as_bytes())
            .finalize();
        *blake3::Hasher::new_keyed(key.as_bytes())
            .update(&[match side {
                Side::Caller => 1,
                Side::Called => 2,
            }])
            .update(self.caller.0.as_bytes())
            .update(self.called.0.as_bytes())
            .update(&self.caller.1)
            .update(&self.called.1)
            .finalize()
            .as_bytes()
    }
}

/// Whether two proofs are one. Takes the same time whatever differs.
pub fn is_same_proof(one: &Proof, other: &Proof) -> bool {
    blake3::Hash::from_bytes(*one) == blake3::Hash::from_bytes(*other)
}

/// What somebody calls for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It is a replica of the volume.
    Member,
    /// It has an invitation, and asks for the volume's keys.
    Join,
}

/// Something that a replica may have: its bytes are known by their chunk id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// The chunk.
    pub chunk: ChunkId,
    /// Where in the tree it is content; `None`: a page of a tree or list, or a commit.
    pub place: Option<PiecePlace>,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PiecePlace {
    /// The file.
    pub node: NodeId,
    /// Where it starts in it, in bytes.
    pub off: u64,
    /// How long it is, in bytes.
    pub len: u32,
}

/// The newest commit of a replica that a store acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// Its number among the replica's.
    pub n: u64,
    /// The commit.
    pub commit: ChunkId,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// The caller's first word.
    Hello {
        /// What it calls for.
        purpose: Purpose,
        /// Random, and the same for as long as its process runs.
        run: [u8; 16],
        /// Its nonce.
        nonce: Nonce,
    },
    /// The answer to a hello.
    Answer {
        /// As in [`Message::Hello`].
        run: [u8; 16],
        /// Its nonce.
        nonce: Nonce,
    },
    /// Shows that its sender holds a secret.
    Proof(Proof),
    /// Who is here, once both have proven themselves.
    Here {
        /// What it stored last.
        newest: Option<Newest>,
        /// How the machine is called, for people.
        name: String,
    },
    /// A key slot that opens with the invitation's secret.
    Keys(Vec<u8>),
    /// Asks for the bytes of each piece that is there.
    Pieces(Vec<Piece>),
    /// Asks for a sign of life: it is answered with the same.
    Ping,
    /// The sender has a new head on the store.
    Head(Newest),
}

const WHAT: &str = "message of another replica";

impl Message {
    /// No message is longer.
    pub const MAX_BYTES: usize = 64 << 10;

    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Hello {
                purpose,
                run,
                nonce,
            } => {
                out.extend([
                    1,
                    match purpose {
                        Purpose::Member => 1,
                        Purpose::Join => 2,
                    },
                ]);
                out.extend(run);
                out.extend(nonce);
            }
            Self::Answer { run, nonce } => {
                out.push(2);
                out.extend(run);
                out.extend(nonce);
            }
            Self::Proof(proof) => {
                out.push(3);
                out.extend(proof);
            }
            Self::Here { newest, name } => {
                out.push(4);
                match newest {
                    None => out.push(0),
                    Some(newest) => {
                        out.push(1);
                        newest.encode(&mut out);
                    }
                }
                put_counted(&mut out, name.as_bytes());
            }
            Self::Keys(slot) => {
                out.push(5);
                put_counted(&mut out, slot);
            }
            Self::Pieces(pieces) => {
                out.push(6);
                put_varint(&mut out, pieces.len() as u64);
                for piece in pieces {
                    piece.encode(&mut out);
                }
            }
            Self::Ping => out.push(7),
            Self::Head(newest) => {
                out.push(8);
                newest.encode(&mut out);
            }
        }
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(WHAT, bytes);
        reader.ensure(bytes.len() <= Self::MAX_BYTES, "it is too long")?;
        let message = match reader.u8()? {
            1 => Self::Hello {
                purpose: match reader.u8()? {
                    1 => Purpose::Member,
                    2 => Purpose::Join,
                    _ => return Err(reader.damaged("nobody can call for that")),
                },
                run: reader.array()?,
                nonce: reader.array()?,
            },
            2 => Self::Answer {
                run: reader.array()?,
                nonce: reader.array()?,
            },
            3 => Self::Proof(reader.array()?),
            4 => Self::Here {
                newest: match reader.u8()? {
                    0 => None,
                    1 => Some(Newest::decode(&mut reader)?),
                    _ => return Err(reader.damaged("its newest commit makes no sense")),
                },
                name: name(&mut reader)?,
            },
            5 => {
                let slot = reader.counted()?;
                reader.ensure(slot.len() <= MAX_SLOT_BYTES, "its key slot is too long")?;
                Self::Keys(slot.to_vec())
            }
            6 => {
                let count = reader.count(1 + ChunkId::LEN)?;
                reader.ensure((1..=MAX_PIECES).contains(&count), "it asks for too much")?;
                let pieces = (0..count).map(|_| Piece::decode(&mut reader));
                Self::Pieces(pieces.collect::<Result<_>>()?)
            }
            7 => Self::Ping,
            8 => Self::Head(Newest::decode(&mut reader)?),
            _ => return Err(reader.damaged("it is of no kind that is known here")),
        };
        reader.finish()?;
        Ok(message)
    }
}

fn name(reader: &mut Reader<'_>) -> Result<String> {
    let bytes = reader.counted()?;
    reader.ensure(bytes.len() <= MAX_NAME_BYTES, "its name is too long")?;
    let name = std::str::from_utf8(bytes).map_err(|_| reader.damaged("its name is no text"))?;
    // It is shown on terminals.
    let is_plain = !name.chars().any(char::is_control);
    reader.ensure(is_plain, "its name has characters that nobody can see")?;
    Ok(name.to_owned())
}

impl Newest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.n.to_le_bytes());
        out.extend(self.commit.as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        Ok(Self {
            n: reader.u64()?,
            commit: ChunkId(reader.array()?),
        })
    }
}

impl Piece {
    /// How many bytes it has at most.
    pub fn max_len(&self) -> usize {
        self.place
            .map_or(MAX_CHUNK_BYTES, |place| place.len as usize)
    }

    /// Whether it can have so many bytes.
    pub fn may_have(&self, len: usize) -> bool {
        match self.place {
            Some(place) => len == place.len as usize,
            None => (1..=MAX_CHUNK_BYTES).contains(&len),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self.place {
            None => out.push(0),
            Some(place) => {
                out.push(1);
                out.extend(place.node.as_bytes());
                put_varint(out, place.off);
                put_varint(out, place.len.into());
            }
        }
        out.extend(self.chunk.as_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self> {
        let place = match reader.u8()? {
            0 => None,
            1 => {
                let node = NodeId(reader.array()?);
                let (off, len) = (reader.varint()?, reader.varint32()?);
                let is_piece = len != 0
                    && len as usize <= MAX_CHUNK_BYTES
                    && off <= i64::MAX as u64 - u64::from(len);
                reader.ensure(is_piece, "it asks for what no file has")?;
                Some(PiecePlace { node, off, len })
            }
            _ => return Err(reader.damaged("it asks for what nobody has")),
        };
        Ok(Self {
            chunk: ChunkId(reader.array()?),
            place,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::keys;

    fn meeting() -> Meeting {
        Meeting {
            caller: (ReplicaId([1; 32]), [2; 32]),
            called: (ReplicaId([3; 32]), [4; 32]),
        }
    }

    fn messages() -> Vec<Message> {
        let newest = Newest {
            n: 7,
            commit: ChunkId([9; 32]),
        };
        let page = Piece {
            chunk: ChunkId([5; 32]),
            place: None,
        };
        let content = Piece {
            chunk: ChunkId([6; 32]),
            place: Some(PiecePlace {
                node: NodeId([8; 16]),
                off: 1 << 40,
                len: 70_000,
            }),
        };
        let hello = |purpose| Message::Hello {
            purpose,
            run: [1; 16],
            nonce: [2; 32],
        };
        vec![
            hello(Purpose::Member),
            hello(Purpose::Join),
            Message::Answer {
                run: [3; 16],
                nonce: [4; 32],
            },
            Message::Proof([5; 32]),
            Message::Here {
                newest: Some(newest),
                name: "laptop".to_owned(),
            },
            Message::Here {
                newest: None,
                name: String::new(),
            },
            Message::Keys(vec![1, 2, 3]),
            Message::Pieces(vec![page, content]),
            Message::Ping,
            Message::Head(newest),
        ]
    }

    #[test]
    fn each_message_is_read_back_and_no_other_bytes_are_one() {
        for message in messages() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for len in 0..bytes.len() {
                assert!(Message::decode(&bytes[..len]).is_err());
            }
            assert!(Message::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let piece = Piece {
            chunk: ChunkId([5; 32]),
            place: None,
        };
        let most = Message::Pieces(vec![piece; MAX_PIECES]);
        assert!(Message::decode(&most.encode()).is_ok());
        let huge = PiecePlace {
            node: NodeId([8; 16]),
            off: 0,
            len: MAX_CHUNK_BYTES as u32 + 1,
        };
        let huge = Piece {
            place: Some(huge),
            ..piece
        };
        let here = |name: String| Message::Here { newest: None, name };
        for message in [
            Message::Pieces(vec![piece; MAX_PIECES + 1]),
            Message::Pieces(Vec::new()),
            Message::Pieces(vec![huge]),
            here("x".repeat(MAX_NAME_BYTES + 1)),
            here("\u{1b}[2J".to_owned()),
            Message::Keys(vec![0; MAX_SLOT_BYTES + 1]),
        ] {
            assert!(Message::decode(&message.encode()).is_err());
        }
    }

    #[test]
    fn a_proof_holds_for_one_side_of_one_meeting_and_one_secret() {
        let proof = |meeting: Meeting, side| meeting.proof_of_member(&keys(), side).unwrap();
        let one = proof(meeting(), Side::Caller);
        assert!(is_same_proof(&one, &proof(meeting(), Side::Caller)));
        let other_nonce = Meeting {
            called: (ReplicaId([3; 32]), [5; 32]),
            ..meeting()
        };
        let other_id = Meeting {
            caller: (ReplicaId([7; 32]), [2; 32]),
            ..meeting()
        };
        let mut newer = keys();
        newer.add_epoch([7; 32]);
        for other in [
            proof(meeting(), Side::Called),
            proof(other_nonce, Side::Caller),
            proof(other_id, Side::Caller),
            meeting().proof_of_member(&newer, Side::Caller).unwrap(),
            meeting().proof_of_invitation(&[0x33; 32], keys().volume(), Side::Caller),
        ] {
            assert!(!is_same_proof(&one, &other));
        }
    }
}

//! What can go wrong between two replicas.

use std::net::SocketAddr;

use iroh::endpoint::{ConnectionError, VarInt};
use larder_format::FormatError;

/// What can go wrong between two replicas; the words are for users.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PeerError {
    /// The other side refused, and said why.
    #[error("{0}")]
    Refused(Refusal),
    /// The other side is not what it must be.
    #[error("what answers there does not hold this volume's newest keys; nothing was told to it")]
    NotMember,
    /// The other side does what the protocol does not allow.
    #[error("it breaks the protocol: {0}")]
    Protocol(&'static str),
    /// A message makes no sense.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The connection broke or was never made.
    #[error("{0}")]
    Away(String),
    /// Nothing came for too long.
    #[error("it does not answer")]
    Silent,
    /// Nobody can be found on the local network.
    #[error(
        "mDNS does not work here: {0}. Without `mdns` in `[peers]` of config.toml it is not tried"
    )]
    LocalNetwork(String),
    /// It cannot listen.
    #[error("nothing can listen on {0}: {1}. `listen` in `[peers]` of config.toml says where")]
    Listen(SocketAddr, String),
    /// The book of peers.
    #[error("{0}: {1}")]
    Book(String, String),
    /// The system has no random numbers to give.
    #[error("the system gave no random bytes")]
    NoRandomness,
    /// The volume is being closed.
    #[error("the volume is being closed")]
    Stopping,
    /// The ticket is too old.
    #[error("the ticket was good until {0} and is too old. `larder invite` prints a new one")]
    Expired(String),
}

/// What happens between replicas.
pub type Result<T> = std::result::Result<T, PeerError>;

/// Why one side ends a connection; sent as the connection's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// All is well, the connection is not needed any more.
    Done,
    /// It did not prove that it holds the volume's newest keys.
    NotMember,
    /// It has the id of the one it talks to.
    Same,
    /// Another process with its id is connected.
    Cloned,
    /// The two are connected already.
    Connected,
    /// The ticket is not known.
    UnknownTicket,
    /// The ticket was used.
    UsedTicket,
    /// The ticket is too old.
    OldTicket,
    /// Too many call at once.
    Busy,
    /// It broke the protocol, or gave wrong bytes.
    Broke,
    /// A code that is not known here.
    Other,
}

impl Refusal {
    const ALL: [(Self, u32, &'static str); 10] = [
        (Self::Done, 0, "it ended the connection"),
        (
            Self::NotMember,
            1,
            "it refused: this replica does not hold the volume's newest keys",
        ),
        (
            Self::Same,
            2,
            "it refused: it has the same replica id as this one. One of the two was cloned; \
             `larder sync` on the copy makes it a replica of its own",
        ),
        (
            Self::Cloned,
            3,
            "it refused: another machine with this replica's id is connected to it. One of the \
             two was cloned; `larder sync` on the copy makes it a replica of its own",
        ),
        (Self::Connected, 4, "the two are connected already"),
        (
            Self::UnknownTicket,
            5,
            "the ticket is not one of this inviter's, or too old to be known. `larder invite` \
             there prints a new one",
        ),
        (
            Self::UsedTicket,
            6,
            "the ticket was used already, and is good once. `larder invite` there prints a new one",
        ),
        (
            Self::OldTicket,
            7,
            "the ticket is too old. `larder invite` there prints a new one",
        ),
        (Self::Busy, 8, "it is called by too many at once"),
        (
            Self::Broke,
            9,
            "it refused: what this replica said makes no sense to it",
        ),
    ];

    /// The connection's code.
    pub fn code(self) -> VarInt {
        let known = Self::ALL.iter().find(|(refusal, ..)| *refusal == self);
        VarInt::from_u32(known.map_or(u32::MAX >> 2, |(_, code, _)| *code))
    }

    fn of_code(code: VarInt) -> Self {
        let known = Self::ALL
            .iter()
            .find(|(_, known, _)| VarInt::from_u32(*known) == code);
        known.map_or(Self::Other, |(refusal, ..)| *refusal)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = Self::ALL.iter().find(|(refusal, ..)| refusal == self);
        f.write_str(known.map_or("it refused", |(.., words)| words))
    }
}

impl From<ConnectionError> for PeerError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(closed) => {
                Self::Refused(Refusal::of_code(closed.error_code))
            }
            ConnectionError::TimedOut => Self::Silent,
            ConnectionError::LocallyClosed => Self::Stopping,
            other => Self::Away(other.to_string()),
        }
    }
}

impl PeerError {
    /// With which word to end the connection on which it happened.
    pub(crate) fn answer(&self) -> Refusal {
        match self {
            Self::Refused(refusal) => *refusal,
            Self::NotMember => Refusal::NotMember,
            Self::Protocol(_) | Self::Format(_) => Refusal::Broke,
            _ => Refusal::Done,
        }
    }

    /// Whether the other side is at fault, and not the line.
    pub(crate) fn is_its_fault(&self) -> bool {
        matches!(self, Self::Protocol(_) | Self::Format(_))
    }
}

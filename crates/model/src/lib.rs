//! The nouns of Larder and their laws.
//!
//! A volume is a map [`NodeId`] -> [`Node`] plus a [`Clock`]. A node is a few
//! registers; a register holds the values that nobody has superseded, each with the
//! dots (who, at which commit) that wrote it. This room knows no disk, no network,
//! no clock and no randomness: whoever makes an id or a time hands it in.

mod clock;
mod content;
mod id;
mod name;
mod node;

pub use clock::{Clock, Dot, Hlc};
pub use content::{Content, Extent};
pub use id::{ChunkId, IdError, IndexId, LinkId, NodeId, PackId, ReplicaId, SlotId, VolumeId};
pub use name::{Name, NameError};
pub use node::{Attrs, Kind, Life, Link, Node, Place, Register, Time, Valued};

//! The nouns of Larder and their laws.
//!
//! A volume is a map [`NodeId`] -> [`Node`] plus a [`Clock`]. A node is a few
//! registers; a register holds the values that nobody has superseded, each with the
//! dots (who, at which commit) that wrote it.
//!
//! Two replicas that meet **join** their states: what one of them has overwritten goes, all
//! else stays. A join knows no rules of file systems, so **repair** then turns what is not a
//! tree in order into one, by ordinary changes. Every replica that repairs the same state makes
//! the same changes, so all come to the same tree, whoever meets whom.
//!
//! This room knows no disk, no network,
//! no clock and no randomness: whoever makes an id or a time hands it in.

mod change;
mod clock;
mod compact;
mod conflict_name;
mod content;
mod id;
mod join;
mod keep;
mod name;
mod node;
mod read;
mod repair;
mod tags;
mod tree;
mod working;

pub use change::{Change, Write};
pub use clock::{Clock, Dot, Hlc};
pub use compact::is_compactable;
pub use conflict_name::ConflictName;
pub use content::{Content, Extent};
pub use id::{ChunkId, IdError, IndexId, LinkId, NodeId, PackId, ReplicaId, SlotId, VolumeId};
pub use join::{Joined, Side, Touched, join, join_nodes, join_registers};
pub use keep::{KeepPolicy, Retention};
pub use name::{Name, NameError};
pub use node::{Attrs, Kind, Life, Link, Node, Place, Register, Time, Valued};
pub use read::Standing;
pub use repair::{Naming, repair};
pub use tags::{ShownTag, TagName, Tags, shown_tags};
pub use tree::{Entry, Nodes, State, Tree};
pub use working::Working;

//! A replica's beginning: a new volume, or a known one on a new machine.
//!
//! `create` makes a volume: its keys, two key slots and the header on the store. `join`
//! opens one from its store and a passphrase or recovery key: `slots` gives the keys,
//! `packs` finds out where everything lies, `heads` which commit is the newest, `tree`
//! brings the tree's pages and fills the database.
//!
//! Both build the database beside its place (`staging`) and move it there as their last
//! step, so an interrupted one leaves nothing that looks like a replica and can be
//! repeated.

mod create;
mod heads;
mod join;
mod packs;
mod slots;
mod staging;
mod tree;

pub use create::{InitReport, init, init_at_cost};
pub(crate) use heads::{Found, heads_in, list_heads, newest_of};
pub use join::{OpenReport, find_volume, open};
pub(crate) use packs::learn_indexes;
pub(in crate::pull) use slots::noted_slots;
pub(crate) use tree::{fetch_chunks, fetch_missing, forget_pages, keep_pages};

use larder_format::VolumeKeys;

/// What opens a volume.
#[derive(Clone)]
pub enum Credential {
    /// The passphrase that was chosen when the volume was made.
    Passphrase(String),
    /// The recovery key that was printed then; spaces, dashes and case do not matter.
    RecoveryKey(String),
    /// The volume's keys, from another replica.
    Keys(VolumeKeys),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "Passphrase(..)",
            Self::RecoveryKey(_) => "RecoveryKey(..)",
            Self::Keys(_) => "Keys(..)",
        })
    }
}

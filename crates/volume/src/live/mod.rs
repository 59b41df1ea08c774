//! Nodes in use, and the lock under which a file's content changes state.
//!
//! A file's content is here whole, in part, or not at all; and it is clean or dirty:
//!
//! ```text
//!   away --fetch--> part --fetch--> whole      clean: `nodes.content` says all of it,
//!     ^               |               |               and its chunks are stored
//!     +----- drop ----+----- drop ----+        dirty: the cache file holds bytes that
//!                                                     `nodes.content` does not
//!   clean --first write (durable)--> dirty --settle--> clean
//! ```
//!
//! Each step holds the node's lock. Who takes it, and what is done under it:
//!
//! - [`table`]: the files in use, and the way to the lock; [`load`]: what the database knows
//!   of a file, checked against its cache file.
//! - [`state`], [`map`]: what is known of a file, and of its pieces; [`rows`]: the same as the
//!   database has it.
//! - [`held`]: the changes, under the lock.
//! - [`dirty`]: what waits to be stored; [`settle`]: how it becomes clean.
//! - [`absent`]: how content comes, and [`gather`]: how it is read meanwhile; [`leave`]: how it
//!   goes.

mod absent;
mod dirty;
mod gather;
mod held;
mod leave;
mod load;
mod map;
mod rows;
mod settle;
mod state;
mod table;

pub(crate) use absent::absent_in;
pub use leave::{Dropped, KeptReason};
pub use map::{Missing, Piece, WorkingExtent};
pub use settle::{Settled, Settling};

pub(crate) use dirty::{Aside, DirtySince, Lane};
pub(crate) use held::Held;
pub(crate) use map::{Map, make_local, map_of, pieces_in};
pub(crate) use rows::{delete_cached, is_pinned};
pub(crate) use settle::Stamp;
pub(crate) use state::Here;
pub(crate) use table::Lives;

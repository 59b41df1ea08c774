//! The past of the tree, as the commits tell it.
//!
//! A commit holds the whole tree of its moment, so the past needs no book of its own: `chain`
//! goes from commit to commit, `past` reads the tree of one, `compare` tells two apart, and
//! `path` follows one file through them, by the dots that say in which commit each part of a
//! node was written. `restore` brings back what was, `view` shows it as files, `when` reads and
//! writes the times that name moments, and `tags` the names that users gave them. Pages that are not here come from the store when they are read.

mod chain;
mod compare;
mod past;
mod path;
mod restore;
mod tags;
mod view;
mod when;

pub use chain::Which;
pub use compare::{Difference, What};
pub(crate) use compare::{became, path_of};
pub(crate) use past::Past;
pub use path::Event;
pub(crate) use path::shown;
pub use restore::RestoreReport;
pub(crate) use tags::{
    Numbered, commits_named_by, due_tags, keep_tag_list, own_list, set_due_tags, tag_lists,
};
pub(crate) use view::Views;
pub use when::show_time;

use larder_format::Commit;
use larder_model::ChunkId;

/// A commit, read from its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Its id.
    pub id: ChunkId,
    /// What it says.
    pub commit: Commit,
}

//! What other replicas did comes here, and what was done here stays.
//!
//! Replicas meet on the store: each has heads of its own there. `find` sees which of their commits
//! this one does not include, and where their packs are. `merge` makes of two committed trees the
//! one that includes both (`larder_model::join` and `repair`), without a look at the disk. `apply`
//! brings the tables from one tree to the other, in the transaction that makes the result the base
//! of the next commit.
//!
//! `preview` says what that would do, without doing it; `conflicts` lists what stands side by side
//! afterwards, and ends it.
//!
//! The task that makes commits does all of it, between two of them: so first all that was changed
//! here is committed. If something changes before the join is applied, nothing is applied, and it
//! begins anew.
//!
//! **What is open stays open.** A file whose content changes gets a new number, and whoever has the
//! old one open keeps what he opened. While a file is being written here, and is not stored yet, a
//! join that changes it waits.

mod apply;
mod conflicts;
mod find;
mod merge;
mod preview;

pub(crate) use apply::{Applied, Effects, apply};
pub use conflicts::{Conflict, Keep, Resolved, Version};
pub(crate) use find::{Seen, unseen};
pub(crate) use merge::{Merged, NewBase, merge};
pub use preview::Preview;

use std::sync::Arc;

use larder_format::Commit;
use larder_model::{Clock, NodeId};

use crate::push::Fetched;
use crate::{Result, Volume};

/// So many nodes that go at once may be a slip on another machine.
const MANY: u64 = 1000;

/// Whether a join may delete much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletions {
    /// One that would delete more than a thousand nodes, or more than half of the files if that is
    /// more than twenty, waits for a word.
    Guarded,
    /// Here is the word.
    Allowed,
}

impl Deletions {
    /// Whether `gone` nodes may go from a tree of so many files.
    pub(crate) fn allow(self, gone: u64, files: u64) -> bool {
        let is_much = gone > MANY || gone > 20 && gone > files / 2;
        self == Self::Allowed || !is_much
    }
}

/// What came from other replicas.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Commits of others that are included now and were not before.
    pub commits: u64,
    /// Nodes that changed here.
    pub changed: u64,
    /// Paths of what was changed on both sides, and stands side by side now or has another name.
    pub conflicts: Vec<Vec<u8>>,
    /// What is left for later, in words.
    pub left: Vec<String>,
}

/// The pages of a commit's trees that the database lacks.
///
/// # Errors
/// If one cannot be had.
pub(crate) async fn missing_pages(volume: &Arc<Volume>, commit: &Commit) -> Result<Fetched> {
    let wait = volume.settings.read_wait * 4;
    crate::pull::fetch_missing(volume.fetcher(), &volume.db, commit, wait, &|_| {}).await
}

impl Volume {
    /// The commits that the tree here includes.
    ///
    /// # Errors
    /// If the database fails.
    pub fn included(&self) -> Result<Clock> {
        find::included(self)
    }

    /// Tells the kernel and the policies what a join changed.
    pub(crate) fn note_joined(&self, effects: &Effects) {
        for &ino in &effects.orphans {
            self.note_unnamed(ino);
        }
        self.note_moved(&effects.moved);
        self.note_arrived(&effects.arrived);
        for (parent, name) in &effects.entries {
            self.notify.tell(|face| face.entry_changed(*parent, name));
        }
        for &ino in &effects.attributes {
            self.notify.tell(|face| face.inode_changed(ino));
        }
    }

    /// The paths of nodes that have one.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn paths_of(&self, nodes: &[NodeId]) -> Result<Vec<Vec<u8>>> {
        self.db.read_snapshot(|connection| {
            let mut find = connection.prepare_cached("SELECT ino FROM nodes WHERE id = ?1")?;
            let mut paths = Vec::with_capacity(nodes.len());
            for node in nodes {
                let ino: Option<i64> = rusqlite::OptionalExtension::optional(
                    find.query_row([node.as_bytes()], |row| row.get(0)),
                )?;
                if let Some(ino) = ino {
                    paths.extend(crate::names::path_of(connection, ino as u64)?);
                }
            }
            Ok(paths)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_delete_much_waits_for_a_word() {
        let guarded = Deletions::Guarded;
        assert!(guarded.allow(1, 1) && guarded.allow(20, 20) && guarded.allow(1000, 100_000));
        assert!(!guarded.allow(21, 40) && !guarded.allow(1001, 1_000_000));
        assert!(guarded.allow(21, 42));
        assert!(Deletions::Allowed.allow(1_000_000, 1_000_000));
    }
}

//! Repair: from what a join left, a tree in order again, by ordinary changes.
//!
//! A join knows registers only, so it may leave contents side by side, two nodes of one name, a
//! live node in a deleted directory, a circle of directories. Repair ends each of them:
//!
//! 1. `contents`: one of concurrent contents stays, the others become conflict copies.
//! 2. `places`: a live node has a link; deleted directories above it come back.
//! 3. `cycles`: a circle is opened at its latest move. What was moved there last, and what
//!    has no directory that is known, goes to the root directory under a conflict name.
//! 4. `names`: directories of one name become one; of other nodes of one name the first
//!    keeps it.
//!
//! **It is a function of the state.** No wall clock, no replica's own knowledge: what
//! it writes, the times too, follows from the registers. Replicas that repair the same state
//! write equal values, which the next join makes one. Where the order of steps could matter it
//! is that of ids or names, each step sees the whole result of the one before, and each
//! written place is one tick later than the one that it replaces: so it beats that one, and
//! what a user did since, with a later time, beats it.
//!
//! **Its cost follows what the join touched.** The tree before the join is in order, so each
//! disorder has a touched node in it: only these and their neighbours are looked at. Given
//! all nodes as touched, over an empty tree, it is the repair of a whole state, and finds
//! the same.

mod contents;
mod cycles;
mod names;
mod places;
mod view;

use std::collections::BTreeSet;

use crate::{Change, NodeId, ReplicaId, Touched, Tree, Write};
use view::View;

/// What repair is told from outside. Both must answer the same on every replica, now and later.
pub struct Naming<'a> {
    /// What users call a replica.
    pub replica: &'a dyn Fn(&ReplicaId) -> String,
    /// A hash: the ids of conflict copies come from it.
    pub hash: &'a dyn Fn(&[u8]) -> [u8; 32],
}

impl std::fmt::Debug for Naming<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Naming").finish_non_exhaustive()
    }
}

/// The changes that put in order what the join left in `tree`, the one before the join. Those
/// of one node stand together, in the order in which they apply. A commit must take all of
/// them or none: a content that [`Write::Keep`] drops is in a copy that is made beside.
///
/// # Errors
/// If the tree cannot be read.
pub fn repair<T: Tree>(
    tree: T,
    touched: &Touched,
    naming: &Naming<'_>,
) -> Result<Vec<Change>, T::Error> {
    let mut view = View::new(tree, touched, naming);
    let mut dirty: BTreeSet<NodeId> = touched.nodes.keys().copied().collect();
    contents::part(&mut view, &mut dirty)?;
    let mut adrift = places::find(&mut view, &mut dirty)?;
    cycles::open(&mut view, &dirty, &mut adrift)?;
    places::bring_to_root(&mut view, &adrift)?;
    names::settle(&mut view, &dirty)?;
    let mut changes = view.changes();
    changes.extend(touched.renew.iter().map(|&node| Change {
        node,
        write: Write::Renew,
    }));
    changes.sort_by_key(|change| change.node);
    Ok(changes)
}

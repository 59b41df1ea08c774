//! Compaction: forgetting deleted nodes.
//!
//! A deleted node may be forgotten once every member has seen all that is known of it: once the
//! clock of each, of a state of theirs that was really joined here, covers all its dots. A
//! member that changes the node later makes a dot that is news, and the node comes back whole
//! (see `join`). A replica that is no member any more may still hold it alive: what it did not
//! change goes there when it joins, what it did change comes back.

use crate::{Clock, Life, Node};

/// Whether a node may be forgotten. `members` are the clocks of the states of all members that
/// were joined here, this replica's own last commit among them.
pub fn is_compactable<'a>(node: &Node, members: impl IntoIterator<Item = &'a Clock>) -> bool {
    let is_deleted = !node.life.0.is_empty()
        && node
            .life
            .0
            .iter()
            .all(|valued| valued.value == Life::Deleted);
    is_deleted
        && members
            .into_iter()
            .all(|clock| node.dots().all(|dot| clock.covers(dot)))
}

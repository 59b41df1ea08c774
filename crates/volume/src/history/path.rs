//! One path through the commits, across renames.
//!
//! The dots of a node say in which commit each part of it was written last. So from one
//! change of a file to the one before it only commits are passed, and no tree is read.

use std::collections::BTreeSet;

use larder_model::{Dot, Node, NodeId};

use super::Moment;
use super::compare::{Difference, difference};
use super::past::Past;
use crate::{Result, Volume, VolumeError};

/// A commit that changed a path, and what it did to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The commit.
    pub moment: Moment,
    /// What it did.
    pub difference: Difference,
}

impl Volume {
    /// The commits that changed what is at this path itself, or was there last; the newest
    /// first, at most `most`.
    ///
    /// # Errors
    /// If no commit has anything there, or a commit or a page of a tree cannot be had.
    pub fn log_of(&self, path: &[u8], most: usize) -> Result<Vec<Event>> {
        let (_, id) = self.last_at(path)?;
        let mut awaited = BTreeSet::new();
        let mut events = Vec::new();
        for (index, moment) in self.chain()?.enumerate() {
            if events.len() >= most {
                break;
            }
            let moment = moment?;
            let mut new = Past::new(self, &moment.commit);
            if index == 0 {
                awaited.extend(new.node(&id)?.iter().flat_map(Node::dots).copied());
            }
            let own = Dot {
                replica: moment.commit.author,
                commit: moment.commit.n,
            };
            if !awaited.contains(&own) {
                continue;
            }
            let before = self.before(&moment)?;
            let mut old = before.map(|before| Past::new(self, &before.commit));
            let was = old.as_ref().map(|old| old.node(&id)).transpose()?.flatten();
            awaited.extend(was.iter().flat_map(Node::dots).copied());
            let is = new.node(&id)?;
            let found = difference(old.as_mut(), &mut new, was.as_ref(), is.as_ref())?;
            events.extend(found.map(|difference| Event { moment, difference }));
        }
        Ok(events)
    }

    /// The newest commit that has a node at this path, and the node.
    pub(super) fn last_at(&self, path: &[u8]) -> Result<(Moment, NodeId)> {
        for moment in self.chain()? {
            let moment = moment?;
            if let Some(id) = Past::new(self, &moment.commit).resolve(path)? {
                return Ok((moment, id));
            }
        }
        Err(VolumeError::State(format!(
            "no commit has anything at {}",
            shown(path)
        )))
    }
}

/// A path as a user writes it.
pub(crate) fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

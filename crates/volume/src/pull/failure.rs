//! Why content could not be brought.
//!
//! A fetch that fails tells all its waiters, so its error is a value that can be copied;
//! each waiter makes the volume's error of it.

use crate::VolumeError;

/// Why content could not be brought from the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The store cannot be reached, or refuses. What it said last.
    Away(String),
    /// No answer within this many seconds.
    TimedOut(u64),
    /// The store lacks the object, or gives other bytes than were stored.
    Damaged(String),
    /// The volume is closing.
    Stopping,
}

impl From<Failure> for VolumeError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Away(why) => Self::Away(why),
            Failure::TimedOut(secs) => Self::TimedOut(secs),
            Failure::Damaged(what) => Self::Damaged(what),
            Failure::Stopping => Self::Stopping,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        VolumeError::from(self.clone()).fmt(f)
    }
}

//! How much of a volume's history is kept.

use crate::Hlc;

/// Of each rule so many periods count, the newest first: of each the latest commit is kept.
/// [`KeepPolicy::ALL`] are all there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeepPolicy {
    /// Hours.
    pub hourly: u64,
    /// Days.
    pub daily: u64,
    /// Weeks, from Monday on.
    pub weekly: u64,
    /// Months.
    pub monthly: u64,
}

impl KeepPolicy {
    /// As many periods as there are.
    pub const ALL: u64 = u64::MAX;
}

/// What was said of a volume's history, and when. Of what was said on several replicas the latest
/// holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// When it was said.
    pub time: Hlc,
    /// What is kept; `None`: everything.
    pub keep: Option<KeepPolicy>,
}

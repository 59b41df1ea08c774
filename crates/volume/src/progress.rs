//! How far a long operation is.

use serde::Serialize;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Bytes of content.
    Bytes,
    /// Files.
    Files,
}

/// One report of a long operation.
#[derive(Debug, Clone, Serialize, serde::Deserialize)]
pub struct Progress {
    /// What is being done, as "storing".
    pub phase: String,
    /// How much is done.
    pub done: u64,
    /// How much there is in all, as far as known.
    pub total: u64,
    /// What `done` and `total` count.
    pub unit: Unit,
    /// The file at hand.
    pub path: Option<String>,
}

/// Takes reports; called often, from any thread, so it must be quick.
pub type Report<'a> = &'a (dyn Fn(Progress) + Send + Sync);

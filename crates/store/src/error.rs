//! What a store could not do, and what the caller can do about it.

use std::fmt;

/// What the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// Not now: the store is away, slow, cut the line, or answered with a fault of its own.
    /// Try again, with a pause.
    Unavailable,
    /// The store refuses: wrong key, no permission, unknown host. A user must act.
    Refused,
    /// The store is full, or a quota is reached.
    Full,
    /// The store gave bytes that cannot be the object: fewer than asked for, or others.
    Damaged,
    /// The request or the address makes no sense to the store. A user must act.
    Invalid,
}

/// A store did not do what it was asked. Never means that an object is absent.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {message}")]
pub struct StoreError {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// Which store, as the user wrote it.
    pub address: String,
    /// What happened and what to do, in the user's words.
    pub message: String,
    /// What lay beneath, for the log.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// An error without a cause beneath.
    pub fn new(kind: ErrorKind, address: impl Into<String>, message: impl fmt::Display) -> Self {
        Self {
            kind,
            address: address.into(),
            message: message.to_string(),
            source: None,
        }
    }

    /// The same error, with its cause.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether trying again later can help without a user's act.
    pub fn is_passing(&self) -> bool {
        matches!(self.kind, ErrorKind::Unavailable | ErrorKind::Damaged)
    }
}

//! Where objects are kept.
//!
//! A [`Store`] puts, gets, lists, stats and deletes immutable objects by [`Key`]. It
//! knows nothing of volumes: whatever it is handed is sealed already.
//!
//! Two rules hold for every store and are checked by one suite:
//!
//! - A put is whole or not there. No reader ever sees half of an object.
//! - Absence is an answer. `Ok(None)` means that the store itself said that there is no
//!   such object; whatever else goes wrong is a [`StoreError`], never an absence.

mod error;
mod key;

pub use error::{ErrorKind, StoreError};
pub use key::{Key, KeyError};

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// What a store tells of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
}

/// How much an acknowledged put is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It lies on the store's medium (after an fsync, or by the service's contract).
    Synced,
    /// The store took it, and a power cut there may still lose it: prove it again before
    /// the last other copy goes.
    Accepted,
}

/// Keeps immutable objects.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The store's address as the user wrote it, without secrets.
    fn address(&self) -> &str;

    /// What an acknowledged put is worth here.
    fn durability(&self) -> Durability;

    /// Puts an object, whole. Putting the same bytes again is fine and changes nothing.
    ///
    /// # Errors
    /// If it is not certain that the object lies there whole.
    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError>;

    /// The whole object; `None` if the store says that there is none.
    ///
    /// # Errors
    /// If the store did not give an answer.
    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError>;

    /// The object's bytes in `range`, all of them; `None` if the store says that there is
    /// no such object.
    ///
    /// # Errors
    /// If the store did not give an answer, or fewer bytes than asked for
    /// ([`ErrorKind::Damaged`]).
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError>;

    /// All objects whose key starts with `prefix` (whole segments, as `heads/`; empty for
    /// all), sorted by key. Half-written objects are not among them.
    ///
    /// # Errors
    /// If the list is not known to be complete.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;

    /// What the store tells of one object; `None` if it says that there is none.
    ///
    /// # Errors
    /// If the store did not give an answer.
    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError>;

    /// Deletes an object. That there was none is fine.
    ///
    /// # Errors
    /// If the object may still be there.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;
}

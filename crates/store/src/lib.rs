//! Where objects are kept.
//!
//! A [`Store`] puts, gets, lists, stats and deletes immutable objects by [`Key`]. It
//! knows nothing of volumes: whatever it is handed is sealed already. [`open`] makes one
//! from an address; [`Retry`] and [`Limited`] wrap one and are stores themselves;
//! [`check`] tries one out and reports in words.
//!
//! Three rules hold for every store and are checked by one suite (`testing::conformance`):
//!
//! - A put is whole or not there. No reader ever sees half of an object, also not when the
//!   future of the put is dropped or the line is cut.
//! - Absence is an answer. `Ok(None)` means that the store itself said that there is no
//!   such object; whatever else goes wrong is a [`StoreError`], never an absence. A missing
//!   root (an unmounted disk, a wrong path, no such bucket) is an error.
//! - Nothing hangs. A store that cannot be reached, or that stops in the middle, gives an
//!   error within the time that [`StoreOptions`] grants.

mod address;
mod check;
mod error;
mod folder;
mod http;
mod key;
mod limit;
mod options;
mod retry;
mod sftp;
mod temporary;

#[cfg(feature = "testing")]
pub mod testing;

pub use address::open;
pub use check::{CheckReport, CheckStep, check};
pub use error::{ErrorKind, StoreError};
pub use key::{Key, KeyError};
pub use limit::{Limited, Limits};
pub use options::{S3Options, SftpOptions, StoreOptions, WebdavOptions};
pub use retry::{Retry, RetryPolicy};

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

/// The largest object that a store gives back whole, in bytes. What claims to be larger
/// is refused as damaged, so that a hostile store cannot fill the memory.
pub const MAX_OBJECT_BYTES: u64 = 1 << 30;

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

/// Says when bytes may be sent.
#[async_trait]
pub trait Pace: Send + Sync {
    /// Returns once so many bytes may be sent.
    async fn may_send(&self, bytes: u64);
}

/// Keeps immutable objects.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug {
    /// The store's address as the user wrote it, without secrets.
    fn address(&self) -> &str;

    /// What an acknowledged put is worth here. Ask after a put: a server shows what it can
    /// do only once it was reached, and until then the answer is the weaker one.
    fn durability(&self) -> Durability;

    /// Puts an object, whole. Putting the same bytes again is fine and changes nothing.
    /// When the future is dropped, the object is there whole or not at all.
    ///
    /// # Errors
    /// If it is not certain that the object lies there whole.
    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError>;

    /// As [`Store::put`], no faster than `pace` allows. A store that sends in pieces asks
    /// before each of them; any other asks once for the whole object.
    ///
    /// # Errors
    /// As [`Store::put`].
    async fn put_paced(&self, key: &Key, bytes: Bytes, pace: &dyn Pace) -> Result<(), StoreError> {
        pace.may_send(bytes.len() as u64).await;
        self.put(key, bytes).await
    }

    /// The whole object; `None` if the store says that there is none.
    ///
    /// # Errors
    /// If the store did not give an answer, or the object has more than
    /// [`MAX_OBJECT_BYTES`] ([`ErrorKind::Damaged`]).
    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError>;

    /// The object's bytes in `range`, all of them; `None` if the store says that there is
    /// no such object. An empty range of an object that is there is empty bytes.
    ///
    /// # Errors
    /// If the store did not give an answer, or fewer bytes than asked for
    /// ([`ErrorKind::Damaged`]).
    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError>;

    /// All objects whose key starts with `prefix` (whole segments, as `heads/`; empty for
    /// all), sorted by key. Half-written objects are not among them, nor is what lies there
    /// under a name that is no [`Key`].
    ///
    /// # Errors
    /// If the list is not known to be complete.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError>;

    /// What the store tells of one object; `None` if it says that there is none.
    ///
    /// # Errors
    /// If the store did not give an answer.
    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError>;

    /// Lets go of connections and of what is known from them, so that the next answers are
    /// the store's of then and not this session's. Calls under way are not disturbed.
    async fn renew(&self) {}

    /// Deletes an object. That there was none is fine.
    ///
    /// # Errors
    /// If the object may still be there.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;
}

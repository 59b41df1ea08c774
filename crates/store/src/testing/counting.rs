//! A store that counts what is asked of it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Durability, Key, ObjectMeta, Pace, Store, StoreError};

/// How often each call was made, and the bytes of those that succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of `put`.
    pub puts: u64,
    /// Calls of `get`.
    pub gets: u64,
    /// Calls of `get_range`.
    pub ranges: u64,
    /// Calls of `list`.
    pub lists: u64,
    /// Calls of `stat`.
    pub stats: u64,
    /// Calls of `delete`.
    pub deletes: u64,
    /// Bytes put.
    pub bytes_up: u64,
    /// Bytes got.
    pub bytes_down: u64,
}

/// Counts the calls to the store below.
#[derive(Debug)]
pub struct Counting {
    below: Arc<dyn Store>,
    puts: AtomicU64,
    gets: AtomicU64,
    ranges: AtomicU64,
    lists: AtomicU64,
    stats: AtomicU64,
    deletes: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Counting {
    /// Counts from zero.
    pub fn new(below: Arc<dyn Store>) -> Self {
        Self {
            below,
            puts: AtomicU64::new(0),
            gets: AtomicU64::new(0),
            ranges: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            stats: AtomicU64::new(0),
            deletes: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts {
            puts: self.puts.load(Relaxed),
            gets: self.gets.load(Relaxed),
            ranges: self.ranges.load(Relaxed),
            lists: self.lists.load(Relaxed),
            stats: self.stats.load(Relaxed),
            deletes: self.deletes.load(Relaxed),
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
        }
    }

    fn came(&self, bytes: Option<&Bytes>) {
        self.bytes_down
            .fetch_add(bytes.map_or(0, |bytes| bytes.len() as u64), Relaxed);
    }
}

#[async_trait]
impl Store for Counting {
    fn address(&self) -> &str {
        self.below.address()
    }

    async fn renew(&self) {
        self.below.renew().await;
    }

    fn durability(&self) -> Durability {
        self.below.durability()
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        self.puts.fetch_add(1, Relaxed);
        let size = bytes.len() as u64;
        self.below.put(key, bytes).await?;
        self.bytes_up.fetch_add(size, Relaxed);
        Ok(())
    }

    async fn put_paced(&self, key: &Key, bytes: Bytes, pace: &dyn Pace) -> Result<(), StoreError> {
        self.puts.fetch_add(1, Relaxed);
        let size = bytes.len() as u64;
        self.below.put_paced(key, bytes, pace).await?;
        self.bytes_up.fetch_add(size, Relaxed);
        Ok(())
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.gets.fetch_add(1, Relaxed);
        let found = self.below.get(key).await?;
        self.came(found.as_ref());
        Ok(found)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.ranges.fetch_add(1, Relaxed);
        let found = self.below.get_range(key, range).await?;
        self.came(found.as_ref());
        Ok(found)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.lists.fetch_add(1, Relaxed);
        self.below.list(prefix).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        self.stats.fetch_add(1, Relaxed);
        self.below.stat(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.deletes.fetch_add(1, Relaxed);
        self.below.delete(key).await
    }
}

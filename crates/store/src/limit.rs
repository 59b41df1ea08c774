//! A store that takes its time.
//!
//! [`Limited`] holds the rate of bytes up and down below what the user allows, and the
//! number of calls at a time. A rate is an account that fills steadily: a call that moves
//! `n` bytes waits until the account is not in debt and then takes `n` from it. So an
//! object of any size passes, and the long-run rate is exact; within one object the line
//! runs at its own speed.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::{Durability, Key, ObjectMeta, Store, StoreError};

/// What a store may use. Absent means unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes per second sent.
    pub up_bytes_per_sec: Option<u64>,
    /// Bytes per second received.
    pub down_bytes_per_sec: Option<u64>,
    /// Calls at a time.
    pub calls: Option<usize>,
}

/// A store within [`Limits`].
#[derive(Debug)]
pub struct Limited {
    below: Arc<dyn Store>,
    up: Option<Rate>,
    down: Option<Rate>,
    calls: Option<Semaphore>,
}

impl Limited {
    /// `below`, within `limits`.
    pub fn new(below: Arc<dyn Store>, limits: Limits) -> Self {
        Self {
            below,
            up: limits.up_bytes_per_sec.map(Rate::new),
            down: limits.down_bytes_per_sec.map(Rate::new),
            calls: limits.calls.map(|calls| Semaphore::new(calls.max(1))),
        }
    }

    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed, so an error cannot come; going on is right then.
        match &self.calls {
            Some(calls) => calls.acquire().await.ok(),
            None => None,
        }
    }
}

async fn pay(rate: Option<&Rate>, bytes: u64) {
    if let Some(rate) = rate {
        rate.pay(bytes).await;
    }
}

/// An account of bytes.
#[derive(Debug)]
struct Rate {
    bytes_per_sec: u64,
    /// When the account is even again.
    even: Mutex<Instant>,
}

impl Rate {
    fn new(bytes_per_sec: u64) -> Self {
        Self {
            bytes_per_sec: bytes_per_sec.max(1),
            even: Mutex::new(Instant::now()),
        }
    }

    /// Takes `bytes` from the account; when that may begin.
    fn owe(&self, bytes: u64) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_sec as f64);
        let mut even = self.even.lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*even).max(Instant::now());
        *even = start + cost;
        start
    }

    /// Waits until earlier bytes are paid for, and takes `bytes`.
    async fn pay(&self, bytes: u64) {
        tokio::time::sleep_until(self.owe(bytes)).await;
    }
}

#[async_trait]
impl Store for Limited {
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
        pay(self.up.as_ref(), bytes.len() as u64).await;
        let _turn = self.turn().await;
        self.below.put(key, bytes).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        // The size is known only afterwards: the next call pays for this one.
        pay(self.down.as_ref(), 0).await;
        let _turn = self.turn().await;
        let found = self.below.get(key).await?;
        if let (Some(rate), Some(bytes)) = (&self.down, &found) {
            rate.owe(bytes.len() as u64);
        }
        Ok(found)
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        pay(self.down.as_ref(), range.end.saturating_sub(range.start)).await;
        let _turn = self.turn().await;
        self.below.get_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let _turn = self.turn().await;
        self.below.list(prefix).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        let _turn = self.turn().await;
        self.below.stat(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let _turn = self.turn().await;
        self.below.delete(key).await
    }
}

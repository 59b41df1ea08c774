//! A store that tries again.
//!
//! Passing errors ([`StoreError::is_passing`]) are met with another attempt after a pause
//! that doubles, plus or minus a random part, so that many callers do not come back at the
//! same moment. What a user must mend is handed on at once, and what came back damaged
//! three times is damaged. A call is bounded: no attempt starts after the policy's
//! deadline, and an attempt itself is bounded by the store below.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use crate::{Durability, ErrorKind, Key, ObjectMeta, Pace, Store, StoreError};

/// Damage may be an answer that was cut on its way; after this many attempts it is not.
const DAMAGED_ATTEMPTS: u32 = 3;

/// How often and how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The pause after the first failure; it doubles with each further one.
    pub first_pause: Duration,
    /// No pause is longer than this.
    pub longest_pause: Duration,
    /// No attempt starts later than this after the call began.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    /// 200 ms, 10 s, within a minute.
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(10),
            deadline: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// The pause after `failures` failures (1 or more). `dice` is any number; it moves the
    /// pause by up to a quarter in either direction.
    pub fn pause(&self, failures: u32, dice: u64) -> Duration {
        let doubled = self.first_pause.saturating_mul(
            1u32.checked_shl(failures.saturating_sub(1))
                .unwrap_or(u32::MAX),
        );
        let share = 750 + (dice % 501) as u32;
        (doubled.min(self.longest_pause) / 1000).saturating_mul(share)
    }
}

/// A store that tries again when the one below fails for now.
#[derive(Debug, Clone)]
pub struct Retry {
    below: Arc<dyn Store>,
    policy: RetryPolicy,
}

impl Retry {
    /// `below`, tried again by `policy`.
    pub fn new(below: Arc<dyn Store>, policy: RetryPolicy) -> Self {
        Self { below, policy }
    }

    async fn persist<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let end = Instant::now() + self.policy.deadline;
        let mut failures = 0;
        loop {
            let error = match attempt().await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            failures += 1;
            let next = Instant::now() + self.policy.pause(failures, roll());
            let damaged = error.kind == ErrorKind::Damaged && failures >= DAMAGED_ATTEMPTS;
            if !error.is_passing() || damaged || next >= end {
                return Err(error);
            }
            tracing::debug!(%error, failures, "trying again");
            tokio::time::sleep_until(next).await;
        }
    }
}

/// A number that differs from call to call and from process to process. The standard
/// library's hasher is seeded by the system, which is random enough for a pause.
fn roll() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[async_trait]
impl Store for Retry {
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
        self.persist(|| self.below.put(key, bytes.clone())).await
    }

    async fn put_paced(&self, key: &Key, bytes: Bytes, pace: &dyn Pace) -> Result<(), StoreError> {
        self.persist(|| self.below.put_paced(key, bytes.clone(), pace))
            .await
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.persist(|| self.below.get(key)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.persist(|| self.below.get_range(key, range.clone()))
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.persist(|| self.below.list(prefix)).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        self.persist(|| self.below.stat(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.persist(|| self.below.delete(key)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_stay_within_a_quarter() {
        let policy = RetryPolicy::default();
        for (failures, middle_ms) in [(1, 200), (2, 400), (3, 800), (30, 10_000), (99, 10_000)] {
            for dice in [0, 1, 250, 500, u64::MAX] {
                let pause = policy.pause(failures, dice).as_millis();
                assert!(
                    pause >= middle_ms * 3 / 4 && pause <= middle_ms * 5 / 4,
                    "{pause}"
                );
            }
        }
    }
}

//! Going on while the store is away, and saying why nothing moves.
//!
//! A request that fails in a way that passes (no network, a busy server) is tried again
//! with pauses that double up to five minutes, for as long as the volume runs. One that
//! needs the user (refused, full) is tried again every minute, and its words stand in the
//! status. As soon as one request succeeds all that pause try again at once.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, SystemTime};

use larder_plan::backoff::Backoff;
use larder_store::StoreError;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::shared::Shared;
use crate::{Result, VolumeError};

const RETRY_AFTER_REFUSAL: Duration = Duration::from_secs(60);

/// What is known of the store from sending to it.
#[derive(Debug, Default)]
pub(super) struct Health {
    trouble: Mutex<Option<Trouble>>,
    back: Notify,
}

/// Why the store takes nothing at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// What it said last.
    pub(super) words: String,
    /// Since when it has not taken anything.
    pub(super) since: SystemTime,
    /// Whether a user must act.
    pub(super) needs_user: bool,
}

impl Health {
    /// Why the store takes nothing; `None` if all is well.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        self.trouble.lock().clone()
    }

    /// All that pause try again now, unless a user must act first.
    pub(super) fn try_again(&self) {
        let waits = matches!(&*self.trouble.lock(), Some(trouble) if !trouble.needs_user);
        if waits {
            self.back.notify_waiters();
        }
    }

    fn succeeded(&self) {
        let was_down = self.trouble.lock().take().is_some();
        if was_down {
            tracing::info!("the store takes content again");
            self.back.notify_waiters();
        }
    }

    fn failed(&self, error: &StoreError, failures: u32) -> Duration {
        let mut trouble = self.trouble.lock();
        if trouble.is_none() {
            tracing::warn!(%error, "the store does not take content; trying again");
        } else {
            tracing::debug!(%error, failures, "the store does not take content");
        }
        let since = trouble
            .as_ref()
            .map_or_else(SystemTime::now, |old| old.since);
        *trouble = Some(Trouble {
            words: error.to_string(),
            since,
            needs_user: !error.is_passing(),
        });
        if error.is_passing() {
            let random = getrandom::u64().unwrap_or(u64::MAX / 2);
            Backoff::default().delay(failures, random)
        } else {
            RETRY_AFTER_REFUSAL
        }
    }
}

impl Shared {
    /// Makes a request until the store answers; `None` if it is time to stop.
    pub(super) async fn keep_trying<T, F>(&self, request: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.try_while(request, |_| true).await.ok()
    }

    /// As [`Shared::keep_trying`], until a user must act: who asks for something else meanwhile,
    /// which may be what helps, does not wait for that.
    ///
    /// # Errors
    /// [`VolumeError::Stopping`], and that the store refuses, or is full.
    pub(super) async fn try_unless_refused<T, F>(&self, request: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let refused = self.try_while(request, StoreError::is_passing).await;
        refused.map_err(|refused| refused.map_or(VolumeError::Stopping, VolumeError::Store))
    }

    /// Makes a request again as long as its errors are such; what failed last, or `None` if it is
    /// time to stop.
    async fn try_while<T, F>(
        &self,
        request: impl Fn() -> F,
        is_such: impl Fn(&StoreError) -> bool,
    ) -> Result<T, Option<StoreError>>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut failures = 0u32;
        loop {
            let back = self.health.back.notified();
            let answer = tokio::select! {
                answer = request() => answer,
                () = self.stopped() => return Err(None),
            };
            let pause = match answer {
                Ok(answer) => {
                    self.health.succeeded();
                    return Ok(answer);
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let pause = self.health.failed(&error, failures);
                    if !is_such(&error) {
                        return Err(Some(error));
                    }
                    pause
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = back => {}
                () = self.stopped() => return Err(None),
            }
        }
    }
}

/// What a user should know and perhaps act upon, until it is over.
#[derive(Debug, Default)]
pub(super) struct Warnings(
    /// The last of each topic.
    Mutex<BTreeMap<&'static str, String>>,
);

impl Warnings {
    /// Sets the warning of a topic.
    pub(super) fn set(&self, topic: &'static str, words: String) {
        let before = self.0.lock().insert(topic, words.clone());
        if before.as_ref() != Some(&words) {
            tracing::warn!(%words, topic);
        }
    }

    /// The topic's warning is over.
    pub(super) fn clear(&self, topic: &'static str) {
        self.0.lock().remove(topic);
    }

    /// All warnings.
    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().values().cloned().collect()
    }
}

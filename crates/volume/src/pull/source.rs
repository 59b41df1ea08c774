//! The store, as one who fetches sees it.
//!
//! Every request for content goes through [`Source::fetch`]: it waits for its turn, holds
//! the download limit, tries again with growing pauses while the deadline allows, and
//! keeps track of whether the store answers. While the store is known to be down a
//! request fails at once; one probe at a time finds out when it is back.
//!
//! Readers come before work in the background: that never takes the last two turns.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_plan::backoff::{Admit, Backoff, Circuit, CircuitRules, Health};
use larder_plan::nearby::Speed;
use larder_plan::pace::{Meter, TokenBucket};
use larder_store::{ErrorKind, Key, ObjectMeta, Store, StoreError};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::failure::Failure;
use crate::Settings;

/// Who waits for what is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A reader.
    Reader,
    /// Nobody yet.
    Behind,
}

const METER_WINDOW: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_millis(250);
/// A store that failed once, and of which nothing was heard since, is asked again.
const LOOK_AFTER_FAILURE: Duration = Duration::from_secs(2);
const PROBE_WAIT: Duration = Duration::from_secs(10);
/// No answer is late before that.
const LATE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// A store that says "absent", or gives wrong bytes, is asked so often in all.
pub(super) const TRIES_OF_DAMAGED: u32 = 3;

/// The store and what is known of it.
#[derive(Debug)]
pub(crate) struct Source {
    store: Arc<dyn Store>,
    begin: Instant,
    retry: Backoff,
    trip_after: u32,
    /// Whether someone else asks the store while it is down.
    is_probed: AtomicBool,
    circuit: Mutex<Circuit>,
    said: Mutex<Option<String>>,
    meter: Mutex<Meter>,
    bucket: Mutex<TokenBucket>,
    round_trip: Mutex<Option<Duration>>,
    speed: Mutex<Speed>,
    turns: Semaphore,
    turns_behind: Semaphore,
    /// A store of which nothing was heard for so long is asked whether it is there.
    look_when_quiet: Duration,
    /// When the store last answered or failed to.
    heard: Mutex<Instant>,
}

/// Whether the store answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reach {
    /// Whether it is worth asking.
    pub(crate) up: bool,
    /// What it said when it last failed, until it answers again.
    pub(crate) said: Option<String>,
    /// For how long it has been down.
    pub(crate) down_for: Option<Duration>,
}

impl Source {
    pub(crate) fn new(store: Arc<dyn Store>, settings: &Settings) -> Self {
        let retry = Backoff {
            first: Duration::from_millis(200).min(settings.read_wait / 20),
            cap: Duration::from_secs(60),
        };
        let rules = CircuitRules {
            backoff: retry,
            reader_patience: settings.read_wait,
            reader_grace: Duration::from_secs(2).min(settings.read_wait),
            ..CircuitRules::default()
        };
        let turns = settings.parallel_fetches.max(1);
        Self {
            store,
            begin: Instant::now(),
            retry,
            trip_after: rules.trip_after,
            is_probed: AtomicBool::new(false),
            circuit: Mutex::new(Circuit::new(rules)),
            said: Mutex::new(None),
            meter: Mutex::new(Meter::new(METER_WINDOW)),
            bucket: Mutex::new(TokenBucket::new(settings.download_limit, 256 << 10)),
            round_trip: Mutex::new(None),
            speed: Mutex::new(Speed::unknown(None)),
            turns: Semaphore::new(turns),
            turns_behind: Semaphore::new(turns.saturating_sub(2).max(1)),
            look_when_quiet: settings.read_wait,
            heard: Mutex::new(Instant::now()),
        }
    }

    /// The store itself.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The bytes of an object in `range`, all of them, unverified.
    ///
    /// # Errors
    /// By `deadline` at the latest. Absence, once the store has said so repeatedly, is
    /// damage: only objects that were acknowledged are asked for.
    pub(crate) async fn fetch(
        &self,
        key: &Key,
        range: Range<u64>,
        urgency: Urgency,
        deadline: Instant,
    ) -> Result<Bytes, Failure> {
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            self.admitted(deadline).await?;
            let Some(answer) = self.ask(key, &range, urgency, deadline).await else {
                return Err(Failure::TimedOut(begun.elapsed().as_secs().max(1)));
            };
            let (failure, pause) = match answer {
                Ok(Some(bytes)) if bytes.len() as u64 == range.end - range.start => {
                    return Ok(bytes);
                }
                Ok(Some(bytes)) => self.wrong(
                    tries,
                    format!(
                        "{key} is damaged on {}: asked for {} bytes, got {}",
                        self.store.address(),
                        range.end - range.start,
                        bytes.len()
                    ),
                ),
                Ok(None) => self.wrong(
                    tries,
                    format!("{key} is missing on {}", self.store.address()),
                ),
                Err(error) => self.failed(tries, key, &error),
            };
            tries += 1;
            match pause {
                Some(pause) if Instant::now() + pause < deadline => {
                    tokio::time::sleep(pause).await;
                }
                _ => return Err(failure),
            }
        }
    }

    /// A whole object of this size, unverified.
    ///
    /// # Errors
    /// As [`Source::fetch`].
    pub(crate) async fn fetch_whole(
        &self,
        object: &ObjectMeta,
        deadline: Instant,
    ) -> Result<Bytes, Failure> {
        if object.size == 0 {
            return Ok(Bytes::new());
        }
        self.fetch(&object.key, 0..object.size, Urgency::Behind, deadline)
            .await
    }

    /// Waits until the store may be asked. While it is down that is the prober's affair,
    /// if there is one: a reader would wait long for an answer that may not come.
    async fn admitted(&self, deadline: Instant) -> Result<(), Failure> {
        let begun = Instant::now();
        loop {
            let (wait, patience) = {
                let mut circuit = self.circuit.lock();
                let now = self.begin.elapsed();
                let patience = circuit.reader_wait(now);
                if circuit.health() != Health::Up && self.is_probed.load(Ordering::Relaxed) {
                    (LOOK_AGAIN, patience)
                } else {
                    match circuit.admit(now) {
                        Admit::Go | Admit::Probe => return Ok(()),
                        Admit::After(wait) => (wait.min(LOOK_AGAIN), patience),
                    }
                }
            };
            if begun.elapsed() >= patience || Instant::now() + wait >= deadline {
                return Err(Failure::Away(self.last_words()));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Asks once; `None` if there was no answer in time.
    async fn ask(
        &self,
        key: &Key,
        range: &Range<u64>,
        urgency: Urgency,
        deadline: Instant,
    ) -> Option<Result<Option<Bytes>, StoreError>> {
        let within = tokio::time::Instant::from_std(deadline);
        let turn = tokio::time::timeout_at(within, async {
            let turn = self.turn(urgency).await;
            self.hold_the_limit(range.end - range.start).await;
            turn
        });
        let Ok(_turn) = turn.await else {
            self.note_failure(format!("{} is slow", self.store.address()));
            return None;
        };
        let asked = Instant::now();
        let answer = tokio::time::timeout_at(within, self.store.get_range(key, range.clone()));
        match answer.await {
            Ok(answer) => {
                self.note_answer(&answer, asked.elapsed());
                Some(answer)
            }
            Err(_) => {
                self.note_silence();
                None
            }
        }
    }

    async fn turn(&self, urgency: Urgency) -> [Option<SemaphorePermit<'_>>; 2] {
        // The semaphores are never closed, so waiting for one cannot fail.
        let behind = match urgency {
            Urgency::Behind => self.turns_behind.acquire().await.ok(),
            Urgency::Reader => None,
        };
        [self.turns.acquire().await.ok(), behind]
    }

    async fn hold_the_limit(&self, bytes: u64) {
        let wait = self.bucket.lock().take(self.begin.elapsed(), bytes);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// The store answered, if only with "absent" or with damage.
    fn note_answer(&self, answer: &Result<Option<Bytes>, StoreError>, took: Duration) {
        match answer {
            Ok(bytes) => {
                self.note_well();
                let len = bytes.as_ref().map_or(0, Bytes::len) as u64;
                self.meter.lock().record(self.begin.elapsed(), len);
                self.speed.lock().record(len, took);
                let mut round_trip = self.round_trip.lock();
                let known = round_trip.get_or_insert(took);
                // The fastest answer is the nearest to a bare round trip; drift up slowly.
                *known = took.min(*known + *known / 16);
            }
            Err(error) if answered(error) => self.circuit.lock().succeeded(),
            Err(_) => {}
        }
    }

    fn failed(&self, tries: u32, key: &Key, error: &StoreError) -> (Failure, Option<Duration>) {
        if answered(error) {
            return self.wrong(tries, format!("{key} is damaged: {error}"));
        }
        let pause = self.note_failure(error.to_string());
        tracing::debug!(%key, %error, "a fetch failed");
        let again = error.is_passing().then_some(pause);
        (Failure::Away(error.to_string()), again)
    }

    fn wrong(&self, tries: u32, what: String) -> (Failure, Option<Duration>) {
        tracing::debug!(what, "a fetch gave wrong bytes");
        let again = (tries + 1 < TRIES_OF_DAMAGED).then(|| self.retry_pause(tries));
        (Failure::Damaged(what), again)
    }

    /// How long to wait before wrong bytes are asked for again.
    pub(super) fn retry_pause(&self, tries: u32) -> Duration {
        self.retry.delay(tries + 1, random())
    }

    fn note_well(&self) {
        self.circuit.lock().succeeded();
        *self.said.lock() = None;
        *self.heard.lock() = Instant::now();
    }

    fn note_failure(&self, words: String) -> Duration {
        *self.heard.lock() = Instant::now();
        *self.said.lock() = Some(words);
        let now = self.begin.elapsed();
        self.circuit.lock().failed(now, random())
    }

    /// A store that let a whole wait pass is down, without more proof.
    fn note_silence(&self) {
        for _ in 0..self.trip_after {
            self.note_failure(format!("{} does not answer", self.store.address()));
        }
    }

    fn last_words(&self) -> String {
        let said = self.said.lock().clone();
        said.unwrap_or_else(|| format!("{} does not answer", self.store.address()))
    }

    /// Asks a store that is down, whenever it is time to, whether it is back, and one that
    /// is up whether it still is, when nothing was heard of it for a while. `answered` is
    /// called whenever it answers. Never ends; from the first call on, only this asks a store
    /// that is down.
    pub(crate) async fn keep_probing(&self, answered: impl Fn()) {
        self.is_probed.store(true, Ordering::Relaxed);
        loop {
            tokio::time::sleep(PROBE_INTERVAL).await;
            if self.is_probe_due() && self.probe().await {
                answered();
            }
        }
    }

    fn is_probe_due(&self) -> bool {
        let quiet = self.heard.lock().elapsed();
        let said = self.said.lock().is_some();
        let mut circuit = self.circuit.lock();
        match circuit.health() {
            Health::Up if said => quiet >= LOOK_AFTER_FAILURE,
            Health::Up => quiet >= self.look_when_quiet,
            Health::Down { .. } => circuit.admit(self.begin.elapsed()) == Admit::Probe,
            Health::Probing { .. } => false,
        }
    }

    /// Whether the store answers.
    async fn probe(&self) -> bool {
        let answer = match Key::new(larder_format::object::VOLUME) {
            Ok(key) => tokio::time::timeout(PROBE_WAIT, self.store.stat(&key)).await,
            Err(_) => return false,
        };
        match answer {
            Ok(Ok(_)) => {
                self.note_well();
                return true;
            }
            Ok(Err(error)) => {
                self.note_failure(error.to_string());
            }
            Err(_) => {
                self.note_failure(format!("{} does not answer", self.store.address()));
            }
        }
        false
    }

    /// Whether the store answers.
    pub(crate) fn reach(&self) -> Reach {
        let health = self.circuit.lock().health();
        let since = match health {
            Health::Up => None,
            Health::Down { since, .. } | Health::Probing { since } => Some(since),
        };
        Reach {
            up: since.is_none(),
            said: self.said.lock().clone(),
            down_for: since.map(|since| self.begin.elapsed().saturating_sub(since)),
        }
    }

    /// How long it is likely to need for so many bytes; `None` while it does not answer.
    pub(super) fn expect(&self, bytes: u64) -> Option<Duration> {
        let is_up = self.circuit.lock().health() == Health::Up;
        is_up.then(|| self.speed.lock().expect(bytes))
    }

    /// When an answer of so many bytes is late.
    pub(super) fn late(&self, bytes: u64) -> Duration {
        (self.speed.lock().expect(bytes) * 4).max(LATE)
    }

    /// What comes in a second, over the last while.
    pub(crate) fn bytes_per_sec(&self) -> u64 {
        self.meter.lock().per_sec(self.begin.elapsed())
    }

    /// Bytes that are better read over than asked around.
    pub(crate) fn gap_bytes(&self) -> u64 {
        let round_trip = self.round_trip.lock().unwrap_or(Duration::from_millis(20));
        let rate = self.bytes_per_sec().max(1 << 20);
        larder_plan::readahead::gap_tolerance(round_trip, rate, 2).clamp(16 << 10, 512 << 10)
    }
}

/// Whether the error is an answer about the object, and not about the store.
fn answered(error: &StoreError) -> bool {
    matches!(error.kind, ErrorKind::Damaged | ErrorKind::Invalid)
}

/// A random number for the pauses; a fixed one if the system has none to give.
fn random() -> u64 {
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

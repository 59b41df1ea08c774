//! What the workers share without holding the volume: time, the stop sign, the outbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use larder_plan::pace::{Meter, TokenBucket};
use larder_store::Pace;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, Semaphore, watch};

use super::health::{Health, Warnings};
use super::outbox::Outbox;
use crate::Settings;

/// A writer that waited for room may come again at once.
const PRESSED_FOR: Duration = Duration::from_secs(2);
const METER_WINDOW: Duration = Duration::from_secs(20);
/// Nanoseconds.
const PROCESSOR_BURST: u64 = 20_000_000;

/// State of the workers that outlives a dropped volume for a moment.
#[derive(Debug)]
pub(crate) struct Shared {
    begin: Instant,
    stop: watch::Sender<bool>,
    /// One for each lane's thread.
    bells: [Bell; 2],
    pub(super) health: Health,
    pub(super) warnings: Warnings,
    pub(super) outbox: Outbox,
    /// Rung when another replica is said to have stored something.
    pub(super) others_changed: Notify,
    /// One permit for each upload at once; held until its pack is recorded.
    pub(super) turns: Arc<Semaphore>,
    uploads: usize,
    bandwidth: Mutex<TokenBucket>,
    /// Nanoseconds of a processor, and bytes read, that storing may use.
    processor: Mutex<TokenBucket>,
    reading: Mutex<TokenBucket>,
    /// The files' bytes that the store got, before they were compressed: what waits is
    /// counted so too.
    stored: Mutex<Meter>,
    /// Whether this replica was found to be the one that the store knows.
    compared: AtomicBool,
    /// Whether something that the store took waits to be proven.
    unproven: AtomicBool,
    /// How many callers wait for all that is dirty to be stored.
    urgent: AtomicU64,
    /// Whether a thread helps to store for them.
    helped: AtomicBool,
    /// Until when writers count as waiting for room, in milliseconds since `begin`.
    pressed_until_ms: AtomicU64,
}

/// Wakes an ingest thread.
#[derive(Debug, Default)]
struct Bell {
    rung: Mutex<bool>,
    ring: Condvar,
}

/// Somebody waits: while this lives, files are stored without waiting for quiet.
#[derive(Debug)]
pub(super) struct Urgent(Arc<Shared>);

impl Shared {
    pub(super) fn new(settings: &Settings) -> Self {
        let uploads = settings.parallel_uploads.clamp(1, 64);
        let share = (settings.cpu_share < 1.0)
            .then(|| (settings.cpu_share.max(0.01) * 1_000_000_000.0) as u64);
        Self {
            begin: Instant::now(),
            stop: watch::Sender::new(false),
            bells: Default::default(),
            health: Health::default(),
            warnings: Warnings::default(),
            // One is filled while the others are on their way.
            outbox: Outbox::new(uploads.max(2)),
            others_changed: Notify::new(),
            turns: Arc::new(Semaphore::new(uploads)),
            uploads,
            bandwidth: Mutex::new(TokenBucket::new(settings.upload_limit, 0)),
            processor: Mutex::new(TokenBucket::new(share, PROCESSOR_BURST)),
            reading: Mutex::new(TokenBucket::new(settings.ingest_limit, 1 << 20)),
            stored: Mutex::new(Meter::new(METER_WINDOW)),
            compared: AtomicBool::new(false),
            unproven: AtomicBool::new(false),
            urgent: AtomicU64::new(0),
            helped: AtomicBool::new(false),
            pressed_until_ms: AtomicU64::new(0),
        }
    }

    /// The time since the workers' state was made.
    pub(super) fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Tells everyone to stop.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
        self.outbox.close();
        self.ring();
    }

    /// Whether to stop.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Ends when it is time to stop.
    pub(crate) async fn stopped(&self) {
        // The sender is in `self`, so waiting can only end by the sign.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Waits for `pause`; false if it is time to stop.
    pub(super) async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.stopped() => false,
        }
    }

    /// Wakes the ingest threads.
    pub(super) fn ring(&self) {
        for bell in &self.bells {
            *bell.rung.lock() = true;
            bell.ring.notify_all();
        }
    }

    /// Waits on an ingest thread, until `pause` is over or its bell rings.
    pub(super) fn wait_for_bell(&self, lane: usize, pause: Duration) {
        let bell = &self.bells[lane];
        let mut rung = bell.rung.lock();
        if !*rung {
            bell.ring.wait_for(&mut rung, pause);
        }
        *rung = false;
    }

    /// Rests on a thread for `pause`, unless it is time to stop.
    pub(super) fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let bell = &self.bells[0];
        let mut rung = bell.rung.lock();
        while !self.is_stopping() && !bell.ring.wait_until(&mut rung, until).timed_out() {}
    }

    /// Ends when no upload is under way; only after [`Shared::stop`].
    pub(super) async fn uploads_ended(&self) {
        let all = u32::try_from(self.uploads).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let _ = self.turns.acquire_many(all).await;
    }

    /// From now on content may be sent: the store knows this replica, and no other as it.
    pub(super) fn allow_push(&self) {
        self.compared.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether content may be sent.
    pub(crate) fn may_push(&self) -> bool {
        self.compared.load(Ordering::SeqCst)
    }

    /// Notes whether something that the store took waits to be proven.
    pub(super) fn set_unproven(&self, is_so: bool) {
        self.unproven.store(is_so, Ordering::Relaxed);
    }

    /// Whether something that the store took waits to be proven, as far as is known.
    pub(super) fn is_unproven(&self) -> bool {
        self.unproven.load(Ordering::Relaxed)
    }

    /// Whether there is a limit to how fast bytes may be sent.
    pub(super) fn is_limited(&self) -> bool {
        self.bandwidth.lock().is_limited()
    }

    /// An ingest thread used `processor`, and is about to use `bytes` that it read. Answers
    /// how long to rest first.
    pub(super) fn may_ingest(&self, processor: Duration, bytes: u64) -> Duration {
        let now = self.now();
        let nanos = u64::try_from(processor.as_nanos()).unwrap_or(u64::MAX);
        let rest = self.processor.lock().take(now, nanos);
        rest.max(self.reading.lock().take(now, bytes))
    }

    /// Notes that the store has `bytes` more of the files' content.
    pub(super) fn note_stored(&self, bytes: u64) {
        self.stored.lock().record(self.now(), bytes);
    }

    /// How much of the files' content the store gets, in bytes per second over the last
    /// while: as content compresses, more than it takes.
    pub(super) fn stored_per_sec(&self) -> u64 {
        self.stored.lock().per_sec(self.now())
    }

    /// How long the store needs for `bytes` more of the files' content; `None` while it takes
    /// nothing.
    pub(super) fn time_left(&self, bytes: u64) -> Option<Duration> {
        self.stored.lock().time_left(self.now(), bytes)
    }

    /// A writer waits for room: for a moment, all that makes room is done at once.
    pub(super) fn press(&self) {
        let until = (self.now() + PRESSED_FOR).as_millis() as u64;
        if self.pressed_until_ms.swap(until, Ordering::SeqCst) < self.now().as_millis() as u64 {
            self.ring();
        }
    }

    /// Whether a writer waits for room, or did a moment ago.
    pub(super) fn is_pressed(&self) -> bool {
        self.pressed_until_ms.load(Ordering::SeqCst) > self.now().as_millis() as u64
    }

    /// From now on, for as long as the answer lives, nothing waits for company.
    pub(super) fn hurry(self: &Arc<Self>) -> Urgent {
        self.urgent.fetch_add(1, Ordering::SeqCst);
        self.ring();
        Urgent(Arc::clone(self))
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.is_awaited() || self.is_pressed()
    }

    /// Whether a caller waits for all that is dirty to be stored.
    pub(super) fn is_awaited(&self) -> bool {
        self.urgent.load(Ordering::SeqCst) > 0
    }

    /// Whether a thread that helps may begin: there is none.
    pub(super) fn begin_help(&self) -> bool {
        !self.helped.swap(true, Ordering::SeqCst)
    }

    /// The thread that helps ends, as nobody waits. Answers whether it has to go on after
    /// all, for somebody who came meanwhile and found it there.
    pub(super) fn end_help(&self) -> bool {
        self.helped.store(false, Ordering::SeqCst);
        self.is_awaited() && !self.is_stopping() && self.begin_help()
    }
}

#[async_trait]
impl Pace for Shared {
    /// Returns also when it is time to stop; then the put itself is given up.
    async fn may_send(&self, bytes: u64) {
        let wait = self.bandwidth.lock().take(self.now(), bytes);
        if !wait.is_zero() {
            self.pause(wait).await;
        }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.urgent.fetch_sub(1, Ordering::SeqCst);
    }
}

//! Slowing writers to what the store takes.
//!
//! Bytes that are not stored can only lie here. Below the soft limit a writer goes at the
//! speed of the disk; the question costs a few loads of memory then. Above it
//! `larder_plan::pace` says how long each write waits. The disk under the cache is watched
//! as well: what is written is subtracted from what was free when it was last asked, so
//! that it is asked rarely as long as there is plenty.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use larder_plan::pace::{Admission, DirtyLimits, Drain, admit_write};

use crate::{Ino, Result, Settings, Volume, VolumeError};

/// How much may be written before the disk is asked again.
const ASK_AGAIN_AFTER: u64 = 64 << 20;
/// A disk with so much to spare has room for whatever is written past this process.
const PLENTY: u64 = 1 << 30;
/// A full disk is given this long to become less full, by eviction: counted from the last time
/// that something was stored or dropped, as long as somebody waits.
const EVICTION_TIME: Duration = Duration::from_secs(10);
/// A disk counts as full for so long after somebody had to wait for room on it.
const STAYS_FULL: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What is known for the fast question.
#[derive(Debug)]
pub(super) struct Throttle {
    limits: DirtyLimits,
    keep_free: u64,
    /// How many bytes may be written before the disk is asked how much is free.
    unasked: AtomicU64,
    /// When bytes were last acknowledged, in milliseconds of the workers' time.
    drained_ms: AtomicU64,
    /// When content was last dropped, in the same time.
    freed_ms: AtomicU64,
    /// When writers wait for the budget again, after they waited in vain.
    patient_again_ms: AtomicU64,
    /// When somebody last waited for room on the disk; 0: nobody ever did.
    full_ms: AtomicU64,
}

impl Throttle {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            limits: DirtyLimits {
                soft_bytes: settings.dirty_soft_bytes,
                hard_bytes: settings.dirty_hard_bytes,
                stall: settings.dirty_stall,
            },
            keep_free: settings.keep_free_bytes,
            unasked: AtomicU64::new(0),
            drained_ms: AtomicU64::new(0),
            freed_ms: AtomicU64::new(0),
            patient_again_ms: AtomicU64::new(0),
            full_ms: AtomicU64::new(0),
        }
    }

    /// The store acknowledged bytes.
    pub(super) fn note_drain(&self, now: Duration) {
        self.drained_ms
            .store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// Content was dropped.
    fn note_freed(&self, now: Duration) {
        self.freed_ms
            .store(now.as_millis() as u64, Ordering::Relaxed);
    }

    /// For how long nothing drained.
    fn idle(&self, now: Duration) -> Duration {
        since(now, &self.drained_ms)
    }

    /// For how long nothing happened that makes room on the disk.
    fn roomless(&self, now: Duration) -> Duration {
        self.idle(now).min(since(now, &self.freed_ms))
    }

    /// Somebody waits for room on the disk. Answers whether that is news: each of a thousand
    /// writers may have to wait a moment.
    fn note_full(&self, now: Duration) -> bool {
        let now = now.as_millis() as u64 + 1;
        let before = self.full_ms.swap(now, Ordering::Relaxed);
        before == 0 || now.saturating_sub(before) > STAYS_FULL.as_millis() as u64
    }

    /// Takes `len` off what may be written unasked; false if it is used up.
    fn pass(&self, len: u64) -> bool {
        self.unasked
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(len)
            })
            .is_ok()
    }
}

fn since(now: Duration, then_ms: &AtomicU64) -> Duration {
    now.saturating_sub(Duration::from_millis(then_ms.load(Ordering::Relaxed)))
}

impl Volume {
    /// Whoever waits for room on the disk is told that content was dropped.
    pub(crate) fn note_freed(&self) {
        self.push.throttle.note_freed(self.push.shared.now());
    }

    /// Whether there is so much room that a file may be written past this process, where
    /// nothing slows the writer down: within the limits, and on the disk. The disk is asked
    /// each time, as nobody counts what is written so; that takes a microsecond or two.
    pub(crate) fn has_room_to_write(&self) -> bool {
        let half = self.push.throttle.limits.soft_bytes / 2;
        self.live.dirty_bytes() < half
            && self.live.here_bytes() < self.settings.budget_bytes
            && self.disk_has_plenty(half)
    }

    /// Whether the disk has room for as much as may become dirty unseen, `most` bytes.
    fn disk_has_plenty(&self, most: u64) -> bool {
        let throttle = &self.push.throttle;
        let Ok(free) = self.disk_free() else {
            return false;
        };
        let above = free.saturating_sub(throttle.keep_free);
        throttle.unasked.fetch_min(above, Ordering::Relaxed);
        above >= most.min(PLENTY)
    }

    /// Waits, a moment, until what is here is within the budget: what was stored just now
    /// goes as soon as a commit holds it. What cannot go, because it is pinned or open,
    /// does not hold writers up for long.
    fn wait_for_budget(&self, len: u64) {
        let (throttle, shared) = (&self.push.throttle, &self.push.shared);
        let over = || self.live.here_bytes().saturating_add(len) > self.settings.budget_bytes;
        let patient_again = throttle.patient_again_ms.load(Ordering::Relaxed);
        let began = shared.now();
        if !over() || (began.as_millis() as u64) < patient_again {
            return;
        }
        while over() && !self.is_stopping() {
            shared.press();
            crate::pull::make_room_soon(self);
            std::thread::sleep(LOOK_INTERVAL);
            let now = shared.now();
            if now.saturating_sub(began) > EVICTION_TIME {
                let next = (now + EVICTION_TIME).as_millis() as u64;
                throttle.patient_again_ms.store(next, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Whether a writer waits for room, or did a moment ago.
    pub(crate) fn is_pressed(&self) -> bool {
        self.push.shared.is_pressed()
    }

    /// Whether [`Volume::throttle_write`] might wait, or has to ask the disk: then it is not
    /// for a thread that must not. A few loads of memory. If it says no, `len` is counted as
    /// written.
    pub(crate) fn write_may_wait(&self, len: u64) -> bool {
        let throttle = &self.push.throttle;
        self.live.dirty_bytes().saturating_add(len) > throttle.limits.soft_bytes
            || self.live.here_bytes().saturating_add(len) > self.settings.budget_bytes
            || !throttle.pass(len)
    }

    /// Lets a writer of `range` go on at the rate at which the store takes content. What
    /// only overwrites dirty bytes adds none, and goes on at once. Call it from a worker
    /// thread, with no lock held.
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`] if nothing drained for a while, or the disk is full.
    pub(crate) fn throttle_write(&self, ino: Ino, range: &Range<u64>) -> Result<()> {
        let len = range.end.saturating_sub(range.start);
        self.wait_for_disk(len)?;
        self.wait_for_budget(len);
        let (throttle, shared) = (&self.push.throttle, &self.push.shared);
        let mut first_refused = None;
        loop {
            if self.is_stopping() {
                return Err(VolumeError::Stopping);
            }
            let now = shared.now();
            // Not before this writer has waited itself: the store may just have been idle
            // because there was nothing to take.
            let waited = first_refused.map_or(Duration::ZERO, |at| now.saturating_sub(at));
            let drain = Drain {
                bytes_per_sec: shared.stored_per_sec(),
                idle: throttle.idle(now).min(waited),
            };
            let dirty = self.live.dirty_bytes();
            if !self.live.would_grow(ino, range.end) {
                return Ok(());
            }
            match admit_write(throttle.limits, dirty, len, drain) {
                Admission::Now => return Ok(()),
                Admission::After(wait) => {
                    shared.press();
                    std::thread::sleep(wait);
                    return Ok(());
                }
                Admission::AskAgain(wait) => {
                    shared.press();
                    first_refused.get_or_insert(now);
                    std::thread::sleep(wait);
                }
                Admission::Full => return Err(self.no_drain(dirty)),
            }
        }
    }

    fn no_drain(&self, dirty: u64) -> VolumeError {
        let why = self.push_status();
        let why = why.warnings.into_iter().next().or(why.last_error);
        VolumeError::NoSpace(format!(
            "{dirty} bytes wait to be stored, and nothing was stored for {} s{}",
            self.push.throttle.limits.stall.as_secs(),
            why.map(|why| format!(" ({why})")).unwrap_or_default()
        ))
    }

    /// Waits, a moment, until the disk under the cache has room for `len` bytes.
    fn wait_for_disk(&self, len: u64) -> Result<()> {
        let throttle = &self.push.throttle;
        if throttle.pass(len) {
            return Ok(());
        }
        let began = Instant::now();
        let mut first = true;
        loop {
            let free = self.disk_free()?;
            let above = free.saturating_sub(throttle.keep_free);
            if let Some(left) = above.checked_sub(len) {
                throttle
                    .unasked
                    .store(left.min(ASK_AGAIN_AFTER), Ordering::Relaxed);
                return Ok(());
            }
            if self.is_stopping() {
                return Err(VolumeError::Stopping);
            }
            self.push.shared.press();
            let hopeless = throttle.roomless(self.push.shared.now());
            if began.elapsed().min(hopeless) >= self.eviction_time() {
                return Err(VolumeError::NoSpace(format!(
                    "the disk under the cache has {free} bytes left, and {} stay free",
                    throttle.keep_free
                )));
            }
            let is_news = throttle.note_full(self.push.shared.now());
            if is_news {
                tracing::warn!(free, "the disk under the cache is full");
            }
            if std::mem::take(&mut first) {
                // Perhaps that is all it needs.
                self.db.empty_log()?;
                continue;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }

    /// How long nothing may happen before the disk is full for good: what the store took and did not sync stays
    /// here until it was looked at twice.
    fn eviction_time(&self) -> Duration {
        match self.push.shared.is_unproven() {
            true => EVICTION_TIME + self.settings.proof_delay * 4,
            false => EVICTION_TIME.min(self.push.throttle.limits.stall),
        }
    }

    fn disk_free(&self) -> Result<u64> {
        let root = self.cache.root();
        let disk =
            rustix::fs::statvfs(root).map_err(|error| VolumeError::io(root, error.into()))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_once_until_it_passed() {
        let throttle = Throttle::new(&Settings::for_budget(1 << 30));
        let told = [0, 1, 59, 100, 161, 162].map(|secs| {
            let now = Duration::from_secs(secs);
            throttle.note_full(now)
        });
        assert_eq!(told, [true, false, false, false, true, false]);
    }

    #[test]
    fn what_is_stored_or_dropped_lets_a_writer_hope_for_room() {
        let throttle = Throttle::new(&Settings::for_budget(1 << 30));
        let secs = Duration::from_secs;
        assert_eq!(throttle.roomless(secs(9)), secs(9));
        throttle.note_drain(secs(9));
        assert_eq!(throttle.roomless(secs(12)), secs(3));
        throttle.note_freed(secs(11));
        assert_eq!(throttle.roomless(secs(12)), secs(1));
        // What was dropped is no reason to wait for the dirty limit.
        assert_eq!(throttle.idle(secs(12)), secs(3));
    }
}

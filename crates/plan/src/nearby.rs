//! Whom to ask for content that others nearby may have: them, or the store.
//!
//! [`Speed`] is what is known of one of them: how long a bare answer takes, and how fast bytes come
//! after that. [`first`] compares two expectations. Whoever is likely to be faster is asked first;
//! the patience with others nearby is never longer than what the store would have taken, and never
//! longer than half a second, so a reader whom they keep waiting loses no more than that.

use std::time::Duration;

/// What is assumed of one who was never asked.
const ROUND_TRIP: Duration = Duration::from_millis(20);
const BYTES_PER_SEC: f64 = (16 << 20) as f64;
/// Answers of fewer bytes tell nothing of how fast bytes come.
const TELLING_BYTES: u64 = 64 << 10;
/// The weight of the newest answer.
const NEWEST: f64 = 0.25;
/// Waits shorter than a scheduler's moment decide nothing.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(20);
/// So long at most somebody waits for others nearby while the store could be asked.
pub const LONGEST_PATIENCE: Duration = Duration::from_millis(500);
const LONGEST_ROUND_TRIP: Duration = Duration::from_secs(60);
const SLOWEST_BYTES_PER_SEC: f64 = 1024.0;

/// How fast one answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speed {
    round_trip: Option<Duration>,
    bytes_per_sec: Option<f64>,
}

impl Speed {
    /// Of one who was never asked. `round_trip`, if something is known of it.
    pub const fn unknown(round_trip: Option<Duration>) -> Self {
        Self {
            round_trip,
            bytes_per_sec: None,
        }
    }

    /// An answer of `bytes` took so long.
    pub fn record(&mut self, bytes: u64, took: Duration) {
        // The fastest answer is the nearest to a bare one; what is known drifts up slowly.
        let known = self.round_trip.unwrap_or(took);
        self.round_trip = Some(took.min(known + known / 16));
        if bytes < TELLING_BYTES {
            return;
        }
        let moving = took.saturating_sub(known.min(took / 2)).as_secs_f64();
        let rate = bytes as f64 / moving.max(1e-6);
        let known = self.bytes_per_sec.unwrap_or(rate);
        self.bytes_per_sec = Some(known * (1.0 - NEWEST) + rate * NEWEST);
    }

    /// It kept somebody waiting for too long: until it was faster again it counts as half as fast.
    pub fn missed(&mut self) {
        let doubled = self.round_trip.unwrap_or(ROUND_TRIP).saturating_mul(2);
        self.round_trip = Some(doubled.min(LONGEST_ROUND_TRIP));
        let rate = self.bytes_per_sec.unwrap_or(BYTES_PER_SEC) / 2.0;
        self.bytes_per_sec = Some(rate.max(SLOWEST_BYTES_PER_SEC));
    }

    /// How long an answer of `bytes` is likely to take.
    pub fn expect(&self, bytes: u64) -> Duration {
        let rate = self.bytes_per_sec.unwrap_or(BYTES_PER_SEC);
        let moving = Duration::from_secs_f64(bytes as f64 / rate.max(SLOWEST_BYTES_PER_SEC));
        self.round_trip.unwrap_or(ROUND_TRIP).saturating_add(moving)
    }
}

/// Who is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// The store alone.
    Store,
    /// Others nearby, and the store for what did not come by then. `None`: there is no better
    /// choice, so as long as the reader waits.
    Nearby(Option<Duration>),
}

/// Who is asked first, by how long each is likely to take; `None`: nobody is there, or the store
/// does not answer.
pub fn first(nearby: Option<Duration>, store: Option<Duration>) -> First {
    match (nearby, store) {
        (None, _) => First::Store,
        (Some(_), None) => First::Nearby(None),
        (Some(nearby), Some(store)) if nearby < store => {
            let patience = nearby.saturating_mul(3).min(store);
            First::Nearby(Some(patience.clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)))
        }
        (Some(_), Some(_)) => First::Store,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_faster_one_is_asked_first_and_not_waited_for_longer_than_the_other() {
        assert_eq!(first(None, Some(ms(100))), First::Store);
        assert_eq!(first(Some(ms(100)), Some(ms(50))), First::Store);
        assert_eq!(
            first(Some(ms(10)), Some(ms(100))),
            First::Nearby(Some(ms(30)))
        );
        assert_eq!(
            first(Some(ms(80)), Some(ms(100))),
            First::Nearby(Some(ms(100)))
        );
        assert_eq!(first(Some(ms(1)), Some(ms(2))), First::Nearby(Some(ms(20))));
        assert_eq!(
            first(Some(ms(900)), Some(ms(5000))),
            First::Nearby(Some(ms(500)))
        );
        assert_eq!(first(Some(ms(900)), None), First::Nearby(None));
    }

    #[test]
    fn what_was_measured_is_expected() {
        let mut speed = Speed::unknown(None);
        for _ in 0..50 {
            speed.record(100, ms(10));
            speed.record(1 << 20, ms(110));
        }
        assert!((ms(9)..ms(12)).contains(&speed.expect(0)), "{speed:?}");
        let whole = speed.expect(10 << 20);
        assert!((ms(900)..ms(1200)).contains(&whole), "{whole:?}");
    }

    #[test]
    fn who_kept_others_waiting_is_asked_less_until_it_is_fast_again() {
        let mut speed = Speed::unknown(Some(ms(1)));
        speed.record(1 << 20, ms(11));
        let before = speed.expect(1 << 20);
        speed.missed();
        assert!(speed.expect(1 << 20) >= before * 2 - ms(1));
        for _ in 0..200 {
            speed.missed();
        }
        assert!(speed.expect(u64::MAX >> 20) > before);
        for _ in 0..50 {
            speed.record(1 << 20, ms(11));
        }
        assert!(speed.expect(1 << 20) < before * 2, "{speed:?}");
    }
}

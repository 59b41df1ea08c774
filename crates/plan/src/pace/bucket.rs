//! A rate that is held on the long run, with short bursts allowed.
//!
//! The bucket keeps one number: when it will have caught up. Each taking moves that
//! further into the future; a pause lets it fall behind, by at most one burst.

use std::time::Duration;

/// Holds a rate of any unit: bytes, requests, nanoseconds of a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Units per second; `None`: no limit.
    per_sec: Option<u64>,
    burst: u64,
    /// When all that was taken is paid for.
    paid_at: Duration,
}

impl TokenBucket {
    /// `per_sec` units each second (`None`: no limit; 0 counts as 1), and up to `burst`
    /// units at once after a pause.
    pub fn new(per_sec: Option<u64>, burst: u64) -> Self {
        Self {
            per_sec: per_sec.map(|rate| rate.max(1)),
            burst,
            paid_at: Duration::ZERO,
        }
    }

    /// Whether there is a rate to hold.
    pub fn is_limited(&self) -> bool {
        self.per_sec.is_some()
    }

    /// Takes `units`, and says how long to wait before they are used. More than a burst
    /// may be taken at once; the wait is so much longer.
    pub fn take(&mut self, now: Duration, units: u64) -> Duration {
        let Some(per_sec) = self.per_sec else {
            return Duration::ZERO;
        };
        let earliest = now.saturating_sub(time_of(self.burst, per_sec));
        self.paid_at = self
            .paid_at
            .max(earliest)
            .saturating_add(time_of(units, per_sec));
        self.paid_at.saturating_sub(now)
    }
}

fn time_of(units: u64, per_sec: u64) -> Duration {
    let nanos = u128::from(units) * 1_000_000_000 / u128::from(per_sec);
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut bucket = TokenBucket::new(None, 0);
        assert_eq!(bucket.take(Duration::ZERO, u64::MAX), Duration::ZERO);
    }

    #[test]
    fn a_pause_is_worth_one_burst_and_no_more() {
        let mut bucket = TokenBucket::new(Some(100), 50);
        let later = Duration::from_secs(3600);
        assert_eq!(bucket.take(later, 50), Duration::ZERO);
        assert_eq!(bucket.take(later, 100), Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn the_rate_is_held_and_used(
            rate in 1..1_000_000u64, burst in 0..100_000u64,
            takes in prop::collection::vec(1..10_000u64, 1..200),
        ) {
            let mut bucket = TokenBucket::new(Some(rate), burst);
            let start = Duration::from_secs(1_000_000);
            let (mut now, mut taken) = (start, 0);
            for units in takes {
                now += bucket.take(now, units);
                taken += units;
                let seconds = (now - start).as_secs_f64();
                // Each taking may round down by a nanosecond.
                let allowed = burst as f64 + rate as f64 * (seconds + 1e-6);
                prop_assert!(taken as f64 <= allowed + 1.0, "{taken} in {seconds}s");
            }
            let seconds = (now - start).as_secs_f64();
            prop_assert!(seconds <= taken as f64 / rate as f64 + 1e-6);
        }
    }
}

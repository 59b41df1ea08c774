//! A rate over the last while, and the time that the rest takes.
//!
//! The window is cut into a few slices, each with what was done in it; slices that fell
//! out of the window no longer count. So the memory is fixed, a burst long ago does not
//! flatter, and a stall shows after one window.

use std::time::Duration;

const SLICES: usize = 16;

/// Measures how fast something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meter {
    slice: Duration,
    /// What was done in each slice; the slice with number `n` lies at `n % SLICES`.
    done: [u64; SLICES],
    newest: u64,
    /// When the first thing was recorded.
    started: Option<Duration>,
}

impl Meter {
    /// Measures over the last `window`.
    pub fn new(window: Duration) -> Self {
        let slice = (window / SLICES as u32).max(Duration::from_millis(1));
        Self {
            slice,
            done: [0; SLICES],
            newest: 0,
            started: None,
        }
    }

    /// Work begins: from here on, time counts even if nothing is done.
    pub fn start(&mut self, now: Duration) {
        self.started.get_or_insert(now);
    }

    /// `amount` was done, and finished now.
    pub fn record(&mut self, now: Duration, amount: u64) {
        self.start(now);
        self.advance(now);
        let slot = &mut self.done[(self.newest % SLICES as u64) as usize];
        *slot = slot.saturating_add(amount);
    }

    /// What is done in a second, over the window or since the start if that is shorter.
    pub fn per_sec(&mut self, now: Duration) -> u64 {
        let Some(started) = self.started else {
            return 0;
        };
        self.advance(now);
        let into_newest = now.saturating_sub(self.time_of(self.newest));
        let covered = self.slice * (SLICES as u32 - 1) + into_newest.min(self.slice);
        let span = covered.min(now.saturating_sub(started)).max(self.slice);
        let done: u128 = self.done.iter().map(|n| u128::from(*n)).sum();
        u64::try_from(done * 1_000_000_000 / span.as_nanos().max(1)).unwrap_or(u64::MAX)
    }

    /// How long `left` more takes at this rate; `None` while nothing moves.
    pub fn time_left(&mut self, now: Duration, left: u64) -> Option<Duration> {
        if left == 0 {
            return Some(Duration::ZERO);
        }
        match self.per_sec(now) {
            0 => None,
            rate => Some(Duration::from_secs(left.div_ceil(rate))),
        }
    }

    fn time_of(&self, slice: u64) -> Duration {
        let nanos = self.slice.as_nanos() * u128::from(slice);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn advance(&mut self, now: Duration) {
        let number = now.as_nanos() / self.slice.as_nanos().max(1);
        let number = u64::try_from(number).unwrap_or(u64::MAX);
        let passed = number.saturating_sub(self.newest).min(SLICES as u64);
        for back in 0..passed {
            self.done[((number - back) % SLICES as u64) as usize] = 0;
        }
        self.newest = self.newest.max(number);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(16);

    #[test]
    fn a_steady_rate_is_shown_as_it_is() {
        let mut meter = Meter::new(WINDOW);
        for turn in 0..400u32 {
            meter.record(Duration::from_millis(100) * turn, 1000);
        }
        let rate = meter.per_sec(Duration::from_secs(40));
        assert!((9_000..=11_000).contains(&rate), "{rate}");
    }

    #[test]
    fn a_stall_shows_within_a_window() {
        let mut meter = Meter::new(WINDOW);
        for second in 0..100 {
            meter.record(Duration::from_secs(second), 1_000_000);
        }
        assert!(
            meter
                .time_left(Duration::from_secs(100), 5_000_000)
                .is_some()
        );
        assert_eq!(meter.time_left(Duration::from_secs(120), 5_000_000), None);
    }

    #[test]
    fn a_fresh_start_is_not_diluted_by_time_before_it() {
        let mut meter = Meter::new(WINDOW);
        meter.start(Duration::from_secs(1000));
        meter.record(Duration::from_secs(1002), 20);
        assert_eq!(meter.per_sec(Duration::from_secs(1002)), 10);
    }

    #[test]
    fn nothing_left_takes_no_time() {
        assert_eq!(
            Meter::new(WINDOW).time_left(WINDOW, 0),
            Some(Duration::ZERO)
        );
    }

    proptest! {
        /// The rate is never above what a window's work could have been.
        #[test]
        fn a_meter_does_not_flatter(steps in prop::collection::vec((0..5_000u64, 0..1000u64), 1..200)) {
            let mut meter = Meter::new(WINDOW);
            let mut now = Duration::from_secs(1000);
            meter.start(now);
            let (begin, mut total) = (now, 0);
            for (millis, amount) in steps {
                now += Duration::from_millis(millis);
                meter.record(now, amount);
                total += amount;
                let span = (now - begin).clamp(WINDOW / 16, WINDOW * 15 / 16);
                let most = total as f64 / span.as_secs_f64();
                prop_assert!(meter.per_sec(now) as f64 <= most + 1.0);
            }
        }
    }
}

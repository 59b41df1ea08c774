//! The dirty limit.
//!
//! Bytes that no store has yet can only lie here. Below the soft limit a writer goes at
//! the speed of the disk. Between the limits each write waits a growing part of the time
//! that the stores need for as many bytes, so that writers approach the rate of the
//! stores without a jump. At the hard limit a writer waits until something drained. Only
//! when nothing drained for a while is the disk called full: then waiting would be a hang.

use std::time::Duration;

/// When writers are slowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyLimits {
    /// Up to here nobody waits, in bytes.
    pub soft_bytes: u64,
    /// Dirty bytes never exceed this.
    pub hard_bytes: u64,
    /// At the hard limit: nothing drained for so long means full.
    pub stall: Duration,
}

/// How the stores take dirty bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    /// The rate, in bytes per second; 0 if nothing drained lately.
    pub bytes_per_sec: u64,
    /// How long ago the last bytes became clean (or the first ones dirty, if later).
    pub idle: Duration,
}

/// What a writer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Write.
    Now,
    /// Wait this long, then write.
    After(Duration),
    /// Wait this long, then ask again.
    AskAgain(Duration),
    /// There is no space: `ENOSPC`.
    Full,
}

/// No single write is held longer than this before it asks again or goes on, so that a
/// signal or an unmount is noticed, and a store that got faster as well.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
const SHORTEST_WAIT: Duration = Duration::from_millis(5);

/// Whether `len` more bytes may become dirty while `dirty` are.
pub fn admit_write(limits: DirtyLimits, dirty: u64, len: u64, drain: Drain) -> Admission {
    let after = dirty.saturating_add(len);
    // One write that is larger than the limit must not wait for ever: it goes alone.
    if after > limits.hard_bytes && dirty > 0 {
        return at_the_wall(limits, after - limits.hard_bytes, drain);
    }
    if after <= limits.soft_bytes || drain.bytes_per_sec == 0 {
        return Admission::Now;
    }
    let slope = limits.hard_bytes.saturating_sub(limits.soft_bytes).max(1);
    let above = (after - limits.soft_bytes).min(slope);
    let nanos = nanos_for(len, drain.bytes_per_sec) * u128::from(above) / u128::from(slope);
    let wait = duration(nanos).min(LONGEST_WAIT);
    if wait.is_zero() {
        Admission::Now
    } else {
        Admission::After(wait)
    }
}

fn at_the_wall(limits: DirtyLimits, excess: u64, drain: Drain) -> Admission {
    if drain.idle >= limits.stall {
        return Admission::Full;
    }
    let nanos = match drain.bytes_per_sec {
        0 => LONGEST_WAIT.as_nanos(),
        rate => nanos_for(excess, rate),
    };
    Admission::AskAgain(duration(nanos).clamp(SHORTEST_WAIT, LONGEST_WAIT))
}

fn nanos_for(bytes: u64, bytes_per_sec: u64) -> u128 {
    u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_sec.max(1))
}

fn duration(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;
    const LIMITS: DirtyLimits = DirtyLimits {
        soft_bytes: 500 * MB,
        hard_bytes: 1000 * MB,
        stall: Duration::from_secs(60),
    };

    /// Writes `total` bytes at the disk's 1 GB/s against a store that takes `rate`: how
    /// long it takes, and the most that was ever dirty.
    fn copy_in(total: u64, rate: u64) -> (Duration, u64) {
        let (mut now, mut dirty, mut most, mut written) = (Duration::ZERO, 0u64, 0, 0);
        let drain = Drain {
            bytes_per_sec: rate,
            idle: Duration::ZERO,
        };
        while written < total {
            let pause = match admit_write(LIMITS, dirty, MB, drain) {
                Admission::Now | Admission::After(_) if dirty + MB > LIMITS.hard_bytes => {
                    panic!("over the limit")
                }
                Admission::Now => Duration::ZERO,
                Admission::After(wait) => wait,
                Admission::AskAgain(wait) => {
                    now += wait;
                    dirty = dirty.saturating_sub(drained(wait, rate));
                    continue;
                }
                Admission::Full => panic!("full, though the store drains"),
            };
            let step = pause + Duration::from_millis(1);
            now += step;
            dirty = dirty.saturating_sub(drained(step, rate)) + MB;
            written += MB;
            most = most.max(dirty);
        }
        (now, most)
    }

    fn drained(step: Duration, rate: u64) -> u64 {
        u64::try_from(step.as_nanos() * u128::from(rate) / 1_000_000_000).unwrap()
    }

    #[test]
    fn much_more_than_fits_is_copied_in_at_the_rate_of_the_store() {
        let (took, most) = copy_in(10_000 * MB, 50 * MB);
        assert!(most <= LIMITS.hard_bytes);
        // What is left dirty at the end need not have been waited for.
        let least = Duration::from_secs((10_000 - 1000) / 50);
        assert!(
            took >= least && took < least + Duration::from_secs(20),
            "{took:?}"
        );
    }

    #[test]
    fn what_fits_below_the_soft_limit_goes_at_the_speed_of_the_disk() {
        let (took, _) = copy_in(400 * MB, MB);
        assert_eq!(took, Duration::from_millis(400));
    }

    #[test]
    fn the_disk_is_full_only_when_nothing_drained_for_a_while() {
        let idle = |secs| Drain {
            bytes_per_sec: 0,
            idle: Duration::from_secs(secs),
        };
        let at_limit = LIMITS.hard_bytes;
        assert!(matches!(
            admit_write(LIMITS, at_limit, 1, idle(59)),
            Admission::AskAgain(_)
        ));
        assert_eq!(admit_write(LIMITS, at_limit, 1, idle(60)), Admission::Full);
        assert_eq!(
            admit_write(LIMITS, at_limit - 1, 1, idle(9999)),
            Admission::Now
        );
    }

    #[test]
    fn a_write_longer_than_the_limit_goes_alone() {
        let drain = Drain {
            bytes_per_sec: MB,
            idle: Duration::from_secs(999),
        };
        assert_ne!(admit_write(LIMITS, 0, 5000 * MB, drain), Admission::Full);
    }

    proptest! {
        #[test]
        fn no_writer_is_held_long_or_let_over_the_limit(
            dirty in 0..2000 * MB, len in 1..2 * MB, rate in 0..2000 * MB, idle in 0..100u64,
        ) {
            let drain = Drain { bytes_per_sec: rate, idle: Duration::from_secs(idle) };
            match admit_write(LIMITS, dirty, len, drain) {
                Admission::Now => prop_assert!(dirty + len <= LIMITS.hard_bytes),
                Admission::After(wait) => {
                    prop_assert!(wait <= LONGEST_WAIT);
                    prop_assert!(dirty + len <= LIMITS.hard_bytes);
                    prop_assert!(dirty + len > LIMITS.soft_bytes);
                }
                Admission::AskAgain(wait) => {
                    prop_assert!(wait <= LONGEST_WAIT && !wait.is_zero());
                    prop_assert!(dirty + len > LIMITS.hard_bytes);
                }
                Admission::Full => prop_assert!(drain.idle >= LIMITS.stall),
            }
        }
    }
}

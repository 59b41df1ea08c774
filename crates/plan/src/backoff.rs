//! When to try a store again, and how long a reader waits for it.
//!
//! [`Backoff`] spaces the tries: each failure in a row doubles the wait up to a cap, and
//! a part of it is random, so that many replicas do not come back in step. [`Circuit`]
//! knows whether a store is up. While it is down one probe at a time asks it, and readers
//! are told at once instead of waiting each for a time-out of their own.

use std::time::Duration;

/// How the waits between tries grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    /// No wait is longer.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            cap: Duration::from_secs(300),
        }
    }
}

impl Backoff {
    /// The wait after `failures` failures in a row: none after none, else between half
    /// and the whole of `first * 2^(failures - 1)`, or of the cap. `random` is any number,
    /// evenly drawn from all of `u64`.
    pub fn delay(&self, failures: u32, random: u64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let whole = self.first.saturating_mul(factor).min(self.cap);
        let nanos = whole.as_nanos();
        let jitter = (nanos / 2) * u128::from(random) / u128::from(u64::MAX);
        whole - Duration::from_nanos(u64::try_from(jitter).unwrap_or(0))
    }
}

/// What is known of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Up,
    /// It failed several times in a row; the next probe is due at `probe_at`.
    Down {
        /// When it stopped answering.
        since: Duration,
        /// When it is asked again.
        probe_at: Duration,
    },
    /// It was down, and one try is under way.
    Probing {
        /// When it stopped answering.
        since: Duration,
    },
}

/// What someone who wants to use the store is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Go, and report how it went.
    Go,
    /// Go: you are the one probe. Report how it went, whatever happens.
    Probe,
    /// The store is down; ask again after this time.
    After(Duration),
}

/// The settings of a [`Circuit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitRules {
    /// The waits between probes.
    pub backoff: Backoff,
    /// So many failures in a row mean down.
    pub trip_after: u32,
    /// How long a reader waits for a store that is up, retries included.
    pub reader_patience: Duration,
    /// How long a reader waits for a store that is known to be down, if a probe may yet
    /// bring it back within that time.
    pub reader_grace: Duration,
}

impl Default for CircuitRules {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            trip_after: 3,
            reader_patience: Duration::from_secs(30),
            reader_grace: Duration::from_secs(2),
        }
    }
}

/// Whether a store is worth asking. Times are since any fixed instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Circuit {
    rules: CircuitRules,
    health: Health,
    failures: u32,
}

impl Circuit {
    /// A store of which nothing bad is known.
    pub fn new(rules: CircuitRules) -> Self {
        Self {
            rules,
            health: Health::Up,
            failures: 0,
        }
    }

    /// What is known of the store.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Someone wants to ask the store.
    pub fn admit(&mut self, now: Duration) -> Admit {
        match self.health {
            Health::Up => Admit::Go,
            Health::Down { since, probe_at } if now >= probe_at => {
                self.health = Health::Probing { since };
                Admit::Probe
            }
            Health::Down { probe_at, .. } => Admit::After(probe_at - now),
            Health::Probing { .. } => Admit::After(self.rules.backoff.first),
        }
    }

    /// The store answered; an answer of "absent" is one.
    pub fn succeeded(&mut self) {
        self.health = Health::Up;
        self.failures = 0;
    }

    /// The store did not answer. Answers how long to wait before this request is tried
    /// again. `random` as in [`Backoff::delay`].
    pub fn failed(&mut self, now: Duration, random: u64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let delay = self.rules.backoff.delay(self.failures, random);
        let probe_at = now.saturating_add(delay);
        match self.health {
            Health::Up if self.failures < self.rules.trip_after => {}
            Health::Up => {
                self.health = Health::Down {
                    since: now,
                    probe_at,
                }
            }
            // A request that was under way when the store went down says nothing new.
            Health::Down { .. } => {}
            Health::Probing { since } => self.health = Health::Down { since, probe_at },
        }
        delay
    }

    /// How long a reader that started waiting just now may wait for content, before it is
    /// told that the store cannot be reached; zero: tell it at once.
    pub fn reader_wait(&self, now: Duration) -> Duration {
        match self.health {
            Health::Up => self.rules.reader_patience,
            Health::Probing { .. } => self.rules.reader_grace,
            Health::Down { probe_at, .. } => {
                let soon = probe_at.saturating_sub(now) < self.rules.reader_grace;
                if soon {
                    self.rules.reader_grace
                } else {
                    Duration::ZERO
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tripped() -> Circuit {
        let mut circuit = Circuit::new(CircuitRules::default());
        for _ in 0..12 {
            circuit.failed(SECOND, 0);
        }
        // The wait of the last failure counts from the first probe on.
        assert_eq!(circuit.admit(100 * SECOND), Admit::Probe);
        circuit.failed(100 * SECOND, 0);
        circuit
    }

    #[test]
    fn a_reader_of_a_store_that_is_down_is_told_at_once() {
        assert_eq!(tripped().reader_wait(101 * SECOND), Duration::ZERO);
        let up = Circuit::new(CircuitRules::default());
        assert_eq!(
            up.reader_wait(SECOND),
            CircuitRules::default().reader_patience
        );
    }

    #[test]
    fn one_failure_is_not_an_outage() {
        let mut circuit = Circuit::new(CircuitRules::default());
        circuit.failed(SECOND, 7);
        circuit.failed(SECOND, 7);
        assert_eq!(circuit.health(), Health::Up);
        circuit.failed(SECOND, 7);
        assert!(matches!(circuit.health(), Health::Down { .. }));
    }

    #[test]
    fn only_one_probe_at_a_time_asks_a_store_that_is_down() {
        let mut circuit = tripped();
        assert!(matches!(circuit.admit(101 * SECOND), Admit::After(_)));
        assert_eq!(circuit.admit(1000 * SECOND), Admit::Probe);
        assert!(matches!(circuit.admit(1000 * SECOND), Admit::After(_)));
        circuit.succeeded();
        assert_eq!(circuit.admit(1000 * SECOND), Admit::Go);
    }

    #[test]
    fn an_outage_is_dated_from_its_start() {
        let mut circuit = tripped();
        let Health::Down { since, .. } = circuit.health() else {
            panic!("{circuit:?}")
        };
        circuit.admit(5000 * SECOND);
        circuit.failed(5030 * SECOND, 1);
        assert!(matches!(circuit.health(), Health::Down { since: s, .. } if s == since));
    }

    proptest! {
        #[test]
        fn waits_grow_up_to_the_cap(failures in 0..200u32, random: u64) {
            let backoff = Backoff::default();
            let delay = backoff.delay(failures, random);
            prop_assert!(delay <= backoff.cap);
            if failures > 0 {
                prop_assert!(delay >= backoff.first / 2);
                prop_assert!(delay <= backoff.delay(failures + 1, 0));
            }
            if failures > 20 {
                prop_assert!(delay >= backoff.cap / 2);
            }
        }

        /// Whatever the order of events, a store that answers again is found again.
        #[test]
        fn a_store_is_never_given_up(events in prop::collection::vec((0..3u8, 0..400u64, any::<u64>()), 0..100)) {
            let mut circuit = Circuit::new(CircuitRules::default());
            let mut now = Duration::ZERO;
            let mut probing = false;
            for (event, secs, random) in events {
                now += Duration::from_secs(secs);
                match event {
                    0 if circuit.admit(now) == Admit::Probe => probing = true,
                    1 => {
                        circuit.failed(now, random);
                        probing = false;
                    }
                    2 => {
                        circuit.succeeded();
                        probing = false;
                    }
                    _ => {}
                }
            }
            if probing {
                circuit.failed(now, 0);
            }
            let later = now + CircuitRules::default().backoff.cap;
            prop_assert!(matches!(circuit.admit(later), Admit::Go | Admit::Probe));
        }
    }
}

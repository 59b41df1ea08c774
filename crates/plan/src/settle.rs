//! When a dirty file is stored, and when a commit is made.
//!
//! A file is stored when its writer seems to be done: nobody has it open for writing and
//! it was quiet for a moment, longer for a large file, as it costs more to store it
//! again. A file that stays open (a database, a disk image, a log) is stored from time to
//! time all the same. A commit gathers what was stored: after a few seconds, at once when
//! nothing more is under way, and at the latest after so many nodes of a large import.

use std::time::Duration;

/// Whether it is time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Yes.
    Now,
    /// Ask again after this long, if nothing changes before.
    In(Duration),
    /// There is nothing to do.
    Never,
}

/// When dirty files are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettleRules {
    /// How long a small file is left alone after its last write.
    pub quiet: Duration,
    /// The same for the largest files; in between it grows with each doubling of the size.
    pub longest_quiet: Duration,
    /// A file that is still open for writing is stored when it was dirty for so long and
    /// was quiet for a moment...
    pub open: Duration,
    /// ...and whether it was quiet or not when it was dirty for so long.
    pub open_and_busy: Duration,
}

impl Default for SettleRules {
    fn default() -> Self {
        Self {
            quiet: Duration::from_secs(2),
            longest_quiet: Duration::from_secs(20),
            open: Duration::from_secs(60),
            open_and_busy: Duration::from_secs(600),
        }
    }
}

/// A file whose newest bytes no store has. Times are since any fixed instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirtyFile {
    /// Its size in bytes.
    pub size: u64,
    /// When it became dirty.
    pub dirty_since: Duration,
    /// When it was last written to.
    pub last_write: Duration,
    /// Whether anyone has it open for writing.
    pub open: bool,
}

/// Above this size a file is left alone for longer.
const SMALL_BYTES: u64 = 1 << 20;

/// So long a small file is left alone, at most, while another machine watches.
const QUIET_WHEN_WATCHED: Duration = Duration::from_millis(100);
/// So long a change waits for others to join it while another machine watches.
const IDLE_WHEN_WATCHED: Duration = Duration::from_millis(50);
/// So many changed nodes make a commit at once while another machine watches: it sees a tree that is
/// copied in while that goes on.
const NODES_WHEN_WATCHED: u64 = 1000;

impl SettleRules {
    /// The rules while another machine is here that waits for what is done.
    #[must_use]
    pub fn when_watched(self) -> Self {
        Self {
            quiet: self.quiet.min(QUIET_WHEN_WATCHED),
            ..self
        }
    }

    /// How long a file of `size` bytes must have been quiet.
    pub fn quiet_for(&self, size: u64) -> Duration {
        let doublings = (size / SMALL_BYTES)
            .checked_ilog2()
            .map_or(0, |log| log + 1);
        let step = self.quiet / 2;
        (self.quiet + step * doublings).min(self.longest_quiet.max(self.quiet))
    }

    /// Whether the file is stored now.
    pub fn due(&self, now: Duration, file: &DirtyFile) -> Due {
        let quiet_at = file.last_write.saturating_add(self.quiet_for(file.size));
        let at = if file.open {
            let patient = quiet_at.max(file.dirty_since.saturating_add(self.open));
            patient.min(file.dirty_since.saturating_add(self.open_and_busy))
        } else {
            quiet_at
        };
        due_at(now, at)
    }
}

/// Files that become dirty one after the other, as while a tree is copied in. Times are since any
/// fixed instant, later than the first [`Burst::PAUSE`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Burst {
    begun: Duration,
    last: Duration,
}

impl Burst {
    /// After so long without one more, the next begins another burst.
    pub const PAUSE: Duration = Duration::from_secs(2);

    /// One more file became dirty.
    pub fn note(&mut self, now: Duration) {
        if now > self.last.saturating_add(Self::PAUSE) {
            self.begun = now;
        }
        self.last = now;
    }

    /// Whether storing waits for its end, so that whoever writes has the machine to himself. A long
    /// one is not waited for: then storing goes beside it.
    pub fn has_the_machine(&self, now: Duration, rules: &SettleRules) -> bool {
        let is_going_on = now < self.last.saturating_add(rules.quiet);
        is_going_on && now < self.begun.saturating_add(rules.quiet * 5)
    }
}

/// When commits are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitRules {
    /// A change waits at most so long for others to join it.
    pub interval: Duration,
    /// When nothing more is under way, it waits only so long.
    pub idle: Duration,
    /// So many changed nodes make a commit at once.
    pub most_nodes: u64,
}

impl Default for CommitRules {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            idle: Duration::from_secs(3),
            most_nodes: 1000,
        }
    }
}

/// What waits for a commit. Times are since any fixed instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uncommitted {
    /// Nodes that differ from the latest commit and can be committed.
    pub nodes: u64,
    /// When the first of them changed.
    pub first_change: Duration,
    /// When the last of them changed.
    pub last_change: Duration,
    /// Whether files are being stored that the commit could wait for.
    pub storing: bool,
}

impl CommitRules {
    /// The rules while another machine is here that waits for what is done.
    #[must_use]
    pub fn when_watched(self) -> Self {
        Self {
            idle: self.idle.min(IDLE_WHEN_WATCHED),
            most_nodes: self.most_nodes.min(NODES_WHEN_WATCHED),
            ..self
        }
    }

    /// Whether a commit is made now.
    pub fn due(&self, now: Duration, waiting: &Uncommitted) -> Due {
        if waiting.nodes == 0 {
            return Due::Never;
        }
        if waiting.nodes >= self.most_nodes {
            return Due::Now;
        }
        let latest = waiting.first_change.saturating_add(self.interval);
        let idle = waiting.last_change.saturating_add(self.idle);
        due_at(
            now,
            if waiting.storing {
                latest
            } else {
                latest.min(idle)
            },
        )
    }
}

fn due_at(now: Duration, at: Duration) -> Due {
    match at.checked_sub(now) {
        Some(wait) if !wait.is_zero() => Due::In(wait),
        _ => Due::Now,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn file(size: u64, open: bool) -> DirtyFile {
        DirtyFile {
            size,
            dirty_since: secs(100),
            last_write: secs(100),
            open,
        }
    }

    #[test]
    fn a_saved_file_is_stored_after_a_moment() {
        let rules = SettleRules::default();
        assert_eq!(rules.due(secs(101), &file(10, false)), Due::In(secs(1)));
        assert_eq!(rules.due(secs(102), &file(10, false)), Due::Now);
    }

    #[test]
    fn while_another_machine_watches_little_is_waited_for() {
        let rules = SettleRules::default().when_watched();
        assert_eq!(rules.due(secs(101), &file(10, false)), Due::Now);
        assert!(matches!(rules.due(secs(101), &file(10, true)), Due::In(_)));
        let commits = CommitRules::default().when_watched();
        assert_eq!(commits.due(secs(21), &waiting(5, false)), Due::Now);
        assert!(matches!(
            commits.due(secs(20), &waiting(5, false)),
            Due::In(_)
        ));
        // What is stored all the time does not keep others from seeing the beginning of it.
        let rules = CommitRules {
            most_nodes: 10_000,
            ..CommitRules::default()
        };
        let (few, many) = (waiting(999, true), waiting(1000, true));
        assert!(matches!(rules.due(secs(20), &many), Due::In(_)));
        assert_eq!(rules.when_watched().due(secs(20), &many), Due::Now);
        assert!(matches!(
            rules.when_watched().due(secs(20), &few),
            Due::In(_)
        ));
    }

    #[test]
    fn a_large_file_is_left_alone_for_longer() {
        let rules = SettleRules::default();
        assert!(matches!(
            rules.due(secs(103), &file(1 << 33, false)),
            Due::In(_)
        ));
        assert_eq!(rules.due(secs(120), &file(u64::MAX, false)), Due::Now);
    }

    #[test]
    fn a_file_that_stays_open_is_stored_all_the_same() {
        let rules = SettleRules::default();
        let mut database = file(1 << 20, true);
        assert_eq!(rules.due(secs(110), &database), Due::In(secs(50)));
        assert_eq!(rules.due(secs(160), &database), Due::Now);
        database.last_write = secs(699);
        assert_eq!(rules.due(secs(699), &database), Due::In(secs(1)));
        database.last_write = secs(700);
        assert_eq!(rules.due(secs(700), &database), Due::Now);
    }

    #[test]
    fn a_short_burst_is_waited_for_and_a_long_one_is_not() {
        let rules = SettleRules::default();
        let mut burst = Burst::default();
        assert!(!burst.has_the_machine(secs(100), &rules));
        for second in 100..120 {
            burst.note(secs(second));
            assert_eq!(burst.has_the_machine(secs(second), &rules), second < 110);
        }
        // It is over, and another one begins.
        assert!(!burst.has_the_machine(secs(121), &rules));
        burst.note(secs(122));
        assert!(burst.has_the_machine(secs(123), &rules));
        assert!(!burst.has_the_machine(secs(124), &rules));
    }

    fn waiting(nodes: u64, storing: bool) -> Uncommitted {
        Uncommitted {
            nodes,
            first_change: secs(10),
            last_change: secs(20),
            storing,
        }
    }

    #[test]
    fn a_commit_gathers_what_comes_together() {
        let rules = CommitRules::default();
        assert_eq!(rules.due(secs(21), &waiting(0, false)), Due::Never);
        assert_eq!(rules.due(secs(21), &waiting(5, false)), Due::In(secs(2)));
        assert_eq!(rules.due(secs(23), &waiting(5, false)), Due::Now);
        assert_eq!(rules.due(secs(23), &waiting(5, true)), Due::In(secs(17)));
        assert_eq!(rules.due(secs(40), &waiting(5, true)), Due::Now);
        assert_eq!(rules.due(secs(20), &waiting(1000, true)), Due::Now);
    }

    proptest! {
        /// Whoever waits as long as it was told finds that it is time.
        #[test]
        fn an_announced_time_comes(
            size: u64, since in 0..1000u64, write in 0..1000u64, open: bool, now in 0..3000u64,
        ) {
            let rules = SettleRules::default();
            let file = DirtyFile {
                size, dirty_since: secs(since.min(write)), last_write: secs(write), open,
            };
            match rules.due(secs(now), &file) {
                Due::In(wait) => {
                    prop_assert!(wait <= rules.open_and_busy + rules.longest_quiet + secs(1000));
                    prop_assert_eq!(rules.due(secs(now) + wait, &file), Due::Now);
                }
                due => prop_assert_eq!(due, Due::Now),
            }
        }

        #[test]
        fn larger_files_are_never_stored_earlier(a: u64, b: u64) {
            let rules = SettleRules::default();
            prop_assert!(rules.quiet_for(a.min(b)) <= rules.quiet_for(a.max(b)));
            prop_assert!(rules.quiet_for(a) <= rules.longest_quiet);
        }
    }
}

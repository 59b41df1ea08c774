//! S3-FIFO with size and refetch cost.
//!
//! After Yang, Zhang, Qiu, Yue, Vigfusson: "FIFO queues are all you need for cache
//! eviction" (SOSP 2023). New entries come into a small queue, a tenth of the bytes.
//! What was used at least twice again before it reaches the end moves to the main queue;
//! the rest goes, and leaves its key in a bounded list of ghosts. What comes back while
//! its ghost is there starts in the main queue. In the main queue an entry that was used
//! gets another round for each use, up to three. So a scan passes through the small
//! queue only, and one scan over files that are here already, one use each, moves none
//! of them to the main queue.
//!
//! Size and cost: to drop an entry frees its bytes and risks the time to fetch them
//! again. That time for each freed byte is high for small files and low for large
//! ones, whose round trip is shared by many bytes ([`Refetch`]). An entry whose price for
//! a byte is above the average of all gets one more round, once, before it goes: so one
//! film goes before ten thousand letters of the same age.

use std::time::Duration;

use super::ghost::Ghosts;
use super::queues::{Entry, Queues};
use super::{Policy, Victim};

const SMALL: u8 = 0;
const MAIN: u8 = 1;
/// Where candidates that may not go wait until the call ends, so that each is asked once.
const ASIDE: u8 = 2;
/// The small queue's part of all bytes.
const SMALL_PERCENT: u64 = 10;
/// More uses than this are not counted.
const MAX_USES: u8 = 3;
/// Uses in the small queue that make an entry one of the main queue.
const PROVEN_USES: u8 = 2;
/// Ghosts are at most as many as live entries, and at least this many.
const MIN_GHOSTS: usize = 1024;

/// What it costs to fetch content again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refetch {
    /// From asking to the first byte.
    pub round_trip: Duration,
    /// What the link carries, in bytes per second.
    pub bytes_per_sec: u64,
    /// Small files that lie together in a pack are fetched together, about this many
    /// bytes in one request: each pays its part of the round trip only.
    pub together_bytes: u64,
}

impl Default for Refetch {
    /// A home's link to a server far away.
    fn default() -> Self {
        Self {
            round_trip: Duration::from_millis(40),
            bytes_per_sec: 10_000_000,
            together_bytes: 1 << 20,
        }
    }
}

impl Refetch {
    /// The time to fetch `bytes` again, in picoseconds for each byte.
    fn picos_per_byte(&self, bytes: u64) -> u128 {
        let shared = bytes.max(self.together_bytes).max(1);
        let trip = self.round_trip.as_nanos() * 1000 / u128::from(shared);
        trip + 1_000_000_000_000 / u128::from(self.bytes_per_sec.max(1))
    }
}

/// Scan-resistant: new content has to prove itself before old content goes for it.
#[derive(Debug)]
pub struct S3Fifo {
    entries: Queues<3>,
    ghosts: Ghosts,
    refetch: Refetch,
    /// The sum over all entries of bytes times price, for the average price.
    cost_picos: u128,
}

impl S3Fifo {
    /// Knows no entry yet.
    pub fn new(refetch: Refetch) -> Self {
        Self {
            entries: Queues::new(),
            ghosts: Ghosts::default(),
            refetch,
            cost_picos: 0,
        }
    }

    fn cost_of(&self, bytes: u64) -> u128 {
        u128::from(bytes) * self.refetch.picos_per_byte(bytes)
    }

    fn push(&mut self, ino: u64, bytes: u64, queue: u8) {
        if let Some(old) = self.entries.get_mut(ino).map(|entry| entry.bytes()) {
            self.cost_picos -= self.cost_of(old);
            self.entries.resize(ino, bytes);
        } else if !self.entries.push(ino, bytes, queue) {
            return;
        }
        let rounded = self.entries.get_mut(ino).map_or(0, |entry| entry.bytes());
        self.cost_picos += self.cost_of(rounded);
    }

    fn take(&mut self, ino: u64) -> Option<Entry> {
        let entry = self.entries.remove(ino)?;
        self.cost_picos -= self.cost_of(entry.bytes());
        Some(entry)
    }

    /// Whether dropping this entry costs more for each byte than the average does.
    fn dearer_than_average(&self, entry: &Entry) -> bool {
        let all = u128::from(self.entries.bytes());
        self.refetch.picos_per_byte(entry.bytes()) * all > self.cost_picos
    }

    /// The next entry that its queue would drop; moves on those that have earned to stay.
    fn candidate(&mut self) -> Option<Entry> {
        loop {
            let small_target = self.entries.bytes() / 100 * SMALL_PERCENT;
            let from_small =
                self.entries.queue_len(MAIN) == 0 || self.entries.queue_bytes(SMALL) > small_target;
            let entry = match self.entries.oldest(SMALL) {
                Some(entry) if from_small => entry,
                _ => self
                    .entries
                    .oldest(MAIN)
                    .or_else(|| self.entries.oldest(SMALL))?,
            };
            if !self.stays(&entry) {
                return Some(entry);
            }
        }
    }

    /// Gives an entry at the end of its queue another round if it has earned one. Each
    /// round takes something from the entry (a use, its second chance, or its place in the
    /// small queue), so the search for a candidate ends.
    fn stays(&mut self, entry: &Entry) -> bool {
        let spare = !entry.spared && self.dearer_than_average(entry);
        let Some(kept) = self.entries.get_mut(entry.ino) else {
            return false;
        };
        let queue = match entry.queue {
            SMALL if entry.uses >= PROVEN_USES => {
                kept.uses = 0;
                MAIN
            }
            MAIN if entry.uses > 0 => {
                kept.uses -= 1;
                MAIN
            }
            same if spare => {
                kept.spared = true;
                same
            }
            _ => return false,
        };
        self.entries.move_to(entry.ino, queue);
        true
    }

    /// Puts those that may not go back: they are in use, so they belong to the main queue.
    fn put_back(&mut self) {
        while let Some(entry) = self.entries.oldest(ASIDE) {
            self.entries.move_to(entry.ino, MAIN);
        }
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, ino: u64, bytes: u64) {
        let queue = if self.ghosts.take(ino) { MAIN } else { SMALL };
        self.push(ino, bytes, queue);
    }

    fn restore(&mut self, ino: u64, bytes: u64) {
        // What survived until now is the working set as far as anyone knows.
        self.push(ino, bytes, MAIN);
    }

    fn touch(&mut self, ino: u64) {
        if let Some(entry) = self.entries.get_mut(ino) {
            entry.uses = (entry.uses + 1).min(MAX_USES);
            entry.spared = false;
        }
    }

    fn remove(&mut self, ino: u64) {
        self.take(ino);
        self.ghosts.take(ino);
    }

    fn victims(&mut self, need_bytes: u64, may_go: &mut dyn FnMut(u64) -> bool) -> Vec<Victim> {
        let mut victims = Vec::new();
        let mut freed = 0;
        while freed < need_bytes {
            let Some(entry) = self.candidate() else { break };
            if !may_go(entry.ino) {
                self.entries.move_to(entry.ino, ASIDE);
                continue;
            }
            self.take(entry.ino);
            self.ghosts
                .add(entry.ino, self.entries.len().max(MIN_GHOSTS));
            freed += entry.bytes();
            victims.push(Victim {
                ino: entry.ino,
                bytes: entry.bytes(),
            });
        }
        self.put_back();
        victims
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn bytes(&self) -> u64 {
        self.entries.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_ghosts_is_bounded() {
        let mut policy = S3Fifo::new(Refetch::default());
        for ino in 0..20_000 {
            policy.insert(ino, 4096);
            policy.victims(policy.bytes().saturating_sub(400 * 4096), &mut |_| true);
        }
        assert!(
            policy.ghosts.rows() <= MIN_GHOSTS,
            "{} ghosts",
            policy.ghosts.rows()
        );
    }

    #[test]
    fn what_comes_back_soon_is_kept_longer() {
        let mut policy = S3Fifo::new(Refetch::default());
        for ino in 0..100 {
            policy.insert(ino, 4096);
        }
        let first = policy.victims(4096, &mut |_| true)[0].ino;
        policy.insert(first, 4096);
        for ino in 1000..1200 {
            policy.insert(ino, 4096);
        }
        let gone = policy.victims(250 * 4096, &mut |_| true);
        assert!(gone.iter().all(|victim| victim.ino != first));
    }

    #[test]
    fn an_entry_is_small_in_memory() {
        assert!(size_of::<Entry>() <= 24, "{} bytes", size_of::<Entry>());
    }
}

//! Which content goes when the budget is full.
//!
//! A [`Policy`] is told what is here, what is used and what went, and names victims.
//! It knows keys (local inode numbers), sizes and the order of events, nothing else:
//! whether an entry *may* go (clean, stored, not open, not pinned) is the caller's
//! answer, asked for each candidate. Two policies: [`Lru`], the baseline, and [`S3Fifo`],
//! which a bulk scan does not wash out.
//!
//! One use is one `touch`: call it once for an open file and not for each read of it,
//! or a single pass over a large file looks like a habit.
//!
//! An entry takes 24 bytes and its place in a hash map, 40 to 80 bytes in all.

mod ghost;
mod lru;
mod queues;
mod s3fifo;

pub use lru::Lru;
pub use s3fifo::{Refetch, S3Fifo};

/// An entry that a policy gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// The local inode number.
    pub ino: u64,
    /// What dropping it frees, as it was last told, rounded up to 4 KiB.
    pub bytes: u64,
}

/// Which policy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PolicyKind {
    /// [`Lru`].
    Lru,
    /// [`S3Fifo`].
    #[default]
    S3Fifo,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Lru, Self::S3Fifo];

    /// Its name in settings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::S3Fifo => "s3-fifo",
        }
    }

    /// A policy of this kind that knows no entry yet.
    pub fn make(self) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(Lru::new()),
            Self::S3Fifo => Box::new(S3Fifo::new(Refetch::default())),
        }
    }
}

/// Decides what goes first.
pub trait Policy: Send {
    /// Content of `ino` is here now, and takes `bytes` of the disk. A known entry gets
    /// its new size and keeps its place.
    fn insert(&mut self, ino: u64, bytes: u64);

    /// Content that was here before this process started; call it in the order of the
    /// last uses, oldest first, before the first `insert`.
    fn restore(&mut self, ino: u64, bytes: u64);

    /// `ino` was used once more. Unknown entries are ignored.
    fn touch(&mut self, ino: u64);

    /// `ino` went for a reason of its own (deleted, stashed by hand). Unknown entries
    /// are ignored.
    fn remove(&mut self, ino: u64);

    /// Entries to drop until at least `need_bytes` are freed, best first; fewer if no
    /// more may go. They are forgotten here: one that then could not be dropped is told
    /// again by [`Policy::insert`]. `may_go` is asked for each candidate, at most once
    /// in a call; one that may not go keeps its place in the policy.
    fn victims(&mut self, need_bytes: u64, may_go: &mut dyn FnMut(u64) -> bool) -> Vec<Victim>;

    /// How many entries are known.
    fn len(&self) -> usize;

    /// Whether no entry is known.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What all known entries take of the disk, in bytes.
    fn bytes(&self) -> u64;
}

/// How many bytes to free now: none while `here` is at most `high_percent` of `budget`,
/// else all that lies above `low_percent` of it. The gap between the two makes eviction
/// work in batches, so that not every write waits for one.
pub fn bytes_to_free(here: u64, budget: u64, high_percent: u8, low_percent: u8) -> u64 {
    if here <= percent_of(budget, high_percent) {
        return 0;
    }
    here.saturating_sub(percent_of(budget, low_percent.min(high_percent)))
}

/// The budget that the disk can really give: `budget`, but less if other files fill the
/// disk, so that `keep_free` bytes stay free. `here` is what the cache takes now and
/// `disk_free` what the file system has left.
pub fn budget_within_disk(budget: u64, here: u64, disk_free: u64, keep_free: u64) -> u64 {
    budget.min(here.saturating_add(disk_free).saturating_sub(keep_free))
}

fn percent_of(bytes: u64, percent: u8) -> u64 {
    let part = u128::from(bytes) * u128::from(percent.min(100)) / 100;
    u64::try_from(part).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;

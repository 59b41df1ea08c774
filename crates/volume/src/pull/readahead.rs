//! Fetching ahead of a reader who goes through a file.
//!
//! Each read of a file that is not here whole is noted; while reads follow each other, the
//! window ahead of them grows (`larder_plan::readahead`), and what it names is fetched
//! behind the reader's back. What lies beside a small file is the affair of `neighbours`.

use std::collections::HashMap;
use std::ops::Range;

use larder_plan::readahead::{ReadAhead, Window};
use parking_lot::Mutex;

use super::behind::Hint;
use crate::{Ino, Settings, Volume};

/// Files whose reads are remembered.
const STREAMS: usize = 256;

/// The reads of the files that were read lately.
#[derive(Debug)]
pub(crate) struct Streams {
    window: Window,
    by_ino: Mutex<Reads>,
}

#[derive(Debug, Default)]
struct Reads {
    streams: HashMap<Ino, (ReadAhead, u64)>,
    clock: u64,
}

impl Streams {
    pub(crate) fn new(settings: &Settings) -> Self {
        let window = Window::default();
        Self {
            window: Window {
                cap_bytes: window.cap_bytes.min(settings.budget_bytes / 16),
                ..window
            },
            by_ino: Mutex::default(),
        }
    }

    /// What to fetch beyond a read of `range` in a file of `size` bytes.
    fn ahead(&self, ino: Ino, range: &Range<u64>, size: u64) -> Range<u64> {
        let mut reads = self.by_ino.lock();
        reads.clock += 1;
        let clock = reads.clock;
        if reads.streams.len() >= STREAMS && !reads.streams.contains_key(&ino) {
            reads.forget_older_half();
        }
        let (stream, used) = reads.streams.entry(ino).or_default();
        *used = clock;
        stream.read(range.start, range.end - range.start, size, self.window)
    }

    /// The file's content went; a new reader starts anew.
    pub(crate) fn forget(&self, ino: Ino) {
        self.by_ino.lock().streams.remove(&ino);
    }
}

impl Reads {
    fn forget_older_half(&mut self) {
        let mut uses: Vec<u64> = self.streams.values().map(|(_, used)| *used).collect();
        uses.sort_unstable();
        let middle = uses.get(uses.len() / 2).copied().unwrap_or(0);
        self.streams.retain(|_, (_, used)| *used > middle);
    }
}

impl Volume {
    /// Someone reads `range` of a file of `size` bytes that is not here whole. Never waits.
    pub(crate) fn note_read(&self, ino: Ino, range: Range<u64>, size: u64) {
        let ahead = self.pull.streams.ahead(ino, &range, size);
        if !ahead.is_empty() {
            self.pull.behind.hint(Hint::Stream(ino, ahead));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> Streams {
        Streams::new(&Settings::for_budget(1 << 30))
    }

    #[test]
    fn a_reader_that_goes_on_gets_more_and_more_ahead() {
        let streams = streams();
        let size = 1 << 30;
        let mut longest = 0;
        for step in 0..512u64 {
            let ahead = streams.ahead(7, &(step << 17..(step + 1) << 17), size);
            longest = longest.max(ahead.end - ahead.start);
        }
        assert!(longest >= 16 << 20, "{longest}");
    }

    #[test]
    fn readers_of_many_files_take_bounded_memory() {
        let streams = streams();
        for ino in 0..10_000 {
            streams.ahead(ino, &(0..4096), 4096);
        }
        assert!(streams.by_ino.lock().streams.len() <= STREAMS);
    }
}

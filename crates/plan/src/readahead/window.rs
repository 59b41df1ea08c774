//! A window that grows with sequential use.
//!
//! Each open file has a [`ReadAhead`]. A reader that goes on until half of the window is used
//! widens it fourfold up to a cap, for what is far away comes at a round trip a window; a jump
//! closes it, and two reads in a row open it again. New bytes are named only when the reader has
//! used half of what was named before, so that requests stay large and few.

use std::ops::Range;

/// The size of a readahead window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// What the first sequential read opens, in bytes.
    pub first_bytes: u64,
    /// What it grows to, in bytes.
    pub cap_bytes: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            first_bytes: 512 << 10,
            cap_bytes: 64 << 20,
        }
    }
}

/// How much wider a window is than the one before.
const GROWTH: u64 = 4;

/// How far beside its place a read still counts as sequential: the kernel sends the
/// reads of one stream in parallel, and they arrive out of order.
const SLACK_BYTES: u64 = 1 << 20;

/// The reads of one open file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadAhead {
    /// Where a sequential reader goes on.
    next: u64,
    /// The window now, 0 while the reads jump.
    window_bytes: u64,
    /// Up to here all was named already.
    named: u64,
}

impl ReadAhead {
    /// Of a file just opened.
    pub fn new() -> Self {
        Self::default()
    }

    /// A read of `len` bytes at `off` of a file of `size` bytes. Answers what to fetch
    /// ahead of it, beyond the read itself: empty if nothing, never past the end, and
    /// never a byte twice in one sequential run.
    pub fn read(&mut self, off: u64, len: u64, size: u64, window: Window) -> Range<u64> {
        let end = off.saturating_add(len).min(size);
        if off.abs_diff(self.next) <= SLACK_BYTES {
            self.go_on(end, window);
        } else {
            *self = Self {
                next: end,
                window_bytes: 0,
                named: end,
            };
        }
        self.name(end, size)
    }

    fn go_on(&mut self, end: u64, window: Window) {
        self.next = self.next.max(end);
        self.named = self.named.max(end);
        if self.window_bytes == 0 {
            self.window_bytes = window.first_bytes.min(window.cap_bytes);
            return;
        }
        // It grows each time a window was used up by half, not with each small read. One read
        // may use up all of it.
        let left = self.named.saturating_sub(self.next);
        if left <= self.window_bytes / 2 {
            self.window_bytes = self
                .window_bytes
                .saturating_mul(GROWTH)
                .min(window.cap_bytes);
        }
    }

    fn name(&mut self, end: u64, size: u64) -> Range<u64> {
        let left = self.named.saturating_sub(self.next);
        if self.window_bytes == 0 || left > self.window_bytes / 2 {
            return end..end;
        }
        let from = self.named.max(self.next).min(size);
        let to = self
            .next
            .saturating_add(self.window_bytes)
            .min(size)
            .max(from);
        self.named = to;
        from..to
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;

    #[test]
    fn a_sequential_reader_is_always_ahead_and_the_requests_grow() {
        let (size, window) = (1 << 30, Window::default());
        let mut file = ReadAhead::new();
        let mut here = 0;
        let mut requests = Vec::new();
        for off in (0..size).step_by(128 << 10) {
            let ahead = file.read(off, 128 * KIB, size, window);
            assert!(
                off == 0 || here >= off + 128 * KIB,
                "the reader waits at {off}"
            );
            here = here.max(off + 128 * KIB);
            if !ahead.is_empty() {
                assert_eq!(ahead.start, here);
                here = ahead.end;
                requests.push(ahead.end - ahead.start);
            }
        }
        assert_eq!(here, size);
        assert_eq!(requests[0], 512 * KIB);
        assert!(requests.len() < 60, "{} requests", requests.len());
        assert!(requests.iter().any(|len| *len >= 32 * MIB));
    }

    /// A file was cut while it was read, and grew again: the reader's thread ended, and with
    /// it the mount.
    #[test]
    fn a_file_that_becomes_shorter_under_its_reader_is_read_on() {
        let mut file = ReadAhead::new();
        for size in [MIB, 64 * KIB, 64 * KIB, 8 * MIB] {
            let ahead = file.read(0, MIB, size, Window::default());
            assert!(ahead.end <= size);
        }
    }

    /// Each step is a round trip: a far file of 50 MiB took eight.
    #[test]
    fn the_window_is_wide_after_a_few_steps() {
        let mut file = ReadAhead::new();
        let (mut here, mut steps) = (128 * KIB, 0);
        let mut off = 0;
        while here < 50 * MIB {
            let mut named = here;
            while off < here {
                let ahead = file.read(off, 128 * KIB, 50 * MIB, Window::default());
                named = named.max(ahead.end);
                off += 128 * KIB;
            }
            here = named.max(here + 128 * KIB);
            steps += 1;
        }
        assert!(steps <= 5, "{steps}");
    }

    /// The kernel was told to read ahead in large pieces, and the window stayed as it began: a
    /// far file of 50 MiB took a second.
    #[test]
    fn reads_that_are_larger_than_the_window_widen_it() {
        let mut file = ReadAhead::new();
        let mut longest = 0;
        for off in (0..50 * MIB).step_by(1 << 20) {
            let ahead = file.read(off, MIB, 50 * MIB, Window::default());
            longest = longest.max(ahead.end - ahead.start);
        }
        assert!(longest >= 16 * MIB, "{longest}");
    }

    #[test]
    fn jumps_fetch_nothing_ahead() {
        let mut file = ReadAhead::new();
        for turn in 1..100u64 {
            let off = (turn * 7919 % 100) * 100 * MIB + 5 * MIB;
            let ahead = file.read(off, 4096, 1 << 40, Window::default());
            assert!(ahead.is_empty(), "{ahead:?} after a read at {off}");
        }
    }

    #[test]
    fn after_a_jump_the_window_starts_small_again() {
        let (size, window) = (1 << 40, Window::default());
        let mut file = ReadAhead::new();
        for off in (0..200 * MIB).step_by(1 << 20) {
            file.read(off, MIB, size, window);
        }
        assert!(file.read(1 << 39, MIB, size, window).is_empty());
        let ahead = file.read((1 << 39) + MIB, MIB, size, window);
        assert_eq!(ahead.end - ahead.start, window.first_bytes);
    }

    #[test]
    fn reads_of_one_stream_may_arrive_out_of_order() {
        let (size, window) = (1 << 30, Window::default());
        let mut file = ReadAhead::new();
        let mut last = 0;
        for pair in (0..100 * MIB).step_by(256 << 10) {
            for off in [pair + 128 * KIB, pair] {
                let ahead = file.read(off, 128 * KIB, size, window);
                last = last.max(ahead.end);
            }
        }
        assert!(last > 130 * MIB, "the window did not grow: {last}");
    }

    #[test]
    fn a_small_file_is_fetched_whole_by_its_first_read() {
        let ahead = ReadAhead::new().read(0, 4096, 300 * KIB, Window::default());
        assert_eq!(ahead, 4096..300 * KIB);
    }

    proptest! {
        #[test]
        fn readahead_stays_in_the_file_and_below_its_cap(
            reads in prop::collection::vec((0..1u64 << 22, 0..1u64 << 18), 1..200),
            size in 0..1u64 << 22,
        ) {
            let window = Window { first_bytes: 64 * KIB, cap_bytes: 512 * KIB };
            let mut file = ReadAhead::new();
            for (off, len) in reads {
                let ahead = file.read(off, len, size, window);
                prop_assert!(ahead.start <= ahead.end);
                prop_assert!(ahead.is_empty() || ahead.end <= size);
                prop_assert!(ahead.end - ahead.start <= window.cap_bytes);
            }
        }

        #[test]
        fn no_byte_is_named_twice_in_a_run(lens in prop::collection::vec(1..1u64 << 18, 1..200)) {
            let mut file = ReadAhead::new();
            let (mut off, mut named) = (0, 0);
            for len in lens {
                let ahead = file.read(off, len, u64::MAX, Window::default());
                if !ahead.is_empty() {
                    prop_assert!(ahead.start >= named);
                    named = ahead.end;
                }
                off += len;
            }
        }
    }
}

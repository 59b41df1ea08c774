//! Made-up data that compresses as logs and tables do (about 3.5 to 1 with zstd at level 3),
//! the same in every run.

/// A small generator of numbers (xorshift64*).
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

const WORDS: [&str; 32] = [
    "request", "reply", "client", "server", "timeout", "accepted", "closed", "opened", "handle",
    "session", "token", "cache", "miss", "hit", "write", "read", "replica", "volume", "commit",
    "chunk", "pack", "index", "retry", "after", "before", "from", "path", "user", "group",
    "status", "error", "warning",
];

/// `len` bytes of lines as a busy server logs them.
pub fn log_lines(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(seed);
    let mut out = Vec::with_capacity(len + 200);
    let mut time = 1_700_000_000_000u64;
    while out.len() < len {
        time += numbers.below(40);
        out.extend_from_slice(time.to_string().as_bytes());
        for _ in 0..3 + numbers.below(6) {
            out.push(b' ');
            // The smaller of two makes some words frequent.
            let word = numbers.below(32).min(numbers.below(32));
            out.extend_from_slice(WORDS[word as usize].as_bytes());
        }
        out.extend_from_slice(b" id=");
        out.extend_from_slice(numbers.below(1 << 24).to_string().as_bytes());
        out.push(b'\n');
    }
    out.truncate(len);
    out
}

// Each example and test that includes this file uses a part of it.
#[allow(dead_code)]
/// The file after a day's work: 20 edits of 4 KiB in place, a kilobyte put in near the start,
/// a mebibyte appended.
pub fn edited(before: &[u8]) -> Vec<u8> {
    let mut numbers = Numbers::new(77);
    let mut after = before.to_vec();
    for edit in 0..20 {
        let at = numbers.below((before.len() - 4096) as u64) as usize;
        after[at..at + 4096].copy_from_slice(&log_lines(1000 + edit, 4096));
    }
    after.splice(5000..5000, log_lines(2000, 1024));
    after.extend_from_slice(&log_lines(3000, 1 << 20));
    after
}

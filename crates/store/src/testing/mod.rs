//! Support for tests, of this crate and of others: servers to run against, faults to meet,
//! and the suite that every store passes.
//!
//! The servers listen on a free port of the loopback, keep their files in a directory of
//! their own, and end when they are dropped, also in a panic. They need no runtime of the
//! test: each runs on its own thread or in its own process.
//!
//! What cannot be set up is a panic with words: these are tests' means, never a product's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod conformance;
mod counting;
mod dav_server;
mod faulty;
mod s3_server;
mod serving;
mod small_disk;
mod sshd;
mod wire;

pub use counting::{Counting, Counts};
pub use dav_server::DavServer;
pub use faulty::{Call, Fault, Faulty, When};
pub use s3_server::S3Server;
pub use small_disk::SmallDisk;
pub use sshd::{Sshd, SshdOptions};
pub use wire::Wire;

/// `len` bytes that do not compress; the same for the same seed.
pub fn noise(seed: u64, len: usize) -> bytes::Bytes {
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// The next number of a sequence (SplitMix64, by Steele, Lea and Flood).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

//! What the core promises without a kernel: names, bytes, and what a crash may leave.
//!
//! No mount is involved: the operations are called as a face calls them. What a mount adds
//! is tested with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it must be fails the test"
)]

#[path = "../common/mod.rs"]
mod common;

mod away;
mod bench;
mod crash;
mod database;
mod direct;
mod groups;
mod pairs;
mod taken_in;
mod unlinked;

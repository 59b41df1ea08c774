//! The real program on real servers, from the first copy to the loss of a machine.
//!
//! Each test has machines, servers and mounts of its own, which end with it, also by a
//! panic. What a store holds is counted in its own files, past the program under test.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on ends"
)]

#[path = "../cli/machine.rs"]
#[allow(dead_code, reason = "the tests of the commands use the rest of it")]
mod machine;

mod adopted;
mod budget;
mod collected;
mod cut;
mod damage;
mod database;
mod edits;
mod first_use;
mod full_disk;
mod hostile;
mod joined;
mod liar;
mod local;
mod lying;
mod meet;
mod mounts;
mod peers;
mod pinned;
mod programs;
mod remote;
mod store_away;
mod trees;

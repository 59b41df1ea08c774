//! The real program, from the command line to the store and back.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on ends"
)]

mod daemon;
mod damage;
mod life;
mod machine;
mod words;

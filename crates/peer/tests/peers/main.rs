//! Replicas that talk to each other over loopback, on one store in a folder.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

#[path = "../../../volume/tests/pull/support.rs"]
#[allow(dead_code, reason = "the tests of the volume use the rest of it")]
mod support;

mod content;
mod hostile;
mod invited;
mod line;
mod met;

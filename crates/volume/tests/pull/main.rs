//! The way from the store to the cache and out of it, on real volumes with a store that
//! is counted and spoilt.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod bootstrap;
mod by_hand;
mod collected;
mod condemned;
mod fetch;
mod joined;
mod meetings;
mod nearby;
mod other_objects;
mod paths;
mod scan;
mod support;
mod tags;
mod verify;

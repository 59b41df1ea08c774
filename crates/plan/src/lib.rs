//! Larder's decisions as pure functions.
//!
//! What to drop, what to fetch ahead, when to try a store again, how much to slow a
//! writer, when a file is settled: each is a function from values to values, or a small
//! state that is told what happened and answers what to do. Nothing here does I/O,
//! reads a clock, draws a random number or starts a thread. A time is a [`Duration`]
//! since any instant that the caller keeps fixed; a random number is handed in.
//!
//! - [`evict`]: which content goes when the budget is full.
//! - [`readahead`]: which bytes to fetch beyond those that were asked for.
//! - [`nearby`]: whether to ask the store, or others who may have it.
//! - [`backoff`]: when to try a store again, and how long a reader waits for it.
//! - [`pace`]: how fast writers, uploads and hashing may go; how long the rest takes.
//! - [`keep`]: which commits stay in the history.
//! - [`settle`]: when a dirty file is stored, and when a commit is made.
//!
//! [`Duration`]: std::time::Duration

pub mod backoff;
pub mod evict;
pub mod keep;
pub mod nearby;
pub mod pace;
pub mod readahead;
pub mod settle;

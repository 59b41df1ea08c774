//! How fast writers, uploads and hashing may go, and how long the rest takes.
//!
//! [`admit_write`] slows writers to the rate of the stores when much is dirty.
//! [`TokenBucket`] holds a rate: of bytes on a link, of bytes from a disk, of time on a
//! processor. [`Meter`] measures a rate and says when the rest will be done.

mod bucket;
mod dirty;
mod meter;

pub use bucket::TokenBucket;
pub use dirty::{Admission, DirtyLimits, Drain, admit_write};
pub use meter::Meter;

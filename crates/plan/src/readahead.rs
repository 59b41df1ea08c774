//! Which bytes to fetch beyond those that were asked for.
//!
//! [`ReadAhead`] watches the reads of one open file and names what a sequential reader needs
//! next. [`coalesce`] turns many pieces of an object into few requests.

mod requests;
mod window;

pub use requests::{Request, coalesce, gap_tolerance};
pub use window::{ReadAhead, Window};

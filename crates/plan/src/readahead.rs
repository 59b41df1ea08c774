//! Which bytes to fetch beyond those that were asked for.
//!
//! Three decisions. [`ReadAhead`] watches the reads of one open file and names what a
//! sequential reader needs next. [`neighbours`] names the chunks that lie beside the
//! wanted ones in a pack and are worth taking along. [`coalesce`] turns many pieces of an
//! object into few requests.

mod requests;
mod window;

pub use requests::{Request, Slot, Worth, coalesce, gap_tolerance, neighbours};
pub use window::{ReadAhead, Window};

//! The kernel's face of a volume: a FUSE mount.
//!
//! [`mount`] serves a [`larder_volume::Volume`] on a directory, by one of three
//! [`Profile`]s. How it is built, from the kernel inwards:
//!
//! - `mounted`, `mountpoint`: the life of a mount, and the place it is on;
//! - `profile`: what is asked of the kernel;
//! - `server`: the kernel's requests, one function each;
//! - `face`, `content`, `directories`: what they do to the volume;
//! - `handles`, `listings`, `lookups`, `set_ids`: what must be remembered of open files,
//!   open directories, nodes that the kernel knows, and modes it was told;
//! - `workers`: threads for what may wait, so that the session never does;
//! - `news`: telling the kernel of changes from outside;
//! - `dot_larder`: the window `.larder/` at the root, and `history` in it: what was.
//!
//! What it promises: no request waits for another's store; a request that waits is
//! answered, with an errno if need be, when the volume gives up; an unlinked file lives
//! while it is open; what is told to the kernel stays true until it is told otherwise.

mod attrs;
mod content;
mod directories;
mod dot_larder;
mod error;
mod face;
mod handles;
mod history;
mod listings;
mod lookups;
mod mounted;
mod mountpoint;
mod news;
mod profile;
mod server;
mod set_ids;
mod workers;

pub use error::MountError;
pub use mounted::{MountOptions, Mounted, mount};
pub use mountpoint::{Mended, is_mounted, mend};
pub use profile::{Profile, UnknownProfile};

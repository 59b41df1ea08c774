//! Real mounts: what programs see of a volume through the kernel, in each profile.
//!
//! These tests mount, so they need `/dev/fuse`, and run as root where they make devices or
//! act as other users.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it must be fails the test"
)]

mod away;
mod content;
mod fixture;
mod gate;
mod life;
mod mapped;
mod metadata;
mod names;
mod outside;
mod system_calls;
mod window;

/// Makes a test of each function for each profile. A function gets a fresh mount.
macro_rules! in_each_profile {
    ($($name:ident),+ $(,)?) => {
        mod passthrough {
            $(#[test]
            fn $name() {
                super::$name(&crate::fixture::Fixture::new(larder_mount::Profile::Passthrough));
            })+
        }
        mod cached {
            $(#[test]
            fn $name() {
                super::$name(&crate::fixture::Fixture::new(larder_mount::Profile::Cached));
            })+
        }
        mod no_open {
            $(#[test]
            fn $name() {
                super::$name(&crate::fixture::Fixture::new(larder_mount::Profile::NoOpen));
            })+
        }
    };
}
pub(crate) use in_each_profile;

//! How a mount talks with the kernel: the three profiles, and what each asks for.
//!
//! | | passthrough | cached | no-open |
//! |---|---|---|---|
//! | bytes of a file that is here | kernel and backing file, without the daemon | kernel's pages | kernel's pages |
//! | small writes | as fast as the disk | gathered by the kernel (writeback) | one request each |
//! | open and close | a request each | a request each | none |
//! | needs | CAP_SYS_ADMIN, Linux 6.9 | nothing | nothing |
//!
//! All of them let the kernel keep names, attributes and directories for hours: what
//! changes from outside is told to it (`news`).

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use fuser::{InitFlags, KernelConfig};

/// How long the kernel may keep a name, an attribute, or that a name is not there. Not
/// longer, so that news that was lost does harm for so long only.
pub(crate) const KEEP: Duration = Duration::from_secs(4 * 3600);

/// The largest request, in bytes; also the kernel's own limit unless its administrator
/// raised it.
pub(crate) const REQUEST_BYTES: u32 = 1 << 20;

/// What `stat` offers as the best size of a read or write. Large, so that programs that
/// ask make few requests; not larger, because each open file of theirs has such a buffer.
pub(crate) const BLOCK_BYTES: u32 = 128 << 10;

/// Requests that the kernel may have on their way on behalf of nobody: readahead,
/// writeback, releases.
const BACKGROUND_REQUESTS: u16 = 64;

/// How a mount talks with the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Profile {
    /// The kernel reads and writes files that are here whole without the daemon. Needs
    /// CAP_SYS_ADMIN and Linux 6.9; where that is missing, a mount falls back to
    /// [`Profile::Cached`].
    Passthrough,
    /// The kernel keeps pages and gathers writes.
    Cached,
    /// The kernel opens and closes files on its own, and sends each write at once: for
    /// trees of many small files that are mostly read.
    NoOpen,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Passthrough, Self::Cached, Self::NoOpen];

    /// Its name in settings and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passthrough => "passthrough",
            Self::Cached => "cached",
            Self::NoOpen => "no-open",
        }
    }

    /// Tells the kernel what this profile wants.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] if the kernel lacks what the profile stands on.
    pub(crate) fn negotiate(self, config: &mut KernelConfig) -> io::Result<()> {
        let offered = config.capabilities();
        let needed = self.needs();
        if !offered.contains(needed) {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        let wanted = (wanted_by_all() | needed) & offered;
        let _ = config.add_capabilities(wanted);
        let _ = config.set_max_write(REQUEST_BYTES);
        let _ = config.set_max_background(BACKGROUND_REQUESTS);
        if self == Self::Passthrough {
            // The cache lies on a plain file system, and a mount may itself be stacked on.
            let _ = config.set_max_stack_depth(1);
        }
        Ok(())
    }

    fn needs(self) -> InitFlags {
        match self {
            Self::Passthrough => InitFlags::FUSE_PASSTHROUGH,
            Self::Cached => InitFlags::FUSE_WRITEBACK_CACHE,
            Self::NoOpen => InitFlags::FUSE_NO_OPEN_SUPPORT,
        }
    }
}

/// Each with its reason:
/// - readdirplus, when the kernel finds that it pays: one request names and describes many;
/// - parallel lookups and listings in one directory;
/// - symlink targets are kept;
/// - explicit invalidation: pages stay when times or sizes change, because content
///   changes through the kernel only;
/// - set-id bits are dropped here on a write, so that the kernel need not ask for
///   `security.capability` before each one;
/// - direct I/O of one file in parallel.
///
/// Not asked for:
/// - remote locks: the kernel's own serve one machine;
/// - POSIX ACLs;
/// - DONT_MASK: the kernel applies the umask;
/// - opens that truncate: the kernel asks whether the file is a running program only
///   after such an open, so a program's file would be emptied under it.
fn wanted_by_all() -> InitFlags {
    InitFlags::FUSE_DO_READDIRPLUS
        | InitFlags::FUSE_READDIRPLUS_AUTO
        | InitFlags::FUSE_PARALLEL_DIROPS
        | InitFlags::FUSE_CACHE_SYMLINKS
        | InitFlags::FUSE_EXPLICIT_INVAL_DATA
        | InitFlags::FUSE_HANDLE_KILLPRIV_V2
        | InitFlags::FUSE_ASYNC_DIO
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that is not a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mount profile: choose passthrough, cached or no-open")]
pub struct UnknownProfile(String);

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(text: &str) -> Result<Self, UnknownProfile> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| UnknownProfile(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_back_from_its_name() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        assert!("fast".parse::<Profile>().is_err());
    }
}

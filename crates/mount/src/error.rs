//! Why a volume could not be mounted or unmounted, and what to do about it.

use std::io;
use std::path::PathBuf;

/// Why a volume could not be mounted or unmounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// Nothing is at the path.
    #[error("{} does not exist; make it with mkdir, or choose another place", .0.display())]
    Missing(PathBuf),
    /// The path leads to no directory.
    #[error("{} is not a directory; a volume can only be mounted on one", .0.display())]
    NotDirectory(PathBuf),
    /// The directory has files in it, which a mount would hide.
    #[error(
        "{} is not empty, and a mount would hide what is in it; \
         move that away, or take it into a volume with `larder adopt`",
        .0.display()
    )]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error("something is mounted on {} already; unmount it first", .0.display())]
    Taken(PathBuf),
    /// A mount there has lost its daemon.
    #[error(
        "{} is a mount whose daemon is gone; `larder doctor` or `fusermount3 -uz` takes it away",
        .0.display()
    )]
    Dead(PathBuf),
    /// The kernel has no FUSE.
    #[error(
        "this system has no /dev/fuse; load it with `modprobe fuse`, or use a kernel that has FUSE"
    )]
    NoFuse,
    /// The kernel's FUSE is closed to this user.
    #[error(
        "this user may not open /dev/fuse; on most systems its mode is 0666, \
         which `chmod 666 /dev/fuse` as root sets until the next boot"
    )]
    FuseNotAllowed,
    /// The helper that mounts for ordinary users is not there.
    #[error(
        "fusermount3 is not installed, and only root can mount without it; install the package fuse3"
    )]
    NoHelper,
    /// Other users may not be let in.
    #[error("other users cannot be let in: add the line `user_allow_other` to /etc/fuse.conf")]
    OthersNotAllowed,
    /// The helper refused.
    #[error("fusermount3 failed on {}: {words}", path.display())]
    Helper {
        /// The place to mount on, or to unmount.
        path: PathBuf,
        /// What it said.
        words: String,
    },
    /// Programs use the mount.
    #[error("{} is in use{}; close what uses it and try again", path.display(), by_whom(users))]
    Busy {
        /// The mount.
        path: PathBuf,
        /// Who uses it, as far as that can be seen: `name (pid)`.
        users: Vec<String>,
    },
    /// The kernel speaks a protocol that serves no profile, or the session broke.
    #[error("the kernel and Larder could not agree on how to mount {}: {source}", path.display())]
    Session {
        /// The place to mount on.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// The system said no.
    #[error("{}: {source}", path.display())]
    Io {
        /// The mount.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

fn by_whom(users: &[String]) -> String {
    match users {
        [] => String::new(),
        users => format!(" by {}", users.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_mount_names_who_uses_it() {
        let busy = |users| {
            MountError::Busy {
                path: "/l".into(),
                users,
            }
            .to_string()
        };
        assert_eq!(
            busy(vec![]),
            "/l is in use; close what uses it and try again"
        );
        assert_eq!(
            busy(vec!["bash (7)".into(), "vi (8)".into()]),
            "/l is in use by bash (7), vi (8); close what uses it and try again"
        );
    }
}

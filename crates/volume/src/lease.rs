//! Whether somebody else has a file open.
//!
//! A program that got a cache file to itself may map it and close it: the map keeps the file,
//! and is written to, though nobody has it open any more as far as this process was told.
//! The kernel knows: it grants a lease to write only to the one opener of a file.

#![allow(unsafe_code, reason = "no crate here has a safe call for leases")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Linux has this number on all machines; the crate `libc` does not have it.
const F_SETSIG: libc::c_int = 10;

/// Whether the file is open elsewhere, or mapped. `file` must be open to read and write.
/// False where the file system cannot tell.
pub(crate) fn is_open_elsewhere(file: &File) -> bool {
    lease(file, libc::F_WRLCK)
}

/// Whether the file is open elsewhere to be written, or mapped so. `file` must be open to
/// read only. False where the file system cannot tell.
pub(crate) fn is_written_elsewhere(file: &File) -> bool {
    lease(file, libc::F_RDLCK)
}

/// Takes a lease and gives it back; says whether it was refused because of others.
fn lease(file: &File, kind: libc::c_int) -> bool {
    let fd = file.as_raw_fd();
    // SAFETY: these calls take numbers only, and the descriptor is open as long as `file`.
    // Whoever opens the file while the lease is held has a signal sent to this process: not
    // the usual one, which would end it, but one that is ignored unless it is wanted.
    unsafe {
        if libc::fcntl(fd, F_SETSIG, libc::SIGURG) != 0 {
            return false;
        }
        if libc::fcntl(fd, libc::F_SETLEASE, kind) == 0 {
            libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK);
            return false;
        }
    }
    io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn other_openers_are_seen_and_oneself_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "x").unwrap();
        let both = || File::options().read(true).write(true).open(&path).unwrap();
        let file = both();
        assert!(!is_open_elsewhere(&file));
        let copy = file.try_clone().unwrap();
        assert!(!is_open_elsewhere(&file), "one description is one opener");
        drop(copy);
        let reader = File::open(&path).unwrap();
        assert!(is_open_elsewhere(&file));
        assert!(is_written_elsewhere(&reader));
        drop(file);
        assert!(!is_written_elsewhere(&reader));
        let writer = both();
        assert!(is_open_elsewhere(&writer));
        drop(reader);
        assert!(!is_open_elsewhere(&writer));
    }
}

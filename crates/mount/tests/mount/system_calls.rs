//! Calls that have no safe form in the crates at hand.

#![allow(
    unsafe_code,
    reason = "maps and open-file-description locks have no safe form"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// A shared map of a file's first bytes, to read and write.
pub struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    pub fn of(file: &File, len: usize) -> Self {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new map, at no address that we chose.
        let at =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, flags, file.as_fd(), 0) };
        Self {
            at: at.expect("mmap").cast(),
            len,
        }
    }

    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the map is `len` bytes, lives as long as `self`, and is ours alone.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.len) }
    }

    pub fn sync(&self) {
        // SAFETY: the whole of our map.
        unsafe { rustix::mm::msync(self.at.cast(), self.len, MsyncFlags::SYNC) }.expect("msync");
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole of our map, and no slice of it outlives `self`.
        let _ = unsafe { rustix::mm::munmap(self.at.cast(), self.len) };
    }
}

/// Takes a write lock of bytes `start..start + len` for this open file, without waiting.
pub fn lock_range(file: &File, start: i64, len: i64) -> io::Result<()> {
    // SAFETY: all zeros is a valid `flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = start;
    lock.l_len = len;
    // SAFETY: the descriptor is open and `lock` outlives the call.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

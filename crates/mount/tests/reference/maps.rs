//! Maps of a file's bytes, which have no safe form in the crates at hand.

#![allow(unsafe_code, reason = "maps have no safe form")]

use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags};

/// A shared map of a file's first bytes, to read and write. A byte behind the file's end
/// must not be touched: the kernel ends the process.
pub struct Map {
    at: *mut u8,
    len: usize,
}

impl Map {
    pub fn of(file: impl AsFd, len: usize) -> Result<Self, Errno> {
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new map, at no address that we chose.
        let at = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, flags, file, 0) };
        Ok(Self {
            at: at?.cast(),
            len,
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn read(&self, off: usize, bytes: &mut [u8]) {
        assert!(off + bytes.len() <= self.len);
        // SAFETY: within the map, as was just checked; no reference into it exists.
        unsafe {
            std::ptr::copy_nonoverlapping(self.at.add(off), bytes.as_mut_ptr(), bytes.len());
        }
    }

    pub fn write(&mut self, off: usize, bytes: &[u8]) {
        assert!(off + bytes.len() <= self.len);
        // SAFETY: within the map, as was just checked; no reference into it exists.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(off), bytes.len());
        }
    }

    pub fn sync(&self) -> Result<(), Errno> {
        // SAFETY: the whole of our map.
        unsafe { rustix::mm::msync(self.at.cast(), self.len, MsyncFlags::SYNC) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole of our map, and no reference into it exists.
        let _ = unsafe { rustix::mm::munmap(self.at.cast(), self.len) };
    }
}

//! A disk that is soon full.

use std::ffi::CString;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// A file system in memory, of a few pages, that goes when this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    place: PathBuf,
}

impl SmallDisk {
    /// Mounts one of `bytes` at the directory `place`. `None` if this process may not
    /// mount: then nothing about full disks can be tested here, and a line says so.
    ///
    /// # Panics
    /// If mounting fails for another reason.
    pub fn mount(place: &Path, bytes: u64) -> Option<Self> {
        let size = CString::new(format!("size={bytes}")).expect("an option without zeros");
        match mount(
            "tmpfs",
            place,
            "tmpfs",
            MountFlags::empty(),
            size.as_c_str(),
        ) {
            Ok(()) => Some(Self {
                place: place.to_owned(),
            }),
            Err(Errno::PERM) => {
                eprintln!("not root here, so no full disk was tried");
                None
            }
            Err(error) => panic!("no small disk at {}: {error}", place.display()),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached, because a server may still hold a file there.
        let _ = unmount(&self.place, UnmountFlags::DETACH);
    }
}

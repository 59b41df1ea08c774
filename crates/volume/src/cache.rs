//! The files that hold what is here of the content: one sparse file per node.
//!
//! `cache/<ino / 4096>/<ino>`, both in hexadecimal, so that files made together lie in
//! one directory. A cache file has the size of its node; what is not present reads as
//! zeros there and is never served (`extents` says what is).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{Ino, Result, VolumeError};

/// The directory of cache files.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in `root`, made if it is not there.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn open(root: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&root).map_err(|error| VolumeError::io(&root, error))?;
        Ok(Self { root })
    }

    /// The directory under which all cache files lie.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the node's cache file lies, if it has one.
    pub fn path(&self, ino: Ino) -> PathBuf {
        self.root
            .join(format!("{:x}", ino >> 12))
            .join(format!("{ino:x}"))
    }

    /// Opens the node's cache file to read and write, making it if it is not there.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open_or_make(&self, ino: Ino) -> Result<File> {
        let path = self.path(ino);
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
        };
        let opened = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(&self.root);
                std::fs::create_dir_all(directory).and_then(|()| open())
            }
            other => other,
        };
        opened.map_err(|error| VolumeError::io(path, error))
    }

    /// Removes the node's cache file; that there was none is fine. Bytes that it took.
    ///
    /// # Errors
    /// If it may still be there.
    pub fn remove(&self, ino: Ino) -> Result<u64> {
        let path = self.path(ino);
        let bytes = std::fs::symlink_metadata(&path).map_or(0, |meta| allocated(&meta));
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(VolumeError::io(path, error)),
        }
    }

    /// Makes the cache file's directory entry survive a power cut.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync_entry(&self, ino: Ino) -> Result<()> {
        let path = self.path(ino);
        for directory in path.ancestors().skip(1).take(2) {
            File::open(directory)
                .and_then(|directory| directory.sync_all())
                .map_err(|error| VolumeError::io(directory, error))?;
        }
        Ok(())
    }

    /// Makes all that was written into cache files so far survive a power cut.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync_all(&self) -> Result<()> {
        let root = File::open(&self.root).map_err(|error| VolumeError::io(&self.root, error))?;
        rustix::fs::syncfs(&root).map_err(|error| VolumeError::io(&self.root, error.into()))
    }
}

/// How many bytes the file takes on the disk.
pub fn allocated(meta: &std::fs::Metadata) -> u64 {
    meta.blocks() * 512
}

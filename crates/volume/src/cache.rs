//! The files that hold what is here of the content: one sparse file per node.
//!
//! `cache/<ino / 4096>/<ino>`, both in hexadecimal, so that files made together lie in
//! one directory. A cache file has the size of its node; what is not present reads as
//! zeros there and is never served (`extents` says what is).

use std::collections::BTreeSet;
use std::fs::{DirEntry, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
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

    /// Opens the node's cache file to read and write; `None` if it is not there.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open_file(&self, ino: Ino) -> Result<Option<File>> {
        let path = self.path(ino);
        match open(&path, false) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(VolumeError::io(path, error)),
        }
    }

    /// Opens the node's cache file to read and write, making it if it is not there.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open_or_make(&self, ino: Ino) -> Result<File> {
        let path = self.path(ino);
        let opened = match open(&path, true) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = path.parent().unwrap_or(&self.root);
                std::fs::create_dir_all(directory).and_then(|()| open(&path, true))
            }
            other => other,
        };
        opened.map_err(|error| VolumeError::io(path, error))
    }

    /// Gives each cache file's node, and what the file system says of the file, to `each`.
    /// Takes no notice of what is no cache file.
    ///
    /// # Errors
    /// If the disk fails, and those of `each`.
    pub fn scan(&self, mut each: impl FnMut(Ino, &Metadata) -> Result<()>) -> Result<()> {
        for directory in entries(&self.root)? {
            if !directory.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            for file in entries(&directory.path())? {
                let name = file.file_name();
                let ino = name
                    .to_str()
                    .and_then(|name| Ino::from_str_radix(name, 16).ok());
                if let Some(ino) = ino
                    && file.path() == self.path(ino)
                    && let Ok(meta) = file.metadata()
                    && meta.is_file()
                {
                    each(ino, &meta)?;
                }
            }
        }
        Ok(())
    }

    /// Lets the owner of a cache file read and write it, as one that was taken in from a
    /// directory may not.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn allow_owner(&self, ino: Ino) -> Result<()> {
        let path = self.path(ino);
        std::fs::metadata(&path)
            .and_then(|meta| match meta.permissions().mode() & 0o600 {
                0o600 => Ok(()),
                _ => std::fs::set_permissions(&path, Permissions::from_mode(0o600)),
            })
            .map_err(|error| VolumeError::io(path, error))
    }

    /// Moves the node's cache file to another place on the same file system.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn move_to(&self, ino: Ino, place: &Path) -> Result<()> {
        std::fs::rename(self.path(ino), place).map_err(|error| VolumeError::io(place, error))
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

    /// Makes the directory entries of these nodes' cache files survive a power cut.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync_entries(&self, inos: impl IntoIterator<Item = Ino>) -> Result<()> {
        let paths = inos.into_iter().map(|ino| self.path(ino));
        let holding: BTreeSet<_> = paths
            .filter_map(|path| Some(path.parent()?.to_owned()))
            .collect();
        for directory in holding.iter().chain([&self.root]) {
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

fn open(path: &Path, make: bool) -> io::Result<File> {
    let open = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(make)
            .truncate(false)
            .mode(0o600)
            .open(path)
    };
    match open() {
        // One that was taken in from a directory may forbid it; its mode is in the database.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
            open()
        }
        other => other,
    }
}

fn entries(directory: &Path) -> Result<Vec<DirEntry>> {
    std::fs::read_dir(directory)
        .and_then(Iterator::collect)
        .map_err(|error| VolumeError::io(directory, error))
}

/// How many bytes the file takes on the disk.
pub fn allocated(meta: &std::fs::Metadata) -> u64 {
    meta.blocks() * 512
}

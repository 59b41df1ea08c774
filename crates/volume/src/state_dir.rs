//! The directory that holds a replica's state, and the lock that makes it one process's.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use larder_format::KeyFile;

use crate::{Result, VolumeError};

/// The state directory, locked for as long as this value lives.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Takes the lock of the state directory.
    ///
    /// # Errors
    /// [`VolumeError::Locked`] if another process has it.
    pub fn lock(root: &Path) -> Result<Self> {
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| VolumeError::io(&path, error))?;
        if lock.try_lock().is_err() {
            let mut pid = String::new();
            let _ = lock.read_to_string(&mut pid);
            return Err(VolumeError::Locked(pid.trim().to_owned()));
        }
        let mut write_pid = || {
            lock.set_len(0)?;
            write!(lock, "{}", std::process::id())
        };
        write_pid().map_err(|error| VolumeError::io(&path, error))?;
        Ok(Self {
            root: root.to_owned(),
            _lock: lock,
        })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.root.join("volume.db")
    }

    /// The cache of files.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Where cache files are kept that lost their node in a crash.
    pub fn strays(&self) -> PathBuf {
        self.root.join("strays")
    }

    /// The key file, of mode 0600.
    pub fn key_file(&self) -> PathBuf {
        self.root.join("key")
    }

    /// Writes the key file. It must not be there yet.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write_keys(&self, keys: &KeyFile) -> Result<()> {
        let path = self.key_file();
        let bytes = keys.encode();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            })
            .and_then(|()| File::open(&self.root)?.sync_all())
            .map_err(|error| VolumeError::io(&path, error))
    }

    fn next_key_file(&self) -> PathBuf {
        self.root.join("key.next")
    }

    /// Writes the keys that the replica is going to have beside those that it has, durably.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write_next_keys(&self, keys: &KeyFile) -> Result<()> {
        let path = self.next_key_file();
        let bytes = keys.encode();
        let failed = |error| VolumeError::io(&path, error);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed(error));
            }
            _ => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| {
                file.write_all(&bytes)?;
                file.sync_all()
            })
            .and_then(|()| File::open(&self.root)?.sync_all())
            .map_err(failed)
    }

    /// The keys that the replica is going to have, if there are any.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn next_keys(&self) -> Result<Option<KeyFile>> {
        let path = self.next_key_file();
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(KeyFile::decode(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(VolumeError::io(&path, error)),
        }
    }

    /// Puts the next keys in the place of those that the replica had, durably.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn take_next_keys(&self) -> Result<()> {
        let path = self.key_file();
        std::fs::rename(self.next_key_file(), &path)
            .and_then(|()| File::open(&self.root)?.sync_all())
            .map_err(|error| VolumeError::io(&path, error))
    }

    /// The keys of the volume and of this replica.
    ///
    /// # Errors
    /// If the key file is not there or cannot be read.
    pub fn keys(&self) -> Result<KeyFile> {
        let path = self.key_file();
        let bytes = std::fs::read(&path).map_err(|error| VolumeError::io(&path, error))?;
        Ok(KeyFile::decode(&bytes)?)
    }
}

//! Building a replica's state so that it is there whole, or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use larder_format::KeyFile;

use crate::db::Db;
use crate::names::fill_random;
use crate::state_dir::StateDir;
use crate::{Result, VolumeError};

/// The database while it is built.
const UNFINISHED: &str = "volume.db.new";

/// A state directory whose database is being built.
pub(super) struct Staging {
    dir: StateDir,
    db: Db,
}

impl Staging {
    /// Takes the directory, made if it is not there, and clears what an interrupted
    /// attempt left.
    ///
    /// # Errors
    /// If it holds a replica already, another process works on it, or the disk fails.
    pub(super) fn begin(state_dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(state_dir).map_err(|error| VolumeError::io(state_dir, error))?;
        let dir = StateDir::lock(state_dir)?;
        if dir.database().exists() {
            return Err(VolumeError::State(format!(
                "{} holds a volume already",
                state_dir.display()
            )));
        }
        let unfinished = state_dir.join(UNFINISHED);
        for leftover in [
            with_suffix(&unfinished, "-wal"),
            with_suffix(&unfinished, "-shm"),
            unfinished.clone(),
            dir.key_file(),
        ] {
            remove_if_there(&leftover)?;
        }
        let db = Db::create(&unfinished)?;
        Ok(Self { dir, db })
    }

    /// The database.
    pub(super) fn db(&self) -> &Db {
        &self.db
    }

    /// Writes the key file.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn write_keys(&self, keys: &KeyFile) -> Result<()> {
        self.dir.write_keys(keys)
    }

    /// Moves the database to its place, durably: from now on the directory is a replica.
    ///
    /// # Errors
    /// If the disk fails; then it is none.
    pub(super) fn finish(self) -> Result<()> {
        let Self { dir, db } = self;
        let unfinished = dir.root().join(UNFINISHED);
        // Closing the only connection moves all that the log holds into the file.
        drop(db);
        let log = with_suffix(&unfinished, "-wal");
        if std::fs::metadata(&log).is_ok_and(|meta| meta.len() > 0) {
            return Err(VolumeError::State(format!(
                "{} could not be completed",
                unfinished.display()
            )));
        }
        let finished = dir.database();
        File::open(&unfinished)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&unfinished, &finished))
            .and_then(|()| File::open(dir.root())?.sync_all())
            .map_err(|error| VolumeError::io(&finished, error))
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(VolumeError::io(path, error))
        }
        _ => Ok(()),
    }
}

/// Fresh random bytes.
///
/// # Errors
/// If the system has none.
pub(super) fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

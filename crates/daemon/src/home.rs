//! Where Larder keeps its state on this machine, and which volumes are here.
//!
//! `LARDER_HOME`, else `$XDG_DATA_HOME/larder` (`~/.local/share/larder`). Below it one
//! directory for each volume, `volumes/<volume id>/`, mode 0700, with the database,
//! the cache, the key, `config.toml`, the control socket and the logs.
//!
//! A volume's directory appears whole: it is made under a name that starts with a dot and
//! renamed when all of it is there, so a crash in the middle leaves nothing that counts.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_model::VolumeId;

use crate::config::{CONFIG_FILE, Config};
use crate::failure::Failure;

/// How the name of a directory in the making starts.
const STAGED: &str = ".new-";
/// A directory in the making that is older was left by a crash.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// The directory of all state.
#[derive(Debug, Clone)]
pub struct Home {
    volumes: PathBuf,
}

/// One volume as this machine has it.
#[derive(Debug, Clone)]
pub struct Replica {
    /// Which volume.
    pub volume: VolumeId,
    /// Its state directory.
    pub dir: PathBuf,
    /// Its settings.
    pub config: Config,
}

/// A state directory in the making; removed when dropped before [`Staging::settle`].
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
    volumes: PathBuf,
    settled: bool,
}

impl Home {
    /// The home that the environment names.
    ///
    /// # Errors
    /// If there is neither `LARDER_HOME` nor a home directory.
    pub fn from_env() -> Result<Self, Failure> {
        use etcetera::BaseStrategy;
        if let Some(root) = std::env::var_os("LARDER_HOME").filter(|root| !root.is_empty()) {
            let root =
                std::path::absolute(&root).map_err(|e| Failure::io("find", Path::new(&root), e))?;
            return Ok(Self::at(&root));
        }
        let base = etcetera::choose_base_strategy().map_err(|e| {
            Failure::failed(format!("There is no home directory: {e}."))
                .hint("Set LARDER_HOME to a directory for Larder's state.")
        })?;
        Ok(Self::at(&base.data_dir().join("larder")))
    }

    /// The home at `root`.
    pub fn at(root: &Path) -> Self {
        Self {
            volumes: root.join("volumes"),
        }
    }

    /// The directory that holds the volumes' state directories.
    pub fn volumes_dir(&self) -> &Path {
        &self.volumes
    }

    /// The volumes that are here, by id.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn volumes(&self) -> Result<Vec<VolumeId>, Failure> {
        let entries = match fs::read_dir(&self.volumes) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Failure::io("read", &self.volumes, e)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Failure::io("read", &self.volumes, e))?;
            ids.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|n| n.parse::<VolumeId>().ok()),
            );
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// The state directory of a volume, whether it is here or not.
    pub fn state_dir(&self, volume: VolumeId) -> PathBuf {
        self.volumes.join(volume.to_string())
    }

    /// One volume with its settings.
    ///
    /// # Errors
    /// If its settings cannot be read.
    pub fn replica(&self, volume: VolumeId) -> Result<Replica, Failure> {
        let dir = self.state_dir(volume);
        let config = Config::read(&dir.join(CONFIG_FILE))?;
        Ok(Replica {
            volume,
            dir,
            config,
        })
    }

    /// All volumes with their settings.
    ///
    /// # Errors
    /// If the settings of one cannot be read.
    pub fn replicas(&self) -> Result<Vec<Replica>, Failure> {
        self.volumes()?
            .into_iter()
            .map(|volume| self.replica(volume))
            .collect()
    }

    /// A fresh state directory for a volume whose id is not known yet.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn stage(&self) -> Result<Staging, Failure> {
        private_dir(&self.volumes)?;
        self.clear_abandoned();
        let mut random = [0; 8];
        getrandom::fill(&mut random)
            .map_err(|e| Failure::failed(format!("The system gave no random bytes: {e}.")))?;
        let name = format!("{STAGED}{:016x}", u64::from_le_bytes(random));
        let dir = self.volumes.join(name);
        private_dir(&dir)?;
        Ok(Staging {
            dir,
            volumes: self.volumes.clone(),
            settled: false,
        })
    }

    /// Removes what a crash left of directories in the making, as far as that can be.
    fn clear_abandoned(&self) {
        for entry in fs::read_dir(&self.volumes).into_iter().flatten().flatten() {
            let staged = entry
                .file_name()
                .as_encoded_bytes()
                .starts_with(STAGED.as_bytes());
            if staged && is_abandoned(&entry.path()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Old, and held by no process.
fn is_abandoned(dir: &Path) -> bool {
    let old = fs::metadata(dir)
        .and_then(|meta| meta.modified())
        .is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED_AFTER));
    let held = fs::File::open(dir.join("lock")).is_ok_and(|lock| lock.try_lock().is_err());
    old && !held
}

impl Staging {
    /// Where to make the state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Gives the directory its name; it counts from now on, and after a power cut too.
    ///
    /// # Errors
    /// If the volume is here already, or on an I/O error.
    pub fn settle(mut self, volume: VolumeId) -> Result<PathBuf, Failure> {
        let target = self.volumes.join(volume.to_string());
        if target.exists() {
            return Err(
                Failure::failed(format!("Volume {volume} is on this machine already."))
                    .hint("`larder mount` mounts it."),
            );
        }
        sync_dir(&self.dir)?;
        fs::rename(&self.dir, &target).map_err(|e| Failure::io("make", &target, e))?;
        self.settled = true;
        sync_dir(&self.volumes)?;
        Ok(target)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.settled {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Makes a directory that only its owner can enter, and those above it.
pub(crate) fn private_dir(dir: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Failure::io("make the directory", dir, e))
}

fn sync_dir(dir: &Path) -> Result<(), Failure> {
    fs::File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|e| Failure::io("write to disk", dir, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staged_directory_counts_only_when_settled() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path());
        let volume = VolumeId([7; 16]);
        let abandoned = home.stage().unwrap();
        let abandoned_dir = abandoned.dir().to_owned();
        drop(abandoned);
        assert!(!abandoned_dir.exists());
        let staging = home.stage().unwrap();
        assert_eq!(home.volumes(), Ok(vec![]));
        let dir = staging.settle(volume).unwrap();
        assert_eq!(dir, home.state_dir(volume));
        assert_eq!(home.volumes(), Ok(vec![volume]));
        assert!(home.stage().unwrap().settle(volume).is_err());
    }

    #[test]
    fn what_a_crash_left_in_the_making_goes_once_it_is_old() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path());
        let left = std::mem::ManuallyDrop::new(home.stage().unwrap())
            .dir()
            .to_owned();
        drop(home.stage().unwrap());
        assert!(left.exists(), "it may be at work");
        let yesterday = std::time::SystemTime::now() - 2 * ABANDONED_AFTER;
        fs::File::open(&left)
            .unwrap()
            .set_modified(yesterday)
            .unwrap();
        drop(home.stage().unwrap());
        assert!(!left.exists());
    }
}

//! A volume comes to this machine: made new, or opened from its store.
//!
//! All is made in a directory that does not count yet (see [`crate::home::Staging`]); the
//! last step gives it its name. A failure before leaves nothing here. If the store got the
//! new volume's header by then, a second `init` on it is refused, and `open` works.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use larder_model::{ChunkId, VolumeId};
use larder_volume::progress::Report;
use larder_volume::{Credential, Settings};

use crate::config::{CONFIG_FILE, Config, Limits, PeersConfig, StoreConfig};
use crate::failure::Failure;
use crate::home::{Home, Staging};
use crate::locate;
use crate::secrets::Secrets;
use crate::stores::{self, Root};
use crate::units::ByteSize;

/// What a new volume, or a volume new to this machine, is to be like here.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where to mount it.
    pub mount: PathBuf,
    /// Where its content lives.
    pub store: StoreConfig,
    /// How much content this machine keeps.
    pub budget: ByteSize,
    /// A file of the store's secrets, to be copied.
    pub secrets_file: Option<PathBuf>,
}

/// A volume that was made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Made {
    /// Its id.
    pub volume: String,
    /// Where it is mounted by `larder mount`.
    pub mount: PathBuf,
    /// Where its content lives.
    pub store: String,
    /// Opens the volume if the passphrase is lost; shown this once.
    pub recovery_key: String,
    /// What stays on this machine only, as patterns.
    pub local: Vec<String>,
}

/// A volume that was opened.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Opened {
    /// Its id.
    pub volume: String,
    /// Where it is mounted by `larder mount`.
    pub mount: PathBuf,
    /// Where its content lives.
    pub store: String,
    /// Files of the tree.
    pub files: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// What stays on this machine only, as patterns.
    pub local: Vec<String>,
    /// What the user should know, in words.
    pub warnings: Vec<String>,
}

impl Wanted {
    /// The same, with the mount path and the store's folder made absolute, after it was
    /// found that the mount path can be one and that the store's address makes sense.
    ///
    /// # Errors
    /// If not.
    pub fn checked(mut self, home: &Home) -> Result<Self, Failure> {
        self.mount = mount_point(home, &self.mount)?;
        if !self.store.address.contains("://") {
            let folder = std::path::absolute(&self.store.address)
                .map_err(|e| Failure::usage(format!("The store's folder: {e}.")))?;
            self.store.address = folder.to_string_lossy().into_owned();
        }
        for path in [&mut self.store.identity, &mut self.store.known_hosts]
            .into_iter()
            .flatten()
        {
            *path = std::path::absolute(&*path).map_err(|e| Failure::io("find", path, e))?;
        }
        stores::open(&self.store, home.volumes_dir(), Root::Expected)?;
        Ok(self)
    }

    fn config(&self) -> Config {
        Config {
            mount: self.mount.clone(),
            budget: self.budget,
            profile: None,
            allow_other: false,
            // Written out, so that whoever wonders finds them.
            local: Some(Settings::default_local_rules()),
            store: self.store.clone(),
            limits: Limits::default(),
            peers: PeersConfig::default(),
        }
    }

    /// Writes the settings and the secrets into the staged directory.
    fn stage(&self, home: &Home) -> Result<Staging, Failure> {
        let staging = home.stage()?;
        let path = staging.dir().join(CONFIG_FILE);
        let text = self.config().to_text()?;
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|e| Failure::io("write", &path, e))?;
        if let Some(secrets) = &self.secrets_file {
            Secrets::adopt_file(secrets, staging.dir())?;
        }
        Ok(staging)
    }
}

/// Makes a new volume on the store and on this machine.
///
/// # Errors
/// If the store cannot be reached, or holds a volume already.
pub async fn init(home: &Home, wanted: Wanted, passphrase: &str) -> Result<Made, Failure> {
    let staging = wanted.stage(home)?;
    let store = stores::open(&wanted.store, staging.dir(), Root::Made)?;
    let settings = wanted.config().settings();
    let local = settings.local_rules.clone();
    let made = larder_volume::init(staging.dir(), store, Some(passphrase), settings).await?;
    staging.settle(made.volume)?;
    Ok(Made {
        volume: made.volume.to_string(),
        mount: wanted.mount,
        store: wanted.store.address,
        recovery_key: made.recovery_key,
        local,
    })
}

/// Brings a volume to this machine from its store: its newest state, or the one of the
/// commit with this id.
///
/// # Errors
/// If `commit` is no id, the store cannot be reached or holds no volume, or `credential` does not open it.
pub async fn open(
    home: &Home,
    wanted: Wanted,
    credential: Credential,
    commit: Option<&str>,
    report: Report<'_>,
) -> Result<Opened, Failure> {
    open_then(home, wanted, credential, commit, report, |_| Ok(())).await
}

/// As [`open`]; `then` adds to the state directory before it counts.
///
/// # Errors
/// As [`open`], and those of `then`.
pub(crate) async fn open_then(
    home: &Home,
    wanted: Wanted,
    credential: Credential,
    commit: Option<&str>,
    report: Report<'_>,
    then: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<Opened, Failure> {
    let commit = commit.map(commit_id).transpose()?;
    let staging = wanted.stage(home)?;
    let store = stores::open(&wanted.store, staging.dir(), Root::Expected)?;
    let settings = wanted.config().settings();
    let local = settings.local_rules.clone();
    let dir = staging.dir();
    let opened = larder_volume::open(dir, store, credential, commit, settings, report).await?;
    then(staging.dir())?;
    let volume: VolumeId = opened.volume;
    staging.settle(volume)?;
    Ok(Opened {
        volume: volume.to_string(),
        mount: wanted.mount,
        store: wanted.store.address,
        files: opened.files,
        bytes: opened.bytes,
        local,
        warnings: opened.warnings,
    })
}

fn commit_id(text: &str) -> Result<ChunkId, Failure> {
    text.parse().map_err(|_| {
        Failure::usage(format!(
            "{text:?} is no commit's id: that has 64 hexadecimal digits"
        ))
    })
}

/// `dir` as an absolute path with no symlinks, made if it is not there. It must be empty
/// and no other volume's.
fn mount_point(home: &Home, dir: &Path) -> Result<PathBuf, Failure> {
    fs::create_dir_all(dir).map_err(|e| Failure::io("make the directory", dir, e))?;
    let path = dir
        .canonicalize()
        .map_err(|e| Failure::io("find", dir, e))?;
    if let Some(other) = locate::by_mount(home, &path, &path)? {
        return Err(Failure::usage(format!(
            "{} is the mount path of volume {} already.",
            path.display(),
            other.volume
        )));
    }
    match fs::read_dir(&path).map(|mut entries| entries.next().is_none()) {
        Ok(true) => Ok(path),
        Ok(false) => Err(
            Failure::usage(format!("{} is not empty.", path.display())).hint(
                "Choose an empty directory; `larder adopt` takes an existing one into the volume \
             afterwards.",
            ),
        ),
        Err(e) if e.kind() == ErrorKind::NotADirectory => Err(Failure::usage(format!(
            "{} is not a directory.",
            path.display()
        ))),
        Err(e) => Err(Failure::io("read", &path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(root: &Path, mount: &str) -> Wanted {
        Wanted {
            mount: root.join(mount),
            store: StoreConfig {
                address: root.join("store").to_string_lossy().into_owned(),
                ..StoreConfig::default()
            },
            budget: ByteSize(1 << 30),
            secrets_file: None,
        }
    }

    #[test]
    fn a_mount_path_is_made_and_must_be_empty() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(&root.path().join("home"));
        assert!(wanted(root.path(), "new/deep").checked(&home).is_ok());
        assert!(root.path().join("new/deep").is_dir());
        let failure = wanted(root.path(), "new").checked(&home).unwrap_err();
        assert!(failure.hint.is_some_and(|hint| hint.contains("adopt")));
    }

    #[test]
    fn what_is_written_here_is_readable_for_its_owner_only() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(&root.path().join("home"));
        let wanted = wanted(root.path(), "m").checked(&home).unwrap();
        let staging = wanted.stage(&home).unwrap();
        assert_eq!(fs::metadata(staging.dir()).unwrap().mode() & 0o777, 0o700);
        let config = staging.dir().join(CONFIG_FILE);
        assert_eq!(fs::metadata(&config).unwrap().mode() & 0o777, 0o600);
        assert_eq!(Config::read(&config), Ok(wanted.config()));
    }
}

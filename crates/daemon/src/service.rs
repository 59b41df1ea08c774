//! A systemd user unit for a mount, and telling systemd that the daemon is ready.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::home::Replica;

/// A unit file: where it belongs and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUnit {
    /// Its name, as `larder-1a2b3c4d.service`.
    pub name: String,
    /// Its text.
    pub text: String,
}

impl ServiceUnit {
    /// The unit that mounts `replica` with the program at `program`.
    pub fn for_mount(replica: &Replica, program: &Path) -> Self {
        let volume = replica.volume.to_string();
        // The state lies in HOME/volumes/ID, wherever that came from.
        let environment = replica
            .dir
            .ancestors()
            .nth(2)
            .map(|home| quoted(&format!("LARDER_HOME={}", home.display())))
            .map(|home| format!("Environment={home}\n"))
            .unwrap_or_default();
        let text = format!(
            "[Unit]\n\
             Description=Larder at {mount}\n\
             \n\
             [Service]\n\
             Type=notify\n\
             {environment}\
             ExecStart={program} --volume {volume} mount --foreground\n\
             TimeoutStopSec=5min\n\
             Restart=on-failure\n\
             RestartSec=5s\n\
             \n\
             [Install]\n\
             WantedBy=default.target\n",
            mount = replica
                .config
                .mount
                .display()
                .to_string()
                .replace('%', "%%"),
            program = quoted(&program.display().to_string()).replace('$', "$$"),
        );
        Self {
            name: format!("larder-{}.service", &volume[..8]),
            text,
        }
    }

    /// Writes it where systemd looks for the user's units.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn install(&self) -> Result<PathBuf, Failure> {
        use etcetera::BaseStrategy;
        let base = etcetera::choose_base_strategy()
            .map_err(|e| Failure::failed(format!("There is no home directory: {e}.")))?;
        let dir = base.config_dir().join("systemd/user");
        fs::create_dir_all(&dir).map_err(|e| Failure::io("make the directory", &dir, e))?;
        let path = dir.join(&self.name);
        fs::write(&path, &self.text).map_err(|e| Failure::io("write", &path, e))?;
        Ok(path)
    }
}

/// A word of a unit file, in quotes, with systemd's specifiers taken as text. (A `$` means
/// something in `ExecStart=` only.)
fn quoted(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('%', "%%");
    format!("\"{escaped}\"")
}

/// Tells systemd, if it started this process, that the daemon is in this `state`
/// (`READY=1`, `STOPPING=1`).
pub(crate) fn tell_systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return;
    };
    let send = || {
        let address = match path.to_string_lossy().strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)
    };
    if let Err(error) = send() {
        tracing::warn!(%error, "systemd was not told {state}");
    }
}

#[cfg(test)]
mod tests {
    use larder_model::VolumeId;

    use super::*;
    use crate::config::{Config, Limits, PeersConfig, StoreConfig};
    use crate::units::ByteSize;

    #[test]
    fn the_unit_mounts_this_volume_with_this_program() {
        let replica = Replica {
            volume: VolumeId([0xab; 16]),
            dir: "/h$/volumes/abab".into(),
            config: Config {
                mount: "/home/me/50% $HOME".into(),
                budget: ByteSize(1),
                profile: None,
                allow_other: false,
                local: None,
                store: StoreConfig::default(),
                limits: Limits::default(),
                peers: PeersConfig::default(),
            },
        };
        let unit = ServiceUnit::for_mount(&replica, Path::new("/opt/my larder"));
        assert_eq!(unit.name, "larder-abababab.service");
        for line in [
            "ExecStart=\"/opt/my larder\" --volume abababababababababababababababab mount --foreground",
            "Environment=\"LARDER_HOME=/h$\"",
            "Description=Larder at /home/me/50%% $HOME",
            "Type=notify",
        ] {
            assert!(
                unit.text.lines().any(|l| l == line),
                "{line}\n{}",
                unit.text
            );
        }
    }
}

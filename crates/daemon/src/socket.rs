//! The control socket: a Unix socket in the volume's state directory, mode 0600.
//!
//! The kernel takes socket paths of at most 107 bytes. A longer one is reached through
//! the open state directory, `/proc/self/fd/N/control.sock`, so that the socket lies at
//! the same place however deep that is.

use std::fs::{self, File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

const SOCKET_FILE: &str = "control.sock";
/// Of `sockaddr_un`, without the zero at the end.
const PATH_MAX_BYTES: usize = 107;

/// A path that the kernel takes, and the directory it leads through while it is used.
struct Reach {
    path: PathBuf,
    _dir: Option<File>,
}

fn reach(state_dir: &Path) -> std::io::Result<Reach> {
    let path = state_dir.join(SOCKET_FILE);
    if path.as_os_str().as_bytes().len() <= PATH_MAX_BYTES {
        return Ok(Reach { path, _dir: None });
    }
    let dir = File::open(state_dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd()));
    Ok(Reach {
        path,
        _dir: Some(dir),
    })
}

/// Listens on the control socket of `state_dir`. The caller holds the volume's lock, so a
/// socket that lies there is a dead daemon's and is replaced.
///
/// # Errors
/// If the socket cannot be made.
pub(crate) fn listen(state_dir: &Path) -> Result<UnixListener, Failure> {
    let at = state_dir.join(SOCKET_FILE);
    remove(state_dir)?;
    let bind = || {
        let reach = reach(state_dir)?;
        let listener = UnixListener::bind(&reach.path)?;
        fs::set_permissions(&reach.path, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|e: std::io::Error| Failure::io("make the control socket", &at, e))
}

/// Removes the socket, if there is one.
///
/// # Errors
/// If it cannot be removed.
pub(crate) fn remove(state_dir: &Path) -> Result<(), Failure> {
    let at = state_dir.join(SOCKET_FILE);
    match fs::remove_file(&at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::io("remove the old control socket", &at, e))
        }
        _ => Ok(()),
    }
}

/// A line to the daemon of `state_dir`; `None` if none listens.
///
/// # Errors
/// If the socket is there and cannot be used (no permission).
pub(crate) fn connect(state_dir: &Path) -> Result<Option<UnixStream>, Failure> {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    match reach(state_dir).and_then(|reach| UnixStream::connect(&reach.path)) {
        Ok(stream) => Ok(Some(stream)),
        Err(e) if matches!(e.kind(), ConnectionRefused | NotFound) => Ok(None),
        Err(e) => Err(Failure::io(
            "reach the daemon at",
            &state_dir.join(SOCKET_FILE),
            e,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_reached_however_long_its_path_and_only_while_it_listens() {
        let root = tempfile::tempdir().unwrap();
        for dir in [root.path().join("short"), root.path().join("l".repeat(200))] {
            fs::create_dir(&dir).unwrap();
            assert!(connect(&dir).unwrap().is_none());
            let listener = listen(&dir).unwrap();
            let mode = fs::metadata(dir.join(SOCKET_FILE))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
            assert!(connect(&dir).unwrap().is_some());
            drop(listener);
            assert!(connect(&dir).unwrap().is_none());
            drop(listen(&dir).unwrap());
        }
    }
}

//! The place in the tree of files that a volume is mounted on.
//!
//! Root mounts and unmounts by system calls, anyone else by the set-user-id helper
//! `fusermount3`, which hands the connection over through a socket.
//!
//! fuser could mount too, but when its session ends it unmounts the path once more,
//! whatever is mounted there by then.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::error::MountError;

const DEVICE: &str = "/dev/fuse";
const HELPER: &str = "fusermount3";
/// How a mount of Larder's shows in the system's table of mounts.
const TYPE: &str = "fuse.larder";
/// Mounts of dead daemons that may lie on top of each other.
const DEAD_LAYERS_MAX: usize = 16;
/// How many users of a busy mount are named.
const USERS_NAMED: usize = 5;

/// What [`mend`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mended {
    /// No mount of Larder's is there.
    NotMounted,
    /// A mount is there, and it is served.
    Alive,
    /// A mount was there whose daemon is gone. It is taken away.
    Detached,
}

/// Takes a mount away whose daemon is gone, so that the place can be mounted on again.
///
/// # Errors
/// If it cannot be taken away.
pub fn mend(path: &Path) -> Result<Mended, MountError> {
    let mut found = Mended::NotMounted;
    for _ in 0..DEAD_LAYERS_MAX {
        let path = absolute(path)?;
        if !is_mounted(&path)? {
            return Ok(found);
        }
        if !is_dead(&path) {
            return Ok(Mended::Alive);
        }
        detach(&path)?;
        found = Mended::Detached;
    }
    Ok(found)
}

/// Whether a mount of Larder's is at the path, served or not.
///
/// # Errors
/// If the system's table of mounts cannot be read.
pub fn is_mounted(path: &Path) -> Result<bool, MountError> {
    let table = "/proc/self/mountinfo";
    let mounts = std::fs::read(table).map_err(|source| MountError::Io {
        path: table.into(),
        source,
    })?;
    let path = escaped(path.as_os_str().as_bytes());
    Ok(mounts
        .split(|&byte| byte == b'\n')
        .any(|line| is_mount_of(line, &path)))
}

/// Whether the line of the table says that a volume is mounted on `path`.
fn is_mount_of(line: &[u8], path: &[u8]) -> bool {
    let mut fields = line.split(|&byte| byte == b' ');
    let place = fields.nth(4);
    // Optional fields come in between; a lone dash ends them.
    let kind = fields.skip_while(|field| *field != b"-").nth(1);
    place == Some(path) && kind == Some(TYPE.as_bytes())
}

/// As the table writes a path: blanks and backslashes as octal numbers.
fn escaped(path: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
        _ => vec![byte],
    };
    path.iter().flat_map(escape).collect()
}

/// Whether nobody serves the mount. The kernel answers a stat from what it keeps of a dead
/// daemon's words, for hours; a statfs it always hands on.
fn is_dead(path: &Path) -> bool {
    use rustix::io::Errno;
    let asked = rustix::fs::statfs(path);
    matches!(asked, Err(Errno::NOTCONN | Errno::CONNABORTED))
}

/// The path, without symlinks as far as that can be told; a dead mount answers no question
/// about itself, only its parent does.
fn absolute(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |source| MountError::Io {
        path: path.to_owned(),
        source,
    };
    let full = std::path::absolute(path).map_err(failed)?;
    match (full.canonicalize(), full.parent(), full.file_name()) {
        (Ok(real), ..) => Ok(real),
        (Err(_), Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(failed)?.join(name)),
        (Err(error), ..) => Err(failed(error)),
    }
}

/// The real path of a directory that a volume can be mounted on.
///
/// # Errors
/// If it is not an empty directory, or taken.
pub(crate) fn check(path: &Path) -> Result<PathBuf, MountError> {
    let failed = |source: io::Error| match source.raw_os_error() {
        Some(libc::ENOENT) => MountError::Missing(path.to_owned()),
        Some(libc::ENOTDIR) => MountError::NotDirectory(path.to_owned()),
        Some(libc::ENOTCONN) => MountError::Dead(path.to_owned()),
        _ => MountError::Io {
            path: path.to_owned(),
            source,
        },
    };
    let real = path.canonicalize().map_err(failed)?;
    match is_mounted(&real)? {
        true if is_dead(&real) => return Err(MountError::Dead(real)),
        true => return Err(MountError::Taken(real)),
        false => {}
    }
    let mut entries = std::fs::read_dir(&real).map_err(failed)?;
    match entries.next() {
        None => Ok(real),
        Some(_) => Err(MountError::NotEmpty(real)),
    }
}

/// Mounts on the directory. The descriptor is the connection to the kernel.
pub(crate) fn attach(path: &Path, allow_other: bool) -> Result<OwnedFd, MountError> {
    let failed = |place: &Path, source| MountError::Io {
        path: place.to_owned(),
        source,
    };
    let device = File::options().read(true).write(true).open(DEVICE);
    let device = device.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MountError::NoFuse,
        io::ErrorKind::PermissionDenied => MountError::FuseNotAllowed,
        _ => failed(Path::new(DEVICE), error),
    })?;
    match attach_directly(&device, path, allow_other) {
        Ok(()) => Ok(device.into()),
        Err(rustix::io::Errno::PERM) => attach_by_helper(path, allow_other),
        Err(error) => Err(failed(path, error.into())),
    }
}

fn attach_directly(device: &File, path: &Path, allow_other: bool) -> rustix::io::Result<()> {
    let options = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
        if allow_other { ",allow_other" } else { "" },
    );
    let options = std::ffi::CString::new(options).map_err(|_| rustix::io::Errno::INVAL)?;
    // Programs of other machines must not gain rights here by their mode or their numbers.
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("larder", path, TYPE, flags, Some(options.as_c_str()))
}

fn attach_by_helper(path: &Path, allow_other: bool) -> Result<OwnedFd, MountError> {
    let failed = |source| MountError::Io {
        path: path.to_owned(),
        source,
    };
    let (ours, helpers) = UnixStream::pair().map_err(failed)?;
    rustix::io::fcntl_setfd(&helpers, rustix::io::FdFlags::empty())
        .map_err(|error| failed(error.into()))?;
    let mut options = "fsname=larder,subtype=larder,nosuid,nodev,default_permissions".to_owned();
    if allow_other {
        options.push_str(",allow_other");
    }
    let helper = Command::new(HELPER)
        .args(["-o", &options, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", helpers.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| helper_missing(error, path))?;
    drop(helpers);
    let received = receive_descriptor(&ours);
    let output = helper.wait_with_output().map_err(failed)?;
    match received {
        Ok(Some(device)) if output.status.success() => Ok(device),
        _ => Err(helper_refused(path, &output.stderr)),
    }
}

fn helper_missing(error: io::Error, path: &Path) -> MountError {
    match error.kind() {
        io::ErrorKind::NotFound => MountError::NoHelper,
        _ => MountError::Io {
            path: path.to_owned(),
            source: error,
        },
    }
}

fn helper_refused(path: &Path, stderr: &[u8]) -> MountError {
    let words = String::from_utf8_lossy(stderr).trim().to_owned();
    if words.contains("user_allow_other") {
        return MountError::OthersNotAllowed;
    }
    MountError::Helper {
        path: path.to_owned(),
        words,
    }
}

/// The descriptor that comes through the socket; `None` if it closes without one.
fn receive_descriptor(socket: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptor = |message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    };
    Ok(ancillary.drain().find_map(descriptor))
}

/// Unmounts, unless it is in use. Waits until what was written has reached the daemon.
pub(crate) fn unmount(path: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(path, UnmountFlags::empty()) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(busy(path)),
        Err(rustix::io::Errno::PERM) => match run_helper(&["-u", "--"], path) {
            Err(MountError::Helper { words, .. }) if words.contains("busy") => Err(busy(path)),
            other => other,
        },
        Err(error) => Err(MountError::Io {
            path: path.to_owned(),
            source: error.into(),
        }),
    }
}

/// Takes the mount out of the tree at once. Whoever has files of it open goes on.
pub(crate) fn detach(path: &Path) -> Result<(), MountError> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => run_helper(&["-u", "-z", "--"], path),
        Err(error) => Err(MountError::Io {
            path: path.to_owned(),
            source: error.into(),
        }),
    }
}

fn run_helper(args: &[&str], path: &Path) -> Result<(), MountError> {
    let output = Command::new(HELPER)
        .args(args)
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| helper_missing(error, path))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(helper_refused(path, &output.stderr))
    }
}

fn busy(path: &Path) -> MountError {
    MountError::Busy {
        path: path.to_owned(),
        users: users(path),
    }
}

/// Who is in the mount or has a file of it open, as far as we may see. Only the links of
/// `/proc` are read, never what they lead to: that could ask the mount.
fn users(path: &Path) -> Vec<String> {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = processes.flatten().filter(|process| {
        process
            .file_name()
            .as_bytes()
            .iter()
            .all(u8::is_ascii_digit)
    });
    pids.map(|process| process.path())
        .filter(|process| uses(process, path))
        .map(|process| {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            let pid = process
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            format!("{} ({pid})", name.trim())
        })
        .take(USERS_NAMED)
        .collect()
}

fn uses(process: &Path, mount: &Path) -> bool {
    let leads_in = |link: &Path| std::fs::read_link(link).is_ok_and(|to| to.starts_with(mount));
    let has_open = || {
        let Ok(descriptors) = std::fs::read_dir(process.join("fd")) else {
            return false;
        };
        descriptors
            .flatten()
            .any(|descriptor| leads_in(&descriptor.path()))
    };
    ["cwd", "root", "exe"]
        .iter()
        .any(|link| leads_in(&process.join(link)))
        || has_open()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_in_the_table_of_mounts_whatever_its_name() {
        let line = br"91 26 0:52 / /home/a\040b rw,nosuid shared:3 - fuse.larder larder rw";
        assert!(is_mount_of(line, &escaped(b"/home/a b")));
        assert!(!is_mount_of(line, &escaped(b"/home/a")));
        let other = br"91 26 0:52 / /home/a rw - fuse.sshfs host rw";
        assert!(!is_mount_of(other, b"/home/a"));
    }

    #[test]
    fn only_an_empty_directory_can_be_mounted_on() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path()).is_ok());
        let file = dir.path().join("file");
        assert!(matches!(check(&file), Err(MountError::Missing(_))));
        std::fs::write(&file, "").unwrap();
        assert!(matches!(check(&file), Err(MountError::NotDirectory(_))));
        assert!(matches!(check(dir.path()), Err(MountError::NotEmpty(_))));
    }

    #[test]
    fn a_place_without_a_mount_needs_no_mending() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mend(dir.path()).unwrap(), Mended::NotMounted);
    }

    /// Takes the mount away, however the test ends.
    struct Guard<'a>(&'a Path);

    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            let _ = detach(self.0);
        }
    }

    #[test]
    fn mounts_whose_daemons_are_gone_are_mended_all_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let first = attach(dir.path(), false).unwrap();
        let _guard = Guard(dir.path());
        drop(first);
        assert!(matches!(check(dir.path()), Err(MountError::Dead(_))));
        drop(attach(dir.path(), false).unwrap());
        assert_eq!(mend(dir.path()).unwrap(), Mended::Detached);
        assert_eq!(mend(dir.path()).unwrap(), Mended::NotMounted);
        assert!(check(dir.path()).is_ok());
    }

    #[test]
    fn a_helper_that_closes_the_socket_gave_nothing() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(receive_descriptor(&ours).unwrap().is_none());
    }
}

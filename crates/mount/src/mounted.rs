//! The life of a mount: made, served, ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fuser::{BackgroundSession, BackingId, Config, Session, SessionACL};
use larder_volume::Volume;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::thread::CapabilitySet;

use crate::error::MountError;
use crate::face::Face;
use crate::listings::Listings;
use crate::lookups::Lookups;
use crate::mountpoint;
use crate::news::{self, Desk};
use crate::profile::Profile;
use crate::server::Server;

/// How far the kernel reads ahead, in KiB; its own offer is 128.
const READ_AHEAD_KIB: u32 = 1024;

/// How to mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MountOptions {
    /// The profile; [`Profile::Passthrough`] falls back to [`Profile::Cached`] where the
    /// system does not grant it.
    pub profile: Profile,
    /// Whether other users than the one who mounts may enter; permissions hold for them.
    pub allow_other: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            profile: Profile::Passthrough,
            allow_other: false,
        }
    }
}

/// A mounted volume. Dropping it takes the mount away, even from programs that use it.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
    profile: Profile,
    volume: Arc<Volume>,
    threads: Mutex<Option<Threads>>,
}

#[derive(Debug)]
struct Threads {
    session: BackgroundSession,
    news: JoinHandle<()>,
}

impl Threads {
    /// Waits for the end of both; `hang_up` is called in between, so that no more news come.
    fn wait(self, hang_up: impl FnOnce()) -> io::Result<()> {
        let ended = self.session.join();
        hang_up();
        // If the session broke, the kernel may keep whoever tells it news for ever.
        ended?;
        let _ = self.news.join();
        Ok(())
    }
}

/// Mounts the volume on an empty directory.
///
/// # Errors
/// If the place is not fit, or the system does not let us.
pub fn mount(
    volume: Arc<Volume>,
    path: &Path,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let path = mountpoint::check(path)?;
    if options.profile != Profile::Passthrough {
        return mount_as(&volume, path, options);
    }
    let why_not = if has_sys_admin() {
        match mount_as(&volume, path.clone(), options) {
            Err(MountError::Session { source, .. }) => source.to_string(),
            other => return other,
        }
    } else {
        "it needs CAP_SYS_ADMIN".to_owned()
    };
    tracing::warn!(%why_not, "no passthrough here; mounting with profile cached");
    let profile = Profile::Cached;
    mount_as(
        &volume,
        path,
        &MountOptions {
            profile,
            ..*options
        },
    )
}

fn mount_as(
    volume: &Arc<Volume>,
    path: PathBuf,
    options: &MountOptions,
) -> Result<Mounted, MountError> {
    let device = mountpoint::attach(&path, options.allow_other)?;
    let attached = Attached(Some(path));
    let failed = |source| MountError::Session {
        path: attached.path().to_owned(),
        source,
    };
    let listings = Arc::new(Listings::default());
    let lookups = Arc::new(Lookups::default());
    let (desk, news) = Desk::new(Arc::clone(&listings), Arc::clone(&lookups));
    let face = Face::new(
        Arc::clone(volume),
        options.profile,
        listings,
        lookups,
        desk.clone(),
    );
    let face = Arc::new(face);
    let session = start_session(Arc::clone(&face), device).map_err(failed)?;
    let _ = face.notifier.set(session.notifier());
    let news = news::start(news, session.notifier()).map_err(failed)?;
    let session = session.spawn().map_err(failed)?;
    volume.set_notifier(Some(Box::new(desk)));
    let path = attached.keep();
    read_further_ahead(&path);
    Ok(Mounted {
        path,
        profile: options.profile,
        volume: Arc::clone(volume),
        threads: Mutex::new(Some(Threads { session, news })),
    })
}

/// A mount that is taken away again unless all goes well.
struct Attached(Option<PathBuf>);

impl Attached {
    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    fn keep(mut self) -> PathBuf {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = mountpoint::detach(path)
        {
            tracing::warn!(%error, "a mount that failed could not be taken away");
        }
    }
}

fn start_session(face: Arc<Face>, device: OwnedFd) -> io::Result<Session<Server>> {
    let (profile, volume) = (face.profile, Arc::clone(&face.volume));
    let mut config = Config::default();
    // Who may enter is for the kernel to say, and it does. fuser would also turn away the
    // kernel's own threads, which tell the times of what was written in the name of root.
    config.acl = SessionACL::All;
    // One thread: two were slower at small opens, and what may wait does so elsewhere.
    config.n_threads = Some(1);
    let session = Session::from_fd(Server(face), device, config.acl, config)?;
    if profile == Profile::Passthrough {
        probe_passthrough(&session, volume.cache_root())?;
    }
    Ok(session)
}

/// Whether the kernel takes a backing file from us: in a container it may not, though we
/// look like root. What it took it keeps until the unmount, so it gets an empty file.
fn probe_passthrough(session: &Session<Server>, cache: &Path) -> io::Result<()> {
    use rustix::fs::OFlags;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    let empty = rustix::fs::open(cache, flags, mode)?;
    BackingId::create_raw(session.as_fd(), empty)?;
    Ok(())
}

fn has_sys_admin() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Lifts how far the kernel reads ahead, where we may.
fn read_further_ahead(path: &Path) {
    // Of what the kernel knows: a question to this mount is one to this process, and who kills
    // it meanwhile leaves a thread that waits for its own answer, and a mount that hangs.
    let (flags, wanted) = (AtFlags::STATX_DONT_SYNC, StatxFlags::empty());
    let Ok(found) = rustix::fs::statx(rustix::fs::CWD, path, flags, wanted) else {
        return;
    };
    let device = format!("{}:{}", found.stx_dev_major, found.stx_dev_minor);
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%error, setting, "the kernel keeps its own readahead");
    }
}

impl Mounted {
    /// The directory it is mounted on, without symlinks.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The profile that is in use; not always the one that was asked for.
    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// Unmounts, after all that was written has arrived. [`Mounted::wait`] then returns.
    ///
    /// # Errors
    /// [`MountError::Busy`] if programs use it: then it stays mounted.
    pub fn unmount(&self) -> Result<(), MountError> {
        if self.is_gone() {
            return Ok(());
        }
        mountpoint::unmount(&self.path)
    }

    /// Takes the mount out of the tree at once. Programs that use it go on until they
    /// close what they have open; only then [`Mounted::wait`] returns.
    ///
    /// # Errors
    /// If the system does not let us.
    pub fn detach(&self) -> Result<(), MountError> {
        if self.is_gone() {
            return Ok(());
        }
        mountpoint::detach(&self.path)
    }

    /// Whether it is known that nothing is mounted there any more.
    fn is_gone(&self) -> bool {
        mountpoint::is_mounted(&self.path).is_ok_and(|mounted| !mounted)
    }

    /// Waits until the mount has ended, however it ends, and all that it began is done.
    ///
    /// # Errors
    /// If the session broke. Then nobody answers programs that use the mount, and they wait
    /// until this process ends: it should do so at once.
    pub fn wait(&self) -> Result<(), MountError> {
        let mut threads = self.threads.lock();
        let Some(threads) = threads.take() else {
            return Ok(());
        };
        let ended = threads.wait(|| self.volume.set_notifier(None));
        ended.map_err(|source| MountError::Session {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.threads.lock().is_none() {
            return;
        }
        if let Err(error) = self.unmount().or_else(|_| self.detach()) {
            tracing::warn!(%error, "the mount stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::{Child, Command, Stdio};
    use std::sync::mpsc;
    use std::time::{Duration, UNIX_EPOCH};

    use fuser::{
        FileAttr, FileHandle, FileType, Filesystem, INodeNo, ReplyAttr, ReplyEntry, Request,
    };

    use super::*;
    use crate::workers::Pool;

    /// A file system with a bug, on the session's thread and in a worker's job.
    struct Buggy(Pool);

    impl Filesystem for Buggy {
        fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
            let root = FileAttr {
                ino,
                kind: FileType::Directory,
                perm: 0o755,
                nlink: 2,
                size: 0,
                blocks: 0,
                atime: UNIX_EPOCH,
                mtime: UNIX_EPOCH,
                ctime: UNIX_EPOCH,
                crtime: UNIX_EPOCH,
                uid: 0,
                gid: 0,
                rdev: 0,
                blksize: 4096,
                flags: 0,
            };
            reply.attr(&Duration::ZERO, &root);
        }

        fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
            if name == "session" {
                panic!("a bug");
            }
            self.0.run(move || {
                let _unanswered = reply;
                panic!("a bug");
            });
        }
    }

    /// In a process of its own, as a bug here must not keep this one.
    fn look_at(path: &Path) -> Child {
        let mut look = Command::new("stat");
        look.arg(path).env("LC_ALL", "C").stderr(Stdio::piped());
        look.spawn().unwrap()
    }

    fn words_of(look: Child) -> String {
        let said = look.wait_with_output().unwrap();
        String::from_utf8(said.stderr).unwrap()
    }

    /// A program that waits for a mount which nobody serves waits for ever.
    #[test]
    fn a_bug_in_a_job_is_an_error_to_one_and_in_the_session_the_end() {
        let place = tempfile::tempdir().unwrap();
        let device = mountpoint::attach(place.path(), false).unwrap();
        let _attached = Attached(Some(place.path().to_owned()));
        let mut config = Config::default();
        config.n_threads = Some(1);
        let buggy = Buggy(Pool::new("buggy", 1));
        let session = Session::from_fd(buggy, device, SessionACL::All, config).unwrap();
        let session = session.spawn().unwrap();

        for _ in 0..2 {
            let words = words_of(look_at(&place.path().join("job")));
            assert!(words.contains("Input/output error"), "{words}");
        }

        // News that the kernel does not take.
        let (kernel, never) = mpsc::channel::<()>();
        let news = std::thread::spawn(move || never.recv().unwrap_or(()));
        let look = look_at(&place.path().join("session"));
        let ended = Threads { session, news }.wait(|| ());
        assert!(ended.is_err());
        drop(words_of(look));
        let words = words_of(look_at(place.path()));
        assert!(words.contains("not connected"), "{words}");
        drop(kernel);
    }
}

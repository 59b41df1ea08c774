//! The daemon of one volume, from its lock to its clean end.
//!
//! In this order: the lock and recovery, the mount (after a dead daemon's was taken away),
//! the loops, the control socket; then it is ready. It ends on SIGTERM, SIGINT, a request
//! or an unmount from outside: the mount goes first, so that no program writes any more,
//! then what was written is made durable, and the volume is marked as cleanly closed.
//! Killed in between, it leaves a volume that recovers by itself and a mount that the next
//! `mount` takes away; a panic where the mount is served ends it just so.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_mount::{Mended, MountError, MountOptions, Mounted, Profile};
use larder_volume::StateDir;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};

use crate::client::Client;
use crate::detach::Ready;
use crate::failure::{Failure, FailureKind};
use crate::home::Replica;
use crate::host::Host;
use crate::operations::Unmount;
use crate::service::tell_systemd;
use crate::{server, socket};

/// How the user wants it mounted this time, over what the settings say.
#[derive(Debug, Clone, Copy, Default)]
pub struct MountWish {
    /// The profile.
    pub profile: Option<Profile>,
    /// Let other users in.
    pub allow_other: bool,
}

/// What a file that is still open in a mount that was detached may take to close.
const DETACHED_PATIENCE: Duration = Duration::from_secs(3);
/// What answers on the control socket may take when the daemon ends.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// What a last line of the log may take to be written.
const LOG_PATIENCE: Duration = Duration::from_millis(200);
/// What an ending daemon may take to let go of its volume.
const END_PATIENCE: Duration = Duration::from_secs(300);
const END_INTERVAL: Duration = Duration::from_millis(20);

/// Is the daemon of `replica` until it is told to end; calls `ready` once it serves. Must be
/// called on a runtime of several threads.
///
/// # Errors
/// If it cannot start, or could not close the volume cleanly.
pub async fn run(
    replica: &Replica,
    wish: MountWish,
    ready: impl FnOnce(&Ready),
) -> Result<(), Failure> {
    if Client::find(&replica.dir)?.is_some() {
        return Err(Failure::new(
            FailureKind::Daemon,
            format!("{} is mounted already.", replica.config.mount.display()),
        ));
    }
    raise_file_limit();
    let signals = Signals::new()?;
    let host = Arc::new(Host::start(replica).await?);
    let served = serve(&host, wish, signals, ready).await;
    // What failed before counts more than what fails now, and closing is tried all the same.
    let closed = host.close().await;
    let removed = socket::remove(&replica.dir);
    let outcome = served.and(closed).and(removed);
    match &outcome {
        Ok(()) => tracing::info!("the daemon ends"),
        Err(failure) => tracing::error!(%failure, "the daemon ends"),
    }
    outcome
}

async fn serve(
    host: &Arc<Host>,
    wish: MountWish,
    mut signals: Signals,
    ready: impl FnOnce(&Ready),
) -> Result<(), Failure> {
    let (mounted, notes) = mount(host, wish)?;
    host.volume.run();
    let meeting = tokio::spawn(Arc::clone(host).keep_meeting());
    let ended = watch_mount(Arc::clone(&mounted))?;
    let server = start_server(host)?;
    let pid = std::process::id();
    tracing::info!(pid, profile = %mounted.profile(), "the daemon serves");
    ready(&Ready { pid, notes });
    tell_systemd("READY=1");
    let mut ending = host.ending.subscribe();
    tokio::select! {
        () = signals.any() => end_mount(&mounted),
        _ = ending.wait_for(|ending| *ending) => {}
        _ = ended.wait() => {}
    }
    tell_systemd("STOPPING=1");
    meeting.abort();
    host.stop_meeting().await;
    host.ending.send_replace(true);
    if tokio::time::timeout(DETACHED_PATIENCE, ended.wait())
        .await
        .is_err()
    {
        tracing::warn!("files were still open in the mount when the daemon ended");
    }
    let _ = tokio::time::timeout(ANSWER_PATIENCE, server).await;
    Ok(())
}

/// Mounts, and says what the user should know of it.
fn mount(host: &Host, wish: MountWish) -> Result<(Arc<Mounted>, Vec<String>), Failure> {
    let config = &host.replica.config;
    let mut notes = Vec::new();
    if larder_mount::mend(&config.mount)? == Mended::Detached {
        notes.push("A dead daemon had left its mount here; it was taken away.".to_owned());
    }
    let mut options = MountOptions {
        allow_other: wish.allow_other || config.allow_other,
        ..MountOptions::default()
    };
    let asked = wish.profile.or(config.profile);
    options.profile = asked.unwrap_or(options.profile);
    let mounted = tokio::task::block_in_place(|| {
        larder_mount::mount(Arc::clone(&host.volume), &config.mount, &options)
    })?;
    if asked.is_some_and(|asked| asked != mounted.profile()) {
        notes.push(format!(
            "The profile {} is not to be had here; it is {}.",
            options.profile,
            mounted.profile()
        ));
    }
    let mounted = Arc::new(mounted);
    *host.mounted.lock() = Some(Arc::clone(&mounted));
    Ok((mounted, notes))
}

/// Tells when a mount has ended.
struct Ended(watch::Receiver<bool>);

impl Ended {
    async fn wait(&self) {
        // A sender that is gone has ended too.
        let _ = self.0.clone().wait_for(|ended| *ended).await;
    }
}

/// Waits for the mount's end on a thread of its own, which a file that stays open for ever
/// can hold without holding the daemon.
fn watch_mount(mounted: Arc<Mounted>) -> Result<Ended, Failure> {
    let (tell, ended) = watch::channel(false);
    std::thread::Builder::new()
        .name("mount-end".into())
        .spawn(move || {
            if let Err(error) = mounted.wait() {
                end_at_once(&error);
            }
            tell.send_replace(true);
        })
        .map_err(|e| Failure::failed(format!("No thread could be started: {e}.")))?;
    Ok(Ended(ended))
}

/// Ends the process as a kill would. Nobody serves the mount any more, and programs that use
/// it wait until its last descriptor is closed; whoever ends cleanly might wait for them. The
/// volume recovers, and `larder mount`, `doctor` or systemd take the dead mount away.
fn end_at_once(error: &MountError) -> ! {
    tracing::error!(%error, "the mount broke, and the daemon ends at once; mount it again");
    // Another thread writes the log.
    std::thread::sleep(LOG_PATIENCE);
    std::process::exit(1)
}

fn start_server(host: &Arc<Host>) -> Result<oneshot::Receiver<()>, Failure> {
    let listener = socket::listen(&host.replica.dir)?;
    let mut ending = host.ending.subscribe();
    let stop = async move {
        let _ = ending.wait_for(|ending| *ending).await;
    };
    let (done, server) = oneshot::channel();
    let host = Arc::clone(host);
    tokio::spawn(async move {
        if let Err(error) = server::serve(listener, host, stop).await {
            tracing::error!(%error, "the control socket broke");
        }
        let _ = done.send(());
    });
    Ok(server)
}

/// Takes the mount away: politely, else although it is in use. A signal leaves no choice.
fn end_mount(mounted: &Mounted) {
    let ended = tokio::task::block_in_place(|| match mounted.unmount() {
        Err(MountError::Busy { .. }) => mounted.detach(),
        other => other,
    });
    if let Err(error) = ended {
        tracing::error!(%error, "the mount could not be taken away");
    }
}

/// The signals that end the daemon.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|e| Failure::failed(format!("No signals can be had: {e}.")))
        };
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A mount opens many files at once; the limit for that may be raised up to the hard one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit of open files stays");
    }
}

/// What there was to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmounted {
    /// A daemon, which ended.
    Ended {
        /// What it leaves that is not stored yet.
        bytes_waiting: u64,
    },
    /// Only the mount of a daemon that died.
    DeadMount,
    /// Neither daemon nor mount.
    Nothing,
}

/// Unmounts the volume of `replica` and ends its daemon, whether it answers or died.
/// Returns when the volume is free.
///
/// # Errors
/// If the mount is in use and not to be forced, or the daemon does not end.
pub async fn unmount(replica: &Replica, force: bool) -> Result<Unmounted, Failure> {
    let Some(daemon) = Client::find(&replica.dir)? else {
        return Ok(match larder_mount::mend(&replica.config.mount)? {
            Mended::Detached => Unmounted::DeadMount,
            Mended::Alive | Mended::NotMounted => Unmounted::Nothing,
        });
    };
    let bytes_waiting = daemon.ask(&Unmount { force }, &|_| {}).await?;
    let begin = Instant::now();
    while StateDir::lock(&replica.dir).is_err() {
        if begin.elapsed() > END_PATIENCE {
            return Err(Failure::new(
                FailureKind::Daemon,
                "The daemon unmounted and does not end.",
            )
            .hint("Its log in the state directory may say why."));
        }
        tokio::time::sleep(END_INTERVAL).await;
    }
    Ok(Unmounted::Ended { bytes_waiting })
}

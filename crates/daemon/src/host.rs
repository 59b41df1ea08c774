//! A volume in this process: started under its lock, asked, and closed cleanly.
//!
//! The daemon has one for as long as it runs, a command without a daemon for as long as it
//! works.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_mount::{MountError, Mounted};
use larder_volume::{Volume, VolumeError};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::failure::Failure;
use crate::home::Replica;
use crate::peers::Meeting;
use crate::stores::{self, Root};

/// A daemon that is just ending may hold the lock for a moment.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
const LOCK_INTERVAL: Duration = Duration::from_millis(50);

/// A volume that this process holds.
#[derive(Debug)]
pub struct Host {
    pub(crate) volume: Arc<Volume>,
    pub(crate) replica: Replica,
    /// The mount, in a daemon.
    pub(crate) mounted: Mutex<Option<Arc<Mounted>>>,
    /// Other machines of the volume, in a daemon.
    pub(crate) peers: Meeting,
    /// Whether the daemon is to end.
    pub(crate) ending: watch::Sender<bool>,
}

impl Host {
    /// Takes the lock of `replica` and opens its volume; nothing runs in the background yet.
    /// Waits a moment for a holder that is ending. Must be called on a runtime.
    ///
    /// # Errors
    /// If another process holds the volume, or its state cannot be read.
    pub(crate) async fn start(replica: &Replica) -> Result<Self, Failure> {
        let begin = Instant::now();
        loop {
            match Self::try_start(replica)? {
                Ok(host) => return Ok(host),
                Err(holder) if begin.elapsed() > LOCK_PATIENCE => {
                    return Err(held_by(&holder));
                }
                Err(_) => tokio::time::sleep(LOCK_INTERVAL).await,
            }
        }
    }

    /// The inner error is the process that holds the volume.
    pub(crate) fn try_start(replica: &Replica) -> Result<Result<Self, String>, Failure> {
        let store = stores::open(&replica.config.store, &replica.dir, Root::Expected)?;
        let runtime = tokio::runtime::Handle::current();
        let settings = replica.config.settings();
        let started =
            tokio::task::block_in_place(|| Volume::start(&replica.dir, store, settings, runtime));
        match started {
            Ok(volume) => Ok(Ok(Self {
                volume,
                replica: replica.clone(),
                mounted: Mutex::new(None),
                peers: Meeting::default(),
                ending: watch::Sender::new(false),
            })),
            Err(VolumeError::Locked(holder)) => Ok(Err(holder)),
            Err(error) => Err(Failure::from(error)),
        }
    }

    /// Takes the mount away.
    ///
    /// # Errors
    /// If it is in use and not to be forced.
    pub(crate) fn unmount(&self, force: bool) -> Result<(), Failure> {
        let mounted = self.mounted.lock().clone();
        let Some(mounted) = mounted else {
            return Ok(());
        };
        match mounted.unmount() {
            Err(MountError::Busy { .. }) if force => Ok(mounted.detach()?),
            Err(error @ MountError::Busy { .. }) => {
                Err(Failure::from(error).hint("`larder unmount --force` detaches it all the same."))
            }
            other => Ok(other?),
        }
    }

    /// Makes all durable and marks the volume as cleanly closed.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        self.stop_meeting().await;
        self.volume.shutdown().await.map_err(Failure::from)
    }
}

/// The failure of a volume that process `holder` has.
pub(crate) fn held_by(holder: &str) -> Failure {
    let who = match holder {
        "" => "Another process".to_owned(),
        pid => format!("Process {pid}"),
    };
    Failure::new(
        crate::failure::FailureKind::Daemon,
        format!("{who} holds the volume and answers no commands."),
    )
    .hint("Another larder command may be at work; if none is, `larder doctor` looks closer.")
}

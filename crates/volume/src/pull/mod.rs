//! The way from the store to the cache, and out of the cache again.
//!
//! - `fetch`: a reader's missing bytes come; `flight` makes one request of many readers'
//!   wish, `request` few requests of many chunks, `locate` knows where they lie, and
//!   `source` asks the store, patiently or not at all.
//! - `readahead`, `neighbours`, `behind`: what a reader will need next comes behind its back.
//! - `list`: the pages of long lists.
//! - `nearby`: other replicas who may be faster than the store, or there while it is not.
//! - `evict`: what goes when the budget is full. `stash`, `checkout` and `pin` do the same
//!   by hand.
//! - `bootstrap`: a new volume, or a known one on a new machine.
//! - `verify`: every hash, here and on the store.
//!
//! Promises: no byte from the store gets into the cache unverified; no reader waits longer
//! than the settings say; only [`Volume::drop_content`] takes anything away.

mod behind;
mod bootstrap;
mod checkout;
mod evict;
mod failure;
mod fetch;
mod flight;
mod list;
mod locate;
mod nearby;
mod neighbours;
mod pin;
mod problems;
mod readahead;
mod request;
mod source;
mod stash;
mod verify;
mod walk;

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use larder_format::VolumeKeys;
use larder_store::Store;
use tokio::runtime::Handle;
use tokio::sync::{RwLock, watch};

pub use bootstrap::{Credential, InitReport, OpenReport, find_volume, init, init_at_cost, open};
pub(crate) use bootstrap::{
    Found, fetch_chunks, fetch_missing, forget_pages, heads_in, keep_pages, learn_indexes,
    list_heads, newest_of,
};
pub use checkout::CheckoutReport;
pub(crate) use evict::look_soon as make_room_soon;
pub use fetch::Arrived;
pub(crate) use fetch::Coming;
pub use nearby::Nearby;
pub(crate) use nearby::Sought;

pub(crate) use source::Urgency;
pub use stash::{StashOptions, StashReport};
pub use verify::{Finding, VerifyReport};

use crate::db::Db;
use crate::{Ino, Result, Settings, Volume};

/// What came lately is kept in memory up to so many bytes: two of the largest windows of a scan,
/// whose files come long before the last of them is written.
const LANDED_BYTES: usize = 2 * neighbours::LAST_WINDOW_BYTES as usize;

/// What the ways in and out of the cache know.
#[derive(Debug)]
pub(crate) struct Pull {
    fetcher: request::Fetcher,
    flights: Arc<flight::Flights>,
    streams: readahead::Streams,
    marks: neighbours::Marks,
    behind: behind::Behind,
    evictor: evict::Evictor,
    pins: pin::Pins,
    stop: watch::Sender<bool>,
    /// Read by all that uses the volume in the background: whoever can write knows that
    /// nothing does.
    busy: Arc<RwLock<()>>,
}

/// How it stands with the store that content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullStatus {
    /// The store's address.
    pub address: String,
    /// Whether it answers, as far as is known.
    pub reachable: bool,
    /// What it said when it last failed; `None` once it answers again.
    pub last_error: Option<String>,
    /// Since when it does not answer.
    pub down_since: Option<SystemTime>,
    /// Bytes that come in a second.
    pub bytes_per_sec: u64,
    /// Content that cannot be had though the store answers, in words.
    pub warnings: Vec<String>,
}

impl Pull {
    /// Knows what the database says is here.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn new(
        db: &Db,
        settings: &Settings,
        store: &Arc<dyn Store>,
        keys: &VolumeKeys,
    ) -> Result<Self> {
        Ok(Self {
            fetcher: request::Fetcher {
                source: Arc::new(source::Source::new(Arc::clone(store), settings)),
                keys: Arc::new(keys.clone()),
                problems: Arc::default(),
                others: Arc::default(),
            },
            flights: flight::Flights::new(LANDED_BYTES),
            streams: readahead::Streams::new(settings),
            marks: neighbours::Marks::default(),
            behind: behind::Behind::new(),
            evictor: evict::Evictor::load(db, settings.eviction)?,
            pins: pin::Pins::default(),
            stop: watch::Sender::new(false),
            busy: Arc::default(),
        })
    }

    /// The node is deleted.
    pub(crate) fn forget(&self, ino: Ino) {
        self.evictor.forget(ino);
        self.streams.forget(ino);
    }

    /// Writes what is only known in memory to the database.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn flush(&self, db: &Db) -> Result<()> {
        self.evictor.flush(db)
    }

    /// Runs a task that ends when the volume is closed, and is over when [`stop`] returns.
    fn spawn(&self, runtime: &Handle, task: impl Future<Output = ()> + Send + 'static) {
        let Ok(busy) = Arc::clone(&self.busy).try_read_owned() else {
            // The volume is being closed; dropping a task unrun is the same as ending it.
            return;
        };
        let mut stopped = self.stop.subscribe();
        runtime.spawn(async move {
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => {}
                () = task => {}
            }
            drop(busy);
        });
    }
}

impl Volume {
    /// What asks the store for content.
    pub(crate) fn fetcher(&self) -> &request::Fetcher {
        &self.pull.fetcher
    }
}

/// Does some blocking work on the volume in the background, if it is still there.
async fn work<T: Send + 'static>(
    volume: &Weak<Volume>,
    act: impl FnOnce(&Arc<Volume>) -> T + Send + 'static,
) -> Option<T> {
    let (working, busy) = {
        let volume = volume.upgrade()?;
        let busy = Arc::clone(&volume.pull.busy);
        (volume, busy.read_owned().await)
    };
    let done = tokio::task::spawn_blocking(move || {
        let done = act(&working);
        // In this order, so that nobody holds the volume once nobody is busy.
        drop(working);
        drop(busy);
        done
    });
    done.await.ok()
}

/// Starts what runs in the background.
pub(crate) fn run(volume: &Arc<Volume>) {
    volume.pull.behind.run(volume);
    evict::run(volume);
    pin::run(volume);
    let source = Arc::clone(&volume.pull.fetcher.source);
    let weak = Arc::downgrade(volume);
    volume.pull.spawn(&volume.runtime, async move {
        let answered = move || {
            if let Some(volume) = weak.upgrade() {
                crate::push::store_answers(&volume);
            }
        };
        source.keep_probing(answered).await;
    });
}

/// Ends the background work; readers that wait are told at once.
pub(crate) async fn stop(volume: &Volume) {
    volume.pull.stop.send_replace(true);
    volume.pull.behind.stop().await;
    let _nobody = volume.pull.busy.write().await;
}

impl Volume {
    /// A program opened the file, or began to read it anew.
    pub(crate) fn touch(&self, ino: Ino) {
        self.pull.evictor.touch(ino);
        if self.pull.marks.has(ino) {
            self.pull.behind.hint(behind::Hint::Reached(ino));
        }
    }

    /// How it stands with the store that content comes from.
    pub fn pull_status(&self) -> PullStatus {
        let reach = self.pull.fetcher.source.reach();
        PullStatus {
            address: self.store.address().to_owned(),
            reachable: reach.up,
            last_error: reach.said,
            down_since: reach
                .down_for
                .and_then(|past| SystemTime::now().checked_sub(past)),
            bytes_per_sec: self.pull.fetcher.source.bytes_per_sec(),
            warnings: self.pull.fetcher.problems.words(),
        }
    }
}

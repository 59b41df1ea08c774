//! The way from the cache to the store.
//!
//! Three kinds of workers, each with its own room:
//!
//! - Two threads of low priority ([`ingest`]; one for small files, one for large ones) take
//!   dirty files that have settled, cut them into chunks, drop those that are stored
//!   already, and seal the rest into packs in that order. Local rules ([`rules`]) keep files out of their way.
//! - A few tasks ([`upload`]) carry packs to the store. When one is acknowledged, its
//!   chunks are recorded, and the files that waited for nothing else become clean.
//! - One task ([`commit`]) makes commits of what was stored, and pushes them in the order
//!   that must hold: packs, tree packs, index, head.
//!   If the store knows more of this replica than the database, it first becomes a new one
//!   ([`identity`]).
//!   Between two of them it takes in what other replicas stored ([`meet`]).
//! - One task ([`proof`]) looks again at what a store took without syncing it.
//!
//! Memory is bounded: a pack has to find room in the [`outbox`] before it is opened, and a
//! commit takes so many nodes at most. The store may be away for days: every request is
//! tried again with growing pauses ([`health`]), writers are slowed when too much is dirty
//! ([`throttle`]), and nothing is forgotten. A crash at any step loses nothing: a file is
//! dirty until every chunk of it is recorded as acknowledged, and a commit number is
//! durable, with the bytes of its head, before anything that carries it leaves.

mod attempts;
mod commit;
mod draft;
mod heads;
mod health;
mod identity;
mod index;
mod ingest;
mod log;
mod meet;
mod outbox;
mod partial;
mod priority;
mod proof;
mod request;
mod rules;
mod shared;
mod source;
mod status;
mod tags;
mod throttle;
mod upload;
mod written;

use std::sync::Arc;

use larder_format::peer::Newest;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::{mpsc, oneshot, watch};

pub use log::CommitInfo;
pub use request::CommitReport;
pub use status::PushStatus;

pub(crate) use commit::{make_durable_in, next_number, store_pages_anew};
pub(crate) use draft::{
    Beside, Draft, Fetched, Pages, base_commit, beside, draft_of_join, set_base_commit, set_beside,
    trees_of,
};
pub(crate) use heads::{end_doubt, is_in_doubt};
pub(crate) use identity::{first_commit, settle as settle_identity};
pub(crate) use index::{blocking, push as push_indexes};
pub(crate) use ingest::{
    compressor as chunk_compressor, is_stored as is_chunk_stored, salt as fresh_salt,
};
pub(crate) use proof::{Accepted, is_awaited, is_unread, marks_are_read};
pub(crate) use request::MarkWork;
pub(crate) use tags::{newest_tags, take_in_tags};
pub(crate) use upload::{
    delete as delete_object, key as object_key, put as put_object, record_for_commit,
    send as send_pack,
};

use crate::db::Db;
use crate::live::Lane;
use crate::{Result, Settings, Volume};
use request::Request;
pub(crate) use shared::Shared;

/// What a volume has for storing its content.
#[derive(Debug)]
pub(crate) struct Push {
    shared: Arc<Shared>,
    rules: rules::Rules,
    attempts: attempts::Attempts,
    throttle: throttle::Throttle,
    unindexed: index::Unindexed,
    /// How often packs were lost that counted as stored. A file is cut and recorded within
    /// one such time, for which the lock is read; taken before a node's lock.
    losses: RwLock<u64>,
    /// The newest commit of this replica whose head the store acknowledged.
    stored: watch::Sender<Option<Newest>>,
    requests: mpsc::UnboundedSender<Request>,
    inbox: Mutex<Option<mpsc::UnboundedReceiver<Request>>>,
    /// Held while what nobody needs is collected.
    pub(crate) collecting: tokio::sync::Mutex<()>,
    ended: Mutex<Vec<oneshot::Receiver<()>>>,
}

impl Push {
    /// Reads what is needed to go on where the last run ended.
    pub(crate) fn new(db: &Db, settings: &Settings) -> Result<Self> {
        let (requests, inbox) = mpsc::unbounded_channel();
        db.write(commit::wake_held)?;
        let shared = Shared::new(settings);
        shared.set_unproven(db.read(proof::is_any_unproven)?);
        Ok(Self {
            shared: Arc::new(shared),
            rules: rules::Rules::new(&settings.local_rules),
            attempts: attempts::Attempts::default(),
            throttle: throttle::Throttle::new(settings),
            unindexed: index::Unindexed::default(),
            losses: RwLock::new(0),
            stored: watch::Sender::new(db.read(commit::newest_stored)?),
            requests,
            inbox: Mutex::new(Some(inbox)),
            collecting: tokio::sync::Mutex::new(()),
            ended: Mutex::new(Vec::new()),
        })
    }
}

impl Push {
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The same, held while something comes to rest on packs that count.
    pub(crate) fn while_nothing_is_lost(&self) -> RwLockReadGuard<'_, u64> {
        self.losses.read()
    }

    /// The count of losses, held so that nothing is cut against packs that cease to count.
    pub(crate) fn losses(&self) -> RwLockWriteGuard<'_, u64> {
        self.losses.write()
    }

    /// What is stored of open files may not be any more: they are looked at again.
    pub(crate) fn store_anew(&self) {
        self.attempts.forget_stored();
        self.shared.ring();
    }

    /// What was warned of is over.
    pub(crate) fn clear_warning(&self, topic: &'static str) {
        self.shared.warnings.clear(topic);
    }

    /// Says what a user should know.
    pub(crate) fn warn(&self, topic: &'static str, words: String) {
        self.shared.warnings.set(topic, words);
    }
}

impl Drop for Push {
    /// Whoever waits for the store without holding the volume gives up.
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Volume {
    /// The newest commit of this replica whose head the store acknowledged, whenever there is
    /// another one.
    pub fn newest_stored(&self) -> watch::Receiver<Option<Newest>> {
        self.push.stored.subscribe()
    }
}

/// Starts the workers. They hold the volume only while they work on it.
pub(crate) fn run(volume: &Arc<Volume>) {
    let Some(inbox) = volume.push.inbox.lock().take() else {
        return;
    };
    let ended = [
        ingest::start(volume, Lane::Small),
        ingest::start(volume, Lane::Large),
        commit::start(volume, inbox),
        proof::start(volume),
    ];
    volume.push.ended.lock().extend(ended);
}

/// There are files to be stored that have been quiet long enough.
pub(crate) fn look_for_files(volume: &Volume) {
    volume.push.shared.ring();
}

/// The store answered somebody: what pauses because it did not tries again now.
pub(crate) fn store_answers(volume: &Volume) {
    volume.push.shared.health.try_again();
}

/// Stops the workers. What is on its way to the store is cut off, and goes again at the
/// next start.
pub(crate) async fn stop(volume: &Volume) {
    volume.push.shared.stop();
    // Its requests end with the sign to stop.
    drop(volume.push.collecting.lock().await);
    let ended = std::mem::take(&mut *volume.push.ended.lock());
    for worker in ended {
        // An error means that the worker is gone: as good as ended.
        let _ = worker.await;
    }
    volume.push.shared.uploads_ended().await;
}

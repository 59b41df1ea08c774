//! One replica of a volume on this disk.
//!
//! A [`Volume`] is a database (all names, sizes and times), a cache of files (what is
//! here of the content) and the ways between the cache and the store:
//!
//! - `names`: the tree. Every operation is one transaction.
//! - `live`, `file`: the content of nodes in use: reading, writing, and the lock of each
//!   node under which content changes state.
//! - `push`: dirty files become chunks, packs, and commits on the store.
//! - `pull`: content that is away comes when it is read; what is not used goes.
//! - `recover`: what a start does after a crash.
//!
//! The states of a file's content, and what moves it from one to the next, are told in
//! `schema.sql` and `live`.
//!
//! Locks are taken in this order, and none is held over I/O to a store or while the
//! kernel is told of a change: a node's lock (`live`), then the database.

mod adopt;
mod cache;
mod collect;
mod db;
mod error;
mod file;
mod group;
pub mod history;
mod join;
mod lease;
mod live;
mod names;
mod node;
mod notify;
pub mod progress;
mod pull;
mod push;
mod recover;
mod settings;
mod state_dir;
mod status;
mod stored_node;
mod xattr;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use larder_format::{ReplicaKey, VolumeKeys};
use larder_store::Store;
use parking_lot::RwLock;

pub use adopt::AdoptReport;
pub use cache::Cache;
pub use collect::{CollectReport, Waiting};
pub use db::{Db, Transaction};
pub use error::{Result, VolumeError};
pub use file::{Access, Opened, SeekKind};
pub use join::{Conflict, Deletions, Keep, Preview, Resolved, SyncReport, Version};
pub use live::{Dropped, KeptReason, Missing, Piece, Settled, Settling, WorkingExtent};
pub use names::{Caller, DirEntry, NewNode, RenameMode};
pub use node::{Attr, SetAttr, TimeSet};
pub use notify::Notify;
pub use pull::*;
pub use push::*;
pub use settings::{PolicyKind, Settings};
pub use state_dir::StateDir;
pub use status::{Entry, Presence, StatFs, Status, StoreStatus};
pub use xattr::XattrMode;

/// A node's number on this machine: persistent, never reused; 1 is the root.
pub type Ino = u64;

/// The root directory's number.
pub const ROOT: Ino = 1;

/// One replica of a volume, held by this process alone.
#[derive(Debug)]
pub struct Volume {
    pub(crate) dir: StateDir,
    pub(crate) db: Db,
    pub(crate) cache: Cache,
    pub(crate) settings: Settings,
    pub(crate) keys: VolumeKeys,
    replica: RwLock<Arc<ReplicaKey>>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) runtime: tokio::runtime::Handle,
    pub(crate) live: live::Lives,
    pub(crate) inos: names::InoSource,
    pub(crate) notify: notify::Notifications,
    pub(crate) recovery: recover::Recovery,
    pub(crate) push: push::Push,
    pub(crate) pull: pull::Pull,
    pub(crate) views: history::Views,
    pub(crate) seen: join::Seen,
    stopping: AtomicBool,
}

impl Volume {
    /// Takes the volume's lock, opens its database, and mends what a crash left.
    /// Before [`Volume::run`] nothing runs in the background but what keeps groups short.
    ///
    /// # Errors
    /// If another process holds the volume, or its state cannot be read.
    pub fn start(
        state_dir: &std::path::Path,
        store: Arc<dyn Store>,
        settings: Settings,
        runtime: tokio::runtime::Handle,
    ) -> Result<Arc<Self>> {
        let dir = StateDir::lock(state_dir)?;
        let larder_format::KeyFile { keys, replica } = dir.keys()?;
        let db = Db::open(&dir.database())?;
        let replica = push::settle_identity(&dir, &db, replica)?;
        let cache = Cache::open(dir.cache())?;
        let inos = names::InoSource::open(&db)?;
        let recovery = recover::recover(&dir, &db, &cache, &keys)?;
        let live = live::Lives::new();
        db.read(|connection| live.load(connection))?;
        let volume = Arc::new(Self {
            push: push::Push::new(&db, &settings)?,
            pull: pull::Pull::new(&db, &settings, &store, &keys)?,
            dir,
            db,
            cache,
            settings,
            keys,
            replica: RwLock::new(Arc::new(replica)),
            store,
            runtime,
            live,
            inos,
            notify: notify::Notifications::new(),
            recovery,
            views: history::Views::default(),
            seen: join::Seen::default(),
            stopping: AtomicBool::new(false),
        });
        group::run(&volume)?;
        if !recovery.clean {
            volume.note_real_sizes();
        }
        Ok(volume)
    }

    /// Starts what runs in the background: storing, committing, evicting, keeping the
    /// database and the cache in order. Returns at once.
    pub fn run(self: &Arc<Self>) {
        push::run(self);
        pull::run(self);
        recover::run(self);
    }

    /// Stops the background work, makes everything here durable, and marks the volume as
    /// cleanly closed. What is not stored yet stays dirty and goes on at the next start.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn shutdown(&self) -> Result<()> {
        self.stopping.store(true, Ordering::SeqCst);
        push::stop(self).await;
        pull::stop(self).await;
        self.close_cleanly()
    }

    /// Whether [`Volume::shutdown`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// The volume's id.
    pub fn id(&self) -> larder_model::VolumeId {
        self.keys.volume()
    }

    /// The volume's keys.
    pub fn keys(&self) -> &VolumeKeys {
        &self.keys
    }

    /// This replica's key. It may become another one ([`push`]).
    pub fn replica(&self) -> Arc<ReplicaKey> {
        Arc::clone(&self.replica.read())
    }

    /// From now on this replica is another one.
    pub(crate) fn set_replica(&self, replica: ReplicaKey) {
        *self.replica.write() = Arc::new(replica);
    }

    /// The settings it runs with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The store that its content lives on.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The directory under which the content lies that is here.
    pub fn cache_root(&self) -> &std::path::Path {
        self.cache.root()
    }

    /// What SQLite's own check finds wrong in the database; empty if nothing is.
    ///
    /// # Errors
    /// If the check itself cannot run.
    pub fn database_check(&self) -> Result<Vec<String>> {
        self.db.integrity_check()
    }
}

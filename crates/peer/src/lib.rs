//! Replicas of a volume talk to each other directly.
//!
//! The store is the truth: what a replica changed counts once its head is there. Peers make that
//! fast and present. A connection is made by `iroh` (QUIC, encrypted, each side known by its key,
//! which is its replica id); no service outside is asked for anything. Over it go, as
//! `docs/peers.md` specifies:
//!
//! - the proofs that both hold the volume's keys ([`handshake`]): who cannot is served nothing;
//! - **news**: the store has a new head of mine ([`presence`]);
//! - **pieces**: bytes of content and pages, each checked against its hash before it is used
//!   ([`serve`], [`ask`]);
//! - **invitations**: the volume's keys for whoever has an unused ticket ([`invite`]).
//!
//! [`book`] remembers who is known, in the state directory, and [`dial`] calls them; [`lan`] finds
//! them on the local network, if the user wants that. Everything
//! from a peer is bounded: lengths, how much it may ask for at once, and how long it may keep
//! anyone waiting. A peer that breaks the protocol or gives wrong bytes is not talked to for a
//! while.

mod ask;
mod book;
mod dial;
mod endpoint;
mod error;
mod frame;
mod handshake;
mod invite;
mod lan;
mod presence;
mod serve;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use iroh::Endpoint;
use larder_format::VolumeKeys;
use larder_format::peer::Newest;
use larder_model::ReplicaId;
use larder_volume::Volume;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

pub use book::{is_anyone_known, remember};
pub use endpoint::Listen;
pub use error::{PeerError, Result};
pub use invite::take_invitation;
pub use larder_format::Ticket;
pub use presence::{PeerStatus, remembered};

use book::Book;
use presence::Present;

/// How a replica meets others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Where it listens.
    pub listen: Listen,
    /// Others that the user named.
    pub known: Vec<(ReplicaId, SocketAddr)>,
    /// How this machine is called, for people.
    pub name: String,
    /// Whether it says on the local network that it is there, and hears who else is (mDNS).
    pub mdns: bool,
}

/// The peers of one volume, while it runs.
#[derive(Debug)]
pub struct Peers {
    shared: Arc<Shared>,
}

/// What the tasks share.
#[derive(Debug)]
pub(crate) struct Shared {
    volume: Weak<Volume>,
    keys: VolumeKeys,
    endpoint: Endpoint,
    id: ReplicaId,
    /// Tells this process from another one with the same id.
    run: [u8; 16],
    name: String,
    book: Mutex<Book>,
    present: Present,
    /// Members that were heard on the local network, and are called at once.
    heard: Mutex<BTreeSet<ReplicaId>>,
    stored: watch::Receiver<Option<Newest>>,
    /// Who may be met at once without being known.
    strangers: Arc<Semaphore>,
    /// Pieces that may be read for others at once.
    serving: Semaphore,
    /// Rung when it is worth calling somebody at once.
    bell: Notify,
    stop: watch::Sender<bool>,
}

/// So many who have not proven themselves are heard at once.
const STRANGERS: usize = 16;
/// What ending all connections may take.
const PARTING: Duration = Duration::from_millis(500);
/// A piece has 8 MiB at most: this bounds what serving takes of memory.
const SERVING: usize = 8;

impl Peers {
    /// Begins to listen, and to call those that are known. The volume asks them for content from
    /// here on. Must be called on a runtime.
    ///
    /// # Errors
    /// If the address cannot be listened on, or the book in `state_dir` cannot be read.
    pub async fn start(volume: &Arc<Volume>, state_dir: &Path, settings: Settings) -> Result<Self> {
        let mut book = Book::open(state_dir)?;
        let replica = volume.replica();
        let endpoint = endpoint::bind(&replica, settings.listen, book.port()).await?;
        book.note_port(endpoint::port(&endpoint));
        for (id, address) in &settings.known {
            book.note_address(*id, *address);
        }
        let mut run = [0; 16];
        getrandom::fill(&mut run).map_err(|_| PeerError::NoRandomness)?;
        let shared = Arc::new(Shared {
            volume: Arc::downgrade(volume),
            keys: volume.keys().clone(),
            id: replica.id(),
            endpoint,
            run,
            name: handshake::sent_name(&settings.name),
            book: Mutex::new(book),
            present: Present::default(),
            heard: Mutex::default(),
            stored: volume.newest_stored(),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            serving: Semaphore::new(SERVING),
            bell: Notify::new(),
            stop: watch::Sender::new(false),
        });
        volume.ask_nearby(Some(Arc::new(ask::Asker::new(&shared))));
        shared.spawn(handshake::answer_calls(Arc::clone(&shared)));
        shared.spawn(dial::call_known(Arc::clone(&shared)));
        shared.spawn(presence::tell_news(Arc::clone(&shared)));
        if settings.mdns {
            let around = lan::begin(&shared.endpoint)?;
            shared.spawn(lan::listen(Arc::clone(&shared), around));
        }
        Ok(Self { shared })
    }

    /// Whose peers they are: the replica as which it listens.
    pub fn id(&self) -> ReplicaId {
        self.shared.id
    }

    /// Where others reach it, as far as is known.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        endpoint::addresses(&self.shared.endpoint)
    }

    /// Ends all connections. The volume asks nobody from here on.
    pub async fn close(&self) {
        let shared = &self.shared;
        shared.stop.send_replace(true);
        if let Some(volume) = shared.volume.upgrade() {
            volume.ask_nearby(None);
        }
        shared.note_everyone_seen();
        // Those who are here are told at once; one who was called and does not answer is not
        // waited for.
        let _ = tokio::time::timeout(PARTING, shared.endpoint.close()).await;
        // Whoever reads for a peer holds the volume. The semaphore is never closed.
        let _ = shared.serving.acquire_many(SERVING as u32).await;
    }
}

impl Shared {
    /// Runs a task until it ends, or all does.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stopped = self.stop.subscribe();
        tokio::spawn(async move {
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => {}
                () = task => {}
            }
        });
    }

    /// Does something with the volume that may block; `None` once it is gone.
    async fn with_volume<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Volume) -> T + Send + 'static,
    ) -> Option<T> {
        let volume = self.volume.upgrade()?;
        tokio::task::spawn_blocking(move || act(&volume)).await.ok()
    }
}

//! Who is here now, and what they stored last.
//!
//! Of two connections between the same two processes one is kept, and both sides keep the same:
//! that which the smaller id called. A second process with the id of one who is here is a clone and
//! refused, unless the first does not answer any more.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use iroh::TransportAddr;
use iroh::endpoint::Connection;
use larder_format::peer::{Message, Newest};
use larder_model::{Clock, ReplicaId};
use larder_plan::nearby::Speed;
use larder_volume::Volume;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Semaphore;

use crate::book::{self, Known};
use crate::endpoint::STREAMS;
use crate::error::{PeerError, Refusal, Result};
use crate::frame::{receive, send};
use crate::handshake::Met;
use crate::serve;
use crate::{SERVING, Shared};

/// So long somebody who is here may take to say so.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// So long nothing is said to one that broke the protocol or gave wrong bytes.
const SHUNNED_FOR: Duration = Duration::from_secs(600);
/// So many are remembered for that.
const MOST_SHUNNED: usize = 1000;
/// Requests that we have under way at one. Fewer than it allows: there is one for signs of life.
const ASKED_AT_ONCE: usize = STREAMS as usize - 2;

/// Pieces that one is given at once: some of those that all are.
const SERVED_AT_ONCE: usize = SERVING / 2;

/// Who is here.
#[derive(Debug, Default)]
pub(crate) struct Present {
    live: RwLock<BTreeMap<ReplicaId, Arc<Live>>>,
    shunned: Mutex<HashMap<ReplicaId, Instant>>,
    /// Why the last call to one failed.
    failures: Mutex<HashMap<ReplicaId, String>>,
}

/// One who is here.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    pub(crate) replica: ReplicaId,
    run: [u8; 16],
    name: String,
    by_us: bool,
    newest: Mutex<Option<Newest>>,
    pub(crate) speed: Mutex<Speed>,
    pub(crate) turns: Semaphore,
    /// Its share of what is served at once.
    pub(crate) served: Semaphore,
    pub(crate) bytes_from: AtomicU64,
    pub(crate) bytes_to: AtomicU64,
}

/// How it stands with one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Who.
    pub replica: ReplicaId,
    /// How its machine is called; empty if that is not known.
    pub name: String,
    /// Whether it is here now.
    pub here: bool,
    /// When it was last here, in seconds since 1970.
    pub last_seen: Option<u64>,
    /// The number of its newest commit that is known of.
    pub newest: Option<u64>,
    /// Whether the tree here includes that.
    pub included: bool,
    /// Where it is or was.
    pub addresses: Vec<SocketAddr>,
    /// How long an answer takes.
    pub round_trip: Option<Duration>,
    /// Bytes of content and pages that it gave since it is here.
    pub bytes_from: u64,
    /// Bytes of content and pages that were given to it since it is here.
    pub bytes_to: u64,
    /// Why it could not be reached.
    pub last_error: Option<String>,
}

impl Present {
    pub(crate) fn get(&self, replica: ReplicaId) -> Option<Arc<Live>> {
        let live = self.live.read().get(&replica).cloned();
        live.filter(|live| live.connection.close_reason().is_none())
    }

    /// Those who are here, in no order.
    pub(crate) fn everyone(&self) -> Vec<Arc<Live>> {
        let live = self.live.read();
        let is_here = |live: &&Arc<Live>| live.connection.close_reason().is_none();
        live.values().filter(is_here).cloned().collect()
    }

    /// Notes why one could not be reached; `None`: it was.
    pub(crate) fn note_failure(&self, replica: ReplicaId, words: Option<String>) {
        let mut failures = self.failures.lock();
        match words {
            Some(words) => failures.insert(replica, words),
            None => failures.remove(&replica),
        };
    }
}

/// One has proven itself: it is here until its connection ends.
pub(crate) async fn enter(shared: &Arc<Shared>, met: Met) {
    let replica = met.replica;
    let live = Arc::new(Live {
        connection: met.connection,
        replica,
        run: met.run,
        name: met.name,
        by_us: met.by_us,
        newest: Mutex::new(met.newest),
        speed: Mutex::new(Speed::unknown(None)),
        turns: Semaphore::new(ASKED_AT_ONCE),
        served: Semaphore::new(SERVED_AT_ONCE),
        bytes_from: AtomicU64::new(0),
        bytes_to: AtomicU64::new(0),
    });
    if let Err(refusal) = shared.make_room(&live).await {
        live.connection.close(refusal.code(), b"");
        return;
    }
    tracing::info!(%replica, name = live.name, "a peer is here");
    shared.present.note_failure(replica, None);
    shared.note_met(&live).await;
    shared.spawn(serve::answer_requests(
        Arc::clone(shared),
        Arc::clone(&live),
    ));
    shared.spawn(hear_news(Arc::clone(shared), Arc::clone(&live)));
    shared.spawn(measure(Arc::clone(&live)));
    shared.spawn(see_off(Arc::clone(shared), Arc::clone(&live)));
    // It may have stored something while it was away.
    shared.tell_volume();
}

/// Waits until it leaves.
async fn see_off(shared: Arc<Shared>, live: Arc<Live>) {
    let why = PeerError::from(live.connection.closed().await);
    tracing::info!(replica = %live.replica, %why, "a peer left");
    let noting = Arc::clone(&live);
    shared.with_book(move |book| noting.note_seen(book)).await;
    let mut present = shared.present.live.write();
    if present
        .get(&live.replica)
        .is_some_and(|other| Arc::ptr_eq(other, &live))
    {
        present.remove(&live.replica);
    }
    drop(present);
    if let PeerError::Refused(refusal) = &why
        && !matches!(refusal, Refusal::Done | Refusal::Connected)
    {
        shared
            .present
            .note_failure(live.replica, Some(why.to_string()));
    }
    shared.bell.notify_one();
}

async fn measure(live: Arc<Live>) {
    let begun = Instant::now();
    if live.is_alive().await {
        live.speed.lock().record(0, begun.elapsed());
    }
}

/// Hears what it stored, until it leaves.
async fn hear_news(shared: Arc<Shared>, live: Arc<Live>) {
    while let Ok(mut stream) = live.connection.accept_uni().await {
        match receive(&mut stream).await {
            Ok(Message::Head(newest)) => {
                live.hear(newest);
                shared.tell_volume();
            }
            Ok(_) => return shared.shun(&live, "its news is none"),
            Err(error) if error.is_its_fault() => return shared.shun(&live, &error.to_string()),
            Err(_) => {}
        }
    }
}

/// Tells everyone who is here whenever the store has a new head of ours.
pub(crate) async fn tell_news(shared: Arc<Shared>) {
    let mut stored = shared.stored.clone();
    while stored.changed().await.is_ok() {
        let Some(newest) = *stored.borrow_and_update() else {
            continue;
        };
        for live in shared.present.everyone() {
            shared.spawn(async move {
                if let Err(error) = live.tell(newest).await {
                    tracing::debug!(replica = %live.replica, %error, "a peer was not told");
                }
            });
        }
    }
}

impl Live {
    async fn tell(&self, newest: Newest) -> Result<()> {
        let telling = async {
            let mut stream = self.connection.open_uni().await?;
            send(&mut stream, &Message::Head(newest)).await?;
            let _ = stream.finish();
            Ok(())
        };
        crate::frame::within(telling).await
    }

    fn hear(&self, newest: Newest) {
        let mut known = self.newest.lock();
        if known.is_none_or(|known| known.n < newest.n) {
            *known = Some(newest);
        }
    }

    /// Whether it answers.
    pub(crate) async fn is_alive(&self) -> bool {
        let asking = async {
            let (mut out, mut back) = self.connection.open_bi().await?;
            send(&mut out, &Message::Ping).await?;
            let _ = out.finish();
            receive(&mut back).await
        };
        matches!(
            tokio::time::timeout(SIGN_OF_LIFE, asking).await,
            Ok(Ok(Message::Ping))
        )
    }

    /// Where it is.
    fn address(&self) -> Option<SocketAddr> {
        let paths = self.connection.paths();
        let selected = paths.iter().find(|path| path.is_selected());
        match selected.or_else(|| paths.iter().next())?.remote_addr() {
            TransportAddr::Ip(address) => Some(*address),
            _ => None,
        }
    }

    fn caller(&self, own: ReplicaId) -> ReplicaId {
        match self.by_us {
            true => own,
            false => self.replica,
        }
    }

    fn note_seen(&self, book: &mut book::Book) {
        let newest = self.newest.lock().map(|newest| newest.n);
        book.note_seen(self.replica, &self.name, newest);
    }
}

impl Shared {
    /// Lets it in, unless it is here already or is a clone of one who is.
    async fn make_room(&self, new: &Arc<Live>) -> std::result::Result<(), Refusal> {
        loop {
            let old = {
                let mut live = self.present.live.write();
                match live.get(&new.replica) {
                    Some(old) if old.connection.close_reason().is_none() => Arc::clone(old),
                    _ => {
                        live.insert(new.replica, Arc::clone(new));
                        return Ok(());
                    }
                }
            };
            if !old.is_alive().await {
                old.connection.close(Refusal::Done.code(), b"");
            } else if old.run != new.run {
                tracing::warn!(
                    replica = %new.replica, first = ?old.address(), second = ?new.address(),
                    "two machines have the same replica id: one was cloned"
                );
                return Err(Refusal::Cloned);
            } else {
                let (of_new, of_old) = (new.caller(self.id), old.caller(self.id));
                // Who calls anew lost the connection that it called by before.
                if of_new != of_old && of_new > of_old {
                    return Err(Refusal::Connected);
                }
                old.connection.close(Refusal::Connected.code(), b"");
            }
        }
    }

    async fn note_met(self: &Arc<Self>, live: &Arc<Live>) {
        let live = Arc::clone(live);
        self.with_book(move |book| {
            if let Some(address) = live.address() {
                book.note_address(live.replica, address);
            }
            live.note_seen(book);
        })
        .await;
    }

    /// Does something with the book, which may block for the disk.
    pub(crate) async fn with_book<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&mut book::Book) -> T + Send + 'static,
    ) -> Option<T> {
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || act(&mut shared.book.lock()))
            .await
            .ok()
    }

    /// Notes of all who are here that they are.
    pub(crate) fn note_everyone_seen(&self) {
        let mut book = self.book.lock();
        for live in self.present.everyone() {
            live.note_seen(&mut book);
        }
    }

    fn tell_volume(&self) {
        if let Some(volume) = self.volume.upgrade() {
            volume.others_changed();
        }
    }

    /// Ends the connection with one that cannot be trusted.
    pub(crate) fn shun(&self, live: &Live, why: &str) {
        tracing::warn!(replica = %live.replica, name = live.name, why, "a peer is shunned");
        let mut shunned = self.present.shunned.lock();
        if shunned.len() >= MOST_SHUNNED {
            shunned.clear();
        }
        shunned.insert(live.replica, Instant::now());
        drop(shunned);
        live.connection.close(Refusal::Broke.code(), b"");
        let words = format!("it is left alone for a while: {why}");
        self.present.note_failure(live.replica, Some(words));
    }

    /// Whether one may be talked to.
    ///
    /// # Errors
    /// If not.
    pub(crate) fn ensure_trusted(&self, replica: ReplicaId) -> Result<()> {
        let mut shunned = self.present.shunned.lock();
        match shunned.get(&replica) {
            Some(since) if since.elapsed() < SHUNNED_FOR => Err(PeerError::Protocol(
                "it broke the protocol or gave wrong bytes a while ago",
            )),
            Some(_) => {
                shunned.remove(&replica);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Everyone who was known when the volume ran last, by id. Blocks for the database.
///
/// # Errors
/// If the book of peers cannot be read.
pub fn remembered(volume: &Volume, state_dir: &std::path::Path) -> Result<Vec<PeerStatus>> {
    let known = book::Book::open(state_dir)?.everyone();
    let none = Present::default();
    Ok(none.status(known, volume.replica().id(), volume.included().ok()))
}

impl crate::Peers {
    /// Everyone who is known, by id. Blocks for the database.
    pub fn status(&self) -> Vec<PeerStatus> {
        let shared = &self.shared;
        let volume = shared.volume.upgrade();
        let included = volume.and_then(|volume| volume.included().ok());
        let known = shared.book.lock().everyone();
        shared.present.status(known, shared.id, included)
    }
}

impl Present {
    fn status(
        &self,
        known: Vec<(ReplicaId, Known)>,
        own: ReplicaId,
        included: Option<Clock>,
    ) -> Vec<PeerStatus> {
        let mut known: BTreeMap<ReplicaId, Known> = known.into_iter().collect();
        let present = self.everyone();
        for live in &present {
            known.entry(live.replica).or_default();
        }
        // Those of whom something is included here, and who were never met.
        for dot in included.iter().flat_map(|clock| clock.iter()) {
            known.entry(dot.replica).or_default();
        }
        known.remove(&own);
        let failures = self.failures.lock();
        let of = |(replica, known): (ReplicaId, Known)| {
            let live = present.iter().find(|live| live.replica == replica);
            let newest = live
                .and_then(|live| live.newest.lock().map(|newest| newest.n))
                .or(known.newest)
                .max(included.as_ref().map(|clock| clock.get(&replica)));
            let count = |bytes: fn(&Live) -> &AtomicU64| {
                live.map_or(0, |live| bytes(live).load(Ordering::Relaxed))
            };
            PeerStatus {
                replica,
                name: live.map_or(known.name, |live| live.name.clone()),
                here: live.is_some(),
                last_seen: live.map(|_| book::now()).or(known.seen),
                newest: newest.filter(|n| *n > 0),
                included: newest.is_none_or(|n| {
                    included
                        .as_ref()
                        .is_some_and(|clock| clock.get(&replica) >= n)
                }),
                addresses: match live.and_then(|live| live.address()) {
                    Some(address) => vec![address],
                    None => known.addresses,
                },
                round_trip: live.map(|live| live.speed.lock().expect(0)),
                bytes_from: count(|live| &live.bytes_from),
                bytes_to: count(|live| &live.bytes_to),
                last_error: match live {
                    Some(_) => None,
                    None => failures.get(&replica).cloned(),
                },
            }
        };
        known.into_iter().map(of).collect()
    }
}

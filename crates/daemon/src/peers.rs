//! Other machines of the volume: who is here, inviting another one, and joining one that invites.
//!
//! A daemon listens for peers when `[peers]` of config.toml names an address or a peer, or when
//! somebody was met or invited before; `listen = "off"` forbids it. An invitation begins it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use larder_peer::{Listen, PeerError, PeerStatus, Peers, Settings, Ticket};
use larder_volume::progress::Report;
use larder_volume::{Credential, find_volume};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::task::block_in_place;

use crate::config::PeersConfig;
use crate::failure::{Failure, FailureKind};
use crate::home::Home;
use crate::host::Host;
use crate::setup::{self, Opened, Wanted};
use crate::stores::{self, Root};
use crate::wire::Operation;

/// How often it is looked whether this replica is still the one as which it listens.
const LOOK: Duration = Duration::from_secs(5);
const NANOS: i64 = 1_000_000_000;

/// The peers of a volume that a daemon holds, once it listens.
#[derive(Debug, Default)]
pub(crate) struct Meeting(Mutex<Option<Arc<Peers>>>);

/// Another machine, as `larder peers --json` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its replica id.
    pub replica: String,
    /// How it is called; empty if that is not known.
    pub name: String,
    /// Whether it is here now.
    pub here: bool,
    /// When it was last here.
    pub last_seen: Option<i64>,
    /// The number of its newest commit that is known of.
    pub newest: Option<u64>,
    /// Whether the tree here includes that.
    pub included: bool,
    /// Where it is or was.
    pub addresses: Vec<String>,
    /// How long an answer takes.
    pub round_trip_secs: Option<f64>,
    /// Content that it gave since it is here.
    pub bytes_from: u64,
    /// Content that was given to it since it is here.
    pub bytes_to: u64,
    /// Why it could not be reached.
    pub last_error: Option<String>,
}

/// An invitation that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invitation {
    /// The text to hand over; it is secret.
    pub ticket: String,
    /// Where this machine is reached.
    pub addresses: Vec<String>,
    /// The store that the ticket names.
    pub store: String,
    /// Until when it is good.
    pub expires: i64,
}

/// Everyone who is known.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListPeers {}

/// Invite another machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Invite {
    /// For how long.
    pub good_for_secs: u64,
}

impl Operation for ListPeers {
    const NAME: &'static str = "peers";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = Vec<PeerReport>;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<Vec<PeerReport>, Failure> {
        let known = match host.peers.get().await {
            Some(peers) => block_in_place(|| peers.status()),
            None => block_in_place(|| larder_peer::remembered(&host.volume, &host.replica.dir))?,
        };
        Ok(known.into_iter().map(PeerReport::from).collect())
    }
}

impl Operation for Invite {
    const NAME: &'static str = "invite";
    const STOPS_WITH_ASKER: bool = false;
    type Answer = Invitation;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<Invitation, Failure> {
        if host.mounted.lock().is_none() {
            return Err(Failure::new(
                FailureKind::Daemon,
                "Nobody would answer whom you invite: the volume is not mounted.",
            )
            .hint(
                "`larder mount` first, and keep it mounted until the other machine has joined.",
            ));
        }
        if host.replica.config.peers.is_off() {
            return Err(Failure::usage(
                "`listen = \"off\"` in `[peers]` of config.toml forbids it.",
            )
            .hint("Remove that line, then `larder unmount` and `larder mount`."));
        }
        let peers = host.meet().await?;
        let store = &host.replica.config.store.address;
        let good_for = Duration::from_secs(self.good_for_secs);
        let ticket = block_in_place(|| peers.invite(store, good_for))?;
        Ok(Invitation {
            ticket: ticket.to_text().to_string(),
            addresses: ticket.addresses.iter().map(SocketAddr::to_string).collect(),
            store: ticket.store.clone(),
            expires: i64::try_from(ticket.expires).unwrap_or(i64::MAX / NANOS) * NANOS,
        })
    }
}

impl From<PeerStatus> for PeerReport {
    fn from(peer: PeerStatus) -> Self {
        let nanos = |secs: u64| i64::try_from(secs).unwrap_or(i64::MAX / NANOS) * NANOS;
        Self {
            replica: peer.replica.to_string(),
            name: peer.name,
            here: peer.here,
            last_seen: peer.last_seen.map(nanos),
            newest: peer.newest,
            included: peer.included,
            addresses: peer.addresses.iter().map(SocketAddr::to_string).collect(),
            round_trip_secs: peer.round_trip.map(|trip| trip.as_secs_f64()),
            bytes_from: peer.bytes_from,
            bytes_to: peer.bytes_to,
            last_error: peer.last_error,
        }
    }
}

impl From<PeerError> for Failure {
    fn from(error: PeerError) -> Self {
        Self::failed(crate::failure::sentence(&error))
    }
}

impl Meeting {
    pub(crate) async fn get(&self) -> Option<Arc<Peers>> {
        self.0.lock().await.clone()
    }
}

impl Host {
    /// Listens for peers, if it does not yet.
    ///
    /// # Errors
    /// If it cannot.
    pub(crate) async fn meet(&self) -> Result<Arc<Peers>, Failure> {
        let mut meeting = self.peers.0.lock().await;
        if let Some(peers) = &*meeting {
            return Ok(Arc::clone(peers));
        }
        let settings = self.replica.config.peers.settings()?;
        let peers = Peers::start(&self.volume, &self.replica.dir, settings).await?;
        let peers = Arc::new(peers);
        *meeting = Some(Arc::clone(&peers));
        Ok(peers)
    }

    /// Listens for peers if that is wanted, for as long as the daemon runs. Without peers all
    /// goes on by the store, so what is wrong is said and no more.
    pub(crate) async fn keep_meeting(self: Arc<Self>) {
        let config = &self.replica.config.peers;
        let is_wanted = match larder_peer::is_anyone_known(&self.replica.dir) {
            Ok(is_known) => !config.is_off() && (config.is_asked_for() || is_known),
            Err(error) => {
                tracing::error!(%error, "no peers are met");
                return;
            }
        };
        if is_wanted && let Err(failure) = self.meet().await {
            tracing::error!(%failure, "no peers are met");
        }
        loop {
            tokio::time::sleep(LOOK).await;
            // A replica that finds itself cloned becomes another one.
            let is_another = |peers: &Arc<Peers>| peers.id() != self.volume.replica().id();
            if self.peers.get().await.as_ref().is_some_and(is_another) {
                self.stop_meeting().await;
                if let Err(failure) = self.meet().await {
                    tracing::error!(%failure, "no peers are met any more");
                }
            }
        }
    }

    /// Ends all connections.
    pub(crate) async fn stop_meeting(&self) {
        let peers = self.peers.0.lock().await.take();
        if let Some(peers) = peers {
            peers.close().await;
        }
    }
}

impl PeersConfig {
    fn settings(&self) -> Result<Settings, Failure> {
        let (listen, known) = self.parsed().map_err(Failure::usage)?;
        let name = rustix::system::uname();
        Ok(Settings {
            listen: listen.map_or(Listen::Everywhere, Listen::On),
            known,
            name: name.nodename().to_string_lossy().into_owned(),
            mdns: self.mdns,
        })
    }
}

/// What a ticket invites to.
///
/// # Errors
/// If it is none.
pub fn read_ticket(text: &str) -> Result<Ticket, Failure> {
    Ticket::parse(text).map_err(|error| {
        Failure::usage(crate::failure::sentence(&error))
            .hint("Copy all that `larder invite` printed.")
    })
}

/// Opens the volume that a ticket invites to on this machine, from its store.
///
/// # Errors
/// If the store cannot be reached or holds another volume: then the ticket is not used. If the
/// inviter cannot be reached or refuses it; or as [`setup::open`].
pub async fn join(
    home: &Home,
    wanted: Wanted,
    ticket: &Ticket,
    report: Report<'_>,
) -> Result<Opened, Failure> {
    let store = stores::open(&wanted.store, home.volumes_dir(), Root::Expected);
    // With secrets of its own it is only tried later.
    if wanted.secrets_file.is_none() && find_volume(&*store?).await? != Some(ticket.volume) {
        return Err(Failure::usage(format!(
            "{} does not hold the volume that the ticket is for.",
            wanted.store.address
        ))
        .hint("`--store` names the store as this machine reaches it; the ticket is not used."));
    }
    if home.volumes()?.contains(&ticket.volume) {
        return Err(Failure::failed(format!(
            "Volume {} is on this machine already.",
            ticket.volume
        ))
        .hint("`larder mount` mounts it; the ticket is not used."));
    }
    let (keys, address) = larder_peer::take_invitation(ticket).await?;
    let mut addresses: Vec<SocketAddr> = address.into_iter().collect();
    addresses.extend(ticket.addresses.iter().filter(|at| Some(**at) != address));
    let inviter = ticket.replica;
    setup::open_then(home, wanted, Credential::Keys(keys), None, report, |dir| {
        larder_peer::remember(dir, inviter, &addresses).map_err(Failure::from)
    })
    .await
}

//! Peers of a replica on loopback, and one that says what the test wants it to say.

use std::net::SocketAddr;
use std::time::Duration;

use iroh::endpoint::{Connection, RecvStream, SendStream, presets};
use iroh::{Endpoint, EndpointAddr, EndpointId, SecretKey, TransportAddr};
use larder_format::VolumeKeys;
use larder_format::peer::{Meeting, Message, PROTOCOL, Purpose, Side};
use larder_model::ReplicaId;
use larder_peer::{Listen, PeerStatus, Peers, Settings};

use crate::support::{Replica, until};

pub fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// The peers of a replica, which know these others.
pub async fn peers(replica: &Replica, name: &str, known: &[&Peers]) -> Peers {
    let known = known.iter().map(|other| (other.id(), other.addresses()[0]));
    let settings = Settings {
        listen: Listen::On(loopback()),
        known: known.collect(),
        name: name.to_owned(),
        mdns: false,
    };
    Peers::start(&replica.volume, &replica.state, settings)
        .await
        .unwrap()
}

/// What `peers` knows of another.
pub fn of(peers: &Peers, other: ReplicaId) -> PeerStatus {
    let status = peers.status();
    let found = status.into_iter().find(|peer| peer.replica == other);
    found.unwrap_or_else(|| panic!("{other} is not known"))
}

pub fn is_here(peers: &Peers, other: ReplicaId) -> bool {
    let status = peers.status();
    status.iter().any(|peer| peer.replica == other && peer.here)
}

/// Waits until both see each other.
pub async fn together(one: &Peers, other: &Peers) {
    until(|| is_here(one, other.id()) && is_here(other, one.id())).await;
}

/// One that is no replica, and says what the test wants.
pub struct Stranger {
    pub endpoint: Endpoint,
    pub id: ReplicaId,
}

impl Stranger {
    pub async fn new(seed: u8) -> Self {
        let key = SecretKey::from_bytes(&[seed; 32]);
        let id = ReplicaId(*key.public().as_bytes());
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(key)
            .alpns(vec![PROTOCOL.to_vec()])
            .clear_ip_transports()
            .bind_addr(loopback())
            .unwrap()
            .bind()
            .await
            .unwrap();
        Self { endpoint, id }
    }

    /// Calls, and says nothing yet.
    pub async fn call(&self, peers: &Peers) -> Connection {
        let id = EndpointId::from_bytes(peers.id().as_bytes()).unwrap();
        let address = TransportAddr::Ip(peers.addresses()[0]);
        let address = EndpointAddr::from_parts(id, [address]);
        self.endpoint.connect(address, PROTOCOL).await.unwrap()
    }

    /// Calls as a member that holds these keys. Whether it is one is found by what comes then.
    pub async fn call_as_member(&self, peers: &Peers, keys: &VolumeKeys) -> Connection {
        let connection = self.call(peers).await;
        let Ok((mut out, mut back)) = connection.open_bi().await else {
            return connection;
        };
        let nonce = [self.id.0[0]; 32];
        let hello = Message::Hello {
            purpose: Purpose::Member,
            run: [1; 16],
            nonce,
        };
        say(&mut out, &hello).await;
        let Some(Message::Answer { nonce: theirs, .. }) = hear(&mut back).await else {
            return connection;
        };
        let meeting = Meeting {
            caller: (self.id, nonce),
            called: (peers.id(), theirs),
        };
        let proof = meeting.proof_of_member(keys, Side::Caller).unwrap();
        say(&mut out, &Message::Proof(proof)).await;
        if let Some(Message::Proof(_)) = hear(&mut back).await {
            hear(&mut back).await;
            let here = Message::Here {
                newest: None,
                name: "stranger".to_owned(),
            };
            say(&mut out, &here).await;
        }
        connection
    }
}

/// Says it; that nobody listens any more shows in what comes next.
pub async fn say(out: &mut SendStream, message: &Message) {
    let body = message.encode();
    let bytes = [&(body.len() as u32).to_le_bytes()[..], &body].concat();
    let _ = out.write_all(&bytes).await;
}

pub async fn hear(back: &mut RecvStream) -> Option<Message> {
    let mut len = [0; 4];
    back.read_exact(&mut len).await.ok()?;
    let mut body = vec![0; u32::from_le_bytes(len) as usize];
    back.read_exact(&mut body).await.ok()?;
    Some(Message::decode(&body).unwrap())
}

/// With which code the other side ended the connection.
pub async fn ended(connection: &Connection) -> u64 {
    let closed = tokio::time::timeout(Duration::from_secs(60), connection.closed()).await;
    match closed.expect("the connection stayed for a minute") {
        iroh::endpoint::ConnectionError::ApplicationClosed(closed) => {
            closed.error_code.into_inner()
        }
        other => panic!("{other}"),
    }
}

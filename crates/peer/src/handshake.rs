//! Two replicas meet: each shows that it holds the volume's keys before it learns anything.
//!
//! The caller opens the first stream and says what it calls for; the called one answers with a
//! nonce. Then the caller proves first: so a stranger who calls learns nothing but that something
//! listens. Who does not prove itself in time is refused, and so is one that has our own id.

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, Incoming, RecvStream, SendStream};
use larder_format::peer::{
    MAX_NAME_BYTES, Meeting, Message, Newest, Nonce, Proof, Purpose, Side, is_same_proof,
};
use larder_model::ReplicaId;
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{PeerError, Refusal, Result};
use crate::frame::{receive, send};
use crate::{Shared, endpoint, presence};

/// So long a handshake may take in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is refused is told so, and then forgotten after so long.
const PARTING: Duration = Duration::from_secs(2);

/// What is known of one who proved itself.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) connection: Connection,
    pub(crate) replica: ReplicaId,
    pub(crate) run: [u8; 16],
    pub(crate) name: String,
    pub(crate) newest: Option<Newest>,
    /// Whether we called.
    pub(crate) by_us: bool,
}

/// Answers those who call, until all ends.
pub(crate) async fn answer_calls(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        match Arc::clone(&shared.strangers).try_acquire_owned() {
            Ok(permit) => shared.spawn(answer(Arc::clone(&shared), incoming, permit)),
            // Whoever it is calls again.
            Err(_) => incoming.refuse(),
        }
    }
}

async fn answer(shared: Arc<Shared>, incoming: Incoming, permit: OwnedSemaphorePermit) {
    let Ok(connection) = incoming.await else {
        return;
    };
    let met = tokio::time::timeout(PATIENCE, hear(&shared, &connection)).await;
    match met.unwrap_or(Err(PeerError::Silent)) {
        Ok(Some(met)) => {
            drop(permit);
            presence::enter(&shared, met).await;
        }
        // It joined, and says itself when it has what it wanted.
        Ok(None) => {
            let _ = tokio::time::timeout(PARTING, connection.closed()).await;
        }
        Err(error) => {
            tracing::info!(from = %connection.remote_id(), %error, "a call was refused");
            connection.close(error.answer().code(), b"");
        }
    }
}

/// Hears who calls; `None` if it was someone who joined.
async fn hear(shared: &Arc<Shared>, connection: &Connection) -> Result<Option<Met>> {
    let caller = ReplicaId(*connection.remote_id().as_bytes());
    if caller == shared.id {
        return Err(PeerError::Refused(Refusal::Same));
    }
    shared.ensure_trusted(caller)?;
    let (mut out, mut back) = connection.accept_bi().await?;
    let Message::Hello {
        purpose,
        run,
        nonce,
    } = receive(&mut back).await?
    else {
        return Err(PeerError::Protocol("it does not say hello"));
    };
    let own = fresh_nonce()?;
    let answer = Message::Answer {
        run: shared.run,
        nonce: own,
    };
    send(&mut out, &answer).await?;
    let meeting = Meeting {
        caller: (caller, nonce),
        called: (shared.id, own),
    };
    let proof = receive_proof(&mut back).await?;
    match purpose {
        Purpose::Join => {
            shared.hand_over_keys(&meeting, proof, &mut out).await?;
            Ok(None)
        }
        Purpose::Member => {
            let right = meeting.proof_of_member(&shared.keys, Side::Caller)?;
            if !is_same_proof(&right, &proof) {
                return Err(PeerError::NotMember);
            }
            let own = meeting.proof_of_member(&shared.keys, Side::Called)?;
            send(&mut out, &Message::Proof(own)).await?;
            send(&mut out, &shared.here()).await?;
            let (newest, name) = receive_here(&mut back).await?;
            Ok(Some(Met {
                connection: connection.clone(),
                replica: caller,
                run,
                name,
                newest,
                by_us: false,
            }))
        }
    }
}

/// Calls a replica, as a member.
///
/// # Errors
/// If it cannot be reached, is no member, or refuses.
pub(crate) async fn call(shared: &Arc<Shared>, replica: ReplicaId) -> Result<Met> {
    shared.ensure_trusted(replica)?;
    // Without any, it may be on the local network.
    let addresses = shared.book.lock().addresses(replica);
    let address = endpoint::address_of(replica, &addresses)?;
    let calling = shared
        .endpoint
        .connect(address, larder_format::peer::PROTOCOL);
    let connection = in_time(async { calling.await.map_err(not_reached) }).await?;
    let met = in_time(introduce(shared, &connection, replica)).await;
    if let Err(error) = &met {
        connection.close(error.answer().code(), b"");
    }
    met
}

async fn introduce(shared: &Shared, connection: &Connection, called: ReplicaId) -> Result<Met> {
    let (mut out, mut back, meeting, run) =
        greet(connection, Purpose::Member, (shared.id, called), shared.run).await?;
    let own = meeting.proof_of_member(&shared.keys, Side::Caller)?;
    send(&mut out, &Message::Proof(own)).await?;
    let right = meeting.proof_of_member(&shared.keys, Side::Called)?;
    if !is_same_proof(&right, &receive_proof(&mut back).await?) {
        return Err(PeerError::NotMember);
    }
    let (newest, name) = receive_here(&mut back).await?;
    send(&mut out, &shared.here()).await?;
    let _ = out.finish();
    Ok(Met {
        connection: connection.clone(),
        replica: called,
        run,
        name,
        newest,
        by_us: true,
    })
}

/// Says hello, and hears the answer.
///
/// # Errors
/// If the other side gives none.
pub(crate) async fn greet(
    connection: &Connection,
    purpose: Purpose,
    (caller, called): (ReplicaId, ReplicaId),
    run: [u8; 16],
) -> Result<(SendStream, RecvStream, Meeting, [u8; 16])> {
    let (mut out, mut back) = connection.open_bi().await?;
    let nonce = fresh_nonce()?;
    let hello = Message::Hello {
        purpose,
        run,
        nonce,
    };
    send(&mut out, &hello).await?;
    let Message::Answer { run, nonce: theirs } = receive(&mut back).await? else {
        return Err(PeerError::Protocol("it does not answer a hello"));
    };
    let meeting = Meeting {
        caller: (caller, nonce),
        called: (called, theirs),
    };
    Ok((out, back, meeting, run))
}

pub(crate) async fn receive_proof(back: &mut RecvStream) -> Result<Proof> {
    match receive(back).await? {
        Message::Proof(proof) => Ok(proof),
        _ => Err(PeerError::Protocol("it does not prove who it is")),
    }
}

async fn receive_here(back: &mut RecvStream) -> Result<(Option<Newest>, String)> {
    match receive(back).await? {
        Message::Here { newest, name } => Ok((newest, name)),
        _ => Err(PeerError::Protocol("it does not say who it is")),
    }
}

fn fresh_nonce() -> Result<Nonce> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| PeerError::NoRandomness)?;
    Ok(nonce)
}

/// Ends in the time that a handshake may take.
///
/// # Errors
/// Those of `act`, and [`PeerError::Silent`].
pub(crate) async fn in_time<T>(act: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, act)
        .await
        .unwrap_or(Err(PeerError::Silent))
}

/// Why no connection came about.
pub(crate) fn not_reached(error: iroh::endpoint::ConnectError) -> PeerError {
    use iroh::endpoint::{ConnectError, ConnectingError};
    match error {
        ConnectError::Connecting { source, .. } => match source {
            ConnectingError::ConnectionError { source, .. } => source.into(),
            other => PeerError::Away(format!("{other:#}")),
        },
        ConnectError::Connection { source, .. } => source.into(),
        other => PeerError::Away(format!("{other:#}")),
    }
}

/// A name as it may be sent: short, and nothing in it that nobody can see.
pub(crate) fn sent_name(name: &str) -> String {
    let mut sent = String::new();
    for character in name.chars().filter(|character| !character.is_control()) {
        if sent.len() + character.len_utf8() > MAX_NAME_BYTES {
            break;
        }
        sent.push(character);
    }
    sent
}

impl Shared {
    fn here(&self) -> Message {
        Message::Here {
            newest: *self.stored.borrow(),
            name: self.name.clone(),
        }
    }
}

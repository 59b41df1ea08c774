//! Invitations: the volume's keys go to whoever has an unused ticket.
//!
//! The ticket's secret proves who may have the keys, and seals them besides, as a recovery key
//! seals a key slot. That it is used is on the disk before the keys leave: if the line breaks then,
//! a new ticket is needed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::SendStream;
use larder_format::peer::{Meeting, Message, Proof, Purpose, Side, is_same_proof};
use larder_format::{Credential, RecoveryKey, Ticket, VolumeKeys, open_slot, seal_recovery_slot};
use larder_model::ReplicaId;
use zeroize::Zeroizing;

use crate::error::{PeerError, Refusal, Result};
use crate::frame::{receive, send};
use crate::handshake::{greet, in_time, not_reached, receive_proof};
use crate::{Peers, Shared, book, endpoint};

impl Peers {
    /// A ticket that is good once, for so long. `store` is where the volume's content lives.
    /// Blocks for the disk.
    ///
    /// # Errors
    /// If it cannot be kept.
    pub fn invite(&self, store: &str, good_for: Duration) -> Result<Ticket> {
        let shared = &self.shared;
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *secret).map_err(|_| PeerError::NoRandomness)?;
        let expires = book::now().saturating_add(good_for.as_secs());
        shared.book.lock().invite(*secret, expires)?;
        Ok(Ticket {
            volume: shared.keys.volume(),
            replica: shared.id,
            addresses: self.addresses(),
            store: store.to_owned(),
            expires,
            secret,
        })
    }
}

impl Shared {
    /// Gives the volume's keys to one who proved that it holds an open invitation's secret.
    pub(crate) async fn hand_over_keys(
        self: &Arc<Self>,
        meeting: &Meeting,
        proof: Proof,
        out: &mut SendStream,
    ) -> Result<()> {
        let (meeting, volume) = (*meeting, self.keys.volume());
        let used = self
            .with_book(move |book| book.use_invitation(&meeting, volume, &proof))
            .await;
        let secret = used.ok_or(PeerError::Stopping)??;
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|_| PeerError::NoRandomness)?;
        let sealed = seal_recovery_slot(&self.keys, &RecoveryKey::from_secret(secret), salt)
            .map_err(|error| PeerError::Away(error.to_string()))?;
        let own = meeting.proof_of_invitation(&secret, volume, Side::Called);
        send(out, &Message::Proof(own)).await?;
        send(out, &Message::Keys(sealed.bytes)).await?;
        let _ = out.finish();
        tracing::info!("an invitation was used: another machine has the volume's keys");
        Ok(())
    }
}

/// Gets the volume's keys from the inviter; answers the address at which it was.
///
/// # Errors
/// If it is too old, the inviter cannot be reached, or refuses it.
pub async fn take_invitation(ticket: &Ticket) -> Result<(VolumeKeys, Option<SocketAddr>)> {
    if ticket.expires <= book::now() {
        let when = ticket.expires.to_string();
        return Err(PeerError::Expired(when));
    }
    let endpoint = endpoint::bind_for_a_call().await?;
    let taken = take(ticket, &endpoint).await;
    endpoint.close().await;
    taken
}

async fn take(
    ticket: &Ticket,
    endpoint: &iroh::Endpoint,
) -> Result<(VolumeKeys, Option<SocketAddr>)> {
    let address = endpoint::address_of(ticket.replica, &ticket.addresses)?;
    let calling = endpoint.connect(address, larder_format::peer::PROTOCOL);
    let connection = in_time(async { calling.await.map_err(not_reached) }).await?;
    let own = ReplicaId(*endpoint.id().as_bytes());
    let keys = in_time(async {
        let ids = (own, ticket.replica);
        let (mut out, mut back, meeting, _) =
            greet(&connection, Purpose::Join, ids, [0; 16]).await?;
        let proof = |side| meeting.proof_of_invitation(&ticket.secret, ticket.volume, side);
        send(&mut out, &Message::Proof(proof(Side::Caller))).await?;
        let _ = out.finish();
        if !is_same_proof(&proof(Side::Called), &receive_proof(&mut back).await?) {
            return Err(PeerError::NotMember);
        }
        let Message::Keys(sealed) = receive(&mut back).await? else {
            return Err(PeerError::Protocol("it does not send the volume's keys"));
        };
        let secret = RecoveryKey::from_secret(*ticket.secret);
        let keys = open_slot(&sealed, &Credential::RecoveryKey(&secret))
            .map_err(|_| PeerError::Protocol("the volume's keys that it sends do not open"))?;
        if keys.volume() != ticket.volume {
            return Err(PeerError::Protocol("it sends the keys of another volume"));
        }
        Ok(keys)
    })
    .await?;
    let paths = connection.paths();
    let found = paths.iter().find(|path| path.is_selected());
    let found = found.and_then(|path| match path.remote_addr() {
        iroh::TransportAddr::Ip(address) => Some(*address),
        _ => None,
    });
    connection.close(Refusal::Done.code(), b"");
    Ok((keys, found))
}

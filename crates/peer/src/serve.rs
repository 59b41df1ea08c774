//! Giving others what is here.
//!
//! Each request comes on a stream of its own; how many a peer may have open is a limit of the
//! connection. Pieces are read one at a time, and of all peers' together only a few at once, so
//! what serving takes of memory is bounded. A peer that does not take what it asked for in time is
//! not waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use iroh::endpoint::{RecvStream, SendStream};
use larder_format::peer::{Message, Piece};

use crate::Shared;
use crate::error::{PeerError, Result};
use crate::frame::{receive, send, send_bytes};
use crate::presence::Live;

/// Answers what one asks for, until it leaves.
pub(crate) async fn answer_requests(shared: Arc<Shared>, live: Arc<Live>) {
    while let Ok((out, back)) = live.connection.accept_bi().await {
        let (sharing, asking) = (Arc::clone(&shared), Arc::clone(&live));
        shared.spawn(async move {
            if let Err(error) = answer(&sharing, &asking, out, back).await {
                if error.is_its_fault() {
                    sharing.shun(&asking, &error.to_string());
                } else {
                    tracing::debug!(replica = %asking.replica, %error, "a peer was not answered");
                }
            }
        });
    }
}

async fn answer(
    shared: &Shared,
    live: &Live,
    mut out: SendStream,
    mut back: RecvStream,
) -> Result<()> {
    match receive(&mut back).await? {
        Message::Ping => send(&mut out, &Message::Ping).await?,
        Message::Pieces(pieces) => {
            for piece in pieces {
                give(shared, live, &mut out, piece).await?;
            }
        }
        _ => return Err(PeerError::Protocol("it asks for what nobody can ask for")),
    }
    let _ = out.finish();
    Ok(())
}

/// Sends one piece: its length and its bytes, or 0 if it is not here.
async fn give(shared: &Shared, live: &Live, out: &mut SendStream, piece: Piece) -> Result<()> {
    // The semaphores are never closed.
    let _own = live
        .served
        .acquire()
        .await
        .map_err(|_| PeerError::Stopping)?;
    let turn = shared
        .serving
        .acquire()
        .await
        .map_err(|_| PeerError::Stopping)?;
    let found = shared
        .with_volume(move |volume| volume.piece_here(&piece))
        .await;
    let found = match found.ok_or(PeerError::Stopping)? {
        // What a peer sends is what it was asked for, or nothing.
        Ok(found) => found.filter(|found| piece.may_have(found.len())),
        Err(error) => {
            tracing::debug!(%error, "a piece could not be read for a peer");
            None
        }
    };
    let bytes = found.as_deref().unwrap_or_default();
    send_bytes(out, &(bytes.len() as u32).to_le_bytes()).await?;
    send_bytes(out, bytes).await?;
    live.bytes_to
        .fetch_add(bytes.len() as u64, Ordering::Relaxed);
    drop(turn);
    Ok(())
}

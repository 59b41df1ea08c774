//! Messages on a stream: a length (u32, little-endian) and as many bytes.

use std::time::Duration;

use iroh::endpoint::{
    ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, WriteError,
};
use larder_format::peer::Message;

use crate::error::{PeerError, Result};

/// So long the other side may be silent within a message, or not take what it asked for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a message.
///
/// # Errors
/// If the connection breaks, or the other side does not take it.
pub(crate) async fn send(stream: &mut SendStream, message: &Message) -> Result<()> {
    let body = message.encode();
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(body);
    send_bytes(stream, &bytes).await
}

/// Sends bytes.
///
/// # Errors
/// As [`send`].
pub(crate) async fn send_bytes(stream: &mut SendStream, bytes: &[u8]) -> Result<()> {
    // In parts, so that one who takes them slowly is not taken for one who takes nothing.
    for part in bytes.chunks(256 << 10) {
        within(async { stream.write_all(part).await.map_err(written) }).await?;
    }
    Ok(())
}

/// Receives a message.
///
/// # Errors
/// If the connection breaks, nothing comes for too long, or it is no message.
pub(crate) async fn receive(stream: &mut RecvStream) -> Result<Message> {
    let mut len = [0; 4];
    receive_bytes(stream, &mut len).await?;
    let len = u32::from_le_bytes(len) as usize;
    if len > Message::MAX_BYTES {
        return Err(PeerError::Protocol("a message is too long"));
    }
    let mut body = vec![0; len];
    receive_bytes(stream, &mut body).await?;
    Ok(Message::decode(&body)?)
}

/// Receives so many bytes.
///
/// # Errors
/// If the connection breaks or ends, or nothing comes for too long.
pub(crate) async fn receive_bytes(stream: &mut RecvStream, bytes: &mut [u8]) -> Result<()> {
    for part in bytes.chunks_mut(256 << 10) {
        within(async { stream.read_exact(part).await.map_err(read) }).await?;
    }
    Ok(())
}

/// Ends by the patience.
///
/// # Errors
/// Those of `act`, and [`PeerError::Silent`].
pub(crate) async fn within<T>(act: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, act)
        .await
        .unwrap_or(Err(PeerError::Silent))
}

fn written(error: WriteError) -> PeerError {
    match error {
        WriteError::ConnectionLost(error) => lost(error),
        other => PeerError::Away(other.to_string()),
    }
}

fn read(error: ReadExactError) -> PeerError {
    match error {
        ReadExactError::ReadError(ReadError::ConnectionLost(error)) => lost(error),
        ReadExactError::FinishedEarly(_) => PeerError::Protocol("a message is cut off"),
        other => PeerError::Away(other.to_string()),
    }
}

fn lost(error: ConnectionError) -> PeerError {
    PeerError::from(error)
}

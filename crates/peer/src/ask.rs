//! Asking others for what is away here.
//!
//! The fastest is asked first, and the next for what that one does not have. Requests are small, so
//! that what comes is used as it comes, and a few are under way at once. Each piece is checked
//! against its hash here; whoever gives wrong bytes is not asked again for a while.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use larder_format::Verified;
use larder_format::peer::{MAX_PIECES, Message, Piece};
use larder_volume::Nearby;

use crate::Shared;
use crate::error::{PeerError, Result};
use crate::frame::{receive_bytes, send, within};
use crate::presence::Live;

/// One request asks for about so many bytes.
const REQUEST_BYTES: usize = 1 << 20;
/// A page has about so many.
const PAGE_BYTES: usize = 4 << 10;
/// Requests of one reader that are under way at once.
const AT_ONCE: usize = 4;

/// Asks those who are here for the volume.
#[derive(Debug)]
pub(crate) struct Asker(Weak<Shared>);

impl Asker {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self(Arc::downgrade(shared))
    }
}

type Numbered = (usize, Piece);
type Came<'a> = &'a (dyn Fn(usize, Verified) + Send + Sync);

#[async_trait]
impl Nearby for Asker {
    fn expect(&self, bytes: u64) -> Option<Duration> {
        let present = self.0.upgrade()?.present.everyone();
        present
            .iter()
            .map(|live| live.speed.lock().expect(bytes))
            .min()
    }

    async fn bring(&self, pieces: &[Piece], came: Came<'_>) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let mut others = shared.present.everyone();
        others.sort_by_cached_key(|live| live.speed.lock().expect(REQUEST_BYTES as u64));
        let mut left: Vec<Numbered> = pieces.iter().copied().enumerate().collect();
        for live in others {
            if left.is_empty() {
                return;
            }
            let requests = stream::iter(cut(left))
                .map(|pieces| ask(&shared, &live, pieces, came))
                .buffer_unordered(AT_ONCE);
            left = requests.collect::<Vec<_>>().await.concat();
        }
    }
}

/// In requests of about so many bytes.
fn cut(pieces: Vec<Numbered>) -> Vec<Vec<Numbered>> {
    let mut requests: Vec<Vec<Numbered>> = Vec::new();
    let mut bytes = 0;
    for (at, piece) in pieces {
        let len = piece.place.map_or(PAGE_BYTES, |place| place.len as usize);
        match requests.last_mut() {
            Some(request) if request.len() < MAX_PIECES && bytes + len <= REQUEST_BYTES => {
                bytes += len;
                request.push((at, piece));
            }
            _ => {
                bytes = len;
                requests.push(vec![(at, piece)]);
            }
        }
    }
    requests
}

/// Asks one for some pieces; answers those that did not come.
async fn ask(shared: &Shared, live: &Live, pieces: Vec<Numbered>, came: Came<'_>) -> Vec<Numbered> {
    let Ok(_turn) = live.turns.acquire().await else {
        return pieces;
    };
    let mut wait = Wait {
        live,
        begun: Instant::now(),
        bytes: 0,
        ended: false,
    };
    let mut left = Vec::new();
    let asked = ask_for(shared, live, &pieces, came, &mut wait, &mut left).await;
    match asked {
        Ok(()) => wait.end(),
        Err(error) => {
            if error.is_its_fault() {
                shared.shun(live, &error.to_string());
            }
            tracing::debug!(replica = %live.replica, %error, "a peer did not give what it was asked for");
        }
    }
    left
}

async fn ask_for(
    shared: &Shared,
    live: &Live,
    pieces: &[Numbered],
    came: Came<'_>,
    wait: &mut Wait<'_>,
    left: &mut Vec<Numbered>,
) -> Result<()> {
    // Until each has come, none has.
    left.extend(pieces);
    let (mut out, mut back) = within(async { Ok(live.connection.open_bi().await?) }).await?;
    let wanted = pieces.iter().map(|(_, piece)| *piece).collect();
    send(&mut out, &Message::Pieces(wanted)).await?;
    let _ = out.finish();
    let mut missing = Vec::new();
    for &(at, piece) in pieces {
        let mut len = [0; 4];
        receive_bytes(&mut back, &mut len).await?;
        let len = u32::from_le_bytes(len) as usize;
        if len == 0 {
            missing.push((at, piece));
            continue;
        }
        if !piece.may_have(len) {
            return Err(PeerError::Protocol(
                "a piece is not as long as was asked for",
            ));
        }
        let mut bytes = vec![0; len];
        receive_bytes(&mut back, &mut bytes).await?;
        let chunk = Verified::check(&shared.keys, piece.chunk, bytes)
            .map_err(|_| PeerError::Protocol("its bytes are not what was asked for"))?;
        live.bytes_from.fetch_add(len as u64, Ordering::Relaxed);
        wait.bytes += len as u64;
        came(at, chunk);
        left.retain(|(other, _)| *other != at);
    }
    *left = missing;
    Ok(())
}

/// Somebody waits for one. Dropped before it has ended, it was too slow.
struct Wait<'a> {
    live: &'a Live,
    begun: Instant,
    bytes: u64,
    ended: bool,
}

impl Wait<'_> {
    fn end(&mut self) {
        self.ended = true;
        let took = self.begun.elapsed();
        self.live.speed.lock().record(self.bytes, took);
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.live.speed.lock().missed();
        }
    }
}

//! A line to a server that can be cut, held, made long, and watched.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::serving::Serving;

/// Carries TCP connections to a server.
#[derive(Debug)]
pub struct Wire {
    serving: Serving,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    /// Bytes towards the server until the line is cut; far away if never.
    left: AtomicI64,
    /// Changes with each cut.
    cuts: watch::Sender<u64>,
    held: watch::Sender<bool>,
    delay_us: AtomicU64,
    connections: AtomicU64,
    turns: AtomicU64,
    down_last: AtomicBool,
}

const NEVER: i64 = i64::MAX / 2;
/// Pieces that are on a line at once, in each direction.
const ON_ITS_WAY: usize = 64;

impl Wire {
    /// A line to `server`.
    pub fn to(server: SocketAddr) -> Self {
        Self::from(IpAddr::V4(Ipv4Addr::LOCALHOST), server)
    }

    /// A line to `server` that begins at another address of this machine.
    pub fn from(here: IpAddr, server: SocketAddr) -> Self {
        let state = Arc::new(State {
            left: AtomicI64::new(NEVER),
            cuts: watch::Sender::new(0),
            held: watch::Sender::new(false),
            delay_us: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            down_last: AtomicBool::new(true),
        });
        let shared = state.clone();
        let serving = Serving::start_on(here, move |near| carry(near, server, shared.clone()));
        Self { serving, state }
    }

    /// Where to connect instead of to the server.
    pub fn socket(&self) -> SocketAddr {
        self.serving.address()
    }

    /// Cuts all connections once, after `bytes` more have gone to the server.
    pub fn cut_after(&self, bytes: u32) {
        self.state.left.store(i64::from(bytes), Ordering::SeqCst);
    }

    /// Cuts all connections now.
    pub fn cut(&self) {
        self.state.cut();
    }

    /// Whether bytes wait on the line, in both directions, with no end of it in sight.
    pub fn hold(&self, held: bool) {
        self.state.held.send_replace(held);
    }

    /// How long each byte is on its way from now on, in each direction.
    pub fn delay(&self, delay: Duration) {
        let us = delay.as_micros().try_into().unwrap_or(u64::MAX);
        self.state.delay_us.store(us, Ordering::SeqCst);
    }

    /// How many connections were made so far.
    pub fn connections(&self) -> u64 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How often bytes went to the server after some came from it: the round trips, for one
    /// caller at a time.
    pub fn turns(&self) -> u64 {
        self.state.turns.load(Ordering::SeqCst)
    }
}

impl State {
    fn cut(&self) {
        self.left.store(NEVER, Ordering::SeqCst);
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    fn went_up(&self, bytes: usize) {
        if self.down_last.swap(false, Ordering::SeqCst) {
            self.turns.fetch_add(1, Ordering::SeqCst);
        }
        let bytes = bytes as i64;
        if self.left.fetch_sub(bytes, Ordering::SeqCst) <= bytes {
            self.cut();
        }
    }
}

async fn carry(near: TcpStream, server: SocketAddr, state: Arc<State>) {
    let mut cuts = state.cuts.subscribe();
    cuts.mark_unchanged();
    state.connections.fetch_add(1, Ordering::SeqCst);
    let Ok(far) = TcpStream::connect(server).await else {
        return;
    };
    let _ = far.set_nodelay(true);
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    let up = pump(near_in, far_out, &state, true);
    let down = pump(far_in, near_out, &state, false);
    tokio::select! {
        _ = async { tokio::join!(up, down) } => {}
        _ = cuts.changed() => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, up: bool) {
    let (sent, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(ON_ITS_WAY);
    let sending = async move {
        let mut held = state.held.subscribe();
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if held.wait_for(|held| !held).await.is_err() {
                return;
            }
            if up {
                state.went_up(read);
            } else {
                state.down_last.store(true, Ordering::SeqCst);
            }
            let delay = Duration::from_micros(state.delay_us.load(Ordering::SeqCst));
            let piece = (Instant::now() + delay, buffer[..read].to_vec());
            if sent.send(piece).await.is_err() {
                return;
            }
        }
    };
    let receiving = async move {
        while let Some((due, bytes)) = arriving.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(sending, receiving);
}

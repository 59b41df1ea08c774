//! Work that nobody waits for: what is fetched ahead.
//!
//! One thread takes hints from readers, finds out what is worth fetching, and hands it to
//! a few tasks, so that a bounded number of bytes is under way. Hints are dropped when
//! there are too many: a dropped hint costs a reader a round trip, nothing else. Near the
//! budget nothing is fetched ahead, so it never drives out what is used.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::evict::has_room;
use super::fetch::{Coming, Want, behind_wait, bring, wants, waves};
use super::nearby::Sought;
use super::neighbours::{Away, Next, Scans};
use super::source::Urgency;
use crate::{Ino, Result, Volume};

/// So many waves are under way at once.
const WAVES: usize = 4;
/// Bytes in a wave.
const WAVE_BYTES: u64 = 4 << 20;
/// Hints that wait.
const HINTS: usize = 256;

/// What a reader lets know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hint {
    /// It goes through a file, and needs this next.
    Stream(Ino, Range<u64>),
    /// It needed this file, which was away.
    Missed(Ino),
    /// It came to a file that was fetched ahead.
    Reached(Ino),
}

/// The thread and its queue.
#[derive(Debug)]
pub(crate) struct Behind {
    hints: Mutex<Option<SyncSender<Hint>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    under_way: Arc<Semaphore>,
}

impl Behind {
    pub(crate) fn new() -> Self {
        Self {
            hints: Mutex::default(),
            thread: Mutex::default(),
            under_way: Arc::new(Semaphore::new(WAVES)),
        }
    }

    /// Hands over a hint, if there is room for it. Never waits.
    pub(crate) fn hint(&self, hint: Hint) {
        if let Some(hints) = self.hints.lock().as_ref() {
            // A full queue drops the hint on purpose.
            let _ = hints.try_send(hint);
        }
    }

    /// Starts the thread.
    pub(crate) fn run(&self, volume: &Arc<Volume>) {
        let (sender, receiver) = sync_channel(HINTS);
        let weak = Arc::downgrade(volume);
        let spawned = std::thread::Builder::new()
            .name("larder-ahead".to_owned())
            .spawn(move || work(&weak, &receiver));
        match spawned {
            Ok(thread) => {
                *self.hints.lock() = Some(sender);
                *self.thread.lock() = Some(thread);
            }
            Err(error) => tracing::warn!(%error, "nothing is fetched ahead"),
        }
    }

    /// Ends the thread and waits until nothing is under way any more.
    pub(crate) async fn stop(&self) {
        self.hints.lock().take();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join());
            if !matches!(joined.await, Ok(Ok(()))) {
                tracing::warn!("the thread that fetches ahead failed");
            }
        }
        let _all = self.under_way.acquire_many(WAVES as u32).await;
    }
}

fn work(volume: &Weak<Volume>, hints: &Receiver<Hint>) {
    let mut scans = Scans::new();
    while let Ok(first) = hints.recv() {
        let Some(volume) = volume.upgrade() else {
            return;
        };
        let mut batch = vec![first];
        loop {
            match hints.try_recv() {
                Ok(hint) if !batch.contains(&hint) => batch.push(hint),
                Ok(_) => {}
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
        }
        for hint in batch {
            if volume.is_stopping() || !has_room(&volume) || !volume.pull.fetcher.source.reach().up
            {
                break;
            }
            if let Err(error) = follow(&volume, &mut scans, hint) {
                tracing::debug!(%error, "could not fetch ahead");
            }
        }
    }
}

fn follow(volume: &Arc<Volume>, scans: &mut Scans, hint: Hint) -> Result<()> {
    match hint {
        Hint::Stream(ino, range) => start(volume, &wants(volume, ino, range)?),
        Hint::Missed(ino) => fetch_files(volume, &scans.missed(volume, ino)?)?,
        Hint::Reached(ino) => fetch_files(volume, &scans.reached(volume, ino)?)?,
    }
    Ok(())
}

/// Fetches whole files. All requests are under way before anything waits for one of them.
fn fetch_files(volume: &Arc<Volume>, files: &[Next]) -> Result<()> {
    let (mut chunks, mut all, mut long) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        match file.away() {
            Away::Chunks(missing) => {
                let ino = file.ino;
                let wants = missing.into_iter().map(|missing| Want { ino, missing });
                let before = all.len();
                all.extend(wants);
                let new = all[before..].iter();
                chunks.extend(new.map(|want| (want.missing.chunk, want.sought())));
            }
            Away::List(root) => {
                chunks.push((root, Sought::Page));
                long.push(file.ino);
            }
        }
    }
    let _coming = Coming::start(volume, chunks, Urgency::Behind, behind_wait(volume))?;
    start(volume, &all);
    for ino in long {
        match wants(volume, ino, 0..u64::MAX) {
            Ok(wants) => start(volume, &wants),
            Err(error) => tracing::debug!(ino, %error, "could not fetch a file ahead"),
        }
    }
    Ok(())
}

/// Brings these pieces; waits only until the last wave of them has begun.
fn start(volume: &Arc<Volume>, wants: &[Want]) {
    for wave in waves(wants, WAVE_BYTES) {
        let under_way = Arc::clone(&volume.pull.behind.under_way);
        let Ok(turn) = volume.runtime.block_on(under_way.acquire_owned()) else {
            return;
        };
        if volume.is_stopping() || !has_room(volume) {
            return;
        }
        let (bringing, wave) = (Arc::clone(volume), wave.to_vec());
        volume.runtime.spawn_blocking(move || {
            match bring(&bringing, &wave) {
                Ok(brought) => {
                    for (ino, error) in brought.failed {
                        tracing::debug!(ino, %error, "could not fetch ahead");
                    }
                }
                Err(error) => tracing::debug!(%error, "could not fetch ahead"),
            }
            // The turn ends after the last use of the volume, so that who has all turns
            // knows that nobody holds it.
            drop(bringing);
            drop(turn);
        });
    }
}

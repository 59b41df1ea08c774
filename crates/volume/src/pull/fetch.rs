//! Bringing what is away into the cache.
//!
//! A reader whose bytes are away calls [`Volume::ensure`] and waits, at most for the volume's
//! `read_wait`. Each chunk that it needs is a flight (`flight`); those that nobody fetches
//! yet become requests (`request`). What lands was checked against its hash, and goes into
//! the cache file. A reader of a few pieces gets them before that ([`Volume::await_few`]). So
//! no byte from a store is served unverified, and no reader waits for ever.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_format::Verified;
use larder_model::ChunkId;

use super::behind::Hint;
use super::evict;
use super::failure::Failure;
use super::flight::{Boarding, Flight, Outcome};
use super::nearby::{Pieces, Sought};
use super::request::launch;
use super::source::Urgency;
use crate::live::Missing;
use crate::{Ino, Result, Volume, VolumeError};

/// A reader's range is brought in pieces of so many bytes, each with a wait of its own.
const WAVE_BYTES: u64 = 8 << 20;
/// Content that comes and goes again so often while one reader waits is a fault.
const ROUNDS: usize = 8;
/// Work that nobody waits for has so many times a reader's wait.
const BEHIND_PATIENCE: u32 = 4;
/// A flight ends by its deadline; its own verdict is better than a waiter's.
const GRACE: Duration = Duration::from_millis(200);

/// A piece of a file to bring.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Want {
    pub(crate) ino: Ino,
    pub(crate) missing: Missing,
}

impl Want {
    /// What it is, for others nearby.
    pub(crate) fn sought(&self) -> Sought {
        Sought::Content(self.ino, self.missing.off, self.missing.len)
    }
}

/// What came of bringing some pieces.
#[derive(Debug, Default)]
pub(crate) struct Brought {
    /// Bytes that are here now.
    pub(crate) bytes: u64,
    /// Files of which something could not be brought, and the first reason of each.
    pub(crate) failed: Vec<(Ino, VolumeError)>,
}

/// What came for a reader and is on its way into the cache file.
#[derive(Debug, Default)]
#[must_use = "it would have to come again"]
pub struct Arrived {
    ino: Ino,
    landed: Vec<(Missing, Arc<Verified>)>,
}

impl Arrived {
    /// The pieces, each verified.
    pub(crate) fn landed(&self) -> &[(Missing, Arc<Verified>)] {
        &self.landed
    }
}

impl Volume {
    /// Returns once all of `range` is in the file's cache file. Blocks: call it from a
    /// thread that may wait.
    ///
    /// # Errors
    /// [`VolumeError::Away`] at once if the store is known to be down,
    /// [`VolumeError::TimedOut`] after the wait, [`VolumeError::Damaged`] with the object's
    /// name if the store gives wrong bytes or none.
    pub(crate) fn ensure(&self, ino: Ino, range: Range<u64>) -> Result<()> {
        self.ensure_then(ino, range, || {})
    }

    /// As [`Volume::ensure`]. `launched` is called when the first request is under way: what
    /// it asks for is behind what the reader waits for.
    ///
    /// # Errors
    /// As [`Volume::ensure`].
    pub(crate) fn ensure_then(
        &self,
        ino: Ino,
        range: Range<u64>,
        launched: impl FnOnce(),
    ) -> Result<()> {
        let mut launched = Some(launched);
        for _ in 0..ROUNDS {
            let wants = wants(self, ino, range.clone())?;
            if wants.is_empty() {
                return Ok(());
            }
            for wave in waves(&wants, WAVE_BYTES) {
                let coming = set_out_to_read(self, ino, wave)?;
                if let Some(launched) = launched.take() {
                    launched();
                }
                let brought = take_in(self, wave, &coming)?;
                if let Some((_, error)) = brought.failed.into_iter().next() {
                    return Err(error);
                }
            }
        }
        Err(VolumeError::NoSpace(
            "content goes as soon as it comes; the budget is too small".to_owned(),
        ))
    }
}

impl Volume {
    /// Returns once all of `range` is here or in memory; `None` if nothing of it is away, or too
    /// much for one go: [`Volume::ensure`] is for that. Blocks, as that does. `launched` is
    /// called when the first request is under way.
    ///
    /// # Errors
    /// As [`Volume::ensure`].
    pub(crate) fn await_few(
        &self,
        ino: Ino,
        range: Range<u64>,
        launched: impl FnOnce(),
    ) -> Result<Option<Arrived>> {
        let wants = wants(self, ino, range)?;
        let bytes: u64 = wants.iter().map(|want| want.missing.len).sum();
        if wants.is_empty() || bytes > WAVE_BYTES {
            return Ok(None);
        }
        let coming = set_out_to_read(self, ino, &wants)?;
        launched();
        let (landed, failure) = wait_for(&coming, &wants);
        let arrived = Arrived { ino, landed };
        match failure {
            None => Ok(Some(arrived)),
            Some(failure) => {
                self.keep(arrived)?;
                Err(failure.into())
            }
        }
    }

    /// Puts what came for a reader into the cache file.
    ///
    /// # Errors
    /// If the disk fails, or is full and nothing may go. The reader needs to hear of neither.
    pub fn keep(&self, arrived: Arrived) -> Result<()> {
        if arrived.landed.is_empty() {
            return Ok(());
        }
        match fill_or_make_room(self, arrived.ino, &arrived.landed) {
            // The file was deleted in the meantime.
            Err(VolumeError::NoEntry) => Ok(()),
            other => other,
        }
    }
}

/// What of `range` is away.
pub(crate) fn wants(volume: &Volume, ino: Ino, range: Range<u64>) -> Result<Vec<Want>> {
    let missing = volume.missing(ino, range)?;
    let want = |missing| Want { ino, missing };
    Ok(missing.into_iter().map(want).collect())
}

/// The wants in runs of about `bytes`.
pub(crate) fn waves(wants: &[Want], bytes: u64) -> impl Iterator<Item = &[Want]> {
    let mut rest = wants;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut sum = 0;
        let fits = |want: &&Want| {
            sum += want.missing.len;
            sum <= bytes
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (wave, left) = rest.split_at(count);
        rest = left;
        Some(wave)
    })
}

/// How long work that nobody waits for may take.
pub(crate) fn behind_wait(volume: &Volume) -> Duration {
    volume.settings.read_wait * BEHIND_PATIENCE
}

/// Brings pieces of files for which no reader waits, those of one file in a row. Blocks until
/// each has come or failed.
///
/// # Errors
/// If the database fails. What could not be brought is in the answer.
pub(crate) fn bring(volume: &Volume, wants: &[Want]) -> Result<Brought> {
    let coming = set_out(volume, wants, Urgency::Behind)?;
    let brought = take_in(volume, wants, &coming);
    // Of files that nobody opens nobody closes one.
    volume.trim_lives();
    brought
}

/// Sets out for a reader of the file.
fn set_out_to_read(volume: &Volume, ino: Ino, wants: &[Want]) -> Result<Coming> {
    let coming = set_out(volume, wants, Urgency::Reader)?;
    if coming.asked && wants.first().is_some_and(|want| want.missing.off == 0) {
        // It waits for a round trip, and what lies beside the file may be next.
        volume.pull.behind.hint(Hint::Missed(ino));
    }
    Ok(coming)
}

fn set_out(volume: &Volume, wants: &[Want], urgency: Urgency) -> Result<Coming> {
    let wait = match urgency {
        Urgency::Reader => volume.settings.read_wait,
        Urgency::Behind => behind_wait(volume),
    };
    let chunks = wants.iter().map(|want| (want.missing.chunk, want.sought()));
    Coming::start(volume, chunks, urgency, wait)
}

/// Puts what comes into the cache files.
fn take_in(volume: &Volume, wants: &[Want], coming: &Coming) -> Result<Brought> {
    let mut brought = Brought::default();
    for group in wants.chunk_by(|a, b| a.ino == b.ino) {
        let ino = group.first().map_or(0, |want| want.ino);
        let (landed, failure) = wait_for(coming, group);
        match fill_or_make_room(volume, ino, &landed) {
            Ok(()) => {
                brought.bytes += landed.iter().map(|(missing, _)| missing.len).sum::<u64>();
                let failed = failure.map(|failure| (ino, failure.into()));
                brought.failed.extend(failed);
            }
            // The file was deleted in the meantime.
            Err(VolumeError::NoEntry) => {}
            Err(error) => brought.failed.push((ino, error)),
        }
    }
    Ok(brought)
}

/// What comes of one file, and why the first piece that does not come does not.
fn wait_for(coming: &Coming, wants: &[Want]) -> (Vec<(Missing, Arc<Verified>)>, Option<Failure>) {
    let mut landed = Vec::with_capacity(wants.len());
    let mut failure = None;
    for want in wants {
        match coming.wait(&want.missing.chunk) {
            Ok(bytes) => landed.push((want.missing, bytes)),
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    (landed, failure)
}

/// A full disk is no reason to fail a reader while there is content that may go.
fn fill_or_make_room(volume: &Volume, ino: Ino, landed: &[(Missing, Arc<Verified>)]) -> Result<()> {
    let need: u64 = landed.iter().map(|(missing, _)| missing.len).sum();
    evict::keep_budget(volume, need)?;
    let here = match volume.fill(ino, landed) {
        Err(error) if error.errno() == libc::ENOSPC => {
            if evict::make_room(volume, need)? == 0 {
                return Err(VolumeError::NoSpace(
                    "the disk is full, and nothing here may be dropped".to_owned(),
                ));
            }
            volume.fill(ino, landed)?
        }
        other => other?,
    };
    evict::came(volume, ino, here);
    Ok(())
}

/// Chunks that are on their way.
pub(crate) struct Coming {
    chunks: HashMap<ChunkId, Arriving>,
    /// Whether nobody fetched one of them before.
    asked: bool,
    wait: Duration,
    deadline: Instant,
}

enum Arriving {
    Landed(Arc<Verified>),
    Flying(Arc<Flight>),
}

impl Coming {
    /// Sets out to fetch those of the chunks that nobody fetches yet.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn start(
        volume: &Volume,
        chunks: impl IntoIterator<Item = (ChunkId, Sought)>,
        urgency: Urgency,
        wait: Duration,
    ) -> Result<Self> {
        let deadline = Instant::now() + wait;
        let mut coming = HashMap::new();
        let mut departures = Vec::new();
        let mut pieces = Pieces::of(volume);
        for (chunk, sought) in chunks {
            let Entry::Vacant(place) = coming.entry(chunk) else {
                continue;
            };
            place.insert(match volume.pull.flights.board(chunk) {
                Boarding::Landed(bytes) => Arriving::Landed(bytes),
                Boarding::Joined(flight) => Arriving::Flying(flight),
                Boarding::Started(flight, departure) => {
                    let piece = pieces.piece(chunk, sought)?;
                    departures.push(departure.for_piece(piece));
                    Arriving::Flying(flight)
                }
            });
        }
        let asked = !departures.is_empty();
        launch(volume, departures, urgency, deadline)?;
        Ok(Self {
            chunks: coming,
            asked,
            wait,
            deadline,
        })
    }

    /// Waits for one of the chunks.
    pub(crate) fn wait(&self, chunk: &ChunkId) -> Outcome {
        match self.chunks.get(chunk) {
            Some(Arriving::Landed(bytes)) => Ok(Arc::clone(bytes)),
            Some(Arriving::Flying(flight)) => flight
                .wait_until(self.deadline + GRACE)
                .unwrap_or(Err(Failure::TimedOut(self.wait.as_secs().max(1)))),
            None => Err(Failure::Damaged(format!("chunk {chunk} was not asked for"))),
        }
    }
}

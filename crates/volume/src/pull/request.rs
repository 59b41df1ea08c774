//! Chunks that nobody fetches yet become few requests to the store.
//!
//! Chunks that lie near each other in one pack come with one range request. Each is
//! opened and checked against its hash before its flight lands. A chunk that comes wrong
//! is asked for again, alone; so damage in one place of a pack fails nobody else.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use larder_format::{PackEntry, PackRef, Verified, VolumeKeys, open_chunk};
use larder_plan::nearby::First;
use larder_plan::readahead::coalesce;
use larder_store::Key;
use rusqlite::Connection;

use super::failure::Failure;
use super::flight::Departure;
use super::locate::{Place, locate};
use super::nearby::Others;
use super::problems::Problems;
use super::source::{Source, TRIES_OF_DAMAGED, Urgency};
use crate::{Result, Volume};

/// The longest request of a reader: on a slow link it must end within the wait.
const READER_REQUEST_BYTES: u64 = 1 << 20;
/// The longest request that nobody waits for.
const BEHIND_REQUEST_BYTES: u64 = 4 << 20;

/// What every request needs.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    pub(crate) source: Arc<Source>,
    pub(crate) keys: Arc<VolumeKeys>,
    pub(crate) problems: Arc<Problems>,
    pub(crate) others: Arc<Others>,
}

/// Chunks of one pack that come with one request.
pub(crate) struct Request {
    by: Fetcher,
    key: Key,
    seal: PackRef,
    range: Range<u64>,
    pieces: Vec<(PackEntry, Departure)>,
    urgency: Urgency,
}

/// Fetches these chunks in the background; each flight ends by `deadline`.
///
/// # Errors
/// If the database fails; then all of the flights have failed.
pub(super) fn launch(
    volume: &Volume,
    departures: Vec<Departure>,
    urgency: Urgency,
    deadline: Instant,
) -> Result<()> {
    if departures.is_empty() {
        return Ok(());
    }
    let fetcher = &volume.pull.fetcher;
    let placed = volume
        .db
        .read(|connection| place(connection, departures, &fetcher.problems))?;
    if fetcher.others.get().is_some() {
        let fetcher = fetcher.clone();
        volume.pull.spawn(&volume.runtime, async move {
            let placed = fetcher.ask_others_first(placed, deadline).await;
            let Ok(requests) = fetcher.requests(placed, urgency) else {
                return;
            };
            let running = requests.into_iter().map(|request| request.run(deadline));
            futures::future::join_all(running).await;
        });
        return Ok(());
    }
    for request in fetcher.requests(placed, urgency)? {
        volume.pull.spawn(&volume.runtime, request.run(deadline));
    }
    Ok(())
}

/// Finds out where chunks lie. Those that no known pack has fail at once.
///
/// # Errors
/// If the database fails; then all of the flights have failed.
pub(crate) fn place(
    connection: &Connection,
    departures: Vec<Departure>,
    problems: &Problems,
) -> Result<Vec<(Place, Departure)>> {
    let mut placed = Vec::with_capacity(departures.len());
    for departure in departures {
        let chunk = departure.chunk();
        match locate(connection, &chunk)? {
            Some(place) => placed.push((place, departure)),
            None => {
                let words = format!("no pack that is known here holds chunk {chunk}");
                problems.note(chunk, words.clone());
                departure.land(Err(Failure::Damaged(words)));
            }
        }
    }
    Ok(placed)
}

impl Fetcher {
    /// Has others nearby bring these chunks, if they are likely to be faster than the store.
    /// Answers what the store is to be asked for.
    pub(crate) async fn ask_others_first(
        &self,
        placed: Vec<(Place, Departure)>,
        deadline: Instant,
    ) -> Vec<(Place, Departure)> {
        let bytes = placed
            .iter()
            .map(|(place, _)| u64::from(place.entry.raw_len));
        let patience = match self.others.first(&self.source, bytes.sum()) {
            First::Store => return placed,
            First::Nearby(patience) => patience,
        };
        self.others.bring(placed, patience, deadline).await
    }

    /// The store should have given these chunks by now: others nearby may have them.
    async fn while_the_store_is_late<T: Send>(
        &self,
        pieces: Vec<(T, Departure)>,
        deadline: Instant,
    ) -> Vec<(T, Departure)> {
        let patience = Some(larder_plan::nearby::LONGEST_PATIENCE);
        self.others.bring(pieces, patience, deadline).await
    }

    /// The store cannot give these chunks: others nearby may have them.
    async fn ask_others_last<T: Send>(
        &self,
        pieces: Vec<(T, Departure)>,
        failure: Failure,
        deadline: Instant,
    ) {
        for (_, departure) in self.others.bring(pieces, None, deadline).await {
            departure.land(Err(failure.clone()));
        }
    }

    /// Few requests for many chunks, by pack and place.
    ///
    /// # Errors
    /// Never, for a pack's id makes a valid key.
    pub(crate) fn requests(
        &self,
        mut placed: Vec<(Place, Departure)>,
        urgency: Urgency,
    ) -> Result<Vec<Request>> {
        let longest = match urgency {
            Urgency::Reader => READER_REQUEST_BYTES,
            Urgency::Behind => BEHIND_REQUEST_BYTES,
        };
        let gap = self.source.gap_bytes();
        placed.sort_unstable_by_key(|(place, _)| (place.pack, place.entry.off));
        let mut requests = Vec::new();
        let mut rest = placed.into_iter().peekable();
        while let Some((first, _)) = rest.peek() {
            let (pack, key, seal) = (first.pack, first.key()?, first.seal);
            let mut pieces = Vec::new();
            while let Some((place, departure)) = rest.next_if(|(place, _)| place.pack == pack) {
                pieces.push((place.entry, departure));
            }
            let ranges: Vec<_> = pieces.iter().map(|(entry, _)| entry.range()).collect();
            let mut pieces = pieces.into_iter();
            requests.extend(
                coalesce(&ranges, gap, longest)
                    .into_iter()
                    .map(|planned| Request {
                        by: self.clone(),
                        key: key.clone(),
                        seal,
                        range: planned.range,
                        pieces: pieces.by_ref().take(planned.pieces.len()).collect(),
                        urgency,
                    }),
            );
        }
        Ok(requests)
    }
}

impl Request {
    /// Asks the store; ends the flight of each chunk by `deadline`.
    pub(crate) async fn run(mut self, deadline: Instant) {
        let mut pieces = std::mem::take(&mut self.pieces);
        let source = &self.by.source;
        let fetch = source.fetch(&self.key, self.range.clone(), self.urgency, deadline);
        tokio::pin!(fetch);
        let late = source.late(self.range.end - self.range.start);
        let got = match tokio::time::timeout(late, &mut fetch).await {
            Ok(got) => got,
            Err(_) => {
                pieces = self.by.while_the_store_is_late(pieces, deadline).await;
                if pieces.is_empty() {
                    return;
                }
                fetch.await
            }
        };
        let again = match got {
            Ok(bytes) => self.open(bytes, pieces).await,
            Err(Failure::Damaged(_)) => pieces,
            Err(failure) => return self.by.ask_others_last(pieces, failure, deadline).await,
        };
        for (entry, departure) in again {
            let outcome = self.fetch_alone(&entry, deadline).await;
            self.land(departure, outcome, deadline).await;
        }
    }

    /// Lands the chunks that are what they must be; answers the others.
    async fn open(
        &self,
        bytes: Bytes,
        pieces: Vec<(PackEntry, Departure)>,
    ) -> Vec<(PackEntry, Departure)> {
        let (keys, seal, start) = (Arc::clone(&self.by.keys), self.seal, self.range.start);
        let problems = Arc::clone(&self.by.problems);
        // Hashing and decompressing would hold up the other tasks of this thread.
        let opened = tokio::task::spawn_blocking(move || {
            let mut wrong = Vec::new();
            for (entry, departure) in pieces {
                let range = entry.range();
                let sealed = (range.start - start) as usize..(range.end - start) as usize;
                match opened(&keys, &seal, &entry, bytes.get(sealed)) {
                    Ok(chunk) => {
                        problems.clear(&entry.chunk);
                        departure.land(Ok(Arc::new(chunk)));
                    }
                    Err(_) => wrong.push((entry, departure)),
                }
            }
            wrong
        });
        // A pool that is shutting down drops the pieces, which ends their flights.
        opened.await.unwrap_or_default()
    }

    /// Asks for one chunk until it comes right, or often enough to be sure.
    async fn fetch_alone(&self, entry: &PackEntry, deadline: Instant) -> Result<Verified, Failure> {
        let source = &self.by.source;
        let mut tries = 0;
        loop {
            let bytes = source
                .fetch(&self.key, entry.range(), self.urgency, deadline)
                .await?;
            let why = match opened(&self.by.keys, &self.seal, entry, Some(&bytes)) {
                Ok(chunk) => return Ok(chunk),
                Err(why) => why,
            };
            let pause = source.retry_pause(tries);
            tries += 1;
            if tries == TRIES_OF_DAMAGED || Instant::now() + pause >= deadline {
                return Err(Failure::Damaged(format!(
                    "chunk {} in {} is damaged on {}: {why}",
                    entry.chunk,
                    self.key,
                    source.store().address()
                )));
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn land(
        &self,
        departure: Departure,
        outcome: Result<Verified, Failure>,
        deadline: Instant,
    ) {
        let failure = match outcome {
            Ok(chunk) => {
                self.by.problems.clear(&departure.chunk());
                return departure.land(Ok(Arc::new(chunk)));
            }
            Err(failure) => failure,
        };
        if let Failure::Damaged(what) = &failure {
            tracing::warn!(what, "content on the store is damaged");
            self.by.problems.note(departure.chunk(), what.clone());
        }
        let pieces = vec![((), departure)];
        self.by.ask_others_last(pieces, failure, deadline).await;
    }
}

fn opened(
    keys: &VolumeKeys,
    seal: &PackRef,
    entry: &PackEntry,
    sealed: Option<&[u8]>,
) -> Result<Verified, larder_format::FormatError> {
    open_chunk(keys, seal, entry, sealed.unwrap_or_default())
}

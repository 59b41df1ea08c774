//! Others nearby who may have what is away here.
//!
//! The store is the truth: what is fetched here is always there, too. But another replica on the
//! same network may be faster, or there while the store is not. Who that is, and how it is asked,
//! is the affair of whoever gives the volume its [`Nearby`]; here is decided when (see
//! `larder_plan::nearby`):
//!
//! - **First** if they are likely to be faster than the store. What did not come within a short
//!   patience is fetched from the store, as without them.
//! - **Last** if the store cannot give a piece, for as long as the reader waits.
//!
//! What comes was checked against its hash: a [`Verified`] cannot be made otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use larder_format::Verified;
use larder_format::peer::{Piece, PiecePlace};
use larder_model::{ChunkId, NodeId};
use larder_plan::nearby::First;
use parking_lot::{Mutex, RwLock};
use rusqlite::OptionalExtension;

use super::flight::Departure;
use super::source::Source;
use crate::{Ino, Result, Volume, VolumeError};

/// Asks others nearby for pieces.
#[async_trait]
pub trait Nearby: std::fmt::Debug + Send + Sync {
    /// How long they are likely to need for pieces of so many bytes; `None` if nobody is there.
    fn expect(&self, bytes: u64) -> Option<Duration>;

    /// Asks for these pieces, and hands on each that comes, by its place among them. Ends once no
    /// more will come; whoever drops it before was kept waiting for too long.
    async fn bring(&self, pieces: &[Piece], came: &(dyn Fn(usize, Verified) + Send + Sync));
}

/// What others are likely to be asked for at once.
const REQUEST_BYTES: u64 = 1 << 20;

/// Who is asked, if anyone is.
#[derive(Debug, Default)]
pub(crate) struct Others(RwLock<Option<Arc<dyn Nearby>>>);

/// What a chunk that is fetched is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Sought {
    /// A page of a tree or list, or a commit.
    Page,
    /// A piece of a file as it is now: where it starts, and how long it is.
    Content(Ino, u64, u64),
    /// A piece of what a file was.
    Past,
}

impl Volume {
    /// From now on `nearby` is asked for content, too; `None`: nobody is.
    pub fn ask_nearby(&self, nearby: Option<Arc<dyn Nearby>>) {
        *self.pull.fetcher.others.0.write() = nearby;
    }

    /// The piece, if it is here. What is asked for is compared with what is here by its hash, so
    /// nothing else is ever given, whatever happens to the file meanwhile. Blocks for the disk.
    ///
    /// # Errors
    /// If the database or the disk fails.
    pub fn piece_here(&self, piece: &Piece) -> Result<Option<Verified>> {
        let bytes = match piece.place {
            Some(place) => self.bytes_at(place)?,
            None => self.page_here(&piece.chunk)?,
        };
        Ok(bytes.and_then(|bytes| self.verified(piece.chunk, bytes)))
    }

    /// The bytes as chunk `id`, if they are.
    pub fn verified(&self, id: ChunkId, bytes: Vec<u8>) -> Option<Verified> {
        Verified::check(&self.keys, id, bytes).ok()
    }

    fn bytes_at(&self, place: PiecePlace) -> Result<Option<Vec<u8>>> {
        let ino: Option<i64> = self.db.look(|connection| {
            Ok(connection
                .prepare_cached("SELECT ino FROM nodes WHERE id = ?1")?
                .query_row([place.node.as_bytes()], |row| row.get(0))
                .optional()?)
        })?;
        let Some(file) = ino
            .map(|ino| self.cache.open_file(ino as Ino))
            .transpose()?
        else {
            return Ok(None);
        };
        let Some(file) = file else { return Ok(None) };
        let mut bytes = vec![0; place.len as usize];
        match std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, place.off) {
            Ok(()) => Ok(Some(bytes)),
            // It is shorter, or cannot be read here: others may have it.
            Err(_) => Ok(None),
        }
    }

    fn page_here(&self, id: &ChunkId) -> Result<Option<Vec<u8>>> {
        self.db.look(|connection| {
            let page: Option<Vec<u8>> = connection
                .prepare_cached(
                    "SELECT bytes FROM pages WHERE id = ?1
                     UNION ALL SELECT bytes FROM lists WHERE id = ?1",
                )?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()?;
            Ok(page)
        })
    }
}

/// Says what to ask others for. Those of one file in a row cost one look into the database.
pub(super) struct Pieces<'a> {
    volume: &'a Volume,
    is_anyone: bool,
    last: Option<(Ino, Option<NodeId>)>,
}

impl<'a> Pieces<'a> {
    pub(super) fn of(volume: &'a Volume) -> Self {
        let others = volume.pull.fetcher.others.get();
        Self {
            volume,
            is_anyone: others.is_some_and(|nearby| nearby.expect(0).is_some()),
            last: None,
        }
    }

    /// What to ask for, if there is anyone who may have it.
    ///
    /// # Errors
    /// If the database fails.
    pub(super) fn piece(&mut self, chunk: ChunkId, sought: Sought) -> Result<Option<Piece>> {
        if !self.is_anyone {
            return Ok(None);
        }
        let (ino, off, len) = match sought {
            Sought::Past => return Ok(None),
            Sought::Page => return Ok(Some(Piece { chunk, place: None })),
            Sought::Content(ino, off, len) => (ino, off, len),
        };
        let len = u32::try_from(len).map_err(|_| VolumeError::TooLarge("a chunk"))?;
        let place = |node| PiecePlace { node, off, len };
        Ok(self.node(ino)?.map(|node| Piece {
            chunk,
            place: Some(place(node)),
        }))
    }

    /// The node's id; `None` if it is just being deleted.
    fn node(&mut self, ino: Ino) -> Result<Option<NodeId>> {
        if let Some((_, node)) = self.last.filter(|(last, _)| *last == ino) {
            return Ok(node);
        }
        let id: Option<Vec<u8>> = self.volume.db.look(|connection| {
            Ok(connection
                .prepare_cached("SELECT id FROM nodes WHERE ino = ?1")?
                .query_row([ino as i64], |row| row.get(0))
                .optional()?)
        })?;
        let node = id.and_then(|id| NodeId::from_slice(&id));
        self.last = Some((ino, node));
        Ok(node)
    }
}

impl Others {
    /// Who is asked.
    pub(super) fn get(&self) -> Option<Arc<dyn Nearby>> {
        self.0.read().clone()
    }

    /// Whether others are asked before the store for so many bytes, and how long they have.
    pub(super) fn first(&self, source: &Source, bytes: u64) -> First {
        // Of one request; of more, the patience is with each.
        let bytes = bytes.min(REQUEST_BYTES);
        match self.get() {
            None => First::Store,
            Some(nearby) => larder_plan::nearby::first(nearby.expect(bytes), source.expect(bytes)),
        }
    }

    /// Asks others for what is fetched, and lands what comes. Answers the rest: once nothing came
    /// for `patience`, and by the deadline at the latest.
    pub(super) async fn bring<T: Send>(
        &self,
        fetched: Vec<(T, Departure)>,
        patience: Option<Duration>,
        deadline: Instant,
    ) -> Vec<(T, Departure)> {
        let Some(nearby) = self.get() else {
            return fetched;
        };
        let (mut asked, mut rest, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
        for (with, departure) in fetched {
            match departure.piece() {
                Some(piece) => {
                    pieces.push(piece);
                    asked.push(Mutex::new(Some((with, departure))));
                }
                None => rest.push((with, departure)),
            }
        }
        if pieces.is_empty() {
            return rest;
        }
        let arrivals = AtomicUsize::new(0);
        let came = |at: usize, chunk: Verified| {
            let Some(waiting) = asked.get(at) else { return };
            let mut waiting = waiting.lock();
            if waiting
                .as_ref()
                .is_some_and(|(_, departure)| departure.chunk() == chunk.id())
                && let Some((_, departure)) = waiting.take()
            {
                departure.land(Ok(Arc::new(chunk)));
                arrivals.fetch_add(1, Ordering::Relaxed);
            }
        };
        let mut bringing = nearby.bring(&pieces, &came);
        let mut seen = 0;
        loop {
            let until = patience.map_or(deadline, |patience| Instant::now() + patience);
            let until = until.min(deadline);
            let brought = tokio::time::timeout_at(until.into(), &mut bringing).await;
            let arrived = arrivals.load(Ordering::Relaxed);
            // Who is too slow is not waited for any longer; the store is asked instead.
            if brought.is_ok() || arrived == seen || Instant::now() >= deadline {
                break;
            }
            seen = arrived;
        }
        drop(bringing);
        rest.extend(asked.into_iter().filter_map(Mutex::into_inner));
        rest
    }
}

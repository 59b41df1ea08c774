//! One fetch for many readers.
//!
//! A chunk that is being fetched is a [`Flight`]; whoever else wants it waits for the same
//! one. A flight that failed fails all its waiters and is forgotten, so the next reader
//! tries anew. What landed lately is kept in a bounded memory: a reader that comes between
//! the landing and the filling of the cache file costs no second request.
//!
//! A flight cannot be left hanging: the one who fetches holds a [`Departure`], and dropping
//! it unlanded (a task that was cut off) fails the flight.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use larder_format::Verified;
use larder_format::peer::Piece;
use larder_model::ChunkId;
use parking_lot::{Condvar, Mutex};

use super::failure::Failure;

/// How a flight ends.
pub(crate) type Outcome = Result<Arc<Verified>, Failure>;

/// All chunks that are being fetched, and those that came lately.
#[derive(Debug)]
pub(crate) struct Flights {
    board: Mutex<Board>,
}

#[derive(Debug)]
struct Board {
    flying: HashMap<ChunkId, Arc<Flight>>,
    landed: HashMap<ChunkId, Arc<Verified>>,
    /// The landed ones, oldest first.
    order: VecDeque<ChunkId>,
    landed_bytes: usize,
    landed_limit: usize,
}

/// A chunk that is being fetched.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    outcome: Mutex<Option<Outcome>>,
    landing: Condvar,
}

/// What one who wants a chunk gets.
#[derive(Debug)]
pub(crate) enum Boarding {
    /// The chunk: it came a moment ago.
    Landed(Arc<Verified>),
    /// Someone fetches it already.
    Joined(Arc<Flight>),
    /// Nobody does: you are to fetch it.
    Started(Arc<Flight>, Departure),
}

/// The duty to end a flight.
#[derive(Debug)]
pub(crate) struct Departure {
    chunk: ChunkId,
    flights: Arc<Flights>,
    flight: Arc<Flight>,
    landed: bool,
    piece: Option<Piece>,
}

impl Flights {
    /// Keeps up to `landed_limit` bytes of what came lately.
    pub(crate) fn new(landed_limit: usize) -> Arc<Self> {
        Arc::new(Self {
            board: Mutex::new(Board {
                flying: HashMap::new(),
                landed: HashMap::new(),
                order: VecDeque::new(),
                landed_bytes: 0,
                landed_limit,
            }),
        })
    }

    /// Asks for a chunk.
    pub(crate) fn board(self: &Arc<Self>, chunk: ChunkId) -> Boarding {
        let mut board = self.board.lock();
        if let Some(bytes) = board.landed.get(&chunk) {
            return Boarding::Landed(Arc::clone(bytes));
        }
        if let Some(flight) = board.flying.get(&chunk) {
            return Boarding::Joined(Arc::clone(flight));
        }
        let flight = Arc::new(Flight::default());
        board.flying.insert(chunk, Arc::clone(&flight));
        let departure = Departure {
            chunk,
            flights: Arc::clone(self),
            flight: Arc::clone(&flight),
            landed: false,
            piece: None,
        };
        Boarding::Started(flight, departure)
    }

    /// Forgets that the chunk came lately: what is asked for next is fetched.
    pub(crate) fn forget(&self, chunk: &ChunkId) {
        let mut board = self.board.lock();
        if let Some(bytes) = board.landed.remove(chunk) {
            board.landed_bytes -= bytes.len();
            board.order.retain(|kept| kept != chunk);
        }
    }

    fn end(&self, chunk: ChunkId, outcome: &Outcome) {
        let mut board = self.board.lock();
        board.flying.remove(&chunk);
        if let Ok(bytes) = outcome {
            board.keep(chunk, Arc::clone(bytes));
        }
    }
}

impl Board {
    fn keep(&mut self, chunk: ChunkId, bytes: Arc<Verified>) {
        self.landed_bytes += bytes.len();
        self.order.push_back(chunk);
        if let Some(before) = self.landed.insert(chunk, bytes) {
            self.landed_bytes -= before.len();
        }
        while self.landed_bytes > self.landed_limit {
            let Some(oldest) = self.order.pop_front() else {
                break;
            };
            if let Some(gone) = self.landed.remove(&oldest) {
                self.landed_bytes -= gone.len();
            }
        }
    }
}

impl Flight {
    /// Waits until the flight has ended; `None` if it has not by `deadline`.
    pub(crate) fn wait_until(&self, deadline: Instant) -> Option<Outcome> {
        let mut outcome = self.outcome.lock();
        while outcome.is_none() {
            if self.landing.wait_until(&mut outcome, deadline).timed_out() {
                break;
            }
        }
        outcome.clone()
    }
}

impl Departure {
    /// The chunk that is fetched.
    pub(crate) fn chunk(&self) -> ChunkId {
        self.chunk
    }

    /// What others nearby may be asked for to end it.
    pub(super) fn piece(&self) -> Option<Piece> {
        self.piece
    }

    /// The same, and others nearby may be asked for `piece`.
    pub(super) fn for_piece(mut self, piece: Option<Piece>) -> Self {
        self.piece = piece;
        self
    }

    /// Ends the flight.
    pub(crate) fn land(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        self.landed = true;
        self.flights.end(self.chunk, &outcome);
        *self.flight.outcome.lock() = Some(outcome);
        self.flight.landing.notify_all();
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        if !self.landed {
            self.finish(Err(Failure::Stopping));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use larder_format::VolumeKeys;
    use larder_model::VolumeId;

    use super::*;

    fn keys() -> VolumeKeys {
        VolumeKeys::new(VolumeId([7; 16]), [1; 32], [2; 32])
    }

    fn chunk(bytes: &[u8]) -> Arc<Verified> {
        let keys = keys();
        let id = keys.chunk_id(bytes);
        Arc::new(Verified::check(&keys, id, bytes.to_vec()).unwrap())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(10)
    }

    #[test]
    fn a_second_reader_joins_the_first_ones_flight() {
        let flights = Flights::new(1000);
        let bytes = chunk(b"one");
        let Boarding::Started(_, departure) = flights.board(bytes.id()) else {
            panic!("nobody flies yet")
        };
        let Boarding::Joined(flight) = flights.board(bytes.id()) else {
            panic!("it flies")
        };
        assert!(flight.wait_until(soon()).is_none());
        departure.land(Ok(Arc::clone(&bytes)));
        assert_eq!(flight.wait_until(soon()).unwrap().unwrap().id(), bytes.id());
        assert!(matches!(flights.board(bytes.id()), Boarding::Landed(_)));
    }

    #[test]
    fn a_failed_flight_fails_its_waiters_and_the_next_reader_tries_anew() {
        let flights = Flights::new(1000);
        let id = chunk(b"one").id();
        let Boarding::Started(flight, departure) = flights.board(id) else {
            panic!("nobody flies yet")
        };
        departure.land(Err(Failure::TimedOut(3)));
        assert_eq!(
            flight.wait_until(soon()).unwrap().unwrap_err(),
            Failure::TimedOut(3)
        );
        assert!(matches!(flights.board(id), Boarding::Started(..)));
    }

    #[test]
    fn a_fetch_that_is_cut_off_leaves_nobody_waiting() {
        let flights = Flights::new(1000);
        let id = chunk(b"one").id();
        let Boarding::Started(flight, departure) = flights.board(id) else {
            panic!("nobody flies yet")
        };
        drop(departure);
        assert_eq!(
            flight.wait_until(soon()).unwrap().unwrap_err(),
            Failure::Stopping
        );
    }

    #[test]
    fn the_memory_of_what_landed_is_bounded() {
        let flights = Flights::new(10_000);
        for n in 0..100u32 {
            let bytes = chunk(&[n.to_le_bytes(); 250].concat());
            if let Boarding::Started(_, departure) = flights.board(bytes.id()) {
                departure.land(Ok(bytes));
            }
        }
        let board = flights.board.lock();
        assert_eq!(board.landed.len(), 10);
        assert_eq!(board.landed_bytes, 10_000);
        assert_eq!(board.order.len(), 10);
    }
}

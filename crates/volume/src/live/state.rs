//! What is known of a file in use.
//!
//! A state is only touched under its node's lock. What it says of the content is what the
//! database says, but for sizes and times of a file that is being written: they are kept
//! here (`pending`), and go to the database when it is closed, synced, settled, or after a
//! moment.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use larder_model::Time;

use super::map::{Map, Piece, pieces_in};
use crate::node;

/// What tells that a cache file's bytes changed: size, mtime and ctime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    pub(super) ctime: Time,
}

impl Fingerprint {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        let nanos = |secs: i64, nanos: i64| Time(secs.saturating_mul(1_000_000_000) + nanos);
        Self {
            size: meta.len(),
            mtime: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// How much of the content is here.
#[derive(Debug)]
pub(crate) enum Here {
    /// Nothing.
    Away,
    /// What the map says: `absent` of its pieces are not here, and `local` bytes only are.
    /// It is in the database only once `stored`.
    Part {
        map: Map,
        absent: usize,
        local: u64,
        stored: bool,
    },
    /// Every byte.
    Whole,
}

impl Here {
    pub(crate) fn part(map: Map, stored: bool) -> Self {
        let absent = map.values().filter(|(_, piece)| !piece.is_here()).count();
        let local = map
            .values()
            .filter(|(_, piece)| *piece == Piece::Local)
            .map(|(len, _)| len)
            .sum();
        Self::Part {
            map,
            absent,
            local,
            stored,
        }
    }
}

/// What is known of a file in use; only touched under its node's lock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) opens: u32,
    pub(crate) writers: u32,
    pub(crate) here: Here,
    pub(crate) dirty: bool,
    /// Whether a stored version exists that an edit in place would spoil.
    pub(crate) has_content: bool,
    pub(crate) generation: u64,
    pub(crate) size: u64,
    pub(crate) bytes: u64,
    /// Times not yet in the database.
    pub(crate) pending: Option<Pending>,
    /// Whether the database's map of it makes no sense.
    pub(super) spoilt: bool,
    /// Counts changes of content through this process.
    pub(crate) writes: u64,
    /// Whether bytes were written since the last sync.
    pub(crate) unsynced: bool,
    /// How often bytes came that need not have reached the disk, and up to which time they
    /// have.
    pub(super) fills: u64,
    pub(super) fills_synced: u64,
    /// The cache file as it was when last looked at.
    pub(crate) seen: Option<Fingerprint>,
    /// How many handles have the cache file itself.
    pub(crate) direct: u32,
    /// Whether, when it was stored last, others had the cache file whom nobody told of.
    pub(super) elsewhere: bool,
    /// How many writers tell the times of their writes themselves.
    pub(crate) times_told: u32,
    /// Whether the cache file's name survives a power cut.
    pub(crate) entry_synced: bool,
    pub(super) file: Option<Arc<File>>,
}

/// The size, and the time of the last change unless the writer tells it, that the database
/// does not have yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) time: Option<Time>,
}

impl State {
    pub(super) fn empty() -> Self {
        Self {
            opens: 0,
            writers: 0,
            here: Here::Away,
            dirty: false,
            has_content: false,
            generation: 0,
            size: 0,
            bytes: 0,
            pending: None,
            spoilt: false,
            writes: 0,
            unsynced: false,
            fills: 0,
            fills_synced: 0,
            seen: None,
            direct: 0,
            elsewhere: false,
            times_told: 0,
            entry_synced: false,
            file: None,
        }
    }

    /// Whether all of `range` can be read from the cache file.
    pub(crate) fn holds(&self, range: &Range<u64>) -> bool {
        match &self.here {
            Here::Whole => true,
            Here::Away => self.size == 0,
            Here::Part { map, .. } => pieces_in(map, range).all(|(_, _, piece)| piece.is_here()),
        }
    }

    /// Whether all of `range` is local bytes already, so that writing there changes no map.
    pub(crate) fn is_local(&self, range: &Range<u64>) -> bool {
        match &self.here {
            Here::Whole => true,
            Here::Away => false,
            Here::Part { map, .. } => {
                range.end <= self.size
                    && pieces_in(map, range).all(|(_, _, piece)| piece == Piece::Local)
            }
        }
    }

    /// Notes that the size, and the times with it, changed.
    pub(crate) fn note_times(&mut self, now: Time) {
        let before = self.pending.and_then(|pending| pending.time);
        let time = if self.times_told > 0 {
            before
        } else {
            Some(now)
        };
        self.pending = Some(Pending { time });
    }
}

/// A generation that no content of the file had before, also not before it was dropped and
/// came back: an old commit must not be taken for one that holds it.
pub(super) fn next_generation(last: u64) -> u64 {
    let now = u64::try_from(node::now_precise().0).unwrap_or(0);
    now.max(last + 1)
}

//! What is on its way: packs that are not acknowledged, and the files that wait for them.
//!
//! A pack must find room here before it is opened, so memory is bounded however long the
//! store is away. Packs that are being filled count, too; but nobody waits while none is on
//! its way, or those who fill packs would wait for each other. Nor do too many files wait for one
//! pack, which of tiny ones could hold a million. A chunk that lies in a pack on its way is not
//! packed again. A file is done when the last pack that holds a chunk of it is acknowledged.

use std::collections::{HashMap, HashSet};

use larder_model::{ChunkId, Content, Extent};
use parking_lot::{Condvar, Mutex};

use crate::live::Settling;

/// A pack for which so many files wait takes no more: each is held in memory until then.
const MOST_FILES: usize = 4096;

/// The number of a pack or file, in this process.
pub(super) type Number = u64;

/// A file whose chunks all are stored or on their way.
#[derive(Debug)]
pub(super) struct Cut {
    /// What it was when it was read.
    pub(super) settling: Settling,
    /// What it holds.
    pub(super) content: Content,
    /// The pieces of the content, in order.
    pub(super) extents: Vec<Extent>,
    /// How often packs had been lost when it was begun.
    pub(super) losses: u64,
}

/// Packs and files on their way.
#[derive(Debug)]
pub(super) struct Outbox {
    state: Mutex<State>,
    room: Condvar,
    packs_held: usize,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    last_number: Number,
    /// Where chunks lie that are not acknowledged.
    chunks: HashMap<ChunkId, Number>,
    /// For each pack, how many bytes of each file it holds.
    packs: HashMap<Number, HashMap<Number, u64>>,
    /// Packs that are being filled.
    open: HashSet<Number>,
    files: HashMap<Number, FileOnItsWay>,
    /// Bytes of dirty files that the store has already.
    stored_ahead: u64,
}

#[derive(Debug, Default)]
struct FileOnItsWay {
    /// Set once the whole file was read.
    cut: Option<Cut>,
    packs: HashSet<Number>,
    stored_bytes: u64,
}

impl Outbox {
    /// With room for so many packs.
    pub(super) fn new(packs_held: usize) -> Self {
        Self {
            state: Mutex::default(),
            room: Condvar::new(),
            packs_held,
        }
    }

    /// No pack is opened any more; whoever waits for room is told so.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.room.notify_all();
    }

    /// Waits for room for a pack; `None` if the outbox is closed.
    pub(super) fn open_pack(&self) -> Option<Number> {
        let mut state = self.state.lock();
        while !state.closed && !state.has_room(self.packs_held) {
            self.room.wait(&mut state);
        }
        if state.closed {
            return None;
        }
        let number = state.next_number();
        state.packs.insert(number, HashMap::new());
        state.open.insert(number);
        Some(number)
    }

    /// Whether as many files wait for the pack as may.
    pub(super) fn is_crowded(&self, pack: Number) -> bool {
        let state = self.state.lock();
        state
            .packs
            .get(&pack)
            .is_some_and(|files| files.len() >= MOST_FILES)
    }

    /// The pack is filled, and leaves.
    pub(super) fn leaves(&self, pack: Number) {
        self.state.lock().open.remove(&pack);
    }

    /// A file is about to be read.
    pub(super) fn begin_file(&self) -> Number {
        let mut state = self.state.lock();
        let number = state.next_number();
        state.files.insert(number, FileOnItsWay::default());
        number
    }

    /// Whether the chunk is on its way; if so, the file waits for it.
    pub(super) fn waits_for(&self, file: Number, chunk: &ChunkId, bytes: u64) -> bool {
        let mut state = self.state.lock();
        let Some(&pack) = state.chunks.get(chunk) else {
            return false;
        };
        state.share(file, pack, bytes);
        true
    }

    /// The file's chunk was put into the pack.
    pub(super) fn packed(&self, file: Number, pack: Number, chunk: ChunkId, bytes: u64) {
        let mut state = self.state.lock();
        state.chunks.insert(chunk, pack);
        state.share(file, pack, bytes);
    }

    /// The store has these bytes of the file.
    pub(super) fn stored(&self, file: Number, bytes: u64) {
        self.state.lock().count_stored(file, bytes);
    }

    /// The whole file was read. Answers it if it waits for nothing.
    pub(super) fn end_file(&self, file: Number, cut: Cut) -> Option<Cut> {
        let mut state = self.state.lock();
        let waiting = state.files.get_mut(&file)?;
        if waiting.packs.is_empty() {
            state.forget_file(file);
            return Some(cut);
        }
        waiting.cut = Some(cut);
        None
    }

    /// The file could not be read to its end.
    pub(super) fn abandon_file(&self, file: Number) {
        self.state.lock().forget_file(file);
    }

    /// The pack's chunks are recorded as stored. Answers the files that are done with it.
    pub(super) fn acknowledged(
        &self,
        pack: Number,
        chunks: impl IntoIterator<Item = ChunkId>,
    ) -> Vec<Cut> {
        let mut state = self.state.lock();
        for chunk in chunks {
            if state.chunks.get(&chunk) == Some(&pack) {
                state.chunks.remove(&chunk);
            }
        }
        let shares = state.packs.remove(&pack).unwrap_or_default();
        state.open.remove(&pack);
        self.room.notify_all();
        let mut done = Vec::new();
        for (file, bytes) in shares {
            state.count_stored(file, bytes);
            let Some(waiting) = state.files.get_mut(&file) else {
                continue;
            };
            waiting.packs.remove(&pack);
            if waiting.packs.is_empty()
                && let Some(cut) = waiting.cut.take()
            {
                state.forget_file(file);
                done.push((file, cut));
            }
        }
        done.sort_by_key(|(file, _)| *file);
        done.into_iter().map(|(_, cut)| cut).collect()
    }

    /// Bytes of dirty files that the store has already.
    pub(super) fn stored_ahead(&self) -> u64 {
        self.state.lock().stored_ahead
    }

    /// Whether anything is on its way.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state.lock();
        !state.packs.is_empty() || !state.files.is_empty()
    }
}

impl State {
    fn has_room(&self, packs_held: usize) -> bool {
        self.packs.len() < packs_held || self.packs.len() == self.open.len()
    }

    fn next_number(&mut self) -> Number {
        self.last_number += 1;
        self.last_number
    }

    fn share(&mut self, file: Number, pack: Number, bytes: u64) {
        if let Some(waiting) = self.files.get_mut(&file) {
            waiting.packs.insert(pack);
        }
        if let Some(shares) = self.packs.get_mut(&pack) {
            *shares.entry(file).or_default() += bytes;
        }
    }

    fn count_stored(&mut self, file: Number, bytes: u64) {
        if let Some(waiting) = self.files.get_mut(&file) {
            waiting.stored_bytes += bytes;
            self.stored_ahead += bytes;
        }
    }

    fn forget_file(&mut self, file: Number) {
        if let Some(gone) = self.files.remove(&file) {
            self.stored_ahead -= gone.stored_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    fn chunk(byte: u8) -> ChunkId {
        ChunkId([byte; 32])
    }

    #[test]
    fn a_pack_waits_for_room_and_is_told_of_the_end() {
        let outbox = Arc::new(Outbox::new(2));
        let first = outbox.open_pack().unwrap();
        let second = outbox.open_pack().unwrap();
        outbox.leaves(first);
        outbox.leaves(second);
        let (told, answer) = std::sync::mpsc::channel();
        let opener = Arc::clone(&outbox);
        let opening = std::thread::spawn(move || {
            told.send(opener.open_pack().is_some()).unwrap();
            told.send(opener.open_pack().is_some()).unwrap();
        });
        assert!(answer.recv_timeout(Duration::from_millis(30)).is_err());
        outbox.acknowledged(first, []);
        assert!(answer.recv().unwrap());
        assert!(answer.recv_timeout(Duration::from_millis(30)).is_err());
        outbox.close();
        assert!(!answer.recv().unwrap());
        opening.join().unwrap();
    }

    /// Each of the threads that fill packs may hold one while it opens its second.
    #[test]
    fn those_who_fill_packs_never_wait_for_each_other() {
        let outbox = Outbox::new(1);
        let packs = [(); 4].map(|()| outbox.open_pack().unwrap());
        outbox.leaves(packs[0]);
        assert!(!outbox.state.lock().has_room(1), "one is on its way");
        outbox.acknowledged(packs[0], []);
        outbox.open_pack().unwrap();
    }

    #[test]
    fn a_chunk_on_its_way_is_known_until_it_arrived() {
        let outbox = Outbox::new(3);
        let (pack, file, copy) = (
            outbox.open_pack().unwrap(),
            outbox.begin_file(),
            outbox.begin_file(),
        );
        assert!(!outbox.waits_for(file, &chunk(1), 10));
        outbox.packed(file, pack, chunk(1), 10);
        assert!(outbox.waits_for(copy, &chunk(1), 10));
        outbox.acknowledged(pack, [chunk(1)]);
        assert!(!outbox.waits_for(copy, &chunk(1), 10));
    }

    #[test]
    fn a_pack_is_left_by_those_who_come_when_many_wait_for_it() {
        let outbox = Outbox::new(3);
        let pack = outbox.open_pack().unwrap();
        outbox.packed(outbox.begin_file(), pack, chunk(1), 1);
        for _ in 1..MOST_FILES {
            assert!(!outbox.is_crowded(pack));
            // Equal files count, too.
            assert!(outbox.waits_for(outbox.begin_file(), &chunk(1), 1));
        }
        assert!(outbox.is_crowded(pack));
        assert_eq!(outbox.acknowledged(pack, [chunk(1)]).len(), 0);
        assert!(!outbox.is_crowded(pack));
    }

    #[test]
    fn progress_counts_what_the_store_has_of_files_that_are_not_done() {
        let outbox = Outbox::new(3);
        let (one, two) = (outbox.open_pack().unwrap(), outbox.open_pack().unwrap());
        let file = outbox.begin_file();
        outbox.stored(file, 5);
        outbox.packed(file, one, chunk(1), 10);
        outbox.packed(file, two, chunk(2), 20);
        assert_eq!(outbox.stored_ahead(), 5);
        outbox.acknowledged(two, [chunk(2)]);
        assert_eq!(outbox.stored_ahead(), 25);
        outbox.abandon_file(file);
        assert_eq!(outbox.stored_ahead(), 0);
        outbox.acknowledged(one, [chunk(1)]);
        assert_eq!(outbox.stored_ahead(), 0);
        assert!(!outbox.is_busy());
    }
}

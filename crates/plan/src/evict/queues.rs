//! Entries in a few linked queues, found by key.
//!
//! The entries lie in one vector and are linked by index, so that an entry is moved
//! between queues, or taken from the middle of one, without moving another and without
//! an allocation. A freed slot is used again.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by inode number. The keys are our own counters, so a seedless hash is safe here,
/// and keeps this room free of randomness.
pub(super) type ByIno<V> = HashMap<u64, V, BuildHasherDefault<InoHasher>>;

/// Fibonacci hashing: one multiplication spreads consecutive numbers.
#[derive(Default)]
pub(super) struct InoHasher(u64);

impl Hasher for InoHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }
    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

const BLOCK_BYTES: u64 = 4096;
const NONE: u32 = u32::MAX;

/// What is kept of one entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub ino: u64,
    blocks: u32,
    prev: u32,
    next: u32,
    pub queue: u8,
    /// Uses since it came, as far as the policy counts.
    pub uses: u8,
    /// Whether its one second chance was taken.
    pub spared: bool,
}

impl Entry {
    /// What it takes of the disk.
    pub fn bytes(&self) -> u64 {
        u64::from(self.blocks) * BLOCK_BYTES
    }
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    oldest: u32,
    newest: u32,
    bytes: u64,
    len: usize,
}

const EMPTY: Ends = Ends {
    oldest: NONE,
    newest: NONE,
    bytes: 0,
    len: 0,
};

/// `N` queues of entries; each known entry is in exactly one.
#[derive(Debug)]
pub(super) struct Queues<const N: usize> {
    slots: Vec<Entry>,
    unused: Vec<u32>,
    by_ino: ByIno<u32>,
    ends: [Ends; N],
}

impl<const N: usize> Queues<N> {
    pub fn new() -> Self {
        Self {
            slots: Vec::new(),
            unused: Vec::new(),
            by_ino: ByIno::default(),
            ends: [EMPTY; N],
        }
    }

    pub fn len(&self) -> usize {
        self.by_ino.len()
    }

    pub fn queue_len(&self, queue: u8) -> usize {
        self.ends[usize::from(queue)].len
    }

    pub fn bytes(&self) -> u64 {
        self.ends.iter().map(|ends| ends.bytes).sum()
    }

    pub fn queue_bytes(&self, queue: u8) -> u64 {
        self.ends[usize::from(queue)].bytes
    }

    pub fn get_mut(&mut self, ino: u64) -> Option<&mut Entry> {
        let slot = *self.by_ino.get(&ino)?;
        self.slots.get_mut(slot as usize)
    }

    /// The entry that is longest in `queue`.
    pub fn oldest(&self, queue: u8) -> Option<Entry> {
        self.slots
            .get(self.ends[usize::from(queue)].oldest as usize)
            .copied()
    }

    /// Puts a new entry at the newest end of `queue`. False, and nothing done, if it is
    /// known already (or if four billion are).
    pub fn push(&mut self, ino: u64, bytes: u64, queue: u8) -> bool {
        if self.by_ino.contains_key(&ino) {
            return false;
        }
        let blocks = blocks_of(bytes);
        let entry = Entry {
            ino,
            blocks,
            prev: NONE,
            next: NONE,
            queue,
            uses: 0,
            spared: false,
        };
        let slot = match self.unused.pop() {
            Some(slot) => {
                self.slots[slot as usize] = entry;
                slot
            }
            None => {
                let Ok(slot) = u32::try_from(self.slots.len()) else {
                    return false;
                };
                if slot == NONE {
                    return false;
                }
                self.slots.push(entry);
                slot
            }
        };
        self.by_ino.insert(ino, slot);
        self.link(slot, queue);
        true
    }

    /// Changes an entry's size; false if it is not known.
    pub fn resize(&mut self, ino: u64, bytes: u64) -> bool {
        let Some(&slot) = self.by_ino.get(&ino) else {
            return false;
        };
        let entry = &mut self.slots[slot as usize];
        let ends = &mut self.ends[usize::from(entry.queue)];
        ends.bytes -= entry.bytes();
        entry.blocks = blocks_of(bytes);
        ends.bytes += entry.bytes();
        true
    }

    /// Moves an entry to the newest end of `queue`.
    pub fn move_to(&mut self, ino: u64, queue: u8) {
        if let Some(&slot) = self.by_ino.get(&ino) {
            self.unlink(slot);
            self.link(slot, queue);
        }
    }

    pub fn remove(&mut self, ino: u64) -> Option<Entry> {
        let slot = self.by_ino.remove(&ino)?;
        self.unlink(slot);
        self.unused.push(slot);
        self.slots.get(slot as usize).copied()
    }

    fn link(&mut self, slot: u32, queue: u8) {
        let ends = &mut self.ends[usize::from(queue)];
        let before = ends.newest;
        ends.newest = slot;
        ends.len += 1;
        let entry = &mut self.slots[slot as usize];
        entry.queue = queue;
        entry.prev = before;
        entry.next = NONE;
        ends.bytes += entry.bytes();
        match self.slots.get_mut(before as usize) {
            Some(neighbour) => neighbour.next = slot,
            None => ends.oldest = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let entry = self.slots[slot as usize];
        let ends = &mut self.ends[usize::from(entry.queue)];
        ends.len -= 1;
        ends.bytes -= entry.bytes();
        match self.slots.get_mut(entry.prev as usize) {
            Some(neighbour) => neighbour.next = entry.next,
            None => ends.oldest = entry.next,
        }
        match self.slots.get_mut(entry.next as usize) {
            Some(neighbour) => neighbour.prev = entry.prev,
            None => ends.newest = entry.prev,
        }
    }
}

fn blocks_of(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX)
}

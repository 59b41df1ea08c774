//! The baseline: what was not used for the longest time goes first.
//!
//! Simple, and easily fooled: one pass over many files makes each of them the most
//! recently used, and pushes out all that is used daily.

use super::queues::Queues;
use super::{Policy, Victim};

const ALL: u8 = 0;

/// Least recently used goes first.
#[derive(Debug)]
pub struct Lru {
    entries: Queues<1>,
}

impl Lru {
    /// Knows no entry yet.
    pub fn new() -> Self {
        Self {
            entries: Queues::new(),
        }
    }
}

impl Default for Lru {
    fn default() -> Self {
        Self::new()
    }
}

impl Policy for Lru {
    fn insert(&mut self, ino: u64, bytes: u64) {
        if !self.entries.resize(ino, bytes) {
            self.entries.push(ino, bytes, ALL);
        }
    }

    fn restore(&mut self, ino: u64, bytes: u64) {
        self.insert(ino, bytes);
    }

    fn touch(&mut self, ino: u64) {
        self.entries.move_to(ino, ALL);
    }

    fn remove(&mut self, ino: u64) {
        self.entries.remove(ino);
    }

    fn victims(&mut self, need_bytes: u64, may_go: &mut dyn FnMut(u64) -> bool) -> Vec<Victim> {
        let mut victims = Vec::new();
        let mut freed = 0;
        for _ in 0..self.entries.len() {
            if freed >= need_bytes {
                break;
            }
            let Some(entry) = self.entries.oldest(ALL) else {
                break;
            };
            if may_go(entry.ino) {
                self.entries.remove(entry.ino);
                freed += entry.bytes();
                victims.push(Victim {
                    ino: entry.ino,
                    bytes: entry.bytes(),
                });
            } else {
                // It is in use: that counts as a use.
                self.entries.move_to(entry.ino, ALL);
            }
        }
        victims
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn bytes(&self) -> u64 {
        self.entries.bytes()
    }
}

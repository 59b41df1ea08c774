//! Keys of what went lately, and only the keys.
//!
//! Whoever comes back while its ghost is here was dropped too early. The memory is
//! bounded: the oldest ghosts go first.

use std::collections::VecDeque;

use super::queues::ByIno;

/// A bounded memory of keys.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    /// In the order they came; a key that was taken or came again leaves a stale row.
    order: VecDeque<(u64, u32)>,
    alive: ByIno<u32>,
    turn: u32,
}

impl Ghosts {
    /// Remembers `ino`, and forgets the oldest beyond `limit`.
    pub fn add(&mut self, ino: u64, limit: usize) {
        self.turn = self.turn.wrapping_add(1);
        self.order.push_back((ino, self.turn));
        self.alive.insert(ino, self.turn);
        while self.order.len() > limit {
            let Some((oldest, turn)) = self.order.pop_front() else {
                break;
            };
            if self.alive.get(&oldest) == Some(&turn) {
                self.alive.remove(&oldest);
            }
        }
    }

    /// Forgets `ino`; whether it was remembered.
    pub fn take(&mut self, ino: u64) -> bool {
        self.alive.remove(&ino).is_some()
    }

    /// Rows held, the stale ones too: what the bound is about.
    #[cfg(test)]
    pub fn rows(&self) -> usize {
        self.order.len()
    }
}

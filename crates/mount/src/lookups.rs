//! Which nodes the kernel knows.
//!
//! Each answer that names a node is counted, and the kernel gives the counts back when it
//! drops the node from its memory. Only then may an unlinked node be deleted, so counting
//! is what keeps unlinked but open files alive. A count is taken before the answer leaves,
//! because the kernel may give it back at once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use larder_volume::Ino;
use parking_lot::Mutex;

const SHARDS: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Lookups {
    shards: [Mutex<HashMap<Ino, u64>>; SHARDS],
}

impl Lookups {
    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, u64>> {
        &self.shards[ino as usize % SHARDS]
    }

    /// Notes that an answer naming the node is about to leave.
    pub(crate) fn count(&self, ino: Ino) {
        *self.shard(ino).lock().entry(ino).or_insert(0) += 1;
    }

    /// Takes back `count` answers. Whether the kernel now knows the node no more.
    pub(crate) fn give_back(&self, ino: Ino, count: u64) -> bool {
        match self.shard(ino).lock().entry(ino) {
            Entry::Occupied(mut known) if *known.get() > count => {
                *known.get_mut() -= count;
                false
            }
            Entry::Occupied(known) => {
                known.remove();
                true
            }
            Entry::Vacant(_) => true,
        }
    }

    /// All that the kernel still knew when the mount ended.
    pub(crate) fn drain(&self) -> Vec<Ino> {
        let take = |shard: &Mutex<HashMap<Ino, u64>>| std::mem::take(&mut *shard.lock());
        self.shards
            .iter()
            .flat_map(|shard| take(shard).into_keys())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_forgotten_with_the_last_answer_that_named_it() {
        let lookups = Lookups::default();
        (0..3).for_each(|_| lookups.count(7));
        assert!(!lookups.give_back(7, 2));
        lookups.count(7);
        assert!(!lookups.give_back(7, 1));
        assert!(lookups.give_back(7, 1));
        lookups.count(8);
        assert_eq!(lookups.drain(), [8]);
    }
}

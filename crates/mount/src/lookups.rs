//! Which nodes the kernel knows.
//!
//! Each answer that names a node is counted, and the kernel gives the counts back when it
//! drops the node from its memory. Only then may an unlinked node be deleted, so counting
//! is what keeps unlinked but open files alive. A count is taken before the answer leaves,
//! because the kernel may give it back at once.
//!
//! Which of them are small files is noted, too: how a file is best opened hangs on its size,
//! and to ask the volume would cost more than all the rest of an open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use larder_model::Kind;
use larder_volume::{Attr, Ino};
use parking_lot::Mutex;

const SHARDS: usize = 16;
/// Set in the count of a node that is a small file.
const SMALL: u64 = 1 << 63;
/// The size, in bytes, up to which a file is small: the kernel asks for it all at once.
const SMALL_BYTES: u64 = 128 << 10;

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

    /// Notes whether a node that the kernel knows is a small file, by what it is told of it.
    pub(crate) fn note_size(&self, attr: &Attr) {
        let is_small = attr.kind == Kind::File && attr.size <= SMALL_BYTES;
        if let Some(count) = self.shard(attr.ino).lock().get_mut(&attr.ino) {
            *count = *count & !SMALL | if is_small { SMALL } else { 0 };
        }
    }

    /// Whether the kernel was told last that the node is a small file, and it was not
    /// written since.
    pub(crate) fn is_small(&self, ino: Ino) -> bool {
        let shard = self.shard(ino).lock();
        shard.get(&ino).is_some_and(|count| count & SMALL != 0)
    }

    /// Notes that a file was written, to what size nobody knows yet.
    pub(crate) fn note_written(&self, ino: Ino) {
        if let Some(count) = self.shard(ino).lock().get_mut(&ino) {
            *count &= !SMALL;
        }
    }

    /// Whether the kernel knows the node.
    pub(crate) fn knows(&self, ino: Ino) -> bool {
        self.shard(ino).lock().contains_key(&ino)
    }

    /// Takes back `count` answers. Whether the kernel now knows the node no more.
    pub(crate) fn give_back(&self, ino: Ino, count: u64) -> bool {
        match self.shard(ino).lock().entry(ino) {
            Entry::Occupied(mut known) if *known.get() & !SMALL > count => {
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
    use larder_model::Time;

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

    fn file(size: u64) -> Attr {
        Attr {
            ino: 7,
            kind: Kind::File,
            mode: 0o644,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size,
            blocks: 0,
            atime: Time(0),
            mtime: Time(0),
            ctime: Time(0),
            btime: Time(0),
        }
    }

    #[test]
    fn a_small_file_is_known_until_it_is_written_and_counted_as_any() {
        let lookups = Lookups::default();
        lookups.note_size(&file(1));
        assert!(!lookups.is_small(7), "the kernel does not know it");
        lookups.count(7);
        lookups.note_size(&file(SMALL_BYTES));
        assert!(lookups.is_small(7));
        lookups.note_size(&file(SMALL_BYTES + 1));
        assert!(!lookups.is_small(7));
        lookups.note_size(&file(0));
        lookups.note_written(7);
        assert!(!lookups.is_small(7));
        lookups.note_size(&file(0));
        lookups.count(7);
        assert!(!lookups.give_back(7, 1));
        assert!(lookups.is_small(7));
        assert!(lookups.give_back(7, 1));
    }
}

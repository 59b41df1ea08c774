//! What is known to be damaged on the store, for `status`.

use std::collections::BTreeMap;

use larder_model::ChunkId;
use parking_lot::Mutex;

/// More than so many are not remembered.
const MOST: usize = 1000;

/// Chunks that could not be had though the store answered, and why.
#[derive(Debug, Default)]
pub(crate) struct Problems(Mutex<BTreeMap<ChunkId, String>>);

impl Problems {
    /// The chunk could not be had.
    pub(crate) fn note(&self, chunk: ChunkId, words: String) {
        let mut known = self.0.lock();
        if known.len() < MOST || known.contains_key(&chunk) {
            known.insert(chunk, words);
        }
    }

    /// The chunk came.
    pub(crate) fn clear(&self, chunk: &ChunkId) {
        self.0.lock().remove(chunk);
    }

    /// All that is known, in words.
    pub(crate) fn words(&self) -> Vec<String> {
        self.0.lock().values().cloned().collect()
    }
}

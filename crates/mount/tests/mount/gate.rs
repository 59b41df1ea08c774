//! A store whose readers can be held up or turned away.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use larder_store::{Durability, ErrorKind, Key, ObjectMeta, Store, StoreError};
use tokio::sync::watch;

/// What the gate does with who wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gatekeeping {
    Open,
    /// They wait until it opens.
    Shut,
    /// They are told that nobody is there.
    Refusing,
}

#[derive(Debug)]
pub struct Gate {
    below: Arc<dyn Store>,
    state: watch::Sender<Gatekeeping>,
    waiting: AtomicUsize,
}

impl Gate {
    pub fn before(below: Arc<dyn Store>) -> Self {
        Self {
            below,
            state: watch::Sender::new(Gatekeeping::Open),
            waiting: AtomicUsize::new(0),
        }
    }

    pub fn set(&self, state: Gatekeeping) {
        self.state.send_replace(state);
    }

    /// How many readers came to wait so far.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    async fn pass(&self) -> Result<(), StoreError> {
        if *self.state.borrow() == Gatekeeping::Shut {
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        let mut state = self.state.subscribe();
        let passed = state.wait_for(|state| *state != Gatekeeping::Shut).await;
        match passed.map(|state| *state) {
            Ok(Gatekeeping::Open) => Ok(()),
            _ => Err(StoreError::new(
                ErrorKind::Unavailable,
                "gate",
                "nobody is there",
            )),
        }
    }
}

#[async_trait]
impl Store for Gate {
    fn address(&self) -> &str {
        self.below.address()
    }

    fn durability(&self) -> Durability {
        self.below.durability()
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        self.below.put(key, bytes).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.pass().await?;
        self.below.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.pass().await?;
        self.below.get_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.below.list(prefix).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        self.below.stat(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.below.delete(key).await
    }
}

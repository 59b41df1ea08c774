//! A store in memory that several machines reach, each over a line of its own.
//!
//! What a store may do, it does at times: it is slow, fails before or after a call took effect, does
//! not list what was put a moment ago, and cannot be reached from one of the machines. Which call
//! meets what is drawn from the seed ([`Weather`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use larder_store::{Durability, ErrorKind, Key, ObjectMeta, Store, StoreError};

use crate::ground::{self, Dice, Nanos};

/// How a machine's line to the store is. A number is "one call in so many"; zero is never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weather {
    /// The store cannot be reached.
    pub is_away: bool,
    /// The call fails, and nothing was done.
    pub fails_before: u64,
    /// The call is done, and its answer is lost.
    pub fails_after: u64,
    /// The call takes up to so many milliseconds.
    pub slow_millis: u64,
    /// A list is of a moment up to so many milliseconds ago.
    pub stale_millis: u64,
}

/// A bug that is planted in a store to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Planted {
    /// None.
    Nothing,
    /// Some packs of content are acknowledged and not kept.
    LosesPacks,
    /// The heads of machine 1 are listed to nobody else.
    HidesHeads,
}

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    /// Who put it.
    by: u64,
    put: Nanos,
    deleted: Option<Nanos>,
}

#[derive(Debug)]
struct Shelves {
    objects: BTreeMap<Key, Object>,
    planted: Planted,
    packs: u64,
    durability: Durability,
}

/// The store itself.
#[derive(Debug, Clone)]
pub struct Shelf {
    shelves: Arc<Mutex<Shelves>>,
    seed: u64,
}

impl Shelf {
    /// An empty one; the seed draws what its calls meet.
    pub fn new(seed: u64, durability: Durability, planted: Planted) -> Self {
        let shelves = Shelves {
            objects: BTreeMap::new(),
            planted,
            packs: 0,
            durability,
        };
        Self {
            shelves: Arc::new(Mutex::new(shelves)),
            seed,
        }
    }

    /// A line to it, of the machine with this number.
    pub fn line(&self, who: u64) -> Arc<Line> {
        Arc::new(Line {
            who,
            shelf: self.clone(),
            state: Mutex::new((Weather::default(), Dice::new(self.seed ^ who))),
        })
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found<T>(&self, key: &Key, read: impl FnOnce(&Bytes) -> T) -> Option<T> {
        let shelves = self.shelves();
        let object = shelves.objects.get(key)?;
        object.deleted.is_none().then(|| read(&object.bytes))
    }
}

/// A machine's line to the store.
#[derive(Debug)]
pub struct Line {
    who: u64,
    shelf: Shelf,
    state: Mutex<(Weather, Dice)>,
}

/// What a call meets.
struct Met {
    fails_before: bool,
    fails_after: bool,
    slow: Duration,
    stale: Nanos,
}

impl Line {
    /// From now on the line is so.
    pub fn set(&self, weather: Weather) {
        self.state().0 = weather;
    }

    /// How the line is.
    pub fn weather(&self) -> Weather {
        self.state().0
    }

    fn state(&self) -> MutexGuard<'_, (Weather, Dice)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meet(&self) -> Met {
        let mut state = self.state();
        let (weather, dice) = &mut *state;
        let mut up_to = |millis: u64| match millis {
            0 => 0,
            _ => dice.number() % (millis * 1_000_000),
        };
        let (slow, stale) = (up_to(weather.slow_millis), up_to(weather.stale_millis));
        Met {
            fails_before: weather.is_away || dice.once_in(weather.fails_before),
            fails_after: dice.once_in(weather.fails_after),
            slow: Duration::from_nanos(slow + 50_000),
            stale,
        }
    }

    /// One call: what comes before, what it does, what comes after.
    async fn call<T>(
        &self,
        kind: u64,
        key: &str,
        act: impl FnOnce(&Met) -> T,
    ) -> Result<T, StoreError> {
        let met = self.meet();
        tokio::time::sleep(met.slow / 2).await;
        ground::trace(&[kind, hash(key.as_bytes()), u64::from(met.fails_before)]);
        // It may have become so while the call was on its way.
        if met.fails_before || self.weather().is_away {
            return Err(error("the line was cut"));
        }
        let done = act(&met);
        tokio::time::sleep(met.slow / 2).await;
        if met.fails_after || self.weather().is_away {
            return Err(error("the line was cut before the answer"));
        }
        Ok(done)
    }
}

fn error(words: &str) -> StoreError {
    StoreError::new(ErrorKind::Unavailable, "sim", words)
}

/// A number that stands for these bytes.
fn hash(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |sum, piece| {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        (sum ^ u64::from_le_bytes(word))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23)
    })
}

#[async_trait]
impl Store for Line {
    fn address(&self) -> &str {
        "sim"
    }

    fn durability(&self) -> Durability {
        self.shelf.shelves().durability
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        ground::trace(&[hash(&bytes), bytes.len() as u64]);
        self.call(11, key.as_str(), |_| {
            let mut shelves = self.shelf.shelves();
            if shelves.planted == Planted::LosesPacks && key.as_str().starts_with("packs/") {
                shelves.packs += 1;
                if shelves.packs % 3 == 2 {
                    return;
                }
            }
            let put = ground::now();
            let there = shelves.objects.get(key);
            if there.is_none_or(|there| there.deleted.is_some()) {
                let object = Object {
                    bytes,
                    by: self.who,
                    put,
                    deleted: None,
                };
                shelves.objects.insert(key.clone(), object);
            }
        })
        .await
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let get = |_: &Met| self.shelf.found(key, Bytes::clone);
        self.call(12, key.as_str(), get).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let cut = |bytes: &Bytes| {
            let (start, end) = (range.start as usize, range.end as usize);
            (start <= end && end <= bytes.len()).then(|| bytes.slice(start..end))
        };
        let got = self
            .call(13, key.as_str(), |_| self.shelf.found(key, cut))
            .await?;
        match got {
            Some(None) => {
                let words = "the object is shorter than what was asked for";
                Err(StoreError::new(ErrorKind::Damaged, "sim", words))
            }
            Some(bytes) => Ok(bytes),
            None => Ok(None),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.call(14, prefix, |met| {
            let then = ground::now().saturating_sub(met.stale);
            let shelves = self.shelf.shelves();
            let hides = shelves.planted == Planted::HidesHeads && prefix == "heads/";
            let was_there = |object: &Object| {
                !(hides && object.by == 1 && self.who != 1)
                    && object.put <= then
                    && object.deleted.is_none_or(|deleted| deleted > then)
            };
            let listed = shelves.objects.iter();
            listed
                .filter(|(key, object)| key.as_str().starts_with(prefix) && was_there(object))
                .map(|(key, object)| ObjectMeta {
                    key: key.clone(),
                    size: object.bytes.len() as u64,
                })
                .collect()
        })
        .await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        let meta = |bytes: &Bytes| ObjectMeta {
            key: key.clone(),
            size: bytes.len() as u64,
        };
        self.call(15, key.as_str(), |_| self.shelf.found(key, meta))
            .await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.call(16, key.as_str(), |_| {
            let now = ground::now();
            if let Some(object) = self.shelf.shelves().objects.get_mut(key) {
                object.deleted.get_or_insert(now);
            }
        })
        .await
    }
}

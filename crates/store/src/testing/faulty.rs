//! A store that fails on purpose.
//!
//! Rules say which fault meets which calls, and when. They can be set and cleared while
//! the store is in use, so that a test can take a store away and bring it back. The same
//! rules and the same order of calls give the same faults.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::next;
use crate::{Durability, ErrorKind, Key, ObjectMeta, Store, StoreError};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing, but only after this time.
    Slow(Duration),
    /// The line is cut before anything was done.
    Cut,
    /// The call is done, but its answer is lost.
    LostAnswer,
    /// The store answers with a fault of its own.
    ServerError,
    /// The store refuses this user.
    Refused,
    /// The store is full; puts only.
    Full,
    /// The answer never comes.
    Hang,
    /// The call is done, and the answer never comes.
    HangAfter,
    /// One bit of what is read is turned; whole objects and ranges.
    WrongBytes,
    /// The last byte of what is read is missing; a store that does not check its length.
    Truncated,
    /// The object is said not to be there, though it is; reads, stats and lists.
    Missing,
}

/// Which calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// All of them.
    Any,
    /// `put`.
    Put,
    /// `get` and `get_range`.
    Get,
    /// `list`.
    List,
    /// `stat`.
    Stat,
    /// `delete`.
    Delete,
}

/// At which of the calls that a rule is for, counted from zero when it was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At each.
    Always,
    /// At those from the n-th on.
    From(u64),
    /// At the n-th only.
    Once(u64),
    /// At one in so many, by a sequence of random numbers from this seed.
    OneIn(u64, u64),
}

#[derive(Debug)]
struct Rule {
    fault: Fault,
    call: Call,
    /// How the key, or the prefix of a list, begins.
    under: String,
    when: When,
    seen: u64,
    random: u64,
}

impl Rule {
    fn meets(&mut self, call: Call, key: &str) -> bool {
        let is_for = self.call == Call::Any || self.call == call;
        if !is_for || !key.starts_with(&self.under) {
            return false;
        }
        let at = self.seen;
        self.seen += 1;
        match self.when {
            When::Always => true,
            When::From(first) => at >= first,
            When::Once(only) => at == only,
            When::OneIn(many, _) => next(&mut self.random).is_multiple_of(many.max(1)),
        }
    }
}

/// Fails as its rules say, and else does what the store below does.
#[derive(Debug)]
pub struct Faulty {
    below: Arc<dyn Store>,
    rules: Mutex<Vec<Rule>>,
    /// Whether puts are not synced.
    is_lax: AtomicBool,
    /// How many calls met a fault.
    met: AtomicU64,
}

impl Faulty {
    /// Without rules yet.
    pub fn new(below: Arc<dyn Store>) -> Self {
        Self {
            below,
            rules: Mutex::new(Vec::new()),
            is_lax: AtomicBool::new(false),
            met: AtomicU64::new(0),
        }
    }

    /// Adds a rule. The first rule that meets a call decides.
    pub fn set(&self, fault: Fault, call: Call, when: When) {
        self.set_under("", fault, call, when);
    }

    /// As [`Faulty::set`], for objects only whose keys begin so.
    pub fn set_under(&self, under: &str, fault: Fault, call: Call, when: When) {
        let random = match when {
            When::OneIn(_, seed) => seed,
            _ => 0,
        };
        self.rules().push(Rule {
            fault,
            call,
            under: under.to_owned(),
            when,
            seen: 0,
            random,
        });
    }

    /// From now on puts are taken, and not synced: the test may lose them as a power cut does.
    pub fn take_without_sync(&self) {
        self.is_lax.store(true, Ordering::Relaxed);
    }

    /// How many calls met a fault by now.
    pub fn met(&self) -> u64 {
        self.met.load(Ordering::Relaxed)
    }

    /// From now on nothing goes wrong.
    pub fn clear(&self) {
        self.rules().clear();
    }

    fn rules(&self) -> MutexGuard<'_, Vec<Rule>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault that this call meets. Every rule counts it.
    fn fault(&self, call: Call, key: &str) -> Option<Fault> {
        let mut rules = self.rules();
        let fault = rules.iter_mut().fold(None, |first, rule| {
            let met = rule.meets(call, key).then_some(rule.fault);
            first.or(met)
        });
        if fault.is_some() {
            self.met.fetch_add(1, Ordering::Relaxed);
        }
        fault
    }

    fn error(&self, kind: ErrorKind, words: &str) -> StoreError {
        StoreError::new(kind, self.below.address(), words)
    }

    /// What comes before the call is made below.
    async fn before(&self, fault: Option<Fault>) -> Result<(), StoreError> {
        match fault {
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::Cut) => return Err(self.error(ErrorKind::Unavailable, "the line was cut")),
            Some(Fault::ServerError) => {
                return Err(self.error(ErrorKind::Unavailable, "the server has trouble (500)"));
            }
            Some(Fault::Refused) => {
                return Err(self.error(ErrorKind::Refused, "the server does not know this user"));
            }
            _ => {}
        }
        Ok(())
    }

    /// What comes after it.
    async fn after(&self, fault: Option<Fault>) -> Result<(), StoreError> {
        match fault {
            Some(Fault::HangAfter) => std::future::pending().await,
            Some(Fault::LostAnswer) => {
                Err(self.error(ErrorKind::Unavailable, "the line was cut before the answer"))
            }
            _ => Ok(()),
        }
    }

    fn read(&self, fault: Option<Fault>, found: Option<Bytes>) -> Option<Bytes> {
        let bytes = found?;
        match fault {
            Some(Fault::Missing) => None,
            Some(Fault::Truncated) => Some(bytes.slice(..bytes.len().saturating_sub(1))),
            Some(Fault::WrongBytes) => {
                let mut wrong = bytes.to_vec();
                let middle = wrong.len() / 2;
                if let Some(byte) = wrong.get_mut(middle) {
                    *byte ^= 0x10;
                }
                Some(wrong.into())
            }
            _ => Some(bytes),
        }
    }
}

#[async_trait]
impl Store for Faulty {
    fn address(&self) -> &str {
        self.below.address()
    }

    async fn renew(&self) {
        self.below.renew().await;
    }

    fn durability(&self) -> Durability {
        match self.is_lax.load(Ordering::Relaxed) {
            true => Durability::Accepted,
            false => self.below.durability(),
        }
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        let fault = self.fault(Call::Put, key.as_str());
        self.before(fault).await?;
        if fault == Some(Fault::Full) {
            return Err(self.error(ErrorKind::Full, "the disk there is full"));
        }
        self.below.put(key, bytes).await?;
        self.after(fault).await
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let fault = self.fault(Call::Get, key.as_str());
        self.before(fault).await?;
        let found = self.below.get(key).await?;
        self.after(fault).await?;
        Ok(self.read(fault, found))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let fault = self.fault(Call::Get, key.as_str());
        self.before(fault).await?;
        let found = self.below.get_range(key, range).await?;
        self.after(fault).await?;
        Ok(self.read(fault, found))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let fault = self.fault(Call::List, prefix);
        self.before(fault).await?;
        let mut found = self.below.list(prefix).await?;
        self.after(fault).await?;
        if fault == Some(Fault::Missing) {
            found.pop();
        }
        Ok(found)
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        let fault = self.fault(Call::Stat, key.as_str());
        self.before(fault).await?;
        let found = self.below.stat(key).await?;
        self.after(fault).await?;
        Ok(found.filter(|_| fault != Some(Fault::Missing)))
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let fault = self.fault(Call::Delete, key.as_str());
        self.before(fault).await?;
        self.below.delete(key).await?;
        self.after(fault).await
    }
}

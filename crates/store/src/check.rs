//! Trying a store out.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::{Durability, Key, Store, StoreError, temporary};

/// The size of the object that is put and read back, in bytes.
const PROBE_BYTES: usize = 256 << 10;

/// What [`check`] found.
#[derive(Debug)]
pub struct CheckReport {
    /// The store's address.
    pub address: String,
    /// What was tried, in order; the first failure is the last step but the clean-up.
    pub steps: Vec<CheckStep>,
    /// What an acknowledged put is worth here.
    pub durability: Durability,
}

/// One thing that was tried.
#[derive(Debug)]
pub struct CheckStep {
    /// What, in a few words.
    pub what: &'static str,
    /// How long it took.
    pub took: Duration,
    /// What went wrong, if anything, in words.
    pub failure: Option<String>,
}

impl CheckReport {
    /// Whether all that was tried went well.
    pub fn is_ok(&self) -> bool {
        self.steps.iter().all(|step| step.failure.is_none())
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.address)?;
        for step in &self.steps {
            let ms = step.took.as_secs_f64() * 1e3;
            match &step.failure {
                None => writeln!(f, "  {:<24} {ms:>9.1} ms", step.what)?,
                Some(failure) => writeln!(f, "  {:<24} failed: {failure}", step.what)?,
            }
        }
        Ok(())
    }
}

/// Puts a probe object below `probe/`, reads it back whole and in part, lists and stats
/// it, and deletes it again. Stops at the first failure, but always cleans up.
pub async fn check(store: &Arc<dyn Store>) -> CheckReport {
    let mut steps = Vec::new();
    if let Some((key, bytes)) = probe(&mut steps) {
        try_out(store, &key, &bytes, &mut steps).await;
        let deleted = timed(&mut steps, "delete", async {
            store.delete(&key).await?;
            match store.stat(&key).await? {
                None => Ok(Ok(())),
                Some(_) => Ok(Err("it is still there after it was deleted")),
            }
        });
        deleted.await;
    }
    CheckReport {
        address: store.address().to_owned(),
        steps,
        durability: store.durability(),
    }
}

/// A fresh key and bytes that no store can guess or compress.
fn probe(steps: &mut Vec<CheckStep>) -> Option<(Key, Bytes)> {
    let mut bytes = vec![0u8; PROBE_BYTES];
    let key = getrandom::fill(&mut bytes)
        .map_err(std::io::Error::other)
        .and_then(|()| temporary::name())
        .map_err(|error| error.to_string())
        .and_then(|name| Key::new(format!("probe/{name}")).map_err(|error| error.to_string()));
    match key {
        Ok(key) => Some((key, Bytes::from(bytes))),
        Err(failure) => {
            let failure = Some(failure);
            steps.push(CheckStep {
                what: "make a probe",
                took: Duration::ZERO,
                failure,
            });
            None
        }
    }
}

/// Stops at the first step that fails.
async fn try_out(
    store: &Arc<dyn Store>,
    key: &Key,
    bytes: &Bytes,
    steps: &mut Vec<CheckStep>,
) -> Option<()> {
    let size = bytes.len() as u64;
    timed(steps, "connect and list", async {
        store.list("probe/").await?;
        Ok(Ok(()))
    })
    .await?;
    timed(steps, "put 256 KiB", async {
        store.put(key, bytes.clone()).await?;
        Ok(Ok(()))
    })
    .await?;
    timed(steps, "get 256 KiB", async {
        let whole = store.get(key).await?;
        Ok(same(whole.as_ref(), bytes))
    })
    .await?;
    timed(steps, "get a range", async {
        let part = store.get_range(key, 1000..5096).await?;
        Ok(same(part.as_ref(), &bytes.slice(1000..5096)))
    })
    .await?;
    timed(steps, "stat", async {
        match store.stat(key).await? {
            Some(meta) if meta.size == size => Ok(Ok(())),
            Some(_) => Ok(Err("it tells another size than was put")),
            None => Ok(Err("it denies the object that it just took")),
        }
    })
    .await?;
    timed(steps, "list", async {
        let listed = store.list("probe/").await?;
        match listed
            .iter()
            .any(|meta| meta.key == *key && meta.size == size)
        {
            true => Ok(Ok(())),
            false => Ok(Err("its list lacks the object that it just took")),
        }
    })
    .await
}

fn same(got: Option<&Bytes>, wanted: &Bytes) -> Result<(), &'static str> {
    match got {
        Some(got) if got == wanted => Ok(()),
        Some(_) => Err("it gave back other bytes than were put"),
        None => Err("it denies the object that it just took"),
    }
}

async fn timed(
    steps: &mut Vec<CheckStep>,
    what: &'static str,
    step: impl Future<Output = Result<Result<(), &'static str>, StoreError>>,
) -> Option<()> {
    let start = Instant::now();
    let failure = match step.await {
        Ok(Ok(())) => None,
        Ok(Err(lie)) => Some(lie.to_owned()),
        Err(error) => Some(error.message),
    };
    let passed = failure.is_none().then_some(());
    steps.push(CheckStep {
        what,
        took: start.elapsed(),
        failure,
    });
    passed
}

//! Calling those who are known and not here, with growing pauses.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_model::ReplicaId;
use larder_plan::backoff::Backoff;
use parking_lot::Mutex;

use crate::Shared;
use crate::error::PeerError;
use crate::{handshake, presence};

/// How often it is looked who is not here.
const LOOK: Duration = Duration::from_secs(1);
const PAUSES: Backoff = Backoff {
    first: Duration::from_secs(1),
    cap: Duration::from_secs(120),
};
/// Calls under way at once.
const AT_ONCE: usize = 8;

#[derive(Debug)]
struct Calls {
    failures: u32,
    /// When to call again; `None`: a call is under way.
    again: Option<Instant>,
}

/// Calls, until all ends.
pub(crate) async fn call_known(shared: Arc<Shared>) {
    let calls = Arc::new(Mutex::new(HashMap::<ReplicaId, Calls>::new()));
    loop {
        for replica in due(&shared, &calls) {
            shared.spawn(call(Arc::clone(&shared), Arc::clone(&calls), replica));
        }
        tokio::select! {
            () = shared.bell.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Whom to call now.
fn due(shared: &Shared, calls: &Mutex<HashMap<ReplicaId, Calls>>) -> Vec<ReplicaId> {
    let known = shared.book.lock().everyone();
    let known = known
        .into_iter()
        .filter(|(_, known)| !known.addresses.is_empty())
        .map(|(replica, _)| replica);
    // Those who were heard are called at once, whatever came of the last call.
    let mut heard = shared.heard.lock();
    let all: BTreeSet<ReplicaId> = known.chain(heard.iter().copied()).collect();
    let mut calls = calls.lock();
    let under_way = calls.values().filter(|call| call.again.is_none()).count();
    let now = Instant::now();
    let mut due = Vec::new();
    for replica in all {
        if due.len() + under_way >= AT_ONCE {
            break;
        }
        let is_wanted = replica != shared.id && shared.present.get(replica).is_none();
        let call = calls.entry(replica).or_insert(Calls {
            failures: 0,
            again: Some(now),
        });
        let is_heard = heard.remove(&replica);
        if is_wanted && call.again.is_some_and(|again| again <= now || is_heard) {
            call.again = None;
            due.push(replica);
        }
    }
    due
}

async fn call(
    shared: Arc<Shared>,
    calls: Arc<Mutex<HashMap<ReplicaId, Calls>>>,
    replica: ReplicaId,
) {
    let called = handshake::call(&shared, replica).await;
    let failed = match &called {
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%replica, %error, "a peer was not reached");
            Some(error.to_string())
        }
    };
    let pause = {
        let mut calls = calls.lock();
        let Some(call) = calls.get_mut(&replica) else {
            return;
        };
        call.failures = match failed {
            Some(_) => call.failures.saturating_add(1),
            None => 0,
        };
        let random = getrandom::u64().unwrap_or(u64::MAX / 2);
        // One that ends each connection at once is not called all the time, either.
        let pause = PAUSES.delay(call.failures, random).max(PAUSES.first / 2);
        call.again = Some(Instant::now() + pause);
        pause
    };
    match called {
        Ok(met) => presence::enter(&shared, met).await,
        Err(PeerError::Stopping) => {}
        Err(_) => {
            tracing::debug!(%replica, ?pause, "it is called again");
            shared.present.note_failure(replica, failed);
        }
    }
}

//! Stores that wrap a store, and the check of one.
// What a test sets up fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use larder_store::testing::{
    Call, Counting, DavServer, Fault, Faulty, S3Server, When, Wire, noise,
};
use larder_store::{
    ErrorKind, Key, Limited, Limits, Retry, RetryPolicy, Store, StoreOptions, check, open,
};
use tempfile::TempDir;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn folder() -> (TempDir, Arc<dyn Store>) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
    (directory, store)
}

/// A folder whose calls are counted, below a layer that fails.
fn faulty() -> (TempDir, Arc<Counting>, Arc<Faulty>) {
    let (directory, below) = folder();
    let faulty = Arc::new(Faulty::new(below));
    let counting = Arc::new(Counting::new(faulty.clone()));
    (directory, counting, faulty)
}

fn impatient() -> RetryPolicy {
    RetryPolicy {
        first_pause: Duration::from_millis(1),
        longest_pause: Duration::from_millis(4),
        deadline: Duration::from_millis(200),
    }
}

mod a_retried_store_conforms {
    use super::*;

    larder_store::conformance!({
        let (directory, below) = folder();
        (
            directory,
            Arc::new(Retry::new(below, impatient())) as Arc<dyn Store>,
        )
    });
}

mod a_limited_store_conforms {
    use super::*;

    larder_store::conformance!({
        let (directory, below) = folder();
        let limits = Limits {
            up_bytes_per_sec: Some(1 << 30),
            down_bytes_per_sec: Some(1 << 30),
            calls: Some(3),
        };
        (
            directory,
            Arc::new(Limited::new(below, limits)) as Arc<dyn Store>,
        )
    });
}

/// A store whose line is cut and whose answers are lost now and then is as good as any,
/// once it is retried.
mod a_retried_faulty_store_conforms {
    use super::*;

    larder_store::conformance!({
        let (directory, below) = folder();
        let faulty = Faulty::new(below);
        faulty.set(Fault::Cut, Call::Any, When::OneIn(5, 1));
        faulty.set(Fault::LostAnswer, Call::Any, When::OneIn(5, 2));
        faulty.set(Fault::ServerError, Call::Any, When::OneIn(7, 3));
        let policy = RetryPolicy {
            deadline: Duration::from_secs(60),
            ..impatient()
        };
        (
            directory,
            Arc::new(Retry::new(Arc::new(faulty), policy)) as Arc<dyn Store>,
        )
    });
}

#[tokio::test]
async fn a_passing_error_is_tried_again_and_a_lasting_one_is_not() {
    let (_directory, counting, faulty) = faulty();
    let store = Retry::new(counting.clone(), impatient());
    faulty.set(Fault::ServerError, Call::Put, When::Once(0));
    store.put(&key("a"), noise(1, 10)).await.unwrap();
    assert_eq!(counting.counts().puts, 2);

    for (fault, kind) in [
        (Fault::Refused, ErrorKind::Refused),
        (Fault::Full, ErrorKind::Full),
    ] {
        faulty.clear();
        faulty.set(fault, Call::Put, When::Always);
        let before = counting.counts().puts;
        assert_eq!(
            store.put(&key("a"), noise(1, 10)).await.unwrap_err().kind,
            kind
        );
        assert_eq!(counting.counts().puts, before + 1);
    }
}

#[tokio::test]
async fn damage_is_read_three_times_before_it_is_believed() {
    let (_directory, counting, _) = faulty();
    let store = Retry::new(counting.clone(), impatient());
    store.put(&key("a"), noise(1, 10)).await.unwrap();
    let error = store.get_range(&key("a"), 0..11).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged);
    assert_eq!(counting.counts().ranges, 3);
}

#[tokio::test]
async fn a_store_that_stays_away_is_given_up_at_the_deadline() {
    let (_directory, counting, faulty) = faulty();
    let store = Retry::new(counting.clone(), impatient());
    faulty.set(Fault::Cut, Call::Any, When::Always);
    let error = store.get(&key("a")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(counting.counts().gets > 3);
    // And it is there again when the store is.
    faulty.clear();
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn limits_hold_the_rate_over_many_objects() {
    let (_directory, below) = folder();
    let limits = Limits {
        up_bytes_per_sec: Some(1000),
        ..Limits::default()
    };
    let store = Limited::new(below, limits);
    let start = tokio::time::Instant::now();
    for n in 0..11 {
        store
            .put(&key(&format!("o/{n}")), noise(n, 500))
            .await
            .unwrap();
    }
    // The clock is a virtual one: ten earlier objects are paid for when the last one starts.
    assert!(
        start.elapsed() >= Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn no_more_calls_run_at_a_time_than_allowed() {
    let (_directory, below) = folder();
    let faulty = Arc::new(Faulty::new(below));
    faulty.set(Fault::Hang, Call::Get, When::Always);
    let store = Limited::new(
        faulty.clone(),
        Limits {
            calls: Some(2),
            ..Limits::default()
        },
    );
    let absent = key("a");
    let mut hanging = [Box::pin(store.get(&absent)), Box::pin(store.get(&absent))];
    for call in &mut hanging {
        assert!(futures::poll!(call).is_pending());
    }
    faulty.clear();
    let mut third = Box::pin(store.get(&absent));
    assert!(futures::poll!(&mut third).is_pending());
    drop(hanging);
    assert_eq!(third.await.unwrap(), None);
}

#[tokio::test]
async fn a_store_that_lies_fails_its_check_in_words() {
    for (fault, call, words) in [
        (Fault::WrongBytes, Call::Get, "other bytes"),
        (Fault::Truncated, Call::Get, "other bytes"),
        (Fault::Missing, Call::Get, "denies"),
        (Fault::Missing, Call::List, "lacks"),
        (Fault::Missing, Call::Stat, "denies"),
        (Fault::Full, Call::Put, "full"),
        (Fault::Refused, Call::Any, "does not know this user"),
    ] {
        let (directory, below) = folder();
        let faulty = Faulty::new(below);
        faulty.set(fault, call, When::Always);
        let store: Arc<dyn Store> = Arc::new(faulty);
        let report = check(&store).await;
        assert!(!report.is_ok(), "{fault:?}");
        let said = report.to_string();
        assert!(said.contains(words), "{fault:?} said {said}");
        if fault != Fault::Refused {
            let left = std::fs::read_dir(directory.path().join("probe"));
            assert_eq!(left.map_or(0, Iterator::count), 0, "the probe must go");
        }
    }
}

#[tokio::test]
async fn faults_come_in_the_same_order_for_the_same_seed() {
    let run = async |seed| {
        let (_directory, below) = folder();
        let faulty = Faulty::new(below);
        faulty.set(Fault::Cut, Call::Any, When::OneIn(3, seed));
        let mut outcomes = Vec::new();
        for _ in 0..40 {
            outcomes.push(faulty.get(&key("a")).await.is_ok());
        }
        outcomes
    };
    assert_eq!(run(1).await, run(1).await);
    assert_ne!(run(1).await, run(2).await);
}

#[tokio::test]
async fn an_http_store_that_falls_silent_is_not_waited_for() {
    let s3 = S3Server::start();
    let dav = DavServer::start();
    let (s3_wire, dav_wire) = (Wire::to(s3.socket()), Wire::to(dav.socket()));
    let soon = Duration::from_millis(500);
    for (wire, address, options) in [
        (&s3_wire, s3.address_by(s3_wire.socket(), "x"), s3.options()),
        (
            &dav_wire,
            dav.address_by(dav_wire.socket(), "x"),
            dav.options(),
        ),
    ] {
        let options = StoreOptions {
            stall_timeout: soon,
            connect_timeout: soon,
            ..options
        };
        let store = open(&address, &options).unwrap();
        store.put(&key("a"), noise(1, 1000)).await.unwrap();
        wire.hold(true);
        for error in [
            store.get(&key("a")).await.map(drop).unwrap_err(),
            store.put(&key("b"), noise(1, 1000)).await.unwrap_err(),
            store.list("").await.map(drop).unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        }
        wire.hold(false);
        assert_eq!(store.get(&key("a")).await.unwrap(), Some(noise(1, 1000)));
    }
}

/// The suite itself: each of these stores breaks a promise, and the test of it must fail.
#[tokio::test]
async fn the_suite_catches_stores_that_break_a_promise() {
    async fn fails<F>(promise: impl FnOnce(Arc<dyn Store>) -> F, fault: Fault, call: Call) -> bool
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (_directory, below) = folder();
        let faulty = Faulty::new(below);
        faulty.set(fault, call, When::Always);
        tokio::spawn(promise(Arc::new(faulty))).await.is_err()
    }
    use larder_store::testing::conformance as suite;
    assert!(
        fails(
            suite::what_was_put_is_got_back,
            Fault::WrongBytes,
            Call::Get
        )
        .await
    );
    assert!(fails(suite::what_was_put_is_got_back, Fault::Missing, Call::Stat).await);
    assert!(fails(suite::ranges_are_exact, Fault::Truncated, Call::Get).await);
    assert!(
        fails(
            suite::lists_are_sorted_and_complete,
            Fault::Missing,
            Call::List
        )
        .await
    );
    assert!(fails(suite::deleting_twice_is_fine, Fault::Cut, Call::Delete).await);
    assert!(
        fails(
            suite::a_reader_never_sees_half_of_a_put,
            Fault::Truncated,
            Call::Get
        )
        .await
    );
    assert!(
        fails(
            suite::a_dropped_put_leaves_all_or_nothing,
            Fault::Truncated,
            Call::Get
        )
        .await
    );
    assert!(
        fails(
            suite::a_check_passes_and_leaves_nothing,
            Fault::LostAnswer,
            Call::Put
        )
        .await
    );
}

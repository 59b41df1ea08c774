//! The suite that every store passes: one function for each promise of [`Store`].
//!
//! [`conformance!`](crate::conformance) makes a test of each. The stores that they are
//! handed are empty.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;

use super::noise;
use crate::{ErrorKind, Key, Store};

/// Makes a test of each promise. `$make` is an expression, evaluated in each test, of
/// `(guard, Arc<dyn Store>)`; the guard is dropped at the test's end.
#[macro_export]
macro_rules! conformance {
    ($make:expr) => {
        $crate::conformance!(@ $make;
            what_was_put_is_got_back
            what_is_not_there_is_absent
            ranges_are_exact
            a_range_beyond_the_end_is_damage
            lists_are_sorted_and_complete
            putting_again_changes_nothing
            putting_over_a_damaged_object_mends_it
            deleting_twice_is_fine
            large_objects_pass
            a_reader_never_sees_half_of_a_put
            many_callers_do_not_disturb_each_other
            every_key_can_be_used
            a_dropped_put_leaves_all_or_nothing
            a_check_passes_and_leaves_nothing
        );
    };
    (@ $make:expr; $($promise:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let (_guard, store) = $make;
                $crate::testing::conformance::$promise(store).await;
            }
        )*
    };
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

/// A put of any size comes back as it was, and its size is told.
pub async fn what_was_put_is_got_back(store: Arc<dyn Store>) {
    let sizes = [
        0,
        1,
        4095,
        32 << 10,
        261_120,
        261_121,
        1 << 20,
        (1 << 20) + 1,
        3_000_007,
    ];
    for (at, size) in sizes.into_iter().enumerate() {
        let key = key(&format!("packs/{at:02}/object-{size}"));
        let bytes = noise(size as u64, size);
        store.put(&key, bytes.clone()).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), Some(bytes), "{size} bytes");
        assert_eq!(store.stat(&key).await.unwrap().unwrap().size, size as u64);
    }
}

/// Absence is an answer, for whole objects, ranges, lists and deletes.
pub async fn what_is_not_there_is_absent(store: Arc<dyn Store>) {
    store
        .put(&key("packs/ab/there"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    for absent in [
        "packs/ab/absent",
        "packs/cd/absent",
        "heads/absent",
        "absent",
    ] {
        let key = key(absent);
        assert_eq!(store.get(&key).await.unwrap(), None, "{absent}");
        assert_eq!(store.get_range(&key, 0..1).await.unwrap(), None, "{absent}");
        assert_eq!(store.get_range(&key, 0..0).await.unwrap(), None, "{absent}");
        assert_eq!(store.stat(&key).await.unwrap(), None, "{absent}");
        store.delete(&key).await.unwrap();
    }
    assert_eq!(store.list("heads/").await.unwrap(), []);
    assert_eq!(store.list("packs/cd/").await.unwrap(), []);
}

/// A range gives exactly its bytes.
pub async fn ranges_are_exact(store: Arc<dyn Store>) {
    let size = 2_500_000;
    let bytes = noise(7, size);
    let key = key("packs/aa/ranges");
    store.put(&key, bytes.clone()).await.unwrap();
    let end = size as u64;
    for range in [
        0..1,
        end - 1..end,
        0..end,
        1000..5096,
        261_119..261_121,
        1..end,
        1_048_575..1_048_577,
        5..5,
        0..0,
    ] {
        let got = store.get_range(&key, range.clone()).await.unwrap().unwrap();
        assert!(
            got == bytes.slice(range.start as usize..range.end as usize),
            "{range:?}"
        );
    }
}

/// A range that the object does not have is an error that says so, never fewer bytes.
pub async fn a_range_beyond_the_end_is_damage(store: Arc<dyn Store>) {
    let key = key("packs/aa/short");
    store.put(&key, noise(1, 1000)).await.unwrap();
    for range in [0..1001, 999..1001, 1000..1001, 5000..5001, 0..1 << 24] {
        let error = store.get_range(&key, range.clone()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Damaged, "{range:?}: {error}");
    }
    assert_eq!(
        store.get_range(&key, 0..1000).await.unwrap(),
        Some(noise(1, 1000))
    );
}

/// A list has every object below its prefix, once, in order, with its size, and no other.
pub async fn lists_are_sorted_and_complete(store: Arc<dyn Store>) {
    // More than a page of S3 (1,000), than an answer of SFTP (100), over many directories.
    let sizes: BTreeMap<Key, usize> = (0..1500)
        .map(|n| {
            (
                key(&format!("packs/{:02x}/{:08x}", n % 23, n * 7919)),
                n % 17,
            )
        })
        .chain((0..120).map(|n| (key(&format!("heads/aa/{n:020}")), 3)))
        .chain([(key("volume"), 5)])
        .collect();
    stream::iter(&sizes)
        .for_each_concurrent(32, |(key, size)| {
            let store = store.clone();
            async move { store.put(key, noise(1, *size)).await.unwrap() }
        })
        .await;
    for prefix in [
        "",
        "packs/",
        "packs/05/",
        "heads/",
        "heads/aa/",
        "packs/05/0000",
        "trees/",
    ] {
        let listed = store.list(prefix).await.unwrap();
        let listed: Vec<_> = listed
            .into_iter()
            .map(|meta| (meta.key, meta.size))
            .collect();
        let wanted: Vec<_> = sizes
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .map(|(key, size)| (key.clone(), *size as u64))
            .collect();
        assert!(
            listed == wanted,
            "{prefix:?}: {} of {}",
            listed.len(),
            wanted.len()
        );
    }
}

/// A put of what is there already succeeds and leaves it as it is.
pub async fn putting_again_changes_nothing(store: Arc<dyn Store>) {
    let key = key("packs/aa/again");
    for _ in 0..3 {
        store.put(&key, noise(1, 300_000)).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), Some(noise(1, 300_000)));
    }
    assert_eq!(store.list("").await.unwrap().len(), 1);
}

/// Other bytes under a key are replaced, also where they were just read.
pub async fn putting_over_a_damaged_object_mends_it(store: Arc<dyn Store>) {
    let key = key("packs/aa/mended");
    for (seed, size) in [(1, 5000), (2, 5000), (3, 400_000), (4, 10)] {
        store.put(&key, noise(seed, size)).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), Some(noise(seed, size)));
        let part = store.get_range(&key, 2..9).await.unwrap();
        assert_eq!(part, Some(noise(seed, size).slice(2..9)));
    }
}

/// What is deleted is gone, and deleting it again is no error.
pub async fn deleting_twice_is_fine(store: Arc<dyn Store>) {
    let (gone, kept) = (key("packs/aa/gone"), key("packs/aa/kept"));
    for key in [&gone, &kept] {
        store.put(key, noise(1, 100)).await.unwrap();
        store.get(key).await.unwrap();
    }
    for _ in 0..2 {
        store.delete(&gone).await.unwrap();
        assert_eq!(store.get(&gone).await.unwrap(), None);
        assert_eq!(store.get_range(&gone, 0..1).await.unwrap(), None);
        assert_eq!(store.stat(&gone).await.unwrap(), None);
    }
    let left = store.list("").await.unwrap();
    assert_eq!(
        left.into_iter().map(|meta| meta.key).collect::<Vec<_>>(),
        [kept]
    );
}

/// A pack of 20 MiB goes and comes, whole and in ranges at the same time.
pub async fn large_objects_pass(store: Arc<dyn Store>) {
    let size = 20 << 20;
    let bytes = noise(20, size);
    let key = key("packs/aa/large");
    store.put(&key, bytes.clone()).await.unwrap();
    assert!(store.get(&key).await.unwrap().unwrap() == bytes);
    let step = (size / 16) as u64;
    stream::iter(0..16u64)
        .for_each_concurrent(8, |n| {
            let range = n * step..(n + 1) * step;
            let wanted = bytes.slice(range.start as usize..range.end as usize);
            let (store, key) = (store.clone(), key.clone());
            async move {
                assert!(store.get_range(&key, range).await.unwrap().unwrap() == wanted);
            }
        })
        .await;
}

/// While an object is put, readers see nothing of it or all of it.
pub async fn a_reader_never_sees_half_of_a_put(store: Arc<dyn Store>) {
    let size = 6 << 20;
    let key = key("packs/aa/watched");
    let bytes = noise(6, size);
    let put = tokio::spawn({
        let (store, key, bytes) = (store.clone(), key.clone(), bytes.clone());
        async move { store.put(&key, bytes).await }
    });
    loop {
        let done = put.is_finished();
        if let Some(meta) = store.stat(&key).await.unwrap() {
            assert_eq!(meta.size, size as u64);
        }
        if let Some(last) = store.get_range(&key, 0..size as u64).await.unwrap() {
            assert!(last == bytes);
        }
        assert!(
            store
                .list("")
                .await
                .unwrap()
                .iter()
                .all(|meta| meta.size == size as u64)
        );
        if done {
            break;
        }
    }
    put.await.unwrap().unwrap();
    assert!(store.get(&key).await.unwrap().unwrap() == bytes);
}

/// Many puts and gets at a time each get what is theirs.
pub async fn many_callers_do_not_disturb_each_other(store: Arc<dyn Store>) {
    stream::iter(0..60u64)
        .for_each_concurrent(20, |n| {
            let store = store.clone();
            async move {
                let key = key(&format!("packs/{:02x}/{n}", n % 5));
                let bytes = noise(n, 1000 * n as usize);
                store.put(&key, bytes.clone()).await.unwrap();
                assert!(store.get(&key).await.unwrap().unwrap() == bytes);
                let half = bytes.len() as u64 / 2;
                let part = store.get_range(&key, 0..half).await.unwrap().unwrap();
                assert!(part == bytes.slice(..half as usize));
            }
        })
        .await;
    // And several at one and the same key.
    let shared = key("packs/aa/shared");
    stream::iter(0..8)
        .for_each_concurrent(8, |_| store.put(&shared, noise(9, 700_000)).into_unit())
        .await;
    assert_eq!(store.get(&shared).await.unwrap(), Some(noise(9, 700_000)));
}

trait IntoUnit {
    fn into_unit(self) -> impl Future<Output = ()>;
}

impl<F: Future<Output = Result<(), crate::StoreError>>> IntoUnit for F {
    async fn into_unit(self) {
        self.await.unwrap();
    }
}

/// Whatever [`Key`] allows names an object.
pub async fn every_key_can_be_used(store: Arc<dyn Store>) {
    let keys = [
        "a".to_owned(),
        "0".to_owned(),
        "-".to_owned(),
        "-rf".to_owned(),
        "x..y".to_owned(),
        "a.b-c.d".to_owned(),
        "probe".to_owned(),
        format!("long/{}", "l".repeat(120)),
        format!("{}/deep", vec!["d"; 20].join("/")),
        "index/7f.idx".to_owned(),
    ];
    for (n, text) in keys.iter().enumerate() {
        store.put(&key(text), noise(n as u64, n + 1)).await.unwrap();
    }
    let mut listed: Vec<String> = store
        .list("")
        .await
        .unwrap()
        .into_iter()
        .map(|meta| meta.key.to_string())
        .collect();
    let mut wanted = keys.to_vec();
    for (n, text) in keys.iter().enumerate() {
        assert_eq!(
            store.get(&key(text)).await.unwrap(),
            Some(noise(n as u64, n + 1)),
            "{text}"
        );
        store.delete(&key(text)).await.unwrap();
    }
    listed.sort();
    wanted.sort();
    assert_eq!(listed, wanted);
    assert_eq!(store.list("").await.unwrap(), []);
}

/// A put whose future is dropped, at whatever moment, leaves all of the object or nothing.
pub async fn a_dropped_put_leaves_all_or_nothing(store: Arc<dyn Store>) {
    let size = 4 << 20;
    // Something is there, so that the store is connected and its directories are made.
    store
        .put(&key("packs/aa/first"), noise(0, 10))
        .await
        .unwrap();
    let keys: Vec<_> = (0..12u64)
        .map(|n| key(&format!("packs/aa/dropped-{n:02}")))
        .collect();
    for (n, key) in keys.iter().enumerate() {
        let put = store.put(key, noise(n as u64, size));
        let _ = tokio::time::timeout(Duration::from_millis(3 * n as u64), put).await;
    }
    for (n, key) in keys.iter().enumerate() {
        if let Some(whole) = store.get(key).await.unwrap() {
            assert!(whole == noise(n as u64, size), "{key}");
        }
    }
    for meta in store.list("").await.unwrap() {
        let whole = if meta.key.as_str().ends_with("first") {
            10
        } else {
            size as u64
        };
        assert_eq!(meta.size, whole, "{}", meta.key);
    }
    // And the store goes on.
    store.put(&keys[0], noise(99, 1000)).await.unwrap();
    assert_eq!(store.get(&keys[0]).await.unwrap(), Some(noise(99, 1000)));
}

/// [`check`](crate::check) finds a good store good, and cleans up.
pub async fn a_check_passes_and_leaves_nothing(store: Arc<dyn Store>) {
    let report = crate::check(&store).await;
    assert!(report.is_ok(), "{report}");
    assert!(report.steps.len() > 5);
    assert_eq!(store.list("").await.unwrap(), []);
}

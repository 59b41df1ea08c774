//! What `verify` finds.

use std::time::Duration;

use larder_store::testing::{Call, Fault, When};
use larder_volume::{ROOT, Settings, VerifyReport};

use crate::support::{Replica, Shelf, bytes, settings, until};

async fn verify(replica: &Replica, stores: bool) -> VerifyReport {
    replica
        .volume
        .verify(&[ROOT], stores, &|_| {})
        .await
        .unwrap()
}

/// The file in the cache that holds this content.
fn cache_file(replica: &Replica, ino: u64) -> std::path::PathBuf {
    let cache = replica.state.join("cache");
    cache
        .join(format!("{:x}", ino >> 12))
        .join(format!("{ino:x}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_volume_is_found_well() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    replica.write(ROOT, "short", &bytes(1, 1000));
    replica.write(ROOT, "long", &bytes(2, 3 << 20));
    replica.commit().await;
    let verified = verify(&replica, true).await;
    assert!(
        verified.is_well() && verified.damaged.is_empty(),
        "{verified:?}"
    );
    assert!(verified.unknown.is_empty(), "{verified:?}");
    assert_eq!(verified.files, 2);
    assert_eq!(verified.objects, shelf.objects().len() as u64);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_of_any_object_is_found() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    replica.write(ROOT, "a", b"small content");
    replica.commit().await;
    let objects: Vec<_> = shelf
        .objects()
        .into_iter()
        .map(|path| {
            let whole = std::fs::read(&path).unwrap();
            (path, whole)
        })
        .collect();
    assert!(objects.len() >= 6, "{objects:?}");
    let longest = objects.iter().map(|(_, whole)| whole.len()).max().unwrap();
    for at in 0..longest {
        // One byte of each object that is long enough: each of them must be named.
        let mut spoilt = 0;
        for (path, whole) in &objects {
            let mut bytes = whole.clone();
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (at % 8);
                spoilt += 1;
            }
            std::fs::write(path, &bytes).unwrap();
        }
        let found = verify(&replica, true).await;
        assert_eq!(found.damaged.len(), spoilt, "byte {at}: {found:?}");
    }
    for (path, whole) in &objects {
        std::fs::write(path, whole).unwrap();
    }
    assert!(verify(&replica, true).await.is_well());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_or_shortened_object_is_found() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    replica.write(ROOT, "a", &bytes(1, 100_000));
    replica.commit().await;
    for prefix in ["packs", "trees", "volume"] {
        let object = shelf.objects_in(prefix).pop().unwrap();
        let whole = std::fs::read(&object).unwrap();
        std::fs::remove_file(&object).unwrap();
        let found = verify(&replica, true).await;
        assert_eq!(found.missing.len(), 1, "{prefix}: {found:?}");
        std::fs::write(&object, &whole[..whole.len() - 1]).unwrap();
        assert!(!verify(&replica, true).await.is_well(), "{prefix}");
        std::fs::write(&object, &whole).unwrap();
    }
    assert!(verify(&replica, true).await.is_well());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_looked_at_is_unknown_and_not_damaged() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    replica.write(ROOT, "a", &bytes(1, 100_000));
    replica.commit().await;
    shelf.faulty.set(Fault::Refused, Call::Get, When::Always);
    let found = verify(&replica, true).await;
    assert!(!found.unknown.is_empty());
    assert!(
        found.damaged.is_empty() && found.missing.is_empty(),
        "{found:?}"
    );
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_of_stored_content_here_is_found_and_mended() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    let content = bytes(1, 2 << 20);
    let ino = replica.write(ROOT, "file", &content);
    replica.commit().await;
    let path = cache_file(&replica, ino);
    let mut rotten = std::fs::read(&path).unwrap();
    assert!(rotten == content);
    rotten[1_500_000] ^= 4;
    std::fs::write(&path, &rotten).unwrap();

    let found = verify(&replica, false).await;
    assert_eq!(found.damaged.len(), 1, "{found:?}");
    assert_eq!(found.damaged[0].place, b"file");
    assert!(found.damaged[0].mended && found.is_well());
    assert!(replica.read(ino).await.unwrap() == content);
    assert!(verify(&replica, false).await.damaged.is_empty());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_that_cannot_be_mended_now_is_not_served() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    let content = bytes(1, 200_000);
    let ino = replica.write(ROOT, "file", &content);
    replica.commit().await;
    let path = cache_file(&replica, ino);
    let mut rotten = content.clone();
    rotten[100_000] ^= 4;
    std::fs::write(&path, &rotten).unwrap();
    shelf.faulty.set(Fault::Refused, Call::Any, When::Always);

    let found = verify(&replica, false).await;
    assert_eq!(found.damaged.len(), 1);
    assert!(!found.is_well());
    assert!(replica.read(ino).await.is_err());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_is_not_stored_yet_is_not_judged() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    shelf.faulty.set(Fault::Cut, Call::Put, When::Always);
    replica.write(ROOT, "new", &bytes(1, 10_000));
    let found = verify(&replica, false).await;
    assert_eq!((found.files, found.damaged.len()), (0, 0));
    replica.stop().await;
}

/// Each object and each long file was a line of its own, each after a wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_one_line_and_not_one_for_each_object() {
    let shelf = Shelf::new();
    let hasty = Settings {
        read_wait: Duration::from_millis(800),
        ..settings()
    };
    let replica = shelf.init(hasty.clone()).await;
    for n in 0..8 {
        replica.write(ROOT, &format!("long {n}"), &bytes(n, 3 << 20));
    }
    replica.commit().await;
    let state = replica.stop().await;
    // The lists of chunks are in nobody's memory now.
    let replica = shelf.start(state, hasty);
    shelf.faulty.set(Fault::Cut, Call::Any, When::Always);
    let verified = verify(&replica, true).await;
    assert_eq!(verified.damaged, []);
    assert_eq!(verified.missing, []);
    assert!(verified.unknown.len() <= 3, "{:?}", verified.unknown);
    shelf.faulty.clear();
    // It goes away while it is looked at.
    until(|| replica.volume.pull_status().reachable).await;
    shelf.faulty.set(Fault::Cut, Call::Get, When::From(2));
    let verified = verify(&replica, true).await;
    assert_eq!(verified.damaged, []);
    assert!(verified.unknown.len() <= 3, "{:?}", verified.unknown);
    assert!(!verified.unknown.is_empty());
    replica.stop().await;
}

//! Stash, checkout and pin.

use std::sync::Arc;
use std::time::Duration;

use larder_store::testing::{Call, Fault, When};
use larder_volume::{Access, ROOT, Settings, StashOptions, VolumeError};

use crate::support::{Shelf, bytes, settings, until, with_file_away};

fn reasons(kept: &[(Vec<u8>, String)]) -> Vec<(String, &str)> {
    let mut reasons: Vec<_> = kept
        .iter()
        .map(|(path, why)| (String::from_utf8_lossy(path).into_owned(), why.as_str()))
        .collect();
    reasons.sort();
    reasons
}

#[tokio::test(flavor = "multi_thread")]
async fn stash_drops_what_is_stored_for_sure_and_names_the_rest() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    let directory = replica.mkdir(ROOT, "d");
    let stored = replica.write(directory, "stored", &bytes(1, 50_000));
    let pinned = replica.write(directory, "pinned", &bytes(2, 50_000));
    let open = replica.write(directory, "open", &bytes(3, 50_000));
    replica.commit().await;
    replica.volume.pin(&[pinned]).unwrap();
    replica.volume.open(open, Access::default()).unwrap();
    shelf.faulty.set(Fault::Cut, Call::Put, When::Always);
    replica.write(directory, "new", &bytes(4, 50_000));

    let options = StashOptions {
        dry_run: true,
        ..StashOptions::default()
    };
    let planned = replica.volume.stash(&[ROOT], &options, &|_| {}).unwrap();
    assert!(replica.is_here(stored));
    let stashed = replica
        .volume
        .stash(&[ROOT], &StashOptions::default(), &|_| {})
        .unwrap();
    assert_eq!(stashed, planned);
    assert!(!replica.is_here(stored));
    assert_eq!(stashed.files, 1);
    assert!(stashed.freed_bytes >= 50_000);
    assert_eq!(
        reasons(&stashed.kept),
        [
            ("d/new".to_owned(), "it has changes that are not stored yet"),
            ("d/open".to_owned(), "a program has it open"),
            ("d/pinned".to_owned(), "it is pinned"),
        ]
    );
    shelf.faulty.clear();
    assert!(replica.read(stored).await.unwrap() == bytes(1, 50_000));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stash_keeps_what_was_used_lately_if_it_is_told_to() {
    let shelf = Shelf::new();
    let replica = shelf.init(settings()).await;
    let ino = replica.write(ROOT, "file", &bytes(1, 50_000));
    replica.commit().await;
    let options = StashOptions {
        older_than: Some(Duration::from_secs(600)),
        dry_run: false,
    };
    let stashed = replica.volume.stash(&[ROOT], &options, &|_| {}).unwrap();
    assert_eq!(stashed.files, 0);
    assert_eq!(
        reasons(&stashed.kept),
        [("file".to_owned(), "it was used in the last 600 s")]
    );
    assert!(replica.is_here(ino));
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_was_cut_goes_on_where_it_ended() {
    let shelf = Shelf::new();
    let content = bytes(1, 40 << 20);
    let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
    shelf.faulty.set(Fault::Refused, Call::Get, When::From(8));
    let cut = replica.volume.checkout(&[ROOT], &|_| {}).await.unwrap();
    assert!(cut.cut && cut.files == 0);
    assert!(cut.fetched_bytes > 0 && cut.fetched_bytes < content.len() as u64);
    assert_eq!(cut.failed[0].0, b"file");

    shelf.faulty.clear();
    let before = shelf.counts().bytes_down;
    // The store was just down; who asks before the prober did is told so.
    until(|| replica.volume.pull_status().reachable).await;
    let rest = replica.volume.checkout(&[ROOT], &|_| {}).await.unwrap();
    assert!(rest.failed.is_empty() && !rest.cut && rest.files == 1);
    let again = shelf.counts().bytes_down - before;
    let left = content.len() as u64 - cut.fetched_bytes;
    assert!(again < left + (2 << 20), "{again} bytes for {left}");
    assert!(replica.is_here(ino));
    assert!(replica.read(ino).await.unwrap() == content);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_counts_each_file_that_is_here_now_and_was_not() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    for n in 0..40u8 {
        first.write(ROOT, &n.to_string(), &bytes(n.into(), 1 << 20));
    }
    first.commit().await;
    first.stop().await;
    let second = shelf.open("second", settings()).await;
    let files: Vec<_> = (0..40).map(|n| second.find(&n.to_string())).collect();
    let was_here = files.iter().filter(|&&ino| second.is_here(ino)).count() as u64;
    // A program reads all of them as soon as the first came.
    let read_all = |_| {
        for &ino in &files {
            let mut bytes = vec![0; 1 << 20];
            tokio::task::block_in_place(|| second.volume.read(ino, 0, &mut bytes)).unwrap();
        }
    };
    let brought = second.volume.checkout(&[ROOT], &read_all).await.unwrap();
    assert_eq!(brought.files, 40 - was_here);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_names_what_is_damaged_and_brings_the_rest() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.write(ROOT, "bad", &bytes(1, 100_000));
    first.commit().await;
    let bad = shelf.objects_in("packs");
    first.write(ROOT, "good", &bytes(2, 100_000));
    first.commit().await;
    first.stop().await;
    let second = shelf.open("second", settings()).await;
    for pack in bad {
        std::fs::remove_file(pack).unwrap();
    }
    let brought = second.volume.checkout(&[ROOT], &|_| {}).await.unwrap();
    assert_eq!(brought.files, 1);
    assert_eq!(brought.failed.len(), 1);
    assert_eq!(brought.failed[0].0, b"bad");
    assert!(
        brought.failed[0].1.contains("packs/"),
        "{}",
        brought.failed[0].1
    );
    assert!(second.is_here(second.find("good")));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_that_does_not_fit_is_refused_before_it_begins() {
    let shelf = Shelf::new();
    let small = Settings {
        budget_bytes: 1 << 20,
        ..settings()
    };
    let (replica, _) = with_file_away(&shelf, settings(), &bytes(1, 2 << 20)).await;
    let state = replica.stop().await;
    let replica = shelf.start(state, small);
    let error = replica.volume.checkout(&[ROOT], &|_| {}).await.unwrap_err();
    assert!(matches!(error, VolumeError::NoSpace(_)), "{error}");
    replica.stop().await;
}

/// Only the budget as a whole was looked at: a checkout beside pinned or dirty content went
/// over it, and began to push out what it had just brought.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkout_does_not_count_on_room_that_dirty_or_pinned_content_takes() {
    let shelf = Shelf::new();
    let (replica, away) = with_file_away(&shelf, settings(), &bytes(1, 2 << 20)).await;
    let state = replica.stop().await;
    let three = Settings {
        budget_bytes: 3 << 20,
        high_watermark: 1.0,
        settle_quiet: std::time::Duration::from_secs(3600),
        ..settings()
    };
    let replica = shelf.start(state, three);
    let other = replica.write(ROOT, "other", &bytes(2, (3 << 20) / 2));
    let refused = replica.volume.checkout(&[away], &|_| {}).await.unwrap_err();
    assert!(matches!(refused, VolumeError::NoSpace(_)), "{refused}");
    replica.commit().await;
    replica.volume.pin(&[other]).unwrap();
    let refused = replica.volume.checkout(&[away], &|_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("unpin"), "{refused}");
    replica.volume.unpin(&[other]).unwrap();
    replica.volume.checkout(&[away], &|_| {}).await.unwrap();
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_comes_by_itself_and_stays() {
    let shelf = Shelf::new();
    let (replica, ino) = with_file_away(&shelf, settings(), &bytes(1, 300_000)).await;
    replica.volume.pin(&[ROOT]).unwrap();
    until(|| replica.is_here(ino)).await;
    let stash = |volume: &Arc<larder_volume::Volume>| {
        let options = StashOptions::default();
        volume.stash(&[ROOT], &options, &|_| {}).unwrap()
    };
    // A new replica first tells the others of itself: until then that is the reason.
    let is_pinned = || {
        let stashed = stash(&replica.volume);
        assert_eq!(stashed.files, 0);
        stashed.kept.iter().any(|(_, why)| why == "it is pinned")
    };
    until(is_pinned).await;
    replica.volume.unpin(&[ROOT]).unwrap();
    assert_eq!(stash(&replica.volume).files, 1);
    replica.stop().await;
}

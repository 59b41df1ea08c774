//! What a scan of many files costs, and what it does to the working set.

use std::time::Duration;

use larder_store::testing::{Call, Fault, When};
use larder_volume::{Ino, PolicyKind, ROOT, Settings};

use crate::support::{Replica, Shelf, bytes, settings, until};

const FILES: usize = 500;

/// A replica with 500 small files in ten directories, all away.
async fn with_many_files_away(shelf: &Shelf) -> (Replica, Vec<(Ino, Vec<u8>)>) {
    let first = shelf.init(settings()).await;
    for at in 0..FILES {
        if at % 50 == 0 {
            first.mkdir(ROOT, &format!("d{:02}", at / 50));
        }
        let parent = first.find(&format!("d{:02}", at / 50));
        let content = bytes(at as u64, 2000 + at * 7);
        first.write(parent, &format!("f{at:04}"), &content);
    }
    first.commit().await;
    first.stop().await;
    let second = shelf.open("second", settings()).await;
    let files = (0..FILES)
        .map(|at| {
            let ino = second.find(&format!("d{:02}/f{at:04}", at / 50));
            (ino, bytes(at as u64, 2000 + at * 7))
        })
        .collect();
    (second, files)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_scan_of_many_small_files_needs_few_requests() {
    let shelf = Shelf::new();
    let (replica, files) = with_many_files_away(&shelf).await;
    shelf.faulty.set(
        Fault::Slow(Duration::from_millis(20)),
        Call::Get,
        When::Always,
    );
    let before = shelf.counts().ranges;
    for (ino, content) in &files {
        assert!(replica.read(*ino).await.unwrap() == *content);
    }
    let requests = shelf.counts().ranges - before;
    assert!(requests <= 12, "{requests} requests for {FILES} files");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_in_another_order_needs_few_requests_too() {
    let shelf = Shelf::new();
    let (replica, files) = with_many_files_away(&shelf).await;
    shelf.faulty.set(
        Fault::Slow(Duration::from_millis(20)),
        Call::Get,
        When::Always,
    );
    let before = shelf.counts().ranges;
    // Each directory from its end to its front, as a reader that sorts by something else.
    for directory in files.chunks(50) {
        for (ino, content) in directory.iter().rev() {
            assert!(replica.read(*ino).await.unwrap() == *content);
        }
    }
    let requests = shelf.counts().ranges - before;
    assert!(requests <= 50, "{requests} requests for {FILES} files");
    replica.stop().await;
}

/// More files than the volume keeps in memory: what came of the others was lost, and came
/// again when they were read.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_scan_fetched_ahead_is_here_however_many_files_it_is() {
    let shelf = Shelf::new();
    let (replica, files) = with_many_files_away(&shelf).await;
    for (ino, content) in &files[..100] {
        assert!(replica.read(*ino).await.unwrap() == *content);
    }
    until(|| files.iter().all(|(ino, _)| replica.is_here(*ino))).await;
    let before = shelf.counts().ranges;
    for (ino, content) in &files {
        assert!(replica.read(*ino).await.unwrap() == *content);
    }
    assert_eq!(shelf.counts().ranges, before);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_read_does_not_bring_the_whole_tree() {
    let shelf = Shelf::new();
    let (replica, files) = with_many_files_away(&shelf).await;
    let before = shelf.counts().bytes_down;
    replica.read(files[0].0).await.unwrap();
    replica.volume.shutdown().await.unwrap();
    let brought = shelf.counts().bytes_down - before;
    let all: u64 = files.iter().map(|(_, content)| content.len() as u64).sum();
    assert!(brought < all / 4, "{brought} of {all} bytes");
}

/// Reads 20 files again and again, and then 200 others once, where 60 have room. Answers how
/// many of the 20 are still here.
async fn kept_after_a_scan(eviction: PolicyKind) -> usize {
    const SIZE: usize = 64 << 10;
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    let daily = first.mkdir(ROOT, "daily");
    let rarely = first.mkdir(ROOT, "rarely");
    for at in 0..20u64 {
        first.write(daily, &format!("f{at:03}"), &bytes(at, SIZE));
    }
    for at in 0..200u64 {
        first.write(rarely, &format!("f{at:03}"), &bytes(1000 + at, SIZE));
    }
    first.commit().await;
    first.stop().await;

    let budget = 60 * SIZE as u64;
    let small = Settings {
        budget_bytes: budget,
        eviction,
        ..settings()
    };
    let second = shelf.open("second", small).await;
    let working_set: Vec<_> = (0..20)
        .map(|at| second.find(&format!("daily/f{at:03}")))
        .collect();
    for _ in 0..4 {
        for &ino in &working_set {
            second.read(ino).await.unwrap();
        }
    }
    for at in 0..200u64 {
        let ino = second.find(&format!("rarely/f{at:03}"));
        assert!(second.read(ino).await.unwrap() == bytes(1000 + at, SIZE));
        // Those that come at the same moment do not know of each other.
        let here = second.volume.status().unwrap().bytes_here;
        assert!(here <= budget + 8 * SIZE as u64, "{here} of {budget} bytes");
    }
    // Eviction goes down to the low watermark, behind the reader.
    until(|| second.volume.status().unwrap().bytes_here <= budget).await;
    let kept = working_set
        .iter()
        .filter(|&&ino| second.is_here(ino))
        .count();
    second.stop().await;
    kept
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_does_not_push_out_the_working_set_and_the_budget_is_kept() {
    let kept = kept_after_a_scan(PolicyKind::S3Fifo).await;
    assert!(kept >= 18, "{kept} of 20 files of the working set are here");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_chooses_lru_gets_it() {
    let kept = kept_after_a_scan(PolicyKind::Lru).await;
    assert!(kept <= 2, "{kept} of 20 files of the working set are here");
}

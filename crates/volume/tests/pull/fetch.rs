//! What a reader gets of content that is away, whatever the store does.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use larder_store::testing::{Call, Fault, When};
use larder_volume::{Access, ROOT, SetAttr, Settings, StashOptions, VolumeError};

use crate::support::{Shelf, bytes, settings, until, with_file_away};

/// Settings with which a reader gives up soon.
fn hasty() -> Settings {
    Settings {
        read_wait: Duration::from_millis(800),
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_away_comes_when_it_is_read() {
    let shelf = Shelf::new();
    let content = bytes(1, 3 << 20);
    let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
    assert!(!replica.is_here(ino));
    assert!(replica.read(ino).await.unwrap() == content);
    assert!(replica.is_here(ino));
    replica.stop().await;
}

/// Its list cost the first reader three round trips.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_of_a_long_file_is_here_once_it_was_written_or_read_here() {
    let shelf = Shelf::new();
    let content = bytes(11, 4 << 20);
    let writer = shelf.init(settings()).await;
    let written = writer.write(ROOT, "file", &content);
    writer.commit().await;
    let reader = shelf.open("reader", settings()).await;
    let read = reader.find("file");
    assert!(reader.read(read).await.unwrap() == content);
    for (replica, ino) in [(&writer, written), (&reader, read)] {
        let stash = StashOptions::default();
        replica.volume.stash(&[ROOT], &stash, &|_| {}).unwrap();
        assert!(!replica.is_here(ino));
    }
    let lists = shelf.objects_in("trees");
    assert!(!lists.is_empty());
    for list in lists {
        std::fs::remove_file(list).unwrap();
    }
    for (replica, ino) in [(writer, written), (reader, read)] {
        let replica = shelf.start(replica.stop().await, settings());
        assert!(replica.read(ino).await.unwrap() == content);
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_one_chunk_cost_one_request() {
    let shelf = Shelf::new();
    let content = bytes(2, 10_000);
    let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
    shelf.faulty.set(
        Fault::Slow(Duration::from_millis(100)),
        Call::Get,
        When::Always,
    );
    let before = shelf.counts().ranges;
    let readers: Vec<_> = (0..20).map(|_| replica.read(ino)).collect();
    for read in futures::future::join_all(readers).await {
        assert!(read.unwrap() == content);
    }
    assert_eq!(shelf.counts().ranges - before, 1);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_hangs_gives_an_error_and_then_fails_fast() {
    let shelf = Shelf::new();
    let (replica, ino) = with_file_away(&shelf, hasty(), &bytes(3, 10_000)).await;
    shelf.faulty.set(Fault::Hang, Call::Any, When::Always);
    let error = replica.read(ino).await.unwrap_err();
    assert!(matches!(error, VolumeError::TimedOut(_)), "{error}");
    let error = replica.read(ino).await.unwrap_err();
    assert!(matches!(error, VolumeError::Away(_)), "{error}");
    let status = replica.volume.pull_status();
    assert!(!status.reachable && status.last_error.is_some() && status.down_since.is_some());
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_back_is_found_again() {
    let shelf = Shelf::new();
    let content = bytes(4, 10_000);
    let (replica, ino) = with_file_away(&shelf, hasty(), &content).await;
    shelf.faulty.set(Fault::Cut, Call::Any, When::Always);
    assert!(matches!(
        replica.read(ino).await.unwrap_err(),
        VolumeError::Away(_)
    ));
    shelf.faulty.clear();
    // The prober, not a reader, finds it.
    until(|| replica.volume.pull_status().reachable).await;
    assert!(replica.read(ino).await.unwrap() == content);
    assert_eq!(replica.volume.pull_status().last_error, None);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_passes_is_not_noticed_by_the_reader() {
    for fault in [
        Fault::Cut,
        Fault::LostAnswer,
        Fault::ServerError,
        Fault::WrongBytes,
        Fault::Truncated,
        Fault::Missing,
    ] {
        let shelf = Shelf::new();
        let content = bytes(5, 200_000);
        let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
        shelf.faulty.set(fault, Call::Get, When::Once(0));
        let read = replica.read(ino).await;
        assert!(read.is_ok_and(|read| read == content), "{fault:?}");
        assert!(
            replica.volume.pull_status().warnings.is_empty(),
            "{fault:?}"
        );
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_served_and_the_error_names_the_object() {
    for fault in [Fault::WrongBytes, Fault::Truncated, Fault::Missing] {
        let shelf = Shelf::new();
        let content = bytes(6, 200_000);
        let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
        shelf.faulty.set(fault, Call::Get, When::Always);
        let error = replica.read(ino).await.unwrap_err();
        let words = error.to_string();
        assert!(
            matches!(error, VolumeError::Damaged(_)),
            "{fault:?}: {words}"
        );
        assert!(words.contains("packs/"), "{fault:?}: {words}");
        let warnings = replica.volume.pull_status().warnings;
        assert!(
            warnings.iter().any(|words| words.contains("packs/")),
            "{fault:?}"
        );

        shelf.faulty.clear();
        assert!(replica.read(ino).await.unwrap() == content, "{fault:?}");
        assert!(
            replica.volume.pull_status().warnings.is_empty(),
            "{fault:?}"
        );
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_of_a_pack_harms_only_the_chunk_that_it_lies_in() {
    let shelf = Shelf::new();
    let content = bytes(7, 2 << 20);
    let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
    let [pack] = &shelf.objects_in("packs")[..] else {
        panic!("one pack was expected")
    };
    let mut packed = std::fs::read(pack).unwrap();
    let last = packed.len() - packed.len() / 4;
    packed[last] ^= 1;
    std::fs::write(pack, packed).unwrap();

    assert!(matches!(
        replica.read(ino).await.unwrap_err(),
        VolumeError::Damaged(_)
    ));
    let volume = std::sync::Arc::clone(&replica.volume);
    let mut head = vec![0; 1 << 20];
    let read = tokio::task::spawn_blocking(move || volume.read(ino, 0, &mut head).map(|_| head));
    assert!(read.await.unwrap().unwrap() == content[..1 << 20]);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_the_volume_frees_readers_at_once() {
    let shelf = Shelf::new();
    let settings = Settings {
        read_wait: Duration::from_secs(3600),
        ..settings()
    };
    let (replica, ino) = with_file_away(&shelf, settings, &bytes(8, 10_000)).await;
    shelf.faulty.set(Fault::Hang, Call::Get, When::Always);
    let (read, ()) = tokio::join!(replica.read(ino), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        replica.volume.shutdown().await.unwrap();
    });
    assert!(matches!(read.unwrap_err(), VolumeError::Stopping));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_goes_through_a_file_needs_few_requests() {
    let shelf = Shelf::new();
    let content = bytes(9, 24 << 20);
    let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
    let before = shelf.counts().ranges;
    assert!(replica.read(ino).await.unwrap() == content);
    let requests = shelf.counts().ranges - before;
    // 192 reads of some 380 chunks.
    assert!(requests <= 60, "{requests} requests");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jump_in_a_long_file_brings_little_more_than_it_reads() {
    let shelf = Shelf::new();
    let content = bytes(10, 24 << 20);
    let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
    let before = shelf.counts().bytes_down;
    let volume = std::sync::Arc::clone(&replica.volume);
    let read = tokio::task::spawn_blocking(move || {
        let mut piece = vec![0; 4096];
        volume.read(ino, 17 << 20, &mut piece).map(|_| piece)
    });
    assert!(read.await.unwrap().unwrap() == content[17 << 20..(17 << 20) + 4096]);
    replica.volume.shutdown().await.unwrap();
    let brought = shelf.counts().bytes_down - before;
    assert!(brought <= 512 << 10, "{brought} bytes");
}

/// An idle volume said that its store is reachable for as long as nobody asked for anything,
/// and after one failed request that it is not.
#[tokio::test(flavor = "multi_thread")]
async fn status_follows_a_store_that_goes_and_comes_though_nobody_asks_for_anything() {
    let shelf = Shelf::new();
    let replica = shelf.init(hasty()).await;
    replica.commit().await;
    let reachable = || replica.volume.status().unwrap().stores[0].reachable;
    assert!(reachable());
    shelf.faulty.set(Fault::Cut, Call::Any, When::Always);
    until(|| !reachable()).await;
    shelf.faulty.clear();
    until(reachable).await;
    replica.stop().await;
}

/// The cut of a cache file may fail, and the truncation be done all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_does_not_come_back_with_the_tail_of_the_cache_file() {
    let shelf = Shelf::new();
    let content = bytes(5, 1 << 20);
    let (replica, ino) = with_file_away(&shelf, settings(), &content).await;
    assert!(replica.read(ino).await.unwrap() == content);
    let volume = &replica.volume;
    let edit = |at: u64, bytes: &[u8]| {
        let access = Access {
            write: true,
            ..Access::default()
        };
        volume.open(ino, access).unwrap();
        volume.write(ino, at, bytes).unwrap();
        volume.close(ino, access).unwrap();
    };
    // From here on the file is known piece by piece.
    edit(5, b"x");
    let cut = SetAttr {
        size: Some(100_000),
        ..SetAttr::default()
    };
    volume.set_attr(ino, &cut).unwrap();
    let cache = replica.state.join("cache").join(format!("{:x}", ino >> 12));
    let file = std::fs::File::options()
        .write(true)
        .open(cache.join(format!("{ino:x}")))
        .unwrap();
    file.write_all_at(&content[100_000..], 100_000).unwrap();
    replica.commit().await;
    edit(7, b"y");
    let mut expected = content[..100_000].to_vec();
    (expected[5], expected[7]) = (b'x', b'y');
    assert_eq!(volume.attr(ino).unwrap().size, 100_000);
    assert!(replica.read(ino).await.unwrap() == expected);
    replica.commit().await;
    replica.stop().await;
    let after = shelf.open("after", settings()).await;
    assert!(after.read(after.find("file")).await.unwrap() == expected);
    after.stop().await;
}

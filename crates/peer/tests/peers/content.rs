//! Content comes from a peer, and no read is worse off for it.

use std::time::Duration;

use larder_volume::{ROOT, Settings};

use crate::line::{of, peers, together};
use crate::support::{Shelf, bytes, settings};

fn impatient() -> Settings {
    Settings {
        read_wait: Duration::from_secs(2),
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_cannot_give_comes_from_a_peer() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    let content = bytes(1, 3 << 20);
    first.write(ROOT, "large", &content);
    for n in 0..20 {
        first.write(ROOT, &format!("small {n}"), &bytes(n + 2, 900));
    }
    first.commit().await;
    let second = shelf.open("second", impatient()).await;
    for pack in shelf.objects_in("packs") {
        std::fs::remove_file(pack).unwrap();
    }
    assert!(second.read(second.find("small 19")).await.is_err());

    let here = peers(&first, "first", &[]).await;
    let there = peers(&second, "second", &[&here]).await;
    together(&here, &there).await;
    assert_eq!(second.read(second.find("large")).await.unwrap(), content);
    for n in 0..20 {
        let ino = second.find(&format!("small {n}"));
        assert_eq!(second.read(ino).await.unwrap(), bytes(n + 2, 900));
    }
    let all = content.len() as u64 + 20 * 900;
    assert!(of(&here, there.id()).bytes_to >= all);
    assert!(of(&there, here.id()).bytes_from >= all);
    // It is damage all the same, and said.
    assert!(!second.volume.pull_status().warnings.is_empty());
    here.close().await;
    there.close().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_have_it_or_leaves_costs_no_read() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    let content = bytes(1, 3 << 20);
    let ino = first.write(ROOT, "large", &content);
    first.write(ROOT, "other", &content[..1 << 20]);
    first.write(ROOT, "third", &bytes(7, 1 << 20));
    first.commit().await;
    first.volume.drop_content(ino).unwrap();
    let second = shelf.open("second", settings()).await;
    let here = peers(&first, "first", &[]).await;
    let there = peers(&second, "second", &[&here]).await;
    together(&here, &there).await;
    assert_eq!(second.read(second.find("large")).await.unwrap(), content);
    here.close().await;
    let other = second.read(second.find("third")).await.unwrap();
    assert_eq!(other, bytes(7, 1 << 20));
    there.close().await;
    first.stop().await;
    second.stop().await;
}

/// The pages of the tree come from a peer, too, and of three the one that has it gives it.
#[tokio::test(flavor = "multi_thread")]
async fn each_gives_what_it_has() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    let content = bytes(1, 2 << 20);
    first.write(ROOT, "one", &content);
    first.commit().await;
    let second = shelf.open("second", settings()).await;
    let third = shelf.open("third", impatient()).await;
    second.write(ROOT, "two", &bytes(2, 2 << 20));
    second.commit().await;
    third.sync().await;
    for pack in shelf.objects_in("packs") {
        std::fs::remove_file(pack).unwrap();
    }
    let one = peers(&first, "first", &[]).await;
    let two = peers(&second, "second", &[]).await;
    let three = peers(&third, "third", &[&one, &two]).await;
    together(&one, &three).await;
    together(&two, &three).await;
    let read = third.read(third.find("one")).await.unwrap();
    assert_eq!(read, content);
    let read = third.read(third.find("two")).await.unwrap();
    assert_eq!(read, bytes(2, 2 << 20));
    assert!(of(&three, one.id()).bytes_from >= 2 << 20);
    assert!(of(&three, two.id()).bytes_from >= 2 << 20);
    for peers in [one, two, three] {
        peers.close().await;
    }
    for replica in [first, second, third] {
        replica.stop().await;
    }
}

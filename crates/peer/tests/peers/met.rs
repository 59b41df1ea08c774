//! Who is here, and what they stored.

use larder_volume::ROOT;

use crate::line::{is_here, of, peers, together};
use crate::support::{Shelf, settings, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_head_is_told_and_known_until_it_is_included() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.write(ROOT, "a", b"1");
    first.commit().await;
    let second = shelf.open("second", settings()).await;
    let here = peers(&first, "laptop", &[]).await;
    let there = peers(&second, "desktop", &[&here]).await;
    together(&here, &there).await;
    let known = of(&there, here.id());
    assert_eq!((known.newest, known.included), (Some(1), true));
    assert_eq!(known.name, "laptop");
    first.write(ROOT, "a", b"2");
    first.commit().await;
    until(|| of(&there, here.id()).newest == Some(2)).await;
    assert!(!of(&there, here.id()).included);
    second.sync().await;
    assert!(of(&there, here.id()).included);
    here.close().await;
    there.close().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_comes_back_is_met_again_and_was_remembered() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.write(ROOT, "a", b"1");
    first.commit().await;
    let second = shelf.open("second", settings()).await;
    let here = peers(&first, "laptop", &[]).await;
    let there = peers(&second, "desktop", &[&here]).await;
    together(&here, &there).await;
    let id = there.id();
    there.close().await;
    until(|| !is_here(&here, id)).await;
    let gone = of(&here, id);
    assert!(gone.last_seen.is_some() && !gone.addresses.is_empty());
    assert_eq!(gone.name, "desktop");
    // Nobody names the other to it: the book does.
    let there = peers(&second, "desktop", &[]).await;
    together(&here, &there).await;
    here.close().await;
    there.close().await;
    first.stop().await;
    second.stop().await;
}

/// Both know of each other and call at once.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_connections_one_stays() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.write(ROOT, "a", b"1");
    first.commit().await;
    let second = shelf.open("second", settings()).await;
    let here = peers(&first, "laptop", &[]).await;
    let there = peers(&second, "desktop", &[&here]).await;
    together(&here, &there).await;
    here.close().await;
    there.close().await;
    // Now both books have the other's address.
    for _ in 0..3 {
        let here = peers(&first, "laptop", &[]).await;
        let there = peers(&second, "desktop", &[&here]).await;
        together(&here, &there).await;
        first.write(ROOT, "a", b"again");
        first.commit().await;
        let newest = first.volume.newest_stored().borrow().map(|newest| newest.n);
        until(|| of(&there, here.id()).newest == newest).await;
        here.close().await;
        there.close().await;
    }
    first.stop().await;
    second.stop().await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_replica_is_refused_in_words() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.write(ROOT, "a", b"1");
    first.commit().await;
    let state = shelf.open("second", settings()).await.stop().await;
    let clone = shelf.state("clone");
    copy(&state, &clone);
    let second = shelf.start(state, settings());
    let clone = shelf.start(clone, settings());
    let here = peers(&first, "laptop", &[]).await;
    let there = peers(&second, "desktop", &[&here]).await;
    together(&here, &there).await;
    let twin = peers(&clone, "twin", &[&here]).await;
    assert_eq!(twin.id(), there.id());
    let refused = || of(&twin, here.id()).last_error;
    until(|| refused().is_some_and(|words| words.contains("cloned"))).await;
    assert_eq!(of(&here, there.id()).name, "desktop");
    for peers in [here, there, twin] {
        peers.close().await;
    }
    for replica in [first, second, clone] {
        replica.stop().await;
    }
}

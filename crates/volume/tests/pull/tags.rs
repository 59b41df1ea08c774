//! Names of commits: they travel by the store, and none hides another.

use larder_volume::history::{Moment, Which};
use larder_volume::{Deletions, ROOT};

use crate::support::{Replica, Shelf, settings};

fn latest(replica: &Replica) -> Moment {
    replica.volume.moment(&Which::Latest).unwrap()
}

fn named(replica: &Replica, name: &str) -> Option<Moment> {
    replica.volume.moment(&Which::Name(name.to_owned())).ok()
}

fn names(replica: &Replica) -> Vec<String> {
    let tags = replica.volume.tags().unwrap();
    tags.into_iter().map(|tag| tag.label).collect()
}

/// Two replicas, and two commits that both know.
async fn two(shelf: &Shelf) -> (Replica, Replica, [Moment; 2]) {
    let first = shelf.init(settings()).await;
    first.write(ROOT, "a", b"one");
    first.commit().await;
    let one = latest(&first);
    first.write(ROOT, "b", b"two");
    first.commit().await;
    let two = latest(&first);
    let second = shelf.open("second", settings()).await;
    (first, second, [one, two])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_of_a_commit_is_seen_by_the_others_after_a_sync() {
    let shelf = Shelf::new();
    let (first, second, [one, _]) = two(&shelf).await;
    first.volume.tag(&one, "before b").unwrap();
    assert_eq!(named(&first, "before b"), Some(one.clone()));
    assert_eq!(named(&second, "before b"), None);
    first.sync().await;
    second.sync().await;
    assert_eq!(named(&second, "before b"), Some(one.clone()));
    assert!(second.volume.tagged_commits().unwrap().contains(&one.id));
    // It is there after a restart, and on a machine that comes later.
    let state = second.stop().await;
    let second = shelf.start(state, settings());
    assert_eq!(names(&second), ["before b"]);
    let third = shelf.open("third", settings()).await;
    third.sync().await;
    assert_eq!(named(&third, "before b"), Some(one));
    for replica in [first, second, third] {
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_name_of_two_commits_stays_visible_for_both() {
    let shelf = Shelf::new();
    let (first, second, [one, other]) = two(&shelf).await;
    first.volume.tag(&one, "v1").unwrap();
    second.volume.tag(&other, "v1").unwrap();
    // Here the name is another commit's already.
    assert!(first.volume.tag(&other, "v1").is_err());
    for replica in [&first, &second, &first] {
        replica.sync().await;
    }
    // Both came within one tick of the clock, perhaps.
    let mut given = [(&first, one), (&second, other)];
    if first.volume.tags().unwrap()[0].commit != given[0].1.id {
        given.reverse();
    }
    let [(_, one), (by, other)] = given;
    let by = by.volume.replica().id().to_string();
    let apart = format!("v1 ({})", &by[..8]);
    for replica in [&first, &second] {
        assert_eq!(names(replica), ["v1", &apart]);
        assert_eq!(named(replica, "v1"), Some(one.clone()));
        assert_eq!(named(replica, &apart), Some(other.clone()));
    }
    // Whoever takes the first one back leaves the other the plain name.
    second.volume.take_tag_back("v1").unwrap();
    second.sync().await;
    first.sync().await;
    for replica in [&first, &second] {
        assert_eq!(names(replica), ["v1"]);
        assert_eq!(named(replica, "v1"), Some(other.clone()));
    }
    assert!(first.volume.take_tag_back("v2").is_err());
    first.volume.take_tag_back("v1").unwrap();
    assert!(first.volume.tagged_commits().unwrap().is_empty());
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_taken_for_a_time_a_number_or_an_id_is_no_name() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.write(ROOT, "a", b"one");
    first.commit().await;
    let one = latest(&first);
    for wrong in [
        "12",
        "deadbeef",
        "2026-11-21",
        "latest",
        "a/b",
        "",
        "v1 (x)",
        "..",
    ] {
        assert!(first.volume.tag(&one, wrong).is_err(), "{wrong:?}");
    }
    // Once more is no error.
    for _ in 0..2 {
        first.volume.tag(&one, "caf\u{e9} 1.0").unwrap();
    }
    assert_eq!(names(&first), ["caf\u{e9} 1.0"]);
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_given_while_the_store_is_away_go_there_later_and_old_lists_go() {
    let shelf = Shelf::new();
    let (first, second, [one, other]) = two(&shelf).await;
    for round in 0..5 {
        first.volume.tag(&one, &format!("round {round}")).unwrap();
        first.sync().await;
    }
    let lists = || {
        let mut objects = shelf.objects_in("heads");
        objects.retain(|path| path.to_string_lossy().contains("tags-"));
        objects
    };
    assert_eq!(lists().len(), 2);
    // What is due outlives a restart, and goes with the next look.
    first.volume.tag(&other, "due").unwrap();
    let state = first.stop().await;
    let first = shelf.start(state, settings());
    first.sync().await;
    second.sync().await;
    assert_eq!(names(&second).len(), 6);
    assert_eq!(named(&second, "due"), Some(other));
    // Nothing is put or read again for that.
    let asked = || {
        let counts = shelf.counts();
        (counts.puts, counts.gets, counts.ranges)
    };
    first.sync().await;
    let (puts, gets, ranges) = asked();
    first.sync().await;
    second.sync().await;
    assert_eq!(asked(), (puts, gets, ranges));
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_damaged_or_stale_is_told_and_takes_no_name_away() {
    let shelf = Shelf::new();
    let (first, second, [one, other]) = two(&shelf).await;
    first.volume.tag(&one, "v1").unwrap();
    first.sync().await;
    second.sync().await;
    let list = |replica: &Replica, n: u64| {
        let name = larder_format::tags_name(&replica.volume.replica().id(), n);
        shelf.state("store").join(name)
    };
    let old = std::fs::read(list(&first, 1)).unwrap();
    first.volume.tag(&other, "v2").unwrap();
    first.sync().await;
    // The store rots, and then shows an old list under a new name.
    let path = list(&first, 2);
    let good = std::fs::read(&path).unwrap();
    for wrong in [&good[..good.len() - 1], &old, b"x"] {
        std::fs::write(&path, wrong).unwrap();
        let report = second
            .volume
            .sync(Deletions::Guarded, &|_| {})
            .await
            .unwrap();
        assert!(
            report.left.iter().any(|left| left.contains("tags-")),
            "{:?}",
            report.left
        );
        assert_eq!(names(&second), ["v1"]);
    }
    std::fs::write(&path, &good).unwrap();
    second.sync().await;
    assert_eq!(names(&second), ["v1", "v2"]);
    // A store that shows less is stale.
    std::fs::remove_file(&path).unwrap();
    second.sync().await;
    assert_eq!(names(&second), ["v1", "v2"]);
    first.stop().await;
    second.stop().await;
}

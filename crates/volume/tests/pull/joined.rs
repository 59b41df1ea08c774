//! Two machines with one volume on one store: each goes on by itself, and both come to one tree.

use std::time::Duration;

use larder_store::testing::{Call, Counts, Fault, When};
use larder_volume::history::{What, Which};
use larder_volume::{Access, Deletions, Keep, Presence, ROOT, RenameMode, Settings, VolumeError};

use crate::support::{Replica, Shelf, bytes, settings, until};

/// Everything that a user sees of a tree: paths and what is in the files.
async fn tree(replica: &Replica) -> Vec<(String, Vec<u8>)> {
    let mut tree = Vec::new();
    let mut left = vec![(ROOT, String::new())];
    while let Some((directory, path)) = left.pop() {
        for entry in replica.volume.list_dir(directory).unwrap() {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            match entry.kind {
                larder_model::Kind::Directory => {
                    tree.push((path.clone(), b"directory".to_vec()));
                    left.push((entry.ino, path));
                }
                _ => {
                    let content = replica.read(entry.ino).await.unwrap();
                    tree.push((path, content));
                }
            }
        }
    }
    tree.sort();
    tree
}

fn paths(tree: &[(String, Vec<u8>)]) -> Vec<&str> {
    tree.iter().map(|(path, _)| path.as_str()).collect()
}

async fn two(shelf: &Shelf) -> (Replica, Replica) {
    let first = shelf.init(settings()).await;
    let d = first.mkdir(ROOT, "d");
    first.write(d, "a", b"one");
    first.write(ROOT, "large", &bytes(1, 3 << 20));
    first.commit().await;
    let second = shelf.open("second", settings()).await;
    (first, second)
}

/// Both know of each other's last commit after that.
async fn meet(first: &Replica, second: &Replica) {
    first.sync().await;
    second.sync().await;
    first.sync().await;
    assert_eq!(tree(first).await, tree(second).await);
    for replica in [first, second] {
        assert!(replica.volume.database_check().unwrap().is_empty());
        assert_eq!(replica.sync().await.commits, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_did_nothing_follows_the_other() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    let d = first.find("d");
    first.write(d, "b", b"two");
    first.write(d, "a", b"one, changed");
    let e = first.mkdir(ROOT, "e");
    first
        .volume
        .rename(ROOT, b"large", e, b"moved", RenameMode::Replace)
        .unwrap();
    first.commit().await;
    // Who has a file open keeps what he opened.
    let open = second.find("d/a");
    second.volume.open(open, Access::default()).unwrap();
    let report = second.sync().await;
    assert_eq!((report.commits, report.conflicts.len()), (1, 0));
    assert_eq!(tree(&second).await, tree(&first).await);
    let mut read = [0; 3];
    second.volume.read(open, 0, &mut read).unwrap();
    assert_eq!(&read, b"one");
    second.volume.close(open, Access::default()).unwrap();
    // It made no commit of its own for that, and goes on from there.
    let latest = |replica: &Replica| replica.volume.moment(&Which::Latest).unwrap().id;
    assert_eq!(latest(&first), latest(&second));
    second.write(ROOT, "third", b"3");
    meet(&first, &second).await;
    first.stop().await;
    let state = second.stop().await;
    let second = shelf.start(state, settings());
    assert!(second.volume.resolve(b"third").is_ok());
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_both_did_is_in_both() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    let (a, b) = (first.find("d"), second.find("d"));
    first.write(a, "from first", b"1");
    second.write(b, "from second", b"2");
    second.mkdir(b, "below");
    first
        .volume
        .rename(ROOT, b"d", ROOT, b"renamed", RenameMode::Replace)
        .unwrap();
    second.volume.unlink(ROOT, b"large").unwrap();
    first.commit().await;
    second.commit().await;
    meet(&first, &second).await;
    let tree = tree(&first).await;
    assert_eq!(
        paths(&tree),
        [
            "/renamed",
            "/renamed/a",
            "/renamed/below",
            "/renamed/from first",
            "/renamed/from second"
        ]
    );
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_of_a_file_stand_side_by_side() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    first.write(first.find("d"), "a", b"as the first has it");
    second.write(second.find("d"), "a", b"as the second has it");
    first.write(ROOT, "same name", b"1");
    second.write(ROOT, "same name", b"2");
    first.commit().await;
    second.commit().await;
    meet(&first, &second).await;
    let tree = tree(&second).await;
    let mut contents: Vec<_> = tree
        .iter()
        .filter(|(path, _)| !path.contains("large"))
        .map(|(_, content)| String::from_utf8_lossy(content).into_owned())
        .collect();
    contents.sort();
    assert_eq!(
        contents,
        [
            "1",
            "2",
            "as the first has it",
            "as the second has it",
            "directory"
        ]
    );
    assert_eq!(
        paths(&tree)
            .iter()
            .filter(|path| path.contains("(conflict, "))
            .count(),
        2
    );
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_beats_a_deletion_and_what_is_only_here_stays() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    let (a, b) = (first.find("d"), second.find("d"));
    // The second deletes what the first edits; a rule keeps a file on the second alone.
    first.write(a, "a", b"edited");
    second.volume.unlink(b, b"a").unwrap();
    second.write(ROOT, "mine.tmp", b"only here");
    first.write(ROOT, "mine.tmp", b"of the first alone");
    first.commit().await;
    second.commit().await;
    meet_but_local(&first, &second).await;
    assert_eq!(first.read(first.find("d/a")).await.unwrap(), b"edited");
    assert_eq!(
        second.read(second.find("mine.tmp")).await.unwrap(),
        b"only here"
    );
    // A directory that goes elsewhere stays where something lies in it that only this machine has.
    second.write(second.find("d"), "kept.tmp", b"local");
    first.volume.unlink(first.find("d"), b"a").unwrap();
    first.volume.rmdir(ROOT, b"d").unwrap();
    first.commit().await;
    second.sync().await;
    assert_eq!(
        second.read(second.find("d/kept.tmp")).await.unwrap(),
        b"local"
    );
    first.stop().await;
    second.stop().await;
}

/// Two made a directory of one name, which becomes one; in the one that goes lies what a rule keeps.
#[tokio::test(flavor = "multi_thread")]
async fn what_stays_of_a_merged_directory_takes_nothings_name() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    first.write(first.mkdir(ROOT, "both"), "of first", b"1");
    first.commit().await;
    // A commit later, so it is the younger one, which goes.
    let both = second.mkdir(ROOT, "both");
    second.write(both, "of second", b"2");
    second.write(both, "mine.tmp", b"local");
    second.commit().await;
    for _ in 0..2 {
        first.sync().await;
        second.sync().await;
    }
    for replica in [&first, &second] {
        for file in ["both/of first", "both/of second"] {
            assert!(replica.volume.resolve(file.as_bytes()).is_ok(), "{file}");
        }
    }
    let mine = second.find("both (only here)/mine.tmp");
    assert_eq!(second.read(mine).await.unwrap(), b"local");
    first.stop().await;
    second.stop().await;
}

/// An end in the midst of two commits: the later one includes the other, and once it is there no
/// commit is missing that a join would wait for.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_the_last_run_left_do_not_keep_joins_away() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    for n in 0..3 {
        second.write(ROOT, "mine", &[n]);
        second.commit().await;
    }
    let state = second.stop().await;
    let database = rusqlite::Connection::open(state.join("volume.db")).unwrap();
    let unnoted = database.execute(
        "UPDATE commits SET acked = 0 WHERE n > (SELECT max(n) FROM commits) - 2",
        [],
    );
    assert_eq!(unnoted.unwrap(), 2);
    drop(database);
    let second = shelf.start(state, settings());
    first.write(ROOT, "other", b"of the first");
    first.commit().await;
    assert_eq!(second.sync().await.commits, 1);
    first.stop().await;
    second.stop().await;
}

/// A commit that changed nothing, and stood beside another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_history_has_all_commits_of_both() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    first.write(ROOT, "more", b"of the first");
    first.commit().await;
    second.commit().await;
    let named = second.volume.moment(&Which::Latest).unwrap().id;
    second.sync().await;
    first.sync().await;
    first.commit().await;
    second.sync().await;
    for replica in [&first, &second] {
        let mut chain = replica.volume.chain().unwrap();
        assert!(chain.any(|moment| moment.unwrap().id == named));
    }
    first.stop().await;
    second.stop().await;
}

/// Where only the content of a file changed, the tree of names is the one of before.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_that_two_trees_share_stay() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    first.write(first.find("d"), "a", b"another");
    first.commit().await;
    second.sync().await;
    let state = second.stop().await;
    shelf.faulty.set(Fault::Cut, Call::Any, When::Always);
    let second = shelf.start(state, settings());
    let latest = second.volume.moment(&Which::Latest).unwrap();
    let past = second
        .volume
        .past_entries(&latest, larder_model::NodeId::ROOT);
    assert_eq!(past.unwrap().len(), 2);
    first.stop().await;
    second.stop().await;
}

async fn meet_but_local(first: &Replica, second: &Replica) {
    first.sync().await;
    second.sync().await;
    first.sync().await;
}

/// While programs write all the time.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_written_is_left_alone_until_it_is_stored() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    // Its number is higher, so its version is the one to keep the name.
    for n in 0..3 {
        first.write(ROOT, "other", &[n]);
        first.commit().await;
    }
    first.write(first.find("d"), "a", b"of the first");
    first.commit().await;
    let ino = second.find("d/a");
    let access = Access {
        write: true,
        ..Access::default()
    };
    second.volume.open(ino, access).unwrap();
    second.volume.write(ino, 0, b"of the second").unwrap();
    let report = second
        .volume
        .sync(Deletions::Guarded, &|_| {})
        .await
        .unwrap();
    // It was stored as it is, and may be written still.
    assert!(
        report.left.iter().any(|left| left.contains("d/a")),
        "{report:?}"
    );
    let mut read = [0; 13];
    second.volume.read(ino, 0, &mut read).unwrap();
    assert_eq!(&read, b"of the second");
    assert_eq!(second.find("d/a"), ino);
    second.volume.close(ino, access).unwrap();
    until(|| second.volume.push_status().waiting_files == 0).await;
    second.volume.open(ino, Access::default()).unwrap();
    meet(&first, &second).await;
    let tree = tree(&first).await;
    for content in [&b"of the first"[..], b"of the second"] {
        assert!(tree.iter().any(|(_, there)| there == content));
    }
    // Who comes by the old number is told to look again.
    let stale = second.volume.write(ino, 0, b"late");
    assert!(matches!(stale, Err(VolumeError::Stale)), "{stale:?}");
    second.volume.close(ino, Access::default()).unwrap();
    first.stop().await;
    second.stop().await;
}

/// Both have fifty files in `d`.
async fn store_many(first: &Replica, second: &Replica) {
    let d = first.find("d");
    for n in 0..50 {
        first.write(d, &format!("file {n}"), b"x");
    }
    first.commit().await;
    second.sync().await;
}

/// Deletes these files, and commits that.
async fn delete_many(replica: &Replica) {
    let d = replica.find("d");
    for n in 0..50 {
        let name = format!("file {n}");
        replica.volume.unlink(d, name.as_bytes()).unwrap();
    }
    replica.commit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_delete_much_waits_for_a_word() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    store_many(&first, &second).await;
    delete_many(&first).await;
    let report = second
        .volume
        .sync(Deletions::Guarded, &|_| {})
        .await
        .unwrap();
    assert_eq!((report.commits, report.left.len()), (0, 1));
    assert!(report.left[0].contains("would delete 50"), "{report:?}");
    assert!(second.volume.resolve(b"d/file 7").is_ok());
    let report = second
        .volume
        .sync(Deletions::Allowed, &|_| {})
        .await
        .unwrap();
    assert_eq!((report.commits, report.left.len()), (1, 0));
    assert_eq!(tree(&second).await, tree(&first).await);
    first.stop().await;
    second.stop().await;
}

/// Settings with which the store is asked all the time.
fn curious() -> Settings {
    Settings {
        commit_interval: Duration::from_millis(100),
        sync_interval: Some(Duration::from_millis(50)),
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_stored_comes_by_itself() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    let third = shelf.open("third", curious()).await;
    first.write(ROOT, "of the first", b"1");
    first.commit().await;
    until(|| third.volume.resolve(b"of the first").is_ok()).await;
    // Both change something: the one that looks makes one of it, and goes on.
    second.write(ROOT, "of the second", b"2");
    third.write(ROOT, "of the third", b"3");
    second.commit().await;
    until(|| third.volume.resolve(b"of the second").is_ok()).await;
    // What it makes of them is seen there before it is stored.
    for _ in 0..600 {
        first.sync().await;
        if first.volume.resolve(b"of the third").is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    second.sync().await;
    assert_eq!(tree(&first).await, tree(&third).await);
    // One that does not look is told.
    first.write(ROOT, "later", b"4");
    first.commit().await;
    assert!(second.volume.resolve(b"later").is_err());
    second.volume.others_changed();
    until(|| second.volume.resolve(b"later").is_ok()).await;
    for replica in [first, second, third] {
        assert!(replica.volume.database_check().unwrap().is_empty());
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_look_for_others_costs_a_listing_of_heads() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    second.sync().await;
    first.sync().await;
    let base = second.volume.moment(&Which::Latest).unwrap();
    let before = shelf.counts();
    for n in 1..=3 {
        second.volume.others_changed();
        until(|| shelf.counts().lists == before.lists + n).await;
    }
    let expected = Counts {
        lists: before.lists + 3,
        ..before
    };
    assert_eq!(shelf.counts(), expected);
    assert_eq!(second.volume.moment(&Which::Latest).unwrap(), base);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_delete_much_does_not_come_by_itself() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    store_many(&first, &second).await;
    let third = shelf.open("third", curious()).await;
    delete_many(&first).await;
    let warns = || {
        let warnings = third.volume.push_status().warnings;
        warnings
            .iter()
            .any(|words| words.contains("would delete 50"))
    };
    until(warns).await;
    assert!(third.volume.resolve(b"d/file 7").is_ok());
    // What another one did comes all the same, and the warning stays.
    second.write(ROOT, "of the second", b"2");
    second.commit().await;
    until(|| third.volume.resolve(b"of the second").is_ok()).await;
    assert!(third.volume.resolve(b"d/file 7").is_ok());
    until(warns).await;
    let report = third.volume.sync(Deletions::Allowed, &|_| {}).await;
    assert_eq!(report.unwrap().left, Vec::<String>::new());
    assert!(third.volume.resolve(b"d/file 7").is_err());
    assert!(!warns());
    for replica in [first, second, third] {
        replica.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_says_what_a_sync_would_do_and_does_nothing() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    let d = first.find("d");
    first.write(d, "a", b"as the first has it");
    first.write(d, "new", b"1");
    let rename = |replica: &Replica, from: &[u8], to: &[u8]| {
        let renamed = replica
            .volume
            .rename(ROOT, from, ROOT, to, RenameMode::Replace);
        renamed.unwrap();
    };
    rename(&first, b"d", b"e");
    first.volume.unlink(ROOT, b"large").unwrap();
    first.commit().await;
    second.write(second.find("d"), "a", b"as the second has it");
    second.commit().await;
    second.write(ROOT, "not committed", b"2");
    let (before, latest) = (tree(&second).await, second.volume.moment(&Which::Latest));
    let objects = shelf.objects();
    let preview = second.volume.preview().await.unwrap();
    let coming: Vec<_> = preview
        .coming
        .iter()
        .map(|one| (one.what, String::from_utf8_lossy(&one.path).into_owned()))
        .collect();
    let has = |what, path: &str| coming.iter().any(|one| *one == (what, path.to_owned()));
    assert!(
        has(What::Moved, "e") && has(What::Added, "e/new"),
        "{coming:?}"
    );
    assert!(has(What::Removed, "large"), "{coming:?}");
    assert_eq!(preview.conflicts.len(), 1);
    assert!(preview.conflicts[0].starts_with(b"e/a (conflict, "));
    assert_eq!(preview.going, [b"not committed".to_vec()]);
    assert_eq!(tree(&second).await, before);
    assert_eq!(
        second.volume.moment(&Which::Latest).unwrap(),
        latest.unwrap()
    );
    assert_eq!(shelf.objects(), objects);
    // It told the truth.
    second.sync().await;
    let now = tree(&second).await;
    let conflict = String::from_utf8(preview.conflicts[0].clone()).unwrap();
    for path in ["/e", "/e/new", &format!("/{conflict}")] {
        assert!(paths(&now).contains(&path), "{path}: {:?}", paths(&now));
    }
    first.stop().await;
    second.stop().await;
}

/// Two machines that have written `d/a`, `d/a.txt` and `d/b` differently.
async fn in_conflict(shelf: &Shelf) -> (Replica, Replica) {
    let (first, second) = two(shelf).await;
    for name in ["a", "a.txt", "b"] {
        first.write(first.find("d"), name, b"of the first");
        second.write(second.find("d"), name, b"of the second");
    }
    first.commit().await;
    second.commit().await;
    meet(&first, &second).await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_are_listed_everywhere_and_end_as_the_user_says() {
    let shelf = Shelf::new();
    let (first, second) = in_conflict(&shelf).await;
    let conflicts = first.volume.conflicts().unwrap();
    assert_eq!(conflicts, second.volume.conflicts().unwrap());
    assert_eq!(second.volume.count_conflicts().unwrap(), 3);
    let all: Vec<_> = conflicts.iter().map(|one| &one.path[..]).collect();
    assert_eq!(all, [&b"d/a"[..], b"d/a.txt", b"d/b"]);
    for conflict in &conflicts {
        assert_eq!(conflict.versions.len(), 2);
        assert_eq!(conflict.versions[0].path, conflict.path);
        assert!(conflict.versions[0].mark.is_none() && conflict.versions[1].mark.is_some());
    }
    let content = |path: &[u8]| {
        let ino = first.volume.resolve(path).unwrap();
        let replica = &first;
        async move { replica.read(ino).await.unwrap() }
    };
    let (a, text, b) = (&conflicts[0], &conflicts[1], &conflicts[2]);
    let keep = |path: &[u8], keep| {
        let (volume, path) = (std::sync::Arc::clone(&first.volume), path.to_vec());
        async move { volume.resolve_conflict(&path, keep, &|_| {}).await }
    };
    // The one that has the name stays.
    let kept = content(b"d/a").await;
    let resolved = keep(b"d/a", Keep::One(0)).await.unwrap();
    assert_eq!(resolved.removed, [a.versions[1].path.clone()]);
    assert_eq!(content(b"d/a").await, kept);
    // The other one takes the name; named by its own path.
    let copy = &text.versions[1].path;
    let kept = content(copy).await;
    let resolved = keep(copy, Keep::One(1)).await.unwrap();
    assert_eq!(resolved.removed, [b"d/a.txt".to_vec()]);
    assert_eq!(content(b"d/a.txt").await, kept);
    assert!(first.volume.resolve(copy).is_err());
    // Both stay.
    let kept = content(&b.versions[1].path).await;
    let resolved = keep(b"d/b", Keep::All).await.unwrap();
    assert_eq!(resolved.kept[0], b"d/b");
    assert_eq!(content(&resolved.kept[1]).await, kept);
    assert_eq!(first.volume.conflicts().unwrap(), []);
    // It is over on the other machine too, and what went can be brought back.
    meet(&first, &second).await;
    assert_eq!(second.volume.count_conflicts().unwrap(), 0);
    assert_eq!(tree(&first).await, tree(&second).await);
    let gone = &a.versions[1].path;
    let moment = second.volume.moment_of_deleted(gone).unwrap();
    let restore = second
        .volume
        .restore(moment, gone.clone(), gone.clone(), &|_| {});
    restore.await.unwrap();
    assert_eq!(second.volume.count_conflicts().unwrap(), 1);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_resolved_stays_as_it_is() {
    let shelf = Shelf::new();
    let (first, second) = in_conflict(&shelf).await;
    let resolve = |path: &[u8], keep| {
        let (volume, path) = (std::sync::Arc::clone(&first.volume), path.to_vec());
        async move {
            let resolved = volume.resolve_conflict(&path, keep, &|_| {}).await;
            resolved.unwrap_err().to_string()
        }
    };
    let before = tree(&first).await;
    assert!(
        resolve(b"large", Keep::One(0))
            .await
            .contains("not in conflict")
    );
    assert!(resolve(b"d/a", Keep::One(2)).await.contains("2 versions"));
    assert!(resolve(b"none/a", Keep::All).await.contains("no such file"));
    // A program has it open to write.
    let ino = first.find("d/a");
    let access = Access {
        write: true,
        ..Access::default()
    };
    first.volume.open(ino, access).unwrap();
    let words = resolve(b"d/a", Keep::One(1)).await;
    assert!(
        words.contains("d/a stays") && words.contains("open"),
        "{words}"
    );
    first.volume.close(ino, access).unwrap();
    assert_eq!(tree(&first).await, before);
    assert_eq!(first.volume.count_conflicts().unwrap(), 3);
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_into_a_pinned_directory_comes_with_its_content() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf).await;
    second.volume.pin(&[second.find("d")]).unwrap();
    let is_here = |path: &str| {
        let ino = second.volume.resolve(path.as_bytes());
        ino.is_ok_and(|ino| second.volume.entry(ino).unwrap().presence == Presence::Here)
    };
    until(|| is_here("d/a")).await;
    let below = first.mkdir(first.find("d"), "below");
    first.write(below, "new", &bytes(2, 300_000));
    first.write(first.find("d"), "a", b"changed");
    first.write(ROOT, "elsewhere", &bytes(3, 300_000));
    first.commit().await;
    second.sync().await;
    until(|| is_here("d/below/new") && is_here("d/a")).await;
    assert!(!is_here("elsewhere"));
    first.stop().await;
    second.stop().await;
}

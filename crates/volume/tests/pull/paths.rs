//! Commits of some paths: what else changed waits, and every commit is a tree in order.

use larder_volume::history::{Moment, What, Which};
use larder_volume::{CommitReport, Ino, ROOT, RenameMode};

use crate::support::{Replica, Shelf, bytes, settings};

fn latest(replica: &Replica) -> Moment {
    replica.volume.moment(&Which::Latest).unwrap()
}

async fn commit(replica: &Replica, paths: &[&str]) -> larder_volume::Result<CommitReport> {
    let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
    let message = Some("some".to_owned());
    replica.volume.commit_paths(message, paths, &|_| {}).await
}

/// What the latest commit changed.
fn changes(replica: &Replica) -> Vec<(What, String)> {
    let moment = latest(replica);
    let before = replica.volume.before(&moment).unwrap();
    let changes = replica
        .volume
        .differences(before.as_ref(), &moment, b"")
        .unwrap();
    changes
        .into_iter()
        .map(|change| (change.what, String::from_utf8(change.path).unwrap()))
        .collect()
}

fn owned(changes: &[(What, &str)]) -> Vec<(What, String)> {
    let owned = |&(what, path): &(What, &str)| (what, path.to_owned());
    changes.iter().map(owned).collect()
}

fn rename(replica: &Replica, from: Ino, old: &str, to: Ino, new: &str) {
    let (old, new) = (old.as_bytes(), new.as_bytes());
    let renamed = replica
        .volume
        .rename(from, old, to, new, RenameMode::Replace);
    renamed.unwrap();
}

/// Automatic commits do not come in between.
fn by_hand() -> larder_volume::Settings {
    larder_volume::Settings {
        commit_interval: std::time::Duration::from_secs(1 << 20),
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_some_paths_has_their_changes_and_no_others() {
    let shelf = Shelf::new();
    let first = shelf.init(by_hand()).await;
    let (a, b) = (first.mkdir(ROOT, "a"), first.mkdir(ROOT, "b"));
    for (directory, name) in [(a, "x"), (a, "gone"), (a, "out"), (b, "y"), (b, "gone")] {
        first.write(directory, name, b"as it was");
    }
    first.commit().await;
    first.write(a, "x", b"changed");
    first.write(b, "y", b"changed, too");
    for directory in [a, b] {
        first.volume.unlink(directory, b"gone").unwrap();
    }
    rename(&first, a, "out", b, "in");
    let new = first.mkdir(b, "new");
    let deep = first.mkdir(new, "deep");
    first.write(deep, "below", b"1");
    first.write(deep, "beside", b"2");
    commit(&first, &["a", "b/new/deep/below"]).await.unwrap();
    assert_eq!(latest(&first).commit.message.as_deref(), Some("some"));
    let mut some = changes(&first);
    some.retain(|(what, _)| *what != What::Attributes);
    assert_eq!(
        some,
        owned(&[
            (What::Removed, "a/gone"),
            (What::Content, "a/x"),
            (What::Moved, "b/in"),
            (What::Added, "b/new"),
            (What::Added, "b/new/deep"),
            (What::Added, "b/new/deep/below"),
        ])
    );
    first.commit().await;
    let mut rest = changes(&first);
    rest.retain(|(what, _)| *what != What::Attributes);
    assert_eq!(
        rest,
        owned(&[
            (What::Removed, "b/gone"),
            (What::Added, "b/new/deep/beside"),
            (What::Content, "b/y"),
        ])
    );
    // A path of what is deleted names it, too; one that never led anywhere is a mistake.
    first.volume.unlink(b, b"y").unwrap();
    commit(&first, &["b/y"]).await.unwrap();
    assert_eq!(changes(&first)[0], (What::Removed, "b/y".to_owned()));
    let refused = commit(&first, &["b/y"]).await.unwrap_err();
    assert!(refused.to_string().contains("there is no b/y"), "{refused}");
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_go_along_with_a_path_goes_along() {
    let shelf = Shelf::new();
    let first = shelf.init(by_hand()).await;
    let a = first.mkdir(ROOT, "a");
    let b = first.mkdir(a, "b");
    first.write(b, "file", b"1");
    first.write(ROOT, "one", b"one");
    first.write(ROOT, "two", b"two");
    first.commit().await;
    let second = shelf.open("second", by_hand()).await;
    // Two directories change places: one of the two moves alone would be a circle.
    rename(&first, a, "b", ROOT, "b");
    rename(&first, ROOT, "a", b, "a");
    // Two files change names.
    rename(&first, ROOT, "one", ROOT, "three");
    rename(&first, ROOT, "two", ROOT, "one");
    rename(&first, ROOT, "three", ROOT, "two");
    for path in ["b/a", "one"] {
        commit(&first, &[path]).await.unwrap();
        second.sync().await;
        // Nothing was to be repaired there.
        assert_eq!(latest(&second).id, latest(&first).id, "{path}");
    }
    assert!(second.volume.resolve(b"b/a").is_ok());
    assert_eq!(second.read(second.find("one")).await.unwrap(), b"two");
    assert_eq!(second.read(second.find("two")).await.unwrap(), b"one");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_left_behind_is_no_loss_when_others_change_it_too() {
    let shelf = Shelf::new();
    let first = shelf.init(by_hand()).await;
    first.write(ROOT, "mine", b"1");
    first.write(ROOT, "both", b"2");
    first.commit().await;
    let second = shelf.open("second", by_hand()).await;
    first.write(ROOT, "mine", b"1, changed");
    first.write(ROOT, "both", b"by the first");
    second.write(ROOT, "both", b"by the second");
    commit(&first, &["mine"]).await.unwrap();
    // The second one includes the first one's clock now, and has none of what waits there.
    second.sync().await;
    first.sync().await;
    second.sync().await;
    for replica in [&first, &second] {
        let mut found = Vec::new();
        for entry in replica.volume.list_dir(ROOT).unwrap() {
            found.push(replica.read(entry.ino).await.unwrap());
        }
        found.sort();
        let all: [&[u8]; 3] = [b"1, changed", b"by the first", b"by the second"];
        assert_eq!(found, all);
    }
    first.stop().await;
    second.stop().await;
}

/// Small numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end.max(1)
    }
}

fn tree(replica: &Replica) -> Vec<(String, Ino, Ino, bool)> {
    let (mut tree, mut left) = (Vec::new(), vec![(ROOT, String::new())]);
    while let Some((directory, path)) = left.pop() {
        for entry in replica.volume.list_dir(directory).unwrap() {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            let is_directory = entry.kind == larder_model::Kind::Directory;
            if is_directory {
                left.push((entry.ino, path.clone()));
            }
            tree.push((path, directory, entry.ino, is_directory));
        }
    }
    tree.sort();
    tree
}

fn change(replica: &Replica, dice: &mut Dice) {
    let tree = tree(replica);
    let mut directories = vec![ROOT];
    directories.extend(tree.iter().filter(|node| node.3).map(|node| node.2));
    let directory = directories[dice.below(directories.len())];
    let name = ["a", "b", "c"][dice.below(3)];
    let node = (!tree.is_empty()).then(|| &tree[dice.below(tree.len())]);
    match (dice.below(8), node) {
        (0 | 1, _) => {
            let is_taken = replica.volume.lookup(directory, name.as_bytes()).unwrap();
            if is_taken.is_none() {
                replica.mkdir(directory, name);
            }
        }
        (2, _) => {
            let is_taken = replica.volume.lookup(directory, name.as_bytes()).unwrap();
            if is_taken.is_none() {
                replica.write(directory, name, &bytes(dice.0, 10));
            }
        }
        (3, Some((path, parent, _, is_directory))) => {
            let name = path.rsplit('/').next().unwrap().as_bytes();
            // One that is not empty stays.
            let _ = match is_directory {
                true => replica.volume.rmdir(*parent, name),
                false => replica.volume.unlink(*parent, name),
            };
        }
        (_, Some((path, parent, ..))) => {
            let old = path.rsplit('/').next().unwrap().as_bytes();
            let mode = [RenameMode::Replace, RenameMode::Exchange][dice.below(2)];
            // Into itself, or over what is not empty: it stays.
            let _ = replica
                .volume
                .rename(*parent, old, directory, name.as_bytes(), mode);
        }
        (_, None) => {}
    }
}

/// Whoever follows such commits never finds anything to repair.
#[tokio::test(flavor = "multi_thread")]
async fn each_commit_of_some_paths_is_a_tree_in_order() {
    let seeds: u64 = std::env::var("LARDER_SEEDS").map_or(12, |n| n.parse().unwrap());
    for seed in 1..=seeds {
        let mut dice = Dice(seed * 0x9e37_79b9);
        let shelf = Shelf::new();
        let first = shelf.init(by_hand()).await;
        first.mkdir(ROOT, "a");
        first.commit().await;
        let second = shelf.open("second", by_hand()).await;
        for _ in 0..6 {
            for _ in 0..10 {
                change(&first, &mut dice);
            }
            let tree = tree(&first);
            let path = match tree.is_empty() {
                true => String::new(),
                false => tree[dice.below(tree.len())].0.clone(),
            };
            commit(&first, &[&path]).await.unwrap();
            second.sync().await;
            assert_eq!(latest(&second).id, latest(&first).id, "seed {seed}: {path}");
            assert!(second.volume.database_check().unwrap().is_empty());
        }
        first.commit().await;
        second.sync().await;
        let paths = |replica| -> Vec<String> {
            let tree = tree(replica).into_iter();
            tree.map(|(path, ..)| path).collect()
        };
        assert_eq!(paths(&first), paths(&second), "seed {seed}");
        first.stop().await;
        second.stop().await;
    }
}

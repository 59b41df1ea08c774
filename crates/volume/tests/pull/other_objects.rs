//! Objects that are whole and rightly sealed, and yet not the ones that were asked for: those
//! of another volume, and old ones under new names.

use std::fs;
use std::path::{Path, PathBuf};

use larder_store::testing::{Call, Fault, When};
use larder_volume::{Credential, Deletions, ROOT, VolumeError};

use crate::support::{PASSPHRASE, Replica, Shelf, bytes, settings};

const KINDS: [&str; 4] = ["packs", "trees", "index", "heads"];

/// Another machine that opens the volume; and what it is told.
async fn opened(shelf: &Shelf, name: &str) -> Result<(Replica, Vec<String>), VolumeError> {
    let state = shelf.state(name);
    let credential = Credential::Passphrase(PASSPHRASE.to_owned());
    let store = shelf.store();
    let opened = larder_volume::open(&state, store, credential, None, settings(), &|_| {}).await?;
    Ok((shelf.start(state, settings()), opened.warnings))
}

fn names(replica: &Replica) -> Vec<String> {
    let listed = replica.volume.list_dir(ROOT).unwrap();
    let names = listed
        .iter()
        .map(|entry| String::from_utf8_lossy(&entry.name).into_owned());
    names.collect()
}

fn keep(objects: &[PathBuf]) -> Vec<(PathBuf, Vec<u8>)> {
    objects
        .iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

fn put_back(kept: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in kept {
        fs::write(path, bytes).unwrap();
    }
}

fn words_of(error: &VolumeError) -> String {
    let words = error.to_string();
    assert!(words.len() > 20, "{words}");
    words
}

/// A volume with one file, whose content is on the store only.
async fn volume_with(shelf: &Shelf, name: &str, content: &[u8]) {
    let first = shelf.init(settings()).await;
    first.write(ROOT, name, content);
    first.commit().await;
    first.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_another_volume_are_errors_and_never_content() {
    let (mine, other) = (Shelf::new(), Shelf::new());
    let content = bytes(1, 300_000);
    volume_with(&mine, "mine", &content).await;
    volume_with(&other, "other", &bytes(2, 300_000)).await;
    for kind in KINDS {
        let (here, there) = (mine.objects_in(kind), other.objects_in(kind));
        assert!(!here.is_empty() && !there.is_empty(), "{kind}");
        let kept = keep(&here);
        let known = mine.open(&format!("knows {kind}"), settings()).await;
        for (n, path) in here.iter().enumerate() {
            fs::copy(&there[n % there.len()], path).unwrap();
        }
        // Who has the tree gets the bytes or an error.
        let read = known.read(known.find("mine")).await;
        assert!(
            read.as_ref().map_or(true, |read| *read == content),
            "{kind}"
        );
        assert!(read.is_err() || kind != "packs");
        known.stop().await;
        // Who opens it is told why not, or gets this volume's tree.
        match opened(&mine, &format!("opens {kind}")).await {
            Ok((replica, _)) => {
                assert!(!names(&replica).contains(&"other".to_owned()), "{kind}");
                replica.stop().await;
            }
            Err(error) => drop(words_of(&error)),
        }
        put_back(&kept);
        let mended = mine.open(&format!("mended {kind}"), settings()).await;
        assert!(
            mended.read(mended.find("mine")).await.unwrap() == content,
            "{kind}"
        );
        mended.stop().await;
    }
}

/// Two commits, and the objects as they were after the first.
async fn two_commits(shelf: &Shelf) -> (PathBuf, Vec<(PathBuf, Vec<u8>)>) {
    let first = shelf.init(settings()).await;
    first.write(ROOT, "old", &bytes(1, 100_000));
    first.commit().await;
    let kept = keep(&shelf.objects());
    first.write(ROOT, "new", &bytes(2, 100_000));
    first.commit().await;
    (first.stop().await, kept)
}

/// A head says its own number, and is not believed under another's name.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_head_under_a_new_name_is_not_believed() {
    let shelf = Shelf::new();
    let (state, kept) = two_commits(&shelf).await;
    let is_head = |path: &Path| path.components().any(|part| part.as_os_str() == "heads");
    let old = kept.iter().rfind(|(path, _)| is_head(path)).unwrap();
    let heads = shelf.objects_in("heads");
    let newest = heads.last().unwrap();
    let right = fs::read(newest).unwrap();
    assert_ne!(&old.0, newest);
    fs::write(newest, &old.1).unwrap();
    // The commit before it is what can be had, and it is said that there was another.
    match opened(&shelf, "opens").await {
        Ok((replica, warnings)) => {
            assert_eq!(names(&replica), ["old"]);
            assert!(!warnings.is_empty());
            replica.stop().await;
        }
        Err(error) => drop(words_of(&error)),
    }
    // Its maker tells of it, has everything, and goes on.
    let first = shelf.start(state, settings());
    first.write(ROOT, "third", &bytes(3, 100_000));
    first.commit().await;
    let warnings = first.volume.status().unwrap().warnings.join(" ");
    assert!(warnings.contains("is damaged"), "{warnings}");
    assert_eq!(names(&first), ["new", "old", "third"]);
    first.stop().await;
    fs::write(newest, right).unwrap();
    let after = shelf.open("after", settings()).await;
    assert_eq!(names(&after), ["new", "old", "third"]);
    after.stop().await;
}

/// A store that was put back to what it held before: nobody else can tell, but who made the
/// commits that are gone does.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_replays_what_it_held_before_is_told_of_and_takes_nothing_away() {
    let shelf = Shelf::new();
    let (state, kept) = two_commits(&shelf).await;
    for path in shelf.objects() {
        fs::remove_file(path).unwrap();
    }
    put_back(&kept);
    let (fresh, _) = opened(&shelf, "fresh").await.unwrap();
    assert_eq!(names(&fresh), ["old"]);
    assert!(fresh.read(fresh.find("old")).await.unwrap() == bytes(1, 100_000));
    fresh.stop().await;

    let first = shelf.start(state, settings());
    crate::support::until(|| {
        let warnings = first.volume.status().unwrap().warnings.join(" ");
        warnings.contains("may have lost objects") && warnings.contains("larder verify --stores")
    })
    .await;
    assert!(first.read(first.find("new")).await.unwrap() == bytes(2, 100_000));
    // The next commit has a number of its own, and what it needs is named by a check.
    first.write(ROOT, "third", &bytes(3, 100_000));
    first.commit().await;
    assert!(first.read(first.find("new")).await.unwrap() == bytes(2, 100_000));
    first.stop().await;
}

/// What a list does not show yet may be missed, and never takes anything away.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_hides_objects_hides_at_most_the_newest_commit() {
    let shelf = Shelf::new();
    let (state, _) = two_commits(&shelf).await;
    let whens = (0..6).map(When::Once).chain([When::Always]);
    let mut hid_the_newest = false;
    for (n, when) in whens.enumerate() {
        shelf.faulty.set(Fault::Missing, Call::List, when);
        match opened(&shelf, &format!("opens {n}")).await {
            Ok((replica, _)) => {
                let names = names(&replica);
                hid_the_newest |= names == ["old"];
                assert!(
                    names == ["old"] || names == ["new", "old"],
                    "{n}: {names:?}"
                );
                let mut read = Vec::new();
                for (seed, name) in [(1, "old"), (2, "new")] {
                    if names.iter().any(|there| there == name) {
                        read.push((name, replica.read(replica.find(name)).await, seed));
                    }
                }
                // Where a pack and the index that tells of it were hidden, that is said.
                for (name, read, seed) in read {
                    match read {
                        Ok(read) => assert!(read == bytes(seed, 100_000), "{n}: {name}"),
                        Err(error) => drop(words_of(&error)),
                    }
                }
                // It is known after the next look.
                shelf.faulty.clear();
                replica
                    .volume
                    .sync(Deletions::Guarded, &|_| {})
                    .await
                    .unwrap();
                for (seed, name) in [(1, "old"), (2, "new")] {
                    let read = replica.read(replica.find(name)).await.unwrap();
                    assert!(read == bytes(seed, 100_000), "{n}: {name}");
                }
                replica.stop().await;
            }
            Err(error) => drop(words_of(&error)),
        }
        shelf.faulty.clear();
    }
    assert!(hid_the_newest);
    // Who made the newest one counts nothing as lost that it can have, and goes on.
    shelf.faulty.set(Fault::Missing, Call::List, When::Always);
    let first = shelf.start(state, settings());
    first.write(ROOT, "third", &bytes(3, 100_000));
    first.commit().await;
    first.stop().await;
    shelf.faulty.clear();
    let after = shelf.open("after", settings()).await;
    assert_eq!(names(&after), ["new", "old", "third"]);
    for (seed, name) in [(1, "old"), (2, "new"), (3, "third")] {
        let read = after.read(after.find(name)).await.unwrap();
        assert!(read == bytes(seed, 100_000), "{name}");
    }
    after.stop().await;
}

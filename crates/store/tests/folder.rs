//! The store in a folder.
// What a test sets up fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use larder_store::testing::{SmallDisk, noise};
use larder_store::{ErrorKind, Key, Store, StoreOptions, open};
use tempfile::TempDir;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn folder() -> (TempDir, Arc<dyn Store>) {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path().to_str().unwrap(), &StoreOptions::default()).unwrap();
    (directory, store)
}

mod conforms {
    larder_store::conformance!(super::folder());
}

#[tokio::test]
async fn a_missing_folder_is_an_error_and_never_an_empty_store() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("disk");
    let store = open(root.to_str().unwrap(), &StoreOptions::default()).unwrap();
    assert_eq!(
        store.get(&key("volume")).await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    assert!(store.stat(&key("volume")).await.is_err());
    assert!(store.get_range(&key("volume"), 0..1).await.is_err());
    assert!(store.list("").await.is_err());
    assert!(store.delete(&key("volume")).await.is_err());
    let error = store
        .put(&key("volume"), Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert!(error.message.contains("mounted"), "{error}");
    let named = error.to_string().matches(root.to_str().unwrap()).count();
    assert_eq!(named, 1, "{error}");
    assert!(
        !root.exists(),
        "a put must not make the folder of a disk that is not mounted"
    );
}

#[tokio::test]
async fn with_create_the_folder_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("new/disk");
    let options = StoreOptions {
        create: true,
        ..StoreOptions::default()
    };
    let store = open(root.to_str().unwrap(), &options).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
    store
        .put(&key("volume"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert_eq!(fs::read(root.join("volume")).unwrap(), b"x");
}

#[cfg(unix)]
#[tokio::test]
async fn links_and_pipes_in_the_place_of_objects_are_errors_and_not_followed() {
    let (directory, store) = folder();
    let secret = directory.path().join("../secret-of-the-user");
    std::os::unix::fs::symlink(&secret, directory.path().join("volume")).unwrap();
    for error in [
        store.get(&key("volume")).await.unwrap_err(),
        store.get_range(&key("volume"), 0..1).await.unwrap_err(),
        store.stat(&key("volume")).await.map(drop).unwrap_err(),
        store.list("").await.map(drop).unwrap_err(),
        store.delete(&key("volume")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }
    // A put replaces the link itself and writes nothing through it.
    store
        .put(&key("volume"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert!(!secret.exists());
    assert_eq!(store.get(&key("volume")).await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn names_that_are_no_keys_are_not_listed() {
    let (directory, store) = folder();
    fs::create_dir(directory.path().join("Photos")).unwrap();
    for name in ["Photos/a", "README.txt", ".hidden", "a b"] {
        fs::write(directory.path().join(name), "x").unwrap();
    }
    store
        .put(&key("heads/1"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    let listed = store.list("").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].key, key("heads/1"));
}

#[tokio::test]
async fn stale_puts_are_cleaned_and_fresh_or_foreign_files_are_not() {
    let (directory, store) = folder();
    let waiting = directory.path().join(".tmp");
    fs::create_dir(&waiting).unwrap();
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 60 * 60);
    let stale = waiting.join("put-00000000000000000000000000000001");
    let fresh = waiting.join("put-00000000000000000000000000000002");
    let foreign = waiting.join("notes");
    for (path, is_old) in [(&stale, true), (&fresh, false), (&foreign, true)] {
        let file = fs::File::create(path).unwrap();
        if is_old {
            file.set_modified(old).unwrap();
        }
    }
    store
        .put(&key("volume"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert!(!stale.exists());
    assert!(fresh.exists(), "another process may be writing it now");
    assert!(foreign.exists());
}

#[tokio::test]
async fn something_else_in_the_place_of_a_directory_is_said() {
    let (directory, store) = folder();
    fs::write(directory.path().join("packs"), "a file").unwrap();
    let error = store
        .put(&key("packs/aa/x"), Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert!(error.message.contains("packs"), "{error}");
    assert_eq!(store.get(&key("packs/aa/x")).await.unwrap(), None);
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full_and_keeps_what_it_has() {
    let (directory, store) = folder();
    let Some(_disk) = SmallDisk::mount(directory.path(), 1 << 20) else {
        return;
    };
    store.put(&key("small"), noise(1, 10_000)).await.unwrap();
    let error = store
        .put(&key("packs/aa/large"), noise(2, 4 << 20))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full, "{error}");
    assert!(!error.is_passing());
    assert_eq!(store.get(&key("packs/aa/large")).await.unwrap(), None);
    assert_eq!(
        store.get(&key("small")).await.unwrap(),
        Some(noise(1, 10_000))
    );
    // Nothing of the large one takes room: what fits is taken.
    store.put(&key("middle"), noise(3, 600_000)).await.unwrap();
}

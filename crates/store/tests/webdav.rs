//! The store on a WebDAV server.
// What a test sets up fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::sync::Arc;

use bytes::Bytes;
use larder_store::testing::{DavServer, SmallDisk, Wire, noise};
use larder_store::{Durability, ErrorKind, Key, Store, StoreOptions, open};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn server() -> (DavServer, Arc<dyn Store>) {
    let server = DavServer::start();
    let store = open(&server.address("larder"), &server.options()).unwrap();
    (server, store)
}

fn server_like_rclone() -> (DavServer, Arc<dyn Store>) {
    let server = DavServer::start_like_rclone();
    let store = open(&server.address("larder"), &server.options()).unwrap();
    (server, store)
}

mod conforms {
    larder_store::conformance!(super::server());
}

mod conforms_like_rclone {
    larder_store::conformance!(super::server_like_rclone());
}

#[tokio::test]
async fn a_put_here_is_accepted_only() {
    let (_server, store) = server();
    assert_eq!(store.durability(), Durability::Accepted);
}

#[tokio::test]
async fn a_missing_root_is_an_error_and_never_an_empty_store() {
    let server = DavServer::start();
    let options = StoreOptions {
        create: false,
        ..server.options()
    };
    let store = open(&server.address("disk"), &options).unwrap();
    assert!(store.get(&key("volume")).await.is_err());
    assert!(store.get_range(&key("volume"), 0..1).await.is_err());
    assert!(store.stat(&key("volume")).await.is_err());
    assert!(store.list("").await.is_err());
    assert!(store.delete(&key("volume")).await.is_err());
    let error = store
        .put(&key("volume"), Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert!(error.message.contains("mounted"), "{error}");
    assert!(!server.files().join("disk").exists());
}

#[tokio::test]
async fn a_wrong_password_is_refused_in_words() {
    let server = DavServer::start();
    let mut options = server.options();
    options.webdav.password = Some("wrong".to_owned());
    let store = open(&server.address("larder"), &options).unwrap();
    for error in [
        store.list("").await.map(drop).unwrap_err(),
        store.get(&key("volume")).await.map(drop).unwrap_err(),
        store
            .put(&key("volume"), Bytes::from_static(b"x"))
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    }
}

#[tokio::test]
async fn a_put_that_is_cut_leaves_nothing_listed_or_readable() {
    let server = DavServer::start();
    let wire = Wire::to(server.socket());
    let store = open(
        &server.address_by(wire.socket(), "larder"),
        &server.options(),
    )
    .unwrap();
    store
        .put(&key("first"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    wire.cut_after(2 << 20);
    let error = store
        .put(&key("packs/aa/x"), noise(1, 8 << 20))
        .await
        .unwrap_err();
    assert!(error.is_passing(), "{error}");
    assert_eq!(store.get(&key("packs/aa/x")).await.unwrap(), None);
    assert_eq!(store.list("").await.unwrap().len(), 1);
    store
        .put(&key("packs/aa/x"), noise(1, 8 << 20))
        .await
        .unwrap();
    assert_eq!(
        store.get(&key("packs/aa/x")).await.unwrap(),
        Some(noise(1, 8 << 20))
    );
}

#[tokio::test]
async fn stale_puts_are_cleaned_and_fresh_or_foreign_files_are_not() {
    let (server, store) = server();
    let waiting = server.files().join("larder/.tmp");
    fs::create_dir_all(&waiting).unwrap();
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
async fn a_full_disk_is_said_to_be_full_and_keeps_what_it_has() {
    let (server, store) = server();
    let place = server.files().join("larder");
    fs::create_dir(&place).unwrap();
    let Some(_disk) = SmallDisk::mount(&place, 1 << 20) else {
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

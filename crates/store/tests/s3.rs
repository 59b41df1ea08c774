//! The store on an S3 service.
// What a test sets up fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use bytes::Bytes;
use larder_store::testing::{S3Server, Wire, noise};
use larder_store::{Durability, ErrorKind, Key, Store, open};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn service() -> (S3Server, Arc<dyn Store>) {
    let server = S3Server::start();
    let store = open(&server.address("some/prefix"), &server.options()).unwrap();
    (server, store)
}

mod conforms {
    larder_store::conformance!(super::service());
}

#[tokio::test]
async fn objects_lie_below_the_prefix_and_are_durable() {
    let (server, store) = service();
    store
        .put(&key("heads/1"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert!(server.files().join("some/prefix/heads/1").exists());
    assert_eq!(store.durability(), Durability::Synced);
    let other = open(&server.address("some/other"), &server.options()).unwrap();
    assert_eq!(other.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_bucket_is_an_error_and_never_an_empty_store() {
    let server = S3Server::start();
    let address = server.address("x").replace("larder-test", "no-such-bucket");
    let store = open(&address, &server.options()).unwrap();
    assert!(store.get(&key("volume")).await.is_err());
    assert!(store.get_range(&key("volume"), 0..1).await.is_err());
    assert!(store.stat(&key("volume")).await.is_err());
    assert!(store.list("").await.is_err());
}

#[tokio::test]
async fn wrong_credentials_are_refused_in_words() {
    let server = S3Server::start();
    let mut options = server.options();
    options.s3.secret_access_key = Some("wrong".to_owned());
    let store = open(&server.address("x"), &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.message.contains("credentials"), "{error}");
}

#[tokio::test]
async fn a_service_that_is_away_is_said_to_be() {
    let (server, store) = service();
    drop(server);
    let error = store.get(&key("volume")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_put_that_is_cut_leaves_nothing() {
    let server = S3Server::start();
    let wire = Wire::to(server.socket());
    let store = open(&server.address_by(wire.socket(), "x"), &server.options()).unwrap();
    wire.cut_after(2 << 20);
    let error = store
        .put(&key("packs/aa/x"), noise(1, 8 << 20))
        .await
        .unwrap_err();
    assert!(error.is_passing(), "{error}");
    assert_eq!(store.get(&key("packs/aa/x")).await.unwrap(), None);
    assert_eq!(store.list("").await.unwrap(), []);
    store
        .put(&key("packs/aa/x"), noise(1, 8 << 20))
        .await
        .unwrap();
    assert_eq!(
        store.get(&key("packs/aa/x")).await.unwrap(),
        Some(noise(1, 8 << 20))
    );
}

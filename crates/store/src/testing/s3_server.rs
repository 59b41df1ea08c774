//! An S3 service on a directory.

use std::path::{Path, PathBuf};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tempfile::TempDir;

use super::serving::Serving;
use crate::StoreOptions;

const KEY_ID: &str = "tester";
const SECRET: &str = "a secret of no worth";
const BUCKET: &str = "larder-test";

/// An S3 service with one bucket, `larder-test`.
#[derive(Debug)]
pub struct S3Server {
    serving: Serving,
    directory: TempDir,
}

impl S3Server {
    /// Starts one.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("a bucket");
        let files = s3s_fs::FileSystem::new(directory.path()).expect("a file system");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY_ID, SECRET));
        let service = builder.build();
        let serving = Serving::start(move |stream| {
            let service = service.clone();
            async move {
                let _ = http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            }
        });
        Self { serving, directory }
    }

    /// Where it listens.
    pub fn socket(&self) -> std::net::SocketAddr {
        self.serving.address()
    }

    /// The address of the store at `prefix`.
    pub fn address(&self, prefix: &str) -> String {
        self.address_by(self.socket(), prefix)
    }

    /// The same, but reached through `socket`, a [`Wire`](super::Wire) perhaps.
    pub fn address_by(&self, socket: std::net::SocketAddr, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint=http://{socket}")
    }

    /// Options with the credentials that it takes.
    pub fn options(&self) -> StoreOptions {
        let mut options = StoreOptions::default();
        options.s3.access_key_id = Some(KEY_ID.to_owned());
        options.s3.secret_access_key = Some(SECRET.to_owned());
        options
    }

    /// The directory that holds the bucket's objects.
    pub fn files(&self) -> PathBuf {
        Path::join(self.directory.path(), BUCKET)
    }
}

//! A WebDAV server on a directory.

use std::convert::Infallible;
use std::path::Path;

use dav_server::fakels::FakeLs;
use dav_server::localfs::LocalFs;
use dav_server::{DavHandler, body::Body};
use hyper::header::{AUTHORIZATION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;

use super::serving::Serving;
use crate::StoreOptions;

const USER: &str = "tester";
const PASSWORD: &str = "geheim";
/// `tester:geheim` in base64.
const LOGIN: &str = "Basic dGVzdGVyOmdlaGVpbQ==";

/// A WebDAV server that wants a user and a password.
#[derive(Debug)]
pub struct DavServer {
    serving: Serving,
    directory: TempDir,
}

impl DavServer {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(StatusCode::CONFLICT)
    }

    /// Starts one that says of a missing collection what the servers made with Go's library
    /// say, rclone's for one.
    pub fn start_like_rclone() -> Self {
        Self::start_with(StatusCode::FORBIDDEN)
    }

    /// Starts one that answers so to a move into a collection that is missing.
    fn start_with(missing: StatusCode) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let handler = DavHandler::builder()
            .filesystem(LocalFs::new(directory.path(), false, false, false))
            .locksystem(FakeLs::new())
            .build_handler();
        let serving = Serving::start(move |stream| {
            let handler = handler.clone();
            async move {
                let service = service_fn(move |request| answer(handler.clone(), missing, request));
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

    /// The address of the store at `path`.
    pub fn address(&self, path: &str) -> String {
        self.address_by(self.socket(), path)
    }

    /// The same, but reached through `socket`, a [`Wire`](super::Wire) perhaps.
    pub fn address_by(&self, socket: std::net::SocketAddr, path: &str) -> String {
        format!("webdav://{USER}@{socket}/{path}")
    }

    /// Options with the password that it takes, which make the root.
    pub fn options(&self) -> StoreOptions {
        let mut options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        options.webdav.password = Some(PASSWORD.to_owned());
        options
    }

    /// The directory that it serves.
    pub fn files(&self) -> &Path {
        self.directory.path()
    }
}

async fn answer(
    handler: DavHandler,
    missing: StatusCode,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if request.headers().get(AUTHORIZATION) != Some(&HeaderValue::from_static(LOGIN)) {
        let mut refusal = Response::new(Body::from("who are you?"));
        *refusal.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(refusal);
    }
    let moves = request.method().as_str() == "MOVE";
    let mut response = handler.handle(request).await;
    if moves && response.status() == StatusCode::CONFLICT {
        *response.status_mut() = missing;
    }
    Ok(response)
}

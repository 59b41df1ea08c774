//! A collection on a WebDAV server.
//!
//! WebDAV promises nothing for a `PUT` that breaks off: a server may keep what came. So an
//! object is put under a temporary name, its size is compared, and then it is moved to its
//! own name, and its size is compared again. A move onto something is a delete and a move,
//! with a moment between; so what lies there already makes way only if it differs. What a server acknowledges may still be in its
//! memory only; so a put here is [`Durability::Accepted`].

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use opendal::{Operator, services};
use reqwest::{Method, StatusCode};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::{Service, client};
use crate::address::{Server, decode};
use crate::{
    Durability, ErrorKind, Key, MAX_OBJECT_BYTES, ObjectMeta, Store, StoreError, StoreOptions,
    temporary,
};

/// A WebDAV server.
#[derive(Debug)]
pub(crate) struct Webdav {
    service: Service,
    client: reqwest::Client,
    root_url: String,
    login: Option<(String, String)>,
    /// Set once the temporary collection was looked through for leftovers.
    swept: AtomicBool,
}

impl Webdav {
    pub(crate) fn new(
        address: &str,
        server: &Server,
        tls: bool,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        // A path that cannot be decoded would fail with every request.
        decode(&server.path)
            .map_err(|words| StoreError::new(ErrorKind::Invalid, address, words))?;
        let scheme = if tls { "https" } else { "http" };
        let host = match server.host.contains(':') {
            true => format!("[{}]", server.host),
            false => server.host.clone(),
        };
        let port = server
            .port
            .map(|port| format!(":{port}"))
            .unwrap_or_default();
        let root_url = format!(
            "{scheme}://{host}{port}{}",
            server.path.trim_end_matches('/')
        );

        let user = server.user.as_ref().or(options.webdav.user.as_ref());
        let login = user.map(|user| {
            (
                user.clone(),
                options.webdav.password.clone().unwrap_or_default(),
            )
        });
        let mut builder = services::Webdav::default().endpoint(&root_url);
        if let Some((user, password)) = &login {
            builder = builder.username(user).password(password);
        }
        let client = client(address, options)?;
        let service = Service::new(address, builder, client.clone(), options)?;
        Ok(Self {
            service,
            client,
            root_url,
            login,
            swept: AtomicBool::new(false),
        })
    }

    /// Asks for the root itself, which `opendal` takes for granted. An answer of "not
    /// found" counts only while the root is there.
    async fn ensure_root(&self) -> Result<(), StoreError> {
        match self.ask_root("PROPFIND").await? {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND if self.service.options.create => {
                match self.ask_root("MKCOL").await? {
                    status if status.is_success() => Ok(()),
                    // Someone else made it meanwhile.
                    StatusCode::METHOD_NOT_ALLOWED => Ok(()),
                    status => Err(self.refusal(status)),
                }
            }
            status => Err(self.refusal(status)),
        }
    }

    async fn ask_root(&self, method: &'static str) -> Result<StatusCode, StoreError> {
        self.ask(method, "", &[("Depth", "0")]).await
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.root_url)
    }

    /// A request of its own, where `opendal` has none that fits.
    async fn ask(
        &self,
        method: &'static str,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<StatusCode, StoreError> {
        let method = Method::from_bytes(method.as_bytes()).unwrap_or_default();
        let mut request = self.client.request(method, self.url(path));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some((user, password)) = &self.login {
            request = request.basic_auth(user, Some(password));
        }
        let options = &self.service.options;
        let away = |words: String| self.service.error(ErrorKind::Unavailable, words);
        match timeout(options.stall_timeout, request.send()).await {
            Ok(Ok(answer)) => Ok(answer.status()),
            Ok(Err(error)) if error.is_timeout() && error.is_connect() => Err(away(format!(
                "no connection within {} s",
                options.connect_timeout.as_secs()
            ))),
            Ok(Err(error)) => {
                Err(away(format!("cannot reach the server: {}", bottom(&error))).caused_by(error))
            }
            Err(_) => Err(away(format!(
                "no answer within {} s",
                options.stall_timeout.as_secs()
            ))),
        }
    }

    /// Moves a filled temporary object to its place.
    async fn settle(&self, from: &str, key: &Key) -> Result<(), StoreError> {
        let mut status = self.move_to(from, key, "F").await?;
        // That the collection above is missing is 409 by the standard. Go's server, so rclone's,
        // says 403 then.
        if matches!(
            status,
            StatusCode::CONFLICT | StatusCode::NOT_FOUND | StatusCode::FORBIDDEN
        ) {
            let place = format!("{}/", key.directory());
            let made = self
                .service
                .bounded(0, self.service.operator.create_dir(&place))
                .await;
            made.map_err(|failure| self.service.explain(&format!("make {place}"), failure))?;
            status = self.move_to(from, key, "F").await?;
        }
        if status == StatusCode::PRECONDITION_FAILED {
            if self.same(from, key).await? {
                return Ok(());
            }
            status = self.move_to(from, key, "T").await?;
        }
        match status.is_success() {
            true => Ok(()),
            false => Err(self.refusal(status)),
        }
    }

    async fn move_to(&self, from: &str, key: &Key, over: &str) -> Result<StatusCode, StoreError> {
        let destination = self.url(key.as_str());
        self.ask(
            "MOVE",
            from,
            &[("Destination", &destination), ("Overwrite", over)],
        )
        .await
    }

    /// Whether what lies at `key` is what was just written to `from`.
    async fn same(&self, from: &str, key: &Key) -> Result<bool, StoreError> {
        let there = self.service.get(key).await?;
        let mine = self
            .service
            .bounded(MAX_OBJECT_BYTES, self.service.operator.read(from))
            .await;
        let mine =
            mine.map_err(|failure| self.service.explain(&format!("read {from}"), failure))?;
        if there.is_none_or(|there| there != mine.to_bytes()) {
            return Ok(false);
        }
        // It has done its duty; failing to delete it is no failure of the put.
        let _ = self
            .service
            .bounded(0, self.service.operator.delete(from))
            .await;
        Ok(true)
    }

    fn refusal(&self, status: StatusCode) -> StoreError {
        let (kind, words) = match status {
            StatusCode::NOT_FOUND => (
                ErrorKind::Unavailable,
                "the server knows no such path; is it spelled right, and its disk mounted?",
            ),
            StatusCode::UNAUTHORIZED => (
                ErrorKind::Refused,
                "the server refuses this user and password (put the user into the address, the \
                 password into LARDER_WEBDAV_PASSWORD)",
            ),
            StatusCode::FORBIDDEN => (ErrorKind::Refused, "this user may not use this path"),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => (
                ErrorKind::Invalid,
                "this server, or this path of it, speaks no WebDAV",
            ),
            _ => (ErrorKind::Unavailable, "the server has trouble of its own"),
        };
        self.service.error(kind, format!("{words} ({status})"))
    }

    async fn confirm<T>(&self, answer: Option<T>) -> Result<Option<T>, StoreError> {
        if answer.is_none() {
            self.ensure_root().await?;
        }
        Ok(answer)
    }

    /// The size that the server tells of a path must be the size that was put.
    async fn ensure_size(&self, path: &str, key: &Key, size: u64) -> Result<(), StoreError> {
        let meta = self
            .service
            .bounded(0, self.service.operator.stat(path))
            .await;
        let meta =
            meta.map_err(|failure| self.service.explain(&format!("look at {key}"), failure))?;
        if meta.content_length() == size {
            return Ok(());
        }
        let words = format!(
            "put {key}: the server kept {} bytes of {size}; is its disk full?",
            meta.content_length()
        );
        Err(self.service.error(ErrorKind::Unavailable, words))
    }

    /// Puts an object by way of the temporary `path`.
    async fn put_by(&self, path: &str, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        let service = &self.service;
        let explain = |failure| service.explain(&format!("put {key}"), failure);
        let size = bytes.len() as u64;
        service
            .bounded(size, service.operator.write(path, bytes))
            .await
            .map_err(explain)?;
        self.ensure_size(path, key, size).await?;
        self.sweep(path).await;
        self.settle(path, key).await?;
        self.ensure_size(key.as_str(), key, size).await
    }

    /// Removes what puts of dead processes left, once for each opened store. `mine` was
    /// written just now, so its time is the server's idea of now.
    async fn sweep(&self, mine: &str) {
        if self.swept.swap(true, Ordering::Relaxed) {
            return;
        }
        let operator = &self.service.operator;
        let directory = format!("{}/", temporary::DIRECTORY);
        let Ok(now) = self.service.bounded(0, operator.stat(mine)).await else {
            return;
        };
        let Ok(entries) = self.service.bounded(0, operator.list(&directory)).await else {
            return;
        };
        let Some(now) = now.last_modified() else {
            return;
        };
        for entry in entries {
            let then = entry.metadata().last_modified();
            let age = then.map(|then| now.into_inner().duration_since(then.into_inner()));
            let stale = age.is_some_and(|age| {
                std::time::Duration::try_from(age).is_ok_and(|age| age > temporary::STALE)
            });
            if temporary::is_ours(entry.name()) && stale {
                tracing::info!(path = entry.path(), "removed a put that was never finished");
                let _ = self.service.bounded(0, operator.delete(entry.path())).await;
            }
        }
    }
}

/// Deletes a temporary object unless it was moved to its place, also when the future of
/// the put is dropped.
struct Unfinished {
    operator: Operator,
    path: Option<String>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let (Some(path), Ok(runtime)) = (self.path.take(), Handle::try_current()) {
            let operator = self.operator.clone();
            // Best effort: what stays is never listed and goes with a later sweep.
            runtime.spawn(async move { operator.delete(&path).await });
        }
    }
}

fn bottom(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(below) = cause.source() {
        cause = below;
    }
    cause.to_string()
}

#[async_trait]
impl Store for Webdav {
    fn address(&self) -> &str {
        &self.service.address
    }

    fn durability(&self) -> Durability {
        Durability::Accepted
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        let service = &self.service;
        self.ensure_root().await?;
        let name = temporary::name().map_err(|error| {
            service
                .error(ErrorKind::Unavailable, "no random numbers")
                .caused_by(error)
        })?;
        let path = format!("{}/{name}", temporary::DIRECTORY);
        let mut unfinished = Unfinished {
            operator: service.operator.clone(),
            path: Some(path.clone()),
        };
        let placed = self.put_by(&path, key, bytes).await;
        if placed.is_err() {
            // Now and not some time later, for it may fill the disk.
            let _ = service.bounded(0, service.operator.delete(&path)).await;
        }
        unfinished.path = None;
        placed
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.confirm(self.service.get(key).await?).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.confirm(self.service.get_range(key, range).await?)
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        // `opendal` takes a missing collection for an empty one.
        self.ensure_root().await?;
        self.service.list(prefix).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        self.confirm(self.service.stat(key).await?).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.ensure_root().await?;
        self.service.delete(key).await
    }
}

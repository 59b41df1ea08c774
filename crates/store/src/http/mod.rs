//! Stores that are reached by HTTP, on top of `opendal`.
//!
//! [`Service`] holds what S3 and WebDAV share: one HTTP client with bounded waits, reads
//! that are watched byte by byte, and the translation of every failure into the user's
//! words. What differs, how a put becomes whole and how a missing root is told from a
//! missing object, lies in [`s3`] and [`webdav`].

mod s3;
mod webdav;

pub(crate) use s3::S3;
pub(crate) use webdav::Webdav;

use std::error::Error as _;
use std::future::Future;
use std::ops::Range;
use std::sync::Once;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use opendal::{ErrorKind as Trouble, HttpTransporter, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use tokio::time::timeout;

use crate::key::prefix_directory;
use crate::{ErrorKind, Key, MAX_OBJECT_BYTES, ObjectMeta, StoreError, StoreOptions};

/// An HTTP client that waits no longer than `options` say. The time for an answer is
/// bounded where it is awaited, for it depends on how much is sent.
fn client(address: &str, options: &StoreOptions) -> Result<reqwest::Client, StoreError> {
    static PROVIDER: Once = Once::new();
    // A second provider in one process is refused; then there is one, which is all we need.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    reqwest::Client::builder()
        .connect_timeout(options.connect_timeout)
        .build()
        .map_err(|error| {
            StoreError::new(
                ErrorKind::Invalid,
                address,
                "cannot set up HTTPS; are there CA certificates?",
            )
            .caused_by(error)
        })
}

/// What all HTTP stores share.
#[derive(Debug, Clone)]
struct Service {
    address: String,
    operator: Operator,
    options: StoreOptions,
}

impl Service {
    fn new(
        address: &str,
        builder: impl opendal::Builder,
        client: reqwest::Client,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let operator = Operator::new(builder).map_err(|error| {
            StoreError::new(ErrorKind::Invalid, address, first_line(error.message()))
                .caused_by(error)
        })?;
        let transport = HttpTransporter::new(ReqwestTransport::new(client));
        let context = operator.context().with_http_transport(transport);
        Ok(Self {
            address: address.to_owned(),
            operator: operator.with_context(context),
            options: options.clone(),
        })
    }

    fn error(&self, kind: ErrorKind, message: impl std::fmt::Display) -> StoreError {
        StoreError::new(kind, &self.address, message)
    }

    /// Waits for a request that moves about `bytes`.
    async fn bounded<T>(
        &self,
        bytes: u64,
        request: impl Future<Output = opendal::Result<T>>,
    ) -> Result<T, Failure> {
        match timeout(self.options.patience(bytes), request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Failure::Told(Box::new(error))),
            Err(_) => Err(Failure::Silence),
        }
    }

    /// The bytes of an object or of a part of it, no more than `most`; `None` if the
    /// service knows no such object.
    async fn read(
        &self,
        key: &Key,
        range: Option<Range<u64>>,
        most: u64,
    ) -> Result<Option<Bytes>, Failure> {
        let reader = self.bounded(0, self.operator.reader(key.as_str())).await?;
        let stream = match range {
            Some(range) => self.bounded(0, reader.into_bytes_stream(range)).await?,
            None => self.bounded(0, reader.into_bytes_stream(..)).await?,
        };
        let mut stream = std::pin::pin!(stream);
        let mut bytes = BytesMut::new();
        loop {
            // Each piece gets its own time: a slow line is fine, a silent one is not.
            match timeout(self.options.stall_timeout, stream.try_next()).await {
                Err(_) => return Err(Failure::Silence),
                Ok(Ok(None)) => return Ok(Some(bytes.freeze())),
                Ok(Ok(Some(piece))) if (bytes.len() + piece.len()) as u64 > most => {
                    return Err(Failure::TooMuch);
                }
                Ok(Ok(Some(piece))) => bytes.extend_from_slice(&piece),
                Ok(Err(error)) => {
                    let failure = Failure::from_stream(error);
                    return if failure.is_absence() {
                        Ok(None)
                    } else {
                        Err(failure)
                    };
                }
            }
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        let read = self.read(key, None, MAX_OBJECT_BYTES).await;
        read.map_err(|failure| self.explain(&format!("get {key}"), failure))
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        let wanted = range.end.saturating_sub(range.start);
        if wanted == 0 {
            return Ok(self.stat(key).await?.map(|_| Bytes::new()));
        }
        let failure = match self.read(key, Some(range.clone()), wanted).await {
            Ok(Some(bytes)) if bytes.len() as u64 == wanted => return Ok(Some(bytes)),
            Ok(None) => return Ok(None),
            Ok(Some(_)) => None,
            Err(failure) => Some(failure),
        };
        // Services tell in many ways that an object is too short: ask for its size.
        match (self.stat(key).await?, failure) {
            (Some(meta), _) if meta.size < range.end => Err(self.error(
                ErrorKind::Damaged,
                format!(
                    "{key} has {} bytes where at least {} belong",
                    meta.size, range.end
                ),
            )),
            (_, Some(failure)) => Err(self.explain(&format!("get {key}"), failure)),
            (_, None) => Err(self.error(
                ErrorKind::Damaged,
                format!("{key}: the service gave fewer bytes than were asked for"),
            )),
        }
    }

    /// All objects below `prefix`, sorted; what the service lists is taken as complete,
    /// page after page.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        let explain = |failure| self.explain("list", failure);
        let directory = match prefix_directory(prefix) {
            "" => "/".to_owned(),
            directory => format!("{directory}/"),
        };
        let lister = self.operator.lister_with(&directory).recursive(true);
        let mut lister = self
            .bounded(0, lister.into_future())
            .await
            .map_err(explain)?;
        let mut found = Vec::new();
        while let Some(entry) = self.bounded(0, lister.try_next()).await.map_err(explain)? {
            let path = entry.path().trim_start_matches('/');
            if !entry.metadata().is_file() || !path.starts_with(prefix) {
                continue;
            }
            if let Ok(key) = Key::new(path) {
                found.push(ObjectMeta {
                    key,
                    size: entry.metadata().content_length(),
                });
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        found.dedup_by(|a, b| a.key == b.key);
        Ok(found)
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        match self.bounded(0, self.operator.stat(key.as_str())).await {
            Ok(meta) if meta.is_file() => Ok(Some(ObjectMeta {
                key: key.clone(),
                size: meta.content_length(),
            })),
            Ok(_) => Ok(None),
            Err(failure) if failure.is_absence() => Ok(None),
            Err(failure) => Err(self.explain(&format!("look at {key}"), failure)),
        }
    }

    /// Deletes; whether the service may have had the object is not told.
    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        match self.bounded(0, self.operator.delete(key.as_str())).await {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_absence() => Ok(()),
            Err(failure) => Err(self.explain(&format!("delete {key}"), failure)),
        }
    }

    /// What a failure means for the caller, in words.
    fn explain(&self, doing: &str, failure: Failure) -> StoreError {
        let (kind, why) = match &failure {
            Failure::Silence => (
                ErrorKind::Unavailable,
                format!(
                    "no answer within {} s",
                    self.options.stall_timeout.as_secs()
                ),
            ),
            Failure::TooMuch => (
                ErrorKind::Damaged,
                "the service gives more bytes than belong there".to_owned(),
            ),
            Failure::Told(error) => self.meaning(error),
        };
        let error = self.error(kind, format!("cannot {doing}: {why}"));
        match failure {
            Failure::Told(cause) => error.caused_by(cause),
            Failure::Silence | Failure::TooMuch => error,
        }
    }

    fn meaning(&self, error: &opendal::Error) -> (ErrorKind, String) {
        let said = match status(error) {
            Some(status) if error.message().trim().is_empty() => {
                format!("the service answers with status {status} and says no more")
            }
            _ => reason(error.message()),
        };
        match (error.kind(), status(error)) {
            (_, Some(507 | 413)) => (ErrorKind::Full, format!("the store is full ({said})")),
            (Trouble::PermissionDenied, _) | (_, Some(401 | 403)) => (
                ErrorKind::Refused,
                format!("the service refuses these credentials, or what they may do ({said})"),
            ),
            (Trouble::ConfigInvalid, _) => (ErrorKind::Invalid, said),
            (Trouble::RangeNotSatisfied, _) => (ErrorKind::Damaged, said),
            (Trouble::Unsupported, _) => (ErrorKind::Invalid, said),
            _ => (ErrorKind::Unavailable, self.cause(error).unwrap_or(said)),
        }
    }

    /// What lies at the bottom of a failed request, if the service did not answer at all.
    fn cause(&self, error: &opendal::Error) -> Option<String> {
        let mut cause = error.source()?;
        let mut timed_out = false;
        loop {
            if let Some(request) = cause.downcast_ref::<reqwest::Error>() {
                timed_out |= request.is_timeout() && request.is_connect();
            }
            match cause.source() {
                Some(below) => cause = below,
                None => break,
            }
        }
        Some(match timed_out {
            true => {
                format!(
                    "no connection within {} s",
                    self.options.connect_timeout.as_secs()
                )
            }
            false => cause.to_string(),
        })
    }
}

/// Why a request gave nothing.
#[derive(Debug)]
enum Failure {
    /// The service, or the way to it, said so.
    Told(Box<opendal::Error>),
    /// Nothing came for too long.
    Silence,
    /// More came than belongs there.
    TooMuch,
}

impl Failure {
    /// `opendal` hands out a byte stream with I/O errors around its own.
    fn from_stream(error: std::io::Error) -> Self {
        match error.downcast::<opendal::Error>() {
            Ok(told) => Self::Told(Box::new(told)),
            Err(other) => Self::Told(Box::new(
                opendal::Error::new(Trouble::Unexpected, other.to_string()).set_source(other),
            )),
        }
    }

    fn is_absence(&self) -> bool {
        matches!(self, Self::Told(error) if error.kind() == Trouble::NotFound)
    }
}

/// The HTTP status of an answer; `opendal` keeps it in the text of its context only.
fn status(error: &opendal::Error) -> Option<u16> {
    let text = error.to_string();
    let (_, rest) = text.split_once("status: ")?;
    rest.get(..3)?.parse().ok()
}

/// A service's own words. `opendal` hands on those of S3 as a printed structure.
fn reason(message: &str) -> String {
    let field = |name: &str| {
        let (_, rest) = message.split_once(&format!("{name}: \""))?;
        let (value, _) = rest.split_once('"')?;
        Some(value)
    };
    match (field("S3Error { code"), field(", message")) {
        (Some(code), Some("") | None) => code.to_owned(),
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (None, _) => first_line(message),
    }
}

/// As much of a text as fits into a line.
fn first_line(text: &str) -> String {
    let line = text
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no reason was given");
    line.trim().chars().take(300).collect()
}

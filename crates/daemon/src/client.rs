//! The asking side of the control socket.
//!
//! One connection for each request: requests are rare, and a connection that is dropped
//! tells the daemon that nobody waits any more.

use std::path::{Path, PathBuf};

use axum::body::{Body, to_bytes};
use bytes::BytesMut;
use futures::StreamExt;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use larder_volume::progress::Report;
use tokio::net::UnixStream;

use crate::failure::{Failure, FailureKind};
use crate::socket;
use crate::wire::{Event, Operation, PROTOCOL, PROTOCOL_HEADER};

/// A refusal is a sentence or two.
const REFUSAL_MAX_BYTES: usize = 64 << 10;

/// Asks the daemon of one volume.
#[derive(Debug, Clone)]
pub struct Client {
    state_dir: PathBuf,
}

impl Client {
    /// The daemon of `state_dir`; `None` if none listens.
    ///
    /// # Errors
    /// If its socket cannot be used.
    pub fn find(state_dir: &Path) -> Result<Option<Self>, Failure> {
        let stream = socket::connect(state_dir)?;
        Ok(stream.map(|_| Self {
            state_dir: state_dir.to_owned(),
        }))
    }

    /// Has the daemon do `operation`, and hands on its progress.
    ///
    /// # Errors
    /// If it fails, or the daemon speaks another version, or stops in the middle.
    pub async fn ask<O: Operation>(
        &self,
        operation: &O,
        report: Report<'_>,
    ) -> Result<O::Answer, Failure> {
        let body = serde_json::to_vec(operation).map_err(Failure::failed)?;
        let response = self.send(O::NAME, body).await?;
        if response.status() != StatusCode::OK {
            return Err(refusal(response).await);
        }
        let mut lines = BytesMut::new();
        // An answer may be one very long line: no byte of it is looked at twice.
        let mut searched = 0;
        let mut body = response.into_body().into_data_stream();
        while let Some(data) = body.next().await {
            lines.extend_from_slice(&data.map_err(cut)?);
            while let Some(end) = lines[searched..].iter().position(|&byte| byte == b'\n') {
                let line = lines.split_to(searched + end + 1);
                searched = 0;
                match serde_json::from_slice(&line).map_err(cut)? {
                    Event::Progress(progress) => report(progress),
                    Event::Done(answer) => return Ok(answer),
                    Event::Failed(failure) => return Err(failure),
                }
            }
            searched = lines.len();
        }
        Err(cut("the answer has no end"))
    }

    async fn send(&self, name: &str, body: Vec<u8>) -> Result<Response<Body>, Failure> {
        let stream =
            socket::connect(&self.state_dir)?.ok_or_else(|| cut("it does not listen any more"))?;
        stream.set_nonblocking(true).map_err(cut)?;
        let stream = UnixStream::from_std(stream).map_err(cut)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(cut)?;
        tokio::spawn(connection);
        let request = Request::post(format!("/v1/{name}"))
            .header("host", "larder")
            .header("content-type", "application/json")
            .header(PROTOCOL_HEADER, PROTOCOL)
            .body(Body::from(body))
            .map_err(cut)?;
        let response = sender.send_request(request).await.map_err(cut)?;
        Ok(response.map(Body::new))
    }
}

/// What the daemon says when it does not take a request.
async fn refusal(response: Response<Body>) -> Failure {
    let status = response.status();
    let body = to_bytes(response.into_body(), REFUSAL_MAX_BYTES).await;
    body.ok()
        .and_then(|body| serde_json::from_slice(&body).ok())
        .unwrap_or_else(|| {
            Failure::new(
                FailureKind::Daemon,
                format!("The daemon did not understand the request ({status})."),
            )
            .hint("It may be of another version: `larder unmount`, then `larder mount`.")
        })
}

fn cut(why: impl std::fmt::Display) -> Failure {
    Failure::new(
        FailureKind::Daemon,
        format!("The daemon stopped in the middle: {why}."),
    )
    .hint("`larder doctor` looks for the cause; its log is in the state directory.")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::operations::CheckDatabase;

    /// What a client makes of a daemon that answers with this text and hangs up.
    fn asked(answer: &'static str) -> (Result<Vec<String>, Failure>, Vec<u64>) {
        let dir = tempfile::tempdir().unwrap();
        let listener = socket::listen(dir.path()).unwrap();
        listener.set_nonblocking(false).unwrap();
        let daemon = std::thread::spawn(move || {
            // The first connection only looks whether anyone listens.
            drop(listener.accept().unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&request[..length]).into_owned()
        });
        let client = Client::find(dir.path()).unwrap().unwrap();
        let seen = parking_lot::Mutex::new(Vec::new());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let got = runtime.block_on(client.ask(&CheckDatabase {}, &|progress| {
            seen.lock().push(progress.done);
        }));
        let request = daemon.join().unwrap();
        assert!(
            request.starts_with("POST /v1/check-database HTTP/1.1"),
            "{request}"
        );
        assert!(request.contains("larder-protocol: 1"), "{request}");
        (got, seen.into_inner())
    }

    const HEAD: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";

    #[test]
    fn progress_comes_before_the_answer() {
        let (got, seen) = asked(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
             {\"progress\":{\"phase\":\"x\",\"done\":1,\"total\":2,\"unit\":\"bytes\",\"path\":null}}\n\
             {\"done\":[\"a\"]}\n",
        );
        assert_eq!((got, seen), (Ok(vec!["a".into()]), vec![1]));
    }

    #[test]
    fn an_answer_without_an_end_is_a_daemon_that_stopped() {
        for answer in [HEAD, ""] {
            let failure = asked(answer).0.unwrap_err();
            assert_eq!(failure.kind, FailureKind::Daemon);
            assert!(
                failure.message.contains("stopped in the middle"),
                "{failure}"
            );
        }
    }

    #[test]
    fn what_the_daemon_says_of_a_failure_is_what_the_user_hears() {
        let (got, _) = asked(
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\
             {\"failed\":{\"kind\":\"store\",\"message\":\"It is away.\"}}\n",
        );
        assert_eq!(got, Err(Failure::new(FailureKind::Store, "It is away.")));
        let (got, _) = asked(
            "HTTP/1.1 409 Conflict\r\nconnection: close\r\n\r\n\
             {\"kind\":\"daemon\",\"message\":\"Other version.\"}",
        );
        assert_eq!(
            got,
            Err(Failure::new(FailureKind::Daemon, "Other version."))
        );
    }
}

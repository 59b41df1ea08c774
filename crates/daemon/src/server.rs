//! The answering side of the control socket.
//!
//! Each operation runs as a task of its own and writes its events into the answer's body.
//! Progress that the asker does not take in time is dropped, it is out of date anyway; the
//! last line is not. When the asker goes, what can stop does (see
//! [`Operation::STOPS_WITH_ASKER`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use larder_volume::progress::Progress;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::collect;
use crate::failure::{Failure, FailureKind};
use crate::host::Host;
use crate::operations as op;
use crate::others;
use crate::past;
use crate::peers;
use crate::wire::{Event, Operation, PROTOCOL, PROTOCOL_HEADER, VERSION};

/// Progress is sent at most so often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Answers on `listener` until `stop` is over, then finishes what is being asked.
///
/// # Errors
/// If the socket fails.
pub(crate) async fn serve(
    listener: std::os::unix::net::UnixListener,
    host: Arc<Host>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    axum::serve(listener, router(host))
        .with_graceful_shutdown(stop)
        .await
}

fn router(host: Arc<Host>) -> Router {
    let routes = Router::new();
    let routes = route::<op::Status>(routes);
    let routes = route::<op::List>(routes);
    let routes = route::<op::Stash>(routes);
    let routes = route::<op::Checkout>(routes);
    let routes = route::<op::Pin>(routes);
    let routes = route::<op::Adopt>(routes);
    let routes = route::<op::Commit>(routes);
    let routes = route::<others::Sync>(routes);
    let routes = route::<others::Preview>(routes);
    let routes = route::<others::Conflicts>(routes);
    let routes = route::<others::Resolve>(routes);
    let routes = route::<peers::ListPeers>(routes);
    let routes = route::<peers::Invite>(routes);
    let routes = route::<past::Log>(routes);
    let routes = route::<past::LogOf>(routes);
    let routes = route::<past::Show>(routes);
    let routes = route::<past::Diff>(routes);
    let routes = route::<past::Restore>(routes);
    let routes = route::<past::ListTags>(routes);
    let routes = route::<past::GiveTag>(routes);
    let routes = route::<past::TakeTagBack>(routes);
    let routes = route::<collect::History>(routes);
    let routes = route::<collect::Keep>(routes);
    let routes = route::<collect::Collect>(routes);
    let routes = route::<op::Verify>(routes);
    let routes = route::<op::CheckDatabase>(routes);
    let routes = route::<op::Unmount>(routes);
    routes
        .layer(middleware::from_fn(same_protocol))
        // A command may name all the paths that fit a command line; only the user gets here.
        .layer(DefaultBodyLimit::disable())
        .with_state(host)
}

fn route<O: Operation>(routes: Router<Arc<Host>>) -> Router<Arc<Host>> {
    routes.route(&format!("/v1/{}", O::NAME), post(answer::<O>))
}

async fn same_protocol(request: Request, next: Next) -> Response {
    let asked = request.headers().get(PROTOCOL_HEADER);
    if asked.is_some_and(|protocol| protocol.as_bytes() == PROTOCOL.as_bytes()) {
        return next.run(request).await;
    }
    let failure = Failure::new(
        FailureKind::Daemon,
        format!("The daemon runs Larder {VERSION}, this command is of another version."),
    )
    .hint("`larder unmount`, then `larder mount`, starts the daemon of this version.");
    (StatusCode::CONFLICT, Json(failure)).into_response()
}

async fn answer<O: Operation>(State(host): State<Arc<Host>>, Json(operation): Json<O>) -> Response {
    let (lines, body) = mpsc::channel(16);
    let task = tokio::spawn(run(host, operation, lines));
    let asker = Asker {
        body,
        task: O::STOPS_WITH_ASKER.then(|| task.abort_handle()),
    };
    let body = stream::unfold(asker, |mut asker| async {
        let line = asker.body.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(line), asker))
    });
    let kind = [("content-type", "application/x-ndjson")];
    (kind, Body::from_stream(body)).into_response()
}

/// The body on its way to the asker; it is dropped when all is sent, or the asker is gone.
struct Asker {
    body: mpsc::Receiver<Bytes>,
    task: Option<AbortHandle>,
}

impl Drop for Asker {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn run<O: Operation>(host: Arc<Host>, operation: O, lines: mpsc::Sender<Bytes>) {
    let last = parking_lot::Mutex::new(None::<Instant>);
    let report = |progress: Progress| {
        let mut last = last.lock();
        if last.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL) {
            *last = Some(Instant::now());
            let _ = lines.try_send(line(&Event::<O::Answer>::Progress(progress)));
        }
    };
    let event = match operation.run(&host, &report).await {
        Ok(answer) => Event::Done(answer),
        Err(failure) => Event::Failed(failure),
    };
    let _ = lines.send(line(&event)).await;
}

fn line<A: Serialize>(event: &Event<A>) -> Bytes {
    let mut text = serde_json::to_vec(event).unwrap_or_else(|error| {
        let failure = Failure::failed(format!("The answer cannot be written: {error}."));
        serde_json::to_vec(&Event::<()>::Failed(failure)).unwrap_or_default()
    });
    text.push(b'\n');
    Bytes::from(text)
}

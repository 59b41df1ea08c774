//! What the command line and the daemon say to each other.
//!
//! HTTP/1.1 on the control socket. `POST /v1/<operation>` with the operation as JSON; the
//! answer is a stream of lines, each one JSON [`Event`]: any number of `progress`, then
//! exactly one of `done` and `failed`. A stream that ends without one of these was cut.
//!
//! Each request carries [`PROTOCOL`] in the header [`PROTOCOL_HEADER`]; a daemon that
//! speaks another one answers 409 and a [`Failure`] that says which version it is. So does
//! any answer that is not 200.

use std::future::Future;

use larder_volume::progress::{Progress, Report};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::host::Host;

/// The version of what is said here; grows with each change that an older side would misread.
pub const PROTOCOL: &str = "1";

/// The request header that carries [`PROTOCOL`].
pub const PROTOCOL_HEADER: &str = "larder-protocol";

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One line of an answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event<A> {
    /// How far it is.
    Progress(Progress),
    /// It worked; nothing follows.
    Done(A),
    /// It did not; nothing follows.
    Failed(Failure),
}

/// Something a volume can be asked to do. Runs in the daemon if there is one, else in the
/// asking process.
pub trait Operation: Serialize + DeserializeOwned + Send + 'static {
    /// Its name in the request's path.
    const NAME: &'static str;

    /// Whether it stops when the asking side goes away. If not, it is finished all the same.
    const STOPS_WITH_ASKER: bool;

    /// Whether the volume's loops have to run for it; they always do in a daemon.
    const NEEDS_LOOPS: bool = false;

    /// What it answers.
    type Answer: Serialize + DeserializeOwned + Send + 'static;

    /// Does it.
    fn run(
        self,
        host: &Host,
        report: Report<'_>,
    ) -> impl Future<Output = Result<Self::Answer, Failure>> + Send;
}

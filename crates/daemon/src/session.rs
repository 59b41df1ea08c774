//! A command's way to its volume: through the daemon that runs, else in this process.

use std::time::{Duration, Instant};

use larder_volume::progress::Report;

use crate::client::Client;
use crate::failure::Failure;
use crate::home::Replica;
use crate::host::{Host, held_by};
use crate::wire::Operation;

/// How long to wait for a daemon that is just starting or just ending.
const PATIENCE: Duration = Duration::from_secs(10);
const INTERVAL: Duration = Duration::from_millis(50);

/// A way to a volume.
#[derive(Debug)]
pub struct Session(Way);

#[derive(Debug)]
enum Way {
    Daemon(Client),
    Here(Box<Host>),
}

impl Session {
    /// The way to the volume of `replica`. Must be called on a runtime.
    ///
    /// # Errors
    /// If a process holds the volume and does not answer, or its state cannot be read.
    pub async fn start(replica: &Replica) -> Result<Self, Failure> {
        let begin = Instant::now();
        loop {
            if let Some(client) = Client::find(&replica.dir)? {
                return Ok(Self(Way::Daemon(client)));
            }
            match Host::try_start(replica)? {
                Ok(host) => return Ok(Self(Way::Here(Box::new(host)))),
                Err(holder) if begin.elapsed() > PATIENCE => return Err(held_by(&holder)),
                Err(_) => tokio::time::sleep(INTERVAL).await,
            }
        }
    }

    /// Has `operation` done.
    ///
    /// # Errors
    /// If it fails.
    pub async fn ask<O: Operation>(
        &self,
        operation: O,
        report: Report<'_>,
    ) -> Result<O::Answer, Failure> {
        match &self.0 {
            Way::Daemon(client) => client.ask(&operation, report).await,
            Way::Here(host) => {
                if O::NEEDS_LOOPS {
                    host.volume.run();
                }
                operation.run(host, report).await
            }
        }
    }

    /// Closes the volume if it was opened here.
    ///
    /// # Errors
    /// If the disk fails.
    pub async fn end(self) -> Result<(), Failure> {
        match self.0 {
            Way::Daemon(_) => Ok(()),
            Way::Here(host) => host.close().await,
        }
    }
}

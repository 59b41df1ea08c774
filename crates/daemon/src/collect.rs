//! How much of a volume's history is kept, and what is deleted for it.

use larder_model::KeepPolicy;
use larder_volume::progress::Report;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use crate::failure::Failure;
use crate::host::Host;
use crate::report::{CollectReport, HistoryReport, Periods, WaitingReport};
use crate::wire::Operation;

/// How much of the history is kept.
#[derive(Debug, Serialize, Deserialize)]
pub struct History {}

/// Keep so much of the history, on all machines.
#[derive(Debug, Serialize, Deserialize)]
pub struct Keep {
    /// What; `None`: everything.
    pub keep: Option<Periods>,
}

/// Delete from the store what nothing kept needs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Collect {
    /// Only say what would be.
    pub dry_run: bool,
}

impl Operation for History {
    const NAME: &'static str = "history";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = HistoryReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<HistoryReport, Failure> {
        let keep = block_in_place(|| host.volume.retention())?;
        Ok(HistoryReport {
            keep: keep.map(Periods::from),
        })
    }
}

impl Operation for Keep {
    const NAME: &'static str = "keep";
    const STOPS_WITH_ASKER: bool = false;
    const NEEDS_LOOPS: bool = true;
    type Answer = HistoryReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<HistoryReport, Failure> {
        let keep = self.keep.map(KeepPolicy::from);
        host.volume.set_retention(keep).await?;
        Ok(HistoryReport { keep: self.keep })
    }
}

impl Operation for Collect {
    const NAME: &'static str = "collect";
    const STOPS_WITH_ASKER: bool = true;
    const NEEDS_LOOPS: bool = true;
    type Answer = CollectReport;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<CollectReport, Failure> {
        let done = host.volume.collect(self.dry_run, report).await?;
        let waiting = done.waiting.into_iter().map(|waiting| WaitingReport {
            replica: waiting.replica.to_string(),
            heard: waiting.heard,
        });
        Ok(CollectReport {
            dry_run: self.dry_run,
            commits_kept: done.commits_kept,
            commits_given_up: done.commits_given_up,
            packs_condemned: done.packs_condemned,
            bytes_condemned: done.bytes_condemned,
            packs_deleted: done.packs_deleted,
            bytes_deleted: done.bytes_deleted,
            packs_let_off: done.packs_let_off,
            waiting: waiting.collect(),
        })
    }
}

impl From<KeepPolicy> for Periods {
    fn from(keep: KeepPolicy) -> Self {
        let count = |n| (n != KeepPolicy::ALL).then_some(n);
        Self {
            hourly: count(keep.hourly),
            daily: count(keep.daily),
            weekly: count(keep.weekly),
            monthly: count(keep.monthly),
        }
    }
}

impl From<Periods> for KeepPolicy {
    fn from(keep: Periods) -> Self {
        let count = |n: Option<u64>| n.unwrap_or(Self::ALL);
        Self {
            hourly: count(keep.hourly),
            daily: count(keep.daily),
            weekly: count(keep.weekly),
            monthly: count(keep.monthly),
        }
    }
}

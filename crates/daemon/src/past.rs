//! What a volume can be asked of its past, and how each is answered.

use std::collections::HashMap;
use std::time::SystemTime;

use larder_model::{ChunkId, ShownTag, Time};
use larder_volume::Volume;
use larder_volume::history::{Difference, Moment, What, Which};
use larder_volume::progress::Report;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use crate::failure::{Failure, FailureKind};
use crate::host::Host;
use crate::report::{
    Change, ChangeReport, CommitReport, DiffReport, EventReport, KeptReport, LogReport, NodeKind,
    RestoreReport, TagReport, TreePath,
};
use crate::units::parse_duration;
use crate::wire::Operation;

/// How a commit is named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// The latest one.
    Latest,
    /// A number of this machine's, a name, or the start of an id.
    Commit(String),
    /// The latest one at this time, in nanoseconds since 1970.
    Time(i64),
}

impl When {
    /// From a time, a time ago (`3d`), a number, a name, or the start of an id, as the command line
    /// has it.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Ok(ago) = parse_duration(text) {
            let ago = i64::try_from(ago.as_nanos()).unwrap_or(i64::MAX);
            return Ok(Self::Time(now().saturating_sub(ago)));
        }
        match Which::parse(text) {
            Some(Which::Latest) => Ok(Self::Latest),
            Some(Which::Name(name)) => Ok(Self::Commit(name)),
            Some(Which::At(time)) => Ok(Self::Time(time.0)),
            None => Err(
                "it is no time (2026-11-21, 2026-11-21T10:00, 3d for three days ago), no \
                         commit's number or name, and no start of a commit's id"
                    .to_owned(),
            ),
        }
    }
}

/// A time (nanoseconds since 1970) in the machine's time zone, to the second.
pub fn show_time(nanos: i64) -> String {
    larder_volume::history::show_time(Time(nanos))
}

/// The names of commits.
type Names = HashMap<ChunkId, Vec<String>>;

/// Nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

impl From<When> for Which {
    fn from(when: When) -> Self {
        match when {
            When::Latest => Self::Latest,
            When::Commit(name) => Self::Name(name),
            When::Time(nanos) => Self::At(Time(nanos)),
        }
    }
}

/// The latest commits.
#[derive(Debug, Serialize, Deserialize)]
pub struct Log {
    /// At most so many.
    pub limit: u64,
}

/// The commits that changed a path.
#[derive(Debug, Serialize, Deserialize)]
pub struct LogOf {
    /// Which.
    pub path: TreePath,
    /// At most so many.
    pub limit: u64,
}

/// What a commit changed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Show {
    /// Which.
    pub commit: When,
}

/// What one commit has differently from another.
#[derive(Debug, Serialize, Deserialize)]
pub struct Diff {
    /// The older one.
    pub from: When,
    /// The newer one.
    pub to: When,
    /// Only at or below this path.
    pub path: TreePath,
}

/// The names of commits.
#[derive(Debug, Serialize, Deserialize)]
pub struct ListTags {}

/// Give a commit a name.
#[derive(Debug, Serialize, Deserialize)]
pub struct GiveTag {
    /// Which.
    pub commit: When,
    /// The name.
    pub name: String,
}

/// Take a name of a commit back.
#[derive(Debug, Serialize, Deserialize)]
pub struct TakeTagBack {
    /// The name, as it is listed.
    pub name: String,
}

/// Bring back what was.
#[derive(Debug, Serialize, Deserialize)]
pub struct Restore {
    /// What.
    pub path: TreePath,
    /// As it was then; `None`: as it was when it was deleted.
    pub at: Option<When>,
    /// To where; `None`: where it was.
    pub to: Option<TreePath>,
}

impl Operation for Log {
    const NAME: &'static str = "log";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = LogReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<LogReport, Failure> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        Ok(block_in_place(|| log(&host.volume, limit))?)
    }
}

fn log(volume: &Volume, limit: usize) -> larder_volume::Result<LogReport> {
    let mut report = LogReport::default();
    let names = volume.tags_by_commit()?;
    for moment in volume.chain()?.take(limit) {
        match moment {
            Ok(moment) => report.commits.push(commit_report(volume, &names, &moment)?),
            Err(error) => {
                report.cut = Some(error.to_string());
                break;
            }
        }
    }
    Ok(report)
}

fn commit_report(
    volume: &Volume,
    names: &Names,
    moment: &Moment,
) -> larder_volume::Result<CommitReport> {
    let commit = &moment.commit;
    Ok(CommitReport {
        n: commit.n,
        id: moment.id.to_string(),
        time: commit.wall.0,
        message: commit.message.clone(),
        stored: volume.is_stored(moment)?,
        author: commit.author.to_string(),
        tags: names.get(&moment.id).cloned().unwrap_or_default(),
    })
}

impl Operation for LogOf {
    const NAME: &'static str = "log-of";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = Vec<EventReport>;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<Vec<EventReport>, Failure> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        Ok(block_in_place(|| {
            let events = host.volume.log_of(&self.path.0, limit)?;
            let names = host.volume.tags_by_commit()?;
            events
                .into_iter()
                .map(|event| {
                    Ok(EventReport {
                        commit: commit_report(&host.volume, &names, &event.moment)?,
                        change: change_report(event.difference),
                    })
                })
                .collect::<larder_volume::Result<_>>()
        })?)
    }
}

impl Operation for Show {
    const NAME: &'static str = "show";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = DiffReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<DiffReport, Failure> {
        Ok(block_in_place(|| {
            let moment = host.volume.moment(&self.commit.into())?;
            let before = host.volume.before(&moment)?;
            diff(&host.volume, before, moment, b"")
        })?)
    }
}

impl Operation for Diff {
    const NAME: &'static str = "diff";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = DiffReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<DiffReport, Failure> {
        Ok(block_in_place(|| {
            let from = host.volume.moment(&self.from.into())?;
            let to = host.volume.moment(&self.to.into())?;
            diff(&host.volume, Some(from), to, &self.path.0)
        })?)
    }
}

fn diff(
    volume: &Volume,
    from: Option<Moment>,
    to: Moment,
    path: &[u8],
) -> larder_volume::Result<DiffReport> {
    let changes = volume.differences(from.as_ref(), &to, path)?;
    let names = volume.tags_by_commit()?;
    Ok(DiffReport {
        from: from
            .map(|from| commit_report(volume, &names, &from))
            .transpose()?,
        to: commit_report(volume, &names, &to)?,
        changes: changes.into_iter().map(change_report).collect(),
    })
}

pub(crate) fn change_report(difference: Difference) -> ChangeReport {
    ChangeReport {
        change: match difference.what {
            What::Added => Change::Added,
            What::Removed => Change::Removed,
            What::Content => Change::Content,
            What::Moved => Change::Moved,
            What::Attributes => Change::Attributes,
        },
        kind: NodeKind::from(difference.kind),
        path: TreePath(difference.path),
        from: difference.from.map(TreePath),
        size_before: difference.size_before,
        size_after: difference.size_after,
    }
}

impl Operation for ListTags {
    const NAME: &'static str = "tags";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = Vec<TagReport>;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<Vec<TagReport>, Failure> {
        let tags = block_in_place(|| host.volume.tags())?;
        Ok(tags.into_iter().map(tag_report).collect())
    }
}

fn tag_report(tag: ShownTag) -> TagReport {
    let first = tag.given.first();
    TagReport {
        time: first.map(|(time, _)| i64::try_from(time.0).unwrap_or(i64::MAX)),
        given_by: tag.given.iter().map(|(_, by)| by.to_string()).collect(),
        name: tag.label,
        commit: tag.commit.to_string(),
    }
}

impl Operation for GiveTag {
    const NAME: &'static str = "tag";
    const STOPS_WITH_ASKER: bool = false;
    type Answer = CommitReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<CommitReport, Failure> {
        if let Ok(When::Time(_) | When::Latest) = When::parse(&self.name) {
            let words = format!("{:?} means a time, and names no commit.", self.name);
            return Err(Failure::new(FailureKind::Usage, words));
        }
        Ok(block_in_place(|| {
            let volume = &host.volume;
            let moment = volume.moment(&self.commit.into())?;
            volume.tag(&moment, &self.name)?;
            commit_report(volume, &volume.tags_by_commit()?, &moment)
        })?)
    }
}

impl Operation for TakeTagBack {
    const NAME: &'static str = "take-tag-back";
    const STOPS_WITH_ASKER: bool = false;
    type Answer = TagReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<TagReport, Failure> {
        let commit = block_in_place(|| host.volume.take_tag_back(&self.name))?;
        Ok(TagReport {
            name: self.name,
            commit: commit.to_string(),
            time: None,
            given_by: Vec::new(),
        })
    }
}

impl Operation for Restore {
    const NAME: &'static str = "restore";
    const STOPS_WITH_ASKER: bool = false;
    const NEEDS_LOOPS: bool = true;
    type Answer = RestoreReport;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<RestoreReport, Failure> {
        let moment = block_in_place(|| match self.at {
            Some(when) => host.volume.moment(&when.into()),
            None => host.volume.moment_of_deleted(&self.path.0),
        })?;
        let at = block_in_place(|| {
            commit_report(&host.volume, &host.volume.tags_by_commit()?, &moment)
        })?;
        let to = self.to.unwrap_or_else(|| self.path.clone());
        let done = host
            .volume
            .restore(moment, self.path.0, to.0.clone(), report)
            .await?;
        Ok(RestoreReport {
            commit: at,
            path: to,
            files: done.files,
            directories: done.directories,
            bytes: done.bytes,
            same: done.same,
            kept: done
                .kept
                .into_iter()
                .map(|(path, reason)| KeptReport {
                    path: TreePath(path),
                    reason,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_is_named_by_time_time_ago_number_and_id() {
        assert_eq!(When::parse("latest"), Ok(When::Latest));
        assert_eq!(When::parse("12"), Ok(When::Commit("12".into())));
        assert!(matches!(When::parse("2026-11-21"), Ok(When::Time(_))));
        let time = |text| match When::parse(text) {
            Ok(When::Time(nanos)) => nanos,
            other => panic!("{text}: {other:?}"),
        };
        assert!(time("1h") < time("10m") && time("10m") < now());
        assert_eq!(When::parse("v1"), Ok(When::Commit("v1".into())));
        assert!(When::parse("a/b").is_err() && When::parse("").is_err());
    }
}

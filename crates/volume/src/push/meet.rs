//! What other replicas stored is taken in: when a user asks, when someone says that there is
//! something, and by itself at intervals.
//!
//! What this costs while nobody did anything is one listing of the heads. What would delete much,
//! and what meets a file that is being written here, is left for the next time, and the status
//! says so.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use larder_format::seal_head;
use larder_model::ChunkId;
use larder_store::{ErrorKind, ObjectMeta};
use rusqlite::Connection;

use super::commit::{Committer, rescue_taken};
use super::index::blocking;
use super::ingest::salt;
use super::tags::{put_due_tags, take_in_tags};
use crate::join::{self, Applied, Deletions, NewBase, SyncReport};
use crate::pull::{Found, list_heads};
use crate::{Result, Volume, VolumeError};

/// So often a join that a user waits for begins anew because something changed here, before it is
/// left for later.
const TRIES: u32 = 8;
/// The same when nobody waits.
const TRIES_BY_ITSELF: u32 = 2;
const PAUSE: Duration = Duration::from_millis(100);
/// A machine that wakes up does not ask at once, when its network may not be there yet.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// The topic of what the status says of it.
const WARNING: &str = "sync";

/// When the store is asked what others put there, and what of it waits.
#[derive(Debug)]
pub(super) struct Looks {
    interval: Option<Duration>,
    /// Since the workers' state was made.
    next: Option<Duration>,
    /// Commits that would delete much, in words.
    held: BTreeMap<ChunkId, String>,
}

impl Looks {
    /// Looks at these intervals, or only when somebody says so.
    pub(super) fn new(interval: Option<Duration>) -> Self {
        Self {
            interval,
            next: interval.map(|interval| interval.min(FIRST_LOOK)),
            held: BTreeMap::new(),
        }
    }

    /// There may be something now.
    pub(super) fn soon(&mut self, now: Duration) {
        self.next = Some(now);
    }

    /// Whether to look now; then the next time is set.
    fn take(&mut self, now: Duration, random: u64) -> bool {
        if self.next.is_none_or(|next| now < next) {
            return false;
        }
        // Replicas that look at the same moment would answer each other.
        let shift =
            |interval: Duration| interval.mul_f64(0.9 + 0.2 * (random % 1024) as f64 / 1024.0);
        self.next = self.interval.map(|interval| now + shift(interval));
        true
    }
}

impl Volume {
    /// Another replica is said to have stored something: the store is asked soon, without waiting
    /// for the interval.
    pub fn others_changed(&self) {
        self.push.shared.others_changed.notify_one();
    }
}

impl Committer {
    /// Looks whether others stored something, if it is time to, and takes it in. That the store
    /// is away is no failure: it is asked again the next time.
    pub(super) async fn look_if_due(&mut self, volume: &Arc<Volume>) -> Result<()> {
        let random = getrandom::u64().unwrap_or(0);
        if !self.looks.take(self.shared.now(), random) {
            return Ok(());
        }
        let report = match self
            .take_in(volume, Deletions::Guarded, TRIES_BY_ITSELF)
            .await
        {
            Ok(report) => report,
            Err(error) if is_away(&error) => {
                tracing::debug!(%error, "others are looked for later");
                return Ok(());
            }
            Err(error @ (VolumeError::Damaged(_) | VolumeError::Format(_))) => {
                let words = format!("what other machines stored cannot be taken in: {error}");
                self.shared.warnings.set(WARNING, words);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if report.commits > 0 {
            let (commits, changed) = (report.commits, report.changed);
            tracing::info!(commits, changed, "took in what other machines did");
        }
        self.warn_of_what_is_left(&report);
        Ok(())
    }

    fn warn_of_what_is_left(&self, report: &SyncReport) {
        match report.left.is_empty() {
            true => self.shared.warnings.clear(WARNING),
            false => self.shared.warnings.set(WARNING, report.left.join("; ")),
        }
    }

    /// Includes what other replicas have on the store, for somebody who waits.
    pub(super) async fn sync(
        &mut self,
        volume: &Arc<Volume>,
        deletions: Deletions,
    ) -> Result<SyncReport> {
        self.looks.held.clear();
        self.notice_if_let(volume).await?;
        let report = self.take_in(volume, deletions, TRIES).await?;
        self.warn_of_what_is_left(&report);
        Ok(report)
    }

    async fn take_in(
        &mut self,
        volume: &Arc<Volume>,
        deletions: Deletions,
        most_tries: u32,
    ) -> Result<SyncReport> {
        let mut report = SyncReport::default();
        let mut tries = 0;
        let mut wrong: BTreeMap<ChunkId, String> = BTreeMap::new();
        let (mut listed, mut of_tags) = self.list(volume).await?;
        loop {
            let (others, warnings) = join::unseen(volume, &listed).await?;
            report.left = of_tags.clone();
            report.left.extend(warnings);
            self.looks
                .held
                .retain(|id, _| others.iter().any(|other| other.id == *id));
            let next = others.iter().find(|other| {
                !self.looks.held.contains_key(&other.id) && !wrong.contains_key(&other.id)
            });
            let Some(other) = next else {
                report.left.extend(self.looks.held.values().cloned());
                report.left.extend(wrong.into_values());
                let noting = Arc::clone(volume);
                blocking(move || noting.forget_apart(|replica| noting.seen.includes(replica)))
                    .await?;
                self.say_what_it_stands_on(volume).await?;
                return Ok(report);
            };
            self.commit_changes(volume).await?;
            let joined = match self.join(volume, other, deletions, &mut report).await {
                Ok(joined) => joined,
                // What is wrong with one commit does not keep the others from being joined.
                Err(
                    error @ (VolumeError::Damaged(_)
                    | VolumeError::Format(_)
                    | VolumeError::State(_)),
                ) => {
                    wrong.insert(
                        other.id,
                        format!(
                            "commit {} of {} cannot be taken in: {error}",
                            other.commit.n, other.commit.author
                        ),
                    );
                    continue;
                }
                Err(error) => return Err(error),
            };
            let why = match joined {
                Applied::Done(_) => {
                    volume.seen.note(&other.commit);
                    continue;
                }
                Applied::Guarded(gone) => {
                    let words = format!(
                        "commit {} of {} would delete {gone} files and directories here. If that \
                         is meant, `larder sync --allow-deletions` does it",
                        other.commit.n, other.commit.author
                    );
                    self.looks.held.insert(other.id, words);
                    continue;
                }
                Applied::Changed => "something is changed here all the time".to_owned(),
                Applied::Busy(path) => format!(
                    "{} is being changed here, and changed elsewhere",
                    String::from_utf8_lossy(&path)
                ),
            };
            tries += 1;
            if tries >= most_tries {
                report.left.push(format!(
                    "{why}, so commit {} of {} is not joined yet",
                    other.commit.n, other.commit.author
                ));
                return Ok(report);
            }
            if !self.shared.pause(PAUSE).await {
                return Err(VolumeError::Stopping);
            }
            (listed, of_tags) = self.list(volume).await?;
        }
    }

    /// What lies at the heads, once what is said of tags there was taken in; and what is wrong with
    /// these, in words.
    async fn list(&self, volume: &Arc<Volume>) -> Result<(Vec<ObjectMeta>, Vec<String>)> {
        let listed = list_heads(volume.fetcher()).await?;
        let left = take_in_tags(volume, &listed).await?;
        put_due_tags(&self.shared, volume, &listed).await?;
        Ok((listed, left))
    }

    async fn join(
        &mut self,
        volume: &Arc<Volume>,
        other: &Found,
        deletions: Deletions,
        report: &mut SyncReport,
    ) -> Result<Applied> {
        let pages = join::missing_pages(volume, &other.commit).await?;
        let (merging, other) = (Arc::clone(volume), other.clone());
        let merged = blocking(move || {
            let merge = |connection: &Connection| join::merge(&merging, connection, &other, pages);
            merging.db.read_snapshot(merge)
        })
        .await?;
        let Some(merged) = merged else {
            return Ok(Applied::Changed);
        };
        let gone = merged.gone();
        if !deletions.allow(gone, merged.files) {
            return Ok(Applied::Guarded(gone));
        }
        rescue_taken(volume, &merged).await?;
        let head = match &merged.base {
            NewBase::Made(draft) => {
                self.be_member(volume).await?;
                let (n, id) = (draft.commit.n, draft.id);
                Some(seal_head(&volume.keys, &volume.replica(), n, id, salt()?)?)
            }
            NewBase::Ours | NewBase::Theirs(_) => None,
        };
        let applying = Arc::clone(volume);
        // Whatever fails from here on: a commit that it makes may be durable.
        self.is_cut |= head.is_some();
        let (merged, head, applied, conflicts) = blocking(move || {
            applying.flush_lives();
            let applied = join::apply(&applying, &merged, head.as_deref())?;
            let conflicts = match &applied {
                Applied::Done(effects) => {
                    applying.note_joined(effects);
                    applying.paths_of(&merged.conflicts)?
                }
                _ => Vec::new(),
            };
            Ok((merged, head, applied, conflicts))
        })
        .await?;
        if !matches!(applied, Applied::Done(_)) {
            return Ok(applied);
        }
        report.commits += 1;
        report.changed += merged.changes.len() as u64;
        report.conflicts.extend(conflicts);
        if let (NewBase::Made(draft), Some(head)) = (merged.base, head) {
            self.send(volume, *draft, head).await?;
        }
        Ok(applied)
    }
}

/// Whether the store cannot be asked at the moment.
pub(super) fn is_away(error: &VolumeError) -> bool {
    match error {
        VolumeError::Away(_) | VolumeError::TimedOut(_) => true,
        VolumeError::Store(error) => error.kind != ErrorKind::Damaged,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_asked_soon_then_at_intervals_and_when_somebody_says_so() {
        let secs = Duration::from_secs;
        let mut looks = Looks::new(Some(secs(100)));
        assert!(!looks.take(secs(1), 0));
        assert!(looks.take(secs(2), 0));
        assert!(!looks.take(secs(91), 1023));
        assert!(looks.take(secs(92), 1023));
        assert!(!looks.take(secs(92 + 109), 0));
        looks.soon(secs(93));
        assert!(looks.take(secs(93), 0));
        let mut never = Looks::new(None);
        assert!(!never.take(secs(1 << 30), 0));
        never.soon(secs(5));
        assert!(never.take(secs(5), 0) && !never.take(secs(1 << 30), 0));
    }
}

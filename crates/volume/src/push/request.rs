//! Commits that a user asks for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use larder_model::ChunkId;
use tokio::sync::oneshot;

use super::draft::base_commit;
use super::index::blocking;
use super::ingest;
use super::partial::Below;
use crate::history::Past;
use crate::join::{Deletions, SyncReport};
use crate::live::DirtySince;
use crate::progress::{Progress, Report, Unit};
use crate::{Ino, Result, Volume, VolumeError};

/// How often a waiting caller looks how far it is, unless the looking takes long.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A commit that was made and is stored.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CommitReport {
    /// Its number among this replica's commits; 0 if it is another replica's.
    pub n: u64,
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// Files that changed again whenever they were stored: the commit has them as they were
    /// stored last, if at all. Paths from the root.
    pub still_changing: Vec<String>,
}

/// What is on its way from who wants it to who makes commits.
#[derive(Debug)]
pub(super) enum Request {
    /// A commit.
    Commit(Asked),
    /// What other replicas have.
    Sync(Deletions, oneshot::Sender<Result<SyncReport>>),
    /// Something about marks.
    Mark(MarkWork, oneshot::Sender<Result<()>>),
}

/// What is to be done about marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkWork {
    /// Take notice of those of others, and give this replica's word if it is waited for.
    Notice,
    /// Say what this replica has to say, and do here what follows from it.
    Publish,
}

/// A commit that somebody wants.
#[derive(Debug, Clone, Default)]
pub(super) struct CommitRequest {
    /// With a message it is made even if nothing changed.
    pub(super) message: Option<String>,
    /// Of what is at and below these; of all if there are none.
    pub(super) paths: Vec<Vec<u8>>,
}

/// Where the answer goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: CommitRequest,
    pub(super) reply: oneshot::Sender<Result<(u64, ChunkId)>>,
}

impl Volume {
    /// Makes a commit of all that is here now, and waits until the store has acknowledged
    /// it with all its content. Files that keep changing are not waited for, but named.
    /// Without a message, and if nothing changed, it answers the latest commit.
    ///
    /// While the store is away this waits; dropping the future ends the waiting, and what
    /// is dirty is stored all the same.
    ///
    /// # Errors
    /// If the database fails, or the volume stops.
    pub async fn commit(
        self: &Arc<Self>,
        message: Option<String>,
        report: Report<'_>,
    ) -> Result<CommitReport> {
        self.commit_paths(message, Vec::new(), report).await
    }

    /// As [`Volume::commit`], of what is at these paths and below them, and of what was there in
    /// the latest commit; of all if there are none. What else changed waits for another commit, but
    /// for what has to go along: new and moved directories above, and whoever had a place before.
    /// Only what is there now is waited for.
    ///
    /// # Errors
    /// If a path leads nowhere, here and in the latest commit; and as [`Volume::commit`].
    pub async fn commit_paths(
        self: &Arc<Self>,
        message: Option<String>,
        paths: Vec<Vec<u8>>,
        report: Report<'_>,
    ) -> Result<CommitReport> {
        let (looking, looked_for) = (Arc::clone(self), paths.clone());
        blocking(move || looking.refuse_unknown(&looked_for)).await?;
        let still_changing = self.wait_until_stored(&paths, report).await?;
        let (reply, answer) = oneshot::channel();
        let request = CommitRequest { message, paths };
        self.ask_committer(Request::Commit(Asked { request, reply }))?;
        let (n, id) = answer.await.unwrap_or(Err(VolumeError::Stopping))?;
        Ok(CommitReport {
            n,
            id: id.to_string(),
            still_changing,
        })
    }

    /// Includes what other replicas have stored, and waits until all that is here is stored, too.
    /// What would delete much waits for a word.
    ///
    /// # Errors
    /// If a page of another's tree cannot be had or is damaged, the database fails, or the volume
    /// stops. What was included until then is.
    pub async fn sync(
        self: &Arc<Self>,
        deletions: Deletions,
        report: Report<'_>,
    ) -> Result<SyncReport> {
        self.wait_until_stored(&[], report).await?;
        let (reply, answer) = oneshot::channel();
        self.ask_committer(Request::Sync(deletions, reply))?;
        answer.await.unwrap_or(Err(VolumeError::Stopping))
    }

    /// Does something about marks, and commits what was changed until then.
    ///
    /// # Errors
    /// If the store cannot be asked, the database fails, or the volume stops.
    pub(crate) async fn mark(&self, work: MarkWork) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.ask_committer(Request::Mark(work, reply))?;
        answer.await.unwrap_or(Err(VolumeError::Stopping))
    }

    fn ask_committer(&self, request: Request) -> Result<()> {
        let sent = self.push.requests.send(request);
        sent.map_err(|_| VolumeError::Stopping)
    }

    fn refuse_unknown(&self, paths: &[Vec<u8>]) -> Result<()> {
        for path in paths {
            let is_here = match self.resolve(path) {
                Ok(_) => true,
                Err(VolumeError::NoEntry | VolumeError::NotDirectory) => false,
                Err(error) => return Err(error),
            };
            if !is_here && !self.was_there(path)? {
                return Err(VolumeError::State(format!(
                    "there is no {}, neither here nor in the latest commit",
                    String::from_utf8_lossy(path)
                )));
            }
        }
        Ok(())
    }

    fn was_there(&self, path: &[u8]) -> Result<bool> {
        let Some((_, commit)) = self.db.read(|connection| base_commit(self, connection))? else {
            return Ok(false);
        };
        Ok(Past::new(self, &commit).resolve(path)?.is_some())
    }

    /// Waits until what is dirty now, at these paths or anywhere, is stored. Answers the paths of
    /// files that it gave up waiting for.
    async fn wait_until_stored(
        self: &Arc<Self>,
        below: &[Vec<u8>],
        report: Report<'_>,
    ) -> Result<Vec<String>> {
        let shared = &self.push.shared;
        let _urgent = shared.hurry();
        ingest::help(self);
        self.push.attempts.forget_changes();
        let (looking, paths) = (Arc::clone(self), below.to_vec());
        let mut waiting = blocking(move || {
            // What programs wrote past this process shows now.
            looking.flush_lives();
            let mut dirty = looking.dirty_files();
            if !paths.is_empty() {
                dirty = looking.db.read_snapshot(|connection| {
                    let mut below = Below::new(connection, &paths)?;
                    let mut left = Vec::new();
                    for (ino, since) in dirty {
                        if below.has(ino)? {
                            left.push((ino, since));
                        }
                    }
                    Ok(left)
                })?;
            }
            Ok(dirty)
        })
        .await?;
        let total = waiting.len() as u64;
        let mut given_up = Vec::new();
        loop {
            let look = Instant::now();
            self.retain_unstored(&mut waiting, &mut given_up);
            report(Progress {
                phase: "storing".to_owned(),
                done: total - waiting.len() as u64,
                total,
                unit: Unit::Files,
                path: self.path_text(waiting.first().map(|(ino, _)| *ino))?,
            });
            if waiting.is_empty() {
                break;
            }
            if !shared.pause(LOOK_INTERVAL.max(look.elapsed() * 5)).await {
                return Err(VolumeError::Stopping);
            }
        }
        given_up
            .into_iter()
            .filter_map(|ino| self.path_text(Some(ino)).transpose())
            .collect()
    }

    /// A file that is clean, or dirty since a later moment, was stored in between.
    fn retain_unstored(&self, waiting: &mut Vec<(Ino, DirtySince)>, given_up: &mut Vec<Ino>) {
        self.retain_dirty(waiting);
        let attempts = &self.push.attempts;
        waiting.retain(|(ino, _)| {
            let keeps_changing = attempts.keeps_changing(*ino);
            if keeps_changing {
                given_up.push(*ino);
            }
            !keeps_changing
        });
    }

    fn path_text(&self, ino: Option<Ino>) -> Result<Option<String>> {
        let Some(ino) = ino else {
            return Ok(None);
        };
        let path = self.path_of(ino)?;
        Ok(path.map(|path| String::from_utf8_lossy(&path).into_owned()))
    }
}

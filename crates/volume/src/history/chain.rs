//! From commit to commit, and the words that name one.

use std::collections::{BTreeSet, BinaryHeap, HashSet};

use larder_format::Commit;
use larder_model::{ChunkId, Hlc, Time};
use rusqlite::OptionalExtension;

use super::Moment;
use crate::collect::marks;
use crate::pull::keep_pages;
use crate::push::base_commit;
use crate::{Result, Volume, VolumeError};

/// Digits of an id that are enough to look for one.
pub(super) const DIGITS_MIN: usize = 6;

/// How a user names a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The latest one.
    Latest,
    /// Its number among this replica's commits, a name that it was given, or the first digits of its
    /// id.
    Name(String),
    /// The latest one at this time.
    At(Time),
}

impl Volume {
    /// The commit that is named so.
    ///
    /// # Errors
    /// If there is none or more than one, or its bytes cannot be had.
    pub fn moment(&self, which: &Which) -> Result<Moment> {
        match which {
            Which::Latest => self.latest(),
            Which::Name(name) => self.named(name),
            Which::At(time) => self.at(*time),
        }
    }

    /// The commit before this one: the first of its parents.
    ///
    /// # Errors
    /// If its bytes cannot be had.
    pub fn before(&self, moment: &Moment) -> Result<Option<Moment>> {
        let Some(parent) = moment.commit.parents.first() else {
            return Ok(None);
        };
        if !self.kept_and_given_up()?.1.contains(parent) {
            return self.read_commit(*parent).map(Some);
        }
        // The latest one that is kept of those before it.
        let is_before = |found: &Result<Moment>| {
            found.as_ref().map_or(true, |found| {
                moment.commit.clock.includes(&found.commit.clock) && found.id != moment.id
            })
        };
        self.chain()?.find(is_before).transpose()
    }

    /// Commits that are kept apart from any chain or have a name, and those that were given up.
    fn kept_and_given_up(&self) -> Result<(BTreeSet<ChunkId>, BTreeSet<ChunkId>)> {
        let said = self.db.read(|tx| marks::all_said(self, tx))?;
        let (mut kept, mut given_up) = (BTreeSet::new(), BTreeSet::new());
        for (_, mark) in said {
            kept.extend(mark.kept);
            given_up.extend(mark.given_up);
        }
        kept.extend(self.tagged_commits()?);
        kept.retain(|id| !given_up.contains(id));
        Ok((kept, given_up))
    }

    /// Whether a mark says that the commit was given up.
    pub(super) fn is_given_up(&self, id: &ChunkId) -> Result<bool> {
        Ok(self.kept_and_given_up()?.1.contains(id))
    }

    fn latest(&self) -> Result<Moment> {
        self.find_latest()?.ok_or_else(|| {
            VolumeError::State("the volume has no commit yet. `larder commit` makes one".to_owned())
        })
    }

    fn find_latest(&self) -> Result<Option<Moment>> {
        let base = self.db.read(|connection| base_commit(self, connection))?;
        Ok(base.map(|(id, commit)| Moment { id, commit }))
    }

    /// Whether the store has acknowledged the head of this commit; of one that came from
    /// there, yes.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn is_stored(&self, moment: &Moment) -> Result<bool> {
        self.db.read(|connection| {
            let acked: Option<bool> = connection
                .prepare_cached("SELECT acked FROM commits WHERE id = ?1")?
                .query_row([moment.id.as_bytes()], |row| row.get(0))
                .optional()?;
            Ok(acked.unwrap_or(true))
        })
    }

    fn named(&self, name: &str) -> Result<Moment> {
        if let Some(id) = self.own_commit(name)? {
            return self.read_commit(id);
        }
        if let Some(id) = self.tagged(name)? {
            return self.read_commit(id);
        }
        let digits = name.to_ascii_lowercase();
        let is_id = digits.len() >= DIGITS_MIN && digits.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_id {
            return Err(VolumeError::State(format!(
                "{name:?} names no commit. `larder log` lists them by number, id and name"
            )));
        }
        // A whole id needs no look at all the others.
        if let Ok(id) = digits.parse()
            && let Ok(moment) = self.read_commit(id)
        {
            return Ok(moment);
        }
        let mut found: Option<Moment> = None;
        for moment in self.chain()? {
            let moment = moment?;
            if !moment.id.to_string().starts_with(&digits) {
                continue;
            }
            if found.replace(moment).is_some() {
                return Err(VolumeError::State(format!(
                    "more than one commit's id begins with {name}: give more of its digits"
                )));
            }
        }
        found.ok_or_else(|| {
            VolumeError::State(format!(
                "no commit's id begins with {name}. `larder log` lists them"
            ))
        })
    }

    /// The commit of this replica with this number.
    fn own_commit(&self, number: &str) -> Result<Option<ChunkId>> {
        let Ok(n) = number.parse::<i64>() else {
            return Ok(None);
        };
        self.db.read(|connection| {
            let mut found = connection.prepare_cached("SELECT id FROM commits WHERE n = ?1")?;
            let mut rows = found.query([n])?;
            let Some(row) = rows.next()? else {
                return Ok(None);
            };
            let id: Vec<u8> = row.get(0)?;
            Ok(ChunkId::from_slice(&id))
        })
    }

    fn at(&self, time: Time) -> Result<Moment> {
        for moment in self.chain()? {
            let moment = moment?;
            if moment.commit.wall <= time {
                return Ok(moment);
            }
        }
        Err(VolumeError::State(
            "the volume had no commit yet at that time. `larder log` lists all".to_owned(),
        ))
    }

    /// All commits that the latest one includes, and itself, the newest first.
    ///
    /// # Errors
    /// Failures of the database; each step fails if the commit's bytes cannot be had.
    pub fn chain(&self) -> Result<impl Iterator<Item = Result<Moment>> + '_> {
        let latest = self.find_latest()?;
        let (kept, given_up) = self.kept_and_given_up()?;
        let seen = latest.iter().map(|moment| moment.id);
        Ok(Chain {
            volume: self,
            seen: seen.chain(given_up).collect(),
            waiting: latest.into_iter().map(Waiting).collect(),
            parents: kept.into_iter().collect(),
        })
    }

    /// A commit: from the database, or from the store.
    fn read_commit(&self, id: ChunkId) -> Result<Moment> {
        let page = match self.tree_page(&id) {
            Err(VolumeError::Damaged(_)) if self.kept_and_given_up()?.1.contains(&id) => {
                return Err(VolumeError::State(format!(
                    "commit {id} was given up: the history that is kept does not have it"
                )));
            }
            page => page?,
        };
        let commit = Commit::decode(page.as_ref())?;
        if page.is_fetched() {
            // The next walk through the history has it here.
            self.db
                .write_soon(|tx| keep_pages(tx, [(&id, page.as_ref())]))?;
        }
        Ok(Moment { id, commit })
    }
}

/// Commits, the newest first.
struct Chain<'a> {
    volume: &'a Volume,
    seen: HashSet<ChunkId>,
    waiting: BinaryHeap<Waiting>,
    /// Of the commit that was given last: they may be away, and are read only if they are
    /// wanted.
    parents: Vec<ChunkId>,
}

impl Iterator for Chain<'_> {
    type Item = Result<Moment>;

    fn next(&mut self) -> Option<Result<Moment>> {
        for parent in std::mem::take(&mut self.parents) {
            if !self.seen.insert(parent) {
                continue;
            }
            match self.volume.read_commit(parent) {
                Ok(parent) => self.waiting.push(Waiting(parent)),
                Err(error) => {
                    self.waiting.clear();
                    return Some(Err(error));
                }
            }
        }
        let Waiting(moment) = self.waiting.pop()?;
        self.parents.clone_from(&moment.commit.parents);
        Some(Ok(moment))
    }
}

/// A commit in its place: by its hybrid logical time, which is later than that of each commit
/// it includes.
struct Waiting(Moment);

impl Waiting {
    fn place(&self) -> (Hlc, ChunkId) {
        (self.0.commit.time, self.0.id)
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

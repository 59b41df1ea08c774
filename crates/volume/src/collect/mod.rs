//! What nobody needs any more is deleted from the store.
//!
//! A policy says which commits are kept (`larder_plan::keep`). `survey` finds out which packs hold
//! nothing of them, `marks` tells the other replicas and listens to them, `rest` sees to it that
//! nothing here rests on what goes. Decision 0016 has the protocol, and why it is safe: a pack is
//! condemned first, in a mark; when every member's mark says that it knows, all that is kept is gone
//! through again; what nothing needs then goes. There are no locks, any replica may collect, and a
//! crash between any two steps leaves what the next run goes on with.

pub(crate) mod marks;
pub(crate) mod rest;
mod survey;

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_format::pack_name;
use larder_model::{ChunkId, Hlc, KeepPolicy, PackId, ReplicaId, Retention};

use crate::db::{Transaction, set_meta};
use crate::node;
use crate::progress::{Progress, Report, Unit};
use crate::push::{MarkWork, base_commit, blocking, delete_object, object_key};
use crate::{Result, Volume, VolumeError};
use survey::{Members, Survey, Unneeded};

/// A replica whose word is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub replica: ReplicaId,
    /// When something new was last seen of it, in nanoseconds since 1970.
    pub heard: i64,
}

/// What a collection found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectReport {
    /// Commits that are kept.
    pub commits_kept: u64,
    /// Commits that were given up now.
    pub commits_given_up: u64,
    /// Packs that nothing kept needs and that are condemned, and their bytes on the store.
    pub packs_condemned: u64,
    /// Their bytes.
    pub bytes_condemned: u64,
    /// Packs that were deleted, and their bytes.
    pub packs_deleted: u64,
    /// Their bytes.
    pub bytes_deleted: u64,
    /// Packs that had been condemned, and are needed again.
    pub packs_let_off: u64,
    /// Whose word is waited for before what is condemned is deleted.
    pub waiting: Vec<Waiting>,
}

/// What is condemned by this replica.
struct Condemned {
    id: PackId,
    /// The number of the mark that said so first.
    since: u64,
    /// When, in nanoseconds since 1970.
    time: i64,
}

impl Volume {
    /// How much of the history is kept; `None`: everything.
    ///
    /// # Errors
    /// If the database fails.
    pub fn retention(&self) -> Result<Option<KeepPolicy>> {
        let said = self.db.read(|tx| marks::all_said(self, tx))?;
        Ok(marks::latest_retention(&said).and_then(|retention| retention.keep))
    }

    /// Says how much of the history is kept, for all replicas. Nothing is deleted by that.
    ///
    /// # Errors
    /// If the database fails, or the volume stops before the store has it.
    pub async fn set_retention(self: &Arc<Self>, keep: Option<KeepPolicy>) -> Result<()> {
        self.mark(MarkWork::Notice).await?;
        let setting = Arc::clone(self);
        blocking(move || {
            setting.db.write_synced(|tx| {
                let said = marks::all_said(&setting, tx)?;
                let latest = marks::latest_retention(&said);
                let commit = base_commit(&setting, tx)?.map(|(_, commit)| commit.time);
                let last = latest.map(|latest| latest.time).max(commit);
                let wall = u64::try_from(node::now().0).unwrap_or(0);
                let time = last.unwrap_or(Hlc(0)).next(wall);
                marks::set_own_retention(tx, Retention { time, keep })
            })
        })
        .await?;
        self.mark(MarkWork::Publish).await
    }

    /// Gives up what the policy does not keep, and deletes from the store what nothing needs, as far
    /// as all other replicas know of it; with `dry_run` it only says what it would condemn.
    ///
    /// # Errors
    /// If anything cannot be seen, the store is in doubt, or the volume stops: then nothing was
    /// condemned or deleted that was not before.
    pub async fn collect(
        self: &Arc<Self>,
        dry_run: bool,
        report: Report<'_>,
    ) -> Result<CollectReport> {
        let Ok(_alone) = self.push.collecting.try_lock() else {
            return Err(VolumeError::State(
                "a collection is under way already".to_owned(),
            ));
        };
        if self.db.read(crate::push::is_in_doubt)? {
            return Err(VolumeError::State(format!(
                "{} may have lost what it had, so nothing is deleted. `larder verify --stores` \
                 finds out",
                self.store.address()
            )));
        }
        self.mark(MarkWork::Notice).await?;
        let mut collecting = Collecting {
            volume: self,
            survey: Survey::new(self.dir.root())?,
            done: CollectReport::default(),
            report,
        };
        collecting.run(dry_run).await?;
        Ok(collecting.done)
    }
}

struct Collecting<'a> {
    volume: &'a Arc<Volume>,
    survey: Survey,
    done: CollectReport,
    report: Report<'a>,
}

impl Collecting<'_> {
    async fn run(&mut self, dry_run: bool) -> Result<()> {
        let volume = self.volume;
        let members = self.look()?;
        let unneeded = self.survey.unneeded()?;
        let given_up = self.survey.given_up()?;
        (self.done.commits_kept, self.done.commits_given_up) = self.survey.counted()?;
        let condemned = volume.db.read(|tx| condemned(volume, tx))?;
        let deleted = volume.db.read(|tx| deleted(volume, tx))?;
        let known: BTreeSet<PackId> = condemned.iter().map(|one| one.id).collect();
        let new: Vec<Unneeded> = unneeded
            .iter()
            .filter(|pack| !known.contains(&pack.id) && !deleted.contains(&pack.id))
            .copied()
            .collect();
        let still = unneeded.iter().filter(|pack| !deleted.contains(&pack.id));
        self.done.packs_condemned = still.clone().count() as u64;
        self.done.bytes_condemned = still.map(|pack| pack.size).sum();
        if dry_run {
            self.done.waiting = self.waiting(&members, &condemned, true)?;
            return Ok(());
        }
        self.note_members(&members)?;
        let let_off = self.needed_again(&condemned)?;
        let silent = self.silent(&members, &condemned)?;
        let is_news = !(new.is_empty() && given_up.is_empty() && let_off.is_empty());
        if is_news || silent != volume.db.read(without)? {
            self.condemn(&new, &given_up, &let_off, &silent)?;
            // Put, and then this replica takes notice itself, and commits.
            volume.mark(MarkWork::Publish).await?;
        }
        self.delete_ready().await
    }

    fn look(&mut self) -> Result<Members> {
        let (volume, report) = (self.volume, self.report);
        let survey = &mut self.survey;
        tokio::task::block_in_place(|| survey.look(volume, report))
    }

    /// Condemned packs that something kept needs.
    fn needed_again(&mut self, condemned: &[Condemned]) -> Result<Vec<PackId>> {
        let mut needed = Vec::new();
        for one in condemned {
            if self.survey.is_needed(&one.id)? {
                needed.push(one.id);
            }
        }
        self.done.packs_let_off += needed.len() as u64;
        Ok(needed)
    }

    /// What the next mark says: it is in the database before it is on the store.
    fn condemn(
        &self,
        new: &[Unneeded],
        given_up: &[ChunkId],
        let_off: &[PackId],
        silent: &BTreeSet<ReplicaId>,
    ) -> Result<()> {
        let volume = self.volume;
        let own = volume.replica().id();
        let apart = self.survey.apart()?;
        let mut losses = volume.push.losses();
        *losses += 1;
        volume.db.write_synced(|tx| {
            let next = marks::made(tx)? + 1;
            let time = node::now().0;
            let mut put = tx.prepare_cached(
                "INSERT OR REPLACE INTO doomed(pack, by, gone, since, time)
                 VALUES(?1, ?2, 0, ?3, ?4)",
            )?;
            for pack in new {
                put.execute((pack.id.as_bytes(), own.as_bytes(), next as i64, time))?;
            }
            for pack in let_off {
                release(tx, &own, pack)?;
            }
            let mut give_up =
                tx.prepare_cached("INSERT OR IGNORE INTO given_up(id, since) VALUES(?1, ?2)")?;
            let mut forget = tx.prepare_cached("DELETE FROM pages WHERE id = ?1")?;
            for id in given_up {
                give_up.execute((id.as_bytes(), next as i64))?;
                forget.execute([id.as_bytes()])?;
            }
            let apart: Vec<u8> = apart.iter().flat_map(|id| *id.as_bytes()).collect();
            set_meta(tx, marks::KEPT, &apart)?;
            let silent: Vec<u8> = silent.iter().flat_map(|id| *id.as_bytes()).collect();
            set_meta(tx, marks::WITHOUT, &silent)?;
            match new.is_empty() {
                true => Ok(()),
                false => marks::doom(tx),
            }
        })
    }

    /// Deletes what all members know to be condemned, and what nothing needs still.
    async fn delete_ready(&mut self) -> Result<()> {
        let volume = self.volume;
        let condemned = volume.db.read(|tx| condemned(volume, tx))?;
        let begun = volume.db.read(|tx| deleted(volume, tx))?;
        if condemned.is_empty() && begun.is_empty() {
            return Ok(());
        }
        // The members' words are read before what they reach is gone through.
        let members = self.look()?;
        self.note_members(&members)?;
        let let_off = self.needed_again(&condemned)?;
        let without = volume.db.read(without)?;
        let least = least_seen(volume, &members, &without);
        let is_ready = |one: &&Condemned| one.since <= least && !let_off.contains(&one.id);
        let ready: Vec<PackId> = condemned
            .iter()
            .filter(is_ready)
            .map(|one| one.id)
            .collect();
        self.done.waiting = self.waiting(&members, &condemned, false)?;
        if !ready.is_empty() || !let_off.is_empty() {
            self.note_deleted(&ready, &let_off)?;
            // Who reads the packs' list next knows that they go.
            volume.mark(MarkWork::Publish).await?;
        }
        let going: BTreeSet<PackId> = ready.into_iter().chain(begun).collect();
        let stays: BTreeSet<PackId> = condemned
            .iter()
            .map(|one| one.id)
            .filter(|id| !going.contains(id) && !let_off.contains(id))
            .collect();
        let staying = self.survey.on_store(&stays)?;
        self.done.packs_condemned = staying.len() as u64;
        self.done.bytes_condemned = staying.iter().map(|pack| pack.size).sum();
        self.delete(&going).await?;
        self.forget_what_all_know(&members).await
    }

    fn note_deleted(&self, ready: &[PackId], let_off: &[PackId]) -> Result<()> {
        let volume = self.volume;
        let own = volume.replica().id();
        volume.db.write_synced(|tx| {
            let next = marks::made(tx)? + 1;
            let mut set = tx.prepare_cached(
                "UPDATE doomed SET gone = 1, since = ?3 WHERE pack = ?1 AND by = ?2",
            )?;
            for pack in ready {
                set.execute((pack.as_bytes(), own.as_bytes(), next as i64))?;
            }
            for pack in let_off {
                release(tx, &own, pack)?;
            }
            marks::doom(tx)
        })
    }

    async fn delete(&mut self, packs: &BTreeSet<PackId>) -> Result<()> {
        let volume = self.volume;
        // One that a crash left has no index object any more that tells of it.
        let listed = self.survey.on_store(packs)?;
        let total: u64 = listed.iter().map(|pack| pack.size).sum();
        for pack in &listed {
            let name = object_key(pack_name(pack.kind, &pack.id))?;
            delete_object(volume, &name).await?;
            self.done.packs_deleted += 1;
            self.done.bytes_deleted += pack.size;
            (self.report)(Progress {
                phase: "deleting".to_owned(),
                done: self.done.bytes_deleted,
                total,
                unit: Unit::Bytes,
                path: None,
            });
        }
        Ok(())
    }

    /// What every member has seen to be deleted, and what nobody names any more, needs no place in
    /// the next mark.
    async fn forget_what_all_know(&mut self, members: &Members) -> Result<()> {
        let volume = self.volume;
        let own = volume.replica().id();
        // Those too for whom nobody waits: they come back.
        let least = least_seen(volume, members, &BTreeSet::new());
        let gone: Vec<ChunkId> = volume.db.read(|tx| {
            let mut known = tx.prepare("SELECT id FROM given_up WHERE since <= ?1")?;
            let rows = known.query_map([seen_as_i64(least)], |row| row.get::<_, Vec<u8>>(0))?;
            rows.map(|row| ChunkId::from_slice(&row?).ok_or_else(marks::damaged))
                .collect::<Result<_>>()
        })?;
        // What a mark names as kept, or as what a tree stands on.
        let said = volume.db.read(|tx| marks::all_said(volume, tx))?;
        let listed: BTreeSet<ChunkId> = said
            .into_iter()
            .flat_map(|(_, mark)| mark.kept.into_iter().chain(mark.bases))
            .collect();
        let mut unnamed = Vec::new();
        for id in gone {
            if !self.survey.is_named(&id)? && !listed.contains(&id) {
                unnamed.push(id);
            }
        }
        let noting = Arc::clone(volume);
        blocking(move || {
            noting.db.write_synced(|tx| {
                tx.prepare_cached(
                    "UPDATE doomed SET gone = 2 WHERE by = ?1 AND gone = 1 AND since <= ?2",
                )?
                .execute((own.as_bytes(), seen_as_i64(least)))?;
                let mut forget = tx.prepare_cached("DELETE FROM given_up WHERE id = ?1")?;
                for id in &unnamed {
                    forget.execute([id.as_bytes()])?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Notes what was seen of each replica, and when something new was.
    fn note_members(&self, members: &Members) -> Result<()> {
        let own = self.volume.replica().id();
        let now = node::now().0;
        self.volume.db.write(|tx| {
            let mut note = tx.prepare_cached(
                "INSERT INTO members(replica, head, mark, heard) VALUES(?1, ?2, 0, ?3)
                 ON CONFLICT(replica) DO UPDATE SET
                     heard = CASE WHEN excluded.head > head THEN excluded.heard ELSE heard END,
                     head = max(head, excluded.head)",
            )?;
            for (replica, head) in members.heads.iter().filter(|(replica, _)| **replica != own) {
                note.execute((replica.as_bytes(), *head as i64, now))?;
            }
            Ok(())
        })
    }

    /// Replicas whose word is missing, and of which nothing new was seen for the grace since what
    /// is condemned was.
    fn silent(&self, members: &Members, condemned: &[Condemned]) -> Result<BTreeSet<ReplicaId>> {
        let grace = self.volume.settings.member_grace.as_nanos() as i64;
        let now = node::now().0;
        let old = condemned.iter().filter(|one| now - one.time > grace);
        let Some(since) = old.map(|one| one.since).max() else {
            return Ok(BTreeSet::new());
        };
        let mut silent = BTreeSet::new();
        for (replica, heard) in self.lagging(members, since)? {
            if now - heard > grace {
                silent.insert(replica);
            }
        }
        Ok(silent)
    }

    /// Whose word on the mark `since` is missing, and when something new was last seen of each.
    fn lagging(&self, members: &Members, since: u64) -> Result<Vec<(ReplicaId, i64)>> {
        let own = self.volume.replica().id();
        let all: BTreeSet<_> = members.heads.keys().chain(members.marks.keys()).collect();
        let lagging = all.into_iter().filter(|replica| {
            let seen = members.marks.get(replica).map_or(0, |(_, seen)| *seen);
            **replica != own && seen < since
        });
        self.volume.db.read(|tx| {
            let mut find = tx.prepare_cached("SELECT heard FROM members WHERE replica = ?1")?;
            lagging
                .map(|replica| {
                    let heard = rusqlite::OptionalExtension::optional(
                        find.query_row([replica.as_bytes()], |row| row.get(0)),
                    )?;
                    Ok((*replica, heard.unwrap_or_else(|| node::now().0)))
                })
                .collect()
        })
    }

    fn waiting(
        &self,
        members: &Members,
        condemned: &[Condemned],
        is_dry: bool,
    ) -> Result<Vec<Waiting>> {
        let next = self.volume.db.read(marks::made)? + u64::from(is_dry);
        let new = (is_dry && self.done.packs_condemned > 0).then_some(next);
        let Some(since) = condemned.iter().map(|one| one.since).chain(new).max() else {
            return Ok(Vec::new());
        };
        let without = self.volume.db.read(without)?;
        let mut lagging = self.lagging(members, since)?;
        lagging.retain(|(replica, _)| !without.contains(replica));
        Ok(lagging
            .into_iter()
            .map(|(replica, heard)| Waiting { replica, heard })
            .collect())
    }
}

/// How far every member has seen this replica's marks.
fn least_seen(volume: &Volume, members: &Members, without: &BTreeSet<ReplicaId>) -> u64 {
    let own = volume.replica().id();
    let all = members.heads.keys().chain(members.marks.keys());
    all.filter(|replica| **replica != own && !without.contains(replica))
        .map(|replica| members.marks.get(replica).map_or(0, |(_, seen)| *seen))
        .min()
        .unwrap_or(u64::MAX)
}

fn seen_as_i64(seen: u64) -> i64 {
    i64::try_from(seen).unwrap_or(i64::MAX)
}

fn without(tx: &rusqlite::Connection) -> Result<BTreeSet<ReplicaId>> {
    marks::id_set(tx, marks::WITHOUT, ReplicaId)
}

fn release(tx: &Transaction<'_>, own: &ReplicaId, pack: &PackId) -> Result<()> {
    tx.prepare_cached("DELETE FROM doomed WHERE pack = ?1 AND by = ?2 AND gone = 0")?
        .execute((pack.as_bytes(), own.as_bytes()))?;
    marks::let_off(tx, pack)
}

fn deleted(volume: &Volume, tx: &rusqlite::Connection) -> Result<BTreeSet<PackId>> {
    marks::doomed_by(tx, &volume.replica().id(), 1)
}

fn condemned(volume: &Volume, tx: &rusqlite::Connection) -> Result<Vec<Condemned>> {
    let own = volume.replica().id();
    let mut statement =
        tx.prepare("SELECT pack, since, time FROM doomed WHERE by = ?1 AND gone = 0")?;
    let rows = statement.query_map([own.as_bytes()], |row| {
        Ok((
            row.get::<_, Vec<u8>>(0)?,
            row.get::<_, i64>(1)?,
            row.get(2)?,
        ))
    })?;
    rows.map(|row| {
        let (id, since, time) = row?;
        Ok(Condemned {
            id: PackId::from_slice(&id).ok_or_else(marks::damaged)?,
            since: since as u64,
            time,
        })
    })
    .collect()
}

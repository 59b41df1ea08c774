//! What is kept, and which packs hold nothing of it.
//!
//! A survey goes from the heads and bases on the store through all commits, and from those that are
//! kept through their trees and lists, each page once, whoever shares it. What it found lies in a
//! database of its own on the disk, which goes with it: memory does not grow with the store. The
//! index objects then tell which packs have nothing of what was found.
//!
//! Whatever it cannot see is an error: what is not seen must not count as not needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_format::{
    Commit, PackKind, References, decode_index, head_name, object, open_head, parse_index_name,
    parse_pack_name, read_mark,
};
use larder_model::{ChunkId, IndexId, KeepPolicy, PackId, ReplicaId};
use larder_plan::keep::{Keeper, Past};
use larder_store::ObjectMeta;
use rusqlite::{Connection, OptionalExtension};

use super::marks;
use crate::history::tag_lists;
use crate::progress::{Progress, Report, Unit};
use crate::pull::{fetch_chunks, heads_in, learn_indexes, list_heads};
use crate::push::{newest_tags, object_key, take_in_tags};
use crate::{Result, Volume, VolumeError};

/// Pages that are fetched and gone through at once.
const PAGES_AT_ONCE: usize = 256;

const TABLES: &str = "
    PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = FILE;
    PRAGMA cache_size = -8000;
    CREATE TABLE live(id BLOB PRIMARY KEY) WITHOUT ROWID, STRICT;
    CREATE TABLE todo(seq INTEGER PRIMARY KEY, id BLOB NOT NULL) STRICT;
    CREATE TABLE commits(
        id BLOB PRIMARY KEY, time INTEGER NOT NULL, wall INTEGER NOT NULL, named INTEGER NOT NULL,
        root INTEGER NOT NULL, kept INTEGER NOT NULL, linked INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE parents(
        child BLOB NOT NULL, parent BLOB NOT NULL, PRIMARY KEY(child, parent)
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE packs(
        id BLOB PRIMARY KEY, kind INTEGER NOT NULL, size INTEGER NOT NULL,
        live INTEGER NOT NULL, listed INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID, STRICT;
    CREATE TABLE listed(
        id BLOB PRIMARY KEY, kind INTEGER NOT NULL, size INTEGER NOT NULL
    ) WITHOUT ROWID, STRICT;";

/// What was found, in a database that goes with it.
pub(super) struct Survey {
    path: PathBuf,
    found: Connection,
    /// Whether the policy was asked already: what is new since is kept.
    is_decided: bool,
    /// What marks called given up at the first look.
    given_up_before: Option<BTreeSet<ChunkId>>,
    /// Commits that had names at the last look.
    tagged: BTreeSet<ChunkId>,
}

/// What a look at the store showed of its members.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// Of each replica that has a head there, the number of the newest.
    pub(super) heads: BTreeMap<ReplicaId, u64>,
    /// Of each that has a mark there, the number of the newest, and how far it has seen this
    /// replica's marks.
    pub(super) marks: BTreeMap<ReplicaId, (u64, u64)>,
}

/// What the history is gone through for.
struct Wanted {
    /// Commits that heads or bases name.
    roots: BTreeSet<ChunkId>,
    /// Commits that have names.
    tagged: BTreeSet<ChunkId>,
    /// Commits that no chain may lead to.
    candidates: BTreeSet<ChunkId>,
    /// Commits that marks call given up.
    given_up: BTreeSet<ChunkId>,
}

/// A pack that nothing needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unneeded {
    pub(super) id: PackId,
    pub(super) kind: PackKind,
    pub(super) size: u64,
}

impl Survey {
    /// An empty one, in this directory.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn new(directory: &Path) -> Result<Self> {
        let path = directory.join("survey.db");
        remove(&path)?;
        let found = Connection::open(&path)?;
        found.execute_batch(TABLES)?;
        Ok(Self {
            path,
            found,
            is_decided: false,
            given_up_before: None,
            tagged: BTreeSet::new(),
        })
    }

    /// Looks at the store, and goes through all that is kept. May be called again: what was gone
    /// through then is not gone through again. Blocks.
    ///
    /// # Errors
    /// If anything cannot be seen.
    pub(super) fn look(&mut self, volume: &Arc<Volume>, report: Report<'_>) -> Result<Members> {
        let (mut members, said) = self.read_marks(volume)?;
        // Index objects before heads: what a push put in between is in neither, or has its head.
        let indexes = self.list_indexes(volume)?;
        let listed = asked(volume, list_heads(volume.fetcher()))?;
        let heads = self.read_heads(volume, &listed, &mut members)?;
        let tagged = read_tags(volume, &listed)?;
        self.learn(volume)?;
        let mut roots: BTreeSet<ChunkId> = heads;
        let mut given_up = BTreeSet::new();
        let mut candidates = BTreeSet::new();
        for (_, mark) in &said {
            roots.extend(&mark.bases);
            given_up.extend(&mark.given_up);
            candidates.extend(&mark.kept);
        }
        roots.extend(volume.db.read(|tx| marks::bases(volume, tx))?);
        // A name for what was given up before does not bring it back.
        let before = self.given_up_before.get_or_insert(given_up.clone());
        self.tagged = tagged.difference(before).copied().collect();
        let wanted = Wanted {
            roots,
            tagged: self.tagged.clone(),
            candidates,
            given_up,
        };
        self.walk_commits(volume, &members, &wanted, report)?;
        let policy = marks::latest_retention(&said).and_then(|retention| retention.keep);
        self.decide(policy)?;
        self.walk_trees(volume, report)?;
        self.weigh_packs(volume, &indexes, report)?;
        Ok(members)
    }

    fn read_marks(
        &self,
        volume: &Arc<Volume>,
    ) -> Result<(Members, Vec<(ReplicaId, larder_format::Mark)>)> {
        let own = volume.replica().id();
        let listed = asked(volume, marks::list(&*volume.store))?;
        let known = volume.db.read(known_members)?;
        for (replica, (_, mark)) in &known {
            let newest = listed.get(replica).and_then(|numbers| numbers.last());
            if *replica != own && newest.copied().unwrap_or(0) < *mark {
                return Err(unseen(volume, &format!("mark {mark} of {replica}")));
            }
        }
        let mut members = Members::default();
        let mut said = volume.db.read(|tx| marks::all_said(volume, tx))?;
        said.retain(|(replica, _)| *replica == own);
        for (replica, numbers) in listed {
            let Some(&n) = numbers.last() else {
                continue;
            };
            if replica == own {
                self.refuse_later_own(volume, n)?;
                continue;
            }
            let reading = marks::read(&*volume.store, &volume.keys, &replica, n);
            let plain = asked(volume, reading)?;
            let mark = read_mark(&plain)?;
            let seen = mark.seen.get(&own).copied().unwrap_or(0);
            self.refuse_seen_later(volume, &replica, seen)?;
            members.marks.insert(replica, (n, seen));
            said.push((replica, mark));
        }
        Ok((members, said))
    }

    /// A mark of this replica that was not made here: its state is an old copy.
    fn refuse_later_own(&self, volume: &Volume, n: u64) -> Result<()> {
        match n > volume.db.read(marks::made)? {
            true => Err(VolumeError::State(format!(
                "the store has mark {n} of this machine, which was not made here: its state is an \
                 old copy. Restart its daemon, and collect then"
            ))),
            false => Ok(()),
        }
    }

    fn refuse_seen_later(&self, volume: &Volume, replica: &ReplicaId, seen: u64) -> Result<()> {
        match seen > volume.db.read(marks::made)? {
            true => Err(VolumeError::State(format!(
                "replica {replica} has seen mark {seen} of this machine, which was not made here: \
                 its state is an old copy. Restart its daemon, and collect then"
            ))),
            false => Ok(()),
        }
    }

    fn list_indexes(&self, volume: &Volume) -> Result<Vec<IndexId>> {
        let prefix = format!("{}/", object::INDEX);
        let found = asked(volume, volume.store.list(&prefix))?;
        let names = found.iter().map(|found| found.key.as_str());
        Ok(names.filter_map(parse_index_name).collect())
    }

    /// The commits that all heads on the store name.
    fn read_heads(
        &self,
        volume: &Volume,
        listed: &[ObjectMeta],
        members: &mut Members,
    ) -> Result<BTreeSet<ChunkId>> {
        let mut commits = BTreeSet::new();
        for (replica, numbers) in heads_in(listed) {
            let newest = numbers.iter().map(|(n, _)| *n).max().unwrap_or(0);
            members.heads.insert(replica, newest);
            for (n, _) in numbers {
                let name = object_key(head_name(&replica, n))?;
                let bytes = asked(volume, volume.store.get(&name))?;
                let Some(bytes) = bytes else {
                    // An old one goes when a new one came.
                    if n < newest {
                        continue;
                    }
                    return Err(unseen(volume, name.as_str()));
                };
                commits.insert(open_head(&volume.keys, &replica, n, &bytes)?.commit);
            }
        }
        for (replica, (head, _)) in volume.db.read(known_members)? {
            if members.heads.get(&replica).copied().unwrap_or(0) < head {
                return Err(unseen(volume, &format!("head {head} of {replica}")));
            }
        }
        Ok(commits)
    }

    /// Where everything lies that index objects tell of.
    fn learn(&self, volume: &Volume) -> Result<()> {
        let wait = volume.settings.read_wait * 4;
        let indexes = volume.seen.indexes();
        let learn = learn_indexes(volume.fetcher(), &volume.db, indexes, wait);
        match asked(volume, learn)?.into_iter().next() {
            Some(warning) => Err(VolumeError::Damaged(warning)),
            None => Ok(()),
        }
    }

    fn walk_commits(
        &self,
        volume: &Arc<Volume>,
        members: &Members,
        wanted: &Wanted,
        report: Report<'_>,
    ) -> Result<()> {
        let Wanted { roots, tagged, .. } = wanted;
        let stays = |id: &ChunkId| roots.contains(id) || tagged.contains(id);
        let is_out = |id: &ChunkId| wanted.given_up.contains(id) && !stays(id);
        let all = roots.iter().chain(tagged).chain(&wanted.candidates);
        let mut waiting: Vec<ChunkId> = all.copied().collect();
        while !waiting.is_empty() {
            waiting.retain(|id| !is_out(id));
            waiting.sort_unstable();
            waiting.dedup();
            let mut new = Vec::new();
            for id in waiting.drain(..) {
                match self.is_root(&id)? {
                    // A head came to name it since.
                    Some(false) if roots.contains(&id) => {
                        let mut set = self.found.prepare_cached(
                            "UPDATE commits SET root = 1, kept = 1 WHERE id = ?1",
                        )?;
                        set.execute([id.as_bytes()])?;
                        self.add_page(&id)?;
                    }
                    // It got a name since.
                    Some(false) if tagged.contains(&id) => {
                        let mut set = self.found.prepare_cached(
                            "UPDATE commits SET named = 1, kept = 1 WHERE id = ?1",
                        )?;
                        set.execute([id.as_bytes()])?;
                        self.add_page(&id)?;
                    }
                    Some(_) => {}
                    None => new.push(id),
                }
            }
            for some in new.chunks(PAGES_AT_ONCE) {
                for (id, bytes) in bring(volume, some)? {
                    let commit = Commit::decode(&bytes)?;
                    let is_root = roots.contains(&id);
                    if is_root {
                        refuse_unseen_heads(volume, members, &commit)?;
                    }
                    let is_named = commit.message.is_some() || tagged.contains(&id);
                    self.add_commit(&id, &commit, is_root, is_named)?;
                    waiting.extend(commit.parents);
                }
                report(progress("reading the history", self.count("commits")?));
            }
        }
        Ok(())
    }

    fn is_root(&self, id: &ChunkId) -> Result<Option<bool>> {
        let mut find = self
            .found
            .prepare_cached("SELECT root FROM commits WHERE id = ?1")?;
        Ok(find
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?)
    }

    fn add_commit(
        &self,
        id: &ChunkId,
        commit: &Commit,
        is_root: bool,
        is_named: bool,
    ) -> Result<()> {
        let mut insert = self.found.prepare_cached(
            "INSERT INTO commits(id, time, wall, named, root, kept) VALUES(?1, ?2, ?3, ?4, ?5, 1)",
        )?;
        insert.execute((
            id.as_bytes(),
            commit.time.0 as i64,
            commit.wall.0,
            is_named,
            is_root,
        ))?;
        let mut parents = self
            .found
            .prepare_cached("INSERT OR IGNORE INTO parents(child, parent) VALUES(?1, ?2)")?;
        for parent in &commit.parents {
            parents.execute((id.as_bytes(), parent.as_bytes()))?;
        }
        Ok(())
    }

    /// Decides which commits are kept; what a second look found is.
    fn decide(&mut self, policy: Option<KeepPolicy>) -> Result<()> {
        if !self.is_decided {
            let mut keeper = Keeper::new(policy);
            let mut all = self
                .found
                .prepare("SELECT id, wall, root, named FROM commits ORDER BY time DESC, id DESC")?;
            let mut give_up = self
                .found
                .prepare("UPDATE commits SET kept = 0 WHERE id = ?1")?;
            let mut rows = all.query([])?;
            let mut out: Vec<Vec<u8>> = Vec::new();
            while let Some(row) = rows.next()? {
                let past = Past {
                    wall: larder_model::Time(row.get(1)?),
                    is_needed: row.get(2)?,
                    is_named: row.get(3)?,
                };
                if !keeper.keeps(&past) {
                    out.push(row.get(0)?);
                }
            }
            for id in out {
                give_up.execute([id])?;
            }
        }
        self.is_decided = true;
        let mut kept = self
            .found
            .prepare("SELECT id FROM commits WHERE kept = 1")?;
        let mut rows = kept.query([])?;
        while let Some(row) = rows.next()? {
            let id: Vec<u8> = row.get(0)?;
            self.add_page(&ChunkId::from_slice(&id).ok_or_else(marks::damaged)?)?;
        }
        Ok(())
    }

    fn add_page(&self, id: &ChunkId) -> Result<()> {
        let new = self.add_chunk(id)?;
        if new {
            self.found
                .prepare_cached("INSERT INTO todo(id) VALUES(?1)")?
                .execute([id.as_bytes()])?;
        }
        Ok(())
    }

    /// Whether it was not there yet.
    fn add_chunk(&self, id: &ChunkId) -> Result<bool> {
        let mut insert = self
            .found
            .prepare_cached("INSERT OR IGNORE INTO live(id) VALUES(?1)")?;
        Ok(insert.execute([id.as_bytes()])? > 0)
    }

    fn walk_trees(&self, volume: &Arc<Volume>, report: Report<'_>) -> Result<()> {
        let mut done = 0;
        loop {
            let (last, some) = self.some_todo()?;
            if some.is_empty() {
                return Ok(());
            }
            self.found.execute_batch("BEGIN")?;
            for (_, bytes) in bring(volume, &some)? {
                let found = References::of_page(&bytes)?;
                for page in found.pages {
                    self.add_page(&page)?;
                }
                for chunk in found.chunks {
                    self.add_chunk(&chunk)?;
                }
            }
            self.found
                .execute("DELETE FROM todo WHERE seq <= ?1", [last])?;
            self.found.execute_batch("COMMIT")?;
            done += some.len() as u64;
            if volume.is_stopping() {
                return Err(VolumeError::Stopping);
            }
            report(progress("going through what is kept", done));
        }
    }

    fn some_todo(&self) -> Result<(i64, Vec<ChunkId>)> {
        let mut some = self
            .found
            .prepare_cached("SELECT seq, id FROM todo ORDER BY seq LIMIT ?1")?;
        let rows = some.query_map([PAGES_AT_ONCE as i64], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })?;
        let (mut last, mut ids) = (0, Vec::new());
        for row in rows {
            let (seq, id) = row?;
            last = seq;
            ids.push(ChunkId::from_slice(&id).ok_or_else(marks::damaged)?);
        }
        Ok((last, ids))
    }

    /// Which packs hold something that is kept, by what the index objects say.
    fn weigh_packs(
        &self,
        volume: &Arc<Volume>,
        indexes: &[IndexId],
        report: Report<'_>,
    ) -> Result<()> {
        self.found.execute_batch("DELETE FROM packs")?;
        let mut is_live = self.found.prepare("SELECT 1 FROM live WHERE id = ?1")?;
        let mut put = self.found.prepare(
            "INSERT INTO packs(id, kind, size, live) VALUES(?1, ?2, ?3, ?4)
             ON CONFLICT(id) DO UPDATE SET live = max(live, excluded.live)",
        )?;
        for (at, id) in indexes.iter().enumerate() {
            let name = object_key(larder_format::index_name(id))?;
            let bytes = asked(volume, volume.store.get(&name))?;
            // Merged into another one meanwhile.
            let bytes = bytes.ok_or_else(|| unseen(volume, name.as_str()))?;
            for pack in decode_index(&volume.keys, &bytes)? {
                let mut live = false;
                for entry in &pack.entries {
                    live = live || is_live.exists([entry.chunk.as_bytes()])?;
                }
                put.execute((pack.id.as_bytes(), pack.seal.kind.code(), pack.size, live))?;
            }
            report(progress("reading indexes", at as u64 + 1));
        }
        self.compare_with_list(volume)
    }

    /// What is needed must be listed by the store, or it is not to be believed in anything.
    fn compare_with_list(&self, volume: &Volume) -> Result<()> {
        let mut set = self
            .found
            .prepare("UPDATE packs SET listed = 1, size = ?2 WHERE id = ?1")?;
        self.found.execute_batch("DELETE FROM listed")?;
        let mut list = self
            .found
            .prepare("INSERT OR REPLACE INTO listed(id, kind, size) VALUES(?1, ?2, ?3)")?;
        for prefix in [object::TREES, object::PACKS] {
            let prefix = format!("{prefix}/");
            for found in asked(volume, volume.store.list(&prefix))? {
                if let Some((kind, id)) = parse_pack_name(found.key.as_str()) {
                    set.execute((id.as_bytes(), found.size as i64))?;
                    list.execute((id.as_bytes(), kind.code(), found.size as i64))?;
                }
            }
        }
        let missing: Option<Vec<u8>> = self
            .found
            .query_row(
                "SELECT id FROM packs WHERE live = 1 AND listed = 0 LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()?;
        match missing.and_then(|id| PackId::from_slice(&id)) {
            Some(id) => Err(unseen(volume, &format!("pack {id}"))),
            None => Ok(()),
        }
    }

    /// The packs that nothing kept needs and that the store lists.
    pub(super) fn unneeded(&self) -> Result<Vec<Unneeded>> {
        self.packs("SELECT id, kind, size FROM packs WHERE live = 0 AND listed = 1")
    }

    /// Those of these packs that the store lists, whether an index object tells of them or not.
    pub(super) fn on_store(&self, ids: &BTreeSet<PackId>) -> Result<Vec<Unneeded>> {
        let mut listed = self.packs("SELECT id, kind, size FROM listed")?;
        listed.retain(|pack| ids.contains(&pack.id));
        Ok(listed)
    }

    fn packs(&self, query: &str) -> Result<Vec<Unneeded>> {
        let mut statement = self.found.prepare(query)?;
        let rows = statement.query_map([], |row| {
            Ok((
                row.get::<_, Vec<u8>>(0)?,
                row.get::<_, u8>(1)?,
                row.get::<_, i64>(2)?,
            ))
        })?;
        rows.map(|row| {
            let (id, kind, size) = row?;
            Ok(Unneeded {
                id: PackId::from_slice(&id).ok_or_else(marks::damaged)?,
                kind: PackKind::from_code(kind).ok_or_else(marks::damaged)?,
                size: size as u64,
            })
        })
        .collect()
    }

    /// Whether something that is kept needs the pack; of one that no index object tells of, yes.
    pub(super) fn is_needed(&self, id: &PackId) -> Result<bool> {
        let live: Option<bool> = self
            .found
            .prepare_cached("SELECT live FROM packs WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| row.get(0))
            .optional()?;
        Ok(live.unwrap_or(true))
    }

    /// Whether a commit that is there names this one as its parent.
    pub(super) fn is_named(&self, id: &ChunkId) -> Result<bool> {
        let mut find = self
            .found
            .prepare_cached("SELECT 1 FROM parents WHERE parent = ?1")?;
        Ok(find.exists([id.as_bytes()])?)
    }

    /// How many commits are kept, and how many are not.
    pub(super) fn counted(&self) -> Result<(u64, u64)> {
        let count = |kept: i64| -> Result<u64> {
            let query = "SELECT count(*) FROM commits WHERE kept = ?1";
            let count: i64 = self.found.query_row(query, [kept], |row| row.get(0))?;
            Ok(count as u64)
        };
        Ok((count(1)?, count(0)?))
    }

    /// The commits that are given up.
    pub(super) fn given_up(&self) -> Result<Vec<ChunkId>> {
        self.ids("SELECT id FROM commits WHERE kept = 0")
    }

    /// Commits that are kept, and that no chain of kept commits leads to.
    pub(super) fn apart(&self) -> Result<Vec<ChunkId>> {
        let mut apart = self.ids(
            "WITH RECURSIVE linked(id) AS (
                 SELECT id FROM commits WHERE root = 1
                 UNION SELECT p.parent FROM linked l JOIN parents p ON p.child = l.id
                       JOIN commits c ON c.id = p.parent WHERE c.kept = 1)
             SELECT id FROM commits WHERE kept = 1 AND id NOT IN (SELECT id FROM linked)",
        )?;
        // Without its name, such a one is found by this.
        apart.extend(&self.tagged);
        apart.sort_unstable();
        apart.dedup();
        Ok(apart)
    }

    fn ids(&self, query: &str) -> Result<Vec<ChunkId>> {
        let mut statement = self.found.prepare(query)?;
        let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
        rows.map(|row| ChunkId::from_slice(&row?).ok_or_else(marks::damaged))
            .collect()
    }

    fn count(&self, table: &str) -> Result<u64> {
        let query = format!("SELECT count(*) FROM {table}");
        let count: i64 = self.found.query_row(&query, [], |row| row.get(0))?;
        Ok(count as u64)
    }
}

impl Drop for Survey {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::debug!(%error, "a survey's database stays until the next one");
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(VolumeError::io(path, error))
        }
        _ => Ok(()),
    }
}

fn progress(phase: &str, done: u64) -> Progress {
    Progress {
        phase: phase.to_owned(),
        done,
        total: done,
        unit: Unit::Files,
        path: None,
    }
}

fn unseen(volume: &Volume, what: &str) -> VolumeError {
    VolumeError::State(format!(
        "{} does not show {what}, which must be there: its list may be an old one, or it lost \
         something. Nothing is deleted. Try again; `larder verify --stores` tells what is lost",
        volume.store.address()
    ))
}

/// The clock of a commit speaks of others: their heads must be listed.
fn refuse_unseen_heads(volume: &Volume, members: &Members, commit: &Commit) -> Result<()> {
    for dot in commit.clock.iter() {
        let newest = members.heads.get(&dot.replica).copied().unwrap_or(0);
        if newest < dot.commit {
            let what = format!("head {} of {}", dot.commit, dot.replica);
            return Err(unseen(volume, &what));
        }
    }
    Ok(())
}

/// What was seen of each replica before: its newest head and mark.
fn known_members(tx: &Connection) -> Result<Vec<(ReplicaId, (u64, u64))>> {
    let mut statement = tx.prepare_cached("SELECT replica, head, mark FROM members")?;
    let rows = statement.query_map([], |row| {
        let (head, mark) = (row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64);
        Ok((row.get::<_, Vec<u8>>(0)?, (head, mark)))
    })?;
    rows.map(|row| {
        let (id, known) = row?;
        Ok((
            ReplicaId::from_slice(&id).ok_or_else(marks::damaged)?,
            known,
        ))
    })
    .collect()
}

/// Waits on this thread for what the store answers, unless it is time to stop.
fn asked<T, E>(volume: &Volume, request: impl Future<Output = Result<T, E>>) -> Result<T>
where
    VolumeError: From<E>,
{
    let shared = volume.push.shared();
    volume.runtime.block_on(async {
        tokio::select! {
            biased;
            () = shared.stopped() => Err(VolumeError::Stopping),
            answer = request => Ok(answer?),
        }
    })
}

/// The commits that have names, by what lies beside the heads.
fn read_tags(volume: &Arc<Volume>, listed: &[ObjectMeta]) -> Result<BTreeSet<ChunkId>> {
    let own = volume.replica().id();
    let newest = newest_tags(listed);
    for (replica, list) in volume.db.read(tag_lists)? {
        if replica != own && newest.get(&replica).copied().unwrap_or(0) < list.n {
            return Err(unseen(
                volume,
                &format!("list {} of the tags of {replica}", list.n),
            ));
        }
    }
    let warnings = asked(volume, take_in_tags(volume, listed))?;
    match warnings.into_iter().next() {
        Some(words) => Err(VolumeError::Damaged(words)),
        None => volume.tagged_commits(),
    }
}

/// Pages and commits: from the database, or from the store.
fn bring(volume: &Arc<Volume>, ids: &[ChunkId]) -> Result<Vec<(ChunkId, Vec<u8>)>> {
    let (mut brought, mut away) = (Vec::with_capacity(ids.len()), Vec::new());
    volume.db.read(|tx| {
        let mut page = tx.prepare_cached("SELECT bytes FROM pages WHERE id = ?1")?;
        let mut list = tx.prepare_cached("SELECT bytes FROM lists WHERE id = ?1")?;
        let mut place = tx.prepare_cached("SELECT 1 FROM chunks WHERE id = ?1")?;
        for id in ids {
            if !place.exists([id.as_bytes()])? {
                return Err(unseen(volume, &format!("commit or page {id}")));
            }
            let bytes = page
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()?;
            let bytes: Option<Vec<u8>> = match bytes {
                Some(bytes) => Some(bytes),
                None => list
                    .query_row([id.as_bytes()], |row| row.get(0))
                    .optional()?,
            };
            match bytes.filter(|bytes| volume.keys.chunk_id(bytes) == *id) {
                Some(bytes) => brought.push((*id, bytes)),
                None => away.push(*id),
            }
        }
        Ok(())
    })?;
    let wait = volume.settings.read_wait * 4;
    let mut take = |id: ChunkId, bytes: &[u8]| {
        brought.push((id, bytes.to_vec()));
        Ok(())
    };
    let fetching = fetch_chunks(volume.fetcher(), &volume.db, &away, wait, &mut take);
    asked(volume, fetching)?;
    Ok(brought)
}

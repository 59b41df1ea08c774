//! Commits: when they are made, and the order in which they leave.
//!
//! One commit is under way at a time. Its number, its pages and the sealed bytes of its head
//! are durable in the database before anything that carries the number leaves; so after a
//! crash the same bytes are sent again, and no number is ever used twice. Then go, each
//! after the one before was acknowledged: the tree packs (the data packs are there already,
//! or the commit would not tell of their content), the index, the head. Only then are the
//! changes that it took forgotten, and its content is safe to drop here.

use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_format::peer::Newest;
use larder_format::{Pack, PackKind, PackWriter, seal_head};
use larder_model::{ChunkId, Clock};
use larder_plan::settle::{CommitRules, Due, Uncommitted};
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{mpsc, oneshot};

use super::draft::{self, Draft, Taken};
use super::heads::{self, Compared, Pushed};
use super::identity;
use super::index::{self, blocking};
use super::ingest::{compressor, is_stored, salt};
use super::meet::{Looks, is_away};
use super::proof::{self, Accepted};
use super::request::{Asked, CommitRequest, MarkWork, Request};
use super::shared::Shared;
use super::upload;
use crate::collect::{marks, rest};
use crate::db::Transaction;
use crate::join::Merged;
use crate::pull::forget_pages;
use crate::{Result, Volume, VolumeError};

/// While writers wait for room, commits follow each other this closely.
const PRESSED_INTERVAL: Duration = Duration::from_millis(500);
/// The same while another machine watches.
const INTERVAL_WHEN_WATCHED: Duration = Duration::from_secs(1);
const TICK_WHEN_WATCHED: Duration = Duration::from_millis(50);
const REST_AFTER_FAILURE: Duration = Duration::from_secs(5);
/// Marks that only say what the tree stands on follow each other no closer.
const MARK_PAUSE: Duration = Duration::from_secs(60);

/// Offers all changes to the next commit again that were held back.
///
/// # Errors
/// If the database fails.
pub(super) fn wake_held(tx: &Transaction<'_>) -> Result<()> {
    tx.prepare_cached("UPDATE changed SET seq = 1 WHERE seq < 0")?
        .execute([])?;
    Ok(())
}

/// Starts the task that makes commits; the answer ends when it has ended.
pub(super) fn start(
    volume: &Arc<Volume>,
    inbox: mpsc::UnboundedReceiver<Request>,
) -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    let shared = Arc::clone(&volume.push.shared);
    let mut committer = Committer {
        shared: Arc::clone(&shared),
        volume: Arc::downgrade(volume),
        rules: CommitRules {
            interval: volume.settings.commit_interval,
            idle: (volume.settings.commit_interval / 4).min(Duration::from_secs(3)),
            most_nodes: volume.settings.commit_nodes.max(1),
        },
        first_change: None,
        last_change: Duration::ZERO,
        last_seen: 0,
        last_commit: Duration::ZERO,
        looks: Looks::new(volume.settings.sync_interval),
        is_cut: false,
        needs_begin: true,
        rest_until: Duration::ZERO,
        last_look: None,
        last_mark: None,
    };
    volume.runtime.spawn(async move {
        tokio::select! {
            () = committer.work(inbox) => {}
            () = shared.stopped() => {}
        }
        drop(end);
    });
    ended
}

pub(super) struct Committer {
    pub(super) shared: Arc<Shared>,
    volume: Weak<Volume>,
    rules: CommitRules,
    first_change: Option<Duration>,
    last_change: Duration,
    /// The number of the last change that was seen.
    last_seen: i64,
    last_commit: Duration,
    /// When others are looked for.
    pub(super) looks: Looks,
    /// Whether the last commit was not acknowledged: an error came in between.
    pub(super) is_cut: bool,
    /// Whether others may not know of this replica yet: it has no mark, or is a new one.
    needs_begin: bool,
    /// What failed by itself is not tried again before.
    rest_until: Duration,
    /// When the marks of others were last looked at.
    last_look: Option<Duration>,
    /// When a mark was last put only to say what the tree stands on.
    last_mark: Option<Duration>,
}

/// A commit that the store has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    n: u64,
    id: ChunkId,
    /// Whether changes are left for another one.
    more: bool,
}

impl Committer {
    async fn work(&mut self, mut inbox: mpsc::UnboundedReceiver<Request>) {
        if !self.begin().await {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let usual =
            (self.rules.interval / 8).clamp(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            let is_watched = self
                .volume
                .upgrade()
                .is_some_and(|volume| volume.is_watched());
            let tick = match is_watched {
                true => usual.min(TICK_WHEN_WATCHED),
                false => usual,
            };
            let request = tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => Some(request),
                    None => return,
                },
                () = shared.others_changed.notified() => {
                    self.looks.soon(shared.now());
                    None
                }
                () = tokio::time::sleep(tick) => None,
            };
            let Some(volume) = self.volume.upgrade() else {
                return;
            };
            if request.is_none() && self.shared.now() < self.rest_until {
                continue;
            }
            let done = match request {
                Some(Request::Commit(request)) => self.answer(&volume, request).await,
                Some(Request::Sync(deletions, reply)) => {
                    let done = self.sync(&volume, deletions).await;
                    let is_over = matches!(done, Err(VolumeError::Stopping));
                    // Whoever asked may be gone.
                    let _ = reply.send(done);
                    match is_over {
                        true => Err(VolumeError::Stopping),
                        false => Ok(()),
                    }
                }
                Some(Request::Mark(work, reply)) => {
                    let done = self.mark(&volume, work).await;
                    let is_over = matches!(done, Err(VolumeError::Stopping));
                    // Whoever asked may be gone.
                    let _ = reply.send(done);
                    match is_over {
                        true => Err(VolumeError::Stopping),
                        false => Ok(()),
                    }
                }
                None => self.do_what_is_due(&volume).await,
            };
            match done {
                Ok(()) => self.shared.warnings.clear("commit"),
                Err(VolumeError::Stopping) => return,
                Err(error) => {
                    self.shared
                        .warnings
                        .set("commit", format!("no commit could be made: {error}"));
                    self.rest_until = self.shared.now() + REST_AFTER_FAILURE;
                }
            }
        }
    }

    /// Compares this replica with what the store knows of it, and ends what the last run
    /// began, unless the store takes nothing. False if it is time to stop.
    async fn begin(&mut self) -> bool {
        loop {
            let Some(volume) = self.volume.upgrade() else {
                return false;
            };
            let begun = async {
                if let Compared::Apart(apart) = heads::compare(&self.shared, &volume).await? {
                    identity::go_on_as_new(&volume, apart).await?;
                }
                self.be_member(&volume).await
            };
            let error = match begun.await {
                Ok(()) => {
                    self.shared.warnings.clear("commit");
                    return true;
                }
                Err(VolumeError::Stopping) => return false,
                Err(error) => error,
            };
            self.shared
                .warnings
                .set("commit", format!("no commit could be made: {error}"));
            if is_refusal(&error) {
                // What needs no put goes on.
                return true;
            }
            drop(volume);
            tokio::time::sleep(REST_AFTER_FAILURE).await;
        }
    }

    /// Before anything is stored under this replica's id: others know of it, and what it made
    /// durable is there.
    pub(super) async fn be_member(&mut self, volume: &Arc<Volume>) -> Result<()> {
        if !self.needs_begin {
            return Ok(());
        }
        loop {
            marks::begin(&self.shared, volume).await?;
            if resume(&self.shared, volume).await? {
                break;
            }
        }
        self.needs_begin = false;
        self.shared.allow_push();
        Ok(())
    }

    async fn do_what_is_due(&mut self, volume: &Arc<Volume>) -> Result<()> {
        self.be_member(volume).await?;
        self.commit_if_due(volume).await?;
        self.look_if_due(volume).await?;
        self.look_at_marks_if_due(volume).await
    }

    async fn commit_if_due(&mut self, volume: &Arc<Volume>) -> Result<()> {
        let waiting = self.uncommitted(volume).await?;
        let now = self.shared.now();
        // What is stored takes room here until a commit holds it.
        let makes_room = self.shared.is_pressed()
            && waiting.nodes > 0
            && now >= self.last_commit + PRESSED_INTERVAL;
        let rules = match volume.is_watched() {
            true if now >= self.last_commit + INTERVAL_WHEN_WATCHED => self.rules.when_watched(),
            _ => self.rules,
        };
        let is_due = makes_room || self.is_cut || rules.due(now, &waiting) == Due::Now;
        if !is_due {
            return Ok(());
        }
        while self.commit(volume, CommitRequest::default()).await?.more {}
        self.last_commit = self.shared.now();
        crate::pull::make_room_soon(volume);
        Ok(())
    }

    async fn uncommitted(&mut self, volume: &Arc<Volume>) -> Result<Uncommitted> {
        let most = self.rules.most_nodes;
        let reading = Arc::clone(volume);
        let (nodes, last) = blocking(move || count_uncommitted(&reading, most)).await?;
        let now = self.shared.now();
        if nodes == 0 {
            self.first_change = None;
        }
        if last != self.last_seen {
            self.last_seen = last;
            self.last_change = now;
        }
        Ok(Uncommitted {
            nodes,
            first_change: *self.first_change.get_or_insert(now),
            last_change: self.last_change,
            storing: self.shared.outbox.is_busy(),
        })
    }

    /// Makes the commit that a user asked for. Changes that are too many for one go ahead
    /// in others; the last one has the message.
    async fn answer(&mut self, volume: &Arc<Volume>, asked: Asked) -> Result<()> {
        let Asked { request, reply } = asked;
        let made = match request.paths.is_empty() {
            true => self.commit_all(volume, request.message).await,
            false => self.commit_paths(volume, request).await,
        };
        let (answer, own) = match made {
            Ok(made) => (Ok((made.n, made.id)), Ok(())),
            Err(error) => {
                let words = error.to_string();
                (Err(error), Err(VolumeError::State(words)))
            }
        };
        // Whoever asked may be gone.
        let _ = reply.send(answer);
        own
    }

    async fn commit_paths(&mut self, volume: &Arc<Volume>, request: CommitRequest) -> Result<Made> {
        loop {
            let made = self.commit(volume, request.clone()).await?;
            if !made.more {
                return Ok(made);
            }
        }
    }

    pub(super) async fn commit_all(
        &mut self,
        volume: &Arc<Volume>,
        message: Option<String>,
    ) -> Result<Made> {
        let reading = Arc::clone(volume);
        let most = self.rules.most_nodes;
        let (nodes, _) = blocking(move || count_uncommitted(&reading, most + 1)).await?;
        if nodes > most {
            while self.commit(volume, CommitRequest::default()).await?.more {}
        }
        let request = CommitRequest {
            message,
            paths: Vec::new(),
        };
        self.commit(volume, request).await
    }

    /// Makes commits of what was changed here, if anything was.
    pub(super) async fn commit_changes(&mut self, volume: &Arc<Volume>) -> Result<()> {
        let reading = Arc::clone(volume);
        let (nodes, _) = blocking(move || {
            reading.flush_lives();
            count_uncommitted(&reading, 1)
        })
        .await?;
        if nodes > 0 || self.is_cut {
            self.commit_all(volume, None).await?;
        }
        Ok(())
    }

    /// Makes one commit and pushes it. If nothing differs and it has no message, what was
    /// noted as changed is as the latest commit has it, and that one is answered.
    async fn commit(&mut self, volume: &Arc<Volume>, request: CommitRequest) -> Result<Made> {
        self.first_change = None;
        if self.is_cut {
            // The next one builds on its pages, and they may not be stored yet.
            self.needs_begin |= !resume(&self.shared, volume).await?;
            self.is_cut = false;
        }
        loop {
            self.be_member(volume).await?;
            if let Some(made) = self.try_commit(volume, request.clone()).await? {
                return Ok(made);
            }
        }
    }

    /// As [`Committer::commit`]; `None` if this is a new replica now, and has to do it again.
    async fn try_commit(
        &mut self,
        volume: &Arc<Volume>,
        request: CommitRequest,
    ) -> Result<Option<Made>> {
        let most = self.rules.most_nodes;
        let drafting = Arc::clone(volume);
        let draft = blocking(move || make_draft(&drafting, request, most)).await?;
        let more = draft.taken.more && !draft.taken.is_empty();
        let must = draft.commit.message.is_some();
        if !draft.differs && !must {
            // What was stored anew of what the latest commit has is in new packs.
            index::push(&self.shared, volume).await?;
            let is_all = self.look_before_safe(volume).await?;
            let noting = Arc::clone(volume);
            let note = move || note_no_difference(&noting, &draft.taken, is_all);
            let latest = blocking(note).await?;
            return Ok(Some(Made { more, ..latest }));
        }
        let (n, id) = (draft.commit.n, draft.id);
        let head = seal_head(&volume.keys, &volume.replica(), n, id, salt()?)?;
        let keeping = Arc::clone(volume);
        // Whatever fails from here on: it may be durable.
        self.is_cut = true;
        let (draft, head) = blocking(move || {
            make_durable(&keeping, &draft, &head)?;
            Ok((draft, head))
        })
        .await?;
        let is_sent = self.send(volume, draft, head).await?;
        Ok(is_sent.then_some(Made { n, id, more }))
    }

    /// Sends a commit that is durable. False if this is a new replica now.
    pub(super) async fn send(
        &mut self,
        volume: &Arc<Volume>,
        draft: Draft,
        head: Vec<u8>,
    ) -> Result<bool> {
        let (n, id) = (draft.commit.n, draft.id);
        self.is_cut = true;
        let accepted = match push(&self.shared, volume, n, draft.pages, head).await? {
            Pushed::Put(accepted) => accepted,
            Pushed::Apart(apart) => {
                identity::go_on_as_new(volume, apart).await?;
                self.is_cut = false;
                self.needs_begin = true;
                return Ok(false);
            }
        };
        let is_all = self.look_before_safe(volume).await?;
        let noting = Arc::clone(volume);
        let note = move || note_acknowledged(&noting, n, &draft.taken, is_all, accepted.as_ref());
        blocking(note).await?;
        self.is_cut = false;
        volume
            .push
            .stored
            .send_replace(Some(Newest { n, commit: id }));
        tracing::debug!(n, %id, "a commit is stored");
        heads::drop_old(volume, &volume.store).await;
        if let Err(error) = index::tidy(volume, n).await {
            tracing::debug!(%error, "index objects are tidied up later");
        }
        Ok(true)
    }

    /// Says what the tree stands on, if a join changed that; not more often than once a minute.
    pub(super) async fn say_what_it_stands_on(&mut self, volume: &Arc<Volume>) -> Result<()> {
        let now = self.shared.now();
        let is_due = self.last_mark.is_none_or(|last| now >= last + MARK_PAUSE);
        if !is_due || self.needs_begin || !marks::stands_elsewhere(volume)? {
            return Ok(());
        }
        self.last_mark = Some(now);
        match marks::publish(&self.shared, volume).await {
            // What was taken in is here all the same, and said later.
            Err(error) if is_refusal(&error) => Ok(()),
            done => done,
        }
    }

    /// As [`Committer::mark`], for who takes in what others did: that works with a store that may
    /// only be read, too.
    pub(super) async fn notice_if_let(&mut self, volume: &Arc<Volume>) -> Result<()> {
        match self.mark(volume, MarkWork::Notice).await {
            Err(error) if is_refusal(&error) => {
                self.shared.warnings.set(
                    "commit",
                    format!("other machines do not know what this one needs: {error}"),
                );
                Ok(())
            }
            done => done,
        }
    }

    /// Does something about marks, between two commits.
    pub(super) async fn mark(&mut self, volume: &Arc<Volume>, work: MarkWork) -> Result<()> {
        self.be_member(volume).await?;
        // What could not be read is not among what is answered.
        marks::notice(&self.shared, volume).await?;
        self.last_look = Some(self.shared.now());
        // What is noticed while the commit is sent is not answered by it.
        let reading = Arc::clone(volume);
        let noticed = blocking(move || marks::noticed(&reading)).await?;
        self.commit_all(volume, None).await?;
        let owed = marks::is_word_owed(volume)?;
        if owed {
            rest::rescue_uncommitted(volume).await?;
            index::forget_deleted(&self.shared, volume).await?;
        }
        let giving = Arc::clone(volume);
        blocking(move || marks::give_word(&giving, &noticed)).await?;
        if owed || work == MarkWork::Publish || marks::stands_elsewhere(volume)? {
            marks::publish(&self.shared, volume).await?;
        }
        if work == MarkWork::Publish {
            marks::settle_own(volume).await?;
            index::forget_deleted(&self.shared, volume).await?;
            self.commit_all(volume, None).await?;
            rest::rescue_uncommitted(volume).await?;
        }
        Ok(())
    }

    async fn look_at_marks_if_due(&mut self, volume: &Arc<Volume>) -> Result<()> {
        let now = self.shared.now();
        let last = *self.last_look.get_or_insert(now);
        if now < last + volume.settings.mark_interval {
            return Ok(());
        }
        // What cannot be asked now is asked later; nobody here waits for it.
        self.last_look = Some(now);
        match self.mark(volume, MarkWork::Notice).await {
            Err(VolumeError::Stopping) => Err(VolumeError::Stopping),
            Err(error) => {
                tracing::debug!(%error, "the marks of others are looked at later");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What a head reaches is safe only if the marks were seen lately: others may have waited for
    /// this replica in vain. False if not all of them can be read: then nothing is safe yet. A
    /// store that is away is waited for.
    async fn look_before_safe(&self, volume: &Arc<Volume>) -> Result<bool> {
        loop {
            match marks::look_if_old(&self.shared, volume).await {
                Err(error) if is_away(&error) && !is_refusal(&error) => {
                    tracing::debug!(%error, "the marks of others are waited for");
                }
                looked => return looked,
            }
            if !self.shared.pause(REST_AFTER_FAILURE).await {
                return Err(VolumeError::Stopping);
            }
        }
    }
}

/// Whether the store takes nothing until a user acts.
fn is_refusal(error: &VolumeError) -> bool {
    matches!(error, VolumeError::Store(error) if !error.is_passing())
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.held.is_empty() && self.gone.is_empty()
    }
}

/// What a join takes in must not rest on packs that others may delete.
pub(super) async fn rescue_taken(volume: &Arc<Volume>, merged: &Merged) -> Result<()> {
    let after = merged.changes.iter().filter_map(|changed| {
        let after = changed.after.as_deref()?;
        after.is_alive().then(|| after.content().cloned()).flatten()
    });
    let pages = merged.pages.keys().copied().collect();
    rest::rescue(volume, after.collect(), pages).await
}

/// Stores those of the latest trees' pages, and of the commits, that no pack has that counts.
///
/// # Errors
/// [`VolumeError::Stopping`], and failures of the database.
pub(crate) async fn store_pages_anew(shared: &Shared, volume: &Arc<Volume>) -> Result<()> {
    let packing = Arc::clone(volume);
    let packs = blocking(move || {
        let pages = packing
            .db
            .read(|connection| pages_where(connection, UNSTORED_PAGES))?;
        pack_pages(&packing, pages)
    })
    .await?;
    for pack in packs {
        let sent = upload::send(shared, &volume.store, pack).await?;
        let noting = Arc::clone(volume);
        blocking(move || upload::record_for_commit(&noting, sent)).await?;
    }
    Ok(())
}

fn pages_where(connection: &Connection, query: &str) -> Result<Vec<(ChunkId, Vec<u8>)>> {
    let mut statement = connection.prepare(query)?;
    statement
        .query_map([], |row| Ok((row.get::<_, Vec<u8>>(0)?, row.get(1)?)))?
        .map(|row| {
            let (id, bytes) = row?;
            let id = ChunkId::from_slice(&id).ok_or_else(|| {
                VolumeError::Damaged("the database's pages are damaged".to_owned())
            })?;
            Ok((id, bytes))
        })
        .collect()
}

/// How many changes wait for a commit, at most `most`, and the number of the last.
fn count_uncommitted(volume: &Volume, most: u64) -> Result<(u64, i64)> {
    volume.db.read(|connection| {
        let count = |query: &str| -> Result<i64> {
            Ok(connection
                .prepare_cached(query)?
                .query_row([most as i64], |row| row.get(0))?)
        };
        let nodes = count("SELECT count(*) FROM (SELECT 1 FROM changed WHERE seq > 0 LIMIT ?1)")?
            + count("SELECT count(*) FROM (SELECT 1 FROM tombstones LIMIT ?1)")?;
        let last: Option<i64> = connection
            .prepare_cached("SELECT max(seq) FROM changed")?
            .query_row([], |row| row.get(0))?;
        Ok((nodes as u64, last.unwrap_or(0)))
    })
}

fn make_draft(volume: &Volume, request: CommitRequest, most: u64) -> Result<Draft> {
    let CommitRequest { message, paths } = request;
    volume.flush_lives();
    volume.push.rules.refresh(volume)?;
    volume.db.read_snapshot(|connection| {
        let base = draft::base_commit(volume, connection)?;
        let mut clock = base.map(|(_, commit)| commit.clock).unwrap_or_default();
        clock.join(&draft::Beside::new(&draft::beside(connection)?).clock);
        let n = next_number(volume, connection, &clock)?;
        draft::draft(volume, connection, n, message, most, &paths)
    })
}

/// The number of the next commit of this replica, if it includes what `clock` does. Above all that
/// it includes, so that of two commits the one that includes the other has the higher number
/// ([`Clock::next`]).
///
/// # Errors
/// If the database fails.
pub(crate) fn next_number(volume: &Volume, connection: &Connection, clock: &Clock) -> Result<u64> {
    let last: i64 = connection.query_row("SELECT coalesce(max(n), 0) FROM commits", [], |row| {
        row.get(0)
    })?;
    let above = clock.next(volume.replica().id()).commit;
    Ok(above.max(last as u64 + 1))
}

/// From here on the commit exists: whatever happens, this and nothing else has its number.
fn make_durable(volume: &Volume, draft: &Draft, head: &[u8]) -> Result<()> {
    volume
        .db
        .write_synced(|tx| make_durable_in(tx, draft, head))
}

/// As [`make_durable`], in a transaction that is synced.
///
/// # Errors
/// If the database fails.
pub(crate) fn make_durable_in(tx: &Transaction<'_>, draft: &Draft, head: &[u8]) -> Result<()> {
    let commit = draft.commit.encode()?;
    for (id, bytes) in &draft.pages {
        tx.prepare_cached("INSERT OR REPLACE INTO pages(id, bytes) VALUES(?1, ?2)")?
            .execute((id.as_bytes(), bytes))?;
    }
    // The commits before stay: the history is read from them.
    forget_pages(tx, &draft.left)?;
    hold_back(tx, &draft.taken)?;
    draft::set_base_commit(tx, &commit)?;
    draft::set_beside(tx, &[])?;
    tx.prepare_cached(
        "INSERT INTO commits(n, id, time, message, head, acked) VALUES(?1, ?2, ?3, ?4, ?5, 0)",
    )?
    .execute((
        draft.commit.n as i64,
        draft.id.as_bytes(),
        draft.commit.wall.0,
        &draft.commit.message,
        head,
    ))?;
    Ok(())
}

/// Sends what the store lacks of a durable commit, in the order that must hold.
async fn push(
    shared: &Shared,
    volume: &Arc<Volume>,
    n: u64,
    pages: Vec<(ChunkId, Vec<u8>)>,
    head: Vec<u8>,
) -> Result<Pushed> {
    let packing = Arc::clone(volume);
    let packs = blocking(move || pack_pages(&packing, pages)).await?;
    for pack in packs {
        let sent = upload::send(shared, &volume.store, pack).await?;
        let noting = Arc::clone(volume);
        blocking(move || upload::record_for_commit(&noting, sent)).await?;
    }
    index::push(shared, volume).await?;
    heads::push(shared, volume, n, head).await
}

/// Seals the pages that the store does not have into tree packs.
fn pack_pages(volume: &Volume, pages: Vec<(ChunkId, Vec<u8>)>) -> Result<Vec<Pack>> {
    let mut compressor = compressor()?;
    let mut packs = Vec::new();
    let mut open: Option<PackWriter> = None;
    for (id, bytes) in pages {
        if volume.db.read(|connection| is_stored(connection, &id))? {
            continue;
        }
        let mut writer = match open.take() {
            Some(writer) => writer,
            None => PackWriter::new(&volume.keys, PackKind::Tree, salt()?)?,
        };
        let raw_len = u32::try_from(bytes.len()).map_err(|_| VolumeError::TooLarge("a page"))?;
        let (codec, packed) = compressor.compress(&bytes);
        writer.push(id, codec, raw_len, packed)?;
        if writer.is_full() {
            packs.push(writer.finish()?);
        } else {
            open = Some(writer);
        }
    }
    if let Some(writer) = open {
        packs.push(writer.finish()?);
    }
    Ok(packs)
}

/// Sends the commit that was durable but not acknowledged when the last run ended. False if this is
/// a new replica now.
async fn resume(shared: &Shared, volume: &Arc<Volume>) -> Result<bool> {
    let reading = Arc::clone(volume);
    let pending = blocking(move || pending(&reading)).await?;
    let Some((n, pages, head)) = pending else {
        return Ok(true);
    };
    tracing::info!(n, "sending the commit of the last run again");
    let accepted = match push(shared, volume, n, pages, head).await? {
        Pushed::Put(accepted) => accepted,
        Pushed::Apart(apart) => {
            identity::go_on_as_new(volume, apart).await?;
            return Ok(false);
        }
    };
    let noting = Arc::clone(volume);
    // What it took is noted as changed still; the next commit finds no difference there.
    blocking(move || {
        note_acknowledged(&noting, n, &Taken::default(), false, accepted.as_ref())?;
        let newest = noting.db.read(newest_stored)?;
        noting.push.stored.send_replace(newest);
        Ok(true)
    })
    .await
}

/// Pages and commits that no pack has that counts.
const UNSTORED_PAGES: &str = "SELECT id, bytes FROM pages WHERE id NOT IN (
     SELECT c.id FROM chunks c JOIN packs p USING(pack) WHERE p.condemned = 0)";

type Pending = (u64, Vec<(ChunkId, Vec<u8>)>, Vec<u8>);

fn pending(volume: &Volume) -> Result<Option<Pending>> {
    volume.db.read_snapshot(|connection| {
        let newest: Option<(i64, Vec<u8>)> = connection
            .query_row(
                "SELECT n, head FROM commits WHERE acked = 0 ORDER BY n DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((n, head)) = newest else {
            return Ok(None);
        };
        let pages = pages_where(connection, UNSTORED_PAGES)?;
        Ok(Some((n as u64, pages, head)))
    })
}

/// The newest commit of this replica whose head the store acknowledged.
///
/// # Errors
/// If the database fails.
pub(super) fn newest_stored(connection: &Connection) -> Result<Option<Newest>> {
    let first = identity::first_commit(connection)?;
    let newest: Option<(i64, Vec<u8>)> = connection
        .query_row(
            "SELECT n, id FROM commits WHERE acked = 1 AND n >= ?1 ORDER BY n DESC LIMIT 1",
            [first as i64],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    Ok(newest.and_then(|(n, id)| {
        Some(Newest {
            n: n as u64,
            commit: ChunkId::from_slice(&id)?,
        })
    }))
}

/// The head of commit `n` is acknowledged: what it took is stored, and so are those before it, which
/// it includes. One of them may not have been acknowledged when the last run ended. What it reaches
/// is safe if all marks were read.
fn note_acknowledged(
    volume: &Volume,
    n: u64,
    taken: &Taken,
    is_all: bool,
    accepted: Option<&Accepted>,
) -> Result<()> {
    volume.db.write(|tx| {
        if let Some(accepted) = accepted {
            accepted.note(tx)?;
        }
        tx.prepare_cached("UPDATE commits SET acked = 1 WHERE n <= ?1 AND acked = 0")?
            .execute([n as i64])?;
        forget_changes(volume, tx, taken, is_all)
    })
}

/// All that was taken is as the latest commit, which is acknowledged, has it. Synced: what
/// is safe from here on may be dropped, and then must not be dirty again after a power cut.
fn note_no_difference(volume: &Volume, taken: &Taken, is_all: bool) -> Result<Made> {
    volume.db.write_synced(|tx| {
        hold_back(tx, taken)?;
        forget_changes(volume, tx, taken, is_all)?;
        let (id, commit) = draft::base_commit(volume, tx)?.ok_or_else(|| {
            VolumeError::Damaged("the database has no commit that it could be like".to_owned())
        })?;
        Ok(Made {
            n: if commit.author == volume.replica().id() {
                commit.n
            } else {
                0
            },
            id,
            more: false,
        })
    })
}

fn hold_back(tx: &Transaction<'_>, taken: &Taken) -> Result<()> {
    for (ino, change) in &taken.held {
        tx.prepare_cached("UPDATE changed SET seq = -1 WHERE ino = ?1 AND seq = ?2")?
            .execute((*ino as i64, change))?;
    }
    Ok(())
}

fn forget_changes(
    volume: &Volume,
    tx: &Transaction<'_>,
    taken: &Taken,
    is_all: bool,
) -> Result<()> {
    match is_all {
        true => proof::reached(volume, tx, &taken.files)?,
        false => proof::reached_unread(tx, &taken.files)?,
    }
    for (ino, change) in &taken.nodes {
        tx.prepare_cached("DELETE FROM changed WHERE ino = ?1 AND seq = ?2")?
            .execute((*ino as i64, change))?;
    }
    for (id, time) in &taken.gone {
        tx.prepare_cached("DELETE FROM tombstones WHERE id = ?1 AND time = ?2")?
            .execute((id.as_bytes(), time))?;
    }
    Ok(())
}

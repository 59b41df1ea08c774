//! Marks: this replica's, and what the others' mean here.
//!
//! All of it is done by the task that makes commits, between two of them. Whatever is read from a
//! mark is in the database before anything follows from it; what a crash cuts off is done at the
//! next start ([`UNSETTLED`], [`OWED`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use larder_format::{
    Mark, VolumeKeys, encode_retention, mark_name, object, open_mark, parse_mark_name, read_mark,
    read_retention, seal_mark,
};
use larder_model::{ChunkId, PackId, ReplicaId, Retention};
use larder_store::{ErrorKind, Key, Store};
use rusqlite::{Connection, OptionalExtension};

use super::rest;
use crate::db::{Db, Transaction, meta, meta_u64, set_meta};
use crate::history::commits_named_by;
use crate::live::KeptReason;
use crate::node;
use crate::push::{Shared, base_commit, beside, blocking, fresh_salt, object_key, put_object};
use crate::{Result, Volume, VolumeError};

/// The number of the last mark that was made here, and of the last that the store acknowledged.
const MADE: &str = "mark_made";
const PUT: &str = "mark_put";
/// The commits that the acknowledged mark stands on, by id.
const BASES: &str = "mark_bases";
/// Set while content here may rest on packs that do not count any more: nothing is dropped.
const UNSETTLED: &str = "unsettled";
/// Set while others wait for this replica's word.
const OWED: &str = "word_owed";
/// Set while what is away may rest on packs that nobody keeps for this replica's sake: nothing is
/// dropped.
const LATE: &str = "late";
/// Grows with each pack that does not count any more.
const NOTICES: &str = "notices";
/// When the marks were looked at last, in nanoseconds since 1970.
const LOOKED: &str = "marks_looked";
const RETENTION: &str = "retention";
pub(super) const KEPT: &str = "kept";
pub(super) const WITHOUT: &str = "without";

/// What is safe needs a look at the marks that is no older, in nanoseconds.
const LOOK_HOLDS: i64 = 60 * 60 * 1_000_000_000;

/// The topic of what the status says of marks.
const WARNING: &str = "marks";

/// The newest mark of each replica on the store: its number, and older ones of the same.
pub(super) type Listed = BTreeMap<ReplicaId, Vec<u64>>;

/// The numbers of the marks on the store, in order.
///
/// # Errors
/// If the store cannot be asked.
pub(super) async fn list(store: &dyn Store) -> Result<Listed> {
    let mut listed = Listed::new();
    for found in store.list(&format!("{}/", object::MARKS)).await? {
        if let Some((replica, n)) = parse_mark_name(found.key.as_str()) {
            listed.entry(replica).or_default().push(n);
        }
    }
    listed
        .values_mut()
        .for_each(|numbers| numbers.sort_unstable());
    Ok(listed)
}

/// What a replica's mark says, as its plain bytes.
///
/// # Errors
/// If it cannot be had, or is damaged.
pub(super) async fn read(
    store: &dyn Store,
    keys: &VolumeKeys,
    replica: &ReplicaId,
    n: u64,
) -> Result<Vec<u8>> {
    let name = key(mark_name(replica, n))?;
    let bytes = store.get(&name).await?;
    let bytes = bytes.ok_or_else(|| {
        // Its replica put another one meanwhile.
        VolumeError::Away(format!("{name} is listed by the store, and not there"))
    })?;
    Ok(open_mark(keys, replica, n, &bytes)?)
}

/// Whether bytes came, and are not what they must be: asking again does not help.
fn is_bad(error: &VolumeError) -> bool {
    match error {
        VolumeError::Damaged(_) | VolumeError::Format(_) => true,
        VolumeError::Store(error) => error.kind == ErrorKind::Damaged,
        _ => false,
    }
}

/// Whether the newest mark of this replica on the store can be read by the others.
async fn is_own_readable(volume: &Volume, n: u64) -> Result<bool> {
    let own = volume.replica().id();
    match read(&*volume.store, &volume.keys, &own, n).await {
        Ok(_) => Ok(true),
        Err(error) if is_bad(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Enters what all marks say into the database of a replica that is being made, before it learns of
/// any pack. Its first start says so to the others.
///
/// # Errors
/// If one cannot be read, or the disk fails.
pub(crate) async fn learn(store: &dyn Store, keys: &VolumeKeys, db: &Db) -> Result<()> {
    for (replica, numbers) in list(store).await? {
        if let Some(&n) = numbers.last() {
            let said = read(store, keys, &replica, n).await?;
            let mark = read_mark(&said)?;
            db.write(|tx| {
                enter_doomed(tx, &replica, &mark)?;
                note_member(tx, &replica, n, &said)
            })?;
        }
    }
    Ok(())
}

fn key(name: String) -> Result<Key> {
    object_key(name)
}

/// Before anything is stored under this replica's id: others know of it, and it knows what they
/// said. `marks` may not be stored yet.
///
/// # Errors
/// If the store cannot be asked, or the database fails.
pub(crate) async fn begin(shared: &Shared, volume: &Arc<Volume>) -> Result<()> {
    let own = volume.replica().id();
    let there = list(&*volume.store).await?.remove(&own).unwrap_or_default();
    let newest = there.last().copied();
    let reading = Arc::clone(volume);
    let (put, made) = blocking(move || {
        reading
            .db
            .read(|tx| Ok((meta_u64(tx, PUT)?, meta_u64(tx, MADE)?)))
    })
    .await?;
    let is_known = newest.is_some_and(|n| (put..=made).contains(&n) && n > 0);
    if !is_known {
        let noting = Arc::clone(volume);
        blocking(move || {
            noting.db.write_synced(|tx| {
                set_meta(tx, MADE, &made.max(newest.unwrap_or(0)).to_be_bytes())?;
                set_flag(tx, LATE, true)
            })
        })
        .await?;
    }
    let is_newest = is_known && newest == Some(made) && put == made;
    if !is_newest || !is_own_readable(volume, made).await? {
        publish(shared, volume).await?;
    }
    let is_all = notice(shared, volume).await?;
    if flag(volume, LATE)? {
        catch_up(shared, volume, is_all).await?;
    }
    for n in there.into_iter().filter(|n| Some(*n) != newest) {
        volume.store.delete(&key(mark_name(&own, n))?).await?;
    }
    Ok(())
}

/// Copies what is away and nobody keeps for this replica's sake. If not `is_all` of the marks could
/// be read, it is done again when they can.
async fn catch_up(shared: &Shared, volume: &Arc<Volume>, is_all: bool) -> Result<()> {
    rest::compare_with_list(volume).await?;
    settle_own(volume).await?;
    rest::rescue_all(shared, volume).await?;
    if !is_all {
        return Ok(());
    }
    let noting = Arc::clone(volume);
    blocking(move || noting.db.write_synced(|tx| set_flag(tx, LATE, false))).await
}

/// Reads the marks that are new, and does what follows from them: from here on nothing rests on
/// what they condemn, but for what a commit has already. False if one of them is damaged, so that
/// what its replica says is unknown: then it was no look, and the status says so.
///
/// # Errors
/// If the store cannot be asked, or the database fails.
pub(crate) async fn notice(shared: &Shared, volume: &Arc<Volume>) -> Result<bool> {
    let looked = node::now();
    let mut listed = list(&*volume.store).await?;
    let own = listed.remove(&volume.replica().id());
    let unread = notice_others(volume, listed).await?;
    if flag(volume, UNSETTLED)? {
        rest::settle(volume).await?;
    }
    if shared.may_push() {
        // Before this replica began, that is seen to by `begin`.
        put_own_anew(shared, volume, own.unwrap_or_default().last()).await?;
        if unread.is_none() && flag(volume, LATE)? {
            catch_up(shared, volume, true).await?;
        }
    }
    if let Some(words) = unread {
        volume.push.warn(
            WARNING,
            format!(
                "what another machine says of the history cannot be read ({words}). Until it puts \
                 that anew, which it does by itself when it is on, nothing that is stored from now \
                 on is dropped here, and no history is collected"
            ),
        );
        return Ok(false);
    }
    // Last: until all that follows from it is done, it was no look.
    let noting = Arc::clone(volume);
    blocking(move || {
        noting.db.write(|tx| {
            crate::push::marks_are_read(&noting, tx)?;
            set_meta(tx, LOOKED, &looked.0.to_be_bytes())
        })
    })
    .await?;
    volume.push.clear_warning(WARNING);
    Ok(true)
}

/// Takes notice of all that can be read; what is wrong with one of the others, in words.
async fn notice_others(volume: &Arc<Volume>, listed: Listed) -> Result<Option<String>> {
    let mut unread = None;
    for (replica, numbers) in listed {
        let Some(&n) = numbers.last() else {
            continue;
        };
        let known = volume.db.read(|tx| known_mark(tx, &replica))?;
        if n <= known {
            continue;
        }
        match read(&*volume.store, &volume.keys, &replica, n).await {
            Ok(said) => {
                let noting = Arc::clone(volume);
                blocking(move || take_notice(&noting, replica, n, &said)).await?;
            }
            Err(error) if is_bad(&error) => {
                unread = Some(format!("mark {n} of {replica}: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(unread)
}

/// What the others cannot read of this replica is put once more.
async fn put_own_anew(shared: &Shared, volume: &Arc<Volume>, newest: Option<&u64>) -> Result<()> {
    let (put, made) = volume
        .db
        .read(|tx| Ok((meta_u64(tx, PUT)?, meta_u64(tx, MADE)?)))?;
    let is_there = match newest {
        Some(&n) if n <= made => {
            is_read_lately(volume, n) || {
                let is_readable = is_own_readable(volume, n).await?;
                *volume.seen.own_mark.lock() = is_readable.then(|| (n, node::now().0));
                is_readable
            }
        }
        // A copy of this replica put it: the next head shows that.
        Some(_) => true,
        None => put == 0,
    };
    match is_there {
        true => Ok(()),
        false => publish(shared, volume).await,
    }
}

/// Whether this mark of this replica could be read a while ago: it is not read at each look.
fn is_read_lately(volume: &Volume, n: u64) -> bool {
    let now = node::now().0;
    let read = *volume.seen.own_mark.lock();
    read.is_some_and(|(read, at)| read == n && (0..look_holds(volume)).contains(&(now - at)))
}

/// How long a look at the marks holds, in nanoseconds.
fn look_holds(volume: &Volume) -> i64 {
    LOOK_HOLDS.min(volume.settings.member_grace.as_nanos() as i64 / 4)
}

/// From here on nobody knows what this replica rests on, until it has said so.
///
/// # Errors
/// If the database fails.
pub(crate) fn be_late(tx: &Transaction<'_>) -> Result<()> {
    set_flag(tx, LATE, true)
}

/// As [`notice`], if the last look is too old for what a head reaches now to be safe.
///
/// # Errors
/// As [`notice`].
pub(crate) async fn look_if_old(shared: &Shared, volume: &Arc<Volume>) -> Result<bool> {
    let looked = volume.db.read(|tx| meta_u64(tx, LOOKED))? as i64;
    let age = node::now().0 - looked;
    match (0..look_holds(volume)).contains(&age) {
        true => Ok(true),
        false => notice(shared, volume).await,
    }
}

/// Whether others wait for this replica's word.
///
/// # Errors
/// If the database fails.
pub(crate) fn is_word_owed(volume: &Volume) -> Result<bool> {
    flag(volume, OWED)
}

/// Whether the tree stands on commits that this replica's mark does not name.
///
/// # Errors
/// If the database fails.
pub(crate) fn stands_elsewhere(volume: &Volume) -> Result<bool> {
    volume.db.read(|tx| {
        let said = meta(tx, BASES)?.unwrap_or_default();
        let bases: Vec<u8> = ids(&bases(volume, tx)?);
        // What this replica made itself has a head.
        let own = base_commit(volume, tx)?
            .is_some_and(|(_, commit)| commit.author == volume.replica().id());
        Ok(!own && said != bases)
    })
}

/// Commits that the tree stands on, and those to which this replica gave a name: it may have done so
/// while another one gave them up.
pub(super) fn bases(volume: &Volume, tx: &Connection) -> Result<BTreeSet<ChunkId>> {
    let base = base_commit(volume, tx)?.map(|(id, _)| id);
    let beside = beside(tx)?.into_iter().map(|(id, _)| id);
    let mut bases: BTreeSet<ChunkId> = base.into_iter().chain(beside).collect();
    let mut place = tx.prepare_cached("SELECT 1 FROM chunks WHERE id = ?1")?;
    for id in commits_named_by(tx, &volume.replica().id())? {
        // One that went while this replica was given up is not waited for.
        if place.exists([id.as_bytes()])? {
            bases.insert(id);
        }
    }
    Ok(bases)
}

fn ids(ids: &BTreeSet<ChunkId>) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

/// Puts a mark that says all that this replica has to say. All that was changed here and rests on
/// what others condemned must be in a commit.
///
/// # Errors
/// [`VolumeError::Stopping`], and failures of the database.
pub(crate) async fn publish(shared: &Shared, volume: &Arc<Volume>) -> Result<()> {
    let making = Arc::clone(volume);
    let (n, mark, before) = blocking(move || {
        making.db.write_synced(|tx| {
            let n = meta_u64(tx, MADE)? + 1;
            set_meta(tx, MADE, &n.to_be_bytes())?;
            Ok((n, compose(&making, tx)?, meta_u64(tx, PUT)?))
        })
    })
    .await?;
    let replica = volume.replica();
    let object = seal_mark(&volume.keys, &replica, n, &mark, fresh_salt()?)?;
    let name = key(mark_name(&replica.id(), n))?;
    let accepted = put_object(shared, &volume.store, &name, Bytes::from(object)).await?;
    let noting = Arc::clone(volume);
    blocking(move || {
        noting.db.write_synced(|tx| {
            if let Some(accepted) = accepted {
                accepted.note(tx)?;
            }
            set_meta(tx, PUT, &n.to_be_bytes())?;
            set_meta(tx, BASES, &ids(&mark.bases))?;
            let is_all: bool = tx.query_row(
                "SELECT NOT EXISTS(SELECT 1 FROM members WHERE mark > word)",
                [],
                |row| row.get(0),
            )?;
            match is_all {
                true => set_flag(tx, OWED, false),
                false => Ok(()),
            }
        })
    })
    .await?;
    if before > 0 && before < n {
        let old = key(mark_name(&replica.id(), before))?;
        // One that stays does no harm.
        if let Err(error) = crate::push::delete_object(volume, &old).await {
            tracing::debug!(%error, "an old mark stays");
        }
    }
    Ok(())
}

fn compose(volume: &Volume, tx: &Connection) -> Result<Mark> {
    let own = volume.replica().id();
    let mut mark = Mark {
        wall: node::now(),
        bases: bases(volume, tx)?,
        retention: own_retention(tx)?,
        kept: id_set(tx, KEPT, ChunkId)?,
        without: id_set(tx, WITHOUT, ReplicaId)?,
        given_up: given_up(tx)?,
        ..Mark::default()
    };
    let mut seen = tx.prepare_cached("SELECT replica, word FROM members WHERE word > 0")?;
    let rows = seen.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64)))?;
    for row in rows {
        let (replica, n): (Vec<u8>, u64) = row?;
        let replica = ReplicaId::from_slice(&replica).ok_or_else(damaged)?;
        mark.seen.insert(replica, n);
    }
    mark.seen.remove(&own);
    mark.condemned = doomed_by(tx, &own, 0)?;
    mark.deleted = doomed_by(tx, &own, 1)?;
    Ok(mark)
}

pub(super) fn doomed_by(tx: &Connection, by: &ReplicaId, gone: u8) -> Result<BTreeSet<PackId>> {
    let mut doomed = tx.prepare_cached("SELECT pack FROM doomed WHERE by = ?1 AND gone = ?2")?;
    let rows = doomed.query_map((by.as_bytes(), gone), |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|row| PackId::from_slice(&row?).ok_or_else(damaged))
        .collect()
}

fn given_up(tx: &Connection) -> Result<BTreeSet<ChunkId>> {
    let mut statement = tx.prepare_cached("SELECT id FROM given_up")?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|row| ChunkId::from_slice(&row?).ok_or_else(damaged))
        .collect()
}

/// A set of ids that `meta` has in one piece.
pub(super) fn id_set<T: Ord>(
    tx: &Connection,
    name: &str,
    id: impl Fn([u8; 32]) -> T,
) -> Result<BTreeSet<T>> {
    let bytes = meta(tx, name)?.unwrap_or_default();
    Ok(bytes
        .as_chunks::<32>()
        .0
        .iter()
        .map(|one| id(*one))
        .collect())
}

pub(super) fn damaged() -> VolumeError {
    VolumeError::Damaged("the database's notes of marks are damaged".to_owned())
}

/// Notes what another replica says, in one transaction; [`rest::settle`] does what follows.
fn take_notice(volume: &Volume, by: ReplicaId, n: u64, said: &[u8]) -> Result<()> {
    let mark = read_mark(said)?;
    let is_given_up = mark.without.contains(&volume.replica().id());
    // What is being cut at this moment may rest on them, and is cut again.
    let mut losses = volume.push.losses();
    *losses += 1;
    volume.db.write_synced(|tx| {
        enter_doomed(tx, &by, &mark)?;
        note_member(tx, &by, n, said)?;
        if is_given_up {
            set_flag(tx, LATE, true)?;
            set_flag(tx, UNSETTLED, true)?;
            set_flag(tx, OWED, true)?;
        }
        forget_commits(volume, tx, &mark)
    })
}

fn enter_doomed(tx: &Transaction<'_>, by: &ReplicaId, mark: &Mark) -> Result<()> {
    let (before, gone_before) = (doomed_by(tx, by, 0)?, doomed_by(tx, by, 1)?);
    for pack in before.difference(&mark.condemned) {
        if !mark.deleted.contains(pack) {
            tx.prepare_cached("DELETE FROM doomed WHERE pack = ?1 AND by = ?2")?
                .execute((pack.as_bytes(), by.as_bytes()))?;
            let_off(tx, pack)?;
        }
    }
    let mut put = tx.prepare_cached(
        "INSERT OR REPLACE INTO doomed(pack, by, gone, since, time) VALUES(?1, ?2, ?3, 0, ?4)",
    )?;
    let time = node::now().0;
    let condemned = mark.condemned.difference(&before).map(|pack| (pack, 0));
    let deleted = mark.deleted.difference(&gone_before).map(|pack| (pack, 1));
    let mut is_any = false;
    for (pack, gone) in condemned.chain(deleted) {
        put.execute((pack.as_bytes(), by.as_bytes(), gone, time))?;
        is_any = true;
    }
    if is_any {
        doom(tx)?;
        set_flag(tx, OWED, true)?;
    }
    Ok(())
}

/// A pack counts again, unless somebody else condemns it.
pub(super) fn let_off(tx: &Transaction<'_>, pack: &PackId) -> Result<()> {
    tx.prepare_cached(
        "UPDATE packs SET condemned = 0
         WHERE id = ?1 AND NOT EXISTS(SELECT 1 FROM doomed WHERE doomed.pack = packs.id)",
    )?
    .execute([pack.as_bytes()])?;
    Ok(())
}

/// Packs that somebody condemned do not count any more, and those that were deleted are not there.
pub(super) fn doom(tx: &Transaction<'_>) -> Result<()> {
    tx.execute(
        "UPDATE packs SET condemned = 1 WHERE id IN (SELECT pack FROM doomed)",
        [],
    )?;
    let gone = "SELECT pack FROM packs WHERE id IN (SELECT pack FROM doomed WHERE gone > 0)";
    tx.execute(&format!("DELETE FROM chunks WHERE pack IN ({gone})"), [])?;
    tx.execute(
        "DELETE FROM packs WHERE id IN (SELECT pack FROM doomed WHERE gone > 0)",
        [],
    )?;
    set_flag(tx, UNSETTLED, true)?;
    let notices = meta_u64(tx, NOTICES)? + 1;
    set_meta(tx, NOTICES, &notices.to_be_bytes())
}

fn note_member(tx: &Transaction<'_>, replica: &ReplicaId, n: u64, said: &[u8]) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO members(replica, head, mark, said, heard) VALUES(?1, 0, ?2, ?3, ?4)
         ON CONFLICT(replica) DO UPDATE SET mark = excluded.mark, said = excluded.said,
             heard = excluded.heard",
    )?
    .execute((replica.as_bytes(), n as i64, said, node::now().0))?;
    Ok(())
}

/// Commits that were given up are not kept here either, but for those that the tree stands on.
fn forget_commits(volume: &Volume, tx: &Transaction<'_>, mark: &Mark) -> Result<()> {
    let bases = bases(volume, tx)?;
    let mut delete = tx.prepare_cached("DELETE FROM pages WHERE id = ?1")?;
    for id in mark.given_up.difference(&bases) {
        delete.execute([id.as_bytes()])?;
    }
    Ok(())
}

/// The marks of which notice was taken by now, by replica.
///
/// # Errors
/// If the database fails.
pub(crate) fn noticed(volume: &Volume) -> Result<Vec<(Vec<u8>, i64)>> {
    volume.db.read(|tx| {
        let mut statement = tx.prepare("SELECT replica, mark FROM members WHERE mark > word")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    })
}

/// All that follows from these marks is done: nothing that is in no commit rests on what they
/// condemn. The next mark says so.
///
/// # Errors
/// If the database fails.
pub(crate) fn give_word(volume: &Volume, noticed: &[(Vec<u8>, i64)]) -> Result<()> {
    volume.db.write_synced(|tx| {
        let mut set = tx.prepare_cached("UPDATE members SET word = ?2 WHERE replica = ?1")?;
        for (replica, n) in noticed {
            set.execute((replica, n))?;
        }
        Ok(())
    })
}

pub(super) fn known_mark(tx: &Connection, replica: &ReplicaId) -> Result<u64> {
    let known: Option<i64> = tx
        .prepare_cached("SELECT mark FROM members WHERE replica = ?1")?
        .query_row([replica.as_bytes()], |row| row.get(0))
        .optional()?;
    Ok(known.unwrap_or(0) as u64)
}

/// What all replicas say, as far as it was taken notice of; of this one what it would say now.
///
/// # Errors
/// If the database fails.
pub(crate) fn all_said(volume: &Volume, tx: &Connection) -> Result<Vec<(ReplicaId, Mark)>> {
    let own = volume.replica().id();
    let mut said = vec![(own, compose(volume, tx)?)];
    let mut statement =
        tx.prepare_cached("SELECT replica, said FROM members WHERE said IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let replica = ReplicaId::from_slice(&row.get::<_, Vec<u8>>(0)?).ok_or_else(damaged)?;
        if replica != own {
            said.push((replica, read_mark(&row.get::<_, Vec<u8>>(1)?)?));
        }
    }
    Ok(said)
}

fn own_retention(tx: &Connection) -> Result<Option<Retention>> {
    let bytes = meta(tx, RETENTION)?;
    Ok(bytes
        .map(|bytes| read_retention(&bytes))
        .transpose()?
        .flatten())
}

/// Notes what a user says of the history; the next mark says it to the others.
///
/// # Errors
/// If the database fails.
pub(super) fn set_own_retention(tx: &Transaction<'_>, retention: Retention) -> Result<()> {
    set_meta(tx, RETENTION, &encode_retention(Some(retention)))?;
    set_flag(tx, OWED, true)
}

/// What holds of the volume's history: what was said last.
pub(super) fn latest_retention(said: &[(ReplicaId, Mark)]) -> Option<Retention> {
    let all = said
        .iter()
        .filter_map(|(by, mark)| Some((mark.retention?, by)));
    let latest = all.max_by_key(|(retention, by)| (retention.time, *by));
    latest.map(|(retention, _)| retention)
}

/// Why nothing may be dropped: what is here may rest on packs that do not count any more, or may not
/// count.
///
/// # Errors
/// If the database fails.
pub(crate) fn reason_to_keep(tx: &Connection) -> Result<Option<KeptReason>> {
    Ok(match (meta_u64(tx, UNSETTLED)?, meta_u64(tx, LATE)?) {
        (0, 0) => None,
        (0, _) => Some(KeptReason::NotTold),
        _ => Some(KeptReason::Condemned),
    })
}

/// Does here what follows from what this replica condemned itself.
///
/// # Errors
/// If the store cannot be asked, or the database fails.
pub(crate) async fn settle_own(volume: &Arc<Volume>) -> Result<()> {
    match flag(volume, UNSETTLED)? {
        true => rest::settle(volume).await,
        false => Ok(()),
    }
}

/// How often packs ceased to count by now.
///
/// # Errors
/// If the database fails.
pub(crate) fn notices(tx: &Connection) -> Result<u64> {
    meta_u64(tx, NOTICES)
}

pub(super) fn set_settled(tx: &Transaction<'_>) -> Result<()> {
    set_flag(tx, UNSETTLED, false)
}

fn flag(volume: &Volume, name: &str) -> Result<bool> {
    Ok(volume.db.read(|tx| meta_u64(tx, name))? != 0)
}

fn set_flag(tx: &Transaction<'_>, name: &str, is_set: bool) -> Result<()> {
    set_meta(tx, name, &u64::from(is_set).to_be_bytes())
}

/// The number of the last mark that was made here.
///
/// # Errors
/// If the database fails.
pub(super) fn made(tx: &Connection) -> Result<u64> {
    meta_u64(tx, MADE)
}

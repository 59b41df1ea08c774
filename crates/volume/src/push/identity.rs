//! Going on as a new replica.
//!
//! A commit number must never be used twice with different content. When the store has a head
//! of this replica that was not made here (the state directory is a restored backup or a
//! copy, or its database lost its tail), the old id belongs to whoever made that head. This
//! machine takes a new key, and with it a new id and heads of its own; its next commit has
//! the last one as its parent that the store and this machine agree about, and whatever is
//! here and not in that one is committed under the new id. Nothing on the store is touched.
//!
//! The new key file is synced beside the old one first. Then one transaction names the new
//! id and sets the database back to the common commit; that is the step. Last, the key file
//! takes its place, now or at the next start.

use std::sync::Arc;

use larder_format::tree::{Tree, TreeKind, parse_node_key};
use larder_format::{Commit, Head, KeyFile, ReplicaKey, decode_node};
use larder_model::{ChunkId, Dot, Node, NodeId, Register, ReplicaId};
use rusqlite::{Connection, OptionalExtension};

use super::draft::set_base_commit;
use super::index::blocking;
use crate::db::{Db, Transaction, meta, meta_u64, set_meta};
use crate::{Ino, Result, StateDir, Volume, VolumeError, node};

/// The id that this replica took; absent while it has its first one.
const REPLICA: &str = "replica";
/// Commits below this number were made under an earlier id.
const SINCE: &str = "replica_since";
/// Heads of earlier ids that were not made here: replica and commit of each.
const APART: &str = "apart";

/// The first commit number of this replica's present id.
///
/// # Errors
/// If the database fails.
pub(crate) fn first_commit(connection: &Connection) -> Result<u64> {
    meta_u64(connection, SINCE)
}

/// The key that this replica has, after a change of it that a crash may have cut off.
///
/// # Errors
/// If the disk or the database fails.
pub(crate) fn settle(dir: &StateDir, db: &Db, replica: ReplicaKey) -> Result<ReplicaKey> {
    let taken = db.meta(REPLICA)?.and_then(|id| ReplicaId::from_slice(&id));
    if taken.is_none_or(|taken| taken == replica.id()) {
        return Ok(replica);
    }
    match dir.next_keys()? {
        Some(next) if Some(next.replica.id()) == taken => {
            dir.take_next_keys()?;
            Ok(next.replica)
        }
        // One of the two was restored from a backup. Whether the key's id may still be used
        // shows when it is compared with the store.
        _ => Ok(replica),
    }
}

/// What the store has of this replica that was not made here.
#[derive(Debug)]
pub(super) struct Apart {
    /// The newest head.
    pub(super) newest: Head,
    /// The newest commit that is the same here and there; 0 if there is none.
    pub(super) common: u64,
}

/// Takes a new id. What is changed here and not in the common commit is committed under it.
///
/// # Errors
/// If the common commit cannot be had now, or the disk or the database fails; then nothing
/// changed.
pub(super) async fn go_on_as_new(volume: &Arc<Volume>, apart: Apart) -> Result<()> {
    let working = Arc::clone(volume);
    blocking(move || working.take_new_id(&apart)).await
}

impl Volume {
    fn take_new_id(&self, apart: &Apart) -> Result<()> {
        let old = self.replica().id();
        let mut seed = [0; 32];
        crate::names::fill_random(&mut seed)?;
        let next = KeyFile {
            keys: self.keys.clone(),
            replica: ReplicaKey::from_seed(seed)?,
        };
        let id = next.replica.id();
        let back = self.way_back(old, apart.common)?;
        self.dir.write_next_keys(&next)?;
        self.db.write_synced(|tx| {
            self.go_back(tx, &back)?;
            self.leave_id(tx, old, apart.common)?;
            let mut known = meta(tx, APART)?.unwrap_or_default();
            known.extend(apart.newest.replica.as_bytes());
            known.extend(apart.newest.commit.as_bytes());
            set_meta(tx, APART, &known)?;
            set_meta(tx, REPLICA, id.as_bytes())
        })?;
        self.dir.take_next_keys()?;
        self.set_replica(next.replica);
        self.push.stored.send_replace(None);
        tracing::warn!(
            %old, new = %id, theirs = apart.newest.n, common = apart.common,
            "the store has commits of this replica that were not made here; it goes on as a \
             new replica"
        );
        Ok(())
    }

    /// From the latest commit here to the last one that is the same on the store, or that
    /// another replica made.
    fn way_back(&self, old: ReplicaId, common: u64) -> Result<Back> {
        let latest = self.db.meta("commit")?;
        let mut back = Back {
            base: latest.clone(),
            redo: Vec::new(),
        };
        while let Some(bytes) = &back.base {
            let commit = Commit::decode(bytes)?;
            if commit.author != old || commit.n <= common {
                break;
            }
            back.base = match commit.parents.first() {
                Some(parent) => Some(self.page(parent)?.as_ref().to_vec()),
                None => None,
            };
        }
        if let Some(latest) = latest.filter(|latest| Some(latest) != back.base.as_ref()) {
            let commit = Commit::decode(&latest)?;
            back.redo = self.nodes_written(&commit, old, common)?;
        }
        Ok(back)
    }

    /// The nodes that the commit has from commits of `replica` after `common`.
    fn nodes_written(
        &self,
        commit: &Commit,
        replica: ReplicaId,
        common: u64,
    ) -> Result<Vec<NodeId>> {
        let tree = Tree {
            kind: TreeKind::Nodes,
            root: commit.nodes,
        };
        let is_later = |dot: &Dot| dot.replica == replica && dot.commit > common;
        let page = |id: &ChunkId| -> Result<Vec<u8>> { Ok(self.page(id)?.as_ref().to_vec()) };
        let mut found = Vec::new();
        for entry in tree.scan(&[], page) {
            let (key, value) = entry?;
            if has_dot(&decode_node(&value)?, is_later) {
                found.push(parse_node_key(&key)?);
            }
        }
        Ok(found)
    }

    fn go_back(&self, tx: &Transaction<'_>, back: &Back) -> Result<()> {
        match &back.base {
            Some(bytes) => set_base_commit(tx, bytes)?,
            None => {
                tx.execute("DELETE FROM meta WHERE key = 'commit'", [])?;
            }
        }
        let now = node::now().0;
        for id in &back.redo {
            let ino: Option<i64> = tx
                .prepare_cached("SELECT ino FROM nodes WHERE id = ?1 AND nlink > 0")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()?;
            let Some(ino) = ino else {
                tx.prepare_cached("INSERT OR REPLACE INTO tombstones(id, time) VALUES(?1, ?2)")?
                    .execute((id.as_bytes(), now))?;
                continue;
            };
            self.mark_changed(tx, ino as Ino)?;
            // Until a head reaches it again it stays.
            tx.prepare_cached(
                "UPDATE nodes SET safe = 0
                 WHERE ino = ?1 AND EXISTS(SELECT 1 FROM cached WHERE ino = ?1)",
            )?
            .execute([ino])?;
            tx.prepare_cached("DELETE FROM awaiting WHERE ino = ?1")?
                .execute([ino])?;
        }
        // Nobody knows the new id: all that is known of marks is looked at anew.
        crate::collect::marks::be_late(tx)
    }

    /// What only the old id had is its own affair from now on.
    fn leave_id(&self, tx: &Transaction<'_>, old: ReplicaId, common: u64) -> Result<()> {
        tx.execute("UPDATE commits SET acked = 1 WHERE n = ?1", [common as i64])?;
        tx.execute("DELETE FROM commits WHERE acked = 0", [])?;
        let last: i64 = tx.query_row("SELECT coalesce(max(n), 0) FROM commits", [], |row| {
            row.get(0)
        })?;
        set_meta(tx, SINCE, &(last as u64 + 1).to_be_bytes())?;
        tx.execute("DELETE FROM indexes", [])?;
        let heads = format!("{}/{old}/%", larder_format::object::HEADS);
        tx.execute("DELETE FROM unproven WHERE name LIKE ?1", [heads])?;
        Ok(())
    }

    /// What these replicas did is included here now: nothing is to be told of them any more.
    ///
    /// # Errors
    /// If the database fails.
    pub(super) fn forget_apart(&self, is_included: impl Fn(&ReplicaId) -> bool) -> Result<()> {
        let known = self.db.meta(APART)?.unwrap_or_default();
        let is_apart = |pair: &&[u8]| {
            let replica = pair.get(..ReplicaId::LEN).and_then(ReplicaId::from_slice);
            !replica.is_some_and(|replica| is_included(&replica))
        };
        let pairs = known.chunks_exact(ReplicaId::LEN + ChunkId::LEN);
        let left: Vec<u8> = pairs.filter(is_apart).flatten().copied().collect();
        match left.len() == known.len() {
            true => Ok(()),
            false => self.db.write(|tx| set_meta(tx, APART, &left)),
        }
    }

    /// What to tell of heads that were not made here, as long as they are not joined.
    pub(super) fn words_of_apart(&self) -> Option<String> {
        let known = self.db.meta(APART).ok().flatten().unwrap_or_default();
        if known.is_empty() {
            return None;
        }
        let store = self.store.address();
        let commits = known
            .chunks_exact(ReplicaId::LEN + ChunkId::LEN)
            .filter_map(|pair| ChunkId::from_slice(pair.get(ReplicaId::LEN..)?));
        Some(format!(
            "this machine's state was an old copy (a restored backup, a cloned disk), so it \
             goes on as a new replica. What was changed elsewhere after the copy was made is \
             not in this tree yet; it is safe on {store}, and is taken in at the next look, or by `larder sync`. To look \
             at it by itself, open it with another LARDER_HOME: {}",
            commits
                .map(|commit| format!("larder open {store} DIR --commit {commit}"))
                .collect::<Vec<_>>()
                .join("; ")
        ))
    }
}

/// Where a database is set back to.
struct Back {
    /// The encoded commit; `None`: to before the first.
    base: Option<Vec<u8>>,
    /// The nodes that differ from it, besides those noted as changed.
    redo: Vec<NodeId>,
}

fn has_dot(node: &Node, is_it: impl Fn(&Dot) -> bool + Copy) -> bool {
    fn any<T>(register: &Register<T>, is_it: impl Fn(&Dot) -> bool + Copy) -> bool {
        let mut dots = register.0.iter().flat_map(|valued| &valued.dots);
        dots.any(is_it)
    }
    any(&node.life, is_it)
        || any(&node.attrs, is_it)
        || any(&node.content, is_it)
        || node.links.values().any(|link| any(link, is_it))
}

/// The commits made here under the present id, the newest first, and whether the head of each
/// was acknowledged.
///
/// # Errors
/// If the database fails.
pub(super) fn own_commits(db: &Db, most: u64) -> Result<Vec<(u64, bool)>> {
    db.read(|connection| {
        let first = first_commit(connection)?;
        let mut statement = connection.prepare_cached(
            "SELECT n, acked FROM commits WHERE n >= ?1 ORDER BY n DESC LIMIT ?2",
        )?;
        let rows = statement.query_map((first as i64, most as i64), |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
        })?;
        rows.collect::<Result<_, _>>().map_err(VolumeError::from)
    })
}

//! What a start does after a crash, and what keeps later starts cheap.
//!
//! Three ways a process can have ended, told apart by `meta`:
//!
//! - **Cleanly** (`clean` is 1): nothing to do.
//! - **Killed** (the same boot): the database has all it was told, and the page cache all
//!   that was written. Sizes of files that were being written are taken from their cache
//!   files (`live`), before anything else asks for them.
//! - **Power cut** (another boot): what was not synced may be lost or, in cache files,
//!   be zeros. Clean content that was fetched or stored since the last completed sync of
//!   the cache (`epoch`) is dropped: the store has it. Of a dirty file that was partly here, each
//!   piece that claims to be present is checked against its hash, and goes back to absent
//!   if it is not what it must be. Dirty files keep their previous version and are listed
//!   in `recovered`, until they are changed again or a week has passed.
//!
//! After both, cache files that the database does not know go: those of nodes that are away
//! were dropped, and those that have another name were about to be taken in. What belongs to
//! no node may be all there is of a file whose name was lost: it is moved to `strays`.
//!
//! While it runs, the cache is synced now and then if content was fetched or stored, and the
//! epoch moves on.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_format::{Verified, VolumeKeys};
use larder_model::ChunkId;
use rusqlite::Connection;

use crate::cache::{Cache, allocated};
use crate::db::{Db, Transaction, meta, meta_u64, set_meta};
use crate::live::delete_cached;
use crate::names::{delete_node, forget_orphans};
use crate::{Ino, Result, StateDir, Volume, VolumeError, node};

const KEEP_INTERVAL: Duration = Duration::from_secs(2);
const SYNC_ROUNDS: u32 = 15;
/// What a power cut hit is listed for so long.
const LISTED_NANOS: i64 = 7 * 24 * 3600 * 1_000_000_000;

/// What a start found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Recovery {
    /// Whether the last run ended as it should.
    pub(crate) clean: bool,
    /// Files without a name that lie in `strays`.
    pub(crate) strays: u64,
    /// Files whose fetched content was dropped because it may not have reached the disk.
    pub(crate) dropped_files: u64,
}

/// Mends what a crash left.
pub(crate) fn recover(
    dir: &StateDir,
    db: &Db,
    cache: &Cache,
    keys: &VolumeKeys,
) -> Result<Recovery> {
    let boot = boot_id();
    let (clean, last_boot) = db.read(|connection| {
        Ok((
            meta_u64(connection, "clean")? == 1,
            meta(connection, "boot")?,
        ))
    })?;
    let power_cut = !clean && last_boot.is_some_and(|last| last != boot);
    let dropped_files = match power_cut {
        true => after_power_cut(db, cache, keys)?,
        false => 0,
    };
    delete_orphans(db, cache)?;
    if !clean {
        remove_strays(dir, db, cache)?;
    }
    let found = Recovery {
        clean,
        strays: std::fs::read_dir(dir.strays()).map_or(0, |strays| strays.count() as u64),
        dropped_files,
    };
    db.write_synced(|tx| {
        let listed = node::now().0.saturating_sub(LISTED_NANOS);
        tx.execute("DELETE FROM recovered WHERE time < ?1", [listed])?;
        set_meta(tx, "clean", &0u64.to_be_bytes())?;
        set_meta(tx, "boot", &boot)
    })?;
    Ok(found)
}

fn delete_orphans(db: &Db, cache: &Cache) -> Result<()> {
    let orphans = db.read(|connection| inos(connection, "SELECT ino FROM orphans"))?;
    for ino in orphans {
        if db.write(|tx| delete_node(tx, ino))?.is_some() {
            cache.remove(ino)?;
            db.write(|tx| forget_orphans(tx, &[ino]))?;
        }
    }
    Ok(())
}

/// Removes cache files that nothing needs, and puts aside those that are of no node.
fn remove_strays(dir: &StateDir, db: &Db, cache: &Cache) -> Result<()> {
    let (here, nodes) = db.read(|connection| {
        let here = inos(connection, "SELECT ino FROM cached")?;
        let nodes = inos(connection, "SELECT ino FROM nodes WHERE kind = 1")?;
        Ok((into_set(here), into_set(nodes)))
    })?;
    let place = dir.strays();
    cache.scan(|ino, meta| {
        if here.contains(&ino) {
            return Ok(());
        }
        let needless = nodes.contains(&ino) || meta.nlink() > 1 || allocated(meta) == 0;
        if needless {
            return cache.remove(ino).map(|_| ());
        }
        std::fs::create_dir_all(&place).map_err(|error| VolumeError::io(&place, error))?;
        tracing::warn!(ino, place = %place.display(), "a file lost its name; it is put aside");
        cache.move_to(ino, &place.join(format!("{ino:x}")))
    })
}

fn into_set(inos: Vec<Ino>) -> HashSet<Ino> {
    inos.into_iter().collect()
}

/// Answers how many files are away again, because what came may not have reached the disk.
fn after_power_cut(db: &Db, cache: &Cache, keys: &VolumeKeys) -> Result<u64> {
    let synced = db.read(|connection| meta_u64(connection, "synced_epoch"))?;
    let doubtful = db.read(|connection| {
        let query = "SELECT c.ino FROM cached c JOIN nodes n ON n.ino = c.ino
                     WHERE c.dirty = 0 AND c.epoch > ?1 AND n.content IS NOT NULL
                       AND (n.safe = 1 OR NOT EXISTS(SELECT 1 FROM unproven))";
        let mut statement = connection.prepare(query)?;
        let rows = statement.query_map([synced as i64], |row| row.get::<_, i64>(0))?;
        let rows = rows.collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().map(|ino| ino as Ino).collect::<Vec<_>>())
    })?;
    for &ino in &doubtful {
        db.write(|tx| delete_cached(tx, ino))?;
        cache.remove(ino)?;
    }
    db.write(|tx| doubt_both(tx, synced))?;
    let dirty = db.read(|connection| inos(connection, "SELECT ino FROM cached WHERE dirty = 1"))?;
    for &ino in &dirty {
        check_pieces(db, cache, keys, ino)?;
    }
    db.write(|tx| {
        let now = node::now().0;
        tx.execute(
            "INSERT OR REPLACE INTO recovered(ino, time, previous)
             SELECT c.ino, ?1, n.content FROM cached c JOIN nodes n ON n.ino = c.ino
             WHERE c.dirty = 1",
            [now],
        )?;
        Ok(())
    })?;
    Ok(doubtful.len() as u64)
}

/// What may be neither on this disk nor on the store's, for the store did not sync it and the
/// same power cut may have hit it, is dropped from neither: it is dirty again, and listed.
fn doubt_both(tx: &Transaction<'_>, synced: u64) -> Result<()> {
    tx.execute(
        "UPDATE cached SET dirty = 1 WHERE dirty = 0 AND epoch > ?1 AND EXISTS(
             SELECT 1 FROM nodes n WHERE n.ino = cached.ino
                AND n.safe = 0 AND n.content IS NOT NULL)",
        [synced as i64],
    )?;
    Ok(())
}

/// Checks each stored piece of a dirty file that claims to be present.
fn check_pieces(db: &Db, cache: &Cache, keys: &VolumeKeys, ino: Ino) -> Result<()> {
    let pieces = db.read(|connection| {
        let mut statement = connection.prepare_cached(
            "SELECT off, len, chunk FROM extents
             WHERE ino = ?1 AND present = 1 AND length(chunk) = 32",
        )?;
        let rows = statement.query_map([ino as i64], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, Vec<u8>>(2)?,
            ))
        })?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    })?;
    if pieces.is_empty() {
        return Ok(());
    }
    let Some(file) = cache.open_file(ino)? else {
        // It is seen to when it is first looked at (`live`).
        return Ok(());
    };
    let lost: Vec<i64> = pieces
        .into_iter()
        .filter(|(off, len, chunk)| !is_intact(&file, keys, *off as u64, *len as usize, chunk))
        .map(|(off, ..)| off)
        .collect();
    db.write(|tx| {
        for off in &lost {
            tx.prepare_cached("UPDATE extents SET present = 0 WHERE ino = ?1 AND off = ?2")?
                .execute((ino as i64, off))?;
        }
        if !lost.is_empty() {
            tx.prepare_cached("UPDATE cached SET whole = 0 WHERE ino = ?1")?
                .execute([ino as i64])?;
        }
        Ok(())
    })
}

fn is_intact(file: &File, keys: &VolumeKeys, off: u64, len: usize, chunk: &[u8]) -> bool {
    let Some(id) = ChunkId::from_slice(chunk) else {
        return false;
    };
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, off).is_ok() && Verified::check(keys, id, bytes).is_ok()
}

fn inos(connection: &Connection, query: &str) -> Result<Vec<Ino>> {
    let mut statement = connection.prepare(query)?;
    let rows = statement.query_map([], |row| row.get::<_, i64>(0))?;
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    Ok(rows.into_iter().map(|ino| ino as Ino).collect())
}

/// What is another at each boot of the machine; empty where the system has no such thing,
/// so that each unclean end counts as a power cut there.
fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| {
        let mut unique = vec![0; 16];
        let _ = crate::names::fill_random(&mut unique);
        unique
    })
}

/// Keeps the database's log short, notes sizes of files that stay open, and moves the
/// epoch of fetched content on.
pub(crate) fn run(volume: &Arc<Volume>) {
    let weak = Arc::downgrade(volume);
    let spawned = std::thread::Builder::new()
        .name("larder-keep".to_owned())
        .spawn(move || keep(&weak));
    if let Err(error) = spawned {
        tracing::error!(%error, "could not start the thread that keeps the database in order");
    }
}

fn keep(weak: &Weak<Volume>) {
    let mut round = 0;
    loop {
        std::thread::sleep(KEEP_INTERVAL);
        let Some(volume) = weak.upgrade() else {
            return;
        };
        if volume.is_stopping() {
            return;
        }
        round += 1;
        volume.flush_lives();
        volume.trim_lives();
        let kept = volume
            .db
            .checkpoint()
            .and_then(|()| match round % SYNC_ROUNDS {
                0 => volume.sync_filled(),
                _ => Ok(()),
            });
        if let Err(error) = kept {
            tracing::warn!(%error, "could not keep the database in order");
        }
    }
}

impl Volume {
    /// Syncs the cache if content was fetched since the last time, and notes that it was.
    fn sync_filled(&self) -> Result<()> {
        if self.live.filled.swap(0, Ordering::SeqCst) == 0 {
            return Ok(());
        }
        let epoch = self.live.fill_epoch.fetch_add(1, Ordering::SeqCst);
        self.cache.sync_all()?;
        self.db.write(|tx| set_synced(tx, epoch))
    }

    /// Makes everything durable and notes that the end was clean.
    pub(crate) fn close_cleanly(&self) -> Result<()> {
        for ino in self.live.orphans() {
            self.forget(ino)?;
        }
        self.forget_deleted()?;
        self.flush_lives();
        self.pull.flush(&self.db)?;
        self.db.bell().close_and_wait();
        self.cache.sync_all()?;
        let epoch = self.live.fill_epoch.load(Ordering::SeqCst);
        self.db.write_synced(|tx| {
            set_synced(tx, epoch)?;
            set_meta(tx, "clean", &1u64.to_be_bytes())
        })
    }

    /// Files that were being changed when the power went, with their previous versions
    /// kept: paths, and whether a stored version exists.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn recovered(&self) -> Result<Vec<(Vec<u8>, bool)>> {
        self.db.read_snapshot(|connection| {
            let mut statement =
                connection.prepare("SELECT ino, previous IS NOT NULL FROM recovered")?;
            let rows = statement.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
            let mut found = Vec::new();
            for row in rows {
                let (ino, previous): (i64, bool) = row?;
                if let Some(path) = crate::names::path_of(connection, ino as u64)? {
                    found.push((path, previous));
                }
            }
            Ok::<_, VolumeError>(found)
        })
    }
}

fn set_synced(tx: &Transaction<'_>, epoch: u64) -> Result<()> {
    set_meta(tx, "synced_epoch", &epoch.to_be_bytes())
}

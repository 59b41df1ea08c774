//! What goes when the budget is full.
//!
//! A policy of `larder_plan::evict` knows what is here and how it is used; it names what
//! should go first. Whether it may go is decided once more, under the node's lock, by
//! [`Volume::drop_contents`]. Eviction begins above the high watermark of the budget, or of
//! what the disk can give if others fill it, and ends at the low one.
//!
//! No node's lock is taken while the policy is locked: uses are told to the policy from
//! everywhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use larder_plan::evict::{Policy, PolicyKind, budget_within_disk, bytes_to_free};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::work;
use crate::db::Db;
use crate::live::{Dropped, KeptReason, is_pinned};
use crate::{Ino, Result, Volume, VolumeError};

const LOOK_INTERVAL: Duration = Duration::from_secs(2);
const FLUSH_ROUNDS: u32 = 15;
/// So much is freed before others who need room have their turn, in bytes.
const STEP_BYTES: u64 = 32 << 20;
/// When nothing could go, readers try again after this.
const FRUITLESS: Duration = Duration::from_secs(1);

/// What is known of the use of content.
pub(crate) struct Evictor {
    policy: Mutex<Box<dyn Policy>>,
    /// Last uses that the database does not have yet, in seconds since 1970.
    used: Mutex<HashMap<Ino, i64>>,
    /// Only one eviction at a time: two would each free all that is needed.
    evicting: Mutex<()>,
    /// When content was to go last, and none could.
    fruitless: Mutex<Option<Instant>>,
    look: Arc<Notify>,
}

impl std::fmt::Debug for Evictor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let policy = self.policy.lock();
        write!(
            f,
            "Evictor({} files, {} bytes)",
            policy.len(),
            policy.bytes()
        )
    }
}

impl Evictor {
    /// Knows what is here at the start.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn load(db: &Db, kind: PolicyKind) -> Result<Self> {
        let mut policy = kind.make();
        db.read(|connection| {
            let mut statement =
                connection.prepare("SELECT ino, bytes FROM cached ORDER BY used, ino")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                policy.restore(row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64);
            }
            Ok(())
        })?;
        Ok(Self {
            policy: Mutex::new(policy),
            used: Mutex::default(),
            evicting: Mutex::default(),
            fruitless: Mutex::default(),
            look: Arc::default(),
        })
    }

    /// A file was opened.
    pub(crate) fn touch(&self, ino: Ino) {
        self.policy.lock().touch(ino);
        self.used.lock().insert(ino, seconds_now());
    }

    /// A file's content, or the file, is gone.
    pub(crate) fn forget(&self, ino: Ino) {
        self.policy.lock().remove(ino);
        self.used.lock().remove(&ino);
    }

    /// Writes the last uses to the database.
    ///
    /// # Errors
    /// If the database fails; then they are lost, which harms nothing.
    pub(crate) fn flush(&self, db: &Db) -> Result<()> {
        let used = std::mem::take(&mut *self.used.lock());
        if used.is_empty() {
            return Ok(());
        }
        db.write(|tx| {
            let mut statement =
                tx.prepare_cached("UPDATE cached SET used = max(used, ?2) WHERE ino = ?1")?;
            for (ino, secs) in used {
                statement.execute((ino as i64, secs))?;
            }
            Ok(())
        })
    }
}

/// Content of the file came: so many bytes of it are here now.
pub(crate) fn came(volume: &Volume, ino: Ino, bytes: u64) {
    if bytes > 0 {
        volume.pull.evictor.policy.lock().insert(ino, bytes);
    }
    if over_the_mark(volume) > 0 {
        volume.pull.evictor.look.notify_one();
    }
}

/// How many bytes must go now.
fn over_the_mark(volume: &Volume) -> u64 {
    let settings = &volume.settings;
    let here = volume.live.here_bytes();
    bytes_to_free(
        here,
        budget_now(volume, here),
        percent(settings.high_watermark),
        percent(settings.low_watermark),
    )
}

/// The budget, or what the disk can give if others fill it.
fn budget_now(volume: &Volume, here: u64) -> u64 {
    let settings = &volume.settings;
    let free = disk_free(volume).unwrap_or(u64::MAX);
    budget_within_disk(settings.budget_bytes, here, free, settings.keep_free_bytes)
}

/// Whether more may come without anything having to go.
pub(super) fn has_room(volume: &Volume) -> bool {
    over_the_mark(volume) == 0
}

fn percent(share: f64) -> u8 {
    (share.clamp(0.0, 1.0) * 100.0).round() as u8
}

fn disk_free(volume: &Volume) -> Option<u64> {
    let stat = rustix::fs::statvfs(volume.cache.root()).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Evicts down to the low watermark, if the high one is passed. Bytes that went.
///
/// # Errors
/// If the disk or the database fails.
pub(crate) fn evict(volume: &Volume) -> Result<u64> {
    let mut need = over_the_mark(volume);
    if need == 0 {
        return Ok(0);
    }
    learn(volume)?;
    let mut freed = 0;
    while need > 0 {
        let step = make_room_of_known(volume, need.min(STEP_BYTES))?;
        freed += step;
        need = need.saturating_sub(step);
        if step == 0 {
            break;
        }
    }
    Ok(freed)
}

/// Holds back who brings `coming` bytes while they do not fit into the budget: as much goes
/// as comes. If nothing may go they come all the same; what is open, dirty or pinned holds
/// up no reader.
///
/// # Errors
/// If the disk or the database fails.
pub(super) fn keep_budget(volume: &Volume, coming: u64) -> Result<()> {
    let here = volume.live.here_bytes();
    let over = (here + coming).saturating_sub(budget_now(volume, here));
    let evictor = &volume.pull.evictor;
    let fruitless = *evictor.fruitless.lock();
    if over == 0 || fruitless.is_some_and(|at| at.elapsed() < FRUITLESS) {
        return Ok(());
    }
    let freed = make_room_of_known(volume, over)?;
    *evictor.fruitless.lock() = (freed == 0).then(Instant::now);
    Ok(())
}

/// Drops content until `need` bytes are freed, or nothing more may go. Bytes that went.
///
/// # Errors
/// If the disk or the database fails.
pub(crate) fn make_room(volume: &Volume, need: u64) -> Result<u64> {
    learn(volume)?;
    make_room_of_known(volume, need)
}

/// Drops what the policy knows of, until `need` bytes are freed or nothing more may go.
fn make_room_of_known(volume: &Volume, need: u64) -> Result<u64> {
    let evictor = &volume.pull.evictor;
    let _alone = evictor.evicting.lock();
    let mut refused = HashSet::new();
    let mut freed = 0;
    while freed < need {
        let victims = evictor.policy.lock().victims(need - freed, &mut |ino| {
            !refused.contains(&ino) && may_go(volume, ino)
        });
        if victims.is_empty() {
            break;
        }
        let inos: Vec<_> = victims.iter().map(|victim| victim.ino).collect();
        for (victim, dropped) in victims.iter().zip(volume.drop_contents(&inos)) {
            match dropped {
                Ok(Dropped::Freed(bytes)) => {
                    volume.pull.streams.forget(victim.ino);
                    freed += bytes;
                }
                Ok(Dropped::Kept(KeptReason::NotHere)) | Err(VolumeError::NoEntry) => {}
                Ok(Dropped::Kept(_)) => {
                    refused.insert(victim.ino);
                    evictor.policy.lock().insert(victim.ino, victim.bytes);
                }
                Err(error) => return Err(error),
            }
        }
    }
    if freed > 0 {
        volume.note_freed();
    }
    if freed < need {
        tracing::debug!(need, freed, "not enough content may be dropped");
    }
    Ok(freed)
}

/// Tells the policy of content that did not come by a fetch: files that were written here.
fn learn(volume: &Volume) -> Result<()> {
    let here: Vec<(Ino, u64)> = volume.db.read(|connection| {
        let mut statement = connection.prepare_cached("SELECT ino, bytes FROM cached")?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get::<_, i64>(1)? as u64))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    })?;
    let mut policy = volume.pull.evictor.policy.lock();
    for (ino, bytes) in here {
        policy.insert(ino, bytes);
    }
    Ok(())
}

/// Whether it is worth trying to drop the file; asks the database only.
fn may_go(volume: &Volume, ino: Ino) -> bool {
    let clean = volume.db.read(|connection| {
        let clean = connection
            .prepare_cached(
                "SELECT 1 FROM nodes n JOIN cached c ON c.ino = n.ino
                 WHERE n.ino = ?1 AND n.safe = 1 AND c.dirty = 0",
            )?
            .exists([ino as i64])?;
        Ok(clean && !is_pinned(connection, ino)?)
    });
    clean.unwrap_or(false)
}

/// Content became safe to drop: looks soon whether some must go.
pub(crate) fn look_soon(volume: &Volume) {
    volume.pull.evictor.look.notify_one();
}

/// Looks now and then whether something must go, and notes last uses, until the volume
/// is closed.
pub(crate) fn run(volume: &Arc<Volume>) {
    let weak = Arc::downgrade(volume);
    let look = Arc::clone(&volume.pull.evictor.look);
    volume.pull.spawn(&volume.runtime, async move {
        for round in 1u32.. {
            // That nothing woke it is as good as that something did.
            let _ = tokio::time::timeout(LOOK_INTERVAL, look.notified()).await;
            let looked = work(&weak, move |volume| {
                if round.is_multiple_of(FLUSH_ROUNDS) {
                    volume.pull.evictor.flush(&volume.db)?;
                }
                evict(volume)
            });
            match looked.await {
                None => return,
                Some(Ok(0)) => {}
                Some(Ok(bytes)) => tracing::debug!(bytes, "dropped content to keep the budget"),
                Some(Err(error)) => tracing::warn!(%error, "could not drop content"),
            }
        }
    });
}

pub(super) fn seconds_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() as i64)
}

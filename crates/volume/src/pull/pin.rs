//! What is pinned stays here.
//!
//! A pin holds for a node and all that is, or will be, below it. Nothing pinned is ever
//! dropped; what of it is away is brought in the background, now, after each start, and when a
//! join brought it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::Notify;

use super::work;
use crate::live::is_pinned;
use crate::{Ino, Result, Volume, VolumeError};

/// After a look that left something away, the next one is sooner.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// Wakes the one who brings what is pinned.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    look: Arc<Notify>,
    wanted: Arc<Mutex<Wanted>>,
}

/// What is to be looked at.
#[derive(Debug)]
enum Wanted {
    /// All that is pinned.
    All,
    /// Files that a join brought, as far as they are pinned.
    Arrived(Vec<Ino>),
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Arrived(Vec::new())
    }
}

impl Volume {
    /// Keeps these files, and all that is and will be in these directories, here. What is
    /// away comes in the background.
    ///
    /// # Errors
    /// If the database fails.
    pub fn pin(&self, paths: &[Ino]) -> Result<()> {
        self.set_pins(paths, true)?;
        *self.pull.pins.wanted.lock() = Wanted::All;
        self.pull.pins.look.notify_one();
        Ok(())
    }

    /// Files came from elsewhere, without their content: that of pinned ones is brought.
    pub(crate) fn note_arrived(&self, files: &[Ino]) {
        if files.is_empty() {
            return;
        }
        if let Wanted::Arrived(arrived) = &mut *self.pull.pins.wanted.lock() {
            arrived.extend(files);
        }
        self.pull.pins.look.notify_one();
    }

    /// Lets these files and directories go again when the budget is full.
    ///
    /// # Errors
    /// If the database fails.
    pub fn unpin(&self, paths: &[Ino]) -> Result<()> {
        self.set_pins(paths, false)
    }

    fn set_pins(&self, paths: &[Ino], pinned: bool) -> Result<()> {
        self.db.write(|tx| {
            let mut statement = tx.prepare_cached("UPDATE nodes SET pin = ?2 WHERE ino = ?1")?;
            for &ino in paths {
                if statement.execute((ino as i64, pinned))? == 0 {
                    return Err(VolumeError::NoEntry);
                }
            }
            Ok(())
        })
    }
}

/// Brings what is pinned and away, whenever something was pinned or arrived, and now and then.
pub(crate) fn run(volume: &Arc<Volume>) {
    let weak = Arc::downgrade(volume);
    let Pins { look, wanted } = &volume.pull.pins;
    let (look, wanted) = (Arc::clone(look), Arc::clone(wanted));
    volume.pull.spawn(&volume.runtime, async move {
        let mut looking = Wanted::All;
        loop {
            let find = move |volume: &Arc<Volume>| match looking {
                Wanted::All => volume.db.read(pinned),
                Wanted::Arrived(arrived) => volume.db.read_snapshot(|c| pinned_of(c, &arrived)),
            };
            let Some(pinned) = work(&weak, find).await else {
                return;
            };
            let Some(complete) = bring_pinned(&weak, pinned).await else {
                return;
            };
            let pause = if complete {
                LOOK_INTERVAL
            } else {
                RETRY_INTERVAL
            };
            looking = match tokio::time::timeout(pause, look.notified()).await {
                Ok(()) => std::mem::take(&mut *wanted.lock()),
                Err(_) => Wanted::All,
            };
        }
    });
}

/// Whether all that is pinned is here now; `None` if the volume is gone.
async fn bring_pinned(volume: &Weak<Volume>, pinned: Result<Vec<Ino>>) -> Option<bool> {
    let brought = match pinned {
        Ok(pinned) if pinned.is_empty() => return Some(true),
        Ok(pinned) => volume.upgrade()?.checkout(&pinned, &|_| {}).await,
        Err(error) => Err(error),
    };
    Some(match brought {
        Ok(brought) => {
            let files = brought.failed.len();
            if files > 0 {
                tracing::warn!(files, "some of what is pinned could not be brought");
            }
            files == 0
        }
        Err(error) => {
            tracing::warn!(%error, "could not bring what is pinned");
            false
        }
    })
}

/// Those of these files that are pinned, by themselves or by a directory above.
fn pinned_of(connection: &Connection, files: &[Ino]) -> Result<Vec<Ino>> {
    let mut pinned = Vec::new();
    for &ino in files {
        if is_pinned(connection, ino)? {
            pinned.push(ino);
        }
    }
    Ok(pinned)
}

/// The files and directories that were pinned by hand.
///
/// # Errors
/// If the database fails.
pub(super) fn pinned(connection: &Connection) -> Result<Vec<Ino>> {
    let mut statement = connection.prepare_cached("SELECT ino FROM nodes WHERE pin = 1")?;
    let rows = statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

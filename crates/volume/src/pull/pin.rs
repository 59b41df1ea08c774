//! What is pinned stays here.
//!
//! A pin holds for a node and all that is, or will be, below it. Nothing pinned is ever
//! dropped; what of it is away is brought in the background, now and after each start.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Notify;

use super::work;
use crate::{Ino, Result, Volume, VolumeError};

/// After a look that left something away, the next one is sooner.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_secs(600);

/// Wakes the one who brings what is pinned.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    look: Arc<Notify>,
}

impl Volume {
    /// Keeps these files, and all that is and will be in these directories, here. What is
    /// away comes in the background.
    ///
    /// # Errors
    /// If the database fails.
    pub fn pin(&self, paths: &[Ino]) -> Result<()> {
        self.set_pins(paths, true)?;
        self.pull.pins.look.notify_one();
        Ok(())
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

/// Brings what is pinned and away, whenever something was pinned and now and then.
pub(crate) fn run(volume: &Arc<Volume>) {
    let weak = Arc::downgrade(volume);
    let look = Arc::clone(&volume.pull.pins.look);
    volume.pull.spawn(&volume.runtime, async move {
        loop {
            let Some(pinned) = work(&weak, |volume| volume.db.read(pinned)).await else {
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
            // That nothing woke it is as good as that something did.
            let _ = tokio::time::timeout(pause, look.notified()).await;
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

/// The files and directories that were pinned by hand.
///
/// # Errors
/// If the database fails.
pub(super) fn pinned(connection: &Connection) -> Result<Vec<Ino>> {
    let mut statement = connection.prepare_cached("SELECT ino FROM nodes WHERE pin = 1")?;
    let rows = statement.query_map([], |row| Ok(row.get::<_, i64>(0)? as u64))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

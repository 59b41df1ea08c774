//! The connection that writes, and groups of operations that share a transaction.
//!
//! A transaction writes each page that it touched to the log. The operations on small files
//! touch the same few pages again and again, so those that need not survive at once share one
//! transaction, the *group*: the first opens it, and it is committed a few milliseconds later,
//! when it has many operations, or as soon as anything else is to be written or read on
//! another connection. It promises:
//!
//! - An operation is done whole or not at all: each is a savepoint.
//! - What is done is in the database in the order in which it was done. So a process that is
//!   killed loses the last few operations, or none, and never one of them without all later.
//! - A disk that is full fails the operation that it has no room for, and none that was
//!   answered before: the log has room for a whole group before the first is answered.
//! - If a group cannot be committed all the same, operations that were answered are lost. The
//!   database is as after a kill then, and nothing more is written until the next start.

use std::cell::RefCell;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use rustix::fs::FallocateFlags;

use crate::db::BUSY_TIME;
use crate::{Ino, Result, Volume, VolumeError};

/// A group is committed so long after it was opened.
const GROUP_TIME: Duration = Duration::from_millis(5);
/// A group has at most so many operations.
const GROUP_OPERATIONS: u64 = 128;
/// More than the log gets by an operation of a group, in bytes.
const OPERATION_BYTES: u64 = 128 << 10;
/// A group has this much over what its operations are thought to need.
const SPARE_BYTES: u64 = 1 << 20;
/// More than the log gets by a group of [`GROUP_OPERATIONS`], in bytes.
const GROUP_BYTES: u64 = SPARE_BYTES + GROUP_OPERATIONS * OPERATION_BYTES;
/// The log may hold this part of what is free on its disk, and as much again be kept for it.
const SHARE_OF_DISK: u64 = 16;

/// A transaction that is open: what is done by it is done as a whole or not at all.
#[derive(Debug)]
pub struct Transaction<'a> {
    connection: &'a Connection,
    gone: &'a RefCell<Vec<Ino>>,
}

impl std::ops::Deref for Transaction<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection
    }
}

impl Transaction<'_> {
    /// The node's cache file is to be removed, once this is committed and not before.
    pub(crate) fn note_gone(&self, ino: Ino) {
        self.gone.borrow_mut().push(ino);
    }
}

/// The connection that writes.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) connection: Connection,
    log: Option<File>,
    /// How many operations more the open group may have; `None`: no group is open.
    operations_left: Option<u64>,
    /// Whether a transaction is open that only reads.
    reading: bool,
    /// Cache files to be removed once the open transaction is committed.
    gone: RefCell<Vec<Ino>>,
    broken: bool,
}

/// What became of the open transaction.
pub(crate) enum Ended {
    /// It is committed, and these cache files may go.
    Committed(Vec<Ino>),
    /// It goes on: it is a group.
    GoesOn,
}

impl Writer {
    /// The writer of the database in `path`, to which `connection` is open.
    pub(crate) fn new(path: &Path, connection: Connection) -> Self {
        let log = File::options()
            .write(true)
            .open(path.with_extension("db-wal"));
        Self {
            connection,
            log: log.ok(),
            operations_left: None,
            reading: false,
            gone: RefCell::default(),
            broken: false,
        }
    }

    pub(crate) fn is_group_open(&self) -> bool {
        self.operations_left.is_some()
    }

    /// Opens a transaction for those who only read, if none is open: to take and to give back
    /// the database's locks costs four system calls, so those who read one after the other
    /// share them. As nobody else writes, they see the newest state all the same. Says
    /// whether it was opened now, and is to be ended ([`Writer::end_reading`]).
    pub(crate) fn begin_reading(&mut self) -> Result<bool> {
        if self.reading || self.is_group_open() {
            return Ok(false);
        }
        self.execute("BEGIN")?;
        self.reading = true;
        Ok(true)
    }

    /// Ends the transaction that only reads, if one is open: before anything is written.
    pub(crate) fn end_reading(&mut self) {
        if std::mem::take(&mut self.reading) {
            self.roll_back();
        }
    }

    /// Changes the database in a transaction that is committed when this returns. No group
    /// may be open.
    pub(crate) fn transact<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<(T, Vec<Ino>)> {
        self.refuse_broken()?;
        self.execute("BEGIN IMMEDIATE")?;
        let done = change(&self.transaction()).and_then(|value| {
            self.execute("COMMIT")?;
            Ok(value)
        });
        match done {
            Ok(value) => Ok((value, self.gone.take())),
            Err(error) => {
                self.roll_back();
                Err(error)
            }
        }
    }

    /// Changes the database as a part of the group, which is opened if none is.
    pub(crate) fn join<T>(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<(T, Ended)> {
        self.refuse_broken()?;
        let left = match self.operations_left {
            Some(left) => left,
            None => match self.reserve_room()? {
                0 | 1 => {
                    let (value, gone) = self.transact(change)?;
                    return Ok((value, Ended::Committed(gone)));
                }
                room => {
                    self.execute("BEGIN IMMEDIATE")?;
                    self.operations_left = Some(room);
                    room
                }
            },
        };
        let value = self.step(change)?;
        self.operations_left = Some(left - 1);
        if left > 1 {
            return Ok((value, Ended::GoesOn));
        }
        let gone = self.commit_group()?;
        Ok((value, Ended::Committed(gone)))
    }

    /// One operation of the group: what it did is undone if it fails.
    fn step<T>(&mut self, change: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.execute("SAVEPOINT operation")?;
        let before = self.gone.borrow().len();
        let done = change(&self.transaction());
        if self.connection.is_autocommit() {
            // The disk failed so badly that all of the group was rolled back.
            return Err(self.break_down());
        }
        let ended = match &done {
            Ok(_) => self.execute("RELEASE operation"),
            Err(_) => {
                self.gone.borrow_mut().truncate(before);
                self.execute("ROLLBACK TO operation")
                    .and_then(|()| self.execute("RELEASE operation"))
            }
        };
        match ended {
            Ok(()) => done,
            Err(_) => Err(self.break_down()),
        }
    }

    /// Commits the group, if one is open. Answers the cache files that may go.
    pub(crate) fn commit_group(&mut self) -> Result<Vec<Ino>> {
        if self.operations_left.take().is_none() {
            return Ok(Vec::new());
        }
        match self.execute("COMMIT") {
            Ok(()) => Ok(self.gone.take()),
            Err(error) => {
                tracing::error!(%error, "operations that were answered are lost");
                Err(self.break_down())
            }
        }
    }

    fn transaction(&self) -> Transaction<'_> {
        Transaction {
            connection: &self.connection,
            gone: &self.gone,
        }
    }

    fn execute(&self, statement: &str) -> Result<()> {
        self.connection.prepare_cached(statement)?.execute([])?;
        Ok(())
    }

    fn roll_back(&self) {
        self.gone.borrow_mut().clear();
        if !self.connection.is_autocommit()
            && let Err(error) = self.execute("ROLLBACK")
        {
            tracing::error!(%error, "a transaction could not be rolled back");
        }
    }

    /// Operations that were answered are lost: nothing is written any more.
    fn break_down(&mut self) -> VolumeError {
        self.broken = true;
        self.operations_left = None;
        self.roll_back();
        broken()
    }

    fn refuse_broken(&self) -> Result<()> {
        if self.broken { Err(broken()) } else { Ok(()) }
    }

    /// Makes sure that the log has room for a group, of fewer operations if the disk is
    /// tight. Answers of how many.
    fn reserve_room(&self) -> Result<u64> {
        let Some(log) = &self.log else {
            return Ok(0);
        };
        let failed = |error| VolumeError::io("the database's log", error);
        let meta = log.metadata().map_err(failed)?;
        let room = room_of(&meta);
        if room >= GROUP_BYTES {
            return Ok(GROUP_OPERATIONS);
        }
        let disk = rustix::fs::fstatvfs(log).map_err(|error| failed(error.into()))?;
        let share = disk.f_bavail.saturating_mul(disk.f_frsize) / SHARE_OF_DISK;
        if meta.len() > share + SPARE_BYTES {
            self.empty_log();
        }
        // Twice what is needed, so that this is seldom done.
        let wanted = share.min(2 * GROUP_BYTES);
        let len = log.metadata().map_err(failed)?.len();
        if room < wanted / 2 {
            // If it fails, there is room for fewer operations, or none.
            let _ = rustix::fs::fallocate(log, FallocateFlags::KEEP_SIZE, 0, len + wanted);
        }
        let room = room_of(&log.metadata().map_err(failed)?);
        Ok((room.saturating_sub(SPARE_BYTES) / OPERATION_BYTES).min(GROUP_OPERATIONS))
    }

    /// Moves all that the log holds into the database file, and gives back its room. Not if
    /// a reader needs what is in the log, or the disk has no room for it in the database:
    /// then the log stays, and another time will do. No group may be open.
    pub(crate) fn empty_log(&self) {
        let emptied = self.connection.busy_timeout(Duration::ZERO).and_then(|()| {
            self.connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        });
        if let Err(error) = emptied.and(self.connection.busy_timeout(BUSY_TIME)) {
            tracing::debug!(%error, "the log stays as it is");
        }
    }

    /// What the log takes on the disk, in bytes.
    pub(crate) fn log_bytes(&self) -> u64 {
        let meta = self.log.as_ref().and_then(|log| log.metadata().ok());
        meta.map_or(0, |meta| meta.blocks() * 512)
    }
}

/// What is reserved for the log behind its end, in bytes.
fn room_of(log: &Metadata) -> u64 {
    (log.blocks() * 512).saturating_sub(log.len())
}

fn broken() -> VolumeError {
    VolumeError::State(
        "the database could not be written, and what was done last is lost; unmount the volume, \
         see that the disk is sound and has room, and mount it again"
            .to_owned(),
    )
}

/// Tells the thread that commits groups that one was opened, and that there will be no more.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    state: Mutex<Rung>,
    rung: Condvar,
    /// Whether the thread has the volume in its hands.
    at_work: Mutex<()>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Rung {
    #[default]
    No,
    Opened,
    Closed,
}

impl Bell {
    pub(crate) fn ring(&self) {
        let mut state = self.state.lock();
        if *state == Rung::No {
            *state = Rung::Opened;
            self.rung.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        *self.state.lock() = Rung::Closed;
        self.rung.notify_all();
    }

    /// As [`Bell::close`]; when it returns, the thread has let go of the volume for good.
    pub(crate) fn close_and_wait(&self) {
        self.close();
        drop(self.at_work.lock());
    }

    fn is_closed(&self) -> bool {
        *self.state.lock() == Rung::Closed
    }

    /// Waits for a group. False if there will be none.
    fn wait(&self) -> bool {
        let mut state = self.state.lock();
        while *state == Rung::No {
            self.rung.wait(&mut state);
        }
        if *state == Rung::Opened {
            *state = Rung::No;
            return true;
        }
        false
    }
}

/// Starts the thread that commits groups, and removes what goes with them, for as long as the
/// volume lives.
pub(crate) fn run(volume: &Arc<Volume>) -> Result<()> {
    let (bell, weak) = (volume.db.bell(), Arc::downgrade(volume));
    std::thread::Builder::new()
        .name("larder-group".to_owned())
        .spawn(move || commit_groups(&bell, &weak))
        .map_err(|error| VolumeError::io("a thread", error))?;
    Ok(())
}

fn commit_groups(bell: &Bell, weak: &Weak<Volume>) {
    while bell.wait() {
        std::thread::sleep(GROUP_TIME);
        let _at_work = bell.at_work.lock();
        if bell.is_closed() {
            return;
        }
        let Some(volume) = weak.upgrade() else {
            return;
        };
        if let Err(error) = volume.db.commit_group() {
            tracing::error!(%error, "what was done last is lost");
        }
        volume.remove_gone();
    }
}

#[cfg(test)]
mod tests {
    use larder_store::testing::SmallDisk;

    use super::*;

    fn writer(directory: &Path) -> Writer {
        let path = directory.join("volume.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE rows(n INTEGER)")
            .unwrap();
        Writer::new(&path, connection)
    }

    fn insert(tx: &Transaction<'_>, n: i64) -> Result<()> {
        tx.execute("INSERT INTO rows(n) VALUES(?1)", [n])?;
        tx.note_gone(n as Ino);
        Ok(())
    }

    fn rows(connection: &Connection) -> Vec<i64> {
        let mut statement = connection.prepare("SELECT n FROM rows").unwrap();
        let rows = statement.query_map([], |row| row.get(0)).unwrap();
        rows.collect::<rusqlite::Result<_>>().unwrap()
    }

    #[test]
    fn an_operation_that_fails_is_undone_alone() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        writer.join(|tx| insert(tx, 1)).unwrap();
        let failed = writer.join(|tx| {
            insert(tx, 2)?;
            Err::<(), _>(VolumeError::Exists)
        });
        assert!(failed.is_err());
        writer.join(|tx| insert(tx, 3)).unwrap();
        assert_eq!(writer.commit_group().unwrap(), [1, 3]);
        assert_eq!(rows(&writer.connection), [1, 3]);
    }

    #[test]
    fn a_group_is_seen_by_others_once_it_is_committed_and_ends_by_itself() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        let other = Connection::open(directory.path().join("volume.db")).unwrap();
        writer.join(|tx| insert(tx, 0)).unwrap();
        assert_eq!(rows(&other), [0; 0]);
        for n in 1..GROUP_OPERATIONS as i64 {
            writer.join(|tx| insert(tx, n)).unwrap();
        }
        assert!(!writer.is_group_open());
        assert_eq!(rows(&other).len(), GROUP_OPERATIONS as usize);
    }

    /// The log has to leave the room to the content.
    #[test]
    fn on_a_small_disk_the_log_takes_little_and_groups_are_smaller() {
        let directory = tempfile::tempdir().unwrap();
        let Some(_disk) = SmallDisk::mount(directory.path(), 48 << 20) else {
            return;
        };
        let mut writer = writer(directory.path());
        let mut most = 0;
        for n in 0..20_000 {
            let (_, ended) = writer.join(|tx| insert(tx, n)).unwrap();
            if n == 0 {
                assert!(matches!(ended, Ended::GoesOn));
            }
            most = most.max(writer.log_bytes());
        }
        writer.commit_group().unwrap();
        assert!(most < 9 << 20, "{most}");
        assert_eq!(rows(&writer.connection).len(), 20_000);
        writer.empty_log();
        assert_eq!(writer.log_bytes(), 0);
        assert_eq!(rows(&writer.connection).len(), 20_000);
    }

    /// Whatever is built on operations that are lost would be worse than nothing.
    #[test]
    fn nothing_is_written_after_a_group_was_lost() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = writer(directory.path());
        writer.join(|tx| insert(tx, 1)).unwrap();
        writer.connection.execute_batch("ROLLBACK").unwrap();
        assert!(writer.commit_group().is_err());
        assert!(writer.join(|tx| insert(tx, 2)).is_err());
        assert!(writer.transact(|tx| insert(tx, 3)).is_err());
        assert_eq!(rows(&writer.connection), [0; 0]);
    }
}

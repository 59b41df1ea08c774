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
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use rustix::fs::FallocateFlags;

use crate::{Ino, Result, Volume, VolumeError};

/// A group is committed so long after it was opened.
const GROUP_TIME: Duration = Duration::from_millis(5);
/// A group has at most so many operations.
const GROUP_OPERATIONS: u32 = 128;
/// More than the log gets by a group of [`GROUP_OPERATIONS`], in bytes.
const GROUP_BYTES: u64 = 16 << 20;

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
    /// How many operations the open group has; `None`: no group is open.
    operations: Option<u32>,
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
            operations: None,
            gone: RefCell::default(),
            broken: false,
        }
    }

    pub(crate) fn is_group_open(&self) -> bool {
        self.operations.is_some()
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
        let operations = match self.operations {
            Some(operations) => operations,
            None if self.reserve_room()? => {
                self.execute("BEGIN IMMEDIATE")?;
                self.operations = Some(0);
                0
            }
            None => {
                let (value, gone) = self.transact(change)?;
                return Ok((value, Ended::Committed(gone)));
            }
        };
        let value = self.step(change)?;
        self.operations = Some(operations + 1);
        if operations + 1 < GROUP_OPERATIONS {
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
        if self.operations.take().is_none() {
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
        self.operations = None;
        self.roll_back();
        broken()
    }

    fn refuse_broken(&self) -> Result<()> {
        if self.broken { Err(broken()) } else { Ok(()) }
    }

    /// Makes sure that the log has room for a group. False if that cannot be had for sure.
    fn reserve_room(&self) -> Result<bool> {
        let Some(log) = &self.log else {
            return Ok(false);
        };
        let failed = |error| VolumeError::io("the database's log", error);
        let meta = log.metadata().map_err(failed)?;
        let needed = meta.len() + GROUP_BYTES;
        if meta.blocks() * 512 >= needed {
            return Ok(true);
        }
        // More than is needed, so that this is seldom done.
        let room = needed + GROUP_BYTES;
        match rustix::fs::fallocate(log, FallocateFlags::KEEP_SIZE, 0, room) {
            Ok(()) => Ok(true),
            // Then each operation is told by itself whether there is room for it.
            Err(_) => Ok(false),
        }
    }
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
        for n in 1..i64::from(GROUP_OPERATIONS) {
            writer.join(|tx| insert(tx, n)).unwrap();
        }
        assert!(!writer.is_group_open());
        assert_eq!(rows(&other).len(), GROUP_OPERATIONS as usize);
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

//! The database's connections.
//!
//! One connection writes, others read what is committed. What [`Db::write`] did survives the
//! death of the process when it returns, what [`Db::write_soon`] did a few milliseconds later
//! (`group`). Both survive a power cut once any later [`Db::write_synced`] has returned.
//! [`Db::write_synced`] changes a row on purpose: an empty transaction syncs nothing.
//!
//! Whoever reads sees all that was done before: a reader's connection is used only when no
//! group is open.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

pub use crate::group::Transaction;
use crate::group::{Bell, Ended, Writer};
use crate::{Ino, Result, VolumeError};

/// The version of the tables in `schema.sql`, `schema_2.sql` and so on.
pub const DATABASE_FORMAT: i64 = 5;

const SCHEMA: &str = include_str!("schema.sql");
/// What format 2 added to format 1.
const SCHEMA_2: &str = include_str!("schema_2.sql");
/// What format 3 added to format 2.
const SCHEMA_3: &str = include_str!("schema_3.sql");
/// What format 4 added to format 3.
const SCHEMA_4: &str = include_str!("schema_4.sql");
/// What format 5 added to format 4.
const SCHEMA_5: &str = include_str!("schema_5.sql");
const STATEMENTS_CACHED: usize = 128;
const READERS_KEPT: usize = 4;
/// How long a connection waits for another.
pub(crate) const BUSY_TIME: Duration = Duration::from_secs(10);
/// The log is moved into the database file when it has this many pages, so 32 MB: the same
/// page is then written there once, however often it changed.
const LOG_PAGES: u32 = 8000;
/// A log that takes less is not worth the trouble of emptying it.
const SMALL_LOG: u64 = 1 << 20;

/// The database of one replica.
#[derive(Debug)]
pub struct Db {
    path: PathBuf,
    writer: Mutex<Writer>,
    /// Whether a group is open; changed under the writer's lock.
    group_open: AtomicBool,
    bell: Arc<Bell>,
    /// Nodes whose deletion is committed, and whose cache files may go.
    gone: Mutex<Vec<Ino>>,
    readers: Mutex<Vec<Connection>>,
    syncs: AtomicU64,
    /// How many changes there were, and how many when the log was last looked after.
    writes: AtomicU64,
    writes_before: AtomicU64,
}

impl Db {
    /// Makes a new, empty database.
    ///
    /// # Errors
    /// If there is one already, or the disk fails.
    pub fn create(path: &Path) -> Result<Self> {
        if path.exists() {
            return Err(VolumeError::State(format!(
                "{} is there already",
                path.display()
            )));
        }
        let mut connection = Connection::open(path)?;
        tune_writer(&connection)?;
        let tx = connection.transaction()?;
        tx.execute_batch(SCHEMA)?;
        tx.execute_batch(SCHEMA_2)?;
        tx.execute_batch(SCHEMA_3)?;
        tx.execute_batch(SCHEMA_4)?;
        tx.execute_batch(SCHEMA_5)?;
        tx.execute(
            "INSERT INTO meta(key, value) VALUES('format', ?1), ('synced', ?2)",
            (DATABASE_FORMAT.to_be_bytes(), 0u64.to_be_bytes()),
        )?;
        tx.commit()?;
        Ok(Self::with_writer(path, connection))
    }

    /// Opens the database of an existing replica.
    ///
    /// # Errors
    /// If there is none, it is damaged, or it is from a newer Larder.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection =
            Connection::open_with_flags(path, flags).map_err(|error| unreadable(path, &error))?;
        tune_writer(&connection).map_err(|error| unreadable(path, &error))?;
        let format: Vec<u8> = connection
            .query_row("SELECT value FROM meta WHERE key = 'format'", [], |row| {
                row.get(0)
            })
            .map_err(|error| unreadable(path, &error))?;
        match format.try_into().map(i64::from_be_bytes) {
            Ok(DATABASE_FORMAT) => Ok(Self::with_writer(path, connection)),
            Ok(older @ 1..DATABASE_FORMAT) => {
                upgrade(&mut connection, older)?;
                Ok(Self::with_writer(path, connection))
            }
            Ok(newer) if newer > DATABASE_FORMAT => Err(VolumeError::State(format!(
                "{} has format {newer}, made by a newer Larder; this one knows up to \
                 {DATABASE_FORMAT}. Update Larder",
                path.display()
            ))),
            _ => Err(VolumeError::State(format!(
                "{} is not a Larder database",
                path.display()
            ))),
        }
    }

    fn with_writer(path: &Path, writer: Connection) -> Self {
        Self {
            path: path.to_owned(),
            writer: Mutex::new(Writer::new(path, writer)),
            group_open: AtomicBool::new(false),
            bell: Arc::default(),
            gone: Mutex::default(),
            readers: Mutex::new(Vec::new()),
            syncs: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            writes_before: AtomicU64::new(0),
        }
    }

    /// Reads a few rows. On the writer's connection while nobody writes, or a group is open:
    /// it alone keeps its cached pages when something was written, the others read them anew.
    ///
    /// # Errors
    /// What `read` fails with, and failures of the database.
    pub fn look<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        match self.writer.try_lock() {
            Some(mut writer) => {
                if writer.begin_reading()? {
                    self.bell.ring();
                }
                read(&writer.connection)
            }
            None if self.group_open.load(Ordering::SeqCst) => read(&self.writer.lock().connection),
            None => self.read(read),
        }
    }

    /// Reads on a connection of its own, what is long or may take long.
    ///
    /// # Errors
    /// What `read` fails with, and failures of the database.
    pub fn read<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        if self.group_open.load(Ordering::SeqCst) {
            self.commit_group()?;
        }
        let kept = self.readers.lock().pop();
        let connection = match kept {
            Some(connection) => connection,
            None => self.new_reader()?,
        };
        let result = read(&connection);
        let mut readers = self.readers.lock();
        if readers.len() < READERS_KEPT {
            readers.push(connection);
        }
        result
    }

    /// Reads one state of the whole database, however many statements `read` makes.
    ///
    /// # Errors
    /// As [`Db::read`].
    pub fn read_snapshot<T>(&self, read: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        self.read(|connection| {
            let snapshot = connection.unchecked_transaction()?;
            read(&snapshot)
        })
    }

    fn new_reader(&self) -> Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        keep_plans(&connection)?;
        connection.busy_timeout(BUSY_TIME)?;
        connection.execute_batch("PRAGMA cache_size = -4000; PRAGMA temp_store = MEMORY;")?;
        Ok(connection)
    }

    /// Changes the database in one transaction; nothing is changed if `change` fails.
    ///
    /// # Errors
    /// What `change` fails with, and failures of the database.
    pub fn write<T>(&self, change: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut writer = self.writer_to_change();
        self.end_group(&mut writer)?;
        let (value, gone) = writer.transact(change)?;
        self.gone.lock().extend(gone);
        Ok(value)
    }

    /// As [`Db::write`], but what was done survives the death of the process only after a
    /// few milliseconds, or when anything later is written or synced. All that is done so
    /// keeps its order.
    ///
    /// # Errors
    /// As [`Db::write`].
    pub(crate) fn write_soon<T>(
        &self,
        change: impl FnOnce(&Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut writer = self.writer_to_change();
        let joined = writer.join(change);
        let is_open = writer.is_group_open();
        if self.group_open.swap(is_open, Ordering::SeqCst) != is_open && is_open {
            self.bell.ring();
        }
        let (value, ended) = joined?;
        if let Ended::Committed(gone) = ended {
            self.gone.lock().extend(gone);
            if !self.gone.lock().is_empty() {
                self.bell.ring();
            }
        }
        Ok(value)
    }

    fn writer_to_change(&self) -> MutexGuard<'_, Writer> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut writer = self.writer.lock();
        writer.end_reading();
        writer
    }

    /// Commits what [`Db::write_soon`] did, if it is not yet, and gives back the locks of
    /// those who read.
    ///
    /// # Errors
    /// If the disk fails: then it is lost, and nothing more can be written.
    pub(crate) fn commit_group(&self) -> Result<()> {
        self.end_group(&mut self.writer.lock())
    }

    fn end_group(&self, writer: &mut MutexGuard<'_, Writer>) -> Result<()> {
        writer.end_reading();
        if writer.is_group_open() {
            let ended = writer.commit_group();
            self.group_open.store(false, Ordering::SeqCst);
            self.gone.lock().extend(ended?);
        }
        Ok(())
    }

    /// Nodes whose deletion is committed, and whose cache files are to be removed. Each is
    /// answered once.
    pub(crate) fn take_gone(&self) -> Vec<Ino> {
        std::mem::take(&mut *self.gone.lock())
    }

    pub(crate) fn bell(&self) -> Arc<Bell> {
        Arc::clone(&self.bell)
    }

    /// As [`Db::write`]; when it returns, this and all before it survives a power cut.
    ///
    /// # Errors
    /// As [`Db::write`]; then nothing is promised to survive.
    pub fn write_synced<T>(&self, change: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut writer = self.writer_to_change();
        self.end_group(&mut writer)?;
        writer
            .connection
            .execute_batch("PRAGMA synchronous = FULL")?;
        let result = writer.transact(|tx| {
            let value = change(tx)?;
            tx.prepare_cached("UPDATE meta SET value = randomblob(8) WHERE key = 'synced'")?
                .execute([])?;
            Ok(value)
        });
        if result.is_ok() {
            self.syncs.fetch_add(1, Ordering::SeqCst);
        }
        writer
            .connection
            .execute_batch("PRAGMA synchronous = NORMAL")?;
        let (value, gone) = result?;
        self.gone.lock().extend(gone);
        Ok(value)
    }

    /// How many synced transactions there were: what was committed when this was less
    /// survives a power cut.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Moves what the log holds into the database file, as far as no reader is in the way,
    /// and gives back the log's room if nothing was written since the last call.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn checkpoint(&self) -> Result<()> {
        let writes = self.writes.load(Ordering::Relaxed);
        if self.writes_before.swap(writes, Ordering::Relaxed) == writes {
            return self.empty_log();
        }
        let wal = self.path.with_extension("db-wal");
        let large = std::fs::metadata(wal).is_ok_and(|meta| meta.len() > 8 << 20);
        if large {
            let connection = Connection::open(&self.path)?;
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?;
        }
        Ok(())
    }

    /// Gives back the room that the log takes on the disk, as far as that can be done now.
    ///
    /// # Errors
    /// Failures of the database.
    pub(crate) fn empty_log(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        if writer.log_bytes() > SMALL_LOG {
            self.end_group(&mut writer)?;
            writer.empty_log();
        }
        Ok(())
    }

    /// What SQLite's own check finds wrong; empty if nothing is.
    ///
    /// # Errors
    /// If the check itself cannot run.
    pub fn integrity_check(&self) -> Result<Vec<String>> {
        self.read(|connection| {
            let mut statement = connection.prepare("PRAGMA integrity_check(20)")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            let lines = rows.collect::<Result<Vec<_>, _>>()?;
            Ok(lines.into_iter().filter(|line| line != "ok").collect())
        })
    }

    /// A value of `meta`.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        self.read(|connection| meta(connection, key))
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.bell.close();
        if let Err(error) = self.commit_group() {
            tracing::error!(%error, "what was done last is lost");
        }
    }
}

/// A value of `meta`, read on a given connection.
///
/// # Errors
/// Failures of the database.
pub fn meta(connection: &Connection, key: &str) -> Result<Option<Vec<u8>>> {
    use rusqlite::OptionalExtension;
    Ok(connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")?
        .query_row([key], |row| row.get(0))
        .optional()?)
}

/// A number of `meta`; 0 if it was never set.
///
/// # Errors
/// Failures of the database.
pub fn meta_u64(connection: &Connection, key: &str) -> Result<u64> {
    let bytes = meta(connection, key)?.and_then(|bytes| bytes.try_into().ok());
    Ok(bytes.map_or(0, u64::from_be_bytes))
}

/// Sets a value of `meta`.
///
/// # Errors
/// Failures of the database.
pub fn set_meta(connection: &Connection, key: &str, value: &[u8]) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO meta(key, value) VALUES(?1, ?2)
             ON CONFLICT(key) DO UPDATE SET value = excluded.value",
        )?
        .execute((key, value))?;
    Ok(())
}

/// Brings the tables of an older format up to date.
fn upgrade(connection: &mut Connection, from: i64) -> Result<()> {
    let tx = connection.transaction()?;
    if from < 2 {
        tx.execute_batch(SCHEMA_2)?;
    }
    if from < 3 {
        tx.execute_batch(SCHEMA_3)?;
    }
    if from < 4 {
        tx.execute_batch(SCHEMA_4)?;
    }
    tx.execute_batch(SCHEMA_5)?;
    set_meta(&tx, "format", &DATABASE_FORMAT.to_be_bytes())?;
    tx.commit()?;
    Ok(())
}

/// Keeps statements, each with the plan that it was made with. SQLite makes the plan of a
/// join anew whenever a value is bound to it, in case another plan suits that value better:
/// that costs more than all else that such a statement does here.
fn keep_plans(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn tune_writer(connection: &Connection) -> rusqlite::Result<()> {
    keep_plans(connection)?;
    connection.busy_timeout(BUSY_TIME)?;
    let log_bytes = LOG_PAGES * 4096;
    connection.execute_batch(&format!(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA wal_autocheckpoint = {LOG_PAGES}; PRAGMA journal_size_limit = {log_bytes};
         PRAGMA cache_size = -16000; PRAGMA temp_store = MEMORY;
         PRAGMA foreign_keys = OFF;",
    ))
}

fn unreadable(path: &Path, error: &rusqlite::Error) -> VolumeError {
    VolumeError::State(format!(
        "{} cannot be read ({error}). Nothing on the store is touched by this: keep the \
         directory, and open the volume afresh from its store with `larder open`",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use rusqlite::StatementStatus;

    use super::*;

    /// It would stay as large as it ever was, beside a database of any size.
    #[test]
    fn the_log_takes_no_room_once_nothing_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::create(&directory.path().join("volume.db")).unwrap();
        for n in 0..200u64 {
            let set = |tx: &Transaction<'_>| set_meta(tx, &n.to_string(), &[0; 3000]);
            db.write_soon(set).unwrap();
        }
        let log_bytes = || db.writer.lock().log_bytes();
        db.checkpoint().unwrap();
        assert!(log_bytes() > SMALL_LOG, "work goes on at full speed");
        db.checkpoint().unwrap();
        assert_eq!(log_bytes(), 0);
        assert_eq!(db.meta("199").unwrap().unwrap(), [0; 3000]);
    }

    /// They share the database's locks: none may be in the way of what comes after it.
    #[test]
    fn who_only_looked_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::create(&directory.path().join("volume.db")).unwrap();
        let look = || db.look(|connection| meta(connection, "key")).unwrap();
        let reads = || !db.writer.lock().connection.is_autocommit();
        let set = |value: &'static [u8]| move |tx: &Transaction<'_>| set_meta(tx, "key", value);
        assert_eq!(look(), None);
        assert!(reads());
        db.write(set(b"1")).unwrap();
        assert_eq!(look().unwrap(), b"1");
        db.write_synced(set(b"2")).unwrap();
        assert_eq!(look().unwrap(), b"2");
        db.write_soon(set(b"3")).unwrap();
        assert_eq!(look().unwrap(), b"3");
        db.commit_group().unwrap();
        assert_eq!(look().unwrap(), b"3");
        db.commit_group().unwrap();
        assert!(!reads());
        db.write(|tx| set_meta(tx, "large", &[0; 2 << 20])).unwrap();
        assert_eq!(look().unwrap(), b"3");
        db.empty_log().unwrap();
        assert_eq!(db.writer.lock().log_bytes(), 0);
    }

    /// It made storing a small file a fifth slower.
    #[test]
    fn no_statement_is_planned_twice() {
        let directory = tempfile::tempdir().unwrap();
        let db = Db::create(&directory.path().join("volume.db")).unwrap();
        let planned_again = |connection: &Connection| {
            let mut statement = connection.prepare(
                "SELECT n.size, c.dirty FROM nodes n LEFT JOIN cached c ON c.ino = n.ino
                 WHERE n.ino = ?1",
            )?;
            for ino in 0..3 {
                statement.exists([ino])?;
                statement.clear_bindings();
            }
            Ok(statement.get_status(StatementStatus::RePrepare))
        };
        assert_eq!(db.read(planned_again).unwrap(), 0);
        assert_eq!(db.write(|tx| planned_again(tx)).unwrap(), 0);
    }
}

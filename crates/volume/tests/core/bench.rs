//! What these tests need of a volume beside the common bench: files that are away, counted
//! requests, a database that fails on purpose, and crashes.

#![allow(dead_code, reason = "what comes first is used by few")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use larder_store::StoreOptions;
use larder_store::testing::Counting;
use larder_volume::{Access, Dropped, Ino, Volume};
use rusqlite::{Connection, OptionalExtension};

use crate::common::{Bench, until};

/// A bench whose requests to the store are counted.
pub fn counted() -> (Bench, Arc<Counting>) {
    let directory = tempfile::tempdir().unwrap();
    let folder = directory.path().join("store");
    std::fs::create_dir(&folder).unwrap();
    let below = larder_store::open(folder.to_str().unwrap(), &StoreOptions::default()).unwrap();
    let counting = Arc::new(Counting::new(below));
    (Bench::on(directory, Arc::clone(&counting) as _), counting)
}

/// Stores what is dirty, and drops the content of these files.
pub fn send_away(bench: &Bench, volume: &Arc<Volume>, files: &[Ino]) {
    bench.commit(volume);
    for &ino in files {
        until("the file can be dropped", || {
            matches!(volume.drop_content(ino).unwrap(), Dropped::Freed(_))
        });
    }
}

/// All bytes of a file.
pub fn read_all(volume: &Volume, ino: Ino) -> Vec<u8> {
    let mut bytes = vec![0; volume.attr(ino).unwrap().size as usize];
    let mut done = 0;
    while done < bytes.len() {
        let more = volume.read(ino, done as u64, &mut bytes[done..]).unwrap();
        assert_ne!(more, 0, "the file ends before its size");
        done += more;
    }
    bytes
}

/// Opened to be written, through this process.
pub const WRITE: Access = Access {
    write: true,
    truncate: false,
    direct: false,
    tells_times: false,
};

/// Opened to be written past this process, if that can be.
pub const DIRECT: Access = Access {
    direct: true,
    ..WRITE
};

/// The database, as a second process would look at it.
pub fn database(state: &Path) -> Connection {
    let connection = Connection::open(state.join("volume.db")).unwrap();
    connection
        .busy_timeout(std::time::Duration::from_secs(10))
        .unwrap();
    connection
}

/// A database that refuses a change, as it does when the disk is full: for as long as this
/// lives, what `when` matches of `change` (as `UPDATE`) of `table` fails, and with it the
/// transaction that it is a part of.
pub struct Refusal(Connection);

impl Refusal {
    pub fn of(state: &Path, change: &str, table: &str, when: &str) -> Self {
        let connection = database(state);
        connection
            .execute_batch(&format!(
                "CREATE TRIGGER refusal BEFORE {change} ON {table} WHEN {when}
                 BEGIN SELECT RAISE(ABORT, 'the disk is full, says the test'); END"
            ))
            .unwrap();
        Self(connection)
    }
}

impl Drop for Refusal {
    fn drop(&mut self) {
        self.0.execute_batch("DROP TRIGGER refusal").unwrap();
    }
}

/// What a file's content is in the cache.
pub fn cache_file(state: &Path, ino: Ino) -> PathBuf {
    state
        .join("cache")
        .join(format!("{:x}", ino >> 12))
        .join(format!("{ino:x}"))
}

/// What was made durable for sure: a mark that each synced transaction changes.
fn synced_mark(state: &Path) -> Option<Vec<u8>> {
    database(state)
        .query_row("SELECT value FROM meta WHERE key = 'synced'", [], |row| {
            row.get(0)
        })
        .optional()
        .unwrap_or(None)
}

/// Makes of the image of a state directory what a power cut may leave: the database loses
/// all transactions that no sync was promised for, and the machine was booted anew.
pub fn cut_power(image: &Path) {
    let (log, database) = (image.join("volume.db-wal"), image.join("volume.db"));
    // The memory of the log that living processes share is gone.
    let _ = std::fs::remove_file(image.join("volume.db-shm"));
    let (whole_log, whole_database) = (
        std::fs::read(&log).unwrap_or_default(),
        std::fs::read(&database).unwrap(),
    );
    let mark = synced_mark(image);
    let shortest = commits_in(&whole_log).into_iter().find(|&end| {
        put_back(image, &whole_database, &whole_log[..end]);
        synced_mark(image) == mark
    });
    let end = shortest.unwrap_or(whole_log.len());
    put_back(image, &whole_database, &whole_log[..end]);
    let connection = self::database(image);
    connection
        .execute("UPDATE meta SET value = x'00' WHERE key = 'boot'", [])
        .unwrap();
}

fn put_back(image: &Path, database: &[u8], log: &[u8]) {
    let _ = std::fs::remove_file(image.join("volume.db-shm"));
    std::fs::write(image.join("volume.db"), database).unwrap();
    std::fs::write(image.join("volume.db-wal"), log).unwrap();
}

/// Where the transactions of a write-ahead log end, by SQLite's file format: the frames
/// behind a header of 32 bytes, a frame's header of 24 bytes, and in its second word the
/// size of the database if the frame ends a transaction.
fn commits_in(log: &[u8]) -> Vec<usize> {
    let word = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    if log.len() < 32 {
        return vec![log.len()];
    }
    let frame = 24 + word(8) as usize;
    let mut ends = vec![32];
    let mut at = 32;
    while at + frame <= log.len() {
        if word(at + 4) > 0 {
            ends.push(at + frame);
        }
        at += frame;
    }
    ends
}

//! What the database has of a file's local content: its row in `cached`, and the working
//! map in `extents`.

use larder_model::{ChunkId, Kind};
use rusqlite::{Connection, OptionalExtension};

use super::map::{Map, Piece, end_of};
use super::state::{Here, Pending, State};
use crate::db::Transaction;
use crate::{Ino, Result, VolumeError, node};

pub(super) fn upsert_cached(
    tx: &Transaction<'_>,
    ino: i64,
    whole: bool,
    dirty: bool,
    generation: u64,
    epoch: u64,
) -> Result<()> {
    let now = node::now().0;
    tx.prepare_cached(
        "INSERT INTO cached(ino, whole, dirty, generation, since, bytes, epoch, used)
         VALUES(?1, ?2, ?3, ?4, ?5, 0, ?6, ?7)
         ON CONFLICT(ino) DO UPDATE SET
             since = iif(dirty = 1, since, excluded.since), whole = excluded.whole,
             dirty = excluded.dirty, generation = excluded.generation, epoch = excluded.epoch",
    )?
    .execute((
        ino,
        whole,
        dirty,
        generation as i64,
        now,
        epoch as i64,
        now / 1_000_000_000,
    ))?;
    Ok(())
}

/// Writes the working map to the database as it is: replaces all rows of the file.
pub(super) fn store_map(tx: &Transaction<'_>, ino: Ino, here: &Here) -> Result<()> {
    match here {
        Here::Part { map, .. } => insert_map(tx, ino as i64, map),
        Here::Whole | Here::Away => insert_map(tx, ino as i64, &Map::new()),
    }
}

pub(super) fn insert_map(tx: &Transaction<'_>, ino: i64, map: &Map) -> Result<()> {
    tx.prepare_cached("DELETE FROM extents WHERE ino = ?1")?
        .execute([ino])?;
    insert_pieces(tx, ino, map.iter().map(|(&off, &piece)| (off, piece)))
}

fn insert_pieces(
    tx: &Transaction<'_>,
    ino: i64,
    pieces: impl Iterator<Item = (u64, (u64, Piece))>,
) -> Result<()> {
    let mut insert = tx.prepare_cached(
        "INSERT OR REPLACE INTO extents(ino, off, len, chunk, present) VALUES(?1, ?2, ?3, ?4, ?5)",
    )?;
    for (off, (len, piece)) in pieces {
        let (chunk, present): (Option<&[u8]>, bool) = match &piece {
            Piece::Local => (None, true),
            Piece::Hole => (Some(&[]), true),
            Piece::Stored { chunk, present } => (Some(chunk.as_bytes()), *present),
        };
        insert.execute((ino, off as i64, len as i64, chunk, present))?;
    }
    Ok(())
}

/// `before` and `after` are in order, and differ in a few.
pub(super) fn replace_pieces(
    tx: &Transaction<'_>,
    ino: i64,
    before: &[(u64, (u64, Piece))],
    after: &[(u64, (u64, Piece))],
) -> Result<()> {
    for (off, _) in before.iter().filter(|old| at(after, old.0).is_none()) {
        tx.prepare_cached("DELETE FROM extents WHERE ino = ?1 AND off = ?2")?
            .execute((ino, *off as i64))?;
    }
    let is_new = |new: &&(u64, (u64, Piece))| at(before, new.0) != Some(&new.1);
    insert_pieces(tx, ino, after.iter().filter(is_new).copied())
}

/// The piece at `off`, of pieces in order.
fn at(pieces: &[(u64, (u64, Piece))], off: u64) -> Option<&(u64, Piece)> {
    let found = pieces.binary_search_by_key(&off, |(off, _)| *off).ok()?;
    Some(&pieces[found].1)
}

fn load_map(connection: &Connection, ino: Ino) -> Result<Map> {
    let mut statement =
        connection.prepare_cached("SELECT off, len, chunk, present FROM extents WHERE ino = ?1")?;
    let rows = statement.query_map([ino as i64], |row| {
        let chunk: Option<Vec<u8>> = row.get(2)?;
        let piece = match chunk {
            None => Some(Piece::Local),
            Some(chunk) if chunk.is_empty() => Some(Piece::Hole),
            Some(chunk) => ChunkId::from_slice(&chunk).map(|chunk| Piece::Stored {
                chunk,
                present: row.get(3).unwrap_or(false),
            }),
        };
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, piece))
    })?;
    let mut map = Map::new();
    for row in rows {
        let (off, len, piece) = row?;
        let piece = piece.ok_or_else(|| {
            VolumeError::Damaged("the database's map of a file is damaged".to_owned())
        })?;
        map.insert(off as u64, (len as u64, piece));
    }
    Ok(map)
}

pub(super) fn load_state(connection: &Connection, ino: Ino) -> Result<State> {
    let row = connection
        .prepare_cached(
            "SELECT n.kind, n.size, n.content IS NOT NULL, c.whole, c.dirty, c.generation, c.bytes
             FROM nodes n LEFT JOIN cached c ON c.ino = n.ino WHERE n.ino = ?1",
        )?
        .query_row([ino as i64], |row| {
            Ok((
                node::kind_of_code(row.get(0)?),
                row.get::<_, i64>(1)? as u64,
                row.get::<_, bool>(2)?,
                row.get::<_, Option<bool>>(3)?,
                row.get::<_, Option<bool>>(4)?.unwrap_or(false),
                row.get::<_, Option<i64>>(5)?.unwrap_or(0) as u64,
                row.get::<_, Option<i64>>(6)?.unwrap_or(0) as u64,
            ))
        })
        .optional()?;
    let (kind, size, has_content, whole, dirty, generation, bytes) =
        row.ok_or(VolumeError::NoEntry)?;
    match kind {
        Kind::File => {}
        Kind::Directory => return Err(VolumeError::IsDirectory),
        _ => return Err(VolumeError::Invalid("it is not a regular file")),
    }
    let (here, mapped) = match whole {
        None => (Here::Away, Some(size)),
        Some(true) => (Here::Whole, Some(size)),
        Some(false) => {
            let map = load_map(connection, ino)?;
            let end = end_of(&map);
            (Here::part(map, true), end)
        }
    };
    let mapped = match (mapped, dirty) {
        (Some(mapped), _) => mapped,
        // Its bytes are stored.
        (None, false) => u64::MAX,
        (None, true) => {
            return Err(VolumeError::Damaged(
                "the database's map of a changed file is damaged".to_owned(),
            ));
        }
    };
    // What was written behind the end may not be in `nodes` yet, but its piece is here.
    let pending = (dirty && mapped != size).then_some(Pending { time: None });
    Ok(State {
        here,
        dirty,
        has_content,
        generation,
        size: if dirty { mapped } else { size },
        spoilt: !dirty && mapped != size,
        pending,
        bytes,
        fills: u64::from(has_content),
        ..State::empty()
    })
}

/// Removes what the database has of a file's local content.
pub(crate) fn delete_cached(tx: &Transaction<'_>, ino: Ino) -> Result<()> {
    for statement in [
        "DELETE FROM extents WHERE ino = ?1",
        "DELETE FROM cached WHERE ino = ?1",
    ] {
        tx.prepare_cached(statement)?.execute([ino as i64])?;
    }
    Ok(())
}

/// Whether the node, or a directory above any of its names, is pinned.
pub(crate) fn is_pinned(connection: &Connection, ino: Ino) -> Result<bool> {
    Ok(connection
        .prepare_cached(
            "WITH RECURSIVE above(ino) AS (
                 VALUES(?1) UNION
                 SELECT d.parent FROM dentries d JOIN above a ON d.child = a.ino)
             SELECT 1 FROM above a JOIN nodes n ON n.ino = a.ino WHERE n.pin = 1 LIMIT 1",
        )?
        .exists([ino as i64])?)
}

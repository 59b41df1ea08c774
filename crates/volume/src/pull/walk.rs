//! All files below some nodes, and what is here of them.

use std::collections::HashSet;

use larder_model::{Content, Kind};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::{Ino, Result, Volume, VolumeError};

/// A regular file, with what the database knows of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileRow {
    pub(crate) ino: Ino,
    pub(crate) size: u64,
    /// What is here of it.
    pub(crate) here: Option<HereRow>,
}

/// What is here of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HereRow {
    pub(crate) whole: bool,
    pub(crate) dirty: bool,
    pub(crate) bytes: u64,
    /// Seconds since 1970.
    pub(crate) used: i64,
}

/// What `choose` makes of the regular files among these nodes and all below them; each is
/// shown once.
///
/// # Errors
/// If the database fails, and those of `choose`.
pub(crate) fn files_below<T>(
    connection: &Connection,
    roots: &[Ino],
    mut choose: impl FnMut(FileRow) -> Result<Option<T>>,
) -> Result<Vec<T>> {
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE below(ino) AS (
             VALUES(?1) UNION
             SELECT d.child FROM below b JOIN dentries d ON d.parent = b.ino)
         SELECT n.ino, n.size, c.whole, c.dirty, c.bytes, c.used
         FROM below b JOIN nodes n ON n.ino = b.ino LEFT JOIN cached c ON c.ino = n.ino
         WHERE n.kind = ?2",
    )?;
    let mut seen = HashSet::new();
    let mut chosen = Vec::new();
    for &root in roots {
        let mut rows = statement.query((root as i64, larder_format::kind_code(Kind::File)))?;
        while let Some(row) = rows.next()? {
            let file = file_of_row(row)?;
            if roots.len() == 1 || seen.insert(file.ino) {
                chosen.extend(choose(file)?);
            }
        }
    }
    Ok(chosen)
}

fn file_of_row(row: &Row<'_>) -> Result<FileRow> {
    let here = match row.get::<_, Option<bool>>(2)? {
        Some(whole) => Some(HereRow {
            whole,
            dirty: row.get(3)?,
            bytes: row.get::<_, i64>(4)? as u64,
            used: row.get(5)?,
        }),
        None => None,
    };
    Ok(FileRow {
        ino: row.get::<_, i64>(0)? as u64,
        size: row.get::<_, i64>(1)? as u64,
        here,
    })
}

/// A file's content as it is stored; none if it never was.
///
/// # Errors
/// If the node is gone, or the database fails or is damaged.
pub(crate) fn content_of(connection: &Connection, ino: Ino) -> Result<Content> {
    let content: Option<Option<Vec<u8>>> = connection
        .prepare_cached("SELECT content FROM nodes WHERE ino = ?1")?
        .query_row([ino as i64], |row| row.get(0))
        .optional()?;
    match content.ok_or(VolumeError::NoEntry)? {
        Some(bytes) => Ok(larder_format::decode_content(&bytes)?),
        None => Ok(Content::None),
    }
}

impl Volume {
    /// A path to name the file by; its number if it has none any more.
    pub(crate) fn name_of(&self, ino: Ino) -> Vec<u8> {
        match self.path_of(ino) {
            Ok(Some(path)) => path,
            _ => format!("(node {ino})").into_bytes(),
        }
    }
}

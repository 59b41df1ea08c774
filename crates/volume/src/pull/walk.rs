//! All files below some nodes, and what is here of them.

use std::collections::HashSet;

use larder_model::Kind;
use rusqlite::Connection;

use crate::{Ino, Result, Volume};

/// A regular file, with what the database knows of its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileRow {
    pub(crate) ino: Ino,
    pub(crate) size: u64,
    /// The encoded content, if it was ever stored.
    pub(crate) content: Option<Vec<u8>>,
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

/// The regular files among these nodes and all below them, each once.
///
/// # Errors
/// If the database fails.
pub(crate) fn files_below(connection: &Connection, roots: &[Ino]) -> Result<Vec<FileRow>> {
    let mut statement = connection.prepare_cached(
        "WITH RECURSIVE below(ino) AS (
             VALUES(?1) UNION
             SELECT d.child FROM below b JOIN dentries d ON d.parent = b.ino)
         SELECT n.ino, n.size, n.content, c.whole, c.dirty, c.bytes, c.used
         FROM below b JOIN nodes n ON n.ino = b.ino LEFT JOIN cached c ON c.ino = n.ino
         WHERE n.kind = ?2",
    )?;
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for &root in roots {
        let mut rows = statement.query((root as i64, larder_format::kind_code(Kind::File)))?;
        while let Some(row) = rows.next()? {
            let ino = row.get::<_, i64>(0)? as u64;
            if roots.len() > 1 && !seen.insert(ino) {
                continue;
            }
            let here = match row.get::<_, Option<bool>>(3)? {
                Some(whole) => Some(HereRow {
                    whole,
                    dirty: row.get(4)?,
                    bytes: row.get::<_, i64>(5)? as u64,
                    used: row.get(6)?,
                }),
                None => None,
            };
            files.push(FileRow {
                ino,
                size: row.get::<_, i64>(1)? as u64,
                content: row.get(2)?,
                here,
            });
        }
    }
    Ok(files)
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

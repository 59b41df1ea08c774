//! Extended attributes.

use rusqlite::OptionalExtension;

use crate::{Ino, Result, Volume, VolumeError, node};

/// The longest value, in bytes, as Linux allows.
const VALUE_MAX: usize = 64 << 10;

/// What setting an attribute asks of what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Nothing.
    Any,
    /// That there is none.
    Create,
    /// That there is one.
    Replace,
}

impl Volume {
    /// The value of an attribute, if the node has it.
    ///
    /// # Errors
    /// If the node is gone.
    pub fn get_xattr(&self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        self.db.look(|connection| {
            Ok(connection
                .prepare_cached("SELECT value FROM xattrs WHERE ino = ?1 AND name = ?2")?
                .query_row((ino as i64, name), |row| row.get(0))
                .optional()?)
        })
    }

    /// Sets an attribute.
    ///
    /// # Errors
    /// If it is there, or not there, against `mode`; or too large.
    pub fn set_xattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<()> {
        if name.len() > larder_model::Name::MAX {
            return Err(VolumeError::Invalid("the attribute's name is too long"));
        }
        if value.len() > VALUE_MAX {
            return Err(VolumeError::TooLarge("the attribute"));
        }
        self.db.write(|tx| {
            let there = tx
                .prepare_cached("SELECT 1 FROM xattrs WHERE ino = ?1 AND name = ?2")?
                .exists((ino as i64, name))?;
            match (mode, there) {
                (XattrMode::Create, true) => return Err(VolumeError::Exists),
                (XattrMode::Replace, false) => return Err(VolumeError::NoAttribute),
                _ => {}
            }
            tx.prepare_cached(
                "INSERT OR REPLACE INTO xattrs(ino, name, value) VALUES(?1, ?2, ?3)",
            )?
            .execute((ino as i64, name, value))?;
            self.note_xattrs(tx, ino)
        })
    }

    /// The names of the node's attributes.
    ///
    /// # Errors
    /// If the database fails.
    pub fn list_xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.db.look(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT name FROM xattrs WHERE ino = ?1")?;
            let names = statement.query_map([ino as i64], |row| row.get(0))?;
            Ok(names.collect::<Result<_, _>>()?)
        })
    }

    /// Takes an attribute away.
    ///
    /// # Errors
    /// If the node does not have it.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.db.write(|tx| {
            let removed = tx
                .prepare_cached("DELETE FROM xattrs WHERE ino = ?1 AND name = ?2")?
                .execute((ino as i64, name))?;
            if removed == 0 {
                return Err(VolumeError::NoAttribute);
            }
            self.note_xattrs(tx, ino)
        })
    }

    fn note_xattrs(&self, tx: &crate::Transaction<'_>, ino: Ino) -> Result<()> {
        let changed = tx
            .prepare_cached(
                "UPDATE nodes SET ctime = ?2, xattrs = (SELECT count(*) FROM xattrs x WHERE x.ino = ?1)
                 WHERE ino = ?1",
            )?
            .execute((ino as i64, node::now().0))?;
        if changed == 0 {
            return Err(VolumeError::NoEntry);
        }
        self.mark_changed(tx, ino)
    }
}

//! Where chunks lie on the store.

use larder_format::{Codec, PackEntry, PackKind, PackRef};
use larder_model::{ChunkId, PackId};
use larder_store::Key;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::{Result, VolumeError};

/// A chunk's place: a pack, and the entry in it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The pack's row in the database; stands for the pack.
    pub(crate) pack: i64,
    /// The pack's id.
    pub(crate) id: PackId,
    /// How it is sealed.
    pub(crate) seal: PackRef,
    /// The chunk's entry in it.
    pub(crate) entry: PackEntry,
}

impl Place {
    /// The pack's key on the store.
    ///
    /// # Errors
    /// Never, for a pack id makes a valid key.
    pub(crate) fn key(&self) -> Result<Key> {
        key(larder_format::pack_name(self.seal.kind, &self.id))
    }
}

/// The key of this text.
///
/// # Errors
/// If it cannot be one.
pub(crate) fn key(text: impl Into<String>) -> Result<Key> {
    Key::new(text).map_err(|error| VolumeError::Damaged(error.to_string()))
}

/// Where the chunk lies; `None` if no known pack has it.
///
/// # Errors
/// If the database fails, or holds what no pack can be.
pub(crate) fn locate(connection: &Connection, chunk: &ChunkId) -> Result<Option<Place>> {
    let row = connection
        .prepare_cached(
            "SELECT c.pack, c.entry, c.off, c.len, c.raw_len, c.codec,
                    p.id, p.kind, p.epoch, p.salt
             FROM chunks c JOIN packs p ON p.pack = c.pack WHERE c.id = ?1",
        )?
        .query_row([chunk.as_bytes()], |row| Ok(place_of_row(*chunk, row)))
        .optional()?;
    row.transpose()
}

fn place_of_row(chunk: ChunkId, row: &Row<'_>) -> Result<Place> {
    let damaged = || VolumeError::Damaged("the database's list of packs is damaged".to_owned());
    let id: Vec<u8> = row.get(6)?;
    let salt: Vec<u8> = row.get(9)?;
    Ok(Place {
        pack: row.get(0)?,
        id: PackId::from_slice(&id).ok_or_else(damaged)?,
        seal: PackRef {
            kind: PackKind::from_code(row.get(7)?).ok_or_else(damaged)?,
            epoch: row.get(8)?,
            salt: salt.try_into().map_err(|_| damaged())?,
        },
        entry: PackEntry {
            chunk,
            entry: row.get(1)?,
            off: row.get(2)?,
            len: row.get(3)?,
            raw_len: row.get(4)?,
            codec: Codec::from_code(row.get(5)?)?,
        },
    })
}

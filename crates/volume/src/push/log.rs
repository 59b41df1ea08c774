//! The commits that this replica made.

use larder_model::{ChunkId, Time};

use crate::{Result, Volume};

/// A commit, as `larder log` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its number among this replica's commits, from 1.
    pub n: u64,
    /// Its id.
    pub id: ChunkId,
    /// When it was made, by this machine's clock.
    pub time: Time,
    /// What the user said about it.
    pub message: Option<String>,
    /// Whether the store has acknowledged its head.
    pub stored: bool,
}

impl Volume {
    /// The latest commits of this replica, the newest first, at most `max`.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn log(&self, max: usize) -> Result<Vec<CommitInfo>> {
        self.db.read(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT n, id, time, message, acked FROM commits ORDER BY n DESC LIMIT ?1",
            )?;
            let most = i64::try_from(max).unwrap_or(i64::MAX);
            let rows = statement.query_map([most], |row| {
                let id: Vec<u8> = row.get(1)?;
                let info = CommitInfo {
                    n: row.get::<_, i64>(0)? as u64,
                    id: ChunkId([0; 32]),
                    time: Time(row.get(2)?),
                    message: row.get(3)?,
                    stored: row.get(4)?,
                };
                Ok((id, info))
            })?;
            rows.map(|row| {
                let (id, info) = row?;
                let id = ChunkId::from_slice(&id).ok_or_else(|| {
                    crate::VolumeError::Damaged("the database's commits are damaged".to_owned())
                })?;
                Ok(CommitInfo { id, ..info })
            })
            .collect()
        })
    }
}

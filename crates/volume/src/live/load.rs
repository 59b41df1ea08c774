//! What the database knows of a file, checked against its cache file when it is first used.
//!
//! The two can differ after a crash, or because a cache file was damaged or removed by hand.
//! A clean file is fetched anew then; of a dirty one all is kept that is there.

use std::sync::Arc;

use super::map::Piece;
use super::rows::{delete_cached, load_state, store_map};
use super::state::{Fingerprint, Here, State};
use crate::{Ino, Result, Volume, VolumeError, node};

impl Volume {
    /// What the database knows of a file, checked against its cache file: a clean file
    /// whose cache file is not what it must be is away (its bytes are stored), and a dirty
    /// one has the size that its cache file has.
    pub(super) fn load_checked(&self, ino: Ino) -> Result<State> {
        let mut state = self.db.look(|connection| load_state(connection, ino))?;
        if matches!(state.here, Here::Away) {
            return Ok(state);
        }
        let path = self.cache.path(ino);
        let found = self.cache.open_file(ino)?;
        let Some(file) = found else {
            return match (state.dirty, state.has_content) {
                (false, _) => self.come_anew(ino, state),
                (true, true) => self.take_back(ino),
                (true, false) => self.begin_again(ino, state),
            };
        };
        let meta = file
            .metadata()
            .map_err(|error| VolumeError::io(&path, error))?;
        let now = Fingerprint::of(&meta);
        if now.size != state.size || state.spoilt {
            match (&state.here, state.dirty) {
                (_, false) => return self.come_anew(ino, state),
                (Here::Whole, true) => {
                    state.size = now.size;
                    state.note_times(now.mtime);
                }
                (_, true) => file
                    .set_len(state.size)
                    .map_err(|error| VolumeError::io(&path, error))?,
            }
        }
        state.unsynced = state.dirty;
        state.seen = Some(now);
        state.file = Some(Arc::new(file));
        Ok(state)
    }

    /// A clean file whose cache file is not what it must be is away from now on.
    pub(super) fn come_anew(&self, ino: Ino, mut state: State) -> Result<State> {
        tracing::warn!(
            ino,
            "a cache file is not what it must be; it is fetched anew"
        );
        self.db.write(|tx| delete_cached(tx, ino))?;
        self.live.count_here(state.bytes, 0);
        state.bytes = 0;
        state.here = Here::Away;
        self.note_dropped(ino)?;
        self.cache.remove(ino)?;
        Ok(state)
    }

    /// A dirty file without a cache file is what was stored of it last: its changes are
    /// lost, and it is listed with what a crash hit.
    pub(super) fn take_back(&self, ino: Ino) -> Result<State> {
        tracing::warn!(
            ino,
            "a changed file is gone from the cache; its stored version stays"
        );
        let content = larder_format::decode_content(&self.stored_content(ino)?)?;
        self.db.write(|tx| {
            tx.prepare_cached(
                "INSERT OR IGNORE INTO recovered(ino, time, previous)
                 SELECT ino, ?2, content FROM nodes WHERE ino = ?1",
            )?
            .execute((ino as i64, node::now().0))?;
            delete_cached(tx, ino)?;
            tx.prepare_cached("UPDATE nodes SET size = ?2 WHERE ino = ?1")?
                .execute((ino as i64, content.size() as i64))?;
            self.mark_changed(tx, ino)
        })?;
        self.db.look(|connection| load_state(connection, ino))
    }

    /// A new file that lost its cache file begins anew: of what it shares with others
    /// nothing is here.
    pub(super) fn begin_again(&self, ino: Ino, mut state: State) -> Result<State> {
        let file = self.cache.open_or_make(ino)?;
        if let Here::Part { mut map, .. } = std::mem::replace(&mut state.here, Here::Whole) {
            for (_, piece) in map.values_mut() {
                if let Piece::Stored { present, .. } = piece {
                    *present = false;
                }
            }
            file.set_len(state.size)
                .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
            state.here = Here::part(map, true);
            self.db.write(|tx| store_map(tx, ino, &state.here))?;
        } else {
            state.size = 0;
            state.note_times(node::now());
        }
        state.unsynced = true;
        state.file = Some(Arc::new(file));
        Ok(state)
    }

    /// After a crash: notes the sizes that dirty files really have, before anybody asks.
    pub(crate) fn note_real_sizes(&self) {
        let dirty: Vec<_> = self.live.dirty.lock().by_ino.keys().copied().collect();
        for ino in dirty {
            if let Err(error) = self.hold(ino, |held| held.flush_pending()) {
                tracing::warn!(ino, %error, "could not look at a changed file");
            }
            self.trim_lives();
        }
    }
}

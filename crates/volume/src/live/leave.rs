//! How content leaves this disk: dropped, because the store has it, or deleted with its node.
//!
//! [`Volume::drop_content`], and [`Volume::drop_contents`] for many files with one transaction,
//! are the only place that drops content: under the node's lock they check again that the
//! content is clean, that an acknowledged head reaches it, and that nobody wants it here. A
//! cache file goes only after the database said so.

use std::sync::Arc;

use super::held::Held;
use super::rows::{delete_cached, is_pinned};
use super::state::Here;
use super::table::Live;
use crate::db::Transaction;
use crate::{Ino, Result, Volume, VolumeError};

/// So many files are dropped by one transaction, and locked meanwhile.
const DROPPED_AT_ONCE: usize = 64;
/// Files that were dropped since the last synced transaction, before there is another.
const DROPS_NOTED: usize = 4096;

/// What became of a drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dropped {
    /// So many bytes were freed.
    Freed(u64),
    /// Nothing was dropped, for this reason.
    Kept(KeptReason),
}

/// Why content was not dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeptReason {
    /// There is nothing of it here.
    NotHere,
    /// It has changes that are not stored yet.
    Dirty,
    /// It is stored, but no acknowledged head reaches it yet.
    NotCommitted,
    /// A store took it without syncing it, and it is not proven yet.
    Unproven,
    /// What the store has of it is about to be deleted, or may be.
    Condemned,
    /// The other machines do not know yet what this one rests on, and might delete it.
    NotTold,
    /// Another machine's mark could not be read since, which may say that.
    MarkUnread,
    /// The store does not show what it had acknowledged, and may have lost more.
    StoreInDoubt,
    /// A program has it open.
    Open,
    /// It, or a directory above it, is pinned.
    Pinned,
    /// A rule keeps it local.
    Local,
    /// It is no regular file.
    NotAFile,
}

impl KeptReason {
    /// The reason in the user's words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NotHere => "nothing of it is here",
            Self::Dirty => "it has changes that are not stored yet",
            Self::NotCommitted => "no stored commit holds it yet",
            Self::Unproven => {
                "the store took it without a word that it is on its disk; it is looked at \
                 again within two minutes"
            }
            Self::Condemned => {
                "what the store has of it is given up, and is looked for elsewhere first"
            }
            Self::NotTold => {
                "the other machines do not know yet what this one has from the store; it tells them \
                 as soon as it reaches it"
            }
            Self::MarkUnread => {
                "what another machine says of the history could not be read; it puts that anew \
                 when it is on the next time"
            }
            Self::StoreInDoubt => {
                "the store may have lost what it had; `larder verify --stores` finds out"
            }
            Self::Open => "a program has it open",
            Self::Pinned => "it is pinned",
            Self::Local => "a rule keeps it local",
            Self::NotAFile => "it is not a regular file",
        }
    }
}

impl Volume {
    /// Drops what is here of a file's content, if it is safe to.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn drop_content(&self, ino: Ino) -> Result<Dropped> {
        let dropped = self.hold(ino, |held| {
            if let Some(reason) = self.reason_to_keep(held)? {
                return Ok(Dropped::Kept(reason));
            }
            held.flush_pending()?;
            match self.db.write(|tx| delete_if_safe(tx, ino))? {
                true => self.let_content_go(held),
                false => Ok(Dropped::Kept(KeptReason::NotCommitted)),
            }
        });
        match dropped {
            Err(VolumeError::IsDirectory | VolumeError::Invalid(_)) => {
                Ok(Dropped::Kept(KeptReason::NotAFile))
            }
            other => other,
        }
    }

    /// As [`Volume::drop_content`] for each of these files, with one transaction for many.
    /// What became of each, in their order.
    pub fn drop_contents(&self, inos: &[Ino]) -> Vec<Result<Dropped>> {
        let some = inos.chunks(DROPPED_AT_ONCE);
        some.flat_map(|some| self.drop_some(some)).collect()
    }

    fn drop_some(&self, inos: &[Ino]) -> Vec<Result<Dropped>> {
        // First each by itself: what this has to load or to ask for is done with no other
        // file locked.
        let mut dropped: Vec<Option<Result<Dropped>>> = inos
            .iter()
            .map(|&ino| match self.would_keep(ino) {
                Ok(None) => None,
                Ok(Some(reason)) => Some(Ok(Dropped::Kept(reason))),
                Err(error) => Some(Err(error)),
            })
            .collect();
        let lives: Vec<_> = inos.iter().map(|&ino| self.live.find(ino)).collect();
        let going = self.lock_to_drop(&lives, &dropped);
        let recorded: Result<Vec<bool>> = self.db.write(|tx| {
            let inos = going.iter().map(|(_, held)| held.ino);
            inos.map(|ino| delete_if_safe(tx, ino)).collect()
        });
        // If it failed, the files are told one by one what is wrong.
        for ((at, mut held), gone) in going.into_iter().zip(recorded.unwrap_or_default()) {
            if gone {
                dropped[at] = Some(self.let_content_go(&mut held));
            }
        }
        let each = inos.iter().zip(dropped);
        each.map(|(&ino, done)| done.unwrap_or_else(|| self.drop_content(ino)))
            .collect()
    }

    /// Locks those of the files whose fate is open and whose content may go. A file that
    /// somebody else has at this moment is left out: who holds several waits for none.
    fn lock_to_drop<'a>(
        &'a self,
        lives: &'a [Option<Arc<Live>>],
        dropped: &[Option<Result<Dropped>>],
    ) -> Vec<(usize, Held<'a>)> {
        let mut going = Vec::with_capacity(lives.len());
        let open = (0..lives.len()).filter(|&at| dropped[at].is_none());
        for (at, live) in open.filter_map(|at| Some((at, lives[at].as_ref()?))) {
            let slot = live.slot.try_lock();
            let Some(slot) = slot.filter(|slot| slot.known().is_some()) else {
                continue;
            };
            let mut held = Held {
                volume: self,
                ino: live.ino,
                slot,
            };
            let may_go = matches!(self.reason_to_keep(&held), Ok(None));
            if may_go && held.flush_pending().is_ok() {
                going.push((at, held));
            }
        }
        going
    }

    /// The database says that nothing of the file is here: now its cache file goes.
    fn let_content_go(&self, held: &mut Held<'_>) -> Result<Dropped> {
        held.here = Here::Away;
        held.file = None;
        held.seen = None;
        self.live.count_here(held.bytes, 0);
        held.bytes = 0;
        self.note_dropped(held.ino)?;
        Ok(Dropped::Freed(self.cache.remove(held.ino)?))
    }

    /// Why the content of this file would be kept by [`Volume::drop_content`] now; `None`
    /// if it would go.
    ///
    /// # Errors
    /// If the node is gone, or the database fails.
    pub fn would_keep(&self, ino: Ino) -> Result<Option<KeptReason>> {
        match self.hold(ino, |held| self.reason_to_keep(held)) {
            Err(VolumeError::IsDirectory | VolumeError::Invalid(_)) => {
                Ok(Some(KeptReason::NotAFile))
            }
            other => other,
        }
    }

    pub(super) fn reason_to_keep(&self, held: &Held<'_>) -> Result<Option<KeptReason>> {
        let ino = held.ino;
        if matches!(held.here, Here::Away | Here::Part { stored: false, .. }) {
            return Ok(Some(KeptReason::NotHere));
        }
        // While writers wait for room, what is open may go too: whoever reads it through
        // this process gets it from the store again.
        let is_open = held.opens > 0 || self.live.is_open_lightly(ino);
        if is_open && (held.direct > 0 || !self.is_pressed()) {
            return Ok(Some(KeptReason::Open));
        }
        if self.is_local(ino)? {
            return Ok(Some(KeptReason::Local));
        }
        if held.dirty {
            return Ok(Some(KeptReason::Dirty));
        }
        self.db.read(|connection| {
            let safe: bool = connection
                .prepare_cached("SELECT safe AND nlink > 0 FROM nodes WHERE ino = ?1")?
                .query_row([ino as i64], |row| row.get(0))?;
            Ok(if !safe && crate::push::is_awaited(connection, ino)? {
                Some(KeptReason::Unproven)
            } else if !safe && crate::push::is_unread(connection, ino)? {
                Some(KeptReason::MarkUnread)
            } else if !safe {
                Some(KeptReason::NotCommitted)
            } else if crate::push::is_in_doubt(connection)? {
                Some(KeptReason::StoreInDoubt)
            } else if let Some(reason) = crate::collect::marks::reason_to_keep(connection)? {
                Some(reason)
            } else if is_pinned(connection, ino)? {
                Some(KeptReason::Pinned)
            } else {
                None
            })
        })
    }

    /// Deletes a node that has no name, and its content: its cache file goes once that is
    /// committed. False if it has a name after all.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn delete_unlinked(&self, ino: Ino) -> Result<bool> {
        let live = self.live_of(ino);
        let mut slot = live.slot.lock();
        let gone = std::mem::take(&mut *self.live.deleted.lock());
        let deleted = self.db.write_soon(|tx| {
            crate::names::forget_orphans(tx, &gone)?;
            let deleted = crate::names::delete_node(tx, ino)?;
            if deleted.is_some() {
                tx.note_gone(ino);
            }
            Ok(deleted)
        });
        if deleted.is_err() {
            self.live.deleted.lock().extend(gone);
        }
        let bytes = match (&deleted, slot.known()) {
            (Ok(Some(_)), Some(state)) => Some(state.bytes),
            (Ok(noted), _) => *noted,
            (Err(_), _) => None,
        };
        if bytes.is_some() || slot.known().is_none() {
            self.live.end(&live, &mut slot);
        }
        deleted?;
        let Some(bytes) = bytes else {
            return Ok(false);
        };
        self.live.count_here(bytes, 0);
        self.live.note_clean(ino);
        Ok(true)
    }

    /// Removes the cache files of nodes whose deletion is committed. One that cannot be
    /// removed goes at the next start: the database has a note of it (`orphans`).
    pub(crate) fn remove_gone(&self) {
        for ino in self.db.take_gone() {
            match self.cache.remove(ino) {
                Ok(_) => self.live.deleted.lock().push(ino),
                Err(error) => tracing::warn!(ino, %error, "a deleted file still takes room"),
            }
        }
    }

    /// The database need not note any more which nodes were deleted: of none anything is
    /// left.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn forget_deleted(&self) -> Result<()> {
        self.db.commit_group()?;
        self.remove_gone();
        let gone = std::mem::take(&mut *self.live.deleted.lock());
        self.db.write(|tx| crate::names::forget_orphans(tx, &gone))
    }

    /// The database's row of a cache file is gone, and the file itself goes next. If the row
    /// came back after a power cut, a new file in the same place would be taken for the old
    /// one; so none is made before the row's end is synced ([`Volume::before_new_file`]).
    pub(super) fn note_dropped(&self, ino: Ino) -> Result<()> {
        let syncs = self.db.syncs();
        let many = {
            let mut dropped = self.live.dropped.lock();
            if dropped.len() >= DROPS_NOTED {
                dropped.retain(|_, at| *at >= syncs);
            }
            dropped.insert(ino, syncs);
            dropped.len() > DROPS_NOTED
        };
        if many {
            self.db.write_synced(|_| Ok(()))?;
        }
        Ok(())
    }

    pub(super) fn before_new_file(&self, ino: Ino) -> Result<()> {
        let dropped = self.live.dropped.lock().get(&ino).copied();
        if dropped.is_some_and(|at| at >= self.db.syncs()) {
            self.db.write_synced(|_| Ok(()))?;
        }
        self.live.dropped.lock().remove(&ino);
        Ok(())
    }
}

/// Removes what the database has of a file's local content, if an acknowledged head reaches it
/// still: a pack may have been found lost since that was looked at, or the store an old copy of
/// itself.
fn delete_if_safe(tx: &Transaction<'_>, ino: Ino) -> Result<bool> {
    let is_reached = tx
        .prepare_cached("SELECT 1 FROM nodes WHERE ino = ?1 AND safe = 1")?
        .exists([ino as i64])?;
    let is_safe = is_reached
        && !crate::push::is_in_doubt(tx)?
        && crate::collect::marks::reason_to_keep(tx)?.is_none();
    if is_safe {
        delete_cached(tx, ino)?;
    }
    Ok(is_safe)
}

//! Dirty files by the time of their last change: which are to be stored next, and how many
//! bytes wait.
//!
//! Only memory has this; it is counted anew at each start ([`Lives::load`]). A file that
//! changes is noted again each time, and none is noted that is clean.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::time::Duration;

use larder_plan::settle::{Burst, Due, SettleRules};

use super::table::Lives;
use crate::{Ino, Volume};

/// From this size on, in bytes, a file is a large one.
const LARGE_FILE: u64 = 32 << 20;

/// So much room for files is kept, though few may be dirty.
const ROOM_KEPT: usize = 1 << 14;

/// Times count from so long before the start: changes of before it have one, too.
const HEAD_START_MS: u64 = 60 * 60 * 1000;

/// Dirty files by the time of their last change.
#[derive(Debug, Default)]
pub(super) struct DirtyFiles {
    pub(super) by_ino: HashMap<Ino, DirtyFile>,
    /// By lane.
    by_change: [BTreeSet<(u64, Ino)>; 2],
    burst: Burst,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct DirtyFile {
    bytes: u64,
    since_ms: u64,
    changed_ms: u64,
    writers: u32,
    aside: Option<Aside>,
}

/// Since when a file is dirty without having been stored in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirtySince(u64);

/// Files of one lane are stored one after the other; a large one does not hold up small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Files of less than [`LARGE_FILE`] bytes.
    Small = 0,
    /// All others.
    Large = 1,
}

/// Why a dirty file is not offered to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aside {
    /// Its chunks are on their way.
    Storing,
    /// A rule keeps it local: its bytes wait for nothing, and are not counted.
    Local,
    /// It is open for writing, and stored as it is: until it changes, it waits for nothing.
    Stored,
}

impl DirtyFile {
    fn lane(&self) -> Lane {
        if self.bytes < LARGE_FILE {
            Lane::Small
        } else {
            Lane::Large
        }
    }

    fn waits(&self) -> bool {
        matches!(self.aside, None | Some(Aside::Storing))
    }

    fn counted(&self) -> u64 {
        if self.waits() { self.bytes } else { 0 }
    }
}

impl DirtyFiles {
    fn is_due(&self, ino: Ino, rules: &SettleRules, now: Duration) -> bool {
        let offered = |file: &DirtyFile| file.aside.is_none();
        self.by_ino.get(&ino).is_some_and(offered) && self.is_due_by_time(ino, rules, now)
    }

    fn is_due_by_time(&self, ino: Ino, rules: &SettleRules, now: Duration) -> bool {
        self.by_ino.get(&ino).is_some_and(|file| {
            let seen = larder_plan::settle::DirtyFile {
                size: file.bytes,
                dirty_since: Duration::from_millis(file.since_ms),
                last_write: Duration::from_millis(file.changed_ms),
                open: file.writers > 0,
            };
            rules.due(now, &seen) == Due::Now
        })
    }

    /// Replaces what is known of a file. Answers the bytes that counted before and count now.
    fn replace(&mut self, ino: Ino, file: Option<DirtyFile>) -> (u64, u64) {
        let before = self.by_ino.remove(&ino);
        if let Some(before) = before {
            self.by_change[before.lane() as usize].remove(&(before.changed_ms, ino));
        }
        if let Some(file) = file {
            self.by_ino.insert(ino, file);
            if file.aside.is_none() {
                self.by_change[file.lane() as usize].insert((file.changed_ms, ino));
            }
        } else if self.by_ino.capacity() > ROOM_KEPT
            && self.by_ino.len() < self.by_ino.capacity() / 8
        {
            // After a large import.
            self.by_ino.shrink_to(self.by_ino.len() * 2);
        }
        let counted = |file: Option<DirtyFile>| file.map_or(0, |file| file.counted());
        (counted(before), counted(file))
    }
}

impl Lives {
    pub(super) fn now_ms(&self) -> u64 {
        HEAD_START_MS + self.started.elapsed().as_millis() as u64
    }

    /// Notes a change of a dirty file.
    pub(crate) fn note_dirty(&self, ino: Ino, bytes: u64, writers: u32) {
        let now = self.now_ms();
        let mut dirty = self.dirty.lock();
        let known = dirty.by_ino.get(&ino).copied();
        // One that was stored as it is begins anew.
        let before = known.filter(|known| known.aside != Some(Aside::Stored));
        if before.is_some_and(|before| {
            before.changed_ms == now && before.bytes == bytes && before.writers == writers
        }) {
            return;
        }
        if before.is_none() {
            dirty.burst.note(Duration::from_millis(now));
        }
        let file = DirtyFile {
            bytes,
            since_ms: before.map_or(now, |before| before.since_ms),
            changed_ms: now,
            writers,
            aside: before.and_then(|before| before.aside),
        };
        let counted = dirty.replace(ino, Some(file));
        self.count_dirty(counted);
    }

    /// Notes a file that was taken in and whose last change was so long ago, if nobody has
    /// changed it since.
    pub(crate) fn note_taken_in(&self, ino: Ino, bytes: u64, quiet_for: Duration) {
        let now = self.now_ms();
        let mut dirty = self.dirty.lock();
        if dirty.by_ino.contains_key(&ino) {
            return;
        }
        let file = DirtyFile {
            bytes,
            since_ms: now,
            changed_ms: now.saturating_sub(quiet_for.as_millis() as u64),
            writers: 0,
            aside: None,
        };
        let counted = dirty.replace(ino, Some(file));
        self.count_dirty(counted);
    }

    pub(super) fn note_clean(&self, ino: Ino) {
        let counted = self.dirty.lock().replace(ino, None);
        self.count_dirty(counted);
    }

    /// Offers a dirty file to be stored no more (`Some`), or again.
    pub(crate) fn set_aside(&self, ino: Ino, aside: Option<Aside>) {
        let mut dirty = self.dirty.lock();
        if let Some(&file) = dirty.by_ino.get(&ino) {
            let counted = dirty.replace(ino, Some(DirtyFile { aside, ..file }));
            self.count_dirty(counted);
        }
    }

    /// Offers a file again that rules keep local: it has another name.
    pub(crate) fn offer_again(&self, ino: Ino) {
        let mut dirty = self.dirty.lock();
        if let Some(&file) = dirty.by_ino.get(&ino)
            && file.aside == Some(Aside::Local)
        {
            let counted = dirty.replace(
                ino,
                Some(DirtyFile {
                    aside: None,
                    ..file
                }),
            );
            self.count_dirty(counted);
        }
    }

    /// Offers all files again that rules keep local: the rules changed.
    pub(crate) fn offer_local_again(&self) {
        let mut dirty = self.dirty.lock();
        let local: Vec<_> = dirty
            .by_ino
            .iter()
            .filter(|(_, file)| file.aside == Some(Aside::Local))
            .map(|(&ino, &file)| (ino, file))
            .collect();
        for (ino, file) in local {
            let counted = dirty.replace(
                ino,
                Some(DirtyFile {
                    aside: None,
                    ..file
                }),
            );
            self.count_dirty(counted);
        }
    }

    /// Whether a dirty file would take more of the disk if it reached to `end`. A file that
    /// is not dirty does not yet.
    pub(crate) fn would_grow(&self, ino: Ino, end: u64) -> bool {
        let dirty = self.dirty.lock();
        dirty.by_ino.get(&ino).is_none_or(|file| end > file.bytes)
    }

    pub(super) fn count_dirty(&self, (before, after): (u64, u64)) {
        self.dirty_bytes.fetch_add(after, Ordering::Relaxed);
        self.dirty_bytes.fetch_sub(before, Ordering::Relaxed);
    }

    /// Bytes and number of dirty files that wait to be stored.
    pub(crate) fn dirty_totals(&self) -> (u64, u64) {
        let dirty = self.dirty.lock();
        let files = dirty.by_ino.values().filter(|file| file.waits()).count() as u64;
        (self.dirty_bytes.load(Ordering::Relaxed), files)
    }

    /// Bytes and number of the files that rules keep local.
    pub(crate) fn local_totals(&self) -> (u64, u64) {
        let dirty = self.dirty.lock();
        let local = dirty
            .by_ino
            .values()
            .filter(|file| file.aside == Some(Aside::Local));
        local.fold((0, 0), |(bytes, files), file| {
            (bytes + file.bytes, files + 1)
        })
    }

    /// Bytes of dirty files that wait to be stored; no lock.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes.load(Ordering::Relaxed)
    }
}

impl Volume {
    /// Dirty files of a lane that are to be stored now, and that are not set aside; those
    /// that changed longest ago first.
    pub(crate) fn settle_candidates(
        &self,
        lane: Lane,
        rules: &SettleRules,
        max: usize,
    ) -> Vec<Ino> {
        let now = Duration::from_millis(self.live.now_ms());
        let dirty = self.live.dirty.lock();
        dirty.by_change[lane as usize]
            .iter()
            .take_while(|(changed, _)| Duration::from_millis(*changed) + rules.quiet <= now)
            .filter(|(_, ino)| dirty.is_due(*ino, rules, now))
            .take(max)
            .map(|&(_, ino)| ino)
            .collect()
    }

    /// Whether programs make files one after the other, and storing waits for the end of it.
    pub(crate) fn is_in_burst(&self, rules: &SettleRules) -> bool {
        let now = Duration::from_millis(self.live.now_ms());
        self.live.dirty.lock().burst.has_the_machine(now, rules)
    }

    /// Sets the first `most` of these files aside that are still to be stored now, and
    /// answers them: no other thread takes them in.
    pub(crate) fn claim_to_settle(
        &self,
        files: &[Ino],
        rules: &SettleRules,
        most: usize,
    ) -> Vec<Ino> {
        let now = Duration::from_millis(self.live.now_ms());
        let mut dirty = self.live.dirty.lock();
        let mut claimed = Vec::new();
        for &ino in files {
            if claimed.len() == most {
                break;
            }
            if dirty.is_due(ino, rules, now)
                && let Some(&file) = dirty.by_ino.get(&ino)
            {
                let aside = Some(Aside::Storing);
                let counted = dirty.replace(ino, Some(DirtyFile { aside, ..file }));
                self.live.count_dirty(counted);
                claimed.push(ino);
            }
        }
        claimed
    }

    /// Whether a dirty file that was claimed is to be stored now.
    pub(crate) fn is_settle_due(&self, ino: Ino, rules: &SettleRules) -> bool {
        let now = Duration::from_millis(self.live.now_ms());
        let dirty = self.live.dirty.lock();
        dirty.is_due_by_time(ino, rules, now)
    }

    /// All dirty files that wait to be stored, with the moment since which each is dirty.
    pub(crate) fn dirty_files(&self) -> Vec<(Ino, DirtySince)> {
        let dirty = self.live.dirty.lock();
        let waiting = dirty.by_ino.iter().filter(|(_, file)| file.waits());
        waiting
            .map(|(&ino, file)| (ino, DirtySince(file.since_ms)))
            .collect()
    }

    /// Keeps those of these files that still wait to be stored, and have not been stored and
    /// changed again.
    pub(crate) fn retain_dirty(&self, files: &mut Vec<(Ino, DirtySince)>) {
        let dirty = self.live.dirty.lock();
        files.retain(|(ino, since)| {
            let known = dirty.by_ino.get(ino);
            known.is_some_and(|file| file.waits() && DirtySince(file.since_ms) == *since)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// While a directory was taken in, nothing of it was stored: the disk and the line had
    /// nothing to do.
    #[test]
    fn what_was_quiet_before_it_was_taken_in_is_stored_at_once() {
        let lives = Lives::new();
        let rules = SettleRules::default();
        lives.note_taken_in(1, 1000, Duration::from_secs(60));
        lives.note_taken_in(2, 1000, Duration::ZERO);
        lives.note_dirty(3, 1000, 1);
        lives.note_taken_in(3, 1000, Duration::from_secs(60));
        let now = Duration::from_millis(lives.now_ms());
        let dirty = lives.dirty.lock();
        assert!(dirty.is_due(1, &rules, now));
        assert!(!dirty.is_due(2, &rules, now), "it was changed just now");
        assert!(!dirty.is_due(3, &rules, now), "a program writes it");
    }
}

//! What storing a file came to lately, so that it is tried again at the right time.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;

use crate::Ino;
use crate::live::Stamp;

/// How often a file may change while it is stored before a commit no longer waits for it.
const CHANGES_WAITED_FOR: u32 = 3;
/// So many files are remembered; forgetting costs a needless attempt.
const REMEMBERED: usize = 100_000;

/// The files that storing had trouble with.
#[derive(Debug, Default)]
pub(super) struct Attempts(Mutex<HashMap<Ino, Attempt>>);

#[derive(Debug, Default)]
struct Attempt {
    changed: u32,
    /// What was stored of a file that is still open for writing.
    stored: Option<Stamp>,
    not_before: Duration,
}

impl Attempts {
    /// The file is stored, or gone.
    pub(super) fn settled(&self, ino: Ino) {
        self.0.lock().remove(&ino);
    }

    /// The file changed while it was stored.
    pub(super) fn changed(&self, ino: Ino) {
        self.note(ino, |attempt| attempt.changed += 1);
    }

    /// These bytes of a file that is still open were stored.
    pub(super) fn stored_open(&self, ino: Ino, stamp: Stamp) {
        self.note(ino, |attempt| {
            attempt.stored = Some(stamp);
            attempt.changed = 0;
        });
    }

    /// Whether just these bytes of an open file were stored before.
    pub(super) fn has_stored(&self, ino: Ino, stamp: Stamp) -> bool {
        let known = self.0.lock();
        known.get(&ino).and_then(|attempt| attempt.stored) == Some(stamp)
    }

    /// Lets the file rest until `time`.
    pub(super) fn rest_until(&self, ino: Ino, time: Duration) {
        self.note(ino, |attempt| attempt.not_before = time);
    }

    /// How many files rest.
    pub(super) fn resting(&self, now: Duration) -> usize {
        let known = self.0.lock();
        known
            .values()
            .filter(|attempt| now < attempt.not_before)
            .count()
    }

    /// Whether the file is to be let alone now.
    pub(super) fn rests(&self, ino: Ino, now: Duration) -> bool {
        let known = self.0.lock();
        known
            .get(&ino)
            .is_some_and(|attempt| now < attempt.not_before)
    }

    /// Whether the file changes so often that nobody should wait for it.
    pub(super) fn keeps_changing(&self, ino: Ino) -> bool {
        let known = self.0.lock();
        known
            .get(&ino)
            .is_some_and(|attempt| attempt.changed >= CHANGES_WAITED_FOR)
    }

    /// What is stored of open files may not be any more.
    pub(super) fn forget_stored(&self) {
        for attempt in self.0.lock().values_mut() {
            attempt.stored = None;
        }
    }

    /// Counts changes anew: a caller begins to wait.
    pub(super) fn forget_changes(&self) {
        for attempt in self.0.lock().values_mut() {
            attempt.changed = 0;
            attempt.not_before = Duration::ZERO;
        }
    }

    fn note(&self, ino: Ino, change: impl FnOnce(&mut Attempt)) {
        let mut known = self.0.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        change(known.entry(ino).or_default());
    }
}

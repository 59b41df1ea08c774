//! What has set-user-id or set-group-id in its mode, but for directories, as the kernel was last
//! told.
//!
//! A write by someone without the right to keep these bits must drop them, and each such
//! write asks here. There are few such files, so the answer costs next to nothing.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_model::Kind;
use larder_volume::{Attr, Ino};
use parking_lot::Mutex;

use crate::attrs::SET_ID_BITS;

#[derive(Debug, Default)]
pub(crate) struct SetIds {
    files: Mutex<HashSet<Ino>>,
    count: AtomicUsize,
}

impl SetIds {
    /// Takes note of attributes that the kernel is told.
    pub(crate) fn note(&self, attr: &Attr) {
        let has_any = attr.kind != Kind::Directory && attr.mode & SET_ID_BITS != 0;
        if has_any {
            self.change(|files| files.insert(attr.ino));
        } else {
            self.forget(attr.ino);
        }
    }

    pub(crate) fn contains(&self, ino: Ino) -> bool {
        !self.is_empty() && self.files.lock().contains(&ino)
    }

    pub(crate) fn forget(&self, ino: Ino) {
        if !self.is_empty() {
            self.change(|files| files.remove(&ino));
        }
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn change(&self, change: impl FnOnce(&mut HashSet<Ino>) -> bool) {
        let mut files = self.files.lock();
        change(&mut files);
        self.count.store(files.len(), Ordering::Release);
    }
}

//! Open directories.
//!
//! A listing is a snapshot, taken when it is first read and again when it is rewound: so
//! offsets hold while entries come and go. The kernel keeps what it read for later opens,
//! and drops it itself for changes that it makes. A change from outside may come while a
//! listing is half read; the kernel would keep the old half. So such a listing is marked,
//! and when it is closed the kernel is told once more.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fuser::FileHandle;
use larder_volume::{DirEntry, Ino};
use parking_lot::Mutex;

/// An open directory.
#[derive(Debug)]
pub(crate) struct Listing {
    ino: Ino,
    entries: Mutex<Option<Arc<Vec<DirEntry>>>>,
    outdated: AtomicBool,
}

impl Listing {
    /// The entries to read on from `offset`; `take` makes the snapshot when one is needed.
    pub(crate) fn entries<E>(
        &self,
        offset: u64,
        take: impl FnOnce() -> Result<Vec<DirEntry>, E>,
    ) -> Result<Arc<Vec<DirEntry>>, E> {
        let mut entries = self.entries.lock();
        match &*entries {
            Some(snapshot) if offset > 0 => Ok(Arc::clone(snapshot)),
            _ => {
                let snapshot = Arc::new(take()?);
                *entries = Some(Arc::clone(&snapshot));
                Ok(snapshot)
            }
        }
    }
}

/// The open directories of a mount.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    open: Mutex<HashMap<u64, Arc<Listing>>>,
    next: AtomicU64,
}

impl Listings {
    pub(crate) fn open(&self, ino: Ino) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        let listing = Listing {
            ino,
            entries: Mutex::default(),
            outdated: AtomicBool::new(false),
        };
        self.open.lock().insert(handle, Arc::new(listing));
        FileHandle(handle)
    }

    pub(crate) fn get(&self, handle: FileHandle) -> Option<Arc<Listing>> {
        self.open.lock().get(&handle.0).cloned()
    }

    /// Whether the kernel must be told once more that the directory changed.
    pub(crate) fn close(&self, handle: FileHandle) -> bool {
        let closed = self.open.lock().remove(&handle.0);
        closed.is_some_and(|listing| listing.outdated.load(Ordering::Relaxed))
    }

    /// Notes that a directory changed from outside.
    pub(crate) fn outdate(&self, ino: Ino) {
        for listing in self
            .open
            .lock()
            .values()
            .filter(|listing| listing.ino == ino)
        {
            listing.outdated.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_model::Kind;

    use super::*;

    fn entry(name: &str) -> DirEntry {
        DirEntry {
            name: name.into(),
            ino: 2,
            kind: Kind::File,
        }
    }

    #[test]
    fn a_listing_stays_what_it_was_until_it_is_rewound() {
        let listings = Listings::default();
        let listing = listings.get(listings.open(1)).unwrap();
        let read = |offset, names: &[&str]| {
            let take = || Ok::<_, ()>(names.iter().map(|name| entry(name)).collect());
            listing.entries(offset, take).unwrap().len()
        };
        assert_eq!(read(0, &["a", "b"]), 2);
        assert_eq!(read(3, &["a"]), 2);
        assert_eq!(read(0, &["a"]), 1);
    }

    #[test]
    fn a_change_from_outside_is_told_again_when_a_half_read_listing_closes() {
        let listings = Listings::default();
        let (one, other) = (listings.open(1), listings.open(2));
        listings.outdate(1);
        assert!(listings.close(one));
        assert!(!listings.close(other));
    }
}

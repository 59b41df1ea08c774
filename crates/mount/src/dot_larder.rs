//! `.larder/` at the root of a mount: not a directory of the volume, but a window into it.
//!
//! It is found by name and stands in no listing. It holds, read-only, `status` and `history/`
//! ([`crate::history`]). Each look at `status` finds a node of its own, with the text of that
//! moment: so its size is true and no page of an earlier text can be shown, whatever the kernel
//! keeps. The numbers of these nodes lie far above those of the volume.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_model::{Kind, Time};
use larder_volume::{Attr, DirEntry, Ino};
use parking_lot::Mutex;

use crate::history;

/// The name at the root that no file of the volume has.
pub(crate) const NAME: &[u8] = b".larder";
/// The file in it.
pub(crate) const STATUS: &[u8] = b"status";
/// The directory's number.
pub(crate) const DIRECTORY: Ino = 1 << 62;
/// The number that listings show of `status`; a look at it finds another.
pub(crate) const LISTED_STATUS: Ino = DIRECTORY + 1;

/// Whether the node is the window or in it.
pub(crate) fn is_inside(ino: Ino) -> bool {
    ino >= DIRECTORY
}

/// What is listed in the window.
pub(crate) fn entries() -> Vec<DirEntry> {
    vec![
        DirEntry {
            name: STATUS.to_vec(),
            ino: LISTED_STATUS,
            kind: Kind::File,
        },
        DirEntry {
            name: history::NAME.to_vec(),
            ino: history::DIRECTORY,
            kind: Kind::Directory,
        },
    ]
}

/// The window of one mount.
#[derive(Debug)]
pub(crate) struct DotLarder {
    uid: u32,
    gid: u32,
    texts: Mutex<HashMap<Ino, Arc<Text>>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Text {
    bytes: Vec<u8>,
    time: Time,
}

impl DotLarder {
    /// A window that belongs to who runs this process.
    pub(crate) fn new() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            texts: Mutex::default(),
            next: AtomicU64::new(history::DIRECTORY + 1),
        }
    }

    /// The attributes of the window or of a text in it; `None` if that is gone.
    pub(crate) fn attr(&self, ino: Ino) -> Option<Attr> {
        if ino == DIRECTORY {
            return Some(self.directory(ino, Time(0)));
        }
        let text = self.texts.lock().get(&ino).cloned()?;
        Some(self.attr_of(ino, Kind::File, text.bytes.len(), text.time))
    }

    /// The attributes of a directory in the window.
    pub(crate) fn directory(&self, ino: Ino, time: Time) -> Attr {
        self.attr_of(ino, Kind::Directory, 0, time)
    }

    fn attr_of(&self, ino: Ino, kind: Kind, size: usize, time: Time) -> Attr {
        let is_directory = kind == Kind::Directory;
        Attr {
            ino,
            kind,
            mode: if is_directory { 0o555 } else { 0o444 },
            nlink: if is_directory { 2 } else { 1 },
            uid: self.uid,
            gid: self.gid,
            rdev: 0,
            size: size as u64,
            blocks: (size as u64).div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }

    /// Makes a node of `status` with this text, written at `time`.
    pub(crate) fn show(&self, text: String, time: Time) -> Attr {
        let ino = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = text.into_bytes();
        let attr = self.attr_of(ino, Kind::File, bytes.len(), time);
        self.texts
            .lock()
            .insert(ino, Arc::new(Text { bytes, time }));
        attr
    }

    /// Up to `len` bytes of a text from `offset`; `None` if the node is gone.
    pub(crate) fn read(&self, ino: Ino, offset: u64, len: u32) -> Option<Vec<u8>> {
        let text = self.texts.lock().get(&ino).cloned()?;
        let from = text
            .bytes
            .len()
            .min(usize::try_from(offset).unwrap_or(usize::MAX));
        let to = text.bytes.len().min(from.saturating_add(len as usize));
        Some(text.bytes[from..to].to_vec())
    }

    /// The kernel knows the node no more.
    pub(crate) fn forget(&self, ino: Ino) {
        self.texts.lock().remove(&ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_look_at_the_status_is_a_node_with_the_text_of_its_moment() {
        let window = DotLarder::new();
        let first = window.show("one".into(), Time(1));
        let second = window.show("other".into(), Time(2));
        assert!(is_inside(first.ino) && first.ino != second.ino);
        assert_eq!(window.read(first.ino, 1, 100), Some(b"ne".to_vec()));
        assert_eq!(window.read(second.ino, 9, 1), Some(Vec::new()));
        assert_eq!(window.attr(second.ino).map(|attr| attr.size), Some(5));
        window.forget(first.ino);
        assert_eq!(window.read(first.ino, 0, 1), None);
    }
}

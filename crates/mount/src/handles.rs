//! Open files: which way each goes, and what closing it must undo.
//!
//! The kernel refuses (EIO) to read an inode both through a backing file and through the
//! daemon, so the way is chosen at an inode's first open and kept until its last release.
//! All passthrough handles of an inode share one registration of its backing file.
//!
//! A handle's number says how it was opened, so there is no table of handles; descriptors
//! are held only while files are open.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::io;
use std::sync::Arc;

use fuser::{BackingId, FileHandle};
use larder_volume::{Access, Ino};
use parking_lot::Mutex;

/// How a handle was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// To be read.
    Read,
    /// To be written, too.
    Write,
    /// To be read, from the kernel's pages for the most part: the volume knows little of it.
    Lightly,
}

impl Manner {
    const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Lightly];

    /// The number of a handle that was opened so.
    pub(crate) fn handle(self) -> FileHandle {
        FileHandle(self as u64)
    }

    /// How the handle of this number was opened.
    pub(crate) fn of(handle: FileHandle) -> Self {
        let at = usize::try_from(handle.0).unwrap_or(usize::MAX);
        Self::ALL.get(at).copied().unwrap_or(Self::Read)
    }

    /// How the volume opens a file for it, unless lightly.
    pub(crate) fn access(self) -> Access {
        Access {
            write: self == Self::Write,
            ..Access::default()
        }
    }
}

/// Which way the reads and writes of an open inode go.
#[derive(Debug, Clone)]
pub(crate) enum Way {
    /// To the daemon, through the kernel's pages.
    Daemon,
    /// From the kernel to the backing file.
    Backing(Arc<Backing>),
}

/// A backing file that is registered with the kernel, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Backing {
    pub(crate) id: BackingId,
    /// The kernel has its own reference; this one keeps the volume's file in use.
    _file: Arc<File>,
}

#[derive(Debug)]
struct Opened {
    way: Way,
    /// How many there are, by [`Manner`].
    handles: [usize; 3],
    was_written: bool,
}

/// The open files of a mount.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    open: Mutex<HashMap<Ino, Opened>>,
}

/// What was left of an inode's handles after one was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Others are open.
    Some,
    /// It was the last.
    None,
    /// It was the last, and the file may have been written past the daemon.
    NoneAfterUnseenWrites,
}

impl Handles {
    /// Takes a handle in. If it is the inode's first and `backing` is given, the file is
    /// registered with the kernel by `register`; if that fails, the way is the daemon.
    pub(crate) fn admit(
        &self,
        ino: Ino,
        manner: Manner,
        backing: Option<Arc<File>>,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Way {
        let mut open = self.open.lock();
        let opened = match open.entry(ino) {
            Entry::Occupied(opened) => opened.into_mut(),
            Entry::Vacant(first) => first.insert(Opened {
                way: choose(backing, register),
                handles: [0; 3],
                was_written: false,
            }),
        };
        opened.handles[manner as usize] += 1;
        opened.was_written |= manner == Manner::Write;
        opened.way.clone()
    }

    /// Lets a handle go.
    pub(crate) fn release(&self, ino: Ino, manner: Manner) -> Left {
        let mut open = self.open.lock();
        let Entry::Occupied(mut entry) = open.entry(ino) else {
            return Left::None;
        };
        let opened = entry.get_mut();
        let count = &mut opened.handles[manner as usize];
        *count = count.saturating_sub(1);
        if opened.handles.iter().any(|&left| left > 0) {
            return Left::Some;
        }
        match entry.remove() {
            Opened {
                way: Way::Backing(_),
                was_written: true,
                ..
            } => Left::NoneAfterUnseenWrites,
            _ => Left::None,
        }
    }

    /// Whether the inode is open, and its reads and writes come to the daemon.
    pub(crate) fn come_here(&self, ino: Ino) -> bool {
        matches!(
            self.open.lock().get(&ino),
            Some(Opened {
                way: Way::Daemon,
                ..
            })
        )
    }

    /// Whether the inode is open for writing.
    pub(crate) fn is_written(&self, ino: Ino) -> bool {
        self.open
            .lock()
            .get(&ino)
            .is_some_and(|opened| opened.handles[Manner::Write as usize] > 0)
    }

    /// All handles that were open when the mount ended.
    pub(crate) fn drain(&self) -> Vec<(Ino, Manner)> {
        let open = std::mem::take(&mut *self.open.lock());
        let handles = |(ino, opened): (Ino, Opened)| {
            let each = move |manner| {
                let count = opened.handles[manner as usize];
                std::iter::repeat_n((ino, manner), count)
            };
            Manner::ALL.into_iter().flat_map(each)
        };
        open.into_iter().flat_map(handles).collect()
    }
}

fn choose(
    backing: Option<Arc<File>>,
    register: impl FnOnce(&File) -> io::Result<BackingId>,
) -> Way {
    let Some(file) = backing else {
        return Way::Daemon;
    };
    match register(&file) {
        Ok(id) => Way::Backing(Arc::new(Backing { id, _file: file })),
        Err(error) => {
            tracing::warn!(%error, "the kernel took no backing file; this file goes through the daemon");
            Way::Daemon
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(_: &File) -> io::Result<BackingId> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    #[test]
    fn a_handle_tells_how_it_was_opened() {
        for manner in Manner::ALL {
            assert_eq!(Manner::of(manner.handle()), manner);
        }
    }

    #[test]
    fn the_way_of_the_first_open_is_kept_until_the_last_release() {
        let handles = Handles::default();
        let unasked = |_: &File| -> io::Result<BackingId> { panic!("asked for a second way") };
        let file = || Some(Arc::new(tempfile::tempfile().unwrap()));
        assert!(matches!(
            handles.admit(9, Manner::Read, None, refuse),
            Way::Daemon
        ));
        assert!(matches!(
            handles.admit(9, Manner::Write, file(), unasked),
            Way::Daemon
        ));
        assert_eq!(handles.release(9, Manner::Read), Left::Some);
        assert!(handles.is_written(9) && handles.come_here(9));
        assert_eq!(handles.release(9, Manner::Write), Left::None);
        assert!(!handles.is_written(9));
    }

    #[test]
    fn a_backing_file_that_the_kernel_refuses_leaves_the_way_through_the_daemon() {
        let handles = Handles::default();
        let file = Arc::new(tempfile::tempfile().unwrap());
        assert!(matches!(
            handles.admit(9, Manner::Read, Some(file), refuse),
            Way::Daemon
        ));
    }

    #[test]
    fn handles_that_are_open_at_the_end_are_all_given_back() {
        let handles = Handles::default();
        handles.admit(9, Manner::Read, None, refuse);
        handles.admit(9, Manner::Write, None, refuse);
        handles.admit(9, Manner::Write, None, refuse);
        handles.admit(9, Manner::Lightly, None, refuse);
        use Manner::{Lightly, Read, Write};
        let all = [Read, Write, Write, Lightly].map(|manner| (9, manner));
        assert_eq!(handles.drain(), all);
    }
}

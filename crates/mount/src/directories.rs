//! Listing directories.
//!
//! Offsets: 0 starts, 1 is behind `.`, 2 behind `..`, then one more for each entry of the
//! snapshot ([`crate::listings`]).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus,
};
use larder_volume::{Attr, DirEntry, Ino, ROOT};

use crate::attrs::{self, errno};
use crate::dot_larder;
use crate::face::{Answer, Face, keep};
use crate::news::News;

/// Entries whose attributes are read together. About as many as fit a small request.
const BATCH: usize = 32;
/// Offset of the first entry behind `.` and `..`.
const FIRST: u64 = 2;

impl Face {
    pub(crate) fn read_dir(
        &self,
        ino: Ino,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let filled = self.snapshot(ino, handle, offset).and_then(|entries| {
            if self.add_dots(ino, offset, |at, ino, name| {
                reply.add(INodeNo(ino), at, FileType::Directory, name)
            })? {
                return Ok(());
            }
            for (at, entry) in rest(&entries, offset) {
                let (kind, name) = (attrs::file_type(entry.kind), OsStr::from_bytes(&entry.name));
                if reply.add(INodeNo(entry.ino), at, kind, name) {
                    break;
                }
            }
            Ok(())
        });
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    /// Lists with attributes. The kernel gets to know each node that is listed.
    pub(crate) fn read_dir_plus(
        &self,
        ino: Ino,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let filled = self
            .snapshot(ino, handle, offset)
            .and_then(|entries| self.fill_plus(ino, &entries, offset, &mut reply));
        match filled {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }

    /// Closes a directory.
    pub(crate) fn close_dir(&self, ino: Ino, handle: FileHandle) {
        if self.listings.close(handle) {
            self.desk.tell(News::NodeChanged(ino));
        }
    }

    fn fill_plus(
        &self,
        ino: Ino,
        entries: &[DirEntry],
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Answer<()> {
        let directory = self.attr(ino)?;
        let full = self.add_dots(ino, offset, |at, ino, name| {
            let attr = FileAttr {
                ino: INodeNo(ino),
                ..directory
            };
            reply.add(attr.ino, at, name, &keep(ino), &attr, Generation(0))
        })?;
        if full {
            return Ok(());
        }
        if dot_larder::is_inside(ino) {
            return self.fill_inside(ino, entries, offset, reply);
        }
        let mut rest = rest(entries, offset).peekable();
        let mut added = false;
        while rest.peek().is_some() {
            let batch: Vec<_> = rest.by_ref().take(BATCH).collect();
            let attrs = match self.attrs_of(&batch) {
                Ok(attrs) => attrs,
                // What was added is the kernel's to know, and to give back.
                Err(_) if added => return Ok(()),
                Err(error) => return Err(error),
            };
            for ((at, entry), attr) in batch.into_iter().zip(attrs) {
                // It went since the snapshot was taken.
                let Some(attr) = attr else { continue };
                let shown = self.introduce(&attr);
                let name = OsStr::from_bytes(&entry.name);
                if reply.add(shown.ino, at, name, &keep(attr.ino), &shown, Generation(0)) {
                    self.forget(attr.ino, 1);
                    return Ok(());
                }
                added = true;
            }
        }
        Ok(())
    }

    /// Each entry of the window is looked at by its name.
    fn fill_inside(
        &self,
        ino: Ino,
        entries: &[DirEntry],
        offset: u64,
        reply: &mut ReplyDirectoryPlus,
    ) -> Answer<()> {
        let mut added = false;
        for (at, entry) in rest(entries, offset) {
            let name = OsStr::from_bytes(&entry.name);
            let shown = match self.lookup_inside(ino, name) {
                Ok(Some(shown)) => shown,
                Ok(None) => continue,
                // What was added is the kernel's to know, and to give back.
                Err(_) if added => break,
                Err(error) => return Err(error),
            };
            let node = shown.ino;
            if reply.add(node, at, name, &keep(node.0), &shown, Generation(0)) {
                self.forget(node.0, 1);
                break;
            }
            added = true;
        }
        Ok(())
    }

    fn attrs_of(&self, batch: &[(u64, &DirEntry)]) -> Answer<Vec<Option<Attr>>> {
        let inos: Vec<Ino> = batch.iter().map(|(_, entry)| entry.ino).collect();
        self.volume.attrs(&inos).map_err(|error| errno(&error))
    }

    fn snapshot(&self, ino: Ino, handle: FileHandle, offset: u64) -> Answer<Arc<Vec<DirEntry>>> {
        let listing = self.listings.get(handle).ok_or(Errno::EBADF)?;
        listing.entries(offset, || {
            if ino == dot_larder::DIRECTORY {
                return Ok(dot_larder::entries());
            }
            if dot_larder::is_inside(ino) {
                return self.list_past(ino);
            }
            let mut entries = self.volume.list_dir(ino).map_err(|error| errno(&error))?;
            if ino == ROOT {
                entries.retain(|entry| entry.name != dot_larder::NAME);
            }
            Ok(entries)
        })
    }

    /// Adds `.` and `..` as far as they lie behind `offset`. Whether the reply is full.
    fn add_dots(
        &self,
        ino: Ino,
        offset: u64,
        mut add: impl FnMut(u64, Ino, &OsStr) -> bool,
    ) -> Answer<bool> {
        if offset < 1 && add(1, ino, OsStr::new(".")) {
            return Ok(true);
        }
        if offset < FIRST {
            let parent = if dot_larder::is_inside(ino) {
                ROOT
            } else {
                self.volume.parent_of(ino).map_err(|error| errno(&error))?
            };
            return Ok(add(FIRST, parent, OsStr::new("..")));
        }
        Ok(false)
    }
}

/// The entries behind `offset`, each with the offset behind it.
fn rest(entries: &[DirEntry], offset: u64) -> impl Iterator<Item = (u64, &DirEntry)> {
    let skip = usize::try_from(offset.saturating_sub(FIRST)).unwrap_or(usize::MAX);
    (FIRST + 1..).zip(entries).skip(skip)
}

//! The content of files: what a session thread answers at once, and what goes to workers.
//!
//! The volume says which is which: `read_here` and `write_here` answer `None` where they
//! would have to wait. The reply then goes along with the work, and is sent from there.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::sync::Arc;

use fuser::{
    BackingId, Errno, FileAttr, FileHandle, FopenFlags, Generation, INodeNo, OpenAccMode,
    OpenFlags, ReplyCreate, ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen, ReplyWrite, Request,
};
use larder_volume::{Access, Arrived, Ino, SeekKind};

use crate::attrs::errno;
use crate::dot_larder;
use crate::face::{Answer, Face, caller, refuse_inside};
use crate::handles::{Left, Manner, Way};
use crate::history;
use crate::news::News;
use crate::profile::{KEEP, Profile};

/// The most that one copy_file_range(2) copies; the answer has 32 bits.
const COPY_BYTES: u64 = 1 << 30;

/// How the kernel is to treat a handle whose reads and writes come to the daemon: it keeps
/// its pages, because content changes under an inode through the kernel only.
const OPEN_FLAGS: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE;

thread_local! {
    /// What a read is gathered in. Kept, because making and zeroing it for each read
    /// would cost as much as the read.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn with_buffer<T>(len: u32, fill: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| {
        let len = len as usize;
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        fill(&mut buffer[..len])
    })
}

impl Face {
    pub(crate) fn open(self: &Arc<Self>, ino: Ino, flags: OpenFlags, reply: ReplyOpen) {
        let access = access(flags);
        if dot_larder::is_inside(ino) {
            return open_text(&access, reply);
        }
        if !access.write && self.opens_lightly(ino) {
            self.volume.open_lightly(ino);
            let register = |file: &File| reply.open_backing(file);
            let way = self.handles.admit(ino, Manner::Lightly, None, register);
            return send_opened(way, Manner::Lightly, reply);
        }
        let face = Arc::clone(self);
        let open = move || match face.take_handle(ino, access, |file| reply.open_backing(file)) {
            Ok(way) => send_opened(way, manner(access), reply),
            Err(error) => reply.error(error),
        };
        // Opening to write may have to mark the file durably before it is changed.
        if access.write {
            self.workers.disk.run(open);
        } else {
            open();
        }
    }

    /// Whether a file is best read from the kernel's pages: in profile passthrough a small
    /// one. To get it past the daemon costs more than its bytes, and after each read past
    /// the daemon the kernel asks for its attributes anew.
    fn opens_lightly(&self, ino: Ino) -> bool {
        match self.profile {
            Profile::Passthrough => {
                self.lookups.is_small(ino) && !self.volume.may_change_unseen(ino)
            }
            Profile::Cached => true,
            Profile::NoOpen => false,
        }
    }

    fn take_handle(
        &self,
        ino: Ino,
        access: Access,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Answer<Way> {
        let opened = self.volume.open(ino, self.in_volume(ino, access));
        let opened = opened.map_err(|error| errno(&error))?;
        let manner = manner(access);
        Ok(self.handles.admit(ino, manner, opened.backing, register))
    }

    /// Makes a file and opens it.
    pub(crate) fn create(
        &self,
        request: &Request,
        (parent, name): (Ino, &OsStr),
        mode: u32,
        flags: OpenFlags,
        reply: ReplyCreate,
    ) {
        let exclusive = flags.0 & libc::O_EXCL != 0;
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let access = access(flags);
        let handle = manner(access).handle();
        let made = self.make_file(parent, name, mode, caller(request), exclusive);
        let opened = made.and_then(|attr| {
            let register = |file: &File| reply.open_backing(file);
            // Only of a file that was there after all is there anything to cut off.
            if truncate && attr.size > 0 {
                self.open_emptied(attr.ino, access, request.uid(), register)
            } else {
                let way = self.take_handle(attr.ino, access, register)?;
                Ok((self.introduce(&attr), way))
            }
        });
        match opened {
            Ok((attr, Way::Daemon)) => {
                reply.created(&KEEP, &attr, Generation(0), handle, OPEN_FLAGS);
            }
            Ok((attr, Way::Backing(backing))) => {
                let flags = FopenFlags::empty();
                reply.created_passthrough(&KEEP, &attr, Generation(0), handle, flags, &backing.id);
            }
            Err(error) => reply.error(error),
        }
    }

    pub(crate) fn release(&self, ino: Ino, handle: FileHandle) {
        if dot_larder::is_inside(ino) {
            return;
        }
        let manner = Manner::of(handle);
        let left = self.handles.release(ino, manner);
        self.close_in_volume(ino, manner);
        if manner == Manner::Write {
            self.lookups.note_written(ino);
        }
        if left == Left::NoneAfterUnseenWrites {
            // Written through a map, perhaps, of which the kernel's attributes know nothing.
            self.desk.tell(News::AttributesChanged(ino));
        }
    }

    fn open_emptied(
        &self,
        ino: Ino,
        access: Access,
        uid: u32,
        register: impl FnOnce(&File) -> io::Result<BackingId>,
    ) -> Answer<(FileAttr, Way)> {
        if uid != 0 {
            self.drop_set_id(ino)?;
        }
        let emptied = Access {
            truncate: true,
            ..access
        };
        let way = self.take_handle(ino, emptied, register)?;
        let attr = self.volume.attr(ino).map_err(|error| errno(&error))?;
        Ok((self.introduce(&attr), way))
    }

    /// How the volume is to open the file for a handle of this access. With writeback the
    /// kernel keeps the times of what is written, and says them when they change.
    fn in_volume(&self, ino: Ino, access: Access) -> Access {
        Access {
            direct: self.profile == Profile::Passthrough && !self.handles.come_here(ino),
            tells_times: self.profile == Profile::Cached,
            ..access
        }
    }

    pub(crate) fn close_in_volume(&self, ino: Ino, manner: Manner) {
        if manner == Manner::Lightly {
            return self.volume.close_lightly(ino);
        }
        let access = self.in_volume(ino, manner.access());
        if let Err(error) = self.volume.close(ino, access) {
            tracing::error!(%error, ino, "what a closed file had become could not be noted");
        }
    }

    pub(crate) fn read(self: &Arc<Self>, ino: Ino, offset: u64, len: u32, reply: ReplyData) {
        if history::is_past(ino) {
            let face = Arc::clone(self);
            return self.workers.read.run(move || {
                with_buffer(len, |buffer| match face.read_past(ino, offset, buffer) {
                    Ok(read) => reply.data(&buffer[..read]),
                    Err(error) => reply.error(error),
                });
            });
        }
        if dot_larder::is_inside(ino) {
            return match self.dot_larder.read(ino, offset, len) {
                Some(bytes) => reply.data(&bytes),
                None => reply.error(Errno::ESTALE),
            };
        }
        with_buffer(len, |buffer| {
            match self.volume.read_here(ino, offset, buffer) {
                Ok(Some(read)) => reply.data(&buffer[..read]),
                Ok(None) => {
                    let face = Arc::clone(self);
                    self.workers
                        .read
                        .run(move || face.read_waiting(ino, offset, len, reply));
                }
                Err(error) => reply.error(errno(&error)),
            }
        });
    }

    fn read_waiting(&self, ino: Ino, offset: u64, len: u32, reply: ReplyData) {
        let arrived = with_buffer(len, |buffer| {
            match self.volume.read_early(ino, offset, buffer) {
                Ok((read, arrived)) => {
                    reply.data(&buffer[..read]);
                    arrived
                }
                Err(error) => {
                    reply.error(errno(&error));
                    Arrived::default()
                }
            }
        });
        if let Err(error) = self.volume.keep(arrived) {
            tracing::debug!(%error, ino, "what was read is not kept here");
        }
    }

    pub(crate) fn write(
        self: &Arc<Self>,
        ino: Ino,
        offset: u64,
        bytes: &[u8],
        kills_set_id: bool,
        reply: ReplyWrite,
    ) {
        let allowed = refuse_inside(ino).and_then(|()| {
            if kills_set_id {
                self.drop_set_id(ino)
            } else {
                Ok(())
            }
        });
        if let Err(error) = allowed {
            return reply.error(error);
        }
        match self.volume.write_here(ino, offset, bytes) {
            Ok(Some(written)) => reply.written(written as u32),
            Ok(None) => {
                let (face, bytes) = (Arc::clone(self), bytes.to_vec());
                self.workers
                    .write
                    .run(move || match face.volume.write(ino, offset, &bytes) {
                        Ok(written) => reply.written(written as u32),
                        Err(error) => reply.error(errno(&error)),
                    });
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(crate) fn fsync(self: &Arc<Self>, ino: Ino, data_only: bool, reply: ReplyEmpty) {
        if dot_larder::is_inside(ino) {
            return reply.ok();
        }
        let face = Arc::clone(self);
        self.workers
            .disk
            .run(move || send(face.volume.fsync(ino, data_only), reply));
    }

    pub(crate) fn fsync_dir(self: &Arc<Self>, ino: Ino, reply: ReplyEmpty) {
        if dot_larder::is_inside(ino) {
            return reply.ok();
        }
        let face = Arc::clone(self);
        self.workers
            .disk
            .run(move || send(face.volume.fsync_dir(ino), reply));
    }

    pub(crate) fn fallocate(
        self: &Arc<Self>,
        ino: Ino,
        mode: i32,
        offset: u64,
        len: u64,
        reply: ReplyEmpty,
    ) {
        if let Err(error) = refuse_inside(ino) {
            return reply.error(error);
        }
        let face = Arc::clone(self);
        self.workers
            .write
            .run(move || send(face.volume.fallocate(ino, mode, offset, len), reply));
    }

    /// Finds data or a hole.
    ///
    /// The kernel may have bytes that the volume does not know yet, gathered by writeback or
    /// written through a map, and it does not write them out before it asks. So it is made to:
    /// telling it that its pages are void writes out what is dirty first.
    pub(crate) fn seek(self: &Arc<Self>, ino: Ino, offset: i64, whence: i32, reply: ReplyLseek) {
        let kind = match whence {
            libc::SEEK_DATA => SeekKind::Data,
            libc::SEEK_HOLE => SeekKind::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(from) = u64::try_from(offset) else {
            return reply.error(Errno::ENXIO);
        };
        if dot_larder::is_inside(ino) {
            let face = Arc::clone(self);
            let seek = move || match face.attr(ino) {
                Ok(attr) if from >= attr.size => reply.error(Errno::ENXIO),
                Ok(_) if kind == SeekKind::Data => reply.offset(offset),
                Ok(attr) => reply.offset(i64::try_from(attr.size).unwrap_or(i64::MAX)),
                Err(error) => reply.error(error),
            };
            return self.workers.look.run(seek);
        }
        if self.may_have_unwritten(ino) {
            let face = Arc::clone(self);
            self.workers.disk.run(move || {
                if let Some(notifier) = face.notifier.get()
                    && let Err(error) = notifier.inval_inode(INodeNo(ino), 0, 0)
                {
                    tracing::debug!(%error, ino, "dirty pages could not be called in");
                }
                face.seek_now(ino, from, kind, reply);
            });
        } else {
            self.seek_now(ino, from, kind, reply);
        }
    }

    /// Whether the kernel may have bytes of the file that were not written out yet. A map
    /// keeps its file open to be written; where opens are not told, any file may have one.
    fn may_have_unwritten(&self, ino: Ino) -> bool {
        match self.profile {
            Profile::NoOpen => true,
            Profile::Cached | Profile::Passthrough => {
                self.handles.is_written(ino) && self.handles.come_here(ino)
            }
        }
    }

    fn seek_now(&self, ino: Ino, offset: u64, kind: SeekKind, reply: ReplyLseek) {
        match self.volume.seek(ino, offset, kind) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(errno(&error)),
        }
    }

    pub(crate) fn copy_range(
        self: &Arc<Self>,
        (from, from_offset): (Ino, u64),
        (to, to_offset): (Ino, u64),
        len: u64,
        reply: ReplyWrite,
    ) {
        if dot_larder::is_inside(from) || dot_larder::is_inside(to) {
            return reply.error(Errno::EXDEV);
        }
        let (face, len) = (Arc::clone(self), len.min(COPY_BYTES));
        self.workers.write.run(move || {
            match face
                .volume
                .copy_range(from, from_offset, to, to_offset, len)
            {
                Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
                Err(error) => reply.error(errno(&error)),
            }
        });
    }
}

fn access(flags: OpenFlags) -> Access {
    Access {
        write: flags.acc_mode() != OpenAccMode::O_RDONLY,
        ..Access::default()
    }
}

fn manner(access: Access) -> Manner {
    if access.write {
        Manner::Write
    } else {
        Manner::Read
    }
}

fn send_opened(way: Way, manner: Manner, reply: ReplyOpen) {
    let handle = manner.handle();
    match way {
        Way::Daemon => reply.opened(handle, OPEN_FLAGS),
        Way::Backing(backing) => {
            reply.opened_passthrough(handle, FopenFlags::empty(), &backing.id);
        }
    }
}

fn open_text(access: &Access, reply: ReplyOpen) {
    if access.write {
        reply.error(Errno::EPERM);
    } else {
        reply.opened(FileHandle(0), OPEN_FLAGS);
    }
}

fn send(done: larder_volume::Result<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

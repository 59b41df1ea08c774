//! The kernel's requests, each answered by the [`Face`].
//!
//! What the profile rules out is answered ENOSYS, which the kernel takes as "never ask
//! again". What may wait is handed to the face's workers together with its reply.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents,
    PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use larder_model::Name;
use larder_volume::SetAttr;

use crate::attrs::time_set;
use crate::dot_larder;
use crate::face::{self, Answer, Face, keep};
use crate::history;
use crate::profile::{KEEP, Profile};
use crate::workers::Pool;

/// What fuser calls.
#[derive(Debug)]
pub(crate) struct Server(pub(crate) Arc<Face>);

impl Server {
    /// Who answers what may take a while in the window: nobody who looks at what was, and waits
    /// for a store, holds up the status.
    fn pool_inside(&self, ino: INodeNo) -> &Pool {
        match ino.0 {
            dot_larder::DIRECTORY => &self.0.workers.disk,
            _ => &self.0.workers.look,
        }
    }
}

impl Filesystem for Server {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.0.profile.negotiate(config)
    }

    fn destroy(&mut self) {
        self.0.end();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if dot_larder::is_inside(parent.0) {
            let (face, name) = (Arc::clone(&self.0), name.to_owned());
            return self.pool_inside(parent).run(move || {
                let found = face.lookup_inside(parent.0, &name);
                send_entry(found.and_then(|found| found.ok_or(Errno::ENOENT)), reply);
            });
        }
        match self.0.lookup(parent.0, name) {
            Ok(Some(attr)) => send_entry(Ok(attr), reply),
            Ok(None) => reply.entry(&KEEP, &nothing(), Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, count: u64) {
        self.0.forget(ino.0, count);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if history::is_past(ino.0) {
            let face = Arc::clone(&self.0);
            let work = move || send_attr(face.attr(ino.0), reply);
            return self.pool_inside(ino).run(work);
        }
        send_attr(self.0.attr(ino.0), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time_set),
            mtime: mtime.map(time_set),
            ctime: face::ctime(ctime),
        };
        let caller = request.uid();
        if self.0.volume.set_attr_blocks(ino.0, &set) {
            let face = Arc::clone(&self.0);
            let work = move || send_attr(face.set_attr(ino.0, set, caller), reply);
            // What is emptied needs nothing that is away.
            let workers = &self.0.workers;
            let pool = if size == Some(0) {
                &workers.disk
            } else {
                &workers.write
            };
            pool.run(work);
        } else {
            send_attr(self.0.set_attr(ino.0, set, caller), reply);
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        if history::is_past(ino.0) {
            let face = Arc::clone(&self.0);
            let work = move || send_link(face.read_link(ino.0), reply);
            return self.pool_inside(ino).run(work);
        }
        send_link(self.0.read_link(ino.0), reply);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        send_entry(self.0.make_node(request, parent.0, name, mode, rdev), reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        send_entry(self.0.make_directory(request, parent.0, name, mode), reply);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        send_entry(
            self.0
                .make_symlink(request, parent.0, name, target.as_os_str()),
            reply,
        );
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        send_entry(self.0.link(ino.0, parent.0, name), reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        send_empty(self.0.unlink(parent.0, name), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        send_empty(self.0.remove_directory(parent.0, name), reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (face, name, new_name) = (Arc::clone(&self.0), name.to_owned(), new_name.to_owned());
        self.0.workers.disk.run(move || {
            let renamed = face.rename((parent.0, &name), (new_parent.0, &new_name), flags);
            send_empty(renamed, reply);
        });
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if self.0.profile == Profile::NoOpen {
            return reply.error(Errno::ENOSYS);
        }
        self.0.open(ino.0, flags, reply);
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        if self.0.profile == Profile::NoOpen {
            // The kernel then makes the node alone, and opens it on its own.
            return reply.error(Errno::ENOSYS);
        }
        self.0
            .create(request, (parent.0, name), mode, OpenFlags(flags), reply);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.0.release(ino.0, handle);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        // Nothing happens at a close that a release does not do; the kernel writes out
        // what it gathered, and reports what failed, without this.
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.0.read(ino.0, offset, size, reply);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        flags: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let kills_set_id = flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        self.0.write(ino.0, offset, data, kills_set_id, reply);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.0.fsync(ino.0, data_only, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.0.fsync_dir(ino.0, reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.0.fallocate(ino.0, mode, offset, length, reply);
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        self.0.seek(ino.0, offset, whence, reply);
    }

    fn copy_file_range(
        &self,
        _: &Request,
        from: INodeNo,
        _: FileHandle,
        from_offset: u64,
        to: INodeNo,
        _: FileHandle,
        to_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        self.0
            .copy_range((from.0, from_offset), (to.0, to_offset), len, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let handle = self.0.listings.open(ino.0);
        let mut flags = FopenFlags::empty();
        if !dot_larder::is_inside(ino.0) {
            flags |= FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        }
        reply.opened(handle, flags);
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        if dot_larder::is_inside(ino.0) {
            let face = Arc::clone(&self.0);
            let work = move || face.read_dir(ino.0, handle, offset, reply);
            return self.pool_inside(ino).run(work);
        }
        self.0.read_dir(ino.0, handle, offset, reply);
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        if dot_larder::is_inside(ino.0) {
            let face = Arc::clone(&self.0);
            let work = move || face.read_dir_plus(ino.0, handle, offset, reply);
            return self.pool_inside(ino).run(work);
        }
        self.0.read_dir_plus(ino.0, handle, offset, reply);
    }

    fn releasedir(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.0.close_dir(ino.0, handle);
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        match self.0.statfs() {
            Ok(stat) => {
                let block = u32::try_from(stat.block_size).unwrap_or(u32::MAX);
                reply.statfs(
                    stat.blocks,
                    stat.free,
                    stat.available,
                    stat.files,
                    stat.files_free,
                    block,
                    Name::MAX as u32,
                    block,
                );
            }
            Err(error) => reply.error(error),
        }
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if history::is_past(ino.0) {
            let (face, name) = (Arc::clone(&self.0), name.to_owned());
            let work = move || send_xattr(face.get_xattr(ino.0, &name), size, reply);
            return self.pool_inside(ino).run(work);
        }
        send_xattr(self.0.get_xattr(ino.0, name), size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if history::is_past(ino.0) {
            let face = Arc::clone(&self.0);
            let work = move || send_xattr(face.list_xattrs(ino.0), size, reply);
            return self.pool_inside(ino).run(work);
        }
        send_xattr(self.0.list_xattrs(ino.0), size, reply);
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        send_empty(self.0.set_xattr(ino.0, name, value, flags), reply);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        send_empty(self.0.remove_xattr(ino.0, name), reply);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        // The kernel then answers as for any regular file: always ready.
        reply.error(Errno::ENOSYS);
    }
}

/// The entry that says: there is no such name, and it may be kept that there is none.
fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn send_entry(entry: Answer<FileAttr>, reply: ReplyEntry) {
    match entry {
        Ok(attr) => reply.entry(&keep(attr.ino.0), &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn send_attr(attr: Answer<FileAttr>, reply: ReplyAttr) {
    match attr {
        Ok(attr) => reply.attr(&keep(attr.ino.0), &attr),
        Err(error) => reply.error(error),
    }
}

fn send_link(target: Answer<Vec<u8>>, reply: ReplyData) {
    match target {
        Ok(target) => reply.data(&target),
        Err(error) => reply.error(error),
    }
}

fn send_empty(done: Answer<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

/// Size 0 asks how large the value is.
fn send_xattr(value: Answer<Vec<u8>>, size: u32, reply: ReplyXattr) {
    match value {
        Err(error) => reply.error(error),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

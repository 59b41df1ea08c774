//! A node's attributes, times and errors, as the kernel's protocol has them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, TimeOrNow};
use larder_model::{Kind, Time};
use larder_volume::{Attr, TimeSet, VolumeError};

use crate::profile::BLOCK_BYTES;

/// Set-user-id and set-group-id.
pub(crate) const SET_ID_BITS: u32 = 0o6000;
const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;
const NANOS: i64 = 1_000_000_000;

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: to_system_time(attr.atime),
        mtime: to_system_time(attr.mtime),
        ctime: to_system_time(attr.ctime),
        crtime: to_system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        // The kernel's 32-bit form; equal to the 64-bit one for all numbers that fit.
        rdev: attr.rdev as u32,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub(crate) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that a mode of mknod(2) asks for; `None` for what cannot be made so.
pub(crate) fn kind_of_mode(mode: u32) -> Option<Kind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(Kind::File),
        libc::S_IFIFO => Some(Kind::Fifo),
        libc::S_IFSOCK => Some(Kind::Socket),
        libc::S_IFCHR => Some(Kind::CharDevice),
        libc::S_IFBLK => Some(Kind::BlockDevice),
        _ => None,
    }
}

pub(crate) fn to_system_time(time: Time) -> SystemTime {
    let (secs, nanos) = (time.0.div_euclid(NANOS), time.0.rem_euclid(NANOS));
    let nanos = Duration::from_nanos(nanos.unsigned_abs());
    if secs >= 0 {
        UNIX_EPOCH + Duration::from_secs(secs.unsigned_abs()) + nanos
    } else {
        UNIX_EPOCH - Duration::from_secs(secs.unsigned_abs()) + nanos
    }
}

/// The time that the kernel sent; beyond what 64 bits of nanoseconds hold, the nearest.
///
/// The kernel sends seconds, and nanoseconds to add. fuser takes the nanoseconds *off* if
/// the seconds are negative, so a time before 1970 is put right here.
pub(crate) fn from_kernel_time(time: SystemTime) -> Time {
    let parts = |distance: Duration| {
        (
            i128::from(distance.as_secs()),
            i128::from(distance.subsec_nanos()),
        )
    };
    let (secs, nanos) = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => parts(after),
        Err(before) => {
            let (secs, nanos) = parts(before.duration());
            (-secs, nanos)
        }
    };
    let total = secs * i128::from(NANOS) + nanos;
    Time(total.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

pub(crate) fn time_set(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(time) => TimeSet::At(from_kernel_time(time)),
    }
}

/// What is left of a file's mode when someone without the right to keep them writes to
/// it: no set-id bits. Set-group-id without group-execute means something else and stays.
pub(crate) fn without_set_id(mode: u32) -> u32 {
    if mode & GROUP_EXECUTE != 0 {
        mode & !(SET_UID | SET_GID)
    } else {
        mode & !SET_UID
    }
}

/// What a system call answers. What a user can do nothing about is logged.
pub(crate) fn errno(error: &VolumeError) -> Errno {
    let errno = error.errno();
    if errno == libc::EIO {
        tracing::error!(%error, "a request on the mount failed");
    }
    Errno::from_i32(errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_nanoseconds_on_both_sides_of_1970() {
        for nanos in [
            0,
            1,
            -1,
            1_700_000_000_123_456_789,
            -1_500_000_000,
            i64::MAX,
            i64::MIN,
        ] {
            let shown = to_system_time(Time(nanos));
            let (secs, rest) = (nanos.div_euclid(NANOS), nanos.rem_euclid(NANOS));
            // As fuser makes a time of the kernel's seconds and nanoseconds.
            let rest = Duration::from_nanos(rest.unsigned_abs());
            let sent = if secs >= 0 {
                assert_eq!(shown, UNIX_EPOCH + Duration::from_secs(secs as u64) + rest);
                shown
            } else {
                UNIX_EPOCH - (Duration::from_secs(secs.unsigned_abs()) + rest)
            };
            assert_eq!(from_kernel_time(sent), Time(nanos));
        }
    }

    #[test]
    fn a_set_group_id_that_marks_locking_outlives_a_write() {
        assert_eq!(without_set_id(0o6755), 0o755);
        assert_eq!(without_set_id(0o6745), 0o2745);
    }
}

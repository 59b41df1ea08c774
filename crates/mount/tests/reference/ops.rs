//! Operations that are done on two directories alike, and what they answer.
//!
//! An operation names files by small numbers, so that random sequences meet the same
//! files again and again. Its outcome is what a program can see: the errno, or the result
//! without what may differ (inode numbers, times that nobody set).

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

use crate::maps::Map;

/// A place in the tree: a path of one to three names out of four.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot(Vec<u8>);

/// An open descriptor: one of four.
pub type Slot = u8;

/// One operation.
#[derive(Debug, Clone)]
pub enum Op {
    Create {
        at: Spot,
        mode: u32,
    },
    Mkdir {
        at: Spot,
        mode: u32,
    },
    Symlink {
        at: Spot,
        to: Spot,
    },
    Fifo {
        at: Spot,
    },
    Unlink {
        at: Spot,
    },
    Rmdir {
        at: Spot,
    },
    Rename {
        from: Spot,
        to: Spot,
        how: u8,
    },
    Link {
        from: Spot,
        to: Spot,
    },
    Chmod {
        at: Spot,
        mode: u32,
    },
    Chown {
        at: Spot,
        uid: u32,
        gid: u32,
    },
    Times {
        at: Spot,
        secs: i64,
        nanos: i64,
    },
    SetXattr {
        at: Spot,
        name: u8,
        value: Vec<u8>,
        how: u8,
    },
    RemoveXattr {
        at: Spot,
        name: u8,
    },
    Truncate {
        at: Spot,
        size: u64,
    },
    WriteFile {
        at: Spot,
        off: u64,
        len: usize,
        seed: u8,
    },
    ReadFile {
        at: Spot,
        off: u64,
        len: usize,
    },
    Open {
        slot: Slot,
        at: Spot,
        how: u8,
    },
    Close {
        slot: Slot,
    },
    Pwrite {
        slot: Slot,
        off: u64,
        len: usize,
        seed: u8,
    },
    Append {
        slot: Slot,
        len: usize,
        seed: u8,
    },
    Pread {
        slot: Slot,
        off: u64,
        len: usize,
    },
    Ftruncate {
        slot: Slot,
        size: u64,
    },
    Fsync {
        slot: Slot,
    },
    Fallocate {
        slot: Slot,
        how: u8,
        off: u64,
        len: u64,
    },
    CopyRange {
        from: Slot,
        to: Slot,
        off_in: u64,
        off_out: u64,
        len: usize,
    },
    SeekEnd {
        slot: Slot,
    },
    List {
        at: Spot,
    },
    Stat {
        at: Spot,
    },
    /// Writes through a shared map, as far as the file reaches.
    MapWrite {
        slot: Slot,
        off: u64,
        len: usize,
        seed: u8,
    },
    /// Reads through a shared map, as far as the file reaches.
    MapRead {
        slot: Slot,
        off: u64,
        len: usize,
    },
    /// On the volume only: let it store what is dirty.
    Store,
    /// On the volume only: drop what may be dropped of one file, or of all.
    Stash {
        at: Option<Spot>,
    },
    /// Closes all that is open; the volume is unmounted, ended, and started anew.
    Restart,
}

/// Mostly places that [`populate`] makes something at; now and then any.
fn spot() -> impl Strategy<Value = Spot> {
    let directory = || prop_oneof![Just(0u8), Just(3)];
    let file = || 1..3u8;
    prop_oneof![
        4 => file().prop_map(|name| vec![name]),
        4 => (directory(), file()).prop_map(|(above, name)| vec![above, name]),
        1 => directory().prop_map(|name| vec![name]),
        1 => (directory(), directory()).prop_map(|(above, name)| vec![above, name]),
        1 => proptest::collection::vec(0..4u8, 1..=3),
    ]
    .prop_map(Spot)
}

/// What each sequence starts with: directories, files with content, open descriptors.
pub fn populate() -> Vec<Op> {
    let spot = |names: &[u8]| Spot(names.to_vec());
    let mut ops = vec![
        Op::Mkdir {
            at: spot(&[0]),
            mode: 0o755,
        },
        Op::Mkdir {
            at: spot(&[3]),
            mode: 0o755,
        },
    ];
    let files = [spot(&[1]), spot(&[2]), spot(&[0, 1]), spot(&[3, 2])];
    for (slot, at) in (0..).zip(files) {
        let len = [70, 30_000, 300_000, 0][usize::from(slot)];
        ops.push(Op::Create {
            at: at.clone(),
            mode: 0o644,
        });
        ops.push(Op::WriteFile {
            at: at.clone(),
            off: 0,
            len,
            seed: slot,
        });
        if slot % 2 == 0 {
            ops.push(Op::Open { slot, at, how: 1 });
        }
    }
    ops
}

/// Offsets and sizes around what matters: pages, chunks, small files.
fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 0..200u64,
        3 => 0..20_000u64,
        2 => (0..64u64).prop_map(|pages| pages * 4096),
        2 => 0..700_000u64,
    ]
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![3 => 0..200usize, 3 => 0..9000usize, 1 => 0..400_000usize]
}

/// Any operation.
pub fn op() -> impl Strategy<Value = Op> {
    let mode = prop_oneof![Just(0o644u32), Just(0o600), Just(0o755), 0..0o10000u32];
    let slot = || 0..4u8;
    prop_oneof![
        6 => (spot(), mode.clone()).prop_map(|(at, mode)| Op::Create { at, mode }),
        4 => (spot(), mode.clone()).prop_map(|(at, mode)| Op::Mkdir { at, mode }),
        1 => (spot(), spot()).prop_map(|(at, to)| Op::Symlink { at, to }),
        1 => spot().prop_map(|at| Op::Fifo { at }),
        2 => spot().prop_map(|at| Op::Unlink { at }),
        1 => spot().prop_map(|at| Op::Rmdir { at }),
        4 => (spot(), spot(), 0..4u8).prop_map(|(from, to, how)| Op::Rename { from, to, how }),
        2 => (spot(), spot()).prop_map(|(from, to)| Op::Link { from, to }),
        1 => (spot(), mode).prop_map(|(at, mode)| Op::Chmod { at, mode }),
        1 => (spot(), 0..3u32, 0..3u32).prop_map(|(at, uid, gid)| Op::Chown { at, uid, gid }),
        2 => (spot(), 0..4_000_000_000i64, 0..1_000_000_000i64)
            .prop_map(|(at, secs, nanos)| Op::Times { at, secs, nanos }),
        1 => (spot(), 0..2u8, proptest::collection::vec(any::<u8>(), 0..40), 0..3u8)
            .prop_map(|(at, name, value, how)| Op::SetXattr { at, name, value, how }),
        1 => (spot(), 0..2u8).prop_map(|(at, name)| Op::RemoveXattr { at, name }),
        3 => (spot(), size()).prop_map(|(at, size)| Op::Truncate { at, size }),
        9 => (spot(), size(), length(), any::<u8>())
            .prop_map(|(at, off, len, seed)| Op::WriteFile { at, off, len, seed }),
        6 => (spot(), size(), length()).prop_map(|(at, off, len)| Op::ReadFile { at, off, len }),
        5 => (slot(), spot(), 0..6u8).prop_map(|(slot, at, how)| Op::Open { slot, at, how }),
        3 => slot().prop_map(|slot| Op::Close { slot }),
        5 => (slot(), size(), length(), any::<u8>())
            .prop_map(|(slot, off, len, seed)| Op::Pwrite { slot, off, len, seed }),
        2 => (slot(), length(), any::<u8>())
            .prop_map(|(slot, len, seed)| Op::Append { slot, len, seed }),
        4 => (slot(), size(), length()).prop_map(|(slot, off, len)| Op::Pread { slot, off, len }),
        2 => (slot(), size()).prop_map(|(slot, size)| Op::Ftruncate { slot, size }),
        1 => slot().prop_map(|slot| Op::Fsync { slot }),
        2 => (slot(), 0..4u8, size(), size())
            .prop_map(|(slot, how, off, len)| Op::Fallocate { slot, how, off, len }),
        2 => (slot(), slot(), size(), size(), length()).prop_map(
            |(from, to, off_in, off_out, len)| Op::CopyRange { from, to, off_in, off_out, len }
        ),
        1 => slot().prop_map(|slot| Op::SeekEnd { slot }),
        2 => spot().prop_map(|at| Op::List { at }),
        3 => spot().prop_map(|at| Op::Stat { at }),
        2 => (slot(), size(), length(), any::<u8>())
            .prop_map(|(slot, off, len, seed)| Op::MapWrite { slot, off, len, seed }),
        1 => (slot(), size(), length()).prop_map(|(slot, off, len)| Op::MapRead { slot, off, len }),
        8 => Just(Op::Store),
        8 => proptest::option::of(spot()).prop_map(|at| Op::Stash { at }),
        1 => Just(Op::Restart),
    ]
}

/// What a program sees of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Count(u64),
    Bytes(Vec<u8>),
    Names(Vec<Vec<u8>>),
    Node(Seen),
    Failed(Errno),
    NoSlot,
}

/// What a program sees of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub kind: FileType,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u64,
    pub size: u64,
}

/// A directory on which operations are done.
pub struct Side {
    root: PathBuf,
    open: HashMap<Slot, (OwnedFd, bool)>,
}

fn outcome<T>(result: Result<T, Errno>, seen: impl FnOnce(T) -> Outcome) -> Outcome {
    result.map_or_else(Outcome::Failed, seen)
}

fn done(result: Result<(), Errno>) -> Outcome {
    outcome(result, |()| Outcome::Done)
}

/// Bytes that do not compress, always the same for a seed.
pub fn bytes(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

impl Side {
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            open: HashMap::new(),
        }
    }

    /// Where a spot is below the root.
    pub fn relative(spot: &Spot) -> PathBuf {
        const NAMES: [&[u8]; 4] = [b"a", b"b.txt", b"\xff\xfe odd", b"d"];
        spot.0
            .iter()
            .map(|&name| std::ffi::OsStr::from_bytes(NAMES[usize::from(name)]))
            .collect()
    }

    fn path(&self, spot: &Spot) -> PathBuf {
        self.root.join(Self::relative(spot))
    }

    /// Does the operation. `Store` and `Stash` are the caller's.
    pub fn run(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Create { at, mode } => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let made = rustix::fs::open(self.path(at), flags, Mode::from_raw_mode(*mode));
                outcome(made, |_| Outcome::Done)
            }
            Op::Mkdir { at, mode } => done(rustix::fs::mkdir(
                self.path(at),
                Mode::from_raw_mode(*mode | 0o700),
            )),
            Op::Symlink { at, to } => done(rustix::fs::symlink(Self::relative(to), self.path(at))),
            Op::Fifo { at } => done(rustix::fs::mknodat(
                rustix::fs::CWD,
                self.path(at),
                FileType::Fifo,
                Mode::from_raw_mode(0o600),
                0,
            )),
            Op::Unlink { at } => done(rustix::fs::unlink(self.path(at))),
            Op::Rmdir { at } => done(rustix::fs::rmdir(self.path(at))),
            Op::Rename { from, to, how } => {
                let flags = match how {
                    0 => RenameFlags::NOREPLACE,
                    1 => RenameFlags::EXCHANGE,
                    _ => RenameFlags::empty(),
                };
                let cwd = rustix::fs::CWD;
                done(rustix::fs::renameat_with(
                    cwd,
                    self.path(from),
                    cwd,
                    self.path(to),
                    flags,
                ))
            }
            Op::Link { from, to } => done(rustix::fs::link(self.path(from), self.path(to))),
            Op::Chmod { at, mode } => {
                // Not through symlinks, whose targets may lie outside.
                match self.is_symlink(at) {
                    true => Outcome::Done,
                    false => done(rustix::fs::chmod(
                        self.path(at),
                        Mode::from_raw_mode(*mode | 0o700),
                    )),
                }
            }
            Op::Chown { at, uid, gid } => done(rustix::fs::chownat(
                rustix::fs::CWD,
                self.path(at),
                Some(rustix::fs::Uid::from_raw(*uid)),
                Some(rustix::fs::Gid::from_raw(*gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )),
            Op::Times { at, secs, nanos } => {
                let time = Timespec {
                    tv_sec: *secs,
                    tv_nsec: *nanos,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                let set = rustix::fs::utimensat(
                    rustix::fs::CWD,
                    self.path(at),
                    &times,
                    AtFlags::SYMLINK_NOFOLLOW,
                );
                let read = set.and_then(|()| rustix::fs::lstat(self.path(at)));
                outcome(read, |stat| {
                    Outcome::Bytes(format!("{}.{}", stat.st_mtime, stat.st_mtime_nsec).into())
                })
            }
            Op::SetXattr {
                at,
                name,
                value,
                how,
            } => {
                let flags = match how {
                    0 => XattrFlags::CREATE,
                    1 => XattrFlags::REPLACE,
                    _ => XattrFlags::empty(),
                };
                let name = xattr_name(*name);
                done(rustix::fs::lsetxattr(self.path(at), &name, value, flags))
            }
            Op::RemoveXattr { at, name } => {
                done(rustix::fs::lremovexattr(self.path(at), xattr_name(*name)))
            }
            Op::Truncate { at, size } => {
                let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let set = rustix::fs::open(self.path(at), flags, Mode::empty())
                    .and_then(|file| rustix::fs::ftruncate(&file, *size));
                done(set)
            }
            Op::WriteFile { at, off, len, seed } => {
                let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let written = rustix::fs::open(self.path(at), flags, Mode::empty())
                    .and_then(|file| rustix::io::pwrite(&file, &bytes(*len, *seed), *off));
                outcome(written, |count| Outcome::Count(count as u64))
            }
            Op::ReadFile { at, off, len } => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let mut buf = vec![0; *len];
                let read = rustix::fs::open(self.path(at), flags, Mode::empty())
                    .and_then(|file| rustix::io::pread(&file, &mut buf, *off));
                outcome(read, |count| Outcome::Bytes(buf[..count].to_vec()))
            }
            Op::Open { slot, at, how } => self.open(*slot, at, *how),
            Op::Close { slot } => match self.open.remove(slot) {
                Some(_) => Outcome::Done,
                None => Outcome::NoSlot,
            },
            Op::Pwrite {
                slot,
                off,
                len,
                seed,
            } => self.with(*slot, |file| {
                let written = rustix::io::pwrite(file, &bytes(*len, *seed), *off);
                outcome(written, |count| Outcome::Count(count as u64))
            }),
            Op::Append { slot, len, seed } => self.with(*slot, |file| {
                let written = rustix::io::write(file, &bytes(*len, *seed));
                outcome(written, |count| Outcome::Count(count as u64))
            }),
            Op::Pread { slot, off, len } => self.with(*slot, |file| {
                let mut buf = vec![0; *len];
                let read = rustix::io::pread(file, &mut buf, *off);
                outcome(read, |count| Outcome::Bytes(buf[..count].to_vec()))
            }),
            Op::Ftruncate { slot, size } => {
                self.with(*slot, |file| done(rustix::fs::ftruncate(file, *size)))
            }
            Op::Fsync { slot } => self.with(*slot, |file| done(rustix::fs::fsync(file))),
            Op::Fallocate {
                slot,
                how,
                off,
                len,
            } => self.with(*slot, |file| {
                let flags = match how {
                    0 => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                    1 => FallocateFlags::ZERO_RANGE,
                    2 => FallocateFlags::KEEP_SIZE,
                    _ => FallocateFlags::empty(),
                };
                done(rustix::fs::fallocate(file, flags, *off, *len))
            }),
            Op::CopyRange {
                from,
                to,
                off_in,
                off_out,
                len,
            } => {
                let (Some((from, _)), Some((to, _))) = (self.open.get(from), self.open.get(to))
                else {
                    return Outcome::NoSlot;
                };
                copy_all(from, to, *off_in, *off_out, *len)
            }
            Op::SeekEnd { slot } => self.with(*slot, |file| {
                outcome(
                    rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)),
                    Outcome::Count,
                )
            }),
            Op::List { at } => self.list(&self.path(at)),
            Op::Stat { at } => see(&self.path(at)),
            Op::MapWrite {
                slot,
                off,
                len,
                seed,
            } => self.with(*slot, |file| {
                map_up_to(file, *off, *len, |map, off, len| {
                    map.write(off, &bytes(len, *seed));
                    Outcome::Count(len as u64)
                })
            }),
            Op::MapRead { slot, off, len } => self.with(*slot, |file| {
                map_up_to(file, *off, *len, |map, off, len| {
                    let mut buf = vec![0; len];
                    map.read(off, &mut buf);
                    Outcome::Bytes(buf)
                })
            }),
            Op::Store | Op::Stash { .. } | Op::Restart => Outcome::Done,
        }
    }

    fn is_symlink(&self, at: &Spot) -> bool {
        rustix::fs::lstat(self.path(at))
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    fn open(&mut self, slot: Slot, at: &Spot, how: u8) -> Outcome {
        let flags = match how {
            0 => OFlags::RDONLY,
            1 => OFlags::RDWR,
            2 => OFlags::RDWR | OFlags::CREATE,
            3 => OFlags::RDWR | OFlags::TRUNC,
            4 => OFlags::RDWR | OFlags::APPEND,
            _ => OFlags::RDWR | OFlags::CREATE | OFlags::APPEND,
        };
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::open(self.path(at), flags, Mode::from_raw_mode(0o644));
        let regular = |file: &OwnedFd| {
            rustix::fs::fstat(file)
                .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
        };
        outcome(opened, |file| {
            if regular(&file) {
                self.open.insert(slot, (file, true));
            }
            Outcome::Done
        })
    }

    fn with(&self, slot: Slot, act: impl FnOnce(&OwnedFd) -> Outcome) -> Outcome {
        self.open
            .get(&slot)
            .map_or(Outcome::NoSlot, |(file, _)| act(file))
    }

    fn list(&self, path: &Path) -> Outcome {
        let listed = std::fs::read_dir(path).and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name().as_bytes().to_vec()))
                .collect::<std::io::Result<Vec<_>>>()
        });
        match listed {
            Ok(mut names) => {
                names.sort();
                Outcome::Names(names)
            }
            Err(error) => Outcome::Failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
        }
    }

    /// Everything below the root, with contents, in an order that does not depend on the
    /// directory.
    pub fn whole_tree(&self) -> Vec<(PathBuf, Outcome, Outcome)> {
        let mut found = Vec::new();
        let mut left = vec![PathBuf::new()];
        while let Some(relative) = left.pop() {
            let path = self.root.join(&relative);
            let node = see(&path);
            let content = match &node {
                Outcome::Node(seen) if seen.kind == FileType::RegularFile => {
                    match std::fs::read(&path) {
                        Ok(content) => Outcome::Bytes(content),
                        Err(error) => {
                            Outcome::Failed(Errno::from_io_error(&error).unwrap_or(Errno::IO))
                        }
                    }
                }
                Outcome::Node(seen) if seen.kind == FileType::Symlink => {
                    let target = std::fs::read_link(&path).unwrap_or_default();
                    Outcome::Bytes(target.as_os_str().as_bytes().to_vec())
                }
                Outcome::Node(seen) if seen.kind == FileType::Directory => {
                    let names = self.list(&path);
                    if let Outcome::Names(names) = &names {
                        for name in names {
                            left.push(relative.join(std::ffi::OsStr::from_bytes(name)));
                        }
                    }
                    names
                }
                _ => Outcome::Done,
            };
            found.push((relative, node, content));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    }

    /// Has the kernel let go of the pages that it keeps of these files, or of all below a
    /// directory, so that the next read asks the file system again.
    pub fn drop_pages(&self, below: &Path) {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut left = vec![self.root.join(below)];
        while let Some(path) = left.pop() {
            match rustix::fs::lstat(&path).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
                Ok(FileType::Directory) => {
                    let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
                    left.extend(entries.map(|entry| entry.path()));
                }
                Ok(FileType::RegularFile) => {
                    if let Ok(file) = rustix::fs::open(&path, flags, Mode::empty()) {
                        let all = rustix::fs::Advice::DontNeed;
                        rustix::fs::fadvise(&file, 0, None, all).unwrap();
                    }
                }
                _ => {}
            }
        }
    }

    /// Closes all that is open.
    pub fn close_all(&mut self) {
        self.open.clear();
    }
}

fn xattr_name(name: u8) -> CString {
    CString::new(format!("user.larder.{name}")).unwrap()
}

fn see(path: &Path) -> Outcome {
    outcome(rustix::fs::lstat(path), |stat| {
        let kind = FileType::from_raw_mode(stat.st_mode);
        Outcome::Node(Seen {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            #[allow(clippy::unnecessary_cast, reason = "32 bits on other machines")]
            nlink: stat.st_nlink as u64,
            // A directory's size is the file system's own affair.
            size: match kind {
                FileType::Directory => 0,
                _ => stat.st_size as u64,
            },
        })
    })
}

/// Acts on a shared map of the file, with as much of the range as the file has.
fn map_up_to(
    file: &OwnedFd,
    off: u64,
    len: usize,
    act: impl FnOnce(&mut Map, usize, usize) -> Outcome,
) -> Outcome {
    let size = match rustix::fs::fstat(file) {
        Ok(stat) => stat.st_size as usize,
        Err(error) => return Outcome::Failed(error),
    };
    let off = off as usize;
    let len = len.min(size.saturating_sub(off));
    if len == 0 {
        return Outcome::Count(0);
    }
    match Map::of(file, off + len) {
        Ok(mut map) => act(&mut map, off, len),
        Err(error) => Outcome::Failed(error),
    }
}

/// Copies as cp does, as often as it takes. A copy within one file answers what the
/// kernel says of the first piece.
fn copy_all(from: &OwnedFd, to: &OwnedFd, off_in: u64, off_out: u64, len: usize) -> Outcome {
    let (mut off_in, mut off_out) = (off_in, off_out);
    let mut left = len;
    while left > 0 {
        match rustix::fs::copy_file_range(from, Some(&mut off_in), to, Some(&mut off_out), left) {
            Ok(0) => break,
            Ok(count) => left -= count,
            Err(error) => return Outcome::Failed(error),
        }
    }
    Outcome::Count((len - left) as u64)
}

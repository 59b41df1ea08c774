//! A node and its registers.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Content, Dot, Hlc, LinkId, Name, NodeId};

/// What a node is; fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Nanoseconds since 1970-01-01 UTC, as files carry it (signed: 1677 to 2262).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub i64);

/// Whether a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    /// It is.
    Alive,
    /// It was deleted; its last place and content are kept, so that it can come back.
    Deleted,
}

/// Where a link puts its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The directory.
    pub parent: NodeId,
    /// The name in it.
    pub name: Name,
}

/// One link of a node: a place, there or removed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// Where it is, or was last.
    pub place: Place,
    /// Whether it is there.
    pub present: bool,
    /// When it came there or went.
    pub time: Hlc,
}

/// Mode, owner, times and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Attrs {
    /// Permission, set-id and sticky bits: `mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices only.
    pub rdev: u64,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
    /// Extended attributes by name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// When these attributes were written, for choosing the latest.
    pub time: Hlc,
}

/// A value with the dots that wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Valued<T> {
    /// The value.
    pub value: T,
    /// Who wrote it: never empty in a committed tree.
    pub dots: BTreeSet<Dot>,
}

/// One or more values that nobody has superseded; more than one is a conflict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register<T>(pub Vec<Valued<T>>);

impl<T> Register<T> {
    /// A register with one value, written at `dot`.
    pub fn one(value: T, dot: Dot) -> Self {
        Self(vec![Valued {
            value,
            dots: BTreeSet::from([dot]),
        }])
    }
}

impl<T: PartialEq> Register<T> {
    /// Replaces all values by one written at `dot`; an equal single value keeps its dots.
    pub fn write(&mut self, value: T, dot: Dot) {
        if let [only] = self.0.as_slice()
            && only.value == value
        {
            return;
        }
        *self = Self::one(value, dot);
    }
}

/// A file, directory, symlink, FIFO, socket or device of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Alive or deleted; alive beats deleted.
    pub life: Register<Life>,
    /// Its links: one for most nodes, exactly one for a directory.
    pub links: BTreeMap<LinkId, Register<Link>>,
    /// Mode, owner, times, xattrs; the latest counts.
    pub attrs: Register<Attrs>,
    /// What it holds; two values are a real conflict.
    pub content: Register<Content>,
}

//! A node's attributes, as the database has them.

use larder_model::{Kind, Time};
use nix::time::{ClockId, clock_gettime};
use rusqlite::{Connection, OptionalExtension, Row};

use crate::{Ino, Result, VolumeError};

/// What `stat` shows of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attr {
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// How many names it has; a directory: 2 and one for each directory in it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Blocks of 512 bytes that the content takes, wherever it lies; holes take none.
    pub blocks: u64,
    /// Last read.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
}

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeSet {
    /// The time of the call.
    Now,
    /// This one.
    At(Time),
}

/// What to change of a node's attributes; `None` stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission, set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes, of files.
    pub size: Option<u64>,
    /// Last read.
    pub atime: Option<TimeSet>,
    /// Last change of content.
    pub mtime: Option<TimeSet>,
    /// Last change of anything; the time of the call if `None`.
    pub ctime: Option<Time>,
}

/// The columns that [`attr_of_row`] reads, in its order.
macro_rules! attr_columns {
    () => {
        "ino, kind, mode, nlink, uid, gid, rdev, size, alloc, atime, mtime, ctime, btime"
    };
}
pub(crate) use attr_columns;

/// The attributes in a row that starts with [`attr_columns`].
pub(crate) fn attr_of_row(row: &Row<'_>) -> rusqlite::Result<Attr> {
    Ok(Attr {
        ino: row.get::<_, i64>(0)? as u64,
        kind: kind_of_code(row.get(1)?),
        mode: row.get(2)?,
        nlink: row.get(3)?,
        uid: row.get(4)?,
        gid: row.get(5)?,
        rdev: row.get::<_, i64>(6)? as u64,
        size: row.get::<_, i64>(7)? as u64,
        blocks: (row.get::<_, i64>(8)? as u64).div_ceil(512),
        atime: Time(row.get(9)?),
        mtime: Time(row.get(10)?),
        ctime: Time(row.get(11)?),
        btime: Time(row.get(12)?),
    })
}

/// The node's attributes, if there is such a node.
pub(crate) fn find_attr(connection: &Connection, ino: Ino) -> Result<Option<Attr>> {
    let mut statement = connection.prepare_cached(concat!(
        "SELECT ",
        attr_columns!(),
        " FROM nodes WHERE ino = ?1"
    ))?;
    Ok(statement.query_row([ino as i64], attr_of_row).optional()?)
}

/// The node's attributes.
pub(crate) fn attr(connection: &Connection, ino: Ino) -> Result<Attr> {
    find_attr(connection, ino)?.ok_or(VolumeError::NoEntry)
}

/// The kind that the database's number stands for; what it does not know is a file.
pub(crate) fn kind_of_code(code: u8) -> Kind {
    larder_format::kind_from_code(code).unwrap_or(Kind::File)
}

/// The time of the kernel's coarse clock: the one that its file systems stamp with, so
/// that times set here and there keep their order.
pub(crate) fn now() -> Time {
    time_of(ClockId::CLOCK_REALTIME_COARSE)
}

/// The time to the nanosecond.
pub(crate) fn now_precise() -> Time {
    time_of(ClockId::CLOCK_REALTIME)
}

/// What a clock of the kernel's shows, asked through the C library, as `std` asks for time: so who
/// simulates time simulates this, too. A clock that the kernel does not have shows 1970.
fn time_of(clock: ClockId) -> Time {
    clock_gettime(clock).map_or(Time(0), |now| {
        Time(now.tv_sec().saturating_mul(1_000_000_000) + now.tv_nsec())
    })
}

impl TimeSet {
    pub(crate) fn resolve(self, now: Time) -> Time {
        match self {
            Self::Now => now,
            Self::At(time) => time,
        }
    }
}

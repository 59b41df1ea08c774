//! Reading and writing files.
//!
//! What is here is read and written in the cache file at once, under the node's lock or
//! without it. What must wait (for a store, for a durable mark, for room) is told apart
//! first: `read_here` and `write_here` answer `None` then, and `read` and `write` are
//! called from a thread that may wait.
//!
//! A write makes the pieces that it touches local. A piece that a write only cuts must be
//! here before: only those pieces are fetched.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use larder_model::Kind;
use rustix::fs::{FallocateFlags, SeekFrom};

use crate::live::{Held, Here, Piece, make_local, pieces_in};
use crate::node::{self, Attr, SetAttr, TimeSet};
use crate::{Arrived, Ino, Result, Volume, VolumeError};

/// Files end here: as large as the kernel's offsets go.
const SIZE_MAX: u64 = i64::MAX as u64;
const COPY_BYTES: u64 = 1 << 20;
/// Reads from this size on are of a program that streams a file.
const STREAM_BYTES: usize = 128 << 10;
/// So often a reader tries to be answered from what came before that is in the cache file: the
/// file may change meanwhile, or what it wants be too much for memory.
const EARLY_TRIES: u32 = 2;
/// The kernel keeps files in pieces of at most so many bytes.
const PIECE_BYTES: u64 = 4 << 20;

/// How a file is opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Access {
    /// To be written.
    pub write: bool,
    /// Emptied first.
    pub truncate: bool,
    /// The opener reads and writes the cache file itself, if it gets it. To write, it gets
    /// it only while there is plenty of room: such writes cannot be slowed down.
    pub direct: bool,
    /// The opener tells the times of its writes itself, by [`Volume::set_attr`]: they are
    /// not taken from the clock when a write arrives.
    pub tells_times: bool,
}

/// An open file.
#[derive(Debug)]
pub struct Opened {
    /// The cache file, if it was asked for and every byte of the content is in it: it may
    /// be read and, if opened to be written, written directly until it is closed.
    pub backing: Option<Arc<File>>,
}

/// What to seek.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeekKind {
    /// The next byte that is not in a hole.
    Data,
    /// The next hole; the end of the file is one.
    Hole,
}

impl Volume {
    /// Opens a regular file. To be closed with the same `access`.
    ///
    /// # Errors
    /// If it is gone or no regular file.
    pub fn open(&self, ino: Ino, access: Access) -> Result<Opened> {
        if access.truncate {
            self.set_size(ino, 0, true)?;
        }
        if access.write && access.direct {
            self.sync_ahead(ino)?;
        }
        let opened = self.hold(ino, |held| {
            // All handles of a file go the same way: once one has the file itself, all do.
            let direct =
                access.direct && (!access.write || held.direct > 0 || self.has_room_to_write());
            let backing = match held.here {
                Here::Whole if direct => Some(held.file()?),
                Here::Whole | Here::Away | Here::Part { .. } => None,
            };
            let direct = held.direct > 0 || backing.is_some();
            let writers = held.writers > 0 || access.write;
            if direct && writers {
                // What is written past this process is not seen when it happens.
                held.mark_dirty()?;
                held.writes += 1;
            }
            if access.write {
                held.observe()?;
            }
            held.opens += 1;
            held.direct += u32::from(backing.is_some());
            if access.write {
                held.writers += 1;
                held.times_told += u32::from(access.tells_times);
                if held.dirty {
                    held.note_dirty();
                }
            }
            Ok(Opened { backing })
        })?;
        if !access.write {
            self.touch(ino);
        }
        Ok(opened)
    }

    /// Closes what [`Volume::open`] opened.
    ///
    /// # Errors
    /// If sizes and times cannot be noted.
    pub fn close(&self, ino: Ino, access: Access) -> Result<()> {
        let closed = self.hold(ino, |held| {
            if access.write && held.direct > 0 {
                // Two writes within a tick of the clock look like one.
                held.writes += 1;
            }
            held.opens = held.opens.saturating_sub(1);
            if held.opens == 0 {
                held.direct = 0;
            }
            if access.write {
                held.writers = held.writers.saturating_sub(1);
                held.observe()?;
                held.times_told -= u32::from(access.tells_times).min(held.times_told);
                if held.dirty {
                    held.note_dirty();
                }
            }
            held.flush_pending()
        });
        self.trim_lives();
        match closed {
            Err(VolumeError::NoEntry) => Ok(()),
            other => other,
        }
    }

    /// Opens a regular file to be read by an opener that keeps what it has read, as the
    /// kernel does, and so may well ask for nothing: then nothing is looked up for it. To be
    /// closed by [`Volume::close_lightly`]. Where files are opened directly
    /// ([`Access::direct`]), [`Volume::may_change_unseen`] is to be asked before.
    pub fn open_lightly(&self, ino: Ino) {
        self.live.open_lightly(ino);
        self.touch(ino);
    }

    /// Closes what [`Volume::open_lightly`] opened.
    pub fn close_lightly(&self, ino: Ino) {
        self.live.close_lightly(ino);
    }

    /// Reads what is here; `None` if a part of it is away. Bytes read: fewer than asked
    /// for only at the end of the file.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn read_here(&self, ino: Ino, off: u64, buf: &mut [u8]) -> Result<Option<usize>> {
        self.read_if_here(ino, off, buf, true)
    }

    /// As [`Volume::read_here`]; `note` it as one of the reads that go through the file.
    fn read_if_here(
        &self,
        ino: Ino,
        off: u64,
        buf: &mut [u8],
        note: bool,
    ) -> Result<Option<usize>> {
        let ready = self.hold(ino, |held| {
            if held.writers > 0 {
                held.observe()?;
            }
            let end = held.size.min(off.saturating_add(buf.len() as u64));
            if end <= off {
                return Ok(Some(None));
            }
            if !held.holds(&(off..end)) {
                return Ok(None);
            }
            if note && matches!(held.here, Here::Part { .. }) {
                self.note_read(ino, off..end, held.size);
            }
            if note && off == 0 && held.opens == 0 {
                // Nobody tells of opens: where a reader begins is as good.
                self.touch(ino);
            }
            Ok(Some(Some((held.file()?, (end - off) as usize, held.dirty))))
        })?;
        let Some(ready) = ready else {
            return Ok(None);
        };
        let Some((file, len, dirty)) = ready else {
            return Ok(Some(0));
        };
        let read = read_full(&file, off, &mut buf[..len])
            .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
        if !dirty && read >= STREAM_BYTES {
            give_back_pages(&file, off, read);
        }
        Ok(Some(read))
    }

    /// Reads, and waits for what is away, though not longer than the settings say.
    ///
    /// # Errors
    /// [`VolumeError::Away`], [`VolumeError::TimedOut`] or [`VolumeError::Damaged`] if what
    /// is away cannot be had.
    pub fn read(&self, ino: Ino, off: u64, buf: &mut [u8]) -> Result<usize> {
        let (read, arrived) = self.read_early(ino, off, buf)?;
        self.keep(arrived)?;
        Ok(read)
    }

    /// As [`Volume::read`]. What came for it is not in the cache file yet, but in the answer,
    /// for [`Volume::keep`]: who reads need not wait for that.
    ///
    /// # Errors
    /// As [`Volume::read`].
    pub fn read_early(&self, ino: Ino, off: u64, buf: &mut [u8]) -> Result<(usize, Arrived)> {
        let mut noted = false;
        let mut tries = 0;
        loop {
            if let Some(read) = self.read_if_here(ino, off, buf, !noted)? {
                return Ok((read, Arrived::default()));
            }
            let size = self.hold(ino, |held| Ok(held.size))?;
            let range = off..size.min(off.saturating_add(buf.len() as u64));
            let launched = || {
                if !noted {
                    self.note_read(ino, range.clone(), size);
                    noted = true;
                }
            };
            if tries == EARLY_TRIES {
                self.ensure_then(ino, range.clone(), launched)?;
                continue;
            }
            tries += 1;
            if let Some(arrived) = self.await_few(ino, range.clone(), launched)? {
                match self.read_with(ino, off, buf, arrived.landed())? {
                    Some(read) => return Ok((read, arrived)),
                    None => self.keep(arrived)?,
                }
            }
        }
    }

    /// Writes, if that needs no waiting; `None` if it does.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write_here(&self, ino: Ino, off: u64, data: &[u8]) -> Result<Option<usize>> {
        if self.write_may_wait(data.len() as u64) {
            return Ok(None);
        }
        let range = self.range_to_write(off, data.len() as u64)?;
        self.hold(ino, |held| {
            if !held.dirty || !held.is_local(&range) {
                return Ok(None);
            }
            self.write_held(held, &range, data).map(Some)
        })
    }

    /// Writes all of `data`. May wait: for the pieces that it cuts, for the mark that the
    /// file is dirty, or until the stores took some of what is dirty.
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`] if there is no room and nothing drains; otherwise if a
    /// piece cannot be had or the disk fails. Then nothing was written.
    pub fn write(&self, ino: Ino, off: u64, data: &[u8]) -> Result<usize> {
        let range = self.range_to_write(off, data.len() as u64)?;
        if range.is_empty() {
            return Ok(0);
        }
        self.throttle_write(ino, &range)?;
        self.edit(ino, &range, |held| self.write_held(held, &range, data))
    }

    fn range_to_write(&self, off: u64, len: u64) -> Result<Range<u64>> {
        let end = off.saturating_add(len);
        if end > SIZE_MAX {
            return Err(VolumeError::TooLarge("the file"));
        }
        Ok(off..end)
    }

    fn write_held(&self, held: &mut Held<'_>, range: &Range<u64>, data: &[u8]) -> Result<usize> {
        let file = held.file()?;
        let before = held.size;
        if range.end > before {
            held.trim_tail()?;
        }
        // The bytes first, then the map: until they are there, what is away stays away.
        let written = file
            .write_all_at(data, range.start)
            .map_err(|error| VolumeError::io("the cache", error))
            .and_then(|()| held.claim(range));
        if let Err(error) = written {
            if range.end > before && held.direct == 0 {
                // If this fails, too, the tail is cut off before the file grows again.
                let _ = file.set_len(before);
            }
            held.writes += 1;
            held.unsynced = true;
            return Err(error);
        }
        self.note_write(held, before.max(range.end));
        Ok(data.len())
    }

    fn note_write(&self, held: &mut Held<'_>, size: u64) {
        held.size = size;
        held.writes += 1;
        held.unsynced = true;
        held.note_times(node::now());
        held.note_dirty();
    }

    /// Makes `range` ready to be changed, whatever is away or clean, and changes it by
    /// `act` under the node's lock. A piece that is away, and that lies in `range` as a
    /// whole, is still away then: once its new bytes are there, `act` claims it.
    fn edit<T>(
        &self,
        ino: Ino,
        range: &Range<u64>,
        mut act: impl FnMut(&mut Held<'_>) -> Result<T>,
    ) -> Result<T> {
        let (mut tracked, mut synced) = (false, false);
        loop {
            let step = self.hold(ino, |held| {
                if held.must_sync() && !synced {
                    return Ok(Step::Sync);
                }
                if held.may_track() && !tracked {
                    return Ok(Step::Track);
                }
                let cut = match &held.here {
                    Here::Away if held.size > 0 => return Ok(Step::Map),
                    Here::Away => return Ok(Step::Begin),
                    Here::Whole => None,
                    Here::Part { map, .. } => first_cut(map, range, held.size),
                };
                if let Some(cut) = cut {
                    return Ok(Step::Fetch(cut));
                }
                held.mark_dirty()?;
                held.take_over(range)?;
                act(held).map(Step::Done)
            })?;
            match step {
                Step::Done(value) => return Ok(value),
                Step::Map => self.materialise(ino)?,
                Step::Fetch(cut) => self.ensure(ino, cut)?,
                Step::Begin => {
                    self.begin_empty(ino, Emptied::Is)?;
                }
                Step::Sync => {
                    self.sync_ahead(ino)?;
                    synced = true;
                }
                Step::Track => {
                    self.track(ino)?;
                    tracked = true;
                }
            }
        }
    }

    /// Gives a file that is away an empty cache file, if it is empty, or is to be.
    /// Whether it did.
    fn begin_empty(&self, ino: Ino, emptied: Emptied) -> Result<bool> {
        self.hold(ino, |held| {
            let is_empty = held.size == 0;
            if !matches!(held.here, Here::Away) || (!is_empty && emptied == Emptied::Is) {
                return Ok(false);
            }
            held.begin_empty()?;
            if !is_empty {
                self.note_write(held, 0);
            } else if emptied == Emptied::Becomes {
                held.note_times(node::now());
            }
            Ok(true)
        })
    }

    /// Changes a node's attributes. May wait if the size cuts a piece that is away.
    ///
    /// # Errors
    /// If the node is gone, or what is cut cannot be had.
    pub fn set_attr(&self, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let Some(size) = set.size else {
            self.set_noted_attr(ino, set)?;
            return self.attr(ino);
        };
        let before = self.attr(ino)?;
        let (times, rest) = apart(set);
        if rest != SetAttr::default() {
            self.set_noted_attr(ino, &rest)?;
        }
        self.set_size(ino, size, false)?;
        // The kernel takes an error for a size that did not change.
        if let Err(error) = self.set_noted_attr(ino, &times) {
            tracing::warn!(ino, %error, "the times of a truncation are not noted");
        }
        Ok(self.attr(ino).unwrap_or(Attr { size, ..before }))
    }

    /// Changes attributes that only the database has.
    fn set_noted_attr(&self, ino: Ino, set: &SetAttr) -> Result<()> {
        let is_file = self.attr(ino)?.kind == Kind::File;
        if !is_file || !self.live.is_in_use(ino) {
            return self.write_attr(ino, set);
        }
        self.hold(ino, |held| {
            held.observe()?;
            held.flush_pending()?;
            self.write_attr(ino, set)?;
            held.refresh_seen()
        })
    }

    /// Whether [`Volume::set_attr`] may wait for a store or for the disk.
    pub fn set_attr_blocks(&self, _ino: Ino, set: &SetAttr) -> bool {
        set.size.is_some()
    }

    fn write_attr(&self, ino: Ino, set: &SetAttr) -> Result<()> {
        let now = node::now();
        let time = |set: Option<TimeSet>| set.map(|set| set.resolve(now).0);
        let only_atime = *set
            == SetAttr {
                atime: set.atime,
                ..SetAttr::default()
            };
        self.db.write_soon(|tx| {
            let changed = tx
                .prepare_cached(
                    "UPDATE nodes SET mode = coalesce(?2, mode), uid = coalesce(?3, uid),
                            gid = coalesce(?4, gid), atime = coalesce(?5, atime),
                            mtime = coalesce(?6, mtime), ctime = ?7
                     WHERE ino = ?1",
                )?
                .execute((
                    ino as i64,
                    set.mode.map(|mode| mode & 0o7777),
                    set.uid,
                    set.gid,
                    time(set.atime),
                    time(set.mtime),
                    set.ctime.unwrap_or(now).0,
                ))?;
            if changed == 0 {
                return Err(VolumeError::NoEntry);
            }
            if only_atime {
                return Ok(());
            }
            self.mark_changed(tx, ino)
        })
    }

    fn set_size(&self, ino: Ino, size: u64, touch: bool) -> Result<()> {
        if size > SIZE_MAX {
            return Err(VolumeError::TooLarge("the file"));
        }
        let mut synced = false;
        loop {
            let step = self.hold(ino, |held| {
                held.observe()?;
                if size != held.size && held.must_sync() && !synced {
                    return Ok(Step::Sync);
                }
                match &held.here {
                    Here::Away if size == 0 => return Ok(Step::Begin),
                    Here::Away => return Ok(Step::Map),
                    Here::Part { map, .. } if size > 0 && size < held.size => {
                        if let Some(cut) = piece_cut_at(map, size) {
                            return Ok(Step::Fetch(cut));
                        }
                    }
                    Here::Part { .. } | Here::Whole => {}
                }
                self.resize_held(held, size, touch).map(Step::Done)
            })?;
            match step {
                Step::Done(()) => return Ok(()),
                Step::Map => self.materialise(ino)?,
                Step::Fetch(cut) => self.ensure(ino, cut)?,
                // That was all of it.
                Step::Begin if self.begin_empty(ino, Emptied::Becomes)? => return Ok(()),
                Step::Begin => {}
                Step::Sync => {
                    self.sync_ahead(ino)?;
                    synced = true;
                }
                Step::Track => {}
            }
        }
    }

    fn resize_held(&self, held: &mut Held<'_>, size: u64, touch: bool) -> Result<()> {
        let before = held.size;
        if size != before {
            held.mark_dirty()?;
            held.resize(size)?;
            self.note_write(held, size);
        } else if touch {
            held.note_times(node::now());
        }
        // It is done, and who is told otherwise takes the old size for true. What is pending
        // is noted with the next change, or by a sync.
        if let Err(error) = held.flush_pending().and_then(|()| held.refresh_seen()) {
            tracing::warn!(ino = held.ino, %error, "the size of a file is not noted yet");
        }
        Ok(())
    }

    /// Allocates, zeroes, or punches a hole, as fallocate(2) does with these flags.
    ///
    /// # Errors
    /// [`VolumeError::Unsupported`] for flags that move content.
    pub fn fallocate(&self, ino: Ino, mode: i32, off: u64, len: u64) -> Result<()> {
        let flags = FallocateFlags::from_bits_retain(mode as u32);
        let known =
            FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !known.contains(flags) {
            return Err(VolumeError::Unsupported("moving content by fallocate"));
        }
        if len == 0 {
            return Err(VolumeError::Invalid("the length is zero"));
        }
        let asked = self.range_to_write(off, len)?;
        let keeps_size = flags.contains(FallocateFlags::KEEP_SIZE);
        if !flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
            self.throttle_write(ino, &asked)?;
            return self.allocate(ino, &asked, keeps_size);
        }
        let size = self.hold(ino, |held| {
            held.observe()?;
            Ok(held.size)
        })?;
        let changed = match keeps_size {
            true => asked.start.min(size)..asked.end.min(size),
            false => asked,
        };
        if changed.is_empty() {
            return Ok(());
        }
        self.edit(ino, &changed, |held| {
            let size = held.size.max(changed.end);
            held.trim_tail()?;
            rustix::fs::fallocate(held.file()?, flags, off, len)
                .map_err(|error| VolumeError::io("the cache", error.into()))?;
            held.claim(&changed)?;
            self.note_write(held, size);
            held.refresh_seen()
        })
    }

    /// Reserves room on the disk, as far as the content is here, and makes the file longer
    /// if it `range` ends behind it. No byte of the content changes.
    fn allocate(&self, ino: Ino, range: &Range<u64>, keeps_size: bool) -> Result<()> {
        loop {
            let step = self.hold(ino, |held| {
                held.observe()?;
                let grows = !keeps_size && range.end > held.size;
                let start = match &held.here {
                    Here::Away if held.size == 0 => return Ok(Step::Begin),
                    Here::Away if grows => return Ok(Step::Map),
                    Here::Away => return Ok(Step::Done(())),
                    Here::Part { .. } => range.start.max(held.size),
                    Here::Whole => range.start,
                };
                if start < range.end {
                    let room = FallocateFlags::KEEP_SIZE;
                    rustix::fs::fallocate(held.file()?, room, start, range.end - start)
                        .map_err(|error| VolumeError::io("the cache", error.into()))?;
                }
                let size = if grows { range.end } else { held.size };
                self.resize_held(held, size, true).map(Step::Done)
            })?;
            match step {
                Step::Done(()) => return Ok(()),
                Step::Map => self.materialise(ino)?,
                Step::Begin => {
                    self.begin_empty(ino, Emptied::Is)?;
                }
                Step::Fetch(_) | Step::Sync | Step::Track => {}
            }
        }
    }

    /// The next data or hole at or behind `off`.
    ///
    /// # Errors
    /// [`VolumeError::Io`] with ENXIO if there is none.
    pub fn seek(&self, ino: Ino, off: u64, kind: SeekKind) -> Result<u64> {
        let none = || VolumeError::io("seek", std::io::Error::from_raw_os_error(libc::ENXIO));
        loop {
            let found = self.hold(ino, |held| {
                held.observe()?;
                if off >= held.size {
                    return Err(none());
                }
                let file = match &held.here {
                    Here::Away => return Ok(None),
                    Here::Whole | Here::Part { .. } => held.file()?,
                };
                match &held.here {
                    Here::Part { map, .. } => {
                        seek_in_map(map, &file, off, held.size, kind).map(Some)
                    }
                    Here::Whole | Here::Away => seek_in_file(&file, off, kind).map(Some),
                }
            })?;
            match found {
                Some(Some(at)) => return Ok(at),
                Some(None) => return Err(none()),
                None => self.materialise(ino)?,
            }
        }
    }

    /// Copies a range between files. Chunks that are stored and away are shared, not
    /// fetched. Bytes copied: fewer than asked for only at the end of the source.
    ///
    /// # Errors
    /// If a range overlaps itself, or what is cut cannot be had.
    pub fn copy_range(
        &self,
        source: Ino,
        source_off: u64,
        target: Ino,
        target_off: u64,
        len: u64,
    ) -> Result<u64> {
        let size = self.hold(source, |held| {
            held.observe()?;
            Ok(held.size)
        })?;
        let len = len.min(size.saturating_sub(source_off));
        if source == target && source_off.abs_diff(target_off) < len {
            return Err(VolumeError::Invalid("the ranges overlap"));
        }
        self.range_to_write(target_off, len)?;
        let mut done = 0;
        while done < len {
            let (from, to) = (source_off + done, target_off + done);
            let left = len - done;
            let pieces = self.away_pieces(source, from, left)?;
            let shared = match source != target && !pieces.is_empty() {
                true => {
                    // Nothing ceases to count between the look and the change.
                    let _counted = self.push.while_nothing_is_lost();
                    match self.are_stored(&pieces)? {
                        true => self.share(&pieces, target, to)?,
                        false => 0,
                    }
                }
                false => 0,
            };
            done += match shared {
                0 => self.copy_bytes(source, from, target, to, left.min(COPY_BYTES))?,
                shared => shared,
            };
        }
        Ok(done)
    }

    fn copy_bytes(&self, source: Ino, from: u64, target: Ino, to: u64, len: u64) -> Result<u64> {
        let mut buf = vec![0; len as usize];
        let read = self.read(source, from, &mut buf)?;
        if read == 0 {
            return Err(VolumeError::Invalid("the source became shorter"));
        }
        let mut written = 0;
        while written < read {
            written += self.write(target, to + written as u64, &buf[written..read])?;
        }
        Ok(read as u64)
    }

    /// The absent pieces that start at `from` and end within `len`, without gap.
    fn away_pieces(&self, ino: Ino, from: u64, len: u64) -> Result<Vec<(u64, Piece)>> {
        if self.hold(ino, |held| {
            Ok(matches!(held.here, Here::Away) && held.size > 0)
        })? {
            self.materialise(ino)?;
        }
        self.hold(ino, |held| {
            let Here::Part { map, .. } = &held.here else {
                return Ok(Vec::new());
            };
            let mut pieces = Vec::new();
            let mut at = from;
            while let Some(&(piece_len, piece)) = map.get(&at)
                && !piece.is_here()
                && at + piece_len <= from + len
            {
                pieces.push((piece_len, piece));
                at += piece_len;
            }
            Ok(pieces)
        })
    }

    /// Whether packs that count hold all of these pieces. One that lies in a pack that others may
    /// delete is fetched, and stored anew.
    fn are_stored(&self, pieces: &[(u64, Piece)]) -> Result<bool> {
        self.db.read(|connection| {
            for (_, piece) in pieces {
                if let Piece::Stored { chunk, .. } = piece
                    && !crate::push::is_chunk_stored(connection, chunk)?
                {
                    return Ok(false);
                }
            }
            Ok(true)
        })
    }

    /// Makes `pieces` of another file, all stored and away, a part of `target` at `to`.
    /// Bytes shared: 0 if somebody reads the target's cache file directly, who would see
    /// zeros.
    fn share(&self, pieces: &[(u64, Piece)], target: Ino, to: u64) -> Result<u64> {
        let total: u64 = pieces.iter().map(|(len, _)| len).sum();
        let range = to..to + total;
        self.edit(target, &range, |held| {
            if held.direct > 0 || held.is_elsewhere()? {
                return Ok(0);
            }
            let before = held.size;
            let size = before.max(range.end);
            let file = held.file()?;
            let resize = |len| {
                file.set_len(len)
                    .map_err(|error| VolumeError::io("the cache", error))
            };
            if size > before {
                // Whether the file can be as long is better known before the map says so.
                resize(size)?;
                resize(before)?;
            }
            held.begin_map();
            held.change_map(&range, |map| {
                make_local(map, before, &range);
                put_pieces(map, &range, pieces);
            })?;
            // The map first: were it lost, zeros would be taken for the content.
            resize(size)?;
            self.note_write(held, size);
            held.refresh_seen()?;
            Ok(total)
        })
    }

    /// Makes the file's bytes, and all that was done to the tree before, survive a power
    /// cut.
    ///
    /// # Errors
    /// If the disk fails: then nothing is promised.
    pub fn fsync(&self, ino: Ino, _data_only: bool) -> Result<()> {
        let synced = self.hold(ino, |held| {
            held.observe()?;
            held.flush_pending()?;
            let file = match held.here {
                Here::Away => None,
                Here::Part { .. } | Here::Whole => Some(held.file()?),
            };
            Ok((file, held.writes, held.entry_synced))
        });
        match synced {
            Ok((Some(file), writes, entry_synced)) => {
                file.sync_all()
                    .map_err(|error| VolumeError::io(self.cache.path(ino), error))?;
                if !entry_synced {
                    self.cache.sync_entries([ino])?;
                }
                self.hold(ino, |held| {
                    held.entry_synced = true;
                    if held.writes == writes {
                        held.unsynced = false;
                    }
                    Ok(())
                })?;
            }
            Ok((None, ..)) | Err(VolumeError::IsDirectory | VolumeError::Invalid(_)) => {}
            Err(error) => return Err(error),
        }
        self.db.write_synced(|_| Ok(()))
    }

    /// Makes all that was done to the tree survive a power cut.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn fsync_dir(&self, _ino: Ino) -> Result<()> {
        self.db.write_synced(|_| Ok(()))
    }

    /// A program closed one of its descriptors: notes sizes and times.
    ///
    /// # Errors
    /// If the database fails.
    pub fn flush(&self, ino: Ino) -> Result<()> {
        self.hold(ino, |held| {
            held.observe()?;
            held.flush_pending()
        })
    }

    /// Makes everything that was done survive a power cut.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync_all(&self) -> Result<()> {
        self.flush_lives();
        self.cache.sync_all()?;
        self.db.write_synced(|_| Ok(()))
    }

    /// Before a file takes another's place: syncs its data, if it was not.
    pub(crate) fn sync_before_replace(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
    ) -> Result<()> {
        let Some(from) = self.lookup(parent, name)? else {
            return Ok(());
        };
        if from.kind != Kind::File || self.lookup(new_parent, new_name)?.is_none() {
            return Ok(());
        }
        let unsynced = self.hold(from.ino, |held| {
            held.observe()?;
            match held.dirty && held.unsynced {
                true => held.file().map(Some),
                false => Ok(None),
            }
        })?;
        match unsynced {
            Some(file) => file
                .sync_data()
                .map_err(|error| VolumeError::io(self.cache.path(from.ino), error)),
            None => Ok(()),
        }
    }
}

/// Which files get an empty cache file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emptied {
    /// Those that are empty.
    Is,
    /// All: they become empty.
    Becomes,
}

/// What an edit needs next.
enum Step<T> {
    Done(T),
    /// The working map.
    Map,
    /// These bytes.
    Fetch(Range<u64>),
    /// A cache file for a file without content.
    Begin,
    /// What came to be synced.
    Sync,
    /// The map of what is stored of a whole file.
    Track,
}

/// The times of a change, and what else it has but for the size.
fn apart(set: &SetAttr) -> (SetAttr, SetAttr) {
    let times = SetAttr {
        atime: set.atime,
        mtime: set.mtime,
        // Also of a file that keeps its size.
        ctime: Some(set.ctime.unwrap_or_else(node::now)),
        ..SetAttr::default()
    };
    let rest = SetAttr {
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        ..SetAttr::default()
    };
    (times, rest)
}

/// The first absent piece that a change of `range` only cuts.
fn first_cut(map: &crate::live::Map, range: &Range<u64>, size: u64) -> Option<Range<u64>> {
    let end = range.end.min(size);
    pieces_in(map, &(range.start..end))
        .find(|(off, len, piece)| !piece.is_here() && (*off < range.start || off + len > range.end))
        .map(|(off, len, _)| off..off + len)
}

/// The absent piece that a cut at `size` would divide.
fn piece_cut_at(map: &crate::live::Map, size: u64) -> Option<Range<u64>> {
    pieces_in(map, &(size - 1..size + 1))
        .find(|(off, len, piece)| !piece.is_here() && *off < size && off + len > size)
        .map(|(off, len, _)| off..off + len)
}

/// Puts `pieces` in the place of `range`, all of which is local.
fn put_pieces(map: &mut crate::live::Map, range: &Range<u64>, pieces: &[(u64, Piece)]) {
    let touched: Vec<_> = pieces_in(map, range).collect();
    for (off, len, piece) in touched {
        map.remove(&off);
        if off < range.start {
            map.insert(off, (range.start - off, piece));
        }
        if off + len > range.end {
            map.insert(range.end, (off + len - range.end, piece));
        }
    }
    let mut at = range.start;
    for &(len, piece) in pieces {
        map.insert(at, (len, piece));
        at += len;
    }
}

fn seek_in_map(
    map: &crate::live::Map,
    file: &File,
    off: u64,
    size: u64,
    kind: SeekKind,
) -> Result<Option<u64>> {
    for (start, len, piece) in pieces_in(map, &(off..size)) {
        let from = start.max(off);
        let found = match (piece, kind) {
            (Piece::Hole, SeekKind::Hole) | (Piece::Stored { .. }, SeekKind::Data) => Some(from),
            (Piece::Hole, SeekKind::Data) | (Piece::Stored { .. }, SeekKind::Hole) => None,
            (Piece::Local, _) => seek_in_file(file, from, kind)?.filter(|at| *at < start + len),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok((kind == SeekKind::Hole).then_some(size))
}

fn seek_in_file(file: &File, off: u64, kind: SeekKind) -> Result<Option<u64>> {
    let whence = match kind {
        SeekKind::Data => SeekFrom::Data(off),
        SeekKind::Hole => SeekFrom::Hole(off),
    };
    match rustix::fs::seek(file, whence) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(VolumeError::io("the cache", error.into())),
    }
}

/// The kernel keeps what was read as pages of the mount: it need not keep it as pages of
/// the cache file too. Not while the file is dirty, as that would start writing it out.
/// What lies before is named again: the kernel reads in large pieces, and lets one go only
/// once all of it is named.
fn give_back_pages(file: &File, off: u64, len: usize) {
    let from = off.saturating_sub(PIECE_BYTES);
    let len = std::num::NonZeroU64::new(off - from + len as u64);
    let _ = rustix::fs::fadvise(file, from, len, rustix::fs::Advice::DontNeed);
}

fn read_full(file: &File, off: u64, buf: &mut [u8]) -> std::io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], off + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

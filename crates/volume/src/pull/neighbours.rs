//! Fetching the files that a scan will read next.
//!
//! `grep -r` or `cp -r` reads one small file after the other, and each would cost a round
//! trip. A read of a small file that is away starts a [`Scan`]: the files after it in its
//! directory that are away too are fetched behind it, then those of the directories
//! after that, as a walk of the tree meets them. They were stored in one go, so they lie
//! side by side in few packs and come with few requests.
//!
//! The first window is small, so that a single read costs little. It grows when the reader
//! reaches a file of the last window, which also starts the next one: so the reader finds
//! each file here, or on its way. A miss in a directory where a scan was lately goes on
//! with that scan, whatever order the reader has.

use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;

use larder_model::{ChunkId, Content, Kind};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};

use crate::live::{Missing, absent_in, map_of};
use crate::{Ino, ROOT, Result, Volume, node};

/// Files up to this size are fetched as a whole when they are next.
const SMALL_FILE_BYTES: u64 = 8 << 20;

const FIRST_WINDOW_BYTES: u64 = 128 << 10;
/// All of a window is under way at once.
pub(super) const LAST_WINDOW_BYTES: u64 = 8 << 20;
const GROWTH: u64 = 4;
const MOST_FILES: usize = 4096;
/// So many entries are looked at for one window.
const MOST_ENTRIES: usize = 20_000;
const MOST_SCANS: usize = 8;
/// Directories that a scan remembers to have been in.
const TRAIL: usize = 64;

/// Files that were fetched ahead and that no reader has come to yet.
#[derive(Debug, Default)]
pub(crate) struct Marks(Mutex<HashSet<Ino>>);

impl Marks {
    /// Whether the file was fetched ahead in the latest window of a scan.
    pub(crate) fn has(&self, ino: Ino) -> bool {
        self.0.lock().contains(&ino)
    }
}

/// The scans that are going on; known to the thread behind only.
pub(crate) struct Scans {
    scans: VecDeque<Scan>,
}

/// A reader that goes from file to file.
#[derive(Debug, Default)]
struct Scan {
    window_bytes: u64,
    /// The last file of the latest window.
    cursor: Ino,
    /// The files of the latest window.
    window: HashSet<Ino>,
    /// The directories of the latest windows.
    trail: VecDeque<Ino>,
}

/// A file of a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Next {
    pub(crate) ino: Ino,
    directory: Ino,
    /// Its encoded content.
    content: Vec<u8>,
}

/// What there is to fetch of a file.
pub(crate) enum Away {
    /// These chunks.
    Chunks(Vec<Missing>),
    /// What a long list says, beginning with this page.
    List(ChunkId),
}

impl Next {
    /// What there is to fetch of it.
    pub(crate) fn away(&self) -> Away {
        match larder_format::decode_content(&self.content) {
            Ok(Content::Extents(extents)) => {
                Away::Chunks(absent_in(&map_of(&extents), &(0..u64::MAX)))
            }
            Ok(Content::List { root, .. }) => Away::List(root),
            // Whoever reads the file is told; here it is only not fetched ahead.
            Ok(Content::None | Content::Target(_)) | Err(_) => Away::Chunks(Vec::new()),
        }
    }
}

impl Scans {
    pub(crate) fn new() -> Self {
        Self {
            scans: VecDeque::new(),
        }
    }

    /// A reader waits for this file. Answers what to fetch after it.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn missed(&mut self, volume: &Volume, ino: Ino) -> Result<Vec<Next>> {
        if self.scans.iter().any(|scan| scan.window.contains(&ino)) {
            return self.reached(volume, ino);
        }
        let place = volume
            .db
            .read(|connection| match is_small(connection, ino)? {
                true => place_of(connection, ino),
                false => Ok(None),
            })?;
        let Some((directory, _)) = place else {
            return Ok(Vec::new());
        };
        let known = self
            .scans
            .iter()
            .position(|scan| scan.trail.contains(&directory));
        let mut scan = known
            .and_then(|at| self.scans.remove(at))
            .unwrap_or_default();
        scan.cursor = ino;
        scan.stepped_into(directory);
        self.go_on(volume, scan)
    }

    /// A reader came to a file that was fetched ahead. Answers what to fetch next.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn reached(&mut self, volume: &Volume, ino: Ino) -> Result<Vec<Next>> {
        let at = self
            .scans
            .iter()
            .position(|scan| scan.window.contains(&ino));
        match at.and_then(|at| self.scans.remove(at)) {
            Some(scan) => self.go_on(volume, scan),
            None => Ok(Vec::new()),
        }
    }

    fn go_on(&mut self, volume: &Volume, mut scan: Scan) -> Result<Vec<Next>> {
        let cap = LAST_WINDOW_BYTES.min(volume.settings.budget_bytes / 16);
        scan.window_bytes = match scan.window_bytes {
            0 => FIRST_WINDOW_BYTES,
            bytes => bytes.saturating_mul(GROWTH),
        }
        .min(cap);
        let wide = scan.window_bytes > FIRST_WINDOW_BYTES;
        let next = volume
            .db
            .read(|connection| Walk::new(connection, scan.window_bytes).from(scan.cursor, wide))?;
        for next in &next {
            scan.stepped_into(next.directory);
        }
        if let Some(last) = next.last() {
            scan.cursor = last.ino;
        }
        scan.window = next.iter().map(|next| next.ino).collect();
        self.scans.push_front(scan);
        self.scans.truncate(MOST_SCANS);
        let marks = self.scans.iter().flat_map(|scan| &scan.window);
        *volume.pull.marks.0.lock() = marks.copied().collect();
        Ok(next)
    }
}

impl Scan {
    fn stepped_into(&mut self, directory: Ino) {
        if self.trail.front() != Some(&directory) {
            self.trail.retain(|known| *known != directory);
            self.trail.push_front(directory);
            self.trail.truncate(TRAIL);
        }
    }
}

/// Collects a window by walking the tree from one file on.
struct Walk<'a> {
    connection: &'a Connection,
    bytes_left: u64,
    entries_left: usize,
    found: Vec<Next>,
    known: HashSet<Ino>,
}

/// A row of a directory, with what is known of the node.
struct Entry {
    ino: Ino,
    kind: Kind,
    size: u64,
    /// Its content, if that was stored and nothing of it is here.
    away: Option<Vec<u8>>,
}

impl<'a> Walk<'a> {
    fn new(connection: &'a Connection, bytes: u64) -> Self {
        Self {
            connection,
            bytes_left: bytes,
            entries_left: MOST_ENTRIES,
            found: Vec::new(),
            known: HashSet::new(),
        }
    }

    /// The files after `ino` in its directory; if `wide`, also those before it, those in
    /// the directories below, and those after its directory.
    fn from(mut self, ino: Ino, wide: bool) -> Result<Vec<Next>> {
        // An early end means that the window is full.
        let _ = self.walk(ino, wide)?;
        Ok(self.found)
    }

    fn walk(&mut self, ino: Ino, wide: bool) -> Result<ControlFlow<()>> {
        let Some((mut directory, mut name)) = place_of(self.connection, ino)? else {
            return Ok(ControlFlow::Continue(()));
        };
        let mut first = true;
        loop {
            if self.rest_of(directory, &name, wide)?.is_break() || !wide {
                return Ok(ControlFlow::Break(()));
            }
            // Readers that sort otherwise (by number, by size) come to these as well.
            if first && self.files_of(directory, &[])?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            first = false;
            match place_of(self.connection, directory)? {
                Some(above) if directory != ROOT => (directory, name) = above,
                _ => return Ok(ControlFlow::Continue(())),
            }
        }
    }

    /// What comes after `name` in a directory: its files, then all below its directories.
    fn rest_of(&mut self, directory: Ino, name: &[u8], deep: bool) -> Result<ControlFlow<()>> {
        if self.files_of(directory, name)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        if !deep {
            return Ok(ControlFlow::Continue(()));
        }
        let mut below: Vec<Ino> = self.directories_of(directory, name)?;
        below.reverse();
        while let Some(directory) = below.pop() {
            if self.files_of(directory, &[])?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let mut deeper = self.directories_of(directory, &[])?;
            deeper.reverse();
            below.append(&mut deeper);
        }
        Ok(ControlFlow::Continue(()))
    }

    fn files_of(&mut self, directory: Ino, after: &[u8]) -> Result<ControlFlow<()>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT d.child, d.kind, n.size,
                    iif(n.size > 0 AND NOT EXISTS(SELECT 1 FROM cached c WHERE c.ino = n.ino),
                        n.content, NULL)
             FROM dentries d JOIN nodes n ON n.ino = d.child
             WHERE d.parent = ?1 AND d.name > ?2 ORDER BY d.name",
        )?;
        let mut rows = statement.query((directory as i64, after))?;
        while let Some(row) = rows.next()? {
            let entry = Entry {
                ino: row.get::<_, i64>(0)? as u64,
                kind: node::kind_of_code(row.get(1)?),
                size: row.get::<_, i64>(2)? as u64,
                away: row.get(3)?,
            };
            if self.look_at(directory, entry).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn look_at(&mut self, directory: Ino, entry: Entry) -> ControlFlow<()> {
        if self.entries_left == 0 || self.found.len() >= MOST_FILES {
            return ControlFlow::Break(());
        }
        self.entries_left -= 1;
        let small = entry.kind == Kind::File && entry.size <= SMALL_FILE_BYTES;
        let Some(content) = entry.away.filter(|_| small) else {
            return ControlFlow::Continue(());
        };
        if self.known.contains(&entry.ino) {
            return ControlFlow::Continue(());
        }
        if entry.size > self.bytes_left {
            return ControlFlow::Break(());
        }
        self.known.insert(entry.ino);
        self.bytes_left -= entry.size;
        self.found.push(Next {
            ino: entry.ino,
            directory,
            content,
        });
        ControlFlow::Continue(())
    }

    fn directories_of(&mut self, directory: Ino, after: &[u8]) -> Result<Vec<Ino>> {
        let mut statement = self.connection.prepare_cached(
            "SELECT child FROM dentries WHERE parent = ?1 AND name > ?2 AND kind = ?3
             ORDER BY name LIMIT ?4",
        )?;
        let code = larder_format::kind_code(Kind::Directory);
        let rows = statement.query_map(
            (directory as i64, after, code, self.entries_left as i64),
            |row| Ok(row.get::<_, i64>(0)? as u64),
        )?;
        let found: Vec<Ino> = rows.collect::<Result<_, _>>()?;
        self.entries_left = self.entries_left.saturating_sub(found.len());
        Ok(found)
    }
}

/// Whether the file is fetched as a whole when it is next.
fn is_small(connection: &Connection, ino: Ino) -> Result<bool> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM nodes WHERE ino = ?1 AND size <= ?2")?
        .exists((ino as i64, SMALL_FILE_BYTES as i64))?)
}

/// The first of the node's names, with its directory.
fn place_of(connection: &Connection, ino: Ino) -> Result<Option<(Ino, Vec<u8>)>> {
    Ok(connection
        .prepare_cached("SELECT parent, name FROM dentries WHERE child = ?1 LIMIT 1")?
        .query_row([ino as i64], |row| {
            Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))
        })
        .optional()?)
}

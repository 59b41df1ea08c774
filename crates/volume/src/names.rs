//! The tree: names, links and directories.
//!
//! Each operation is done whole or not at all, in the order in which they are asked for, and
//! touches no content. A rename over another file survives the death of the process at once,
//! the others within milliseconds (`group`). Renaming a directory changes
//! one row, however much lies below it. What a commit must take is noted in `changed` and
//! `tombstones` in the same transaction.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use larder_model::{Content, Kind, LinkId, Name, NodeId, Time};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};

use crate::db::{Db, Transaction, meta_u64, set_meta};
use crate::live::KeptReason;
use crate::node::{self, Attr, attr_of_row};
use crate::stored_node::{StoredNode, insert_row};
use crate::{Ino, ROOT, Result, Volume, VolumeError};

const SET_GID: u32 = 0o2000;
const INOS_RESERVED: u64 = 65_536;
/// More than the operations that can be between `reserve` and `take` at once.
const INOS_SLACK: u64 = 4096;
const DEPTH_MAX: usize = 65_536;
const LINKS_MAX: u32 = 65_000;

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A node to make that is not a regular file.
#[derive(Debug, Clone, Copy)]
pub struct NewNode<'a> {
    /// What it is.
    pub kind: Kind,
    /// Permission, set-id and sticky bits, the umask taken off.
    pub mode: u32,
    /// Device number, of devices.
    pub rdev: u64,
    /// Target, of symlinks.
    pub target: Option<&'a [u8]>,
    /// Who owns it.
    pub caller: Caller,
}

/// What a rename does when the new name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails.
    NoReplace,
    /// Each takes the other's place.
    Exchange,
}

/// Files that a restore took names from and that have others left, with the number of the
/// change that this was.
#[derive(Debug, Default)]
pub(crate) struct Replaced(HashMap<Ino, i64>);

/// What became of a node that was to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It is there, under this number.
    At(Ino),
    /// It is not, for what is there stays.
    Kept(KeptReason),
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// The node.
    pub ino: Ino,
    /// What the node is.
    pub kind: Kind,
}

/// Hands out node numbers, each once in the life of a replica.
#[derive(Debug)]
pub(crate) struct InoSource {
    next: AtomicU64,
    reserved: Mutex<u64>,
    sequence: AtomicU64,
}

impl InoSource {
    pub(crate) fn open(db: &Db) -> Result<Self> {
        db.read(|connection| {
            let used: i64 =
                connection.query_row("SELECT coalesce(max(ino), 0) FROM nodes", [], |row| {
                    row.get(0)
                })?;
            let reserved = meta_u64(connection, "inos_reserved")?
                .max(ROOT + 1)
                .max(used as u64 + 1);
            let sequence: i64 =
                connection.query_row("SELECT coalesce(max(seq), 0) FROM changed", [], |row| {
                    row.get(0)
                })?;
            Ok(Self {
                next: AtomicU64::new(reserved),
                reserved: Mutex::new(reserved),
                sequence: AtomicU64::new(sequence.max(0) as u64 + 1),
            })
        })
    }

    /// Makes sure that `count` more numbers can be taken: what is handed out lies below a
    /// reserve that an earlier transaction wrote, so it is not handed out again later. That
    /// transaction is synced: a cache file may outlast a power cut that its node does not.
    pub(crate) fn reserve(&self, db: &Db, count: u64) -> Result<()> {
        let needed = self.next.load(Ordering::Relaxed) + count + INOS_SLACK;
        let mut reserved = self.reserved.lock();
        if needed > *reserved {
            let more = needed + INOS_RESERVED;
            db.write_synced(|tx| set_meta(tx, "inos_reserved", &more.to_be_bytes()))?;
            *reserved = more;
        }
        Ok(())
    }

    /// A number that was never used; [`InoSource::reserve`] comes first.
    pub(crate) fn take(&self) -> Ino {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Numbers changes, so that a commit knows which of them it took.
    pub(crate) fn next_change(&self) -> i64 {
        self.sequence.fetch_add(1, Ordering::Relaxed) as i64
    }
}

/// What `dentries` says of a name.
#[derive(Debug, Clone, Copy)]
struct Entry {
    child: Ino,
    kind: Kind,
    link: i64,
}

impl Volume {
    /// The node of this name, if there is one.
    ///
    /// # Errors
    /// If `parent` is no directory, or the name is too long.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>> {
        if name.len() > Name::MAX {
            return Err(larder_model::NameError::TooLong.into());
        }
        self.settled(|| {
            let found = self.db.look(|connection| {
                let mut statement = connection.prepare_cached(concat!(
                    "SELECT ",
                    node::attr_columns!(),
                    " FROM nodes WHERE ino = (SELECT child FROM dentries WHERE parent = ?1 AND name = ?2)"
                ))?;
                Ok(statement
                    .query_row((parent as i64, name), attr_of_row)
                    .optional()?)
            })?;
            Ok(found.map(|attr| self.with_live(attr)))
        })
    }

    /// The node's attributes.
    ///
    /// # Errors
    /// [`VolumeError::NoEntry`] if it is gone.
    pub fn attr(&self, ino: Ino) -> Result<Attr> {
        self.settled(|| {
            let attr = self.db.look(|connection| node::attr(connection, ino))?;
            Ok(self.with_live(attr))
        })
    }

    /// The attributes of several nodes; `None` for each that is gone.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn attrs(&self, inos: &[Ino]) -> Result<Vec<Option<Attr>>> {
        self.settled(|| {
            let found = self.db.look(|connection| {
                inos.iter()
                    .map(|&ino| node::find_attr(connection, ino))
                    .collect::<Result<Vec<_>>>()
            })?;
            Ok(found
                .into_iter()
                .map(|attr| attr.map(|attr| self.with_live(attr)))
                .collect())
        })
    }

    /// The entries of a directory by name, without `.` and `..`.
    ///
    /// # Errors
    /// If the database fails.
    pub fn list_dir(&self, ino: Ino) -> Result<Vec<DirEntry>> {
        self.db.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT name, child, kind FROM dentries WHERE parent = ?1")?;
            let rows = statement.query_map([ino as i64], |row| {
                Ok(DirEntry {
                    name: row.get(0)?,
                    ino: row.get::<_, i64>(1)? as u64,
                    kind: node::kind_of_code(row.get(2)?),
                })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// The directory that a directory is in; of the root, the root.
    ///
    /// # Errors
    /// [`VolumeError::NoEntry`] if it is gone.
    pub fn parent_of(&self, ino: Ino) -> Result<Ino> {
        self.db.look(|connection| parent_of(connection, ino))
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// If it is none.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        self.db.look(|connection| {
            let target: Option<Option<Vec<u8>>> = connection
                .prepare_cached("SELECT target FROM nodes WHERE ino = ?1")?
                .query_row([ino as i64], |row| row.get(0))
                .optional()?;
            target
                .ok_or(VolumeError::NoEntry)?
                .ok_or(VolumeError::Invalid("it is not a symbolic link"))
        })
    }

    /// Makes a directory, symlink, FIFO, socket or device.
    ///
    /// # Errors
    /// If the name is taken or cannot be, or `parent` is no directory that is there.
    pub fn make_node(&self, parent: Ino, name: &[u8], new: NewNode<'_>) -> Result<Attr> {
        let name = Name::new(name)?;
        if new.target.is_some_and(|target| target.len() > 4095) {
            return Err(larder_model::NameError::TooLong.into());
        }
        self.inos.reserve(&self.db, 1)?;
        self.db
            .write_soon(|tx| self.insert_node(tx, parent, &name, new))
    }

    /// Makes an empty regular file.
    ///
    /// # Errors
    /// As [`Volume::make_node`]. A file of this name that is there already is answered
    /// unless `exclusive`.
    pub fn create(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        caller: Caller,
        exclusive: bool,
    ) -> Result<Attr> {
        let name = Name::new(name)?;
        let new = NewNode {
            kind: Kind::File,
            mode,
            rdev: 0,
            target: None,
            caller,
        };
        self.inos.reserve(&self.db, 1)?;
        let made = self.db.write_soon(|tx| {
            let attr = self.insert_node(tx, parent, &name, new)?;
            tx.prepare_cached(
                "INSERT INTO cached(ino, whole, dirty, generation, since, bytes, epoch, used)
                 VALUES(?1, 1, 1, 1, ?2, 0, 0, ?3)",
            )?
            .execute((attr.ino as i64, attr.ctime.0, attr.ctime.0 / 1_000_000_000))?;
            Ok(attr)
        });
        match made {
            Err(VolumeError::Exists) if !exclusive => {
                let there = self.lookup(parent, name.as_bytes())?;
                there.ok_or(VolumeError::NoEntry)
            }
            Ok(attr) => {
                self.live.note_new_file(attr.ino);
                Ok(attr)
            }
            Err(error) => Err(error),
        }
    }

    fn insert_node(
        &self,
        tx: &Transaction<'_>,
        parent: Ino,
        name: &Name,
        new: NewNode<'_>,
    ) -> Result<Attr> {
        let directory = self.directory(tx, parent)?;
        if find_entry(tx, parent, name.as_bytes())?.is_some() {
            return Err(VolumeError::Exists);
        }
        let is_directory = new.kind == Kind::Directory;
        let inherits = directory.mode & SET_GID != 0;
        let now = node::now();
        let attr = Attr {
            ino: self.inos.take(),
            kind: new.kind,
            mode: new.mode & 0o7777 | if inherits && is_directory { SET_GID } else { 0 },
            nlink: if is_directory { 2 } else { 1 },
            uid: new.caller.uid,
            gid: if inherits {
                directory.gid
            } else {
                new.caller.gid
            },
            rdev: new.rdev,
            size: match new.target {
                Some(target) => target.len() as u64,
                None if is_directory => 4096,
                None => 0,
            },
            blocks: if is_directory { 8 } else { 0 },
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
        };
        insert_row(
            tx,
            &attr,
            new_node_id(now)?,
            is_directory.then_some(parent),
            new.target,
        )?;
        self.add_first_name(tx, parent, name, attr.ino, new.kind)?;
        Ok(attr)
    }

    /// Puts a node of the past at a place, as `id`, if one is given that is free, or else as a
    /// copy. A file that is there goes, if a stored commit holds what it is now; otherwise it
    /// stays. The content of a file stays on the store.
    ///
    /// # Errors
    /// If the place is a directory's, or `parent` is no directory that is there.
    pub(crate) fn place_past(
        &self,
        parent: Ino,
        name: &Name,
        id: Option<NodeId>,
        (past, notices): (&StoredNode<'_>, u64),
        replaced: &mut Replaced,
    ) -> Result<Placed> {
        self.inos.reserve(&self.db, 1)?;
        let attr = Attr {
            ino: self.inos.take(),
            ctime: node::now(),
            ..past.attr
        };
        let kept = self.replacing(parent, name, replaced, |tx, replaced| {
            if crate::collect::marks::notices(tx)? != notices {
                return Err(VolumeError::State(
                    "history is being given up at this moment; try again".to_owned(),
                ));
            }
            let id = match id {
                Some(id) if free_id(tx, id, parent, name)? => id,
                _ => new_node_id(node::now())?,
            };
            let orphan = self.remove_file(tx, parent, name.as_bytes(), replaced)?;
            let above = (attr.kind == Kind::Directory).then_some(parent);
            past.insert(tx, &attr, id, above)?;
            // Deleted since then, and no commit knows yet: none needs to.
            tx.prepare_cached("DELETE FROM tombstones WHERE id = ?1")?
                .execute([id.as_bytes()])?;
            self.add_name(tx, parent, name, attr.ino, attr.kind, LinkId::BIRTH)?;
            Ok(orphan)
        })?;
        Ok(kept.map_or(Placed::At(attr.ino), Placed::Kept))
    }

    /// Gives a node of this kind one more name. A file that has it goes, or stays, as in
    /// [`Volume::place_past`].
    ///
    /// # Errors
    /// As [`Volume::link`], and if the name is a directory's.
    pub(crate) fn link_over(
        &self,
        (ino, kind): (Ino, Kind),
        parent: Ino,
        name: &Name,
        replaced: &mut Replaced,
    ) -> Result<Placed> {
        let kept = self.replacing(parent, name, replaced, |tx, replaced| {
            let orphan = self.remove_file(tx, parent, name.as_bytes(), replaced)?;
            self.add_link(tx, ino, parent, name)?;
            Ok(orphan)
        })?;
        if kept.is_none() {
            self.note_moved(&[(ino, kind)]);
        }
        Ok(kept.map_or(Placed::At(ino), Placed::Kept))
    }

    /// Takes the name from a file, if a stored commit holds what it is: else the reason why it stays.
    ///
    /// # Errors
    /// If it is a directory's, or the database fails.
    pub(crate) fn unlink_stored(&self, parent: Ino, name: &Name) -> Result<Option<KeptReason>> {
        self.replacing(parent, name, &mut Replaced::default(), |tx, replaced| {
            let orphan = self.remove_file(tx, parent, name.as_bytes(), replaced)?;
            self.touch_directory(tx, parent, node::now())?;
            Ok(orphan)
        })
    }

    /// Gives what has the name `from` the name `to` in its directory. A file that has that is
    /// replaced, if a stored commit holds what it is: else the reason why it stays.
    ///
    /// # Errors
    /// If there is no `from`, a directory has the name, or the database fails.
    pub(crate) fn rename_over_stored(
        &self,
        parent: Ino,
        from: &Name,
        to: &Name,
    ) -> Result<Option<KeptReason>> {
        self.sync_before_replace(parent, from.as_bytes(), parent, to.as_bytes())?;
        let moved = Mutex::new(None);
        let kept = self.replacing(parent, to, &mut Replaced::default(), |tx, replaced| {
            let source = entry(tx, parent, from.as_bytes())?;
            let now = node::now();
            let orphan = self.remove_file(tx, parent, to.as_bytes(), replaced)?;
            remove_entry(tx, parent, from.as_bytes())?;
            self.place(tx, source, parent, (parent, to.as_bytes()), now)?;
            self.touch_directory(tx, parent, now)?;
            *moved.lock() = Some((source.child, source.kind));
            Ok(orphan)
        })?;
        self.note_moved(moved.into_inner().as_slice());
        Ok(kept)
    }

    /// Does what replaces a file, if a stored commit holds what the file is now: else the reason
    /// why it stays. It is looked at under the node's lock, in the transaction that replaces it,
    /// for a program may write it at this moment.
    fn replacing(
        &self,
        parent: Ino,
        name: &Name,
        replaced: &mut Replaced,
        act: impl Fn(&Transaction<'_>, &mut Replaced) -> Result<Option<Ino>>,
    ) -> Result<Option<KeptReason>> {
        loop {
            let there = self
                .db
                .look(|connection| find_entry(connection, parent, name.as_bytes()))?;
            if let Some(there) = there
                && there.kind != Kind::Directory
                && self.is_local(there.child)?
            {
                return Ok(Some(KeptReason::Local));
            }
            let mut place = |reason: Option<KeptReason>| {
                self.db.write(|tx| {
                    self.directory(tx, parent)?;
                    let now = find_entry(tx, parent, name.as_bytes())?;
                    if now.map(|now| now.child) != there.map(|there| there.child) {
                        return Ok(None);
                    }
                    let reason = match there {
                        Some(there) if there.kind != Kind::Directory && reason.is_none() => {
                            reason_to_stay(tx, there.child, replaced)?
                        }
                        _ => reason,
                    };
                    match reason {
                        Some(reason) => Ok(Some((Some(reason), None))),
                        None => Ok(Some((None, act(tx, replaced)?))),
                    }
                })
            };
            let mut is_held = false;
            let done = match there {
                Some(there) if there.kind == Kind::File => self.hold(there.child, |held| {
                    is_held = true;
                    held.observe()?;
                    held.flush_pending()?;
                    // What is open to be written may be written already, to the kernel's pages.
                    place(match held.dirty {
                        _ if held.writers > 0 => Some(KeptReason::Open),
                        true => Some(KeptReason::Dirty),
                        false => None,
                    })
                }),
                _ => place(None),
            };
            let (kept, orphan) = match done {
                Ok(Some(done)) => done,
                // Another file has taken the name meanwhile, or none.
                Ok(None) => continue,
                Err(VolumeError::NoEntry) if there.is_some() && !is_held => continue,
                Err(error) => return Err(error),
            };
            if let Some(orphan) = orphan {
                self.note_unnamed(orphan);
            }
            return Ok(kept);
        }
    }

    /// Sets the time of a directory's last change.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn set_directory_time(&self, ino: Ino, mtime: Time) -> Result<()> {
        self.db.write(|tx| {
            tx.prepare_cached("UPDATE nodes SET mtime = ?2 WHERE ino = ?1")?
                .execute((ino as i64, mtime.0))?;
            self.mark_changed(tx, ino)
        })
    }

    /// What of a file is stored, as it was stored last; `None` if nothing is, or if it was
    /// changed since.
    ///
    /// # Errors
    /// If the database fails or is damaged.
    pub(crate) fn clean_content(&self, ino: Ino) -> Result<Option<Content>> {
        let encoded: Option<Option<Vec<u8>>> = self.db.look(|connection| {
            Ok(connection
                .prepare_cached(
                    "SELECT content FROM nodes n WHERE ino = ?1
                     AND NOT EXISTS (SELECT 1 FROM cached c WHERE c.ino = n.ino AND c.dirty)",
                )?
                .query_row([ino as i64], |row| row.get(0))
                .optional()?)
        })?;
        let encoded = encoded.flatten();
        Ok(encoded
            .map(|bytes| larder_format::decode_content(&bytes))
            .transpose()?)
    }

    /// Takes a name from the file that has it, if one does. Answers the node if it was its
    /// last.
    fn remove_file(
        &self,
        tx: &Transaction<'_>,
        parent: Ino,
        name: &[u8],
        replaced: &mut Replaced,
    ) -> Result<Option<Ino>> {
        let Some(there) = find_entry(tx, parent, name)? else {
            return Ok(None);
        };
        if there.kind == Kind::Directory {
            return Err(VolumeError::IsDirectory);
        }
        let orphan = self.remove_link(tx, parent, name, there, node::now())?;
        if orphan.is_none() {
            let change = tx
                .prepare_cached("SELECT seq FROM changed WHERE ino = ?1")?
                .query_row([there.child as i64], |row| row.get(0))?;
            replaced.0.insert(there.child, change);
        }
        Ok(orphan)
    }

    /// Gives a node that is no directory one more name.
    ///
    /// # Errors
    /// If the name is taken or cannot be, or the node has too many.
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attr> {
        let name = Name::new(name)?;
        let attr = self
            .db
            .write_soon(|tx| self.add_link(tx, ino, parent, &name))?;
        self.note_moved(&[(ino, attr.kind)]);
        Ok(self.with_live(attr))
    }

    fn add_link(&self, tx: &Transaction<'_>, ino: Ino, parent: Ino, name: &Name) -> Result<Attr> {
        self.directory(tx, parent)?;
        let attr = node::attr(tx, ino)?;
        if attr.kind == Kind::Directory {
            return Err(VolumeError::NotPermitted("a directory has one name only"));
        }
        if attr.nlink == 0 {
            return Err(VolumeError::NoEntry);
        }
        if attr.nlink >= LINKS_MAX {
            return Err(VolumeError::Invalid("the file has too many names"));
        }
        if find_entry(tx, parent, name.as_bytes())?.is_some() {
            return Err(VolumeError::Exists);
        }
        let now = node::now();
        let link = LinkId(random_u64()?.max(1));
        self.insert_entry(tx, parent, name.as_bytes(), ino, attr.kind, link)?;
        add_links(tx, ino, 1)?;
        set_ctime(tx, ino, now)?;
        self.touch_directory(tx, parent, now)?;
        self.mark_changed(tx, ino)?;
        node::attr(tx, ino)
    }

    /// Takes a name from a node that is no directory. The node goes when it has no name
    /// and the kernel has forgotten it ([`Volume::forget`]).
    ///
    /// # Errors
    /// If there is no such name, or it is a directory's.
    pub fn unlink(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let orphan = self.db.write_soon(|tx| {
            let entry = entry(tx, parent, name)?;
            if entry.kind == Kind::Directory {
                return Err(VolumeError::IsDirectory);
            }
            let now = node::now();
            let orphan = self.remove_link(tx, parent, name, entry, now)?;
            self.touch_directory(tx, parent, now)?;
            Ok(orphan)
        })?;
        self.note_orphan(orphan);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// If it is not there, not empty, or no directory.
    pub fn rmdir(&self, parent: Ino, name: &[u8]) -> Result<()> {
        let orphan = self.db.write_soon(|tx| {
            let entry = entry(tx, parent, name)?;
            if entry.kind != Kind::Directory {
                return Err(VolumeError::NotDirectory);
            }
            let now = node::now();
            let orphan = self.remove_directory(tx, parent, name, entry.child, now)?;
            self.touch_directory(tx, parent, now)?;
            Ok(orphan)
        })?;
        self.note_orphan(orphan);
        Ok(())
    }

    /// Moves a name. Touches no content, whatever lies below.
    ///
    /// If a file is replaced, the data of the one that takes its place is synced first, so
    /// that a crash leaves the old or the new content, never none. So this may wait for
    /// the disk.
    ///
    /// # Errors
    /// As rename(2) fails.
    pub fn rename(
        &self,
        parent: Ino,
        name: &[u8],
        new_parent: Ino,
        new_name: &[u8],
        mode: RenameMode,
    ) -> Result<()> {
        let to = Name::new(new_name)?;
        if mode == RenameMode::Replace {
            self.sync_before_replace(parent, name, new_parent, new_name)?;
        }
        let mut moved = Vec::new();
        let mut orphan = None;
        self.db.write_soon(|tx| {
            let from = entry(tx, parent, name)?;
            self.directory(tx, new_parent)?;
            let target = find_entry(tx, new_parent, to.as_bytes())?;
            if target.is_some_and(|target| target.child == from.child) {
                return match mode {
                    RenameMode::NoReplace => Err(VolumeError::Exists),
                    _ => Ok(()),
                };
            }
            if from.kind == Kind::Directory {
                refuse_below_itself(tx, from.child, new_parent)?;
            }
            let now = node::now();
            match (mode, target) {
                (RenameMode::NoReplace, Some(_)) => return Err(VolumeError::Exists),
                (RenameMode::Exchange, None) => return Err(VolumeError::NoEntry),
                (RenameMode::Exchange, Some(target)) => {
                    if target.kind == Kind::Directory {
                        refuse_below_itself(tx, target.child, parent)?;
                    }
                    remove_entry(tx, new_parent, new_name)?;
                    remove_entry(tx, parent, name)?;
                    self.place(tx, target, new_parent, (parent, name), now)?;
                    moved.push((target.child, target.kind));
                    self.place(tx, from, parent, (new_parent, new_name), now)?;
                }
                (_, target) => {
                    if let Some(target) = target {
                        let place = (new_parent, new_name);
                        orphan = self.replace_target(tx, from, target, place, now)?;
                    }
                    remove_entry(tx, parent, name)?;
                    self.place(tx, from, parent, (new_parent, new_name), now)?;
                }
            }
            moved.push((from.child, from.kind));
            self.touch_directory(tx, parent, now)?;
            if new_parent != parent {
                self.touch_directory(tx, new_parent, now)?;
            }
            Ok(())
        })?;
        if orphan.is_some() {
            // Who saves a file so believes that it is saved.
            self.db.commit_group()?;
        }
        self.note_orphan(orphan);
        self.note_moved(&moved);
        Ok(())
    }

    /// Puts an entry, whose name was removed from `old_parent`, at its new place.
    fn place(
        &self,
        tx: &Transaction<'_>,
        entry: Entry,
        old_parent: Ino,
        (parent, name): (Ino, &[u8]),
        now: Time,
    ) -> Result<()> {
        self.insert_entry(
            tx,
            parent,
            name,
            entry.child,
            entry.kind,
            LinkId(entry.link as u64),
        )?;
        if entry.kind == Kind::Directory && old_parent != parent {
            add_links(tx, old_parent, -1)?;
            add_links(tx, parent, 1)?;
            tx.prepare_cached("UPDATE nodes SET parent = ?2 WHERE ino = ?1")?
                .execute((entry.child as i64, parent as i64))?;
        }
        set_ctime(tx, entry.child, now)?;
        self.mark_changed(tx, entry.child)
    }

    fn replace_target(
        &self,
        tx: &Transaction<'_>,
        from: Entry,
        target: Entry,
        (parent, name): (Ino, &[u8]),
        now: Time,
    ) -> Result<Option<Ino>> {
        match (from.kind == Kind::Directory, target.kind == Kind::Directory) {
            (true, true) => self.remove_directory(tx, parent, name, target.child, now),
            (true, false) => Err(VolumeError::NotDirectory),
            (false, true) => Err(VolumeError::IsDirectory),
            (false, false) => self.remove_link(tx, parent, name, target, now),
        }
    }

    /// Removes a name of a node that is no directory. Answers the node if it was the last.
    fn remove_link(
        &self,
        tx: &Transaction<'_>,
        parent: Ino,
        name: &[u8],
        entry: Entry,
        now: Time,
    ) -> Result<Option<Ino>> {
        remove_entry(tx, parent, name)?;
        add_links(tx, entry.child, -1)?;
        set_ctime(tx, entry.child, now)?;
        let left: u32 = tx
            .prepare_cached("SELECT nlink FROM nodes WHERE ino = ?1")?
            .query_row([entry.child as i64], |row| row.get(0))?;
        if left == 0 {
            orphan(tx, entry.child, now)?;
            Ok(Some(entry.child))
        } else {
            self.mark_changed(tx, entry.child)?;
            Ok(None)
        }
    }

    fn remove_directory(
        &self,
        tx: &Transaction<'_>,
        parent: Ino,
        name: &[u8],
        ino: Ino,
        now: Time,
    ) -> Result<Option<Ino>> {
        let holds_any = tx
            .prepare_cached("SELECT 1 FROM dentries WHERE parent = ?1 LIMIT 1")?
            .exists([ino as i64])?;
        if holds_any {
            return Err(VolumeError::NotEmpty);
        }
        remove_entry(tx, parent, name)?;
        add_links(tx, parent, -1)?;
        tx.prepare_cached("UPDATE nodes SET nlink = 0, ctime = ?2 WHERE ino = ?1")?
            .execute((ino as i64, now.0))?;
        orphan(tx, ino, now)?;
        Ok(Some(ino))
    }

    /// A node lost its last name, and the database has it so: it stays until the kernel
    /// forgets it.
    fn note_orphan(&self, orphan: Option<Ino>) {
        if let Some(ino) = orphan {
            self.live.note_orphan(ino);
        }
    }

    /// As [`Volume::note_orphan`], of a node that did not lose its name through the kernel: that may
    /// not know it, and then nobody says that it may go.
    pub(crate) fn note_unnamed(&self, ino: Ino) {
        self.live.note_orphan(ino);
        if self.notify.knows(ino) || self.live.is_open(ino) {
            return;
        }
        if let Err(error) = self.forget(ino) {
            tracing::warn!(%error, ino, "an unlinked node stays until the next start");
        }
    }

    /// The kernel has dropped the node from its memory: if it has no name left, it is
    /// deleted now.
    ///
    /// # Errors
    /// If the disk fails; then the next start deletes it.
    pub fn forget(&self, ino: Ino) -> Result<()> {
        if !self.live.take_orphan(ino) {
            return Ok(());
        }
        let deleted = self.delete_unlinked(ino);
        if deleted.is_err() {
            self.live.note_orphan(ino);
        }
        if deleted? {
            self.pull.forget(ino);
        }
        Ok(())
    }

    fn directory(&self, connection: &Connection, ino: Ino) -> Result<Attr> {
        let attr = node::attr(connection, ino)?;
        if attr.kind != Kind::Directory {
            return Err(VolumeError::NotDirectory);
        }
        if attr.nlink == 0 {
            return Err(VolumeError::NoEntry);
        }
        Ok(attr)
    }

    fn insert_entry(
        &self,
        tx: &Transaction<'_>,
        parent: Ino,
        name: &[u8],
        child: Ino,
        kind: Kind,
        link: LinkId,
    ) -> Result<()> {
        tx.prepare_cached(
            "INSERT INTO dentries(parent, name, child, kind, link) VALUES(?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((
            parent as i64,
            name,
            child as i64,
            larder_format::kind_code(kind),
            link.0 as i64,
        ))?;
        Ok(())
    }

    /// Gives a node a name in a directory, and notes both changes.
    pub(crate) fn add_name(
        &self,
        tx: &Transaction<'_>,
        parent: Ino,
        name: &Name,
        child: Ino,
        kind: Kind,
        link: LinkId,
    ) -> Result<()> {
        self.insert_name(tx, parent, name, child, kind, link)?;
        self.mark_changed(tx, child)
    }

    /// Gives a new node its first name. The next commit takes the node; a file only once some
    /// of its content is stored, which marks it again.
    pub(crate) fn add_first_name(
        &self,
        tx: &Transaction<'_>,
        parent: Ino,
        name: &Name,
        child: Ino,
        kind: Kind,
    ) -> Result<()> {
        self.insert_name(tx, parent, name, child, kind, LinkId::BIRTH)?;
        if kind != Kind::File {
            return self.mark_changed(tx, child);
        }
        tx.prepare_cached("INSERT INTO changed(ino, seq) VALUES(?1, -1)")?
            .execute([child as i64])?;
        Ok(())
    }

    fn insert_name(
        &self,
        tx: &Transaction<'_>,
        parent: Ino,
        name: &Name,
        child: Ino,
        kind: Kind,
        link: LinkId,
    ) -> Result<()> {
        self.insert_entry(tx, parent, name.as_bytes(), child, kind, link)?;
        if kind == Kind::Directory {
            add_links(tx, parent, 1)?;
        }
        self.touch_directory(tx, parent, node::now())
    }

    fn touch_directory(&self, tx: &Transaction<'_>, ino: Ino, now: Time) -> Result<()> {
        tx.prepare_cached("UPDATE nodes SET mtime = ?2, ctime = ?2 WHERE ino = ?1")?
            .execute((ino as i64, now.0))?;
        self.mark_changed(tx, ino)
    }

    /// Notes that the next commit must take the node.
    pub(crate) fn mark_changed(&self, tx: &Transaction<'_>, ino: Ino) -> Result<()> {
        tx.prepare_cached(
            "INSERT INTO changed(ino, seq) VALUES(?1, ?2)
             ON CONFLICT(ino) DO UPDATE SET seq = excluded.seq",
        )?
        .execute((ino as i64, self.inos.next_change()))?;
        Ok(())
    }

    /// The node at a path of names joined by `/`, from the root; empty for the root.
    /// Follows no symlinks.
    ///
    /// # Errors
    /// [`VolumeError::NoEntry`] if there is none.
    pub fn resolve(&self, path: &[u8]) -> Result<Ino> {
        self.db
            .read_snapshot(|connection| resolve(connection, path))
    }

    /// A path that leads to the node, from the root, without a leading `/`; `None` if the
    /// node has no name.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn path_of(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        self.db.read_snapshot(|connection| path_of(connection, ino))
    }
}

/// The node at a path from the root.
pub(crate) fn resolve(connection: &Connection, path: &[u8]) -> Result<Ino> {
    path.split(|&byte| byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .try_fold(ROOT, |parent, name| {
            Ok(entry(connection, parent, name)?.child)
        })
}

/// A path that leads to the node, from the root; `None` if it has no name.
pub(crate) fn path_of(connection: &Connection, ino: Ino) -> Result<Option<Vec<u8>>> {
    let mut names = Vec::new();
    let mut at = ino;
    while at != ROOT {
        let place: Option<(i64, Vec<u8>)> = connection
            .prepare_cached("SELECT parent, name FROM dentries WHERE child = ?1 LIMIT 1")?
            .query_row([at as i64], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((parent, name)) = place else {
            return Ok(None);
        };
        names.push(name);
        refuse_too_deep(names.len())?;
        at = parent as u64;
    }
    names.reverse();
    Ok(Some(names.join(&b'/')))
}

/// Notes that a node has no name, which a commit knows.
///
/// # Errors
/// If the database fails.
pub(crate) fn leave_unnamed(tx: &Transaction<'_>, ino: Ino) -> Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO orphans(ino) VALUES(?1)")?
        .execute([ino as i64])?;
    tx.prepare_cached("DELETE FROM changed WHERE ino = ?1")?
        .execute([ino as i64])?;
    Ok(())
}

/// Notes that a node lost its last name.
fn orphan(tx: &Transaction<'_>, ino: Ino, now: Time) -> Result<()> {
    leave_unnamed(tx, ino)?;
    tx.prepare_cached(
        "INSERT OR REPLACE INTO tombstones(id, time)
         SELECT id, ?2 FROM nodes WHERE ino = ?1",
    )?
    .execute((ino as i64, now.0))?;
    Ok(())
}

/// Deletes a node that has no name, with all that the database has of it but for the note in
/// `orphans`: that goes when the cache file is gone ([`forget_orphans`]). Answers the bytes
/// that the cache file took as last counted; `None`, and nothing is deleted, if the node has
/// a name.
pub(crate) fn delete_node(tx: &Transaction<'_>, ino: Ino) -> Result<Option<u64>> {
    let has_name = tx
        .prepare_cached("SELECT 1 FROM dentries WHERE child = ?1")?
        .exists([ino as i64])?;
    if has_name {
        forget_orphans(tx, &[ino])?;
        return Ok(None);
    }
    let bytes: Option<i64> = tx
        .prepare_cached("SELECT bytes FROM cached WHERE ino = ?1")?
        .query_row([ino as i64], |row| row.get(0))
        .optional()?;
    for statement in [
        "DELETE FROM extents WHERE ino = ?1",
        "DELETE FROM cached WHERE ino = ?1",
        "DELETE FROM xattrs WHERE ino = ?1",
        "DELETE FROM changed WHERE ino = ?1",
        "DELETE FROM recovered WHERE ino = ?1",
        "DELETE FROM replaced WHERE ino = ?1",
        "DELETE FROM nodes WHERE ino = ?1",
    ] {
        tx.prepare_cached(statement)?.execute([ino as i64])?;
    }
    Ok(Some(bytes.unwrap_or(0) as u64))
}

/// Of these nodes nothing is left.
pub(crate) fn forget_orphans(tx: &Transaction<'_>, gone: &[Ino]) -> Result<()> {
    let mut statement = tx.prepare_cached("DELETE FROM orphans WHERE ino = ?1")?;
    for ino in gone {
        statement.execute([*ino as i64])?;
    }
    Ok(())
}

/// A fresh node id, ordered by `now`.
pub(crate) fn new_node_id(now: Time) -> Result<NodeId> {
    let mut random = [0; 10];
    fill_random(&mut random)?;
    let millis = (now.0 / 1_000_000).max(0) as u64;
    let id = uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid();
    Ok(NodeId(id.into_bytes()))
}

pub(crate) fn random_u64() -> Result<u64> {
    let mut bytes = [0; 8];
    fill_random(&mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|error| VolumeError::State(format!("the system gave no random bytes: {error}")))
}

/// Whether a node that is to be placed at `name` may have this id. A node that has it now
/// gives it up, if that is the only place it has: then it is what the new one replaces.
fn free_id(tx: &Transaction<'_>, id: NodeId, parent: Ino, name: &Name) -> Result<bool> {
    let has_it: Option<(i64, u32)> = tx
        .prepare_cached("SELECT ino, nlink FROM nodes WHERE id = ?1")?
        .query_row([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((ino, nlink)) = has_it else {
        return Ok(true);
    };
    let there = find_entry(tx, parent, name.as_bytes())?;
    let is_replaced = nlink == 1 && there.is_some_and(|there| there.child == ino as Ino);
    if nlink > 0 && !is_replaced {
        return Ok(false);
    }
    let other = new_node_id(node::now())?;
    tx.prepare_cached("UPDATE nodes SET id = ?2 WHERE ino = ?1")?
        .execute((ino, other.as_bytes()))?;
    Ok(true)
}

/// Why a node that is clean is not replaced: the latest commit does not hold it as it is, but for
/// the names that a restore took from it; or the store may not have what the commit holds, and what
/// is here may be the last copy.
fn reason_to_stay(
    tx: &Transaction<'_>,
    ino: Ino,
    replaced: &Replaced,
) -> Result<Option<KeptReason>> {
    let change: Option<i64> = tx
        .prepare_cached("SELECT seq FROM changed WHERE ino = ?1")?
        .query_row([ino as i64], |row| row.get(0))
        .optional()?;
    if change.is_some_and(|change| replaced.0.get(&ino) != Some(&change)) {
        return Ok(Some(KeptReason::NotCommitted));
    }
    let is_safe: Option<bool> = tx
        .prepare_cached(
            "SELECT n.safe FROM nodes n JOIN cached c ON c.ino = n.ino WHERE n.ino = ?1",
        )?
        .query_row([ino as i64], |row| row.get(0))
        .optional()?;
    Ok(match is_safe {
        None => None,
        Some(false) if crate::push::is_awaited(tx, ino)? => Some(KeptReason::Unproven),
        Some(false) if crate::push::is_unread(tx, ino)? => Some(KeptReason::MarkUnread),
        Some(false) => Some(KeptReason::NotCommitted),
        Some(true) if crate::push::is_in_doubt(tx)? => Some(KeptReason::StoreInDoubt),
        Some(true) => crate::collect::marks::reason_to_keep(tx)?,
    })
}

fn find_entry(connection: &Connection, parent: Ino, name: &[u8]) -> Result<Option<Entry>> {
    Ok(connection
        .prepare_cached("SELECT child, kind, link FROM dentries WHERE parent = ?1 AND name = ?2")?
        .query_row((parent as i64, name), |row| {
            Ok(Entry {
                child: row.get::<_, i64>(0)? as u64,
                kind: node::kind_of_code(row.get(1)?),
                link: row.get(2)?,
            })
        })
        .optional()?)
}

fn entry(connection: &Connection, parent: Ino, name: &[u8]) -> Result<Entry> {
    if name.len() > Name::MAX {
        return Err(larder_model::NameError::TooLong.into());
    }
    find_entry(connection, parent, name)?.ok_or(VolumeError::NoEntry)
}

fn remove_entry(tx: &Transaction<'_>, parent: Ino, name: &[u8]) -> Result<()> {
    tx.prepare_cached("DELETE FROM dentries WHERE parent = ?1 AND name = ?2")?
        .execute((parent as i64, name))?;
    Ok(())
}

fn add_links(tx: &Transaction<'_>, ino: Ino, more: i64) -> Result<()> {
    tx.prepare_cached("UPDATE nodes SET nlink = nlink + ?2 WHERE ino = ?1")?
        .execute((ino as i64, more))?;
    Ok(())
}

fn set_ctime(tx: &Transaction<'_>, ino: Ino, now: Time) -> Result<()> {
    tx.prepare_cached("UPDATE nodes SET ctime = ?2 WHERE ino = ?1")?
        .execute((ino as i64, now.0))?;
    Ok(())
}

fn parent_of(connection: &Connection, ino: Ino) -> Result<Ino> {
    let parent: Option<Option<i64>> = connection
        .prepare_cached("SELECT parent FROM nodes WHERE ino = ?1")?
        .query_row([ino as i64], |row| row.get(0))
        .optional()?;
    let parent = parent.ok_or(VolumeError::NoEntry)?;
    Ok(parent.map_or(ROOT, |parent| parent as u64))
}

/// No tree is so deep: the database's directories go round in a circle.
fn refuse_too_deep(depth: usize) -> Result<()> {
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    Err(VolumeError::Damaged(
        "the database's directories go round in a circle; `larder doctor` says what to do"
            .to_owned(),
    ))
}

fn refuse_below_itself(connection: &Connection, moved: Ino, new_parent: Ino) -> Result<()> {
    let mut at = new_parent;
    for depth in 0.. {
        if at == ROOT {
            break;
        }
        refuse_too_deep(depth)?;
        if at == moved {
            return Err(VolumeError::Invalid(
                "a directory cannot be moved below itself",
            ));
        }
        at = parent_of(connection, at)?;
    }
    if moved == ROOT {
        return Err(VolumeError::Invalid("the root cannot be moved"));
    }
    Ok(())
}

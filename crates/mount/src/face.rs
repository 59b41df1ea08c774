//! The volume as the kernel sees it: names and attributes.
//!
//! Every operation answers with what the kernel may keep. What it is told of a node is
//! noted on the way out: that the kernel knows the node now ([`Lookups`]), and whether
//! writes must drop set-id bits ([`SetIds`]).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{Errno, FileAttr, Notifier, RenameFlags, Request};
use larder_model::{Kind, Time};
use larder_volume::{
    Attr, Caller, Ino, NewNode, ROOT, RenameMode, SetAttr, StatFs, Volume, XattrMode,
};

use crate::attrs::{self, errno};
use crate::dot_larder::{self, DotLarder};
use crate::handles::Handles;
use crate::history::{self, History};
use crate::listings::Listings;
use crate::lookups::Lookups;
use crate::news::{Desk, News};
use crate::profile::{KEEP, Profile};
use crate::set_ids::SetIds;
use crate::workers::Workers;

/// What an operation answers, or the error that the system call gets.
pub(crate) type Answer<T> = Result<T, Errno>;

/// One mount of a volume.
#[derive(Debug)]
pub(crate) struct Face {
    pub(crate) volume: Arc<Volume>,
    pub(crate) profile: Profile,
    pub(crate) handles: Handles,
    pub(crate) listings: Arc<Listings>,
    pub(crate) workers: Workers,
    pub(crate) lookups: Arc<Lookups>,
    pub(crate) dot_larder: DotLarder,
    pub(crate) history: History,
    /// Known once the session is there.
    pub(crate) notifier: OnceLock<Notifier>,
    pub(crate) desk: Desk,
    set_ids: SetIds,
}

impl Face {
    pub(crate) fn new(
        volume: Arc<Volume>,
        profile: Profile,
        listings: Arc<Listings>,
        lookups: Arc<Lookups>,
        desk: Desk,
    ) -> Self {
        Self {
            volume,
            profile,
            handles: Handles::default(),
            listings,
            workers: Workers::new(),
            lookups,
            dot_larder: DotLarder::new(),
            history: History::default(),
            notifier: OnceLock::new(),
            desk,
            set_ids: SetIds::default(),
        }
    }

    /// Attributes on their way to the kernel.
    fn tell(&self, attr: &Attr) -> FileAttr {
        self.set_ids.note(attr);
        self.lookups.note_size(attr);
        attrs::file_attr(attr)
    }

    /// Attributes on their way to the kernel, which gets to know the node by them.
    pub(crate) fn introduce(&self, attr: &Attr) -> FileAttr {
        self.lookups.count(attr.ino);
        self.tell(attr)
    }

    pub(crate) fn lookup(&self, parent: Ino, name: &OsStr) -> Answer<Option<FileAttr>> {
        if is_window(parent, name) {
            let window = self.dot_larder.attr(dot_larder::DIRECTORY);
            return Ok(window.map(|attr| self.introduce(&attr)));
        }
        let found = self.volume.lookup(parent, name.as_bytes());
        Ok(found
            .map_err(|error| errno(&error))?
            .map(|attr| self.introduce(&attr)))
    }

    /// What a name in the window stands for. May take a while.
    pub(crate) fn lookup_inside(&self, parent: Ino, name: &OsStr) -> Answer<Option<FileAttr>> {
        if parent != dot_larder::DIRECTORY {
            return self.lookup_past(parent, name);
        }
        Ok(match name.as_bytes() {
            dot_larder::STATUS => Some(self.introduce(&self.look_at_status())),
            history::NAME => {
                let attr = self.history_attr(history::DIRECTORY, Time(0))?;
                Some(self.introduce(&attr))
            }
            _ => None,
        })
    }

    /// A new look at `.larder/status`. Gathers the text, which may take a while.
    fn look_at_status(&self) -> Attr {
        let now = attrs::from_kernel_time(std::time::SystemTime::now());
        self.dot_larder.show(self.volume.status_text(), now)
    }

    pub(crate) fn attr(&self, ino: Ino) -> Answer<FileAttr> {
        if history::is_past(ino) {
            return Ok(self.tell(&self.past_attr(ino)?));
        }
        if ino == history::DIRECTORY {
            return Ok(attrs::file_attr(&self.history_attr(ino, Time(0))?));
        }
        if dot_larder::is_inside(ino) {
            let attr = self.dot_larder.attr(ino).ok_or(Errno::ESTALE)?;
            return Ok(attrs::file_attr(&attr));
        }
        let attr = self.volume.attr(ino).map_err(|error| errno(&error))?;
        Ok(self.tell(&attr))
    }

    /// Changes attributes for `uid`.
    pub(crate) fn set_attr(&self, ino: Ino, mut set: SetAttr, uid: u32) -> Answer<FileAttr> {
        refuse_inside(ino)?;
        if drops_set_id(&set, uid) && self.set_ids.contains(ino) {
            let attr = self.volume.attr(ino).map_err(|error| errno(&error))?;
            set.mode = Some(attrs::without_set_id(attr.mode));
        }
        let attr = self
            .volume
            .set_attr(ino, &set)
            .map_err(|error| errno(&error))?;
        Ok(self.tell(&attr))
    }

    /// Drops set-id bits, as a write must by one who may not keep them.
    pub(crate) fn drop_set_id(&self, ino: Ino) -> Answer<()> {
        if !self.set_ids.contains(ino) {
            return Ok(());
        }
        let attr = self.volume.attr(ino).map_err(|error| errno(&error))?;
        let mode = Some(attrs::without_set_id(attr.mode));
        let set = SetAttr {
            mode,
            ..SetAttr::default()
        };
        self.tell(
            &self
                .volume
                .set_attr(ino, &set)
                .map_err(|error| errno(&error))?,
        );
        // The kernel asked for it by a flag of the write, and keeps the mode it knew.
        self.desk.tell(News::AttributesChanged(ino));
        Ok(())
    }

    pub(crate) fn read_link(&self, ino: Ino) -> Answer<Vec<u8>> {
        if history::is_past(ino) {
            return self.read_past_link(ino);
        }
        self.volume.read_link(ino).map_err(|error| errno(&error))
    }

    /// Makes what mknod(2) makes.
    pub(crate) fn make_node(
        &self,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        rdev: u32,
    ) -> Answer<FileAttr> {
        let kind = attrs::kind_of_mode(mode).ok_or(Errno::EINVAL)?;
        let caller = caller(request);
        if kind == Kind::File {
            return self
                .make_file(parent, name, mode, caller, true)
                .map(|attr| self.introduce(&attr));
        }
        let new = NewNode {
            kind,
            mode: mode & 0o7777,
            rdev: u64::from(rdev),
            target: None,
            caller,
        };
        self.make(parent, name, new)
    }

    pub(crate) fn make_directory(
        &self,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        mode: u32,
    ) -> Answer<FileAttr> {
        let new = NewNode {
            kind: Kind::Directory,
            mode: mode & 0o7777,
            rdev: 0,
            target: None,
            caller: caller(request),
        };
        self.make(parent, name, new)
    }

    pub(crate) fn make_symlink(
        &self,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        target: &OsStr,
    ) -> Answer<FileAttr> {
        let new = NewNode {
            kind: Kind::Symlink,
            mode: 0o777,
            rdev: 0,
            target: Some(target.as_bytes()),
            caller: caller(request),
        };
        self.make(parent, name, new)
    }

    fn make(&self, parent: Ino, name: &OsStr, new: NewNode<'_>) -> Answer<FileAttr> {
        refuse_new(parent, name)?;
        let made = self.volume.make_node(parent, name.as_bytes(), new);
        Ok(self.introduce(&made.map_err(|error| errno(&error))?))
    }

    pub(crate) fn make_file(
        &self,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        caller: Caller,
        exclusive: bool,
    ) -> Answer<Attr> {
        refuse_new(parent, name)?;
        self.volume
            .create(parent, name.as_bytes(), mode & 0o7777, caller, exclusive)
            .map_err(|error| errno(&error))
    }

    pub(crate) fn link(&self, ino: Ino, parent: Ino, name: &OsStr) -> Answer<FileAttr> {
        refuse_inside(ino)?;
        refuse_new(parent, name)?;
        let linked = self.volume.link(ino, parent, name.as_bytes());
        Ok(self.introduce(&linked.map_err(|error| errno(&error))?))
    }

    pub(crate) fn unlink(&self, parent: Ino, name: &OsStr) -> Answer<()> {
        refuse_window(parent, name)?;
        self.volume
            .unlink(parent, name.as_bytes())
            .map_err(|error| errno(&error))
    }

    pub(crate) fn remove_directory(&self, parent: Ino, name: &OsStr) -> Answer<()> {
        refuse_window(parent, name)?;
        self.volume
            .rmdir(parent, name.as_bytes())
            .map_err(|error| errno(&error))
    }

    /// Moves a name. May wait for the disk.
    pub(crate) fn rename(
        &self,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        flags: RenameFlags,
    ) -> Answer<()> {
        refuse_window(from.0, from.1)?;
        refuse_window(to.0, to.1)?;
        let mode = rename_mode(flags).ok_or(Errno::EINVAL)?;
        self.volume
            .rename(from.0, from.1.as_bytes(), to.0, to.1.as_bytes(), mode)
            .map_err(|error| errno(&error))
    }

    /// The kernel gives back `count` answers that named the node.
    pub(crate) fn forget(&self, ino: Ino, count: u64) {
        if !self.lookups.give_back(ino, count) {
            return;
        }
        self.set_ids.forget(ino);
        if history::is_past(ino) {
            self.forget_past(ino);
        } else if dot_larder::is_inside(ino) {
            self.dot_larder.forget(ino);
        } else {
            self.forget_in_volume(ino);
        }
    }

    fn forget_in_volume(&self, ino: Ino) {
        if let Err(error) = self.volume.forget(ino) {
            tracing::warn!(%error, ino, "an unlinked node stays until the next start");
        }
    }

    /// The mount has ended: gives up all that the kernel did not.
    pub(crate) fn end(&self) {
        for (ino, manner) in self.handles.drain() {
            self.close_in_volume(ino, manner);
        }
        for ino in self.lookups.drain() {
            if !dot_larder::is_inside(ino) {
                self.forget_in_volume(ino);
            }
        }
    }

    pub(crate) fn statfs(&self) -> Answer<StatFs> {
        self.volume.statfs().map_err(|error| errno(&error))
    }

    /// An extended attribute's value.
    pub(crate) fn get_xattr(&self, ino: Ino, name: &OsStr) -> Answer<Vec<u8>> {
        refuse_acl(name)?;
        if history::is_past(ino) {
            let value = self.past_xattrs(ino)?.remove(name.as_bytes());
            return value.ok_or_else(|| absent(name));
        }
        if dot_larder::is_inside(ino) {
            return Err(Errno::ENODATA);
        }
        let value = self.volume.get_xattr(ino, name.as_bytes());
        value
            .map_err(|error| errno(&error))?
            .ok_or_else(|| absent(name))
    }

    /// The names of all extended attributes, each with a NUL behind it.
    pub(crate) fn list_xattrs(&self, ino: Ino) -> Answer<Vec<u8>> {
        let names = if history::is_past(ino) {
            self.past_xattrs(ino)?.into_keys().collect()
        } else if dot_larder::is_inside(ino) {
            Vec::new()
        } else {
            let names = self.volume.list_xattrs(ino);
            names.map_err(|error| errno(&error))?
        };
        let with_end = |mut name: Vec<u8>| {
            name.push(0);
            name
        };
        Ok(names.into_iter().flat_map(with_end).collect())
    }

    pub(crate) fn set_xattr(&self, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Answer<()> {
        refuse_inside(ino)?;
        refuse_acl(name)?;
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno::EINVAL),
        };
        self.volume
            .set_xattr(ino, name.as_bytes(), value, mode)
            .map_err(|error| errno(&error))
    }

    pub(crate) fn remove_xattr(&self, ino: Ino, name: &OsStr) -> Answer<()> {
        refuse_inside(ino)?;
        refuse_acl(name)?;
        self.volume
            .remove_xattr(ino, name.as_bytes())
            .map_err(|error| errno(&error))
    }
}

/// How long the kernel may keep what it is told of a node.
pub(crate) fn keep(ino: Ino) -> Duration {
    if ino > dot_larder::DIRECTORY && !history::never_changes(ino) {
        Duration::ZERO
    } else {
        KEEP
    }
}

pub(crate) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
    }
}

/// The attributes to change, of what the kernel sent.
pub(crate) fn ctime(time: Option<std::time::SystemTime>) -> Option<Time> {
    time.map(attrs::from_kernel_time)
}

/// Whether a change of attributes by `uid` takes set-id bits away: a change of owner
/// always, a truncation unless by root. A change of nothing is how the kernel says that a
/// write past the daemon did, or that chown(2) was called with neither owner nor group.
fn drops_set_id(set: &SetAttr, uid: u32) -> bool {
    let owner = set.uid.is_some() || set.gid.is_some();
    let truncates = set.size.is_some() && uid != 0;
    set.mode.is_none() && (owner || truncates || *set == SetAttr::default())
}

fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    if flags.is_empty() {
        Some(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Some(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Some(RenameMode::Exchange)
    } else {
        None
    }
}

fn is_window(parent: Ino, name: &OsStr) -> bool {
    parent == ROOT && name.as_bytes() == dot_larder::NAME
}

/// What is in the window is only looked at.
pub(crate) fn refuse_inside(ino: Ino) -> Answer<()> {
    if dot_larder::is_inside(ino) {
        Err(Errno::EPERM)
    } else {
        Ok(())
    }
}

/// The window, and what is in it, is neither removed nor moved nor replaced.
fn refuse_window(parent: Ino, name: &OsStr) -> Answer<()> {
    if is_window(parent, name) {
        Err(Errno::EPERM)
    } else {
        refuse_inside(parent)
    }
}

/// The window's name is taken, and nothing is made in it.
fn refuse_new(parent: Ino, name: &OsStr) -> Answer<()> {
    if is_window(parent, name) {
        Err(Errno::EEXIST)
    } else {
        refuse_inside(parent)
    }
}

/// What is said of an attribute that a node does not have. `ls -l` asks for SELinux's label of
/// each file, but of no more than one of a file system that says that it has none.
fn absent(name: &OsStr) -> Errno {
    if name == "security.selinux" {
        Errno::EOPNOTSUPP
    } else {
        Errno::ENODATA
    }
}

/// POSIX ACLs are not kept: a list that is stored but never heeded would be a lie.
fn refuse_acl(name: &OsStr) -> Answer<()> {
    if name.as_bytes().starts_with(b"system.") {
        Err(Errno::EOPNOTSUPP)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_id_bits_go_by_a_new_owner_a_truncation_and_a_write_unseen() {
        let set = SetAttr::default;
        assert!(drops_set_id(
            &SetAttr {
                gid: Some(0),
                ..set()
            },
            0
        ));
        assert!(drops_set_id(
            &SetAttr {
                size: Some(0),
                ..set()
            },
            1000
        ));
        assert!(drops_set_id(&set(), 0));
        assert!(!drops_set_id(
            &SetAttr {
                size: Some(0),
                ..set()
            },
            0
        ));
        assert!(!drops_set_id(
            &SetAttr {
                mode: Some(0o4755),
                ..set()
            },
            1000
        ));
        assert!(!drops_set_id(
            &SetAttr {
                ctime: Some(Time(1)),
                ..set()
            },
            1000
        ));
    }

    #[test]
    fn a_rename_of_a_kind_that_is_not_known_is_refused() {
        assert_eq!(rename_mode(RenameFlags::RENAME_WHITEOUT), None);
        let both = RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE;
        assert_eq!(rename_mode(both), None);
    }
}

//! Bringing back what was.
//!
//! What comes back is placed, not copied: its content lies on the store, and comes when it is
//! read. Before anything is replaced, what is there is in a commit, so that it can be brought
//! back in its turn. Nothing is removed: a directory gets back what it had and keeps what is
//! new in it.
//!
//! A file that is replaced keeps its identity and gets a new number on this machine: whoever
//! has it open keeps what he opened.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use larder_model::{Content, Kind, Name, Node, NodeId};

use super::Moment;
use super::past::Past;
use super::path::shown;
use crate::collect::{marks, rest};
use crate::names::{Placed, Replaced};
use crate::node::Attr;
use crate::progress::{Progress, Report, Unit};
use crate::stored_node::StoredNode;
use crate::{Ino, Result, Volume, VolumeError};

/// What was brought back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Files, symlinks and the like that came back.
    pub files: u64,
    /// Directories that came back.
    pub directories: u64,
    /// The sizes of the files together, in bytes.
    pub bytes: u64,
    /// Files that are as they were.
    pub same: u64,
    /// Paths of what could not come back, and why.
    pub kept: Vec<(Vec<u8>, String)>,
}

impl Volume {
    /// Brings what was at `path` at that moment to `target`, which may be the same path.
    ///
    /// # Errors
    /// If there was nothing, `target`'s directory is not there, what is there now cannot be
    /// committed, or a page of the tree cannot be had. What came back until then is there.
    pub async fn restore(
        self: &Arc<Self>,
        moment: Moment,
        path: Vec<u8>,
        target: Vec<u8>,
        report: Report<'_>,
    ) -> Result<RestoreReport> {
        let committed = self.commit(None, report).await?;
        if let Some(changing) = committed.still_changing.first() {
            return Err(VolumeError::State(format!(
                "{changing} keeps changing, so what is in it now is in no commit yet. Close it \
                 and restore then"
            )));
        }
        tokio::task::block_in_place(|| {
            let mut restoring = Restoring {
                volume: self,
                past: Past::new(self, &moment.commit),
                is_itself: path == target,
                linked: HashMap::new(),
                replaced: Replaced::default(),
                done: RestoreReport::default(),
                report,
            };
            restoring.all(&path, &target)?;
            Ok(restoring.done)
        })
    }

    /// The newest moment at which something was at this path, though nothing is now.
    ///
    /// # Errors
    /// If something is there, or no commit has anything there.
    pub fn moment_of_deleted(&self, path: &[u8]) -> Result<Moment> {
        match self.resolve(path) {
            Err(VolumeError::NoEntry) => {}
            Ok(_) => {
                return Err(VolumeError::State(format!(
                    "{} is there. `larder restore` with `--at` brings an older state of it back",
                    shown(path)
                )));
            }
            Err(error) => return Err(error),
        }
        self.last_at(path).map(|(moment, _)| moment)
    }
}

struct Restoring<'a> {
    volume: &'a Arc<Volume>,
    past: Past<'a>,
    /// Whether what comes back is the same node as then, not a copy of it.
    is_itself: bool,
    /// Nodes with several names that came back already, or are as they were.
    linked: HashMap<NodeId, Ino>,
    replaced: Replaced,
    done: RestoreReport,
    report: Report<'a>,
}

impl Restoring<'_> {
    fn all(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let id = self.past.resolve(path)?.ok_or_else(|| {
            VolumeError::State(format!("nothing was at {} at that time", shown(path)))
        })?;
        if target.is_empty() {
            return self.directory(id, crate::ROOT, target);
        }
        let split = target.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = match split {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (&b""[..], target),
        };
        let parent_ino = self.parent(parent)?;
        self.node(id, parent_ino, &Name::new(name)?, target)
    }

    /// The directory that the target goes to; one that was deleted comes back alone.
    fn parent(&mut self, path: &[u8]) -> Result<Ino> {
        match self.volume.resolve(path) {
            Ok(ino) => return Ok(ino),
            Err(VolumeError::NoEntry) if self.is_itself => {}
            Err(VolumeError::NoEntry) => {
                return Err(VolumeError::State(format!(
                    "there is no directory {}; make it first",
                    shown(path)
                )));
            }
            Err(error) => return Err(error),
        }
        let mut at = crate::ROOT;
        let mut end = 0;
        for part in path.split(|&byte| byte == b'/') {
            end = (end + part.len() + usize::from(end > 0)).min(path.len());
            let name = Name::new(part)?;
            let there = self.volume.lookup(at, part)?;
            at = match there {
                Some(there) if there.kind == Kind::Directory => there.ino,
                Some(_) => return Err(VolumeError::NotDirectory),
                None => {
                    let id = self.past.resolve(&path[..end])?;
                    let id = id.ok_or(VolumeError::NoEntry)?;
                    let Some(node) = self.past.node(&id)? else {
                        return Err(VolumeError::NoEntry);
                    };
                    let Some(ino) = self.place(id, &node, at, &name, &path[..end])? else {
                        return Err(VolumeError::NotDirectory);
                    };
                    self.done.directories += 1;
                    ino
                }
            };
        }
        Ok(at)
    }

    fn node(&mut self, id: NodeId, parent: Ino, name: &Name, path: &[u8]) -> Result<()> {
        let node = self.past.node(&id)?.ok_or_else(|| {
            VolumeError::Damaged(format!("node {id} of a commit's tree is missing"))
        })?;
        let there = self.volume.lookup(parent, name.as_bytes())?;
        match (node.kind, there) {
            (Kind::Directory, Some(there)) if there.kind == Kind::Directory => {
                self.directory(id, there.ino, path)
            }
            (Kind::Directory, Some(_)) => {
                self.keep(path, "a file is there now where a directory was");
                Ok(())
            }
            (_, Some(there)) if there.kind == Kind::Directory => {
                self.keep(path, "a directory is there now where a file was");
                Ok(())
            }
            (Kind::Directory, None) => {
                let Some(ino) = self.place(id, &node, parent, name, path)? else {
                    return Ok(());
                };
                self.done.directories += 1;
                self.directory(id, ino, path)?;
                self.set_time(ino, &node)
            }
            (_, Some(there))
                if self.is_linked_right(&id, &there) && self.is_same(&there, &node)? =>
            {
                if node.names().count() > 1 {
                    self.linked.insert(id, there.ino);
                }
                self.done.same += 1;
                Ok(())
            }
            _ => {
                let Some(ino) = self.place(id, &node, parent, name, path)? else {
                    return Ok(());
                };
                if node.names().count() > 1 {
                    self.linked.insert(id, ino);
                }
                self.done.files += 1;
                self.done.bytes += node.content().map_or(0, Content::size);
                (self.report)(Progress {
                    phase: "restoring".to_owned(),
                    done: self.done.files,
                    total: self.done.files,
                    unit: Unit::Files,
                    path: Some(String::from_utf8_lossy(path).into_owned()),
                });
                Ok(())
            }
        }
    }

    /// Brings back what the directory held.
    fn directory(&mut self, id: NodeId, ino: Ino, path: &[u8]) -> Result<()> {
        for (name, entry) in self.past.entries(&id)? {
            let mut below = path.to_vec();
            if !below.is_empty() {
                below.push(b'/');
            }
            below.extend_from_slice(name.as_bytes());
            self.node(entry.node, ino, &name, &below)?;
        }
        Ok(())
    }

    /// Whether what is there may be the node that others of its names lead to already.
    fn is_linked_right(&self, id: &NodeId, there: &Attr) -> bool {
        self.linked.get(id).is_none_or(|&ino| ino == there.ino)
    }

    /// Whether what is there has the content and attributes of then.
    fn is_same(&self, there: &Attr, node: &Node) -> Result<bool> {
        let Some(attrs) = node.attrs().filter(|_| there.kind == node.kind) else {
            return Ok(false);
        };
        let same_attrs = (there.mode, there.uid, there.gid, there.mtime, there.rdev)
            == (attrs.mode, attrs.uid, attrs.gid, attrs.mtime, attrs.rdev);
        if !same_attrs || self.xattrs(there.ino)? != attrs.xattrs {
            return Ok(false);
        }
        match node.content() {
            Some(Content::Target(target)) => Ok(self.volume.read_link(there.ino)? == *target),
            Some(content @ (Content::Extents(_) | Content::List { .. })) => {
                Ok(self.volume.clean_content(there.ino)?.as_ref() == Some(content))
            }
            _ => Ok(true),
        }
    }

    fn xattrs(&self, ino: Ino) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut xattrs = BTreeMap::new();
        for name in self.volume.list_xattrs(ino)? {
            if let Some(value) = self.volume.get_xattr(ino, &name)? {
                xattrs.insert(name, value);
            }
        }
        Ok(xattrs)
    }

    /// `None` if what is there stays, as it could not be brought back afterwards.
    fn place(
        &mut self,
        id: NodeId,
        node: &Node,
        parent: Ino,
        name: &Name,
        path: &[u8],
    ) -> Result<Option<Ino>> {
        let placed = match self.linked.get(&id) {
            Some(&ino) => {
                let (there, replaced) = ((ino, node.kind), &mut self.replaced);
                self.volume.link_over(there, parent, name, replaced)
            }
            None => self.place_node(id, node, parent, name),
        };
        match placed {
            Ok(Placed::At(ino)) => {
                let notify = &self.volume.notify;
                notify.tell(|face| face.entry_changed(parent, name.as_bytes()));
                Ok(Some(ino))
            }
            Ok(Placed::Kept(reason)) => {
                self.keep(
                    path,
                    &format!("what is there now stays: {}", reason.words()),
                );
                Ok(None)
            }
            // It came there a moment ago.
            Err(VolumeError::IsDirectory) => {
                self.keep(path, "a directory is there now where a file was");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn place_node(&mut self, id: NodeId, node: &Node, parent: Ino, name: &Name) -> Result<Placed> {
        let past = StoredNode::new(&id, node)?;
        let id = self.is_itself.then_some(id);
        // What comes back must not rest on packs that are being deleted.
        let notices = self.volume.db.read(marks::notices)?;
        let contents = node.content().cloned().into_iter().collect();
        let rescue = rest::rescue(self.volume, contents, Vec::new());
        self.volume.runtime.block_on(rescue)?;
        let coming = (&past, notices);
        self.volume
            .place_past(parent, name, id, coming, &mut self.replaced)
    }

    /// The times of a directory that was filled are those of then.
    fn set_time(&self, ino: Ino, node: &Node) -> Result<()> {
        let Some(attrs) = node.attrs() else {
            return Ok(());
        };
        self.volume.set_directory_time(ino, attrs.mtime)
    }

    fn keep(&mut self, path: &[u8], why: &str) {
        self.done.kept.push((path.to_vec(), why.to_owned()));
    }
}

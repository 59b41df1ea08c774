//! `.larder/history/`: the volume as it was, read-only.
//!
//! Each directory in it is a moment, named by its time, or by the name that a user gave it; a time in
//! between, a commit's number and the start of its id lead to one, too. Below lies the tree of that moment. Its pages come when a
//! directory is looked into, and content when it is read; nothing of it takes room here.
//!
//! The number of a node is made from the name of the moment, the commit, and the node's id, so it is
//! the same whenever it is asked for. What a number stands for is known for as long as the kernel knows the node.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{Errno, FileAttr};
use larder_model::{Content, Kind, NodeId, Time};
use larder_volume::history::{Moment, Which, show_time};
use larder_volume::{Attr, DirEntry, Ino, ROOT, VolumeError};
use parking_lot::Mutex;

use crate::attrs::errno;
use crate::dot_larder;
use crate::face::{Answer, Face};

/// The name of the directory in the window.
pub(crate) const NAME: &[u8] = b"history";
/// Its number.
pub(crate) const DIRECTORY: Ino = dot_larder::DIRECTORY + 2;
/// The least number of what was.
const PAST: Ino = dot_larder::DIRECTORY | 1 << 61;

/// Whether this is a node of a moment.
pub(crate) fn is_past(ino: Ino) -> bool {
    ino >= PAST
}

/// Whether this is a node of a moment below its root: that one is found by a time, which may lead
/// to another moment tomorrow, and all others stay what they are.
pub(crate) fn never_changes(ino: Ino) -> bool {
    is_past(ino) && ino & 1 == 0
}

/// A node of a moment.
#[derive(Debug, Clone)]
struct PastNode {
    moment: Arc<Moment>,
    /// Stands for the name that led to the moment: the kernel knows a directory by one name only.
    by: u64,
    id: NodeId,
}

impl PastNode {
    fn root(moment: Arc<Moment>, name: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        Self {
            moment,
            by: hasher.finish(),
            id: NodeId::ROOT,
        }
    }

    fn below(&self, id: NodeId) -> Self {
        Self { id, ..self.clone() }
    }

    fn ino(&self) -> Ino {
        let mut hasher = DefaultHasher::new();
        self.moment.id.hash(&mut hasher);
        self.by.hash(&mut hasher);
        self.id.hash(&mut hasher);
        let is_root = Ino::from(self.id == NodeId::ROOT);
        PAST | (hasher.finish() >> 4) << 1 | is_root
    }
}

/// What the kernel knows of what was.
#[derive(Debug, Default)]
pub(crate) struct History {
    nodes: Mutex<HashMap<Ino, PastNode>>,
    /// The moments that were listed last, by name.
    listed: Mutex<HashMap<Vec<u8>, Arc<Moment>>>,
}

impl Face {
    /// What a name below `.larder/history` stands for. May wait for the store.
    pub(crate) fn lookup_past(&self, parent: Ino, name: &OsStr) -> Answer<Option<FileAttr>> {
        let Some((attr, node)) = self.find_past(parent, name.as_bytes())? else {
            return Ok(None);
        };
        // In this order, see `forget_past`.
        let told = self.introduce(&attr);
        self.history.nodes.lock().insert(attr.ino, node);
        Ok(Some(told))
    }

    fn find_past(&self, parent: Ino, name: &[u8]) -> Answer<Option<(Attr, PastNode)>> {
        let node = if parent == DIRECTORY {
            let moment = self.find_moment(name)?;
            moment.map(|moment| PastNode::root(moment, name))
        } else {
            let parent = self.past_node(parent)?;
            let found = self.volume.past_entry(&parent.moment, parent.id, name);
            let found = found.map_err(|error| errno(&error))?;
            found.map(|id| parent.below(id))
        };
        node.map(|node| Ok((self.attr_of_past(&node)?, node)))
            .transpose()
    }

    fn find_moment(&self, name: &[u8]) -> Answer<Option<Arc<Moment>>> {
        if let Some(moment) = self.history.listed.lock().get(name) {
            return Ok(Some(Arc::clone(moment)));
        }
        let Some(which) = std::str::from_utf8(name).ok().and_then(Which::parse) else {
            return Ok(None);
        };
        match self.volume.moment(&which) {
            Ok(moment) => Ok(Some(Arc::new(moment))),
            // There is none, or more than one.
            Err(VolumeError::State(_)) => Ok(None),
            Err(error) => Err(errno(&error)),
        }
    }

    fn past_node(&self, ino: Ino) -> Answer<PastNode> {
        let node = self.history.nodes.lock().get(&ino).cloned();
        node.ok_or(Errno::ESTALE)
    }

    /// The attributes of a node of a moment. May wait for the store.
    pub(crate) fn past_attr(&self, ino: Ino) -> Answer<Attr> {
        self.attr_of_past(&self.past_node(ino)?)
    }

    fn attr_of_past(&self, node: &PastNode) -> Answer<Attr> {
        let ino = node.ino();
        if node.id == NodeId::ROOT {
            // Without a look into the tree: a list of all moments must not fetch them all.
            return self.history_attr(ino, node.moment.commit.wall);
        }
        let attr = self.volume.past_attr(&node.moment, node.id);
        let attr = attr.map_err(|error| errno(&error))?;
        // How many directories a directory had is not known: 1 says so.
        let nlink = match attr.kind {
            Kind::Directory => 1,
            _ => attr.nlink,
        };
        Ok(Attr { ino, nlink, ..attr })
    }

    /// The attributes of `.larder/history` and of the moments in it. They are for whom the volume's
    /// root belongs to: what others may not see today they may have seen once.
    pub(crate) fn history_attr(&self, ino: Ino, time: Time) -> Answer<Attr> {
        let root = self.volume.attr(ROOT).map_err(|error| errno(&error))?;
        Ok(Attr {
            mode: 0o500,
            uid: root.uid,
            gid: root.gid,
            nlink: 1,
            ..self.dot_larder.directory(ino, time)
        })
    }

    /// The entries of `.larder/history` or of a directory below. May wait for the store.
    pub(crate) fn list_past(&self, ino: Ino) -> Answer<Vec<DirEntry>> {
        if ino == DIRECTORY {
            return self.list_moments().map_err(|error| errno(&error));
        }
        let directory = self.past_node(ino)?;
        let entries = self.volume.past_entries(&directory.moment, directory.id);
        let entries = entries.map_err(|error| errno(&error))?;
        let entry = |(name, id, kind)| DirEntry {
            name,
            ino: directory.below(id).ino(),
            kind,
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    /// All moments, the newest first; of those of one second the newest. Where the store is away,
    /// those whose commits are here.
    fn list_moments(&self) -> larder_volume::Result<Vec<DirEntry>> {
        let (mut listed, mut entries) = (HashMap::new(), Vec::new());
        for moment in self.volume.chain()? {
            let moment = match moment {
                Ok(moment) => Arc::new(moment),
                Err(error) => {
                    tracing::warn!(%error, "the history is listed only in part");
                    break;
                }
            };
            let name = show_time(moment.commit.wall).into_bytes();
            if listed.contains_key(&name) {
                continue;
            }
            entries.push(DirEntry {
                name: name.clone(),
                ino: PastNode::root(Arc::clone(&moment), &name).ino(),
                kind: Kind::Directory,
            });
            listed.insert(name, moment);
        }
        // Not noted as listed: a name may be another moment's tomorrow.
        for tag in self.volume.tags()? {
            let Ok(moment) = self.volume.moment(&Which::Name(tag.label.clone())) else {
                continue;
            };
            let name = tag.label.into_bytes();
            entries.push(DirEntry {
                ino: PastNode::root(Arc::new(moment), &name).ino(),
                kind: Kind::Directory,
                name,
            });
        }
        *self.history.listed.lock() = listed;
        Ok(entries)
    }

    /// Reads of a file of a moment. May wait for the store.
    pub(crate) fn read_past(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Answer<usize> {
        let PastNode { moment, id, .. } = self.past_node(ino)?;
        let read = self.volume.read_past(&moment, id, offset, buffer);
        read.map_err(|error| errno(&error))
    }

    /// The target of a symlink of a moment. May wait for the store.
    pub(crate) fn read_past_link(&self, ino: Ino) -> Answer<Vec<u8>> {
        let PastNode { moment, id, .. } = self.past_node(ino)?;
        match self.volume.past_content(&moment, id) {
            Ok(Content::Target(target)) => Ok(target),
            Ok(_) => Err(Errno::EINVAL),
            Err(error) => Err(errno(&error)),
        }
    }

    /// The extended attributes of a node of a moment. May wait for the store.
    pub(crate) fn past_xattrs(&self, ino: Ino) -> Answer<BTreeMap<Vec<u8>, Vec<u8>>> {
        let PastNode { moment, id, .. } = self.past_node(ino)?;
        let xattrs = self.volume.past_xattrs(&moment, id);
        xattrs.map_err(|error| errno(&error))
    }

    /// The kernel knows the node no more, unless it was told of it again meanwhile: that is
    /// counted before the node is noted.
    pub(crate) fn forget_past(&self, ino: Ino) {
        let mut nodes = self.history.nodes.lock();
        if !self.lookups.knows(ino) {
            nodes.remove(&ino);
        }
    }
}

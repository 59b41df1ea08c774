//! `.larder/history/`: the volume as it was, read-only.
//!
//! Each directory in it is a moment, named by its time; a time in between, a commit's number and
//! the start of its id lead to one, too. Below lies the tree of that moment. Its pages come when a
//! directory is looked into, and content when it is read; nothing of it takes room here.
//!
//! The number of a node is made from the commit and the node's id, so it is the same whenever it
//! is asked for. What a number stands for is known for as long as the kernel knows the node.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{Errno, FileAttr};
use larder_model::{Content, Kind, NodeId};
use larder_volume::history::{Moment, Which, show_time};
use larder_volume::{Attr, DirEntry, Ino, VolumeError};
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
    id: NodeId,
}

impl PastNode {
    fn root(moment: Arc<Moment>) -> Self {
        let id = NodeId::ROOT;
        Self { moment, id }
    }

    fn ino(&self) -> Ino {
        let mut hasher = DefaultHasher::new();
        self.moment.id.hash(&mut hasher);
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
            self.find_moment(name)?.map(PastNode::root)
        } else {
            let PastNode { moment, id } = self.past_node(parent)?;
            let found = self.volume.past_entry(&moment, id, name);
            let found = found.map_err(|error| errno(&error))?;
            found.map(|id| PastNode { moment, id })
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
            let wall = node.moment.commit.wall;
            return Ok(self.dot_larder.directory(ino, wall));
        }
        let attr = self.volume.past_attr(&node.moment, node.id);
        let attr = attr.map_err(|error| errno(&error))?;
        Ok(Attr { ino, ..attr })
    }

    /// The entries of `.larder/history` or of a directory below. May wait for the store.
    pub(crate) fn list_past(&self, ino: Ino) -> Answer<Vec<DirEntry>> {
        if ino == DIRECTORY {
            return self.list_moments().map_err(|error| errno(&error));
        }
        let PastNode { moment, id } = self.past_node(ino)?;
        let entries = self.volume.past_entries(&moment, id);
        let entries = entries.map_err(|error| errno(&error))?;
        let entry = |(name, id, kind)| {
            let moment = Arc::clone(&moment);
            DirEntry {
                name,
                ino: PastNode { moment, id }.ino(),
                kind,
            }
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
                ino: PastNode::root(Arc::clone(&moment)).ino(),
                kind: Kind::Directory,
            });
            listed.insert(name, moment);
        }
        *self.history.listed.lock() = listed;
        Ok(entries)
    }

    /// Reads of a file of a moment. May wait for the store.
    pub(crate) fn read_past(&self, ino: Ino, offset: u64, buffer: &mut [u8]) -> Answer<usize> {
        let PastNode { moment, id } = self.past_node(ino)?;
        let read = self.volume.read_past(&moment, id, offset, buffer);
        read.map_err(|error| errno(&error))
    }

    /// The target of a symlink of a moment. May wait for the store.
    pub(crate) fn read_past_link(&self, ino: Ino) -> Answer<Vec<u8>> {
        let PastNode { moment, id } = self.past_node(ino)?;
        match self.volume.past_content(&moment, id) {
            Ok(Content::Target(target)) => Ok(target),
            Ok(_) => Err(Errno::EINVAL),
            Err(error) => Err(errno(&error)),
        }
    }

    /// The extended attributes of a node of a moment. May wait for the store.
    pub(crate) fn past_xattrs(&self, ino: Ino) -> Answer<BTreeMap<Vec<u8>, Vec<u8>>> {
        let PastNode { moment, id } = self.past_node(ino)?;
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

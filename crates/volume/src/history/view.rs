//! The tree of a commit as files: what a mount shows of the past. Read-only; a directory's
//! pages come when it is looked into, a file's chunks when they are read, and nothing of it
//! takes room here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use larder_model::{Content, Extent, Kind, Name, NodeId};
use parking_lot::Mutex;

use super::Moment;
use super::past::Past;
use crate::node::Attr;
use crate::pull::{Coming, Sought, Urgency};
use crate::stored_node::StoredNode;
use crate::{Result, Volume, VolumeError};

/// Files whose pieces are remembered.
const FILES_KEPT: usize = 32;

/// Where the pieces of files lie that were read lately.
#[derive(Debug, Default)]
pub(crate) struct Views(Mutex<VecDeque<(Content, Arc<Pieces>)>>);

/// The pieces of a file, each with its offset, in order.
type Pieces = Vec<(u64, Extent)>;

impl Volume {
    /// What a name in a directory of that moment stands for.
    ///
    /// # Errors
    /// If a page of the tree cannot be had.
    pub fn past_entry(
        &self,
        moment: &Moment,
        directory: NodeId,
        name: &[u8],
    ) -> Result<Option<NodeId>> {
        let Ok(name) = Name::new(name) else {
            return Ok(None);
        };
        let found = Past::new(self, &moment.commit).entry(&directory, &name)?;
        Ok(found.map(|entry| entry.node))
    }

    /// The names in a directory of that moment, in order.
    ///
    /// # Errors
    /// If a page of the tree cannot be had.
    pub fn past_entries(
        &self,
        moment: &Moment,
        directory: NodeId,
    ) -> Result<Vec<(Vec<u8>, NodeId, Kind)>> {
        let entries = Past::new(self, &moment.commit).entries(&directory)?;
        let entries = entries.into_iter();
        Ok(entries
            .map(|(name, entry)| (name.as_bytes().to_vec(), entry.node, entry.kind))
            .collect())
    }

    /// The attributes of a node at that moment; its number is the caller's to give.
    ///
    /// # Errors
    /// [`VolumeError::NoEntry`] if there was none; if a page of the tree cannot be had.
    pub fn past_attr(&self, moment: &Moment, id: NodeId) -> Result<Attr> {
        let node = Past::new(self, &moment.commit).node(&id)?;
        let node = node.ok_or(VolumeError::NoEntry)?;
        let links = u32::try_from(node.names().count()).unwrap_or(u32::MAX);
        let attr = StoredNode::new(&id, &node)?.attr;
        Ok(Attr {
            nlink: attr.nlink.max(links),
            ..attr
        })
    }

    /// The extended attributes of a node at that moment.
    ///
    /// # Errors
    /// As [`Volume::past_attr`].
    pub fn past_xattrs(&self, moment: &Moment, id: NodeId) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let node = Past::new(self, &moment.commit).node(&id)?;
        let attrs = node.as_ref().and_then(|node| node.attrs());
        Ok(attrs.ok_or(VolumeError::NoEntry)?.xattrs.clone())
    }

    /// What a file or symlink held at that moment.
    ///
    /// # Errors
    /// As [`Volume::past_attr`].
    pub fn past_content(&self, moment: &Moment, id: NodeId) -> Result<Content> {
        let node = Past::new(self, &moment.commit).node(&id)?;
        let content = node.as_ref().and_then(|node| node.content().cloned());
        content.ok_or(VolumeError::NoEntry)
    }

    /// Reads what a file of that moment held. Bytes read: fewer than asked for only at its
    /// end. Blocks while its chunks come.
    ///
    /// # Errors
    /// As [`Volume::past_attr`], and [`VolumeError::Away`], [`VolumeError::TimedOut`] or
    /// [`VolumeError::Damaged`] if its content cannot be had.
    pub fn read_past(
        &self,
        moment: &Moment,
        id: NodeId,
        off: u64,
        buf: &mut [u8],
    ) -> Result<usize> {
        let content = self.past_content(moment, id)?;
        let pieces = self.pieces(&content)?;
        let end = content.size().min(off.saturating_add(buf.len() as u64));
        let Some(len) = end.checked_sub(off) else {
            return Ok(0);
        };
        let buf = &mut buf[..len as usize];
        let first = pieces.partition_point(|(at, extent)| at + extent.len() <= off);
        let wanted = pieces[first..].iter().take_while(|(at, _)| *at < end);
        let chunks: Vec<_> = wanted
            .clone()
            .filter_map(|(_, extent)| match extent {
                Extent::Chunk { id, .. } => Some((*id, Sought::Past)),
                Extent::Hole { .. } => None,
            })
            .collect();
        let wait = self.settings.read_wait;
        let coming = Coming::start(self, chunks, Urgency::Reader, wait)?;
        for (at, extent) in wanted {
            let from = off.max(*at);
            let to = end.min(at + extent.len());
            let place = &mut buf[(from - off) as usize..(to - off) as usize];
            match extent {
                Extent::Hole { .. } => place.fill(0),
                Extent::Chunk { id, .. } => {
                    let bytes = coming.wait(id)?;
                    let part = bytes.get((from - at) as usize..(to - at) as usize);
                    place.copy_from_slice(part.ok_or_else(|| {
                        VolumeError::Damaged(format!("chunk {id} is shorter than its file says"))
                    })?);
                }
            }
        }
        Ok(len as usize)
    }

    fn pieces(&self, content: &Content) -> Result<Arc<Pieces>> {
        let known = self.views.0.lock();
        if let Some((_, pieces)) = known.iter().find(|(of, _)| of == content) {
            return Ok(Arc::clone(pieces));
        }
        drop(known);
        let mut pieces = Vec::new();
        self.each_extent(content, &mut |off, extent| {
            pieces.push((off, extent));
            Ok(())
        })?;
        let pieces = Arc::new(pieces);
        let mut known = self.views.0.lock();
        known.push_back((content.clone(), Arc::clone(&pieces)));
        if known.len() > FILES_KEPT {
            known.pop_front();
        }
        Ok(pieces)
    }
}

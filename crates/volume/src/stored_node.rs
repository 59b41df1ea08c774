//! A node as a commit holds it, on its way into the database.

use std::collections::BTreeMap;

use larder_format::encode_content;
use larder_model::{Content, Extent, Kind, Node, NodeId};
use rusqlite::params;

use crate::db::Transaction;
use crate::node::Attr;
use crate::{Ino, Result, VolumeError};

const BLOCK: u64 = 4096;

/// What a row of `nodes` says of such a node; of values that stand side by side, those that a
/// reader of the commit takes.
pub(crate) struct StoredNode<'a> {
    /// Without a number, and with one name.
    pub(crate) attr: Attr,
    target: Option<&'a [u8]>,
    /// Encoded, of files.
    content: Option<Vec<u8>>,
    xattrs: &'a BTreeMap<Vec<u8>, Vec<u8>>,
}

impl<'a> StoredNode<'a> {
    /// # Errors
    /// If the node has no attributes.
    pub(crate) fn new(id: &NodeId, node: &'a Node) -> Result<Self> {
        let attrs = node.attrs().ok_or_else(|| {
            VolumeError::Damaged(format!("node {id} of the tree has no attributes"))
        })?;
        let content = node.content().unwrap_or(&Content::None);
        let (nlink, size, allocated) = match node.kind {
            Kind::Directory => (2, BLOCK, BLOCK),
            _ => (1, content.size(), allocated(content)),
        };
        Ok(Self {
            attr: Attr {
                ino: 0,
                kind: node.kind,
                mode: attrs.mode,
                nlink,
                uid: attrs.uid,
                gid: attrs.gid,
                rdev: attrs.rdev,
                size,
                blocks: allocated / 512,
                atime: attrs.mtime,
                mtime: attrs.mtime,
                ctime: attrs.ctime,
                btime: attrs.btime,
            },
            target: match content {
                Content::Target(target) => Some(target),
                _ => None,
            },
            content: (node.kind == Kind::File).then(|| match content {
                Content::None => encode_content(&Content::Extents(Vec::new())),
                content => encode_content(content),
            }),
            xattrs: &attrs.xattrs,
        })
    }

    /// Enters it with these attributes. `parent` is that of a directory. Its content counts as
    /// one that an acknowledged head reaches.
    ///
    /// # Errors
    /// If the database fails, or has the number or the id.
    pub(crate) fn insert(
        &self,
        tx: &Transaction<'_>,
        attr: &Attr,
        id: NodeId,
        parent: Option<Ino>,
    ) -> Result<()> {
        let xattrs = self.xattrs.len() as i64;
        insert(tx, attr, id, parent, (self.target, &self.content, xattrs))?;
        self.insert_xattrs(tx, attr.ino)
    }
}

impl StoredNode<'_> {
    /// Gives a node that is here the attributes of this one.
    ///
    /// # Errors
    /// If the database fails.
    pub(crate) fn write_attrs(&self, tx: &Transaction<'_>, ino: Ino) -> Result<()> {
        let attr = &self.attr;
        tx.prepare_cached(
            "UPDATE nodes SET mode = ?2, uid = ?3, gid = ?4, rdev = ?5, mtime = ?6, ctime = ?7,
                    btime = ?8, xattrs = ?9
             WHERE ino = ?1",
        )?
        .execute(params![
            ino as i64,
            attr.mode,
            attr.uid,
            attr.gid,
            attr.rdev as i64,
            attr.mtime.0,
            attr.ctime.0,
            attr.btime.0,
            self.xattrs.len() as i64,
        ])?;
        tx.prepare_cached("DELETE FROM xattrs WHERE ino = ?1")?
            .execute([ino as i64])?;
        self.insert_xattrs(tx, ino)
    }

    fn insert_xattrs(&self, tx: &Transaction<'_>, ino: Ino) -> Result<()> {
        for (name, value) in self.xattrs {
            tx.prepare_cached("INSERT INTO xattrs(ino, name, value) VALUES(?1, ?2, ?3)")?
                .execute((ino as i64, name, value))?;
        }
        Ok(())
    }
}

/// Writes the row of a new node, of which nothing is stored. `parent` is that of a directory,
/// `target` that of a symlink.
///
/// # Errors
/// If the database fails, or has the number or the id.
pub(crate) fn insert_row(
    tx: &Transaction<'_>,
    attr: &Attr,
    id: NodeId,
    parent: Option<Ino>,
    target: Option<&[u8]>,
) -> Result<()> {
    insert(tx, attr, id, parent, (target, &None, 0))
}

fn insert(
    tx: &Transaction<'_>,
    attr: &Attr,
    id: NodeId,
    parent: Option<Ino>,
    (target, content, xattrs): (Option<&[u8]>, &Option<Vec<u8>>, i64),
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO nodes(ino, id, kind, mode, uid, gid, rdev, nlink, size, alloc, mtime, ctime,
                           btime, atime, parent, target, content, safe, xattrs)
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                ?17 IS NOT NULL, ?18)",
    )?
    .execute(params![
        attr.ino as i64,
        id.as_bytes(),
        larder_format::kind_code(attr.kind),
        attr.mode,
        attr.uid,
        attr.gid,
        attr.rdev as i64,
        attr.nlink,
        attr.size as i64,
        (attr.blocks * 512) as i64,
        attr.mtime.0,
        attr.ctime.0,
        attr.btime.0,
        attr.atime.0,
        parent.map(|parent| parent as i64),
        target,
        content,
        xattrs,
    ])?;
    Ok(())
}

/// What a file's data takes, in bytes: each run between holes in whole blocks. Of a long list
/// only the size is known before its pages come.
pub(crate) fn allocated(content: &Content) -> u64 {
    let blocks = |bytes: u64| bytes.div_ceil(BLOCK) * BLOCK;
    match content {
        Content::None | Content::Target(_) => 0,
        Content::List { size, .. } => blocks(*size),
        Content::Extents(extents) => extents
            .split(|extent| matches!(extent, Extent::Hole { .. }))
            .map(|run| blocks(run.iter().map(Extent::len).sum()))
            .sum(),
    }
}

#[cfg(test)]
mod tests {
    use larder_model::ChunkId;

    use super::*;

    #[test]
    fn holes_take_no_space_and_runs_take_whole_blocks() {
        let chunk = |len| Extent::Chunk {
            id: ChunkId([0; 32]),
            len,
        };
        let content = Content::Extents(vec![
            chunk(4096),
            chunk(1),
            Extent::Hole { len: 1 << 40 },
            chunk(5),
        ]);
        assert_eq!(allocated(&content), 8192 + 4096);
    }
}

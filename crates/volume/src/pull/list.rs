//! The list of a file's chunks, as it is when the file is opened.
//!
//! A short list stands in the node. A long one is a tree of pages on the store: its inner
//! pages come one after the other, and then all its leaves at once.

use std::sync::Arc;

use larder_format::{Verified, list};
use larder_model::{ChunkId, Content, Extent};
use rusqlite::OptionalExtension;

use super::fetch::Coming;
use super::source::Urgency;
use crate::{Result, Volume};

/// So many leaves are asked for at once.
const LEAVES_AT_ONCE: usize = 1024;

/// A page: from the database, or from the store.
pub(crate) enum Page {
    Stored(Vec<u8>),
    Fetched(Arc<Verified>),
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Fetched(bytes) => bytes,
        }
    }
}

impl Volume {
    /// All pieces of a content, in order. Blocks while pages of a long list come from the
    /// store.
    ///
    /// # Errors
    /// As [`Volume::ensure`].
    pub(crate) fn expand(&self, content: &Content) -> Result<Vec<Extent>> {
        let mut extents = Vec::new();
        self.each_extent(content, &mut |_, extent| {
            extents.push(extent);
            Ok(())
        })?;
        Ok(extents)
    }

    /// Gives all pieces of a content with their offsets, in order. Blocks as
    /// [`Volume::expand`].
    ///
    /// # Errors
    /// As [`Volume::ensure`], and those of `each`.
    pub(crate) fn each_extent(
        &self,
        content: &Content,
        each: &mut dyn FnMut(u64, Extent) -> Result<()>,
    ) -> Result<()> {
        let mut pages = Vec::new();
        list::pages(content, &mut |id: &ChunkId| self.page(id), |id| {
            pages.push(id);
            Ok(())
        })?;
        self.bring_pages(&pages)?;
        list::expand(content, &mut |id: &ChunkId| self.page(id), each)
    }

    /// Has these pages come, so that each is near when it is asked for.
    fn bring_pages(&self, pages: &[ChunkId]) -> Result<()> {
        for some in pages.chunks(LEAVES_AT_ONCE) {
            let away: Vec<_> = some
                .iter()
                .filter_map(|id| match self.stored_page(id) {
                    Ok(None) => Some(Ok(*id)),
                    Ok(Some(_)) => None,
                    Err(error) => Some(Err(error)),
                })
                .collect::<Result<_>>()?;
            let wait = self.settings.read_wait;
            let coming = Coming::start(self, &away, Urgency::Reader, wait)?;
            for id in &away {
                coming.wait(id)?;
            }
        }
        Ok(())
    }

    /// One page of a list.
    pub(crate) fn page(&self, id: &ChunkId) -> Result<Page> {
        if let Some(bytes) = self.stored_page(id)? {
            return Ok(Page::Stored(bytes));
        }
        let wait = self.settings.read_wait;
        let coming = Coming::start(self, &[*id], Urgency::Reader, wait)?;
        Ok(Page::Fetched(coming.wait(id)?))
    }

    fn stored_page(&self, id: &ChunkId) -> Result<Option<Vec<u8>>> {
        self.db.read(|connection| {
            Ok(connection
                .prepare_cached("SELECT bytes FROM pages WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()?)
        })
    }
}

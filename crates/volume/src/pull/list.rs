//! The list of a file's chunks, as it is when the file is opened.
//!
//! A short list stands in the node. A long one is a tree of pages on the store: its inner
//! pages come one after the other, and then all its leaves at once. Pages that were written or
//! read here are kept in the database, so that the first read of a file that went away waits
//! for its bytes only.

use std::sync::Arc;

use larder_format::{Verified, list};
use larder_model::{ChunkId, Content, Extent};
use rusqlite::OptionalExtension;

use super::fetch::Coming;
use super::nearby::Sought;
use super::source::Urgency;
use crate::{Result, Volume};

/// So many leaves are asked for at once.
const LEAVES_AT_ONCE: usize = 1024;

/// Pages are kept up to about this part of the budget.
const SHARE_OF_BUDGET: u64 = 256;
/// What a page takes, about, with what the database needs to find it.
const PAGE_BYTES: u64 = 2560;
/// However small the budget is, so many pages are kept.
const FEWEST_KEPT: u64 = 256;

/// A page: from the database, or from the store.
pub(crate) enum Page {
    Stored(Vec<u8>),
    Fetched(Arc<Verified>),
}

impl Page {
    /// Whether it came from the store.
    pub(crate) fn is_fetched(&self) -> bool {
        matches!(self, Self::Fetched(_))
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Stored(bytes) => bytes,
            Self::Fetched(bytes) => bytes,
        }
    }
}

fn as_pages(ids: &[ChunkId]) -> impl Iterator<Item = (ChunkId, Sought)> {
    ids.iter().map(|id| (*id, Sought::Page))
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
            let coming = Coming::start(self, as_pages(&away), Urgency::Reader, wait)?;
            let came: Vec<_> = away
                .iter()
                .map(|id| Ok((id, coming.wait(id)?)))
                .collect::<Result<_>>()?;
            if !came.is_empty() {
                self.keep_pages(came.iter().map(|(id, page)| (*id, &***page)));
            }
        }
        Ok(())
    }

    /// One page of a list.
    pub(crate) fn page(&self, id: &ChunkId) -> Result<Page> {
        if let Some(bytes) = self.stored_page(id)? {
            return Ok(Page::Stored(bytes));
        }
        let came = self.fetch_page(id)?;
        self.keep_pages([(id, &**came)]);
        Ok(Page::Fetched(came))
    }

    /// A page of a commit's trees, or a commit: from the database, or from the store.
    pub(crate) fn tree_page(&self, id: &ChunkId) -> Result<Page> {
        let here: Option<Vec<u8>> = self.db.look(|connection| {
            Ok(connection
                .prepare_cached("SELECT bytes FROM pages WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()?)
        })?;
        match here {
            Some(bytes) => Ok(Page::Stored(bytes)),
            None => Ok(Page::Fetched(self.fetch_page(id)?)),
        }
    }

    /// A page from the store.
    pub(crate) fn fetch_page(&self, id: &ChunkId) -> Result<Arc<Verified>> {
        let wait = self.settings.read_wait;
        let coming = Coming::start(self, as_pages(&[*id]), Urgency::Reader, wait)?;
        Ok(coming.wait(id)?)
    }

    fn stored_page(&self, id: &ChunkId) -> Result<Option<Vec<u8>>> {
        let kept: Option<Vec<u8>> = self.db.look(|connection| {
            Ok(connection
                .prepare_cached("SELECT bytes FROM lists WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()?)
        })?;
        // What rotted here comes anew.
        Ok(kept.filter(|bytes| self.keys.chunk_id(bytes) == *id))
    }

    /// Keeps pages of lists, so that they need not come when they are wanted. Of too many the
    /// oldest go. If this fails the store has them still.
    pub(crate) fn keep_pages<'a>(&self, pages: impl IntoIterator<Item = (&'a ChunkId, &'a [u8])>) {
        let most = (self.settings.budget_bytes / SHARE_OF_BUDGET / PAGE_BYTES).max(FEWEST_KEPT);
        let kept = self.db.write_soon(|tx| {
            let mut insert =
                tx.prepare_cached("INSERT OR REPLACE INTO lists(id, bytes) VALUES(?1, ?2)")?;
            for (id, bytes) in pages {
                insert.execute((id.as_bytes(), bytes))?;
            }
            tx.prepare_cached("DELETE FROM lists WHERE seq <= (SELECT max(seq) FROM lists) - ?1")?
                .execute([most as i64])?;
            Ok(())
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "pages of a list are not kept");
        }
    }
}

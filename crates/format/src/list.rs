//! The list of a long file: a tree of pages over its extents.
//!
//! Up to [`INLINE_EXTENTS`] extents stand in the node itself. A longer list is cut into pages
//! where the ids say so (a page ends behind a chunk whose id falls into one of 48 parts, has
//! 16 to 256 entries, 64 on average), the pages' ids again, and so on up to one root. So a
//! page far from an edit stays as it was, and equal lists have equal roots. An inner entry
//! carries how many bytes of the file it covers: a range is found without reading the rest.

use std::ops::Range;

use larder_model::{ChunkId, Content, Extent};

use crate::content::{add_len, put_extent, read_extent};
use crate::pages::PageKind;
use crate::wire::put_varint;
use crate::{FormatError, PageSource, VolumeKeys};

/// The most extents that stand in a node.
pub const INLINE_EXTENTS: usize = 16;

const MIN_ENTRIES: usize = 16;
const MAX_ENTRIES: usize = 256;
const BOUNDARY_PARTS: u32 = 48;
/// The highest level of a page: sixteen entries a page reach 2^63 with it.
const MAX_LEVEL: u8 = 15;

/// Writes the list of a file from its extents in order.
pub struct ListWriter<'k> {
    keys: &'k VolumeKeys,
    /// The first extents, until there are too many for the node.
    inline: Vec<Extent>,
    /// A hole that may go on.
    hole: u64,
    levels: Vec<Level>,
    size: u64,
}

/// The page of one level that is being filled.
#[derive(Default)]
struct Level {
    entries: Vec<u8>,
    count: usize,
    covered: u64,
    /// How many entries the level has had in all, and the last child of an inner one.
    total: u64,
    last_child: Option<ChunkId>,
}

impl<'k> ListWriter<'k> {
    /// An empty list.
    pub fn new(keys: &'k VolumeKeys) -> Self {
        Self {
            keys,
            inline: Vec::new(),
            hole: 0,
            levels: Vec::new(),
            size: 0,
        }
    }

    /// Appends an extent. Holes that touch become one; an empty extent is nothing. `sink`
    /// takes each page that is finished by it.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn push<E>(
        &mut self,
        extent: Extent,
        sink: &mut impl FnMut(ChunkId, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.size += extent.len();
        match extent {
            Extent::Hole { len } => {
                self.hole += len;
                Ok(())
            }
            Extent::Chunk { len: 0, .. } => Ok(()),
            chunk @ Extent::Chunk { .. } => {
                self.flush_hole(sink)?;
                self.append(chunk, sink)
            }
        }
    }

    /// Ends the list: the content to write into the node.
    ///
    /// # Errors
    /// Those of `sink`.
    pub fn finish<E>(
        mut self,
        sink: &mut impl FnMut(ChunkId, Vec<u8>) -> Result<(), E>,
    ) -> Result<Content, E> {
        self.flush_hole(sink)?;
        if self.levels.is_empty() {
            return Ok(Content::Extents(self.inline));
        }
        let mut level = 0;
        loop {
            if self.levels[level].count > 0 {
                self.end_page(level, sink)?;
            }
            level += 1;
            let parents = &self.levels[level];
            if let (1, Some(root)) = (parents.total, parents.last_child) {
                let size = self.size;
                return Ok(Content::List { root, size });
            }
        }
    }

    fn flush_hole<E>(
        &mut self,
        sink: &mut impl FnMut(ChunkId, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            len => self.append(Extent::Hole { len }, sink),
        }
    }

    fn append<E>(
        &mut self,
        extent: Extent,
        sink: &mut impl FnMut(ChunkId, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.levels.is_empty() {
            if self.inline.len() < INLINE_EXTENTS {
                self.inline.push(extent);
                return Ok(());
            }
            self.levels.push(Level::default());
            for extent in std::mem::take(&mut self.inline) {
                self.append_to_leaf(extent, sink)?;
            }
        }
        self.append_to_leaf(extent, sink)
    }

    fn append_to_leaf<E>(
        &mut self,
        extent: Extent,
        sink: &mut impl FnMut(ChunkId, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let leaf = &mut self.levels[0];
        put_extent(&mut leaf.entries, &extent);
        let may_end = match extent {
            Extent::Chunk { id, .. } => is_boundary(&id),
            Extent::Hole { .. } => false,
        };
        if leaf.add(extent.len(), may_end) {
            self.end_page(0, sink)?;
        }
        Ok(())
    }

    /// Ends the page of a level and enters it into the next, whose page may end with it.
    fn end_page<E>(
        &mut self,
        mut level: usize,
        sink: &mut impl FnMut(ChunkId, Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let (page, covered) = self.levels[level].take_page(level as u8);
            let id = self.keys.chunk_id(&page);
            sink(id, page)?;
            level += 1;
            if self.levels.len() == level {
                self.levels.push(Level::default());
            }
            let parent = &mut self.levels[level];
            parent.entries.extend_from_slice(id.as_bytes());
            put_varint(&mut parent.entries, covered);
            parent.last_child = Some(id);
            if !parent.add(covered, is_boundary(&id)) {
                return Ok(());
            }
        }
    }
}

impl Level {
    /// Counts an entry that was written; whether the page ends with it.
    fn add(&mut self, covered: u64, may_end: bool) -> bool {
        self.count += 1;
        self.total += 1;
        self.covered += covered;
        self.count >= MAX_ENTRIES || (may_end && self.count >= MIN_ENTRIES)
    }

    fn take_page(&mut self, level: u8) -> (Vec<u8>, u64) {
        let mut page = PageKind::List.front().to_vec();
        page.push(level);
        put_varint(&mut page, self.count as u64);
        page.append(&mut self.entries);
        self.count = 0;
        (page, std::mem::take(&mut self.covered))
    }
}

fn is_boundary(id: &ChunkId) -> bool {
    let [a, b, c, d, ..] = id.0;
    u32::from_le_bytes([a, b, c, d]).is_multiple_of(BOUNDARY_PARTS)
}

/// A page that was read.
enum Page {
    Leaf(Vec<Extent>),
    Inner { level: u8, children: Vec<Child> },
}

#[derive(Clone, Copy)]
struct Child {
    id: ChunkId,
    covered: u64,
}

/// What a page of a list has.
pub(crate) enum Children {
    /// Pages one level lower.
    Pages(Vec<ChunkId>),
    /// The pieces themselves.
    Extents(Vec<Extent>),
}

/// What a page of a list has, wherever it stands.
pub(crate) fn children(page: &[u8]) -> Result<Children, FormatError> {
    Ok(match read_any_page(page, None, None)? {
        Page::Leaf(extents) => Children::Extents(extents),
        Page::Inner { children, .. } => {
            Children::Pages(children.into_iter().map(|child| child.id).collect())
        }
    })
}

/// Reads a page that must cover `covered` bytes, at `level` unless it is the root.
fn read_page(bytes: &[u8], covered: u64, level: Option<u8>) -> Result<Page, FormatError> {
    read_any_page(bytes, Some(covered), level)
}

fn read_any_page(
    bytes: &[u8],
    covered: Option<u64>,
    level: Option<u8>,
) -> Result<Page, FormatError> {
    let mut reader = PageKind::List.open(bytes)?;
    let found = reader.u8()?;
    reader.ensure(
        found <= MAX_LEVEL && level.is_none_or(|level| level == found),
        "it is of another level than its place",
    )?;
    let entry_bytes = if found == 0 { 2 } else { ChunkId::LEN + 1 };
    let count = reader.count(entry_bytes)?;
    reader.ensure(
        (1..=MAX_ENTRIES).contains(&count),
        "it has too many or no entries",
    )?;
    let mut sum = 0;
    let page = if found == 0 {
        let mut extents = Vec::with_capacity(count);
        for _ in 0..count {
            let extent = read_extent(&mut reader)?;
            sum = add_len(&reader, sum, extent.len())?;
            extents.push(extent);
        }
        Page::Leaf(extents)
    } else {
        let mut children = Vec::with_capacity(count);
        for _ in 0..count {
            let id = ChunkId(reader.array()?);
            let covered = reader.varint()?;
            reader.ensure(covered != 0, "a part of it covers nothing")?;
            sum = add_len(&reader, sum, covered)?;
            children.push(Child { id, covered });
        }
        Page::Inner {
            level: found,
            children,
        }
    };
    let fits = covered.is_none_or(|covered| covered == sum);
    reader.ensure(fits, "it covers another length than its place")?;
    reader.finish()?;
    Ok(page)
}

/// A page yet to read: where it begins in the file, and what its parent says of it.
struct Pending {
    offset: u64,
    child: Child,
    level: Option<u8>,
}

/// Gives every extent of a content with its offset in the file, in order. Memory is bounded
/// by one path of the list's tree.
///
/// # Errors
/// Those of `source` and `each`; that a page is damaged.
pub fn expand<S: PageSource>(
    content: &Content,
    source: &mut S,
    each: impl FnMut(u64, Extent) -> Result<(), S::Error>,
) -> Result<(), S::Error> {
    expand_range(content, 0..u64::MAX, source, each)
}

/// Gives the extents that touch a range of the file, each whole and with its offset, in
/// order. Only the pages that touch the range are read.
///
/// # Errors
/// Those of `source` and `each`; that a page is damaged.
pub fn expand_range<S: PageSource>(
    content: &Content,
    range: Range<u64>,
    source: &mut S,
    mut each: impl FnMut(u64, Extent) -> Result<(), S::Error>,
) -> Result<(), S::Error> {
    let touches = |offset: u64, len: u64| offset < range.end && range.start < offset + len;
    let mut give = |mut offset: u64, extents: &[Extent]| {
        for extent in extents {
            if touches(offset, extent.len()) {
                each(offset, *extent)?;
            }
            offset += extent.len();
        }
        Ok(())
    };
    let mut stack = match content {
        Content::None | Content::Target(_) => return Ok(()),
        Content::Extents(extents) => return give(0, extents),
        Content::List { root, size } => vec![Pending::root(*root, *size)],
    };
    while let Some(pending) = stack.pop() {
        if !touches(pending.offset, pending.child.covered) {
            continue;
        }
        match pending.read(source)? {
            Page::Leaf(extents) => give(pending.offset, &extents)?,
            Page::Inner { level, children } => pending.push_children(level, &children, &mut stack),
        }
    }
    Ok(())
}

/// Gives the id of each page of a content's list, parents first.
///
/// # Errors
/// Those of `source` and `each`; that a page is damaged.
pub fn pages<S: PageSource>(
    content: &Content,
    source: &mut S,
    mut each: impl FnMut(ChunkId) -> Result<(), S::Error>,
) -> Result<(), S::Error> {
    let Content::List { root, size } = content else {
        return Ok(());
    };
    let mut stack = vec![Pending::root(*root, *size)];
    while let Some(pending) = stack.pop() {
        each(pending.child.id)?;
        // Leaves have no pages below them: no need to read one that is known to be a leaf.
        if pending.level == Some(0) {
            continue;
        }
        if let Page::Inner { level, children } = pending.read(source)? {
            pending.push_children(level, &children, &mut stack);
        }
    }
    Ok(())
}

impl Pending {
    fn root(id: ChunkId, covered: u64) -> Self {
        Self {
            offset: 0,
            child: Child { id, covered },
            level: None,
        }
    }

    fn read<S: PageSource>(&self, source: &mut S) -> Result<Page, S::Error> {
        let bytes = source.page(&self.child.id)?;
        Ok(read_page(bytes.as_ref(), self.child.covered, self.level)?)
    }

    /// Puts the page's children on the stack, the first on top.
    fn push_children(&self, level: u8, children: &[Child], stack: &mut Vec<Self>) {
        let mut offset = self.offset;
        let first = stack.len();
        for &child in children {
            stack.push(Self {
                offset,
                child,
                level: Some(level - 1),
            });
            offset += child.covered;
        }
        stack[first..].reverse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Pages, keys};
    use std::collections::BTreeSet;

    fn chunk(n: u64) -> Extent {
        let id = keys().chunk_id(&n.to_le_bytes());
        let len = 1 + (n % 1000) as u32;
        Extent::Chunk { id, len }
    }

    fn write(extents: &[Extent]) -> (Content, Pages) {
        let (keys, mut pages) = (keys(), Pages::default());
        let mut sink = |id, page| pages.add(id, page);
        let mut writer = ListWriter::new(&keys);
        for extent in extents {
            writer.push(*extent, &mut sink).unwrap();
        }
        (writer.finish(&mut sink).unwrap(), pages)
    }

    fn read(content: &Content, pages: &mut Pages, range: Range<u64>) -> Vec<(u64, Extent)> {
        let mut found = Vec::new();
        expand_range(content, range, pages, |offset, extent| {
            found.push((offset, extent));
            Ok(())
        })
        .unwrap();
        found
    }

    fn with_offsets(extents: &[Extent]) -> Vec<(u64, Extent)> {
        let mut offset = 0;
        let place = |extent: &Extent| {
            let at = (offset, *extent);
            offset += extent.len();
            at
        };
        extents.iter().map(place).collect()
    }

    fn some_list(count: u64) -> Vec<Extent> {
        (0..count)
            .map(|n| {
                if n % 11 == 3 {
                    Extent::Hole { len: n + 1 }
                } else {
                    chunk(n)
                }
            })
            .collect()
    }

    #[test]
    fn a_list_of_any_length_is_read_back() {
        for count in [0, 1, 15, 16, 17, 64, 255, 1000, 20_000] {
            let extents = some_list(count);
            let (content, mut pages) = write(&extents);
            let inline = matches!(content, Content::Extents(_));
            assert_eq!(inline, count as usize <= INLINE_EXTENTS);
            assert_eq!(content.size(), extents.iter().map(Extent::len).sum::<u64>());
            assert_eq!(
                read(&content, &mut pages, 0..u64::MAX),
                with_offsets(&extents)
            );
        }
    }

    #[test]
    fn a_range_of_a_list_is_found_without_reading_the_rest() {
        let extents = some_list(20_000);
        let (content, mut pages) = write(&extents);
        let all = with_offsets(&extents);
        for range in [0..1, 5_000_000..5_000_001, 3_000_000..3_050_000, 0..0] {
            let expected: Vec<_> = all
                .iter()
                .filter(|(at, e)| *at < range.end && range.start < at + e.len())
                .copied()
                .collect();
            pages.reads = 0;
            assert_eq!(read(&content, &mut pages, range.clone()), expected);
            assert!(pages.reads <= 10, "{range:?} read {} pages", pages.reads);
        }
    }

    #[test]
    fn holes_that_touch_are_one() {
        let (content, _) = write(&[
            Extent::Hole { len: 2 },
            chunk(1),
            Extent::Hole { len: 3 },
            Extent::Hole { len: 4 },
            Extent::Hole { len: 5 },
        ]);
        assert_eq!(
            content,
            Content::Extents(vec![
                Extent::Hole { len: 2 },
                chunk(1),
                Extent::Hole { len: 12 }
            ])
        );
    }

    #[test]
    fn an_edit_of_a_list_makes_few_new_pages() {
        let before = some_list(8_000);
        let (_, old) = write(&before);
        let mut after = before.clone();
        for edit in 0..20u64 {
            after[(edit * 397) as usize] = chunk(1_000_000 + edit);
        }
        after.insert(5, chunk(2_000_000));
        after.push(chunk(3_000_000));
        let (_, new) = write(&after);
        let fresh: usize = new
            .map
            .iter()
            .filter(|(id, _)| !old.map.contains_key(id))
            .map(|(_, page)| page.len())
            .sum();
        assert!(fresh < 110_000, "{fresh} bytes of new pages");
        assert!(old.map.len() > 60);
    }

    #[test]
    fn a_list_of_one_chunk_many_times_ends() {
        for n in 0..200 {
            let (content, mut pages) = write(&vec![chunk(n); 5_000]);
            assert_eq!(read(&content, &mut pages, 0..u64::MAX).len(), 5_000);
        }
    }

    #[test]
    fn all_pages_of_a_list_are_told() {
        let (content, mut pages) = write(&some_list(20_000));
        let mut told = BTreeSet::new();
        super::pages(&content, &mut pages, |id| {
            told.insert(id);
            Ok(())
        })
        .unwrap();
        assert_eq!(told, pages.map.keys().copied().collect());
    }

    #[test]
    fn any_change_of_a_page_is_refused_or_gives_another_list_of_the_same_size() {
        // Pages are checked against their ids before they come here; this holds that a page
        // made by someone who has the keys cannot do harm.
        let (content, mut pages) = write(&some_list(300));
        let Content::List { root, size } = content else {
            panic!()
        };
        let good = pages.map[&root].clone();
        for at in 0..good.len() {
            for flip in [1, 0x80, 0xff] {
                let mut page = good.clone();
                page[at] ^= flip;
                pages.map.insert(root, page);
                let mut sum = 0;
                let read = expand(&content, &mut pages, |_, extent| {
                    sum += extent.len();
                    Ok(())
                });
                assert!(read.is_err() || sum == size);
            }
            pages.map.insert(root, good[..at].to_vec());
            assert!(expand(&content, &mut pages, |_, _| Ok(())).is_err());
        }
    }

    #[test]
    fn a_page_of_a_newer_version_is_refused_as_newer() {
        let mut page = PageKind::List.front().to_vec();
        page[1] = 2;
        assert!(matches!(
            read_page(&page, 1, None),
            Err(FormatError::Newer { .. })
        ));
    }
}

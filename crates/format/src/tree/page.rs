//! One page of a tree.
//!
//! A page is its level and its entries: a key, of which the part shared with the key before
//! is left out, and a tail. The tail of an entry of a leaf is its value, or the id and length
//! of a value that has a page of its own; that of an inner page is the id of the page whose
//! last key the entry's key is.

use std::ops::Range;

use larder_model::ChunkId;

use super::TreeKind;
use crate::wire::{Reader, put_counted, put_varint};
use crate::{FormatError, MAX_CHUNK_BYTES, MAX_NODE_BYTES, PageKind, VolumeKeys};

type Result<T> = std::result::Result<T, FormatError>;

/// The longest key, in bytes: a node id and a name.
pub const MAX_KEY_BYTES: usize = 16 + 255;
/// The longest value that stands in a leaf, in bytes.
pub const MAX_INLINE_BYTES: usize = 4096;
/// The most entries in a page. One page in e^64 would have more by chance.
const MAX_ENTRIES: usize = 4096;
/// The highest level: a hash of 64 bits ends no page above it.
const MAX_LEVEL: u8 = 10;

/// A page that was read.
pub(super) struct Page<B> {
    pub level: u8,
    bytes: B,
    /// The keys in full, one behind the other.
    keys: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    key_end: usize,
    tail: Range<usize>,
}

/// A page that was made, and its id.
pub(super) type NewPage = (ChunkId, Vec<u8>);

/// A value as a leaf has it.
pub(super) enum Value<'a> {
    Inline(&'a [u8]),
    Own { id: ChunkId, len: usize },
}

impl<B: AsRef<[u8]>> Page<B> {
    /// Reads a page and checks its shape.
    pub fn decode(kind: TreeKind, bytes: B) -> Result<Self> {
        let whole = bytes.as_ref();
        let mut reader = kind.page().open(whole)?;
        let level = reader.u8()?;
        reader.ensure(level <= MAX_LEVEL, "its level is impossible")?;
        let count = reader.count(if level == 0 { 3 } else { 2 + ChunkId::LEN })?;
        reader.ensure(count <= MAX_ENTRIES, "it has too many entries")?;
        reader.ensure(level == 0 || count > 0, "it has no entries")?;
        let mut keys = Vec::with_capacity(whole.len().min(count * MAX_KEY_BYTES));
        let mut entries: Vec<Entry> = Vec::with_capacity(count);
        let mut last = 0..0;
        for place in 0..count {
            let key = read_key(&mut reader, &mut keys, last.clone())?;
            let ascends = place == 0 || keys[last] < keys[key.clone()];
            reader.ensure(ascends, "its keys are not in order")?;
            let at = whole.len() - reader.rest().len();
            skip_tail(&mut reader, level)?;
            let tail = at..whole.len() - reader.rest().len();
            let key_end = key.end;
            last = key;
            entries.push(Entry { key_end, tail });
        }
        reader.finish()?;
        Ok(Self {
            level,
            bytes,
            keys,
            entries,
        })
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn key(&self, at: usize) -> &[u8] {
        let start = match at {
            0 => 0,
            _ => self.entries[at - 1].key_end,
        };
        &self.keys[start..self.entries[at].key_end]
    }

    /// The last key; an empty page has none.
    pub fn last_key(&self) -> &[u8] {
        match self.entries.len() {
            0 => &[],
            len => self.key(len - 1),
        }
    }

    pub fn tail(&self, at: usize) -> &[u8] {
        &self.bytes.as_ref()[self.entries[at].tail.clone()]
    }

    /// The child of an entry of an inner page.
    pub fn child(&self, at: usize) -> Result<ChunkId> {
        Reader::new("page", self.tail(at)).array().map(ChunkId)
    }

    /// The first entry whose key is not less than `key`; the page's length if none is.
    pub fn position(&self, key: &[u8]) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Reads a key behind the one in `last`; gives its place in `keys`.
fn read_key(
    reader: &mut Reader<'_>,
    keys: &mut Vec<u8>,
    last: Range<usize>,
) -> Result<Range<usize>> {
    let shared = reader.varint()?;
    reader.ensure(
        shared <= last.len() as u64,
        "a key shares more than there is",
    )?;
    let shared = shared as usize;
    let rest = reader.counted()?;
    reader.ensure(shared + rest.len() <= MAX_KEY_BYTES, "a key is too long")?;
    let next = keys
        .get(last.start + shared)
        .filter(|_| shared < last.len());
    reader.ensure(
        next.is_none() || next != rest.first(),
        "a key shares less than it could",
    )?;
    let start = keys.len();
    keys.extend_from_within(last.start..last.start + shared);
    keys.extend_from_slice(rest);
    Ok(start..keys.len())
}

fn skip_tail(reader: &mut Reader<'_>, level: u8) -> Result<()> {
    if level > 0 {
        return reader.take(ChunkId::LEN).map(drop);
    }
    let (len, own) = read_value_len(reader)?;
    reader.take(if own { ChunkId::LEN } else { len }).map(drop)
}

/// The length of a value, and whether it has a page of its own.
fn read_value_len(reader: &mut Reader<'_>) -> Result<(usize, bool)> {
    let coded = reader.varint()?;
    let (len, own) = (coded >> 1, coded & 1 == 1);
    reader.ensure(len <= MAX_NODE_BYTES as u64, "a value is too long")?;
    reader.ensure(
        own == (len > MAX_INLINE_BYTES as u64),
        "a value is in the wrong place",
    )?;
    Ok((len as usize, own))
}

/// The value that a leaf's tail is.
pub(super) fn read_value(kind: TreeKind, tail: &[u8]) -> Result<Value<'_>> {
    let mut reader = Reader::new(kind.page().noun(), tail);
    let (len, own) = read_value_len(&mut reader)?;
    if own {
        let id = ChunkId(reader.array()?);
        Ok(Value::Own { id, len })
    } else {
        reader.take(len).map(Value::Inline)
    }
}

/// A leaf's tail, and the page that the value has of its own, if it is too long for the leaf.
pub(super) fn write_value(
    keys: &VolumeKeys,
    kind: TreeKind,
    key: &[u8],
    value: &[u8],
) -> Result<(Vec<u8>, Option<NewPage>)> {
    let own = value.len() > MAX_INLINE_BYTES;
    let mut tail = Vec::with_capacity(value.len().min(MAX_INLINE_BYTES) + 40);
    put_varint(&mut tail, (value.len() as u64) << 1 | u64::from(own));
    if !own {
        tail.extend_from_slice(value);
        return Ok((tail, None));
    }
    if value.len() > MAX_NODE_BYTES {
        return Err(FormatError::TooLarge {
            what: PageKind::Value.noun(),
            bytes: value.len() as u64,
            limit: MAX_NODE_BYTES as u64,
        });
    }
    // With the tree and the key in it, no two entries share such a page.
    let mut page = PageKind::Value.front().to_vec();
    page.push(kind.page().letter());
    put_counted(&mut page, key);
    page.extend_from_slice(value);
    let id = keys.chunk_id(&page);
    tail.extend_from_slice(id.as_bytes());
    Ok((tail, Some((id, page))))
}

/// The value in the page that it has of its own.
pub(super) fn read_own_value<'a>(
    kind: TreeKind,
    key: &[u8],
    len: usize,
    page: &'a [u8],
) -> Result<&'a [u8]> {
    let mut reader = PageKind::Value.open(page)?;
    let (letter, of) = (reader.u8()?, reader.counted()?);
    let belongs = letter == kind.page().letter() && of == key && reader.rest().len() == len;
    reader.ensure(belongs, "it belongs to another entry")?;
    Ok(reader.rest())
}

/// The pages that a page of a tree points at: its children, or long values. With it a reader
/// that knows the root can fetch a tree level by level.
///
/// # Errors
/// If it is not a page of a tree.
pub fn references(page: &[u8]) -> Result<Vec<ChunkId>> {
    const OF_NODES: u8 = PageKind::Nodes.letter();
    const OF_NAMES: u8 = PageKind::Names.letter();
    let kind = match page.first() {
        Some(&OF_NODES) => TreeKind::Nodes,
        Some(&OF_NAMES) => TreeKind::Names,
        _ => return PageKind::Value.open(page).map(|_| Vec::new()),
    };
    let page = Page::decode(kind, page)?;
    if page.level > 0 {
        return (0..page.len()).map(|at| page.child(at)).collect();
    }
    let mut ids = Vec::new();
    for at in 0..page.len() {
        if let Value::Own { id, .. } = read_value(kind, page.tail(at))? {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Gives the values that stand in a page of a tree; above level 0 there are none.
pub(crate) fn leaf_values(
    kind: TreeKind,
    page: &[u8],
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let page = Page::decode(kind, page)?;
    if page.level > 0 {
        return Ok(());
    }
    for at in 0..page.len() {
        if let Value::Inline(value) = read_value(kind, page.tail(at))? {
            each(value)?;
        }
    }
    Ok(())
}

/// The value in a page that it has of its own, if the entry is of a tree of this kind.
pub(crate) fn own_value(kind: TreeKind, page: &[u8]) -> Result<Option<&[u8]>> {
    let mut reader = PageKind::Value.open(page)?;
    let letter = reader.u8()?;
    reader.counted()?;
    Ok((letter == kind.page().letter()).then(|| reader.rest()))
}

/// Writes pages of one level from entries in order.
pub(super) struct PageWriter {
    kind: TreeKind,
    level: u8,
    body: Vec<u8>,
    count: usize,
    last_key: Vec<u8>,
}

impl PageWriter {
    pub fn new(kind: TreeKind, level: u8) -> Self {
        Self {
            kind,
            level,
            body: Vec::new(),
            count: 0,
            last_key: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    pub fn push(&mut self, key: &[u8], tail: &[u8]) {
        let same = |(a, b): &(&u8, &u8)| a == b;
        let shared = match self.count {
            0 => 0,
            _ => self.last_key.iter().zip(key).take_while(same).count(),
        };
        put_varint(&mut self.body, shared as u64);
        put_counted(&mut self.body, &key[shared..]);
        self.body.extend_from_slice(tail);
        self.count += 1;
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
    }

    /// The bytes of the page of what was pushed; the writer begins the next.
    pub fn end_page(&mut self) -> Result<Vec<u8>> {
        let mut page = Vec::with_capacity(self.body.len() + 8);
        page.extend_from_slice(&self.kind.page().front());
        page.push(self.level);
        put_varint(&mut page, self.count as u64);
        page.append(&mut self.body);
        let count = std::mem::take(&mut self.count);
        if page.len() > MAX_CHUNK_BYTES || count > MAX_ENTRIES {
            return Err(FormatError::TooLarge {
                what: self.kind.page().noun(),
                bytes: page.len() as u64,
                limit: MAX_CHUNK_BYTES as u64,
            });
        }
        Ok(page)
    }
}

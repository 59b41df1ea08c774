//! A place in a tree: the path of pages from the root to it.

use larder_model::ChunkId;

use super::page::{Page, Value, read_own_value, read_value};
use super::{Tree, TreeKind};
use crate::PageSource;

/// A path from the root downwards, and in each page of it an entry.
pub(super) struct Cursor<B> {
    kind: TreeKind,
    /// Empty at the end of the tree, else from the root.
    frames: Vec<Frame<B>>,
}

pub(super) struct Frame<B> {
    pub id: ChunkId,
    pub page: Page<B>,
    pub at: usize,
    /// All keys of the page are above `lower`; none below the page's parent entry are above
    /// `upper`. `None` where the tree has no bound: at its left and right edge.
    lower: Option<Vec<u8>>,
    upper: Option<Vec<u8>>,
}

impl<B: AsRef<[u8]>> Frame<B> {
    /// Whether no page of its level follows it.
    pub fn is_last(&self) -> bool {
        self.upper.is_none()
    }

    pub fn key(&self) -> &[u8] {
        self.page.key(self.at)
    }

    pub fn tail(&self) -> &[u8] {
        self.page.tail(self.at)
    }

    /// What all keys at or below the entry are above.
    pub fn lower(&self) -> Option<&[u8]> {
        match self.at {
            0 => self.lower.as_deref(),
            at => Some(self.page.key(at - 1)),
        }
    }
}

impl<B: AsRef<[u8]>> Cursor<B> {
    /// At the first entry of the root.
    pub fn open<S>(tree: &Tree, source: &mut S) -> Result<Self, S::Error>
    where
        S: PageSource<Bytes = B>,
    {
        let page = Page::decode(tree.kind, source.page(&tree.root)?)?;
        let root = Frame {
            id: tree.root,
            page,
            at: 0,
            lower: None,
            upper: None,
        };
        Ok(Self {
            kind: tree.kind,
            frames: vec![root],
        })
    }

    /// The page and entry that the cursor is at; `None` at the end of the tree.
    pub fn top(&self) -> Option<&Frame<B>> {
        self.frames.last()
    }

    /// Goes to the page of `level` in which `key` is or would be, and to the first entry there
    /// whose key is not less; where no page has so large a key, to the last page. The keys of
    /// successive calls must not go back to a page before.
    pub fn seek<S>(&mut self, level: u8, key: &[u8], source: &mut S) -> Result<(), S::Error>
    where
        S: PageSource<Bytes = B>,
    {
        let is_behind = |frame: &Frame<B>| frame.upper.as_deref().is_some_and(|u| u < key);
        while self.frames.last().is_some_and(is_behind) {
            self.frames.pop();
        }
        while let Some(top) = self.frames.last_mut() {
            top.at = top.page.position(key);
            if top.page.level <= level {
                break;
            }
            top.at = top.at.min(top.page.len() - 1);
            self.descend(source)?;
        }
        Ok(())
    }

    /// Whether `key` is, or would be, in the page at the cursor or behind it.
    fn is_not_behind(&self, key: &[u8]) -> bool {
        let top = self.frames.last();
        top.is_some_and(|top| top.lower.as_deref().is_none_or(|lower| lower < key))
    }

    /// Goes down to the first entry of the child at the cursor, which must be on an entry of
    /// an inner page.
    pub fn descend<S>(&mut self, source: &mut S) -> Result<(), S::Error>
    where
        S: PageSource<Bytes = B>,
    {
        let Some(parent) = self.frames.last() else {
            return Ok(());
        };
        let id = parent.page.child(parent.at)?;
        let page = Page::decode(self.kind, source.page(&id)?)?;
        let lower = parent.lower().map(<[u8]>::to_vec);
        let on_edge = parent.is_last() && parent.at + 1 == parent.page.len();
        let upper = (!on_edge).then(|| parent.key().to_vec());
        let fits = page.len() > 0
            && page.level + 1 == parent.page.level
            && page.last_key() == parent.key()
            && lower.as_deref().is_none_or(|lower| lower < page.key(0));
        if !fits {
            return Err(self
                .kind
                .damaged("it does not fit its place in the tree")
                .into());
        }
        self.frames.push(Frame {
            id,
            page,
            at: 0,
            lower,
            upper,
        });
        Ok(())
    }

    /// Goes to the next entry at the cursor's level or above.
    pub fn advance(&mut self) {
        while let Some(top) = self.frames.last_mut() {
            top.at += 1;
            if top.at < top.page.len() {
                return;
            }
            self.frames.pop();
        }
    }

    /// Leaves the page at the cursor and goes to the first entry of the next one of its level.
    pub fn next_page<S>(&mut self, source: &mut S) -> Result<(), S::Error>
    where
        S: PageSource<Bytes = B>,
    {
        let Some(left) = self.frames.pop() else {
            return Ok(());
        };
        self.advance();
        while self
            .frames
            .last()
            .is_some_and(|top| top.page.level > left.page.level)
        {
            self.descend(source)?;
        }
        Ok(())
    }

    /// The value at the cursor, which must be in a leaf, if its key is `key`.
    pub fn value_if<S>(&self, key: &[u8], source: &mut S) -> Result<Option<Vec<u8>>, S::Error>
    where
        S: PageSource<Bytes = B>,
    {
        match self.frames.last() {
            Some(leaf) if leaf.at < leaf.page.len() && leaf.key() == key => {
                value(self.kind, key, leaf.tail(), source).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// Looks for keys in a tree.
pub struct Finder<B> {
    tree: Tree,
    /// Where the last key is, or would be.
    cursor: Option<Cursor<B>>,
}

impl<B: AsRef<[u8]>> Finder<B> {
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree, cursor: None }
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// Those of the source; that a page is damaged.
    pub fn get<S>(&mut self, key: &[u8], source: &mut S) -> Result<Option<Vec<u8>>, S::Error>
    where
        S: PageSource<Bytes = B>,
    {
        let mut cursor = match self
            .cursor
            .take()
            .filter(|cursor| cursor.is_not_behind(key))
        {
            Some(cursor) => cursor,
            None => Cursor::open(&self.tree, source)?,
        };
        cursor.seek(0, key, source)?;
        let value = cursor.value_if(key, source)?;
        self.cursor = Some(cursor);
        Ok(value)
    }
}

/// The value that a leaf's tail stands for.
pub(super) fn value<S: PageSource>(
    kind: TreeKind,
    key: &[u8],
    tail: &[u8],
    source: &mut S,
) -> Result<Vec<u8>, S::Error> {
    match read_value(kind, tail)? {
        Value::Inline(value) => Ok(value.to_vec()),
        Value::Own { id, len } => {
            let page = source.page(&id)?;
            Ok(read_own_value(kind, key, len, page.as_ref())?.to_vec())
        }
    }
}

/// A key and its value.
type Entry = (Vec<u8>, Vec<u8>);

/// Entries of a tree in order: `(key, value)`. It ends with its first error.
pub struct Scan<S: PageSource> {
    tree: Tree,
    from: Vec<u8>,
    prefix: Vec<u8>,
    source: S,
    state: State<S::Bytes>,
}

enum State<B> {
    New,
    At(Cursor<B>),
    Done,
}

impl<S: PageSource> Scan<S> {
    pub(super) fn new(tree: Tree, from: Vec<u8>, prefix: Vec<u8>, source: S) -> Self {
        Self {
            tree,
            from,
            prefix,
            source,
            state: State::New,
        }
    }

    fn step(&mut self) -> Result<Option<Entry>, S::Error> {
        let mut cursor = match std::mem::replace(&mut self.state, State::Done) {
            State::Done => return Ok(None),
            State::At(cursor) => cursor,
            State::New => {
                let mut cursor = Cursor::open(&self.tree, &mut self.source)?;
                cursor.seek(0, &self.from, &mut self.source)?;
                cursor
            }
        };
        // The seek may have gone behind the last entry of the last leaf.
        while cursor.top().is_some_and(|top| top.page.level > 0) {
            cursor.descend(&mut self.source)?;
        }
        let Some(leaf) = cursor.top().filter(|leaf| leaf.at < leaf.page.len()) else {
            return Ok(None);
        };
        if !leaf.key().starts_with(&self.prefix) {
            return Ok(None);
        }
        let key = leaf.key().to_vec();
        let value = value(self.tree.kind, &key, leaf.tail(), &mut self.source)?;
        cursor.advance();
        self.state = State::At(cursor);
        Ok(Some((key, value)))
    }
}

impl<S: PageSource> Iterator for Scan<S> {
    type Item = Result<Entry, S::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.step().transpose()
    }
}

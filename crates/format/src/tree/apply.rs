//! Changing a tree: from the leaves up, level by level.
//!
//! At each level the pages that changes fall into are taken apart, merged with the changes and
//! cut anew; where the last piece does not end at a boundary, it goes on into the next page.
//! What comes out, pages gone and pages new, are the changes of the level above, since an
//! inner level is a map too: from the last keys of its children to their ids.

use std::collections::VecDeque;

use larder_model::ChunkId;

use super::cursor::Cursor;
use super::page::{MAX_KEY_BYTES, NewPage, Page, PageWriter, Value, read_value, write_value};
use super::{Boundaries, Tree, TreeKind};
use crate::{FormatError, PageStore, VolumeKeys};

/// A new value for a key, or none to remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// Its value from now on.
    pub value: Option<Vec<u8>>,
}

/// A change of a page's entries: at a leaf the tail of a value, above it a child's id.
struct TailChange {
    key: Vec<u8>,
    tail: Option<Vec<u8>>,
    /// The page of its own that the value has.
    own: Option<NewPage>,
}

/// The root of the tree that `changes` make of the tree `old`.
pub(super) fn apply<S: PageStore>(
    keys: &VolumeKeys,
    kind: TreeKind,
    old: Option<ChunkId>,
    changes: impl IntoIterator<Item = Result<Change, S::Error>>,
    store: &mut S,
) -> Result<ChunkId, S::Error> {
    let Some(root) = old else {
        return change_tree(keys, kind, None, changes, store);
    };
    let tree = Tree { kind, root };
    let old = Cursor::open(&tree, store)?.top().map(|top| Old {
        tree,
        level: top.page.level,
        last_key: top.page.last_key().to_vec(),
        is_empty: top.page.len() == 0,
    });
    if !old.as_ref().is_some_and(|old| old.is_empty) {
        return change_tree(keys, kind, old, changes, store);
    }
    let changed = change_tree(keys, kind, None, changes, store)?;
    if changed != root {
        store.dropped(root)?;
    }
    Ok(changed)
}

/// The tree that is changed, and what its root page tells.
struct Old {
    tree: Tree,
    level: u8,
    last_key: Vec<u8>,
    is_empty: bool,
}

impl Old {
    fn reaches(&self, level: u8) -> bool {
        level <= self.level
    }
}

/// Changes a tree that has entries, or makes a new one.
fn change_tree<S: PageStore>(
    keys: &VolumeKeys,
    kind: TreeKind,
    old: Option<Old>,
    changes: impl IntoIterator<Item = Result<Change, S::Error>>,
    store: &mut S,
) -> Result<ChunkId, S::Error> {
    let mut context = Context {
        keys,
        kind,
        boundaries: Boundaries::new(keys),
        store,
        levels: Vec::new(),
    };
    let changes = changes.into_iter().map(|change| {
        let Change { key, value } = change?;
        Ok(leaf_change(keys, kind, key, value)?)
    });
    let tree_at = |level| {
        old.as_ref()
            .filter(|old| old.reaches(level))
            .map(|old| old.tree)
    };
    let mut above = context.change_level(0, tree_at(0), changes)?;
    let mut level = 0;
    loop {
        if let (Some(old), true) = (&old, above.is_empty()) {
            return Ok(old.tree.root);
        }
        if tree_at(level + 1).is_none() {
            if let Some(old) = old.as_ref().filter(|old| old.level == level) {
                keep_old_root(&mut above, old);
            }
            above.retain(|change| change.tail.is_some());
            match above.as_slice() {
                [] => return context.finish_empty(),
                [only] => {
                    let root = child_of(kind, only)?;
                    return context.finish(level, root);
                }
                _ => {}
            }
        }
        level += 1;
        above = context.change_level(level, tree_at(level), above.into_iter().map(Ok))?;
    }
}

/// No page of the old tree stands above its root; so if the changes left that page as it is,
/// it must be added to what stands above.
fn keep_old_root(above: &mut Vec<TailChange>, old: &Old) {
    if let Err(at) = above.binary_search_by(|change| change.key.cmp(&old.last_key)) {
        let root = TailChange {
            key: old.last_key.clone(),
            tail: Some(old.tree.root.as_bytes().to_vec()),
            own: None,
        };
        above.insert(at, root);
    }
}

fn leaf_change(
    keys: &VolumeKeys,
    kind: TreeKind,
    key: Vec<u8>,
    value: Option<Vec<u8>>,
) -> Result<TailChange, FormatError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(FormatError::TooLarge {
            what: "key of a tree",
            bytes: key.len() as u64,
            limit: MAX_KEY_BYTES as u64,
        });
    }
    let (tail, own) = match value {
        None => (None, None),
        Some(value) => {
            let (tail, own) = write_value(keys, kind, &key, &value)?;
            (Some(tail), own)
        }
    };
    Ok(TailChange { key, tail, own })
}

fn child_of(kind: TreeKind, change: &TailChange) -> Result<ChunkId, FormatError> {
    let id = change.tail.as_deref().and_then(ChunkId::from_slice);
    id.ok_or_else(|| kind.damaged("an entry of it has no page"))
}

struct Context<'a, S> {
    keys: &'a VolumeKeys,
    kind: TreeKind,
    boundaries: Boundaries,
    store: &'a mut S,
    levels: Vec<NewPages>,
}

/// What is remembered of the new pages of a level, to find the root.
#[derive(Default)]
struct NewPages {
    /// The first with a single entry, not yet put: if it turns out to be the only page of its
    /// level, the tree does not reach up to it.
    held: Option<NewPage>,
    /// The last that was put.
    put: Option<ChunkId>,
}

/// One level while it is changed.
struct LevelChange {
    level: u8,
    writer: PageWriter,
    /// Old pages that were taken apart and not yet met by a new page with the same last key.
    taken: VecDeque<(Vec<u8>, ChunkId)>,
    above: Vec<TailChange>,
}

impl<S: PageStore> Context<'_, S> {
    /// Changes one level; gives the changes of the level above.
    fn change_level(
        &mut self,
        level: u8,
        old: Option<Tree>,
        changes: impl Iterator<Item = Result<TailChange, S::Error>>,
    ) -> Result<Vec<TailChange>, S::Error> {
        self.levels.push(NewPages::default());
        let mut out = LevelChange {
            level,
            writer: PageWriter::new(self.kind, level),
            taken: VecDeque::new(),
            above: Vec::new(),
        };
        let mut changes = Ascending::new(self.kind, changes)?;
        match old {
            None => {
                while let Some(change) = changes.take()? {
                    self.put(&mut out, change, None)?;
                }
                self.end_run(&mut out)?;
            }
            Some(tree) => {
                let mut cursor = Cursor::open(&tree, self.store)?;
                while let Some(change) = changes.peek() {
                    cursor.seek(level, &change.key, self.store)?;
                    self.change_run(&mut out, &mut cursor, &mut changes)?;
                }
            }
        }
        Ok(out.above)
    }

    /// Takes apart the page at the cursor, and those behind it until a page ends where an old
    /// one did.
    fn change_run<I>(
        &mut self,
        out: &mut LevelChange,
        cursor: &mut Cursor<S::Bytes>,
        changes: &mut Ascending<I>,
    ) -> Result<(), S::Error>
    where
        I: Iterator<Item = Result<TailChange, S::Error>>,
    {
        while let Some(frame) = cursor.top() {
            out.taken
                .push_back((frame.page.last_key().to_vec(), frame.id));
            let is_last = frame.is_last();
            self.merge(out, &frame.page, is_last, changes)?;
            if is_last || out.writer.len() == 0 {
                break;
            }
            cursor.next_page(self.store)?;
        }
        self.end_run(out)
    }

    /// Merges an old page with the changes that fall into it.
    fn merge<I>(
        &mut self,
        out: &mut LevelChange,
        page: &Page<S::Bytes>,
        is_last: bool,
        changes: &mut Ascending<I>,
    ) -> Result<(), S::Error>
    where
        I: Iterator<Item = Result<TailChange, S::Error>>,
    {
        for at in 0..page.len() {
            let key = page.key(at);
            while changes
                .peek()
                .is_some_and(|change| change.key.as_slice() < key)
            {
                if let Some(change) = changes.take()? {
                    self.put(out, change, None)?;
                }
            }
            let is_changed = changes.peek().is_some_and(|change| change.key == key);
            match changes.take_if(is_changed)? {
                Some(change) => self.put(out, change, Some(page.tail(at)))?,
                None => self.push(out, key, page.tail(at))?,
            }
        }
        while is_last && changes.peek().is_some() {
            if let Some(change) = changes.take()? {
                self.put(out, change, None)?;
            }
        }
        Ok(())
    }

    /// Writes a changed entry, whose tail was `old` before.
    fn put(
        &mut self,
        out: &mut LevelChange,
        change: TailChange,
        old: Option<&[u8]>,
    ) -> Result<(), S::Error> {
        if out.level == 0 && change.tail.as_deref() != old {
            if let Some(old) = old
                && let Value::Own { id, .. } = read_value(self.kind, old)?
            {
                self.store.dropped(id)?;
            }
            if let Some((id, page)) = change.own {
                self.store.put(id, page)?;
            }
        }
        match change.tail {
            Some(tail) => self.push(out, &change.key, &tail),
            None => Ok(()),
        }
    }

    fn push(&mut self, out: &mut LevelChange, key: &[u8], tail: &[u8]) -> Result<(), S::Error> {
        out.writer.push(key, tail);
        if self.boundaries.ends_page(key, out.level) {
            self.end_page(out)?;
        }
        Ok(())
    }

    /// Ends the run: what is left is the last page of the level, and old pages that no new one
    /// met are gone.
    fn end_run(&mut self, out: &mut LevelChange) -> Result<(), S::Error> {
        if out.writer.len() > 0 {
            self.end_page(out)?;
        }
        while let Some((key, id)) = out.taken.pop_front() {
            self.drop_page(out, key, id)?;
        }
        Ok(())
    }

    fn drop_page(
        &mut self,
        out: &mut LevelChange,
        key: Vec<u8>,
        id: ChunkId,
    ) -> Result<(), S::Error> {
        out.above.push(TailChange {
            key,
            tail: None,
            own: None,
        });
        self.store.dropped(id)
    }

    /// Ends a page. It is new unless the old page with the same last key was the same.
    fn end_page(&mut self, out: &mut LevelChange) -> Result<(), S::Error> {
        let has_one_entry = out.writer.len() == 1;
        let page = out.writer.end_page()?;
        let key = out.writer.last_key().to_vec();
        let id = self.keys.chunk_id(&page);
        while out.taken.front().is_some_and(|(taken, _)| *taken < key) {
            if let Some((key, id)) = out.taken.pop_front() {
                self.drop_page(out, key, id)?;
            }
        }
        if let Some((_, taken)) = out.taken.pop_front_if(|(taken, _)| *taken == key) {
            if taken == id {
                return Ok(());
            }
            self.store.dropped(taken)?;
        }
        out.above.push(TailChange {
            key,
            tail: Some(id.as_bytes().to_vec()),
            own: None,
        });
        let new = &mut self.levels[usize::from(out.level)];
        if has_one_entry && out.level > 0 && new.held.is_none() {
            new.held = Some((id, page));
            return Ok(());
        }
        new.put = Some(id);
        self.store.put(id, page)
    }

    /// The tree ends with `root`, the only page of `level`, or below: an inner page with a
    /// single entry is no root. Puts the held pages that are in the tree.
    fn finish(mut self, mut level: u8, mut root: ChunkId) -> Result<ChunkId, S::Error> {
        while level > 0 {
            let new = &mut self.levels[usize::from(level)];
            if new.put == Some(root) {
                break;
            }
            let child = match &new.held {
                Some((_, page)) => only_child(self.kind, page)?,
                None => only_child(self.kind, self.store.page(&root)?.as_ref())?,
            };
            let Some(child) = child else { break };
            if new.held.take().is_none() {
                self.store.dropped(root)?;
            }
            root = child;
            level -= 1;
        }
        let reached = self.levels.into_iter().take(usize::from(level) + 1);
        for (id, page) in reached.filter_map(|new| new.held) {
            self.store.put(id, page)?;
        }
        Ok(root)
    }

    /// The root of a tree without entries.
    fn finish_empty(self) -> Result<ChunkId, S::Error> {
        let page = PageWriter::new(self.kind, 0).end_page()?;
        let id = self.keys.chunk_id(&page);
        self.store.put(id, page)?;
        Ok(id)
    }
}

/// The child of an inner page, if it has one only.
fn only_child(kind: TreeKind, page: &[u8]) -> Result<Option<ChunkId>, FormatError> {
    let page = Page::decode(kind, page)?;
    if page.level == 0 {
        return Err(kind.damaged("it is of another level than its place"));
    }
    (page.len() == 1).then(|| page.child(0)).transpose()
}

/// Changes whose keys were seen to ascend.
struct Ascending<I> {
    kind: TreeKind,
    changes: I,
    next: Option<TailChange>,
}

impl<I, E> Ascending<I>
where
    I: Iterator<Item = Result<TailChange, E>>,
    E: From<FormatError>,
{
    fn new(kind: TreeKind, mut changes: I) -> Result<Self, E> {
        let next = changes.next().transpose()?;
        Ok(Self {
            kind,
            changes,
            next,
        })
    }

    fn peek(&self) -> Option<&TailChange> {
        self.next.as_ref()
    }

    fn take(&mut self) -> Result<Option<TailChange>, E> {
        let next = self.changes.next().transpose()?;
        if let (Some(now), Some(next)) = (&self.next, &next)
            && now.key >= next.key
        {
            return Err(self.kind.damaged("changes to it are not in order").into());
        }
        Ok(std::mem::replace(&mut self.next, next))
    }

    fn take_if(&mut self, wanted: bool) -> Result<Option<TailChange>, E> {
        if wanted { self.take() } else { Ok(None) }
    }
}

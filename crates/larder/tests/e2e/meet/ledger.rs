//! What users wrote, and who gave it up: so that at the end nobody has lost anything.
//!
//! A file is blocks, each of which says by which write and at which place it was written; all its
//! other bytes follow from these two. Each write of a file is a **version** with a number of its
//! own, which stands in its first block. What is read is a version as it was written, or, of one that
//! was written while it could be seen, a part of it; anything else is damage.

use std::collections::{BTreeMap, BTreeSet};

/// The length of each block but the last.
pub const BLOCK: usize = 4096;
const HEAD: usize = 39;

/// The number of a version.
pub type Mark = u64;

/// How a version was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Beside its place, and moved there: nobody sees a part of it there.
    Whole,
    /// As a new file in its place.
    New,
    /// Over another, of which most stays.
    Over(Mark),
}

#[derive(Debug)]
struct Version {
    /// By which write each block is.
    blocks: Vec<Mark>,
    len: usize,
    way: Way,
    /// The system said that it is written.
    is_acknowledged: bool,
    /// Somebody who had it wrote over it or deleted it.
    is_given_up: bool,
    /// Versions that were written over this one.
    over_it: Vec<Mark>,
}

/// What was written.
#[derive(Debug, Default)]
pub struct Ledger {
    versions: BTreeMap<Mark, Version>,
}

/// What is in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// By which write each block is; `None`: it is zeros.
    blocks: Vec<Option<Mark>>,
    len: usize,
}

impl Content {
    /// What these bytes are.
    ///
    /// # Errors
    /// In words, if nobody can have written them.
    pub fn of(bytes: &[u8]) -> Result<Self, String> {
        let blocks = bytes.chunks(BLOCK).enumerate();
        Ok(Self {
            blocks: blocks
                .map(|(number, bytes)| mark_of(number, bytes))
                .collect::<Result<_, _>>()?,
            len: bytes.len(),
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// The version that it is, or is a part of.
    pub fn version(&self) -> Option<Mark> {
        self.blocks.first().copied().flatten()
    }
}

impl Ledger {
    /// A version of so many bytes is written now.
    pub fn new_version(&mut self, len: usize, way: Way) -> Mark {
        let mark = self.next();
        self.versions.insert(
            mark,
            Version {
                blocks: vec![mark; len.div_ceil(BLOCK)],
                len,
                way,
                is_acknowledged: false,
                is_given_up: false,
                over_it: Vec::new(),
            },
        );
        mark
    }

    /// A version is written now, by the first block and this one of `old`.
    pub fn new_edit(&mut self, old: Mark, block: usize) -> Option<Mark> {
        let (mut blocks, len) = self.versions.get(&old).map(|v| (v.blocks.clone(), v.len))?;
        let mark = self.new_version(len, Way::Over(old));
        for place in [0, block] {
            *blocks.get_mut(place)? = mark;
        }
        self.versions.get_mut(&mark)?.blocks = blocks;
        self.versions.get_mut(&old)?.over_it.push(mark);
        Some(mark)
    }

    fn next(&self) -> Mark {
        self.versions
            .last_key_value()
            .map_or(1, |(mark, _)| mark + 1)
    }

    /// The system said that it is written.
    pub fn acknowledged(&mut self, mark: Mark) {
        if let Some(version) = self.versions.get_mut(&mark) {
            version.is_acknowledged = true;
        }
    }

    /// Somebody who has it is about to write over it or to delete it.
    pub fn give_up(&mut self, mark: Mark) {
        if let Some(version) = self.versions.get_mut(&mark) {
            version.is_given_up = true;
        }
    }

    /// How many versions were acknowledged.
    pub fn count(&self) -> usize {
        let versions = self.versions.values();
        versions.filter(|version| version.is_acknowledged).count()
    }

    /// Whether this is a version as it was written.
    pub fn is_whole(&self, content: &Content) -> bool {
        let version = content.version().and_then(|mark| self.versions.get(&mark));
        version.is_some_and(|version| {
            let same = |(is, was): (&Option<Mark>, &Mark)| *is == Some(*was);
            version.len == content.len && content.blocks.iter().zip(&version.blocks).all(same)
        })
    }

    /// Whether this is a version, or a part of one that could be seen. `is_new`: it is where a file
    /// is written that is moved to its place then.
    ///
    /// # Errors
    /// In words, if not.
    pub fn check(&self, content: &Content, is_new: bool) -> Result<(), String> {
        let is_seen_in_parts = match content.version().map(|mark| self.versions.get(&mark)) {
            _ if self.is_whole(content) => return Ok(()),
            // Nothing, or nothing at its beginning: what is new begins like that.
            None => true,
            Some(None) => return Err(format!("{content:?} is of a write that nobody made")),
            Some(Some(version)) => {
                let is_new = is_new && version.way == Way::Whole || version.way == Way::New;
                self.may_be_mixed(version, content, is_new)
            }
        };
        match is_seen_in_parts {
            true => Ok(()),
            false => Err(format!("{content:?} is a mixture that nobody wrote")),
        }
    }

    fn may_be_mixed(&self, version: &Version, content: &Content, is_new: bool) -> bool {
        let near = version.over_it.iter().chain(match &version.way {
            Way::Over(old) => Some(old),
            Way::Whole | Way::New => None,
        });
        let near: Vec<&Version> = near.filter_map(|mark| self.versions.get(mark)).collect();
        let fits = |(place, mark): (usize, &Option<Mark>)| match mark {
            None => is_new,
            Some(mark) => {
                let has = |version: &Version| version.blocks.get(place) == Some(mark);
                has(version) || near.iter().any(|version| has(version))
            }
        };
        let is_seen = is_new || !near.is_empty();
        let is_long = content.len == version.len || is_new;
        is_seen
            && is_long
            && content.len <= version.len
            && content.blocks.iter().enumerate().all(fits)
    }

    /// Versions that were acknowledged, were given up by nobody, and are not among these.
    pub fn lost(&self, there: &BTreeSet<Mark>) -> Vec<Mark> {
        let is_lost = |(mark, version): &(&Mark, &Version)| {
            version.is_acknowledged && !version.is_given_up && !there.contains(mark)
        };
        let lost = self.versions.iter().filter(is_lost);
        lost.map(|(mark, _)| *mark).collect()
    }

    /// What is known of a version, for people.
    pub fn tell(&self, mark: Mark) -> String {
        format!("{mark}: {:?}", self.versions.get(&mark))
    }
}

/// The bytes of a block.
pub fn block(mark: Mark, number: usize, len: usize) -> Vec<u8> {
    let mut bytes = format!("larder {mark:016x} {number:014x}\n").into_bytes();
    let mut state = mark << 20 ^ number as u64 | 1;
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The bytes of a version that is one write's.
pub fn bytes(mark: Mark, len: usize) -> Vec<u8> {
    let blocks =
        (0..len.div_ceil(BLOCK)).map(|number| block(mark, number, BLOCK.min(len - number * BLOCK)));
    blocks.flatten().collect()
}

/// By which write a block is; `None`: it is zeros.
fn mark_of(number: usize, bytes: &[u8]) -> Result<Option<Mark>, String> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let mark = bytes
        .get(..HEAD)
        .and_then(|head| std::str::from_utf8(head).ok())
        .and_then(|head| head.strip_prefix("larder "))
        .and_then(|head| Mark::from_str_radix(head.get(..16)?, 16).ok());
    match mark {
        Some(mark) if block(mark, number, bytes.len()) == bytes => Ok(Some(mark)),
        _ => Err(format!("block {number} was written by nobody")),
    }
}

#[test]
fn what_is_lost_mixed_or_damaged_is_found() {
    let mut ledger = Ledger::default();
    let len = 2 * BLOCK + 100;
    let first = ledger.new_version(len, Way::Whole);
    let read = |bytes: &[u8]| Content::of(bytes).unwrap();
    let mut stored = bytes(first, len);
    assert!(ledger.is_whole(&read(&stored)));
    assert!(ledger.lost(&BTreeSet::new()).is_empty());
    ledger.acknowledged(first);
    assert_eq!(ledger.lost(&BTreeSet::new()), [first]);
    assert!(ledger.lost(&BTreeSet::from([first])).is_empty());

    // A part of what nobody could see in parts, a byte that changed, a block at another place.
    ledger.check(&read(&stored[..BLOCK]), false).unwrap_err();
    ledger.check(&read(&stored[..BLOCK]), true).unwrap();
    stored[BLOCK + 77] ^= 1;
    Content::of(&stored).unwrap_err();
    Content::of(&block(first, 1, BLOCK)).unwrap_err();
    let unknown = bytes(99, 100);
    ledger.check(&read(&unknown), true).unwrap_err();

    // An edit that is half done is neither version, and may be seen.
    let edit = ledger.new_edit(first, 2).unwrap();
    let mut half = bytes(first, len);
    half[..BLOCK].copy_from_slice(&block(edit, 0, BLOCK));
    assert!(!ledger.is_whole(&read(&half)));
    ledger.check(&read(&half), false).unwrap();
    half[2 * BLOCK..].copy_from_slice(&block(edit, 2, 100));
    assert!(ledger.is_whole(&read(&half)));
    ledger.give_up(first);
    ledger.acknowledged(edit);
    assert_eq!(ledger.lost(&BTreeSet::from([first])), [edit]);
}

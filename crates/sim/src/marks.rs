//! What users write: records, each with a mark of its own.
//!
//! A file is a sequence of records. Each says its number, its length, and has bytes that follow from
//! the number; so a look at a file tells whose writes are in it, and whether they are whole.

use crate::ground::Dice;

const MAGIC: u32 = 0x4d41_524b;
const HEAD: usize = 12;

/// The number of a record; no two writes have the same.
pub type Mark = u32;

/// A record of so many bytes behind its head.
pub fn record(mark: Mark, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + len);
    for word in [MAGIC, mark, len as u32] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&noise(mark, len));
    bytes
}

/// Bytes that do not compress.
fn noise(mark: Mark, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Dice::new(u64::from(mark)).fill(&mut bytes);
    bytes
}

/// What is in a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Its whole records: the mark of each, where it begins, and how long it is.
    pub records: Vec<(Mark, usize, usize)>,
    /// Whether there is something else in it.
    pub is_torn: bool,
}

impl Found {
    /// The marks in it.
    pub fn marks(&self) -> impl Iterator<Item = Mark> + '_ {
        self.records.iter().map(|(mark, ..)| *mark)
    }
}

/// Finds the records in a file.
pub fn find(bytes: &[u8]) -> Found {
    let mut found = Found::default();
    let mut at = 0;
    while at < bytes.len() {
        match whole_record(&bytes[at..]) {
            Some((mark, len)) => {
                found.records.push((mark, at, len));
                at += len;
            }
            None => {
                found.is_torn = true;
                at += 1;
            }
        }
    }
    found
}

fn whole_record(bytes: &[u8]) -> Option<(Mark, usize)> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    if word(0)? != MAGIC {
        return None;
    }
    let (mark, len) = (word(4)?, word(8)? as usize);
    let body = bytes.get(HEAD..HEAD.checked_add(len)?)?;
    (body == noise(mark, len)).then_some((mark, HEAD + len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_and_what_is_between_them_is_seen() {
        let mut bytes = record(7, 100);
        bytes.extend(record(8, 0));
        let found = find(&bytes);
        assert_eq!(found.marks().collect::<Vec<_>>(), [7, 8]);
        assert!(!found.is_torn);
        bytes[50] ^= 1;
        let found = find(&bytes);
        assert_eq!(found.marks().collect::<Vec<_>>(), [8]);
        assert!(found.is_torn);
        assert!(find(&record(9, 40)[..30]).is_torn);
    }
}

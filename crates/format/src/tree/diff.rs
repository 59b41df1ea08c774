//! What differs between two trees, reading only the pages that do.

use super::Tree;
use super::cursor::{Cursor, Frame, value};
use crate::PageSource;

/// An entry that differs: put, changed or removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Its value in the old tree.
    pub old: Option<&'a [u8]>,
    /// Its value in the new tree.
    pub new: Option<&'a [u8]>,
}

/// Gives every entry in which the new tree differs from the old, in order of the keys. The
/// trees must be of one kind.
///
/// # Errors
/// Those of `source` and `each`; that a page is damaged.
pub fn diff<S: PageSource>(
    old: &Tree,
    new: &Tree,
    source: &mut S,
    mut each: impl FnMut(Difference<'_>) -> Result<(), S::Error>,
) -> Result<(), S::Error> {
    if old == new {
        return Ok(());
    }
    let mut left = Cursor::open(old, source)?;
    let mut right = Cursor::open(new, source)?;
    for cursor in [&mut left, &mut right] {
        // An empty tree has a page without an entry to be at.
        if cursor.top().is_some_and(|top| top.page.len() == 0) {
            cursor.advance();
        }
    }
    loop {
        let step = Step::next(left.top(), right.top());
        let entry = |frame: Option<&Frame<S::Bytes>>, source: &mut S| {
            let frame = frame.map(|frame| (frame.key().to_vec(), frame.tail()));
            frame
                .map(|(key, tail)| Ok::<_, S::Error>((value(old.kind, &key, tail, source)?, key)))
                .transpose()
        };
        let (mut was, mut is) = (None, None);
        match step {
            Step::End => return Ok(()),
            Step::DescendLeft => left.descend(source)?,
            Step::DescendRight => right.descend(source)?,
            Step::Same => {}
            Step::Left => was = entry(left.top(), source)?,
            Step::Right => is = entry(right.top(), source)?,
            Step::Both => {
                was = entry(left.top(), source)?;
                is = entry(right.top(), source)?;
            }
        }
        if let Some((_, key)) = was.as_ref().or(is.as_ref()) {
            each(Difference {
                key,
                old: was.as_ref().map(|(value, _)| value.as_slice()),
                new: is.as_ref().map(|(value, _)| value.as_slice()),
            })?;
        }
        if matches!(step, Step::Left | Step::Both | Step::Same) {
            left.advance();
        }
        if matches!(step, Step::Right | Step::Both | Step::Same) {
            right.advance();
        }
    }
}

/// What to do next, by what the two cursors are at.
#[derive(Clone, Copy)]
enum Step {
    /// Both are at the end.
    End,
    /// Go down into the left page, or the right one.
    DescendLeft,
    DescendRight,
    /// Both are at the same entry or the same page.
    Same,
    /// Both are at one key with two values.
    Both,
    /// The entry on the left, or on the right, has no partner.
    Left,
    Right,
}

impl Step {
    fn next<B: AsRef<[u8]>>(left: Option<&Frame<B>>, right: Option<&Frame<B>>) -> Self {
        let (left, right) = match (left, right) {
            (None, None) => return Self::End,
            (Some(left), None) if left.page.level > 0 => return Self::DescendLeft,
            (Some(_), None) => return Self::Left,
            (None, Some(right)) if right.page.level > 0 => return Self::DescendRight,
            (None, Some(_)) => return Self::Right,
            (Some(left), Some(right)) => (left, right),
        };
        let is_before = |a: &Frame<B>, b: &Frame<B>| b.lower().is_some_and(|low| a.key() <= low);
        match (left.page.level, right.page.level) {
            (0, 0) => match left.key().cmp(right.key()) {
                std::cmp::Ordering::Less => Self::Left,
                std::cmp::Ordering::Greater => Self::Right,
                std::cmp::Ordering::Equal if left.tail() == right.tail() => Self::Same,
                std::cmp::Ordering::Equal => Self::Both,
            },
            (0, _) if is_before(left, right) => Self::Left,
            (_, 0) if is_before(right, left) => Self::Right,
            (a, b) if a == b && left.tail() == right.tail() => Self::Same,
            (a, b) if a >= b => Self::DescendLeft,
            _ => Self::DescendRight,
        }
    }
}

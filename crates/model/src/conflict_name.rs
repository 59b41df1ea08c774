//! The name of what could not keep its own: `name (conflict, REPLICA, 2026-11-21).ext`.

use crate::{Hlc, Kind, Name};

const BEFORE: &[u8] = b" (conflict, ";
/// A longer ending is no file type, and stays with the rest of the name.
const MOST_EXTENSION: usize = 24;
const MOST_LABEL: usize = 40;

/// What the name says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark<'a> {
    /// Whose version it is.
    pub(crate) replica: &'a str,
    /// When that was written.
    pub(crate) time: Hlc,
    /// What tells it from another of the same replica and day.
    pub(crate) tag: Option<&'a str>,
}

/// The name with the mark, in the place of a mark that it has already. What is too long is
/// cut before the mark.
pub(crate) fn conflict_name(name: &Name, kind: Kind, mark: Mark<'_>) -> Name {
    let (stem, extension) = split(name.as_bytes(), kind);
    let stem = without_mark(stem);
    let mut marked = BEFORE.to_vec();
    marked.extend_from_slice(label(mark.replica).as_bytes());
    marked.extend_from_slice(format!(", {}", date(mark.time)).as_bytes());
    if let Some(tag) = mark.tag {
        marked.extend_from_slice(format!(", {tag}").as_bytes());
    }
    marked.push(b')');
    marked.extend_from_slice(extension);
    let stem = cut(stem, Name::MAX.saturating_sub(marked.len()));
    // It is short enough, and has no byte that the name did not have: so it is a name.
    Name::new([stem, marked.as_slice()].concat()).unwrap_or_else(|_| name.clone())
}

/// What the name of a conflict says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConflictName {
    /// The name that it could not keep.
    pub plain: Name,
    /// Whose version it is.
    pub replica: String,
    /// The day on which that was written, as `2026-11-21`, in UTC.
    pub day: String,
    /// The name without the word that it is a conflict: `name (REPLICA, 2026-11-21).ext`.
    pub settled: Name,
}

impl ConflictName {
    /// Reads the name of a node of that kind; `None` if it is not the name of a conflict.
    pub fn parse(name: &Name, kind: Kind) -> Option<Self> {
        let (marked, extension) = split(name.as_bytes(), kind);
        let stem = without_mark(marked);
        let mark = marked.get(stem.len()..)?.strip_prefix(BEFORE)?;
        let mark = std::str::from_utf8(mark.strip_suffix(b")")?).ok()?;
        let mut parts = mark.split(", ");
        let (replica, day) = (parts.next()?, parts.next()?);
        if replica.is_empty() || !is_day(day) || parts.nth(1).is_some() {
            return None;
        }
        let settled = [stem, b" (", mark.as_bytes(), b")", extension].concat();
        Some(Self {
            plain: Name::new([stem, extension].concat()).ok()?,
            replica: replica.to_owned(),
            day: day.to_owned(),
            settled: Name::new(settled).ok()?,
        })
    }
}

fn is_day(text: &str) -> bool {
    let is_right = |(at, c): (usize, char)| match at {
        4 | 7 => c == '-',
        _ => c.is_ascii_digit(),
    };
    text.len() == 10 && text.chars().enumerate().all(is_right)
}

/// A name before its extension, and the extension with its dot.
fn split(name: &[u8], kind: Kind) -> (&[u8], &[u8]) {
    let dot = name.iter().rposition(|&byte| byte == b'.');
    match dot {
        Some(at) if at > 0 && kind != Kind::Directory && name.len() - at <= MOST_EXTENSION => {
            name.split_at(at)
        }
        _ => (name, b""),
    }
}

fn without_mark(stem: &[u8]) -> &[u8] {
    let at = stem
        .windows(BEFORE.len())
        .rposition(|window| window == BEFORE);
    match at {
        Some(at) if at > 0 && stem.ends_with(b")") => stem.get(..at).unwrap_or(stem),
        _ => stem,
    }
}

/// At most so many bytes, and no half of a character of UTF-8.
fn cut(stem: &[u8], most: usize) -> &[u8] {
    let is_inside = |at: usize| stem.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let mut at = most.min(stem.len());
    for _ in 0..3 {
        if at > 0 && is_inside(at) {
            at -= 1;
        }
    }
    stem.get(..at).unwrap_or(stem)
}

/// A replica's name as it can stand in a name of a file, and be told from what is around.
fn label(replica: &str) -> String {
    let kept = |c: &char| !c.is_control() && !"/(),".contains(*c);
    let mut label = String::new();
    for c in replica.chars().filter(kept) {
        if label.len() + c.len_utf8() > MOST_LABEL {
            break;
        }
        label.push(c);
    }
    label
}

/// The day of a time, in UTC.
fn date(time: Hlc) -> String {
    const NANOS_PER_DAY: u64 = 86_400 * 1_000_000_000;
    let is_leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    // A time is of the years 1970 to 2554, so this ends soon.
    let (mut days, mut year) = (time.0 / NANOS_PER_DAY, 1970);
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    format!("{year:04}-{month:02}-{:02}", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Hlc = Hlc(1_795_248_000_000_000_000);

    fn marked(name: &[u8], kind: Kind, tag: Option<&str>) -> String {
        let mark = Mark {
            replica: "lap/top (A)",
            time: TIME,
            tag,
        };
        let name = conflict_name(&Name::new(name).unwrap(), kind, mark);
        String::from_utf8_lossy(name.as_bytes()).into_owned()
    }

    #[test]
    fn the_mark_stands_before_the_extension() {
        for (name, kind, with) in [
            (
                "a.txt",
                Kind::File,
                "a (conflict, laptop A, 2026-11-21).txt",
            ),
            (
                "a.b",
                Kind::Directory,
                "a.b (conflict, laptop A, 2026-11-21)",
            ),
            (".rc", Kind::File, ".rc (conflict, laptop A, 2026-11-21)"),
        ] {
            assert_eq!(marked(name.as_bytes(), kind, None), with);
        }
    }

    #[test]
    fn a_mark_is_replaced_by_another() {
        let once = marked(b"a.txt", Kind::File, None);
        let twice = marked(once.as_bytes(), Kind::File, Some("07"));
        assert_eq!(twice, "a (conflict, laptop A, 2026-11-21, 07).txt");
    }

    #[test]
    fn what_a_mark_says_is_read_again() {
        for (name, kind) in [
            ("a.txt", Kind::File),
            ("a.b", Kind::Directory),
            (".rc", Kind::File),
            ("a (1).tar.gz", Kind::File),
        ] {
            for tag in [None, Some("07")] {
                let with = marked(name.as_bytes(), kind, tag);
                let read = ConflictName::parse(&Name::new(with.as_bytes()).unwrap(), kind).unwrap();
                assert_eq!(read.plain.as_bytes(), name.as_bytes());
                assert_eq!((&*read.replica, &*read.day), ("laptop A", "2026-11-21"));
                let settled = with.replace("conflict, ", "");
                assert_eq!(read.settled.as_bytes(), settled.as_bytes());
            }
        }
        for other in [
            "a.txt",
            "a (conflict).txt",
            "a (conflict, x).txt",
            "a (conflict, x, 2026-1-21).txt",
            "a (conflict, x, 2026-11-21) b",
            "a (conflict, , 2026-11-21)",
            " (conflict, x, 2026-11-21)",
            "a (conflict, x, 2026-11-21, 07, 08)",
        ] {
            let name = Name::new(other.as_bytes()).unwrap();
            assert_eq!(ConflictName::parse(&name, Kind::File), None, "{other}");
        }
    }

    #[test]
    fn the_longest_name_stays_a_name_and_keeps_its_extension() {
        for name in ["ä".repeat(125) + ".jpg", "x".repeat(255)] {
            let with = marked(name.as_bytes(), Kind::File, Some("07"));
            assert!(with.len() <= Name::MAX && with.contains(", 2026-11-21, 07)"));
            assert!(!with.contains('\u{fffd}'), "{with}");
            assert_eq!(with.ends_with(".jpg"), name.ends_with(".jpg"));
        }
        marked(&[0x80; 255], Kind::File, None);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let day = |n: u64| date(Hlc(n * 86_400_000_000_000));
        assert_eq!(day(0), "1970-01-01");
        assert_eq!(day(59), "1970-03-01");
        assert_eq!(day(11_016), "2000-02-29");
        assert_eq!(day(47_540), "2100-02-28");
        assert_eq!(day(47_541), "2100-03-01");
        assert_eq!(date(Hlc(u64::MAX)), "2554-07-21");
    }
}

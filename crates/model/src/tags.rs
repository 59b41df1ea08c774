//! Tags: names that replicas give to commits.
//!
//! Each replica has a list of its own: the tags that it gave, and which tags, of whomever, it took
//! back. What is shown follows from all lists together: a tag that nobody took back. So no list
//! of one replica undoes what another's says, in whatever order they come.
//!
//! Two replicas may give one name to different commits. Then both are shown: the one that was given
//! first has the name, the other has it with the start of its replica's id: `v1 (3fab12cd)`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::{ChunkId, Hlc, ReplicaId};

/// So many digits of a replica's id tell tags of one name apart.
const DIGITS: usize = 8;

/// A name of a commit: text without `/` and control characters, of 1 to 200 bytes. It begins with a
/// letter or a digit, does not end with a space, and has no ` (` in it, which stands before a
/// replica.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TagName(String);

impl TagName {
    /// The longest, in bytes.
    pub const MAX: usize = 200;

    /// From text; `None` if it is no such name.
    pub fn new(text: &str) -> Option<Self> {
        let is_right = text.len() <= Self::MAX
            && text.starts_with(char::is_alphanumeric)
            && !text.ends_with(' ')
            && !text.contains(" (")
            && !text.contains(|c: char| c == '/' || c.is_control());
        is_right.then(|| Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TagName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One replica's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tags {
    /// The tags that it gave, each at a time of its own.
    pub given: BTreeMap<Hlc, (TagName, ChunkId)>,
    /// Tags that it took back: who gave each, and when.
    pub taken_back: BTreeSet<(ReplicaId, Hlc)>,
}

/// A tag as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownTag {
    /// Its name, with the replica if another commit has the plain name.
    pub label: String,
    /// The commit.
    pub commit: ChunkId,
    /// Who gave the name to the commit, and when; the first one first.
    pub given: Given,
}

type Given = Vec<(Hlc, ReplicaId)>;

impl Tags {
    /// Adds what another list of the same replica has.
    pub fn join(&mut self, other: &Self) {
        for (time, tag) in &other.given {
            self.given.entry(*time).or_insert_with(|| tag.clone());
        }
        self.taken_back.extend(&other.taken_back);
    }

    /// The time of the next tag, when the wall clock shows `wall_nanos`.
    pub fn next_time(&self, wall_nanos: u64) -> Hlc {
        let last = self.given.keys().next_back().copied();
        last.unwrap_or_default().next(wall_nanos)
    }
}

/// What these lists show together, by name.
pub fn shown_tags(lists: &BTreeMap<ReplicaId, Tags>) -> Vec<ShownTag> {
    let taken_back: BTreeSet<_> = lists.values().flat_map(|list| &list.taken_back).collect();
    let mut named: BTreeMap<&TagName, BTreeMap<ChunkId, Given>> = BTreeMap::new();
    for (replica, list) in lists {
        for (time, (name, commit)) in &list.given {
            if !taken_back.contains(&(*replica, *time)) {
                let commits = named.entry(name).or_default();
                commits.entry(*commit).or_default().push((*time, *replica));
            }
        }
    }
    let mut shown = Vec::new();
    for (name, commits) in named {
        let mut tags: Vec<_> = commits
            .into_iter()
            .map(|(commit, mut given)| {
                given.sort_unstable();
                ShownTag {
                    label: String::new(),
                    commit,
                    given,
                }
            })
            .collect();
        tags.sort_unstable_by(|a, b| (&a.given, a.commit).cmp(&(&b.given, b.commit)));
        let mut used = BTreeSet::new();
        for (place, mut tag) in tags.into_iter().enumerate() {
            tag.label = match (place, tag.given.first()) {
                (1.., Some((_, replica))) => told_apart(name, replica, &mut used),
                _ => name.to_string(),
            };
            shown.push(tag);
        }
    }
    shown
}

fn told_apart(name: &TagName, replica: &ReplicaId, used: &mut BTreeSet<String>) -> String {
    let digits: String = replica.to_string().chars().take(DIGITS).collect();
    let mut label = format!("{name} ({digits})");
    let mut again = 2;
    while !used.insert(label.clone()) {
        label = format!("{name} ({digits}, {again})");
        again += 1;
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(given: &[(u64, &str, u8)], taken_back: &[(u8, u64)]) -> Tags {
        let given = given.iter().map(|&(time, name, commit)| {
            let name = TagName::new(name).unwrap();
            (Hlc(time), (name, ChunkId([commit; 32])))
        });
        let taken_back = taken_back
            .iter()
            .map(|&(replica, time)| (ReplicaId([replica; 32]), Hlc(time)));
        Tags {
            given: given.collect(),
            taken_back: taken_back.collect(),
        }
    }

    fn shown(lists: &[(u8, Tags)]) -> Vec<(String, u8)> {
        let lists = lists
            .iter()
            .map(|(replica, list)| (ReplicaId([*replica; 32]), list.clone()))
            .collect();
        shown_tags(&lists)
            .into_iter()
            .map(|tag| (tag.label, tag.commit.0[0]))
            .collect()
    }

    fn labels(expected: &[(&str, u8)]) -> Vec<(String, u8)> {
        let owned = |&(label, commit): &(&str, u8)| (label.to_owned(), commit);
        expected.iter().map(owned).collect()
    }

    #[test]
    fn one_name_of_two_commits_is_shown_for_both() {
        let one = (1, list(&[(5, "v1", 10), (6, "v2", 11)], &[]));
        let two = (2, list(&[(4, "v1", 20), (7, "v2", 11)], &[]));
        let both = labels(&[("v1", 20), ("v1 (01010101)", 10), ("v2", 11)]);
        assert_eq!(shown(&[one.clone(), two.clone()]), both);
        assert_eq!(shown(&[two, one]), both);
    }

    #[test]
    fn one_replica_that_gives_a_name_thrice_is_told_apart_from_itself() {
        let one = (1, list(&[(1, "v", 1), (2, "v", 2), (3, "v", 3)], &[]));
        let all = labels(&[("v", 1), ("v (01010101)", 2), ("v (01010101, 2)", 3)]);
        assert_eq!(shown(&[one]), all);
    }

    #[test]
    fn a_tag_is_taken_back_by_anyone_and_may_be_given_anew() {
        let one = (1, list(&[(5, "v1", 10)], &[]));
        let two = (2, list(&[], &[(1, 5)]));
        assert_eq!(shown(&[one.clone(), two.clone()]), []);
        let again = (1, list(&[(5, "v1", 10), (8, "v1", 12)], &[]));
        assert_eq!(shown(&[again, two]), labels(&[("v1", 12)]));
        assert_eq!(shown(&[one]), labels(&[("v1", 10)]));
    }

    #[test]
    fn each_tag_has_a_time_of_its_own() {
        let list = list(&[(5, "v1", 10)], &[]);
        assert_eq!(list.next_time(3), Hlc(6));
        assert_eq!(list.next_time(9), Hlc(9));
        assert_eq!(Tags::default().next_time(9), Hlc(9));
    }

    #[test]
    fn what_is_a_name_is_one() {
        for right in ["v1", "before the move", "\u{e4}lter", "1.0"] {
            assert_eq!(TagName::new(right).unwrap().as_str(), right);
        }
        let long = "x".repeat(TagName::MAX + 1);
        for wrong in [
            "", ".", "..", "-x", " x", "x ", "a/b", "a\nb", "v1 (x)", &long,
        ] {
            assert_eq!(TagName::new(wrong), None, "{wrong:?}");
        }
    }
}

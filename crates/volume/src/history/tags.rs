//! Names of commits: given, taken back and looked up here.
//!
//! The database has the newest list of each replica that was seen, this one's too. To give a name
//! changes this replica's list, durably, and notes that it is due; `push/tags.rs` puts it on the
//! store, and brings those of others.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use larder_format::{decode_tags, encode_tags};
use larder_model::{ChunkId, ReplicaId, ShownTag, TagName, Tags, shown_tags};
use rusqlite::Connection;

use super::{Moment, Which};
use crate::db::{Transaction, set_meta};
use crate::{Result, Volume, VolumeError, node};

/// What the rows of `meta` begin with that hold the lists.
const LIST: &str = "tags/";
/// The row of `meta` with the id of this replica, if its list is to be put on the store.
const DUE: &str = "tags_due";

/// A replica's list, and its number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Numbered {
    pub(crate) n: u64,
    pub(crate) tags: Tags,
}

/// The lists that were seen.
///
/// # Errors
/// If the database fails or is damaged.
pub(crate) fn tag_lists(connection: &Connection) -> Result<BTreeMap<ReplicaId, Numbered>> {
    let mut statement = connection
        .prepare_cached("SELECT key, value FROM meta WHERE key >= 'tags/' AND key < 'tags0'")?;
    let mut rows = statement.query([])?;
    let mut lists = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (key, value): (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let replica = key.strip_prefix(LIST).and_then(|id| id.parse().ok());
        let (Some(replica), Some((n, list))) = (replica, value.split_first_chunk()) else {
            return Err(VolumeError::Damaged(
                "the database's lists of tags are damaged".to_owned(),
            ));
        };
        let (n, tags) = (u64::from_be_bytes(*n), decode_tags(list)?);
        lists.insert(replica, Numbered { n, tags });
    }
    Ok(lists)
}

/// Keeps a replica's list.
///
/// # Errors
/// If it is too long, or the database fails.
pub(crate) fn keep_tag_list(
    tx: &Transaction<'_>,
    replica: &ReplicaId,
    list: &Numbered,
) -> Result<()> {
    let value = [list.n.to_be_bytes().as_slice(), &encode_tags(&list.tags)?].concat();
    set_meta(tx, &format!("{LIST}{replica}"), &value)
}

/// Whose list is to be put on the store: this replica's, under the id that it had then.
///
/// # Errors
/// If the database fails.
pub(crate) fn due_tags(connection: &Connection) -> Result<Option<ReplicaId>> {
    let due = crate::db::meta(connection, DUE)?;
    Ok(due.and_then(|id| ReplicaId::from_slice(&id)))
}

/// Notes that this replica's list is to be put, or that it was.
///
/// # Errors
/// If the database fails.
pub(crate) fn set_due_tags(tx: &Transaction<'_>, due: Option<&ReplicaId>) -> Result<()> {
    match due {
        Some(replica) => set_meta(tx, DUE, replica.as_bytes()),
        None => {
            tx.execute("DELETE FROM meta WHERE key = ?1", [DUE])?;
            Ok(())
        }
    }
}

/// The commits that have a name, as far as it was heard of. History is never forgotten from
/// under them.
///
/// # Errors
/// If the database fails or is damaged.
pub(crate) fn tagged_commits(connection: &Connection) -> Result<BTreeSet<ChunkId>> {
    Ok(shown(connection)?
        .into_iter()
        .map(|tag| tag.commit)
        .collect())
}

/// The commits that this replica gave a name to and nobody took it back.
///
/// # Errors
/// If the database fails or is damaged.
pub(crate) fn commits_named_by(
    connection: &Connection,
    replica: &ReplicaId,
) -> Result<BTreeSet<ChunkId>> {
    let is_own = |tag: &ShownTag| tag.given.iter().any(|(_, by)| by == replica);
    let named = shown(connection)?.into_iter().filter(is_own);
    Ok(named.map(|tag| tag.commit).collect())
}

fn shown(connection: &Connection) -> Result<Vec<ShownTag>> {
    let lists = tag_lists(connection)?;
    let lists = lists
        .into_iter()
        .map(|(replica, list)| (replica, list.tags));
    Ok(shown_tags(&lists.collect()))
}

impl Volume {
    /// The names of commits, in order.
    ///
    /// # Errors
    /// If the database fails or is damaged.
    pub fn tags(&self) -> Result<Vec<ShownTag>> {
        self.db.read_snapshot(shown)
    }

    /// The names of each commit that has one.
    ///
    /// # Errors
    /// If the database fails or is damaged.
    pub fn tags_by_commit(&self) -> Result<HashMap<ChunkId, Vec<String>>> {
        let mut names: HashMap<ChunkId, Vec<String>> = HashMap::new();
        for tag in self.tags()? {
            names.entry(tag.commit).or_default().push(tag.label);
        }
        Ok(names)
    }

    /// The commits that have a name, as far as it was heard of: those are kept.
    ///
    /// # Errors
    /// If the database fails or is damaged.
    pub fn tagged_commits(&self) -> Result<BTreeSet<ChunkId>> {
        self.db.read_snapshot(tagged_commits)
    }

    /// The commit of this name.
    pub(super) fn tagged(&self, label: &str) -> Result<Option<ChunkId>> {
        let tag = self.tags()?.into_iter().find(|tag| tag.label == label);
        Ok(tag.map(|tag| tag.commit))
    }

    /// Gives a stored commit a name; it lies on this disk when that returns, and goes to the
    /// store soon.
    ///
    /// # Errors
    /// If it is no name or another commit's, the commit is not stored yet or was given up, or the
    /// database fails.
    pub fn tag(&self, moment: &Moment, name: &str) -> Result<()> {
        let name = valid(name)?;
        if !self.is_stored(moment)? {
            return Err(VolumeError::State(format!(
                "commit {} is not stored yet. Tag it when it is: `larder commit` waits for that",
                moment.commit.n
            )));
        }
        if self.is_given_up(&moment.id)? {
            return Err(VolumeError::State(format!(
                "commit {} was given up: `larder history` says how much of the past is kept",
                moment.commit.n
            )));
        }
        let replica = self.replica().id();
        self.db.write_synced(|tx| {
            if let Some(tag) = shown(tx)?.iter().find(|tag| tag.label == name.as_str()) {
                return match tag.commit == moment.id {
                    true => Ok(()),
                    false => Err(VolumeError::State(format!(
                        "{name} is the name of commit {} already. `larder tag --delete` takes it \
                         back first",
                        tag.commit
                    ))),
                };
            }
            let mut list = own(tx, &replica)?;
            let wall = u64::try_from(node::now().0).unwrap_or(0);
            let time = list.tags.next_time(wall);
            list.tags.given.insert(time, (name.clone(), moment.id));
            keep_tag_list(tx, &replica, &list)?;
            set_due_tags(tx, Some(&replica))
        })?;
        self.others_changed();
        Ok(())
    }

    /// Takes a name back, whoever gave it; answers the commit. The commit stays.
    ///
    /// # Errors
    /// If there is no such name, or the database fails.
    pub fn take_tag_back(&self, label: &str) -> Result<ChunkId> {
        let replica = self.replica().id();
        let commit = self.db.write_synced(|tx| {
            let Some(tag) = shown(tx)?.into_iter().find(|tag| tag.label == label) else {
                return Err(VolumeError::State(format!(
                    "no commit has the name {label:?}. `larder tag` lists all names"
                )));
            };
            let mut list = own(tx, &replica)?;
            for (time, by) in tag.given {
                match by == replica {
                    true => drop(list.tags.given.remove(&time)),
                    false => drop(list.tags.taken_back.insert((by, time))),
                }
            }
            keep_tag_list(tx, &replica, &list)?;
            set_due_tags(tx, Some(&replica))?;
            Ok(tag.commit)
        })?;
        self.others_changed();
        Ok(commit)
    }
}

/// This replica's list.
fn own(connection: &Connection, replica: &ReplicaId) -> Result<Numbered> {
    let (lists, due) = (tag_lists(connection)?, due_tags(connection)?);
    Ok(own_list(&lists, due, replica))
}

/// This replica's list; with what it had to put under an earlier id.
pub(crate) fn own_list(
    lists: &BTreeMap<ReplicaId, Numbered>,
    due: Option<ReplicaId>,
    replica: &ReplicaId,
) -> Numbered {
    let mut list = lists.get(replica).cloned().unwrap_or_default();
    if let Some(earlier) = due.filter(|due| due != replica)
        && let Some(earlier) = lists.get(&earlier)
    {
        list.tags.join(&earlier.tags);
    }
    list
}

/// A name that nobody takes for a time, a number or an id.
fn valid(text: &str) -> Result<TagName> {
    let refused = |why: &str| VolumeError::State(format!("{text:?} cannot name a commit: {why}"));
    let name = TagName::new(text).ok_or_else(|| {
        refused(
            "a name begins with a letter or a digit, has at most 200 bytes and neither `/`, ` (` \
             nor control characters in it, and no space at its end",
        )
    })?;
    match Which::parse(text) {
        Some(Which::Name(_)) if !Which::is_number_or_id(text) => Ok(name),
        _ => Err(refused("it would be taken for a time, a number or an id")),
    }
}

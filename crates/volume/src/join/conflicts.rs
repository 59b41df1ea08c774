//! Conflicts: what was changed on two machines, and stands side by side.
//!
//! A conflict is a name in the tree ([`ConflictName`]), and nothing else: whoever gives the file
//! another name, or deletes it, has resolved it, with any tool and on any machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use larder_model::{ConflictName, Kind, Name, Time};
use rusqlite::Connection;

use crate::history::shown;
use crate::progress::Report;
use crate::{Ino, Result, Volume, VolumeError};

/// A file that stands there more than once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The path that all of them had, from the root.
    pub path: Vec<u8>,
    /// The one that has it still, if one does, then the others, in the order of their names.
    pub versions: Vec<Version>,
}

/// One of the versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Where it is, from the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// How long it is, in bytes.
    pub size: u64,
    /// When its content changed last.
    pub modified: Time,
    /// Whose it is, and of which day (`2026-11-21`); `None` if it has the name.
    pub mark: Option<(String, String)>,
}

/// Which version is to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// This one, by its place among [`Conflict::versions`]. The others go.
    One(usize),
    /// Each, under a name of its own.
    All,
}

/// What became of a conflict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Paths of what is there now.
    pub kept: Vec<Vec<u8>>,
    /// Paths of what is not any more. `undelete` brings it back.
    pub removed: Vec<Vec<u8>>,
}

/// A name in a directory, and what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Marked {
    name: Name,
    says: ConflictName,
}

impl Volume {
    /// All conflicts, in the order of their paths.
    ///
    /// # Errors
    /// If the database fails.
    pub fn conflicts(&self) -> Result<Vec<Conflict>> {
        let marked = self.db.read_snapshot(marked)?;
        let mut conflicts = marked
            .into_iter()
            .map(|((parent, plain), copies)| self.conflict(parent, &plain, &copies))
            .collect::<Result<Vec<_>>>()?;
        conflicts.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(conflicts)
    }

    /// How many conflicts there are.
    ///
    /// # Errors
    /// If the database fails.
    pub fn count_conflicts(&self) -> Result<u64> {
        let all = self.db.read_snapshot(marked)?;
        Ok(all.len() as u64)
    }

    /// Ends the conflict at `path`, which may be the path of any of its versions. What goes is in
    /// a commit before it goes: else nothing is done.
    ///
    /// # Errors
    /// If there is no conflict or no such version, something of it is a directory that would go,
    /// or is being changed, or the database fails.
    pub async fn resolve_conflict(
        self: &Arc<Self>,
        path: &[u8],
        keep: Keep,
        report: Report<'_>,
    ) -> Result<Resolved> {
        let Keep::One(which) = keep else {
            return tokio::task::block_in_place(|| self.keep_all(path));
        };
        // Which one is meant, before anything else can come while this waits for the store.
        let (_, _, meant) = tokio::task::block_in_place(|| self.conflict_at(path))?;
        self.commit(None, report).await?;
        tokio::task::block_in_place(|| self.keep_one(path, which, &meant))
    }

    fn keep_one(&self, path: &[u8], which: usize, meant: &Conflict) -> Result<Resolved> {
        let (parent, plain, conflict) = self.conflict_at(path)?;
        let paths = |conflict: &Conflict| -> Vec<Vec<u8>> {
            let versions = conflict.versions.iter();
            versions.map(|version| version.path.clone()).collect()
        };
        if paths(&conflict) != paths(meant) {
            return Err(VolumeError::State(format!(
                "the versions of {} have just changed. `larder conflicts` lists them as they are",
                shown(&conflict.path)
            )));
        }
        let Some(kept) = conflict.versions.get(which) else {
            return Err(VolumeError::State(format!(
                "{} has {} versions here",
                shown(&conflict.path),
                conflict.versions.len()
            )));
        };
        let others = || conflict.versions.iter().filter(|version| *version != kept);
        let is_directory = |version: &&Version| version.kind == Kind::Directory;
        if let Some(directory) = others().find(is_directory) {
            return Err(VolumeError::State(format!(
                "{} is a directory, and would go with all that is in it. Keep both, or move what \
                 you want to keep out of it and remove it",
                shown(&directory.path)
            )));
        }
        let mut resolved = Resolved::default();
        for other in others() {
            let name = last_name(&other.path)?;
            let has_the_name = other.path == conflict.path;
            let stays = match has_the_name {
                true => self.rename_over_stored(parent, &last_name(&kept.path)?, &plain)?,
                false => self.unlink_stored(parent, &name)?,
            };
            self.tell_of(parent, &[&name, &last_name(&kept.path)?]);
            if let Some(reason) = stays {
                return Err(VolumeError::State(format!(
                    "{} stays, and the conflict with it: {}",
                    shown(&other.path),
                    reason.words()
                )));
            }
            resolved.removed.push(other.path.clone());
        }
        let name = last_name(&kept.path)?;
        let is_renamed = kept.path == conflict.path || others().any(|o| o.path == conflict.path);
        if !is_renamed {
            let mode = crate::RenameMode::NoReplace;
            self.rename(parent, name.as_bytes(), parent, plain.as_bytes(), mode)?;
            self.tell_of(parent, &[&name, &plain]);
        }
        resolved.kept.push(conflict.path.clone());
        Ok(resolved)
    }

    fn keep_all(&self, path: &[u8]) -> Result<Resolved> {
        let (parent, _, conflict) = self.conflict_at(path)?;
        let mut resolved = Resolved::default();
        for version in &conflict.versions {
            let name = last_name(&version.path)?;
            let Some(says) = ConflictName::parse(&name, version.kind) else {
                resolved.kept.push(version.path.clone());
                continue;
            };
            let settled = self.settle_name(parent, &name, &says.settled)?;
            self.tell_of(parent, &[&name, &settled]);
            let mut path = version.path.clone();
            path.truncate(path.len() - name.as_bytes().len());
            path.extend_from_slice(settled.as_bytes());
            resolved.kept.push(path);
        }
        Ok(resolved)
    }

    /// Gives what has the name the name `settled`, or one like it that is free.
    fn settle_name(&self, parent: Ino, name: &Name, settled: &Name) -> Result<Name> {
        let mode = crate::RenameMode::NoReplace;
        for n in 1.. {
            let other = match n {
                1 => settled.clone(),
                n => numbered(settled, n)?,
            };
            match self.rename(parent, name.as_bytes(), parent, other.as_bytes(), mode) {
                Err(VolumeError::Exists) => {}
                renamed => return renamed.map(|()| other),
            }
        }
        Err(VolumeError::Exists)
    }

    fn tell_of(&self, parent: Ino, names: &[&Name]) {
        for name in names {
            self.notify
                .tell(|face| face.entry_changed(parent, name.as_bytes()));
        }
    }

    /// The conflict that the path is of, its directory and the name that it is about.
    fn conflict_at(&self, path: &[u8]) -> Result<(Ino, Name, Conflict)> {
        let split = path.iter().rposition(|&byte| byte == b'/');
        let above = split.map_or(&b""[..], |at| &path[..at]);
        let parent = self.resolve(above)?;
        let name = last_name(path)?;
        let marked = self.db.read_snapshot(marked)?;
        let found = marked.into_iter().find(|((of, plain), copies)| {
            *of == parent && (*plain == name || copies.iter().any(|copy| copy.name == name))
        });
        let Some(((_, plain), copies)) = found else {
            return Err(VolumeError::State(format!(
                "{} is not in conflict with anything. `larder conflicts` lists what is",
                shown(path)
            )));
        };
        let conflict = self.conflict(parent, &plain, &copies)?;
        Ok((parent, plain, conflict))
    }

    fn conflict(&self, parent: Ino, plain: &Name, copies: &[Marked]) -> Result<Conflict> {
        let mut above = self.path_of(parent)?.unwrap_or_default();
        if !above.is_empty() {
            above.push(b'/');
        }
        let path = |name: &Name| [&above, name.as_bytes()].concat();
        let mut versions = Vec::new();
        let marks = copies.iter().map(|copy| (&copy.name, Some(&copy.says)));
        for (name, says) in std::iter::once((plain, None)).chain(marks) {
            let Some(attr) = self.lookup(parent, name.as_bytes())? else {
                continue;
            };
            versions.push(Version {
                path: path(name),
                kind: attr.kind,
                size: attr.size,
                modified: attr.mtime,
                mark: says.map(|says| (says.replica.clone(), says.day.clone())),
            });
        }
        Ok(Conflict {
            path: path(plain),
            versions,
        })
    }
}

/// The names of conflicts, by directory and the name that they are about.
fn marked(connection: &Connection) -> Result<BTreeMap<(Ino, Name), Vec<Marked>>> {
    let mut statement = connection.prepare_cached(
        "SELECT parent, name, kind FROM dentries INDEXED BY dentries_conflict
         WHERE instr(name, x'2028636f6e666c6963742c20') > 0 ORDER BY parent, name",
    )?;
    let rows = statement.query_map([], |row| {
        let kind = crate::node::kind_of_code(row.get(2)?);
        Ok((
            row.get::<_, i64>(0)? as Ino,
            row.get::<_, Vec<u8>>(1)?,
            kind,
        ))
    })?;
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        let (parent, name, kind) = row?;
        let name = Name::new(name)?;
        if let Some(says) = ConflictName::parse(&name, kind) {
            let plain = (parent, says.plain.clone());
            found.entry(plain).or_default().push(Marked { name, says });
        }
    }
    Ok(found)
}

fn last_name(path: &[u8]) -> Result<Name> {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    Ok(Name::new(name)?)
}

/// Another name like this one, that is not too long.
fn numbered(name: &Name, n: u32) -> Result<Name> {
    let bytes = name.as_bytes();
    let dot = bytes.iter().rposition(|&byte| byte == b'.');
    let (stem, extension) = bytes.split_at(dot.filter(|&at| at > 0).unwrap_or(bytes.len()));
    let number = format!(" {n}");
    let most = Name::MAX.saturating_sub(number.len() + extension.len());
    let stem = &stem[..stem.len().min(most)];
    Ok(Name::new([stem, number.as_bytes(), extension].concat())?)
}

//! Which nodes stay local.
//!
//! Patterns in gitignore's syntax stand in the settings (for the whole tree) and in files
//! named `.larderignore` (for the directory they are in, and all below). The last pattern
//! that matches decides, a deeper file before a higher one; below a directory that stays
//! local all stays local.
//!
//! A rule holds for what no commit has yet: what was stored once goes on being stored, so a
//! new rule, or a move, never takes anything away from other machines.
//!
//! The rules are read by the thread that stores files, at the latest before the first file
//! they speak of. Whoever else asks is answered from what is known, so that asking needs no
//! content and may be done under a node's lock.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use larder_model::{Kind, Time};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};

use crate::db::{meta, set_meta};
use crate::{Ino, ROOT, Result, Volume, VolumeError};

/// The name of files with rules.
const RULES_NAME: &[u8] = b".larderignore";
/// What is longer is not read further.
const LONGEST_RULES: usize = 1 << 20;
/// So many directories are remembered.
const DIRECTORIES_KEPT: usize = 50_000;

/// All rules that are known.
#[derive(Debug)]
pub(super) struct Rules {
    settings: Arc<Gitignore>,
    known: Mutex<Known>,
    moved: Mutex<Vec<Ino>>,
}

#[derive(Debug, Default)]
struct Known {
    directories: HashMap<Ino, Arc<Directory>>,
    /// By the directory they are in.
    files: HashMap<Ino, RuleFile>,
}

/// A directory, as the rules see it.
#[derive(Debug)]
struct Directory {
    stays_local: bool,
    /// From the root, with a slash at the end; of the root empty.
    path: Vec<u8>,
    /// The patterns that speak of what is in it, the strongest last, each with how much of
    /// the path lies above the patterns' own directory.
    patterns: Vec<(usize, Arc<Gitignore>)>,
}

#[derive(Debug, Clone)]
struct RuleFile {
    ino: Ino,
    size: u64,
    mtime: Time,
    text: Vec<u8>,
    patterns: Arc<Gitignore>,
}

/// How rules that are not known are come by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Files with rules are read, and fetched if they are away.
    Read,
    /// What was known last is taken.
    Remember,
}

struct Named {
    parent: Ino,
    name: Vec<u8>,
    is_directory: bool,
}

impl Directory {
    fn keeps(&self, name: &[u8], is_directory: bool) -> bool {
        if self.stays_local {
            return true;
        }
        let path = [self.path.as_slice(), name].concat();
        for (above, patterns) in self.patterns.iter().rev() {
            let below = Path::new(OsStr::from_bytes(&path[*above..]));
            match patterns.matched(below, is_directory) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) => return false,
                Match::None => {}
            }
        }
        false
    }
}

impl Rules {
    /// With the patterns of the settings. One that cannot be understood matches nothing.
    pub(super) fn new(patterns: &[String]) -> Self {
        Self {
            settings: Arc::new(compile(patterns.iter().map(String::as_str))),
            known: Mutex::default(),
            moved: Mutex::default(),
        }
    }

    /// A directory was moved: what is below it may have to be looked at again.
    pub(super) fn note_moved(&self, directory: Ino) {
        self.moved.lock().push(directory);
    }

    /// Looks whether rules changed since the last look; if so, all that was kept local is
    /// looked at again.
    pub(super) fn refresh(&self, volume: &Volume) -> Result<()> {
        let moved = std::mem::take(&mut *self.moved.lock());
        if !moved.is_empty() {
            self.known.lock().directories.clear();
        }
        let mut changed = false;
        for directory in moved {
            match self.directory(volume, directory, Effort::Read) {
                Ok(directory) => changed |= !directory.stays_local,
                Err(VolumeError::NoEntry) => {}
                Err(error) => {
                    self.moved.lock().push(directory);
                    return Err(error);
                }
            }
        }
        let files: Vec<_> = {
            let known = self.known.lock();
            known
                .files
                .iter()
                .map(|(&at, file)| (at, file.text.clone()))
                .collect()
        };
        for (directory, before) in files {
            let now = self.read_rules(volume, directory)?;
            changed |= now.is_none_or(|now| now.text != before);
        }
        if changed {
            self.look_again(volume)?;
        }
        Ok(())
    }

    fn look_again(&self, volume: &Volume) -> Result<()> {
        self.known.lock().directories.clear();
        volume.live.offer_local_again();
        volume.db.write(super::commit::wake_held)
    }

    /// Whether a file is kept from being stored. Rules that are away are fetched for it.
    pub(super) fn keeps_local(&self, volume: &Volume, ino: Ino) -> Result<bool> {
        if volume.db.look(|connection| was_stored(connection, ino))? {
            return Ok(false);
        }
        let names = volume.db.look(|connection| names_of(connection, ino))?;
        for named in &names {
            if named.name == RULES_NAME {
                self.note_rules(volume, named.parent)?;
            }
        }
        self.all_kept(volume, &names, Effort::Read)
    }

    /// Whether the rules, as known, match all names of a node.
    pub(super) fn match_node(&self, volume: &Volume, ino: Ino) -> Result<bool> {
        let names = volume.db.look(|connection| names_of(connection, ino))?;
        self.all_kept(volume, &names, Effort::Remember)
    }

    fn all_kept(&self, volume: &Volume, names: &[Named], effort: Effort) -> Result<bool> {
        for named in names {
            let directory = self.directory(volume, named.parent, effort)?;
            if !directory.keeps(&named.name, named.is_directory) {
                return Ok(false);
            }
        }
        Ok(!names.is_empty())
    }

    /// A file with rules is new or was changed.
    fn note_rules(&self, volume: &Volume, directory: Ino) -> Result<()> {
        let before = self
            .known
            .lock()
            .files
            .get(&directory)
            .map(|file| file.text.clone());
        let now = self.read_rules(volume, directory)?.map(|file| file.text);
        if before != now {
            self.look_again(volume)?;
        }
        Ok(())
    }

    fn directory(&self, volume: &Volume, ino: Ino, effort: Effort) -> Result<Arc<Directory>> {
        let mut above = Vec::new();
        let mut at = ino;
        let mut directory = loop {
            if let Some(known) = self.known.lock().directories.get(&at) {
                break Arc::clone(known);
            }
            if at == ROOT {
                let root = Directory {
                    stays_local: false,
                    path: Vec::new(),
                    patterns: vec![(0, Arc::clone(&self.settings))],
                };
                break self.with_own(volume, ROOT, root, effort)?;
            }
            let named = volume
                .db
                .read(|connection| names_of(connection, at))?
                .pop()
                .ok_or(VolumeError::NoEntry)?;
            let parent = named.parent;
            above.push((at, named.name));
            at = parent;
        };
        for (ino, name) in above.into_iter().rev() {
            let below = Directory {
                stays_local: directory.keeps(&name, true),
                path: [directory.path.as_slice(), &name, b"/"].concat(),
                patterns: directory.patterns.clone(),
            };
            directory = self.with_own(volume, ino, below, effort)?;
        }
        Ok(directory)
    }

    /// The directory with the patterns of its own file of rules.
    fn with_own(
        &self,
        volume: &Volume,
        ino: Ino,
        mut directory: Directory,
        effort: Effort,
    ) -> Result<Arc<Directory>> {
        let own = match effort {
            Effort::Read if directory.stays_local => None,
            Effort::Read => self.read_rules(volume, ino)?.map(|file| file.patterns),
            Effort::Remember => self.remembered(volume, ino)?,
        };
        if let Some(patterns) = own {
            directory.patterns.push((directory.path.len(), patterns));
        }
        let directory = Arc::new(directory);
        if effort == Effort::Read {
            let mut known = self.known.lock();
            if known.directories.len() >= DIRECTORIES_KEPT {
                known.directories.clear();
            }
            known.directories.insert(ino, Arc::clone(&directory));
        }
        Ok(directory)
    }

    fn remembered(&self, volume: &Volume, directory: Ino) -> Result<Option<Arc<Gitignore>>> {
        if let Some(file) = self.known.lock().files.get(&directory) {
            return Ok(Some(Arc::clone(&file.patterns)));
        }
        volume.db.read(|connection| {
            if rules_in(connection, directory)?.is_none() {
                return Ok(None);
            }
            let text = meta(connection, &remembered_key(directory))?;
            Ok(text.map(|text| Arc::new(compile_text(&text))))
        })
    }

    /// The rules in a directory as they are now.
    fn read_rules(&self, volume: &Volume, directory: Ino) -> Result<Option<RuleFile>> {
        let Some(ino) = volume
            .db
            .read(|connection| rules_in(connection, directory))?
        else {
            self.known.lock().files.remove(&directory);
            return Ok(None);
        };
        let attr = volume.attr(ino)?;
        if let Some(file) = self.known.lock().files.get(&directory)
            && (file.ino, file.size, file.mtime) == (ino, attr.size, attr.mtime)
        {
            return Ok(Some(file.clone()));
        }
        let text = read_text(volume, directory, ino, attr.size)?;
        let key = remembered_key(directory);
        volume.db.write(|tx| match meta(tx, &key)? {
            Some(known) if known == text => Ok(()),
            _ => set_meta(tx, &key, &text),
        })?;
        let file = RuleFile {
            ino,
            size: attr.size,
            mtime: attr.mtime,
            patterns: Arc::new(compile_text(&text)),
            text,
        };
        self.known.lock().files.insert(directory, file.clone());
        Ok(Some(file))
    }
}

impl Volume {
    /// These nodes have new names: rules may speak of them otherwise.
    pub(crate) fn note_moved(&self, nodes: &[(Ino, Kind)]) {
        for &(ino, kind) in nodes {
            match kind {
                Kind::Directory => self.push.rules.note_moved(ino),
                Kind::File => self.live.offer_again(ino),
                _ => {}
            }
        }
    }

    /// Whether a rule keeps the node on this machine: it is in no commit and on no store,
    /// and its content is never dropped.
    ///
    /// # Errors
    /// Failures of the database.
    pub fn is_local(&self, ino: Ino) -> Result<bool> {
        if self.db.look(|connection| was_stored(connection, ino))? {
            return Ok(false);
        }
        if !self.push.rules.match_node(self, ino)? {
            return Ok(false);
        }
        let committed = self
            .db
            .read_snapshot(|connection| super::draft::is_committed(self, connection, ino))?;
        Ok(!committed)
    }
}

/// The text of a file of rules. If it is away, what it said last is known from when it was
/// here; only if it never was, it is fetched.
fn read_text(volume: &Volume, directory: Ino, ino: Ino, size: u64) -> Result<Vec<u8>> {
    let mut text = vec![0; LONGEST_RULES.min(usize::try_from(size).unwrap_or(LONGEST_RULES))];
    let mut filled = 0;
    while filled < text.len() {
        let more = match volume.read_here(ino, filled as u64, &mut text[filled..])? {
            Some(more) => more,
            None => {
                if let Some(known) = volume.db.meta(&remembered_key(directory))? {
                    return Ok(known);
                }
                volume.read(ino, filled as u64, &mut text[filled..])?
            }
        };
        if more == 0 {
            break;
        }
        filled += more;
    }
    text.truncate(filled);
    Ok(text)
}

fn compile_text(text: &[u8]) -> Gitignore {
    compile(String::from_utf8_lossy(text).lines())
}

fn compile<'a>(lines: impl Iterator<Item = &'a str>) -> Gitignore {
    let mut builder = GitignoreBuilder::new("");
    for line in lines {
        if let Err(error) = builder.add_line(None, line) {
            tracing::warn!(line, %error, "a rule cannot be understood and matches nothing");
        }
    }
    builder.build().unwrap_or_else(|error| {
        tracing::warn!(%error, "rules cannot be understood and match nothing");
        Gitignore::empty()
    })
}

fn remembered_key(directory: Ino) -> String {
    format!("rules/{directory:x}")
}

fn rules_in(connection: &Connection, directory: Ino) -> Result<Option<Ino>> {
    Ok(connection
        .prepare_cached("SELECT child FROM dentries WHERE parent = ?1 AND name = ?2 AND kind = ?3")?
        .query_row(
            (
                directory as i64,
                RULES_NAME,
                larder_format::kind_code(Kind::File),
            ),
            |row| Ok(row.get::<_, i64>(0)? as Ino),
        )
        .optional()?)
}

/// Whether a version of the file was stored.
fn was_stored(connection: &Connection, ino: Ino) -> Result<bool> {
    Ok(connection
        .prepare_cached("SELECT 1 FROM nodes WHERE ino = ?1 AND content IS NOT NULL")?
        .exists([ino as i64])?)
}

fn names_of(connection: &Connection, ino: Ino) -> Result<Vec<Named>> {
    let mut statement =
        connection.prepare_cached("SELECT parent, name, kind FROM dentries WHERE child = ?1")?;
    let rows = statement.query_map([ino as i64], |row| {
        Ok(Named {
            parent: row.get::<_, i64>(0)? as Ino,
            name: row.get(1)?,
            is_directory: row.get::<_, u8>(2)? == larder_format::kind_code(Kind::Directory),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &str, rules: &[(usize, &[&str])]) -> Directory {
        Directory {
            stays_local: false,
            path: path.as_bytes().to_vec(),
            patterns: rules
                .iter()
                .map(|(above, lines)| (*above, Arc::new(compile(lines.iter().copied()))))
                .collect(),
        }
    }

    #[test]
    fn a_pattern_speaks_of_the_directory_it_is_in() {
        let src = directory(
            "src/",
            &[(0, &["target/", "/top", "*.tmp"]), (4, &["/here"])],
        );
        assert!(src.keeps(b"target", true) && !src.keeps(b"target", false));
        assert!(src.keeps(b"x.tmp", false));
        assert!(!src.keeps(b"top", false), "only at the root");
        assert!(src.keeps(b"here", false));
    }

    #[test]
    fn a_deeper_rule_wins() {
        let src = directory("src/", &[(0, &["*.tmp"]), (4, &["!keep.tmp"])]);
        assert!(src.keeps(b"a.tmp", false) && !src.keeps(b"keep.tmp", false));
    }

    #[test]
    fn below_what_stays_local_all_stays_local() {
        let mut target = directory("target/", &[(0, &["!wanted"])]);
        target.stays_local = true;
        assert!(target.keeps(b"wanted", false));
    }

    #[test]
    fn a_name_of_any_bytes_is_matched() {
        let root = directory("", &[(0, &["*.tmp"])]);
        assert!(root.keeps(b"\xff\xfe.tmp", false) && !root.keeps(b"\xff", false));
    }

    #[test]
    fn a_rule_that_makes_no_sense_matches_nothing() {
        let root = directory("", &[(0, &["a{b", "*.o"])]);
        assert!(root.keeps(b"x.o", false) && !root.keeps(b"a{b", false));
    }
}

//! A user of one machine, who never rests.
//!
//! He notes what he writes before he does, and what he gives up only if he had it: a file that he
//! writes over or deletes was open and read, and is the one that has the name at that moment. So a
//! version that came from another machine in between is not his to give up.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::dice::Dice;
use super::ledger::{BLOCK, Content, Ledger, Mark, Way, block, bytes};

/// Where all users change the same files.
const DESK: &str = "desk";
const DESK_FILES: u64 = 5;
const DESK_MOST: usize = 20;
/// How a file is called until it is moved to its place.
const FRESH: &str = "fresh";
const BLOCKS: u64 = 4;
const PAUSE: Duration = Duration::from_millis(10);

/// What a user did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Deeds {
    pub done: u64,
    /// What the system refused, or could not do because lines were cut.
    pub refused: u64,
}

pub struct User<'a> {
    name: String,
    root: PathBuf,
    dice: Dice,
    ledger: &'a Mutex<Ledger>,
    names: u64,
}

/// Why something was not done.
enum Undone {
    /// The system said no.
    Refused(io::Error),
    /// There was nothing to do it to, or somebody was faster.
    Nothing,
}

impl From<io::Error> for Undone {
    fn from(error: io::Error) -> Self {
        Self::Refused(error)
    }
}

impl From<rustix::io::Errno> for Undone {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Refused(error.into())
    }
}

type Done = Result<(), Undone>;

/// A file that is open, and what is in it.
struct Held {
    path: PathBuf,
    file: File,
    content: Content,
}

impl<'a> User<'a> {
    pub fn new(name: &str, root: &Path, seed: u64, ledger: &'a Mutex<Ledger>) -> Self {
        Self {
            name: name.to_owned(),
            root: root.to_owned(),
            dice: Dice::new(seed),
            ledger,
            names: 0,
        }
    }

    /// The first files, in directories of a hundred.
    pub fn settle_in(&mut self, files: u64) {
        fs::create_dir(self.root.join(DESK)).unwrap();
        for number in 0..files {
            let dir = self.root.join(format!("dir {:03}", number / 100));
            if number % 100 == 0 {
                fs::create_dir(&dir).unwrap();
            }
            let path = dir.join(format!("file {number}"));
            assert!(self.make(&path).is_ok(), "{}", path.display());
        }
    }

    /// Works until it is over. `between` is called with nothing open.
    pub fn work(&mut self, is_over: &AtomicBool, mut between: impl FnMut(&mut Dice)) -> Deeds {
        let mut deeds = Deeds::default();
        while !is_over.load(Ordering::Relaxed) {
            match self.act() {
                Ok(()) => deeds.done += 1,
                Err(Undone::Nothing) => {}
                Err(Undone::Refused(error)) => {
                    self.ensure_harmless(&error);
                    deeds.refused += 1;
                }
            }
            between(&mut self.dice);
            std::thread::sleep(PAUSE);
        }
        deeds
    }

    /// What a user meets whose files change under him, on a line that is cut.
    fn ensure_harmless(&self, error: &io::Error) {
        use rustix::io::Errno;
        let harmless = [
            Errno::NOENT,
            Errno::EXIST,
            Errno::STALE,
            Errno::NOTEMPTY,
            Errno::INVAL,
            Errno::NOTDIR,
            Errno::ISDIR,
            Errno::IO,
            Errno::TIMEDOUT,
        ];
        let is_harmless = |errno: &Errno| error.raw_os_error() == Some(errno.raw_os_error());
        assert!(harmless.iter().any(is_harmless), "{}: {error}", self.name);
    }

    fn act(&mut self) -> Done {
        if self.dice.percent(25) {
            return self.work_at_the_desk();
        }
        match self.dice.below(100) {
            0..20 => {
                let path = self.some_dir()?.join(self.new_name("file"));
                self.make(&path)
            }
            20..38 => {
                let path = self.some_file()?;
                self.save(&path)
            }
            38..56 => {
                let path = self.some_file()?;
                self.edit(&path)
            }
            56..68 => {
                let path = self.some_file()?;
                self.look(&path).map(drop)
            }
            68..76 => {
                let path = self.some_file()?;
                Ok(fs::rename(
                    &path,
                    path.with_file_name(self.new_name("renamed")),
                )?)
            }
            76..82 => {
                let path = self.some_file()?;
                self.bring(&path, &self.root.clone())
            }
            82..90 => {
                let path = self.some_file()?;
                self.delete(&path)
            }
            90..92 => {
                let path = self.some_file()?;
                Ok(fs::hard_link(
                    &path,
                    path.with_file_name(self.new_name("link")),
                )?)
            }
            92..95 => {
                let path = self.some_dir()?.join(self.new_name("dir"));
                Ok(fs::create_dir(path)?)
            }
            95..97 => {
                let path = self.some_dir()?;
                Ok(fs::rename(
                    &path,
                    path.with_file_name(self.new_name("moved")),
                )?)
            }
            97..99 => {
                let (from, to) = (self.some_dir()?, self.some_dir()?);
                self.bring(&from, &to)
            }
            _ => {
                let path = self.some_dir()?;
                self.clear_away(&path)
            }
        }
    }

    /// What all users change at once.
    fn work_at_the_desk(&mut self) -> Done {
        let desk = self.root.join(DESK);
        let files = entries(&desk, false)?;
        if files.len() > DESK_MOST {
            let path = self.dice.choose(&files).cloned().ok_or(Undone::Nothing)?;
            return self.delete(&path);
        }
        let path = desk.join(self.dice.below(DESK_FILES).to_string());
        match (path.exists(), self.dice.below(3)) {
            (false, _) => self.make(&path),
            (true, 0) => self.save(&path),
            (true, _) => self.edit(&path),
        }
    }

    fn new_name(&mut self, kind: &str) -> String {
        self.names += 1;
        format!("{kind} {}{}", self.name, self.names)
    }

    fn some_dir(&mut self) -> Result<PathBuf, Undone> {
        let mut dir = self.root.clone();
        for depth in 0..4 {
            let mut below = entries(&dir, true)?;
            below.retain(|path| !path.ends_with(DESK));
            match self.dice.choose(&below) {
                Some(next) if depth == 0 || self.dice.percent(40) => dir.clone_from(next),
                _ => break,
            }
        }
        match dir == self.root {
            true => Err(Undone::Nothing),
            false => Ok(dir),
        }
    }

    fn some_file(&mut self) -> Result<PathBuf, Undone> {
        let files = entries(&self.some_dir()?, false)?;
        self.dice.choose(&files).cloned().ok_or(Undone::Nothing)
    }

    /// A length whose last block has room for what it says.
    fn some_len(&mut self) -> usize {
        let last = 64 + self.dice.below(BLOCK as u64 - 64) as usize;
        self.dice.below(BLOCKS) as usize * BLOCK + last
    }

    /// A new file, in its place or moved there.
    fn make(&mut self, path: &Path) -> Done {
        if self.dice.percent(50) {
            return self.place(path, RenameFlags::NOREPLACE);
        }
        let len = self.some_len();
        let mark = self.ledger.lock().new_version(len, Way::New);
        let mut file = File::create_new(path)?;
        file.write_all(&bytes(mark, len))?;
        if self.dice.percent(5) {
            file.sync_all()?;
        }
        drop(file);
        self.ledger.lock().acknowledged(mark);
        Ok(())
    }

    /// A new version of a file, as editors save one.
    fn save(&mut self, path: &Path) -> Done {
        let held = self.hold(path)?;
        if let Some(old) = held.content.version() {
            self.ledger.lock().give_up(old);
        }
        self.place_if(path, RenameFlags::empty(), || held.is_in_place())
    }

    fn place(&mut self, path: &Path, flags: RenameFlags) -> Done {
        self.place_if(path, flags, || true)
    }

    fn place_if(&mut self, path: &Path, flags: RenameFlags, may: impl Fn() -> bool) -> Done {
        let len = self.some_len();
        let mark = self.ledger.lock().new_version(len, Way::Whole);
        let fresh = path.with_file_name(self.new_name(FRESH));
        fs::write(&fresh, bytes(mark, len))?;
        let placed = match may() {
            true => renameat_with(CWD, &fresh, CWD, path, flags).map_err(Undone::from),
            false => Err(Undone::Nothing),
        };
        // If it was not placed, it is where it was written: that counts, too.
        self.ledger.lock().acknowledged(mark);
        placed
    }

    /// Changes a file in its place: two of its blocks.
    fn edit(&mut self, path: &Path) -> Done {
        let held = self.hold(path)?;
        let len = held.content.len();
        let other = self.dice.below(len.div_ceil(BLOCK) as u64) as usize;
        let mark = {
            let mut ledger = self.ledger.lock();
            let old = held.content.version().ok_or(Undone::Nothing)?;
            if !ledger.is_whole(&held.content) {
                return Err(Undone::Nothing);
            }
            ledger.give_up(old);
            ledger.new_edit(old, other).ok_or(Undone::Nothing)?
        };
        for number in [other, 0] {
            let at = number * BLOCK;
            let bytes = block(mark, number, BLOCK.min(len - at));
            held.file.write_all_at(&bytes, at as u64)?;
        }
        if self.dice.percent(5) {
            held.file.sync_all()?;
        }
        self.ledger.lock().acknowledged(mark);
        Ok(())
    }

    /// Deletes what it has read.
    fn delete(&mut self, path: &Path) -> Done {
        let held = self.hold(path)?;
        if !held.is_in_place() {
            return Err(Undone::Nothing);
        }
        if let Some(old) = held.content.version() {
            self.ledger.lock().give_up(old);
        }
        Ok(fs::remove_file(path)?)
    }

    /// Moves something into a directory, under its name.
    fn bring(&mut self, from: &Path, to: &Path) -> Done {
        let name = from.file_name().ok_or(Undone::Nothing)?;
        let to = match to == self.root {
            true => self.some_dir()?,
            false => to.to_owned(),
        };
        let to = to.join(name);
        Ok(renameat_with(CWD, from, CWD, &to, RenameFlags::NOREPLACE)?)
    }

    /// Deletes a directory that is nearly empty.
    fn clear_away(&mut self, dir: &Path) -> Done {
        let files = entries(dir, false)?;
        if files.len() > 8 {
            return Err(Undone::Nothing);
        }
        for file in files {
            self.delete(&file)?;
        }
        Ok(fs::remove_dir(dir)?)
    }

    fn look(&self, path: &Path) -> Result<Content, Undone> {
        Ok(self.hold(path)?.content)
    }

    /// Opens a file and reads it.
    fn hold(&self, path: &Path) -> Result<Held, Undone> {
        let file = File::options().read(true).write(true).open(path)?;
        let content = read(&file, path, self.ledger)?;
        Ok(Held {
            path: path.to_owned(),
            file,
            content,
        })
    }
}

impl Held {
    /// Whether it still has its name.
    fn is_in_place(&self) -> bool {
        let ino = |meta: io::Result<fs::Metadata>| meta.map(|meta| meta.ino()).ok();
        let here = ino(self.file.metadata());
        here.is_some() && here == ino(fs::symlink_metadata(&self.path))
    }
}

/// What is in a file, found to be something that was written.
pub fn read(file: &File, path: &Path, ledger: &Mutex<Ledger>) -> io::Result<Content> {
    let mut all = Vec::new();
    let mut buffer = [0; 16 * BLOCK];
    loop {
        match file.read_at(&mut buffer, all.len() as u64) {
            Ok(0) => break,
            Ok(len) => all.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let content = Content::of(&all).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let checked = ledger.lock().check(&content, name.starts_with(FRESH));
    checked.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    Ok(content)
}

/// What is in a directory: its directories, or its files.
fn entries(dir: &Path, directories: bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry
            .path()
            .file_name()
            .is_some_and(|name| name == ".larder")
        {
            continue;
        }
        if entry.file_type()?.is_dir() == directories {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// The version in a file that is whole; anything else is checked, and none.
pub fn version_in(path: &Path, ledger: &Mutex<Ledger>) -> io::Result<Option<Mark>> {
    let content = read(&File::open(path)?, path, ledger)?;
    let is_whole = ledger.lock().is_whole(&content);
    Ok(content.version().filter(|_| is_whole))
}

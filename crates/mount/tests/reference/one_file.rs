//! One file, changed in all the ways there are, and held against its bytes in memory.
//!
//! In the manner of fsx: calls, maps (also one that is held while other things happen),
//! holes, copies, truncations, renames; and in between the volume stores, stashes, evicts
//! by itself (it keeps less than the file) and starts anew.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use larder_mount::Profile;
use proptest::prelude::*;
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::bench::Bench;
use crate::maps::Map;
use crate::ops::bytes;
use crate::{OPS_MAX, runs};

const SIZE_MAX: u64 = 1 << 20;
/// Much of it may be dirty, and what is clean goes soon.
const BUDGET: u64 = 4 << 20;

/// One step.
#[derive(Debug, Clone)]
pub enum Step {
    Write {
        off: u64,
        len: usize,
        seed: u8,
    },
    Append {
        len: usize,
        seed: u8,
    },
    Read {
        off: u64,
        len: usize,
    },
    MapWrite {
        off: u64,
        len: usize,
        seed: u8,
        sync: bool,
    },
    MapRead {
        off: u64,
        len: usize,
    },
    /// Maps the file and keeps the map.
    HoldMap,
    /// Writes through the map that is kept.
    HeldWrite {
        off: u64,
        len: usize,
        seed: u8,
    },
    /// Reads through the map that is kept.
    HeldRead {
        off: u64,
        len: usize,
    },
    /// Keeps a descriptor open, as a program does that works with the file.
    HoldOpen,
    /// Lets go of the map and the descriptor that are kept.
    LetGo,
    Truncate {
        size: u64,
    },
    Punch {
        off: u64,
        len: u64,
    },
    Zero {
        off: u64,
        len: u64,
        keep: bool,
    },
    Allocate {
        off: u64,
        len: u64,
        keep: bool,
    },
    /// `copy_file_range` within the file.
    Copy {
        from: u64,
        to: u64,
        len: u64,
    },
    /// `copy_file_range` into another file and back, to `to`.
    CopyByWayOf {
        from: u64,
        to: u64,
        len: u64,
    },
    Fsync,
    /// As an editor saves: a new file takes the old one's name.
    Replace {
        len: usize,
        seed: u8,
    },
    /// To the other name it may have.
    Move,
    Holes,
    Store,
    Stash,
    /// The kernel lets go of the file's pages.
    DropPages,
    /// The volume is unmounted, ended, and started anew.
    Restart,
    /// All bytes are compared.
    Check,
}

fn place() -> impl Strategy<Value = u64> {
    prop_oneof![
        2 => 0..300u64,
        2 => 0..40_000u64,
        3 => (0..256u64).prop_map(|pages| pages * 4096),
        4 => 0..SIZE_MAX,
    ]
}

fn span() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 1..300u64, 4 => 1..20_000u64, 2 => (1..40u64).prop_map(|p| p * 4096),
        1 => 1..400_000u64]
}

fn len() -> impl Strategy<Value = usize> {
    span().prop_map(|len| len as usize)
}

/// Any step.
pub fn step() -> impl Strategy<Value = Step> {
    let seed = any::<u8>;
    prop_oneof![
        10 => (place(), len(), seed()).prop_map(|(off, len, seed)| Step::Write { off, len, seed }),
        2 => (len(), seed()).prop_map(|(len, seed)| Step::Append { len, seed }),
        6 => (place(), len()).prop_map(|(off, len)| Step::Read { off, len }),
        6 => (place(), len(), seed(), any::<bool>())
            .prop_map(|(off, len, seed, sync)| Step::MapWrite { off, len, seed, sync }),
        4 => (place(), len()).prop_map(|(off, len)| Step::MapRead { off, len }),
        2 => Just(Step::HoldMap),
        3 => (place(), len(), seed()).prop_map(|(off, len, seed)| Step::HeldWrite { off, len, seed }),
        3 => (place(), len()).prop_map(|(off, len)| Step::HeldRead { off, len }),
        2 => Just(Step::HoldOpen),
        6 => Just(Step::LetGo),
        5 => place().prop_map(|size| Step::Truncate { size }),
        5 => (place(), span()).prop_map(|(off, len)| Step::Punch { off, len }),
        2 => (place(), span(), any::<bool>()).prop_map(|(off, len, keep)| Step::Zero { off, len, keep }),
        2 => (place(), span(), any::<bool>())
            .prop_map(|(off, len, keep)| Step::Allocate { off, len, keep }),
        4 => (place(), place(), span()).prop_map(|(from, to, len)| Step::Copy { from, to, len }),
        2 => (place(), place(), span())
            .prop_map(|(from, to, len)| Step::CopyByWayOf { from, to, len }),
        2 => Just(Step::Fsync),
        1 => (len(), seed()).prop_map(|(len, seed)| Step::Replace { len, seed }),
        1 => Just(Step::Move),
        2 => Just(Step::Holes),
        8 => Just(Step::Store),
        10 => Just(Step::Stash),
        4 => Just(Step::DropPages),
        1 => Just(Step::Restart),
        3 => Just(Step::Check),
    ]
}

/// The file, what it must be, and what is kept of it.
struct Exercise {
    directory: PathBuf,
    name: &'static str,
    model: Vec<u8>,
    open: Option<File>,
    map: Option<Map>,
}

type Outcome = Result<(), String>;

impl Exercise {
    fn begin(directory: &Path) -> Self {
        let exercise = Self {
            directory: directory.to_owned(),
            name: "file",
            model: Vec::new(),
            open: None,
            map: None,
        };
        File::create(exercise.path()).unwrap();
        exercise
    }

    fn path(&self) -> PathBuf {
        self.directory.join(self.name)
    }

    fn file(&self) -> Result<File, String> {
        if let Some(file) = &self.open {
            return file.try_clone().map_err(|error| error.to_string());
        }
        let opened = OpenOptions::new().read(true).write(true).open(self.path());
        opened.map_err(|error| format!("open: {error}"))
    }

    /// The part of a range that the file has.
    fn within(&self, off: u64, len: usize) -> Option<(usize, usize)> {
        let off = off as usize;
        let len = len.min(self.model.len().saturating_sub(off));
        (len > 0).then_some((off, len))
    }

    /// The part of a range that the file has and the map that is kept reaches.
    fn within_held(&self, off: u64, len: usize) -> Option<(usize, usize)> {
        let (off, len) = self.within(off, len)?;
        let len = len.min(self.map.as_ref()?.len().saturating_sub(off));
        (len > 0).then_some((off, len))
    }

    fn put(&mut self, off: usize, bytes: &[u8]) {
        let end = off + bytes.len();
        if self.model.len() < end {
            self.model.resize(end, 0);
        }
        self.model[off..end].copy_from_slice(bytes);
    }

    fn same(&self, off: usize, found: &[u8]) -> Outcome {
        let expected = &self.model[off..off + found.len()];
        match expected.iter().zip(found).position(|(a, b)| a != b) {
            Some(at) => Err(format!(
                "byte {} is {:#x} and not {:#x}; {} bytes were read from {off}",
                off + at,
                found[at],
                expected[at],
                found.len()
            )),
            None => Ok(()),
        }
    }

    fn same_size(&self) -> Outcome {
        let found = std::fs::symlink_metadata(self.path()).map_err(|error| error.to_string())?;
        match found.len() == self.model.len() as u64 {
            true => Ok(()),
            false => Err(format!(
                "it has {} bytes, not {}",
                found.len(),
                self.model.len()
            )),
        }
    }

    fn check(&self) -> Outcome {
        let bytes = std::fs::read(self.path()).map_err(|error| error.to_string())?;
        if bytes.len() != self.model.len() {
            return Err(format!(
                "{} bytes were read, not {}",
                bytes.len(),
                self.model.len()
            ));
        }
        self.same(0, &bytes)
    }

    fn step(&mut self, step: &Step) -> Outcome {
        match *step {
            Step::Write { off, len, seed } => {
                let bytes = bytes(len, seed);
                let written = self.file()?.write_all_at(&bytes, off);
                written.map_err(|error| error.to_string())?;
                self.put(off as usize, &bytes);
            }
            Step::Append { len, seed } => {
                use std::io::Write;
                let bytes = bytes(len, seed);
                let file = OpenOptions::new().append(true).open(self.path());
                let written = file.and_then(|mut file| file.write_all(&bytes));
                written.map_err(|error| error.to_string())?;
                self.put(self.model.len(), &bytes);
            }
            Step::Read { off, len } => {
                let mut bytes = vec![0; len];
                let read = self.file()?.read_at(&mut bytes, off);
                let read = read.map_err(|error| error.to_string())?;
                let expected = self.within(off, len).map_or(0, |(_, len)| len);
                if read != expected {
                    return Err(format!("{read} bytes were read, not {expected}"));
                }
                if read > 0 {
                    self.same(off as usize, &bytes[..read])?;
                }
            }
            Step::MapWrite {
                off,
                len,
                seed,
                sync,
            } => {
                if let Some((off, len)) = self.within(off, len) {
                    let mut map = Map::of(self.file()?, off + len).map_err(words)?;
                    let bytes = bytes(len, seed);
                    map.write(off, &bytes);
                    self.put(off, &bytes);
                    if sync {
                        map.sync().map_err(words)?;
                    }
                }
            }
            Step::MapRead { off, len } => {
                if let Some((off, len)) = self.within(off, len) {
                    let map = Map::of(self.file()?, off + len).map_err(words)?;
                    self.read_map(&map, off, len)?;
                }
            }
            Step::HoldMap => {
                if !self.model.is_empty() {
                    let map = Map::of(self.file()?, self.model.len()).map_err(words)?;
                    self.map = Some(map);
                }
            }
            Step::HeldWrite { off, len, seed } => {
                if let Some((off, len)) = self.within_held(off, len) {
                    let bytes = bytes(len, seed);
                    self.put(off, &bytes);
                    if let Some(map) = &mut self.map {
                        map.write(off, &bytes);
                    }
                }
            }
            Step::HeldRead { off, len } => {
                if let (Some((off, len)), Some(map)) = (self.within_held(off, len), &self.map) {
                    self.read_map(map, off, len)?;
                }
            }
            Step::HoldOpen => self.open = Some(self.file()?),
            Step::LetGo => self.let_go(),
            Step::Truncate { size } => {
                let set = self.file()?.set_len(size);
                set.map_err(|error| error.to_string())?;
                self.model.resize(size as usize, 0);
            }
            Step::Punch { off, len } => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(self.file()?, how, off, len).map_err(words)?;
                self.zero(off, len);
            }
            Step::Zero { off, len, keep } => {
                let how = FallocateFlags::ZERO_RANGE | keep_size(keep);
                rustix::fs::fallocate(self.file()?, how, off, len).map_err(words)?;
                self.grow(off + len, keep);
                self.zero(off, len);
            }
            Step::Allocate { off, len, keep } => {
                let file = self.file()?;
                rustix::fs::fallocate(file, keep_size(keep), off, len).map_err(words)?;
                self.grow(off + len, keep);
            }
            Step::Copy { from, to, len } => {
                // Not into itself, and not beyond its end, which the copy may move.
                let there = (self.model.len() as u64).saturating_sub(from);
                let len = len.min(from.abs_diff(to)).min(there);
                let file = self.file()?;
                self.copy(&file, from, &file, to, len)?;
                self.copy_in_model(from, to, len);
            }
            Step::CopyByWayOf { from, to, len } => {
                let (other, file) = (self.directory.join("other"), self.file()?);
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(true);
                let between = options.open(&other).map_err(|error| error.to_string())?;
                let copied = self.copy(&file, from, &between, 77, len)?;
                self.copy(&between, 77, &file, to, copied)?;
                self.copy_in_model(from, to, copied);
                std::fs::remove_file(&other).map_err(|error| error.to_string())?;
            }
            Step::Fsync => self.file()?.sync_all().map_err(|error| error.to_string())?,
            Step::Replace { len, seed } => {
                self.let_go();
                let (new, bytes) = (self.directory.join("new"), bytes(len, seed));
                let replaced =
                    std::fs::write(&new, &bytes).and_then(|()| std::fs::rename(&new, self.path()));
                replaced.map_err(|error| error.to_string())?;
                self.model = bytes;
            }
            Step::Move => {
                let other = if self.name == "file" { "moved" } else { "file" };
                let moved = std::fs::rename(self.path(), self.directory.join(other));
                moved.map_err(|error| error.to_string())?;
                self.name = other;
            }
            Step::Holes => self.check_holes()?,
            Step::DropPages => {
                rustix::fs::fadvise(self.file()?, 0, None, Advice::DontNeed).map_err(words)?;
            }
            Step::Check => self.check()?,
            Step::Store | Step::Stash | Step::Restart => {}
        }
        self.same_size()
    }

    fn let_go(&mut self) {
        self.map = None;
        self.open = None;
    }

    fn read_map(&self, map: &Map, off: usize, len: usize) -> Outcome {
        let mut bytes = vec![0; len];
        map.read(off, &mut bytes);
        self.same(off, &bytes)
    }

    fn grow(&mut self, end: u64, keep: bool) {
        if !keep && self.model.len() < end as usize {
            self.model.resize(end as usize, 0);
        }
    }

    fn zero(&mut self, off: u64, len: u64) {
        if let Some((off, len)) = self.within(off, len as usize) {
            self.model[off..off + len].fill(0);
        }
    }

    /// Copies as often as it takes; answers how many bytes there were.
    fn copy(&self, from: &File, at: u64, to: &File, put_at: u64, len: u64) -> Result<u64, String> {
        let (mut off_in, mut off_out, mut left) = (at, put_at, len as usize);
        while left > 0 {
            let copied =
                rustix::fs::copy_file_range(from, Some(&mut off_in), to, Some(&mut off_out), left);
            match copied.map_err(words)? {
                0 => break,
                count => left -= count,
            }
        }
        Ok(len - left as u64)
    }

    fn copy_in_model(&mut self, from: u64, to: u64, len: u64) {
        if let Some((off, len)) = self.within(from, len as usize) {
            let bytes = self.model[off..off + len].to_vec();
            self.put(to as usize, &bytes);
        }
    }

    /// What is told to be a hole must be zeros.
    fn check_holes(&self) -> Outcome {
        let (file, end) = (self.file()?, self.model.len() as u64);
        let mut at = 0;
        while at < end {
            let data = match rustix::fs::seek(&file, SeekFrom::Data(at)) {
                Ok(data) => data,
                Err(Errno::NXIO) => end,
                Err(error) => return Err(words(error)),
            };
            if data < at || data > end {
                return Err(format!("the data after {at} begin at {data}"));
            }
            if let Some(byte) = self.model[at as usize..data as usize]
                .iter()
                .position(|b| *b != 0)
            {
                return Err(format!("byte {} lies in a hole", at as usize + byte));
            }
            if data == end {
                break;
            }
            at = rustix::fs::seek(&file, SeekFrom::Hole(data)).map_err(words)?;
            if at <= data {
                return Err(format!("the hole after {data} begins at {at}"));
            }
        }
        Ok(())
    }
}

fn words(error: Errno) -> String {
    error.to_string()
}

fn keep_size(keep: bool) -> FallocateFlags {
    match keep {
        true => FallocateFlags::KEEP_SIZE,
        false => FallocateFlags::empty(),
    }
}

fn exercise(bench: &Bench, stashed: &AtomicU64, steps: &[Step]) -> Outcome {
    let (plain, directory) = bench.fresh();
    let _ = std::fs::remove_dir(&plain);
    let round = PathBuf::from(directory.file_name().unwrap());
    let mut exercise = Exercise::begin(&directory);
    exercise.step(&Step::Write {
        off: 0,
        len: 400_000,
        seed: 1,
    })?;
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Store => bench.store(),
            Step::Stash => {
                stashed.fetch_add(bench.stash(&round), Ordering::Relaxed);
            }
            Step::Restart => {
                exercise.let_go();
                bench.restart();
            }
            _ => {}
        }
        exercise
            .step(step)
            .map_err(|why| format!("step {at}, {step:?}: {why}"))?;
    }
    exercise.let_go();
    exercise
        .check()
        .map_err(|why| format!("at the end: {why}"))?;
    bench.store();
    stashed.fetch_add(bench.stash(&round), Ordering::Relaxed);
    exercise.step(&Step::DropPages)?;
    exercise
        .check()
        .map_err(|why| format!("fetched again: {why}"))?;
    let _ = std::fs::remove_dir_all(&directory);
    Ok(())
}

/// Does `cases` sequences on a mount of this profile.
pub fn exercise_at_length(profile: Profile, cases: u64) {
    let stashed = AtomicU64::new(0);
    let sequences = || proptest::collection::vec(step(), 1..=OPS_MAX);
    let sequences = runs::run("one file", profile, cases, sequences, || {
        let bench = Bench::new(profile, BUDGET);
        let stashed = &stashed;
        move |steps: &[Step]| exercise(&bench, stashed, steps)
    });
    let stashed = stashed.into_inner();
    println!("{stashed} times the file was stashed");
    assert!(
        sequences < 10 || stashed > sequences / 2,
        "too little was stashed"
    );
}

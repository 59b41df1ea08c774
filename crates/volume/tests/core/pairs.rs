//! All of one and two operations, and then a kill or a power cut.
//!
//! A kill leaves the state directory as it is. A power cut takes of the database all that no
//! sync was promised for, and, at its worst, each byte that was written since the last sync
//! of its file: the disk has what was there before.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use larder_volume::{Ino, ROOT, RenameMode, SetAttr, Volume};

use crate::bench::{WRITE, cache_file, cut_power, read_all};
use crate::common::{Bench, noise, write_file};

const SIZE: usize = 300_000;
/// Sequences that are tried side by side: they wait most of the time.
const SIDE_BY_SIDE: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Edit,
    Append,
    Truncate,
    Sync,
    /// As an editor saves.
    Replace,
    Unlink,
    /// Stores all there is.
    Commit,
    /// Drops the content, if that may be.
    Drop,
    Read,
}

const OPS: [Op; 9] = [
    Op::Edit,
    Op::Append,
    Op::Truncate,
    Op::Sync,
    Op::Replace,
    Op::Unlink,
    Op::Commit,
    Op::Drop,
    Op::Read,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Kill,
    PowerCut,
    /// And the disk had nothing of what was not synced.
    PowerCutThatTakesBytes,
}

/// What the file may be after the end, and what the disk may lack.
struct Known {
    ino: Ino,
    /// Its content at the last sync, and after each change since; none: no such file.
    versions: Vec<Option<Vec<u8>>>,
    /// What lay where it was written since the last sync.
    overwritten: Vec<(Ino, u64, Vec<u8>)>,
}

impl Known {
    fn now(&self) -> Option<&Vec<u8>> {
        self.versions.last()?.as_ref()
    }

    fn write(&mut self, volume: &Volume, at: usize, bytes: &[u8]) {
        let Some(mut now) = self.now().cloned() else {
            return;
        };
        volume.open(self.ino, WRITE).unwrap();
        volume.write(self.ino, at as u64, bytes).unwrap();
        volume.close(self.ino, WRITE).unwrap();
        let end = (at + bytes.len()).min(now.len());
        let mut before = now.get(at..end).unwrap_or_default().to_vec();
        before.resize(bytes.len(), 0);
        self.overwritten.push((self.ino, at as u64, before));
        now.resize(now.len().max(at + bytes.len()), 0);
        now[at..at + bytes.len()].copy_from_slice(bytes);
        self.versions.push(Some(now));
    }

    fn is_synced(&mut self) {
        self.versions.drain(..self.versions.len() - 1);
        self.overwritten.clear();
    }

    fn act(&mut self, bench: &Bench, volume: &Arc<Volume>, op: Op, seed: u64) {
        match op {
            Op::Edit => self.write(volume, 100_000, &noise(seed, 3000)),
            Op::Append => {
                if let Some(len) = self.now().map(Vec::len) {
                    self.write(volume, len, &noise(seed, 5000));
                }
            }
            Op::Truncate => {
                if let Some(mut now) = self.now().cloned() {
                    let set = SetAttr {
                        size: Some(50_000),
                        ..SetAttr::default()
                    };
                    volume.set_attr(self.ino, &set).unwrap();
                    now.resize(50_000, 0);
                    self.versions.push(Some(now));
                }
            }
            Op::Sync => {
                match self.now() {
                    Some(_) => volume.fsync(self.ino, false).unwrap(),
                    None => volume.fsync_dir(ROOT).unwrap(),
                }
                self.is_synced();
            }
            Op::Replace => {
                let bytes = noise(seed, 200_000);
                self.ino = write_file(volume, "new", &bytes);
                // Its bytes may be lost, but then the old file is not.
                let mode = RenameMode::Replace;
                volume.rename(ROOT, b"new", ROOT, b"file", mode).unwrap();
                self.versions.push(Some(bytes.to_vec()));
            }
            Op::Unlink => {
                if self.now().is_some() {
                    volume.unlink(ROOT, b"file").unwrap();
                    self.versions.push(None);
                }
            }
            Op::Commit => drop(bench.commit(volume)),
            Op::Drop => {
                if self.now().is_some() {
                    volume.drop_content(self.ino).unwrap();
                }
            }
            Op::Read => {
                if let Some(now) = self.now() {
                    assert!(read_all(volume, self.ino) == *now);
                }
            }
        }
    }

    /// Whether this can be left.
    fn explains(&self, found: Option<&[u8]>) -> bool {
        let Some(found) = found else {
            return self.versions.contains(&None);
        };
        let versions: Vec<_> = self.versions.iter().flatten().collect();
        let lengths = versions.iter().map(|version| version.len());
        let (shortest, longest) = (lengths.clone().min(), lengths.max());
        // Where one version ends, what is behind it reads as zeros.
        let known = |at: usize, byte: u8| {
            versions
                .iter()
                .any(|version| version.get(at).copied().unwrap_or(0) == byte)
        };
        shortest <= Some(found.len())
            && Some(found.len()) <= longest
            && found.iter().enumerate().all(|(at, byte)| known(at, *byte))
    }
}

/// Takes back what was written since the last sync.
fn take_bytes(image: &Path, known: &Known) {
    for (ino, at, before) in known.overwritten.iter().rev() {
        if let Ok(file) = File::options().write(true).open(cache_file(image, *ino)) {
            let len = file.metadata().unwrap().len();
            let there = len.saturating_sub(*at).min(before.len() as u64);
            file.write_all_at(&before[..there as usize], *at).unwrap();
        }
    }
}

fn check(ops: &[Op]) {
    let bench = Bench::new();
    let volume = bench.start();
    let bytes = noise(1, SIZE);
    let ino = write_file(&volume, "file", &bytes);
    // At first it is stored, whole here, and synced.
    bench.commit(&volume);
    volume.sync_all().unwrap();
    let mut known = Known {
        ino,
        versions: vec![Some(bytes.to_vec())],
        overwritten: Vec::new(),
    };
    for (op, seed) in ops.iter().zip(2..) {
        known.act(&bench, &volume, *op, seed);
    }
    let ends = [End::Kill, End::PowerCut, End::PowerCutThatTakesBytes];
    let images = ends.map(|end| (end, bench.crash_image(&format!("{end:?}"))));
    bench.stop(volume);
    for (end, image) in images {
        if end != End::Kill {
            cut_power(&image);
        }
        if end == End::PowerCutThatTakesBytes {
            take_bytes(&image, &known);
        }
        let volume = bench.start_still(&image, bench.store.clone());
        let found = volume
            .resolve(b"file")
            .ok()
            .map(|ino| read_all(&volume, ino));
        assert!(
            known.explains(found.as_deref()),
            "{ops:?}, {end:?}: {:?} bytes",
            found.map(|found| found.len())
        );
        assert!(
            volume.database_check().unwrap().is_empty(),
            "{ops:?}, {end:?}"
        );
        bench.stop(volume);
    }
}

#[test]
fn after_any_two_operations_a_kill_or_a_power_cut_leaves_what_was_synced_or_later() {
    let ones = OPS.iter().map(|&op| vec![op]);
    let twos = OPS.iter().flat_map(|&one| OPS.map(|two| vec![one, two]));
    let all: Vec<Vec<Op>> = ones.chain(twos).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(ops) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    check(ops);
                }
            });
        }
    });
}

#[test]
fn a_planted_loss_is_found() {
    let known = Known {
        ino: 7,
        versions: vec![Some(b"synced".to_vec()), Some(b"synced and more".to_vec())],
        overwritten: Vec::new(),
    };
    assert!(known.explains(Some(b"synced")));
    assert!(known.explains(Some(b"synced\0\0\0\0\0more")));
    assert!(!known.explains(Some(b"\0ynced")));
    assert!(!known.explains(Some(b"sync")));
    assert!(!known.explains(None));
}

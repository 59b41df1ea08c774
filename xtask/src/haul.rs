//! A long haul: a real daemon under load, and whether its memory and descriptors stay.
//!
//! Programs make, change, read, list and delete files in a tree that stays about as large as
//! it is; content is stored, dropped because the budget is small, and fetched again. Memory
//! and descriptors are noted all the time. At the end both must lie under their ceilings,
//! and the last quarter of the run must not need more than the second did: what grows with
//! what was touched, or leaks, is seen.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::playground::{self, Playground, Program};
use crate::run;

/// The daemon's memory, at most.
pub const RESIDENT_MAX_KIB: u64 = 120 << 10;
/// Its open files, at most.
const FILES_MAX: u64 = 512;
/// What the last quarter may need beyond the second: a tenth and this.
const GROWTH_KIB: u64 = 4 << 10;
const SAMPLE_EVERY: Duration = Duration::from_secs(5);
const WORKERS: u64 = 3;
/// Files of each worker: 3 x 800 of up to 256 KiB, far more than the budget.
const FILES: u64 = 800;
const BUDGET: &str = "96M";

/// What the daemon holds at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    secs: u64,
    resident_kib: u64,
    files: u64,
}

/// Runs for so long, in this profile.
pub fn run(minutes: u64, profile: &str) -> Result<()> {
    run::step(&format!(
        "Long haul of {minutes} minutes, profile {profile}"
    ));
    let playground = Playground::new("haul", Program::Build)?;
    let mount = playground.path("mount");
    run::output(
        playground
            .larder("machine")
            .args(["init", "--budget", BUDGET, "--store"])
            .arg(playground.path("store"))
            .arg(&mount),
    )?;
    let mut daemon = playground
        .larder("machine")
        .args(["mount", "--foreground", "--profile", profile])
        .arg(&mount)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(playground.path("said"))?)
        .spawn()?;
    let outcome = under_load(&mut daemon, &mount, Duration::from_secs(minutes * 60));
    run::output(playground.larder("machine").arg("unmount").arg(&mount))?;
    let ended = daemon.wait()?;
    let said = fs::read_to_string(playground.path("said"))?;
    let complains = ["Warning:", "Error:", "panicked"]
        .iter()
        .any(|word| said.contains(word));
    if !ended.success() || complains {
        bail!("The daemon ended with {ended} and said:\n{said}");
    }
    judge(&outcome?)
}

fn under_load(daemon: &mut Child, mount: &Path, time: Duration) -> Result<Vec<Sample>> {
    playground::wait_until_mounted(mount, || match daemon.try_wait()? {
        Some(status) => bail!("The daemon ended with {status}."),
        None => Ok(()),
    })?;
    let (begin, stop, done) = (Instant::now(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (stop, done) = (&stop, &done);
                scope.spawn(move || work(&mount.join(worker.to_string()), worker, stop, done))
            })
            .collect();
        let mut samples = Vec::new();
        while begin.elapsed() < time && workers.iter().all(|worker| !worker.is_finished()) {
            std::thread::sleep(SAMPLE_EVERY);
            let sample = sample(daemon.id(), begin)?;
            if samples.len() % 12 == 0 {
                println!("{sample:?}, {} operations", done.load(Ordering::Relaxed));
            }
            samples.push(sample);
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker
                .join()
                .unwrap_or_else(|_| bail!("A worker panicked."))?;
        }
        println!("{} operations", done.load(Ordering::Relaxed));
        Ok(samples)
    })
}

/// The memory of a daemon.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the daemon is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.map(|line| line.trim().trim_end_matches(" kB").parse());
    Ok(kib.context("no VmRSS in the daemon's status")??)
}

fn sample(pid: u32, begin: Instant) -> Result<Sample> {
    Ok(Sample {
        secs: begin.elapsed().as_secs(),
        resident_kib: resident_kib(pid)?,
        files: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
    })
}

/// Small numbers from a seed.
pub struct Dice(u64);

impl Dice {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed + 1))
    }

    /// The next, below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }
}

/// What file `n` of a worker begins with, so that what is read can be told right or wrong.
fn stamp(worker: u64, n: u64) -> Vec<u8> {
    format!("worker {worker}, file {n}. ").into_bytes()
}

fn work(dir: &Path, worker: u64, stop: &AtomicBool, done: &AtomicU64) -> Result<()> {
    let mut dice = Dice::new(worker);
    fs::create_dir(dir)?;
    let mut lengths = vec![None; FILES as usize];
    while !stop.load(Ordering::Relaxed) {
        let n = dice.below(FILES);
        let below = dir.join((n % 20).to_string());
        let path = below.join(format!("file {n}"));
        let length = &mut lengths[n as usize];
        match (dice.below(10), *length) {
            (_, None) | (0, _) => {
                fs::create_dir_all(&below)?;
                let bytes = stamp(worker, n).repeat(1 + dice.below(10_000) as usize);
                let fresh = below.join("fresh");
                fs::write(&fresh, &bytes)?;
                fs::rename(&fresh, &path)?;
                *length = Some(bytes.len() as u64);
            }
            (1, Some(_)) => {
                fs::remove_file(&path)?;
                *length = None;
            }
            (2, Some(len)) => {
                let mut file = File::options().write(true).open(&path)?;
                let piece = stamp(worker, n);
                let at = dice.below(len) / piece.len() as u64 * piece.len() as u64;
                file.seek(SeekFrom::Start(at))?;
                file.write_all(&piece)?;
                if dice.below(4) == 0 {
                    file.sync_all()?;
                }
            }
            (3, _) => {
                let counted = fs::read_dir(&below)?.count();
                if counted == 0 {
                    bail!("{} is empty", below.display());
                }
            }
            (_, Some(len)) => {
                let mut bytes = Vec::new();
                File::open(&path)?.read_to_end(&mut bytes)?;
                let piece = stamp(worker, n);
                if bytes.len() as u64 != len || bytes.chunks(piece.len()).any(|p| p != piece) {
                    bail!("{} is not what was written", path.display());
                }
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Whether memory and descriptors stayed.
fn judge(samples: &[Sample]) -> Result<()> {
    let most = |part: &[Sample], of: fn(&Sample) -> u64| part.iter().map(of).max().unwrap_or(0);
    let resident: fn(&Sample) -> u64 = |sample| sample.resident_kib;
    let files: fn(&Sample) -> u64 = |sample| sample.files;
    let quarter = samples.len() / 4;
    if quarter == 0 {
        bail!("That was too short to tell anything.");
    }
    let (second, last) = (
        &samples[quarter..2 * quarter],
        &samples[samples.len() - quarter..],
    );
    for (name, part) in [("second", second), ("last", last)] {
        println!(
            "{name} quarter: {} KiB and {} descriptors at most",
            most(part, resident),
            most(part, files)
        );
    }
    if most(samples, resident) > RESIDENT_MAX_KIB || most(samples, files) > FILES_MAX {
        bail!(
            "{} KiB and {} descriptors at most are above {RESIDENT_MAX_KIB} and {FILES_MAX}.",
            most(samples, resident),
            most(samples, files)
        );
    }
    let allowed = |before: u64, more: u64| before + before / 10 + more;
    if most(last, resident) > allowed(most(second, resident), GROWTH_KIB) {
        bail!("The daemon's memory grows.");
    }
    if most(last, files) > allowed(most(second, files), 16) {
        bail!("The daemon's descriptors grow in number.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(resident_kib: impl Fn(u64) -> u64, files: impl Fn(u64) -> u64) -> Vec<Sample> {
        let sample = |n| Sample {
            secs: n,
            resident_kib: resident_kib(n),
            files: files(n),
        };
        (0..100).map(sample).collect()
    }

    #[test]
    fn what_grows_or_is_too_much_is_seen() {
        judge(&curve(|n| 40_000 + n % 7 * 500, |n| 30 + n % 5)).unwrap();
        // Warming up is not growing.
        judge(&curve(|n| 40_000 + n.min(25) * 1000, |n| 30 + n.min(25))).unwrap();
        assert!(judge(&curve(|n| 40_000 + n * 400, |_| 30)).is_err());
        assert!(judge(&curve(|_| 40_000, |n| 30 + n)).is_err());
        assert!(judge(&curve(|_| 200_000, |_| 30)).is_err());
        assert!(judge(&curve(|_| 40_000, |_| 1000)).is_err());
        assert!(judge(&[]).is_err());
    }
}

//! Many runs, each in a process of its own: so one that hangs or dies takes nothing with it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{Planted, Run, steps};

/// What stands before the words of a run that failed.
pub const FAILED: &str = "failed: ";
/// A run takes seconds.
const MOST_SECONDS: Duration = Duration::from_secs(300);
/// So often a failed run is tried with fewer steps.
const TRIES: usize = 120;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether all was as it must be.
    pub is_well: bool,
    /// What it said.
    pub said: String,
    /// What tells it from every other run.
    pub trace: Option<String>,
}

impl Verdict {
    /// The sort of failure: the first words.
    fn sort(&self) -> &str {
        let words = self.failure();
        words.split([':', '/', '[']).next().unwrap_or(words)
    }

    /// What was not as it must be.
    pub fn failure(&self) -> &str {
        let at = self.said.find(FAILED).map(|at| at + FAILED.len());
        at.map_or(&self.said, |at| &self.said[at..])
    }
}

/// The program that runs one seed.
#[derive(Debug, Clone)]
pub struct Runner {
    /// This crate's binary.
    pub program: PathBuf,
}

impl Runner {
    /// Runs one seed in a process.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn run(&self, run: &Run) -> Result<Verdict> {
        let mut command = Command::new(&self.program);
        command.args(["one", "--seed", &run.seed.to_string()]);
        if !run.without.is_empty() {
            let without: Vec<_> = run.without.iter().map(ToString::to_string).collect();
            command.args(["--without", &without.join(",")]);
        }
        let planted = Planted::ALL.iter().find(|(_, bug)| *bug == run.planted);
        if let Some((name, _)) = planted {
            command.args(["--planted", name]);
        }
        if run.is_told {
            command.arg("--tell");
        }
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} does not start", self.program.display()))?;
        let pid = child.id();
        let (ended, is_over) = std::sync::mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            let late = is_over.recv_timeout(MOST_SECONDS);
            if late == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // It is this child still: its end was not asked for yet.
                let _ = Command::new("kill")
                    .args(["-KILL", &pid.to_string()])
                    .status();
            }
        });
        let output = child.wait_with_output()?;
        drop(ended);
        let _ = watch.join();
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        if !output.status.success() && !said.contains(FAILED) {
            said.push_str(&format!("{FAILED}{}: {}", output.status, said.trim_end()));
        }
        let trace = said.lines().find_map(|line| line.strip_prefix("trace "));
        let trace = trace.and_then(|rest| rest.split(' ').next());
        Ok(Verdict {
            is_well: output.status.success(),
            trace: trace.map(str::to_owned),
            said,
        })
    }

    /// Leaves out steps for as long as it fails in the same way.
    ///
    /// # Errors
    /// If the process cannot be started.
    pub fn shorten(&self, run: &Run, verdict: Verdict) -> Result<(Run, Verdict)> {
        let (mut shortest, mut said) = (run.clone(), verdict);
        let sort = said.sort().to_owned();
        let all = steps::plan(run.seed).steps.len();
        let mut tries = 0;
        let mut size = all.div_ceil(2);
        while size > 0 && tries < TRIES {
            let mut at = 0;
            while at < all && tries < TRIES {
                let mut shorter = shortest.clone();
                let more = (at..all.min(at + size)).filter(|step| !shortest.without.contains(step));
                shorter.without.extend(more);
                at += size;
                if shorter.without.len() == shortest.without.len() {
                    continue;
                }
                tries += 1;
                let verdict = self.run(&shorter)?;
                if !verdict.is_well && verdict.sort() == sort {
                    (shortest, said) = (shorter, verdict);
                }
            }
            size /= 2;
        }
        shortest.without.sort_unstable();
        Ok((shortest, said))
    }

    /// Runs seeds on so many processes at once, and tells of those that fail. Answers how many did.
    ///
    /// # Errors
    /// If processes cannot be started.
    pub fn run_all(&self, first: u64, count: u64, planted: Planted, at_once: usize) -> Result<u64> {
        let begin = Instant::now();
        let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
        let work = || -> Result<()> {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= first + count {
                    return Ok(());
                }
                let run = Run {
                    seed,
                    planted,
                    ..Run::default()
                };
                let verdict = self.run(&run)?;
                if !verdict.is_well {
                    println!("seed {seed}: {}", verdict.failure().trim_end());
                    if let Ok(mut failed) = failed.lock() {
                        failed.push(seed);
                    }
                }
                let done = seed + 1 - first;
                if done.is_multiple_of(1000) {
                    let minutes = begin.elapsed().as_secs_f64() / 60.0;
                    println!("{done} seeds, {:.0} in a minute", done as f64 / minutes);
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once.max(1)).map(|_| scope.spawn(work)).collect();
            for worker in workers {
                worker
                    .join()
                    .map_err(|_| anyhow::anyhow!("a worker died"))??;
            }
            anyhow::Ok(())
        })?;
        let failed = failed.into_inner().unwrap_or_default();
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "{count} seeds from {first} on in {seconds:.0} s, {:.0} in a minute; {} failed",
            count as f64 / seconds * 60.0,
            failed.len()
        );
        if let Some(&seed) = failed.iter().min() {
            self.tell(seed, planted)?;
        }
        Ok(failed.len() as u64)
    }

    /// Tells of a seed that fails, with as few steps as are found.
    ///
    /// # Errors
    /// If processes cannot be started.
    pub fn tell(&self, seed: u64, planted: Planted) -> Result<()> {
        let run = Run {
            seed,
            planted,
            ..Run::default()
        };
        let verdict = self.run(&run)?;
        if verdict.is_well {
            println!("seed {seed}: all is well");
            return Ok(());
        }
        let (mut shortest, _) = self.shorten(&run, verdict)?;
        shortest.is_told = true;
        println!("seed {seed} with as few steps as were found:");
        println!("{}", self.run(&shortest)?.said.trim_end());
        let without: Vec<_> = shortest.without.iter().map(ToString::to_string).collect();
        println!(
            "again: larder-sim one --seed {seed} --tell --without {}",
            without.join(",")
        );
        Ok(())
    }
}

//! Replicas of one volume, simulated from a seed: the real code of `larder-volume` and below, on
//! machines, a store and a clock that are not real.
//!
//! - `ground`: time, threads and chance. The real code runs with all of its threads and tasks; one
//!   thread at a time runs, and the seed says which.
//! - `store`: a store in memory that is slow, fails, lists what was a while ago, and is away.
//! - `machine`: a replica with its runtime, which can be killed at any moment.
//! - `steps`, `world`: what users do, and what must be so at the end.
//! - `seeds`: many runs, each in a process of its own.
//!
//! A run is checked for this:
//!
//! 1. *Convergence.* When nothing fails any more, all machines and a new one come to the same tree,
//!    within so many rounds of syncs as there are machines and four.
//! 2. *Nothing is lost.* What was in a commit that was acknowledged, and that nobody overwrote or
//!    deleted who had it, is in the tree at the end.
//! 3. *The last copy.* What is away can be read from the store, as it is, at any time.
//! 4. *The time machine.* A commit shows what the tree was when it was made, on each machine.
//!
//! The decision record 0018 says why it is made so, and what it cannot find.

pub mod ground;
mod ledger;
mod machine;
mod marks;
pub mod seeds;
mod steps;
mod store;
mod tree;
mod world;

pub use world::Planted;

use std::path::Path;

use anyhow::{Context, Result};

/// What is run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Run {
    /// Everything is drawn from it.
    pub seed: u64,
    /// Steps that are left out, by number.
    pub without: Vec<usize>,
    /// A bug that is planted.
    pub planted: Planted,
    /// Whether each step is printed.
    pub is_told: bool,
    /// Whether what the machines have on their disks is left to be looked at.
    pub is_kept: bool,
    /// Where all that the trace is made of is written, number by number: where two runs part that
    /// should be the same.
    pub trace: Option<std::path::PathBuf>,
}

/// Runs one seed in this process, and ends it: its threads are simulated from here on.
pub fn run(run: &Run) -> ! {
    ground::fix_addresses();
    end_on_panic();
    let directory = match directory() {
        Ok(directory) => directory,
        Err(error) => {
            println!("no directory for its state: {error:#}");
            ground::exit(2);
        }
    };
    let plan = steps::plan(run.seed);
    let steps: Vec<_> = plan
        .steps
        .iter()
        .copied()
        .enumerate()
        .filter(|(at, _)| !run.without.contains(at))
        .collect();
    ground::begin(run.seed);
    if run.trace.is_some() {
        ground::keep_trace();
    }
    let mut told = Vec::new();
    let done = world::World::new(&plan, directory.path(), run.planted)
        .context("the beginning")
        .and_then(|mut world| {
            let done = world.run(&steps);
            told = std::mem::take(&mut world.told);
            // Its threads must not be waited for.
            std::mem::forget(world);
            done
        });
    let seconds = ground::now() / 1_000_000_000;
    let (trace, turns) = (ground::trace_hash(), ground::turns_taken());
    if run.is_kept {
        println!("the machines' disks: {}", directory.path().display());
    } else {
        let _ = std::fs::remove_dir_all(directory.path());
    }
    if let Some(path) = &run.trace {
        let words: Vec<_> = ground::kept_trace().iter().map(u64::to_string).collect();
        let _ = std::fs::write(path, words.join("\n"));
    }
    // Only now: what is told must not change what happens.
    for line in told.iter().filter(|_| run.is_told) {
        println!("{line}");
    }
    match done {
        Ok(outcome) => {
            println!(
                "trace {trace:016x} turns {turns} simulated {seconds} s steps {} stored {} \
                 moments {} rounds {} kills {}",
                outcome.done, outcome.acknowledged, outcome.moments, outcome.rounds, outcome.kills
            );
            ground::exit(0)
        }
        Err(error) => {
            println!("{}{error:#}\ntrace {trace:016x}", seeds::FAILED);
            ground::exit(1)
        }
    }
}

/// In memory where that is at hand: what a disk does after a power cut is not simulated.
fn directory() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let builder = |place: &Path| {
        tempfile::Builder::new()
            .prefix("larder-sim-")
            .tempdir_in(place)
    };
    Ok(builder(memory).or_else(|_| builder(&std::env::temp_dir()))?)
}

/// A panic on whatever thread ends the run.
fn end_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        println!("{}panic: {info}", seeds::FAILED);
        ground::exit(4);
    }));
}

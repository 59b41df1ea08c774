//! Runs from seeds, each in a process of its own: the same seed is the same run, each planted bug is
//! found, and a fixed number of seeds finds nothing.

#![allow(clippy::unwrap_used, reason = "what cannot be run fails the test")]

use larder_sim::seeds::{Runner, Verdict};
use larder_sim::{Planted, Run};

/// As many as are done in about three minutes on two processors.
const SEEDS: u64 = 500;
/// A planted bug shows in one of so many seeds.
const SEEDS_FOR_A_BUG: u64 = 30;

fn runner() -> Runner {
    Runner {
        program: env!("CARGO_BIN_EXE_larder-sim").into(),
    }
}

fn run(seed: u64, planted: Planted) -> Verdict {
    let run = Run {
        seed,
        planted,
        ..Run::default()
    };
    runner().run(&run).unwrap()
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut traces = Vec::new();
    for seed in 1..=8 {
        let (one, other) = (run(seed, Planted::Nothing), run(seed, Planted::Nothing));
        assert!(one.trace.is_some(), "{}", one.said);
        assert_eq!(one, other, "seed {seed}");
        traces.push(one.trace);
    }
    traces.sort();
    traces.dedup();
    assert_eq!(traces.len(), 8, "other seeds are other runs");
}

/// Whether one of the first seeds fails with these words.
fn is_found(planted: Planted, words: &str) -> bool {
    (1..=SEEDS_FOR_A_BUG).any(|seed| {
        let verdict = run(seed, planted);
        !verdict.is_well && verdict.failure().contains(words)
    })
}

#[test]
fn machines_that_do_not_converge_are_found() {
    assert!(is_found(Planted::HidesHeads, "convergence: "));
}

#[test]
fn content_that_is_lost_is_found() {
    assert!(is_found(Planted::Deletes, "content lost: "));
}

#[test]
fn a_last_copy_that_was_dropped_is_found() {
    assert!(is_found(Planted::LosesPacks, "last copy: "));
}

#[test]
fn a_past_that_was_not_so_is_found() {
    assert!(is_found(Planted::ShowsOther, "time machine: "));
}

#[test]
fn seeds_find_nothing() {
    let number = |name: &str, default| {
        let set = std::env::var(name).ok();
        set.map_or(default, |set| set.parse::<u64>().unwrap())
    };
    let (first, count) = (number("LARDER_SEED", 1), number("LARDER_SEEDS", SEEDS));
    let at_once = std::thread::available_parallelism().map_or(2, usize::from);
    let failed = runner().run_all(first, count, Planted::Nothing, at_once);
    assert_eq!(failed.unwrap(), 0, "the seeds are told above");
}

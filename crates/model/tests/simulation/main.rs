//! Small random volumes: two to four replicas that change, commit, meet and compact at random.
//!
//! Each sequence is made from one number, its seed. After each meeting the tree must be in
//! order, at the end all replicas must come to the same state with at most two rounds of
//! repair, and no content may be gone that nobody overwrote or deleted. A sequence that
//! fails is made shorter until each of its steps is needed.
//!
//! `LARDER_SEEDS=1000000 cargo test --release -p larder-model --test simulation -- --ignored`
//! runs that many, from `LARDER_SEED` (0) on.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what is not as it must be fails the test"
)]

mod check;
mod damaged;
mod laws;
mod planted;
mod random;
mod shrink;
mod steps;
mod world;

use std::time::Instant;

use planted::Bug;
use steps::{Plan, plan};
use world::{Failure, Outcome};

fn run(plan: &Plan, bug: Bug) -> Result<Outcome, Failure> {
    world::World::new(plan, bug).run(&plan.steps)
}

/// Runs seeds; the first that fails is shortened and shown.
fn run_seeds(seeds: std::ops::Range<u64>) -> Outcome {
    let mut total = Outcome::default();
    for seed in seeds {
        let plan = plan(seed);
        match run(&plan, Bug::None) {
            Ok(outcome) => total.add(&outcome),
            Err(failure) => {
                let (short, failure) = shrink::shorten(plan, Bug::None, failure);
                panic!("seed {seed}: {failure}\n{short}");
            }
        }
    }
    total
}

#[test]
fn replicas_that_meet_come_to_one_tree_and_nothing_is_lost() {
    let total = run_seeds(0..4_000);
    // The sequences are worth something only if these happen.
    for (what, count) in total.parts() {
        assert!(count > 9, "{what} happened {count} times only");
    }
    assert!(
        total.twice < 4,
        "{} times something was there twice",
        total.twice
    );
}

#[test]
#[ignore = "as many seeds as LARDER_SEEDS says"]
fn many_seeds() {
    let number = |name: &str, otherwise: u64| {
        let text = std::env::var(name).ok();
        text.map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let first = number("LARDER_SEED", 0);
    let count = number("LARDER_SEEDS", 1_000_000);
    let begun = Instant::now();
    let total = run_seeds(first..first + count);
    let rate = count as f64 / begun.elapsed().as_secs_f64() * 60.0;
    println!("{count} seeds from {first}, {rate:.0} a minute: {total:?}");
}

/// That the checkers see what they are there to see.
#[test]
fn each_planted_bug_is_caught_and_shortened() {
    for bug in Bug::ALL {
        let caught = (0..20_000).find_map(|seed| {
            let plan = plan(seed);
            let failure = run(&plan, bug).err()?;
            Some(shrink::shorten(plan, bug, failure))
        });
        let Some((short, failure)) = caught else {
            panic!("{bug:?} was not caught");
        };
        println!("{bug:?}: {failure}\n{short}");
        assert!(short.steps.len() <= 12, "{bug:?} needs {short}");
    }
}

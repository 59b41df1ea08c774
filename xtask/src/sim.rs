//! Long runs of the simulation (`crates/sim`), from a seed on; what fails is told with its seed.

use anyhow::{Result, bail};

use crate::run;

/// Runs `larder-sim` with these words.
pub fn run(words: &[&str]) -> Result<()> {
    let words: &[&str] = match words {
        ["--seeds", _] | ["--seeds", _, "--from", _] => words,
        // One that failed: again, with as few steps as are found.
        ["--seed", seed] => &["shorten", "--seed", seed],
        _ => bail!("Say how many, with `--seeds N`, or which one failed, with `--seed S`."),
    };
    run::step("Simulation");
    let mut cargo = run::cargo();
    cargo.args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "larder-sim",
        "--",
    ]);
    run::show(cargo.args(words))
}

//! Long runs of the comparison of a mount with what it must be (`crates/mount/tests/reference`).
//!
//! The tests are built, and run for a time instead of for a number of sequences: in each
//! profile operations on a tree, and changes of one file. They share the machine, so that
//! threads meet in ways that a quiet run does not see.

use anyhow::{Context, Result, bail};

use crate::run;

/// How often the sequence of one seed is done again: what depends on how threads meet does
/// not fail each time.
const REPEAT: u64 = 25;
/// Tests that share the time: two in each of three profiles.
const TESTS: u64 = 6;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wish {
    minutes: Option<u64>,
    seed: Option<u64>,
    profile: Option<String>,
}

impl Wish {
    /// From the words behind `torture`.
    pub fn from_words(words: &[&str]) -> Result<Self> {
        let mut wish = Self::default();
        let number = |word: &str| word.parse().with_context(|| format!("{word} is no number"));
        for pair in words.chunks(2) {
            match pair {
                ["--minutes", minutes] => wish.minutes = Some(number(minutes)?),
                ["--seed", seed] => wish.seed = Some(number(seed)?),
                ["--profile", profile] => wish.profile = Some(test_name(profile)?.to_owned()),
                other => bail!("There is no `{}`.", other.join(" ")),
            }
        }
        if wish.minutes.is_none() && wish.seed.is_none() {
            bail!("Say for how long, with `--minutes N`, or which sequence, with `--seed S`.");
        }
        Ok(wish)
    }
}

/// The profile as it stands in the names of the tests.
fn test_name(profile: &str) -> Result<&'static str> {
    Ok(match profile {
        "passthrough" => "passthrough",
        "cached" => "cached",
        "no-open" | "noopen" => "no_open",
        other => bail!("There is no profile {other}."),
    })
}

/// Runs the tests; the first that fails is an error.
pub fn run(wish: &Wish) -> Result<()> {
    run::step("Torture");
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().max(2)) as u64;
    let tests = if wish.profile.is_some() {
        TESTS / 3
    } else {
        TESTS
    };
    let threads = threads.min(tests);
    let mut cargo = run::cargo();
    cargo.args([
        "test",
        "--locked",
        "--package",
        "larder-mount",
        "--test",
        "reference",
        "--",
    ]);
    cargo.args(["--nocapture", &format!("--test-threads={threads}")]);
    cargo.arg(wish.profile.as_deref().unwrap_or("_mount_"));
    if let Some(seed) = wish.seed {
        cargo.env("LARDER_SEED", seed.to_string());
    }
    match wish.minutes {
        Some(minutes) => {
            let secs = minutes * 60 * threads / tests;
            cargo.env("LARDER_TORTURE_SECS", secs.max(1).to_string());
        }
        None => {
            cargo.env("LARDER_REFERENCE_CASES", "1");
            cargo.env("LARDER_REFERENCE_REPEAT", REPEAT.to_string());
        }
    }
    run::show(&mut cargo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_asked_for_by_its_time_or_its_seed() {
        let wish = Wish::from_words(&["--minutes", "5", "--seed", "7", "--profile", "no-open"]);
        let expected = Wish {
            minutes: Some(5),
            seed: Some(7),
            profile: Some("no_open".to_owned()),
        };
        assert_eq!(wish.unwrap(), expected);
        for words in [
            &["--minutes"][..],
            &["--minutes", "x"],
            &["--profile", "cached"],
            &[],
        ] {
            assert!(Wish::from_words(words).is_err(), "{words:?}");
        }
    }
}

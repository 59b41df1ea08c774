//! A long run of three machines on bad lines (`crates/larder/tests/e2e/meet`).
//!
//! The test is built, and told for how long and with how many files. What it names at its beginning
//! as its seed gives the same users and the same weather again, but not the same moments.

use anyhow::{Context, Result, bail};

use crate::run;

const TEST: &str = "meet::three_machines_in_use_on_bad_lines_come_to_one_tree_and_lose_nothing";

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wish {
    minutes: u64,
    files: Option<u64>,
    seed: Option<u64>,
}

impl Wish {
    /// From the words behind `meet`.
    pub fn from_words(words: &[&str]) -> Result<Self> {
        let mut wish = Self::default();
        let number = |word: &str| word.parse().with_context(|| format!("{word} is no number"));
        for pair in words.chunks(2) {
            match pair {
                ["--minutes", minutes] => wish.minutes = number(minutes)?,
                ["--files", files] => wish.files = Some(number(files)?),
                ["--seed", seed] => wish.seed = Some(number(seed)?),
                other => bail!("There is no `{}`.", other.join(" ")),
            }
        }
        if wish.minutes == 0 {
            bail!("Say for how long, with `--minutes N`.");
        }
        Ok(wish)
    }
}

/// Runs the test.
pub fn run(wish: &Wish) -> Result<()> {
    run::step(&format!("Three machines for {} minutes", wish.minutes));
    let mut cargo = run::cargo();
    cargo.args(["test", "--locked", "--package", "larder", "--test", "e2e"]);
    cargo.args(["--", "--nocapture", "--exact", TEST]);
    cargo.env("LARDER_MEET_MINUTES", wish.minutes.to_string());
    for (name, value) in [
        ("LARDER_MEET_FILES", wish.files),
        ("LARDER_SEED", wish.seed),
    ] {
        if let Some(value) = value {
            cargo.env(name, value.to_string());
        }
    }
    run::show(&mut cargo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_asked_for_by_its_time() {
        let wish = Wish::from_words(&["--minutes", "5", "--seed", "7", "--files", "100"]);
        let expected = Wish {
            minutes: 5,
            files: Some(100),
            seed: Some(7),
        };
        assert_eq!(wish.unwrap(), expected);
        for words in [
            &["--minutes"][..],
            &["--minutes", "x"],
            &["--seed", "1"],
            &[],
        ] {
            assert!(Wish::from_words(words).is_err(), "{words:?}");
        }
    }
}

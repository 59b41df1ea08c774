//! Real programs on a mount, with their own checks: those that take too long for each run.
//!
//! The daemon is killed in the middle where a program promises to survive that, and content
//! is stored, dropped and fetched again between a program's writing and its checking.

mod builds;
mod postgres;
mod server_away;
mod stress;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::playground::{Playground, Program};
use crate::run;
use crate::volume::{Plan, Volume};

/// The programs, in the order in which they are tried.
const ALL: [&str; 5] = ["git", "cargo", "postgres", "stress", "server-away"];

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish {
    names: Vec<String>,
    /// The repository that is cloned; this one by default.
    repository: PathBuf,
    /// How long a server is away.
    minutes: u64,
    profile: String,
}

impl Wish {
    /// From the words behind `programs`.
    pub fn from_words(words: &[&str]) -> Result<Self> {
        let mut wish = Self {
            names: Vec::new(),
            repository: run::root(),
            minutes: 5,
            profile: "cached".to_owned(),
        };
        let mut words = words.iter();
        while let Some(&word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} needs a value"))
            };
            match word {
                "--repository" => wish.repository = PathBuf::from(value()?),
                "--minutes" => wish.minutes = value()?.parse()?,
                "--profile" => wish.profile = (*value()?).to_owned(),
                name if ALL.contains(&name) => wish.names.push(name.to_owned()),
                other => bail!("There is no program {other}; there are {}.", ALL.join(", ")),
            }
        }
        if wish.names.is_empty() {
            wish.names = ALL.map(str::to_owned).to_vec();
        }
        Ok(wish)
    }
}

/// Tries each program; the first that fails is an error.
pub fn run(wish: &Wish) -> Result<()> {
    let playground = Playground::new("programs", Program::Build)?;
    for name in &wish.names {
        run::step(&format!("{name}, profile {}", wish.profile));
        let begin = Instant::now();
        match name.as_str() {
            "git" => builds::git_and_rsync(
                &mut new_volume(&playground, name, wish, "2G")?,
                &wish.repository,
            ),
            "cargo" => builds::cargo(&mut new_volume(&playground, name, wish, "2G")?),
            "postgres" => postgres::run(
                &mut new_volume(&playground, name, wish, "2G")?,
                &playground.path("sockets"),
            ),
            "stress" => stress::run(
                &new_volume(&playground, name, wish, "4G")?,
                &playground.path("plain"),
            ),
            _ => server_away::run(&playground, &wish.profile, wish.minutes),
        }
        .with_context(|| name.clone())?;
        println!("{name}: done in {} s", begin.elapsed().as_secs());
    }
    Ok(())
}

fn new_volume<'a>(
    playground: &'a Playground,
    name: &str,
    wish: &Wish,
    budget: &str,
) -> Result<Volume<'a>> {
    let store = playground.path(&format!("store-{name}"));
    let plan = Plan {
        machine: name,
        profile: &wish.profile,
        budget,
        store: vec![store.display().to_string()],
        limits: "",
    };
    Volume::start(playground, &plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_or_all_are_meant() {
        let wish = Wish::from_words(&["git", "--repository", "/r", "--minutes", "60"]).unwrap();
        assert_eq!(wish.names, ["git"]);
        assert_eq!((wish.repository, wish.minutes), ("/r".into(), 60));
        assert_eq!(Wish::from_words(&[]).unwrap().names, ALL);
        assert!(Wish::from_words(&["emacs"]).is_err());
        assert!(Wish::from_words(&["--minutes"]).is_err());
    }
}

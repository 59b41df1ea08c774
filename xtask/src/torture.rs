//! Long runs of the comparison of a mount with what it must be (`crates/mount/tests/reference`).
//!
//! The tests are built, and run for a time instead of for a number of sequences: in each
//! profile operations on a tree, and changes of one file. They share the machine, so that
//! threads meet in ways that a quiet run does not see.
//!
//! Most of a sequence's time would be waiting: for a disk, and for commits. So each test has
//! several volumes side by side, and where the rights allow it all lies on an ext4 in memory,
//! which is mounted for this run's processes alone and goes with the last of them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::run;

/// How often the sequence of one seed is done again: what depends on how threads meet does
/// not fail each time.
const REPEAT: u64 = 25;
/// Tests that share the time: two in each of three profiles.
const TESTS: u64 = 6;
/// Volumes of each test that runs.
const VOLUMES: u64 = 6;

const MEMORY: &str = "/dev/shm";
const MEMORY_BYTES: u64 = 6 << 30;
/// Mounts the image `$1` at `$2`, and does the rest of the words with its files there.
const ON_IMAGE: &str =
    r#"mount -o loop,noatime "$1" "$2" && export TMPDIR="$2" && shift 2 && exec "$@""#;

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
            cargo.env("LARDER_REFERENCE_VOLUMES", VOLUMES.to_string());
            let secs = minutes * 60 * threads / tests;
            cargo.env("LARDER_TORTURE_SECS", secs.max(1).to_string());
        }
        None => {
            cargo.env("LARDER_REFERENCE_CASES", "1");
            cargo.env("LARDER_REFERENCE_REPEAT", REPEAT.to_string());
        }
    }
    let memory = tempfile::Builder::new()
        .prefix("larder-torture-")
        .tempdir_in(MEMORY);
    let on_memory = memory
        .map_err(anyhow::Error::from)
        .and_then(|memory| Ok((on_memory(&cargo, memory.path())?, memory)));
    match on_memory {
        Ok((mut cargo, _memory)) => counted(&mut cargo),
        Err(why) => {
            println!("Its files lie on the disk: {why:#}");
            counted(&mut cargo)
        }
    }
}

/// The same command, with its temporary files on an ext4 that lies in `memory`.
fn on_memory(command: &Command, memory: &Path) -> Result<Command> {
    let room = rustix::fs::statvfs(memory)?;
    if room.f_bavail * room.f_frsize < MEMORY_BYTES {
        bail!("{MEMORY} has less than {} GiB free", MEMORY_BYTES >> 30);
    }
    let (image, mount) = (memory.join("image"), memory.join("mount"));
    std::fs::create_dir(&mount)?;
    std::fs::File::create(&image)?.set_len(MEMORY_BYTES)?;
    run::output(Command::new("mkfs.ext4").arg("-q").arg(&image))?;
    let words = |rest: &Command| {
        let mut all = Command::new("unshare");
        all.args(["--mount", "sh", "-c", ON_IMAGE, "sh"]);
        all.args([&image, &mount]);
        all.arg(rest.get_program()).args(rest.get_args());
        all
    };
    // Whether this machine can do that is found by doing it.
    run::output(&mut words(&Command::new("true")))?;
    let mut all = words(command);
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => all.env(name, value),
            None => all.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        all.current_dir(dir);
    }
    Ok(all)
}

/// Runs the tests in sight of the user, and says how many sequences were done.
fn counted(tests: &mut Command) -> Result<()> {
    println!("$ {}", run::words(tests));
    let mut running = tests
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{}` does not start", run::words(tests)))?;
    let mut done = 0;
    if let Some(said) = running.stdout.take() {
        for line in BufReader::new(said).lines() {
            let line = line?;
            println!("{line}");
            done += sequences(&line).unwrap_or(0);
        }
    }
    let status = running.wait()?;
    println!("\n{done} sequences in all.");
    if !status.success() {
        bail!("A sequence failed; it stands above, with its seed ({status}).");
    }
    Ok(())
}

/// The number of sequences in what a test says at its end.
fn sequences(line: &str) -> Option<u64> {
    let (before, _) = line.split_once(" sequences of ")?;
    before.rsplit(' ').next()?.parse().ok()
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

    #[test]
    fn what_the_tests_did_is_counted() {
        let line = "one file, Cached: 246 sequences of 50 operations at most from seed 100";
        assert_eq!(sequences(line), Some(246));
        assert_eq!(sequences("test a_cached_mount ... ok"), None);
    }
}

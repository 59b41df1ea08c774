//! The workspace's own commands: `cargo xtask COMMAND`.
//!
//! `cargo xtask test` needs nothing but a Rust toolchain on Debian: it installs what is
//! missing, then checks, tests and runs a POSIX suite on real mounts. The other commands
//! are parts of it, and a demo.

mod check;
mod demo;
mod docs;
mod faults;
mod fsx;
mod fuzz;
mod haul;
mod pjdfstest;
mod playground;
mod programs;
mod rules;
mod run;
mod setup;
mod sim;
mod sshd;
mod torture;
mod tree;
mod volume;

use std::process::ExitCode;

use anyhow::{Result, bail};

use playground::Program;

const USAGE: &str = "\
Usage: cargo xtask COMMAND

  test [--fast]             all set-up, `check`, every test, and pjdfstest on each mount profile;
                            fast: no set-up, no clippy, no pjdfstest
  check [--fast]            formatting, clippy, dependency rules, links and promises in the docs;
                            fast: no clippy
  demo                      a volume on an SSH server of its own, from init to a second machine
  pjdfstest [--profile P]   the POSIX suite on a real mount (all profiles, or one)
  setup                     only install what is missing
  torture --minutes N       long runs of the comparison of a mount with what it must be
          [--seed S] [--profile P]  from a seed on; without minutes: the sequence of that seed
  sim --seeds N [--from S]  replicas of one volume, simulated: so many runs; `--seed S`: the one that
                            failed, with as few steps as are found
  fuzz --minutes N          the fuzz targets, with a nightly compiler
  faults --minutes N [--from K]  a daemon whose calls fail or kill it, each at its turn
  fsx --minutes N           fsx on a mount of each profile, its files stored and fetched in between
  programs [NAME ...]       git and rsync, cargo, postgres, stress, server-away: real programs
                            on a mount, those that take long
           [--repository DIR] [--minutes N] [--profile P]  what git clones; how long a server
                            is away; the mount's profile
  haul --minutes N [--profile P]  a daemon under load: its memory and descriptors must stay

faults, fsx, programs and haul build the program, or take the one that LARDER_PROGRAM names.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[&str]) -> Result<()> {
    match args {
        ["test"] => test(),
        ["test", "--fast"] => {
            check::all(check::Clippy::Skip)?;
            run_tests()
        }
        ["check"] => check::all(check::Clippy::Run),
        ["check", "--fast"] => check::all(check::Clippy::Skip),
        ["demo"] => demo::run(),
        ["pjdfstest"] => {
            setup::pjdfstest()?;
            pjdfstest::run(&pjdfstest::PROFILES, Program::Build)
        }
        ["pjdfstest", "--profile", name] => {
            if !pjdfstest::PROFILES.contains(name) {
                bail!("There is no profile {name}.");
            }
            setup::pjdfstest()?;
            pjdfstest::run(&[name], Program::Build)
        }
        ["setup"] => setup::all(),
        ["torture", words @ ..] => torture::run(&torture::Wish::from_words(words)?),
        ["sim", words @ ..] => sim::run(words),
        ["fuzz", "--minutes", minutes] => fuzz::run(minutes.parse()?),
        ["faults", "--minutes", minutes] => faults::run(minutes.parse()?, 1),
        ["faults", "--minutes", minutes, "--from", first] => {
            faults::run(minutes.parse()?, first.parse()?)
        }
        ["fsx", "--minutes", minutes] => fsx::run(minutes.parse()?, Program::Build),
        ["programs", words @ ..] => programs::run(&programs::Wish::from_words(words)?),
        ["haul", "--minutes", minutes] => haul::run(minutes.parse()?, "cached"),
        ["haul", "--minutes", minutes, "--profile", profile] => {
            haul::run(minutes.parse()?, profile)
        }
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        other => bail!("There is no `cargo xtask {}`.\n\n{USAGE}", other.join(" ")),
    }
}

fn test() -> Result<()> {
    setup::all()?;
    check::all(check::Clippy::Run)?;
    run_tests()?;
    pjdfstest::run(&pjdfstest::PROFILES, Program::Tested)
}

fn run_tests() -> Result<()> {
    run::step("Tests");
    run::show(run::cargo().args(["test", "--workspace", "--locked"]))
}

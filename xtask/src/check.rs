//! What holds of the source without running it.
//!
//! All checks run, also after one found something, so that one run shows all there is to do.

use anyhow::{Result, bail};

use crate::{docs, rules, run};

/// Whether clippy takes part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Clippy {
    /// Yes: it compiles the whole workspace.
    Run,
    /// No.
    Skip,
}

type Check = (&'static str, fn() -> Result<()>);

/// All checks; the cheap ones first.
pub fn all(clippy: Clippy) -> Result<()> {
    let mut checks: Vec<Check> = vec![
        ("Formatting", formatting),
        (
            "Dependency and source rules",
            || report(&rules::findings()?),
        ),
        ("Documents", || report(&docs::findings(&run::root())?)),
    ];
    if clippy == Clippy::Run {
        checks.push(("Clippy", lints));
    }
    let mut failed = Vec::new();
    for (name, check) in checks {
        run::step(name);
        if let Err(error) = check() {
            println!("{error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("Not as it should be: {}.", failed.join(", "));
    }
    Ok(())
}

fn formatting() -> Result<()> {
    run::show(run::cargo().args(["fmt", "--all", "--check"]))
}

fn lints() -> Result<()> {
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked"];
    run::show(run::cargo().args(clippy).args(["--", "-D", "warnings"]))
}

fn report(findings: &[String]) -> Result<()> {
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    println!("Nothing found.");
    Ok(())
}

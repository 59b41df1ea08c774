//! What holds of the source without running it.

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

/// All checks; the cheap ones first.
pub fn all(clippy: Clippy) -> Result<()> {
    run::step("Formatting");
    run::show(run::cargo().args(["fmt", "--all", "--check"]))?;
    run::step("Dependency and source rules");
    report(rules::findings()?)?;
    run::step("Documents");
    report(docs::findings(&run::root())?)?;
    if clippy == Clippy::Run {
        run::step("Clippy");
        run::show(run::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ]))?;
    }
    Ok(())
}

fn report(findings: Vec<String>) -> Result<()> {
    if findings.is_empty() {
        println!("Nothing found.");
        return Ok(());
    }
    for finding in &findings {
        println!("{finding}");
    }
    bail!("{} rules are broken, see above.", findings.len());
}

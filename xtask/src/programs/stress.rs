//! stress-ng's file-system class: what passes in a plain directory must pass on a mount.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::run;
use crate::volume::Volume;

/// How long each stressor runs.
const TIME: &str = "2s";
/// Not about the files in a directory: they mount things of their own, or empty the caches
/// of the whole machine.
const LEFT_OUT: [&str; 3] = ["bind-mount", "binderfs", "dentry"];

/// Runs each stressor of the class on the mount; what fails, in the directory `plain`, too.
pub fn run(volume: &Volume<'_>, plain: &Path) -> Result<()> {
    fs::create_dir_all(plain)?;
    let listed = run::output(Command::new("stress-ng").args(["--class", "filesystem?"]))?;
    let stressors = names(&listed).with_context(|| listed.clone())?;
    let (mut passed, mut worse) = (0, Vec::new());
    for name in stressors {
        let said = match how(&stress(name, volume.root())?) {
            How::Passed => {
                passed += 1;
                continue;
            }
            How::CannotBeDone => {
                println!("{name} cannot be done here");
                continue;
            }
            How::Failed(said) => said,
        };
        match how(&stress(name, plain)?) {
            How::Passed => worse.push(format!("{name}:\n{said}")),
            _ => println!("{name} fails in a plain directory, too"),
        }
    }
    println!("{passed} stressors passed, {} failed", worse.len());
    if worse.is_empty() {
        return Ok(());
    }
    bail!("These fail on the mount only.\n{}", worse.join("\n"))
}

fn stress(name: &str, at: &Path) -> Result<Output> {
    Command::new("stress-ng")
        .args([
            &format!("--{name}"),
            "1",
            "--verify",
            "--timeout",
            TIME,
            "--temp-path",
        ])
        .arg(at)
        .current_dir(at)
        .output()
        .context("stress-ng does not start (Debian: stress-ng)")
}

/// How a stressor ended.
#[derive(Debug, PartialEq, Eq)]
enum How {
    Passed,
    /// For lack of rights, or of the thing itself in this kernel.
    CannotBeDone,
    Failed(String),
}

fn how(output: &Output) -> How {
    match output.status.code() {
        Some(0) => How::Passed,
        Some(3 | 4) => How::CannotBeDone,
        _ => How::Failed(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// The stressors, from `class 'filesystem' stressors: access chattr ...`.
fn names(listed: &str) -> Result<Vec<&str>> {
    let (_, names) = listed
        .split_once("stressors: ")
        .context("stress-ng does not name its stressors")?;
    let names = names.split_whitespace();
    Ok(names.filter(|name| !LEFT_OUT.contains(name)).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn stressors_are_named_and_those_left_out_are_not() {
        let listed = "class 'filesystem' stressors: access bind-mount chattr\n";
        assert_eq!(names(listed).unwrap(), ["access", "chattr"]);
        assert!(names("stress-ng: command not found").is_err());
    }

    #[test]
    fn a_stressor_that_fails_is_told_from_one_that_cannot_be_done() {
        let ended = |code: i32| {
            how(&Output {
                status: ExitStatus::from_raw(code << 8),
                stdout: Vec::new(),
                stderr: b"fail".to_vec(),
            })
        };
        assert_eq!(ended(0), How::Passed);
        assert_eq!(ended(4), How::CannotBeDone);
        assert_eq!(ended(2), How::Failed("fail".to_owned()));
    }
}

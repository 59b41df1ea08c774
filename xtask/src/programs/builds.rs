//! A repository cloned, collected and checked; its tree brought there and back; and a build.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::run;
use crate::volume::Volume;

fn git(at: &Path, words: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    // Owners need not be those who run this.
    git.args(["-c", "safe.directory=*", "-C"]).arg(at);
    run::output(git.args(words))
}

/// `git clone`, `fsck`, `gc`; then `rsync -c` of its tree there and back.
pub fn git_and_rsync(volume: &mut Volume<'_>, repository: &Path) -> Result<()> {
    let clone = volume.root().join("clone");
    let (from, to) = (repository.to_string_lossy(), clone.to_string_lossy());
    git(volume.root(), &["clone", "-q", "--no-local", &from, &to])?;
    let head = git(&clone, &["rev-parse", "HEAD"])?;
    let commits = git(&clone, &["rev-list", "--count", "HEAD"])?;
    let clean = |at: &Path| -> Result<()> {
        git(at, &["fsck", "--full"])?;
        let status = git(at, &["status", "--porcelain"])?;
        ensure!(
            status.is_empty(),
            "{} is not clean:\n{status}",
            at.display()
        );
        ensure!(
            git(at, &["rev-parse", "HEAD"])? == head,
            "Another commit is there."
        );
        ensure!(
            git(at, &["rev-list", "--count", "HEAD"])? == commits,
            "Commits are lost."
        );
        Ok(())
    };
    clean(&clone)?;
    volume.send_away()?;
    git(&clone, &["repack", "-q", "-a", "-d", "-f"])?;
    git(&clone, &["gc", "-q", "--prune=now"])?;
    volume.send_away()?;
    clean(&clone)?;
    println!("{} commits cloned, collected and checked", commits.trim());
    there_and_back(volume, &clone)
}

fn there_and_back(volume: &mut Volume<'_>, source: &Path) -> Result<()> {
    let outside = tempfile::tempdir()?;
    let rsync = |from: &Path, to: &Path| {
        let from = format!("{}/", from.display());
        run::output(Command::new("rsync").args(["-aHAXci", &from]).arg(to))
    };
    let (there, back) = (volume.root().join("there"), outside.path().join("back"));
    rsync(source, &there)?;
    volume.send_away()?;
    rsync(&there, &back)?;
    for (from, to) in [(source, &there), (source, &back)] {
        let differs = rsync(from, to)?;
        ensure!(differs.is_empty(), "{} differs:\n{differs}", to.display());
    }
    println!("Its tree was brought there and back, and no byte differs.");
    Ok(())
}

/// This workspace, built offline on the mount, and again after its content was away.
pub fn cargo(volume: &mut Volume<'_>) -> Result<()> {
    let source = volume.root().join("workspace");
    let (from, to) = (run::root(), source.to_string_lossy().into_owned());
    let from = from.to_string_lossy();
    git(volume.root(), &["clone", "-q", "--no-local", &from, &to])?;
    let cargo = |word: &str| {
        let mut cargo = run::cargo();
        cargo
            .current_dir(&source)
            // Not `target`, which a rule keeps on this machine: it would never be away.
            .env("CARGO_TARGET_DIR", source.join("built"))
            .args([word, "--offline", "--locked", "--package", "larder-plan"]);
        cargo
    };
    run::output(&mut cargo("test"))?;
    volume.send_away()?;
    let again = cargo("test").output()?;
    let said = String::from_utf8_lossy(&again.stderr);
    ensure!(
        again.status.success() && !said.contains("Compiling"),
        "What was built is not taken as such:\n{said}"
    );
    println!("Built and tested; after its content was away nothing was built again.");
    Ok(())
}

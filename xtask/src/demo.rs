//! The whole of Larder in a minute, on real parts.
//!
//! A real SSH server on loopback is the store. One machine makes a volume, mounts it,
//! copies a tree in, stores it, drops the content and reads it back; a second machine
//! opens the same volume from the store alone. Each tree is compared with its source.
//! Every command is shown as one would type it, and nothing is left behind.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::playground::{Playground, Program};
use crate::run;
use crate::sshd::Sshd;

/// Runs it.
pub fn run() -> Result<()> {
    run::step("Building");
    let playground = Playground::new("demo", Program::Build)?;
    let source = playground.path("Photos");
    make_tree(&source)?;
    let sshd = Sshd::start(&playground.path("sshd"))?;
    let nas = Nas {
        address: sshd.address(&playground.path("nas"))?,
        sshd: &sshd,
    };

    run::step("A volume on this machine");
    playground.enter("laptop");
    let home = playground.path("Larder");
    let laptop = |args: &[&str]| shown(playground.larder("laptop").args(args));
    shown(
        nas.reached(
            playground
                .larder("laptop")
                .args(["init", "--budget", "100M"]),
        )?
        .args(["--store", &nas.address])
        .arg(&home),
    )?;
    shown(playground.larder("laptop").arg("mount").arg(&home))?;
    shown(Command::new("cp").arg("-a").arg(&source).arg(&home))?;
    let photos = home.join("Photos");
    let photos_arg = photos.to_string_lossy();
    compare(&source, &photos)?;
    laptop(&[
        "--volume",
        &home.to_string_lossy(),
        "commit",
        "-m",
        "All photos",
    ])?;
    laptop(&["--volume", &home.to_string_lossy(), "status"])?;

    run::step("Free the space; the files stay");
    laptop(&["stash", &photos_arg])?;
    laptop(&["ls", "-l", &photos_arg])?;
    ensure!(
        bytes_here(&playground, &photos)? == 0,
        "The content is still here."
    );
    println!("Reading everything back from the server ...");
    compare(&source, &photos)?;
    laptop(&["unmount", &home.to_string_lossy()])?;

    run::step("The same volume on a second machine");
    playground.enter("desktop");
    let other = playground.path("Larder-on-desktop");
    shown(
        nas.reached(
            playground
                .larder("desktop")
                .args(["open", &nas.address])
                .arg(&other),
        )?,
    )?;
    shown(playground.larder("desktop").arg("mount").arg(&other))?;
    compare(&source, &other.join("Photos"))?;
    shown(playground.larder("desktop").arg("unmount").arg(&other))?;

    println!("\nBoth machines showed the same tree, byte for byte, and everything is cleaned up.");
    Ok(())
}

/// The server that the volume lives on.
struct Nas<'a> {
    sshd: &'a Sshd,
    address: String,
}

impl Nas<'_> {
    /// The command with the options that reach the server.
    fn reached<'c>(&self, command: &'c mut Command) -> Result<&'c mut Command> {
        Ok(command
            .arg("--identity")
            .arg(self.sshd.identity())
            .arg("--known-hosts")
            .arg(self.sshd.known_hosts()?))
    }
}

fn shown(command: &mut Command) -> Result<()> {
    println!();
    run::show(command)
}

/// A few directories of small texts, two larger files that do not compress, a link and
/// an executable.
fn make_tree(root: &Path) -> Result<()> {
    for year in 2021..2026 {
        let dir = root.join(format!("{year}/notes"));
        fs::create_dir_all(&dir)?;
        for number in 0..20 {
            let line = format!("{year}, picture {number}: the same words again and again.\n");
            fs::write(
                dir.join(format!("{number:02}.txt")),
                line.repeat(number * 7 + 1),
            )?;
        }
    }
    for (name, bytes) in [("sea.raw", 6 << 20), ("mountain.raw", 3 << 20)] {
        fs::write(root.join(name), noise(name, bytes))?;
    }
    symlink("sea.raw", root.join("best.raw"))?;
    Ok(())
}

/// Bytes that do not compress, the same on every run (xorshift64).
fn noise(name: &str, len: usize) -> Vec<u8> {
    let mut state = name.bytes().fold(0x9E37_79B9_7F4A_7C15_u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    }) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Fails unless both trees have the same names, kinds, modes, times and bytes.
fn compare(left: &Path, right: &Path) -> Result<()> {
    let (names, others) = (listing(left)?, listing(right)?);
    ensure!(
        names == others,
        "{} and {} hold different names.",
        left.display(),
        right.display()
    );
    for name in &names {
        compare_entry(&left.join(name), &right.join(name))
            .with_context(|| format!("{} is not what was copied in", name.display()))?;
    }
    println!(
        "{} is equal to {}: {} entries.",
        right.display(),
        left.display(),
        names.len()
    );
    Ok(())
}

fn compare_entry(left: &Path, right: &Path) -> Result<()> {
    let (one, other) = (fs::symlink_metadata(left)?, fs::symlink_metadata(right)?);
    ensure!(
        one.mode() == other.mode(),
        "mode {:o} is {:o}",
        one.mode(),
        other.mode()
    );
    ensure!(
        one.modified()? == other.modified()?,
        "the time of change differs"
    );
    if one.is_symlink() {
        ensure!(
            fs::read_link(left)? == fs::read_link(right)?,
            "the link leads elsewhere"
        );
    } else if one.is_file() {
        ensure!(
            one.len() == other.len(),
            "{} bytes are {}",
            one.len(),
            other.len()
        );
        ensure!(fs::read(left)? == fs::read(right)?, "the bytes differ");
    }
    Ok(())
}

/// All names below a directory, sorted.
fn listing(root: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            names.push(entry.path().strip_prefix(root)?.to_owned());
            if entry.file_type()?.is_dir() {
                left.push(entry.path());
            }
        }
    }
    names.sort();
    if names.is_empty() {
        bail!("{} is empty.", root.display());
    }
    Ok(names)
}

/// What `larder ls` says is here of all files below `dir`, in bytes.
fn bytes_here(playground: &Playground, dir: &Path) -> Result<u64> {
    let listing = run::output(
        playground
            .larder("laptop")
            .args(["ls", "-R", "--json"])
            .arg(dir),
    )?;
    let entries: Vec<Entry> = serde_json::from_str(&listing).context("larder ls --json")?;
    Ok(entries.iter().map(|entry| entry.bytes_here).sum())
}

/// An entry of `larder ls --json`, as far as it matters here.
#[derive(serde::Deserialize)]
struct Entry {
    bytes_here: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_byte_and_a_missing_file_are_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        make_tree(&one).unwrap();
        crate::run::output(Command::new("cp").arg("-a").arg(&one).arg(&other)).unwrap();
        compare(&one, &other).unwrap();
        let file = other.join("sea.raw");
        let time = fs::metadata(&file).unwrap().modified().unwrap();
        let mut bytes = fs::read(&file).unwrap();
        bytes[4096] ^= 1;
        fs::write(&file, &bytes).unwrap();
        fs::File::open(&file).unwrap().set_modified(time).unwrap();
        assert!(compare(&one, &other).is_err());
        bytes[4096] ^= 1;
        fs::write(&file, &bytes).unwrap();
        fs::File::open(&file).unwrap().set_modified(time).unwrap();
        compare(&one, &other).unwrap();
        fs::remove_file(other.join("2021/notes/03.txt")).unwrap();
        assert!(compare(&one, &other).is_err());
    }
}

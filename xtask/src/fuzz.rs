//! The fuzz targets (`fuzz/`), each for a time, from the golden files on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::{run, setup};

/// The target that needs the daemon, by a feature of the same name.
const CONTROL: &str = "control";

/// Runs every target for its share of `minutes`; the first input that fails one is an error,
/// and lies in `fuzz/artifacts`.
pub fn run(minutes: u64) -> Result<()> {
    setup::cargo_fuzz()?;
    let fuzz = run::root().join("fuzz");
    let targets = targets(&fuzz)?;
    let secs = minutes * 60 / targets.len() as u64;
    for target in &targets {
        run::step(&format!("Fuzzing, {target}"));
        let corpus = fuzz.join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        let features: &[&str] = match target.as_str() {
            CONTROL => &["--features", CONTROL],
            _ => &[],
        };
        let mut cargo = run::cargo();
        run::show(
            cargo
                .env("RUSTUP_TOOLCHAIN", "nightly")
                .env("CARGO", "cargo")
                .env_remove("RUSTC")
                .env("PATH", setup::path_with_tools()?)
                .current_dir(&fuzz)
                .args(["fuzz", "run", target])
                .args(features)
                .arg(&corpus)
                .arg(run::root().join("crates/format/tests/golden/v1"))
                .args([
                    "--",
                    "-rss_limit_mb=1024",
                    "-timeout=10",
                    "-print_final_stats=1",
                ])
                .arg(format!("-max_total_time={}", secs.max(1))),
        )?;
    }
    Ok(())
}

/// The names of the targets.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let folder = fuzz.join("fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&folder)
        .with_context(|| folder.display().to_string())?
        .filter_map(|file| file.ok()?.path().file_stem()?.to_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_declared() {
        let fuzz = run::root().join("fuzz");
        let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        let targets = targets(&fuzz).unwrap();
        assert!(targets.len() > 5);
        for target in targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")));
        }
    }
}

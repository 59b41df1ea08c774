//! fsx on real mounts: random changes of a file by calls and maps, each read compared.
//!
//! fsx keeps its file open, and what is open is never dropped. So it works in bursts, on
//! several files at once, while the volume stores what it makes; after each burst all is
//! stored, dropped and fetched again, and must be what fsx left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::pjdfstest::PROFILES;
use crate::playground::{Playground, Program};
use crate::volume::{Plan, Volume};
use crate::{run, setup};

/// Operations of each fsx in a burst.
const OPERATIONS: u64 = 4000;
/// The largest size of each file.
const SIZES: [u64; 3] = [256 << 10, 2 << 20, 9 << 20];
/// Less than the files together: content goes by itself, too.
const BUDGET: &str = "24M";

/// Runs for so long, in each profile for a third of it.
pub fn run(minutes: u64, program: Program) -> Result<()> {
    setup::fsx()?;
    let playground = Playground::new("fsx", program)?;
    let time = Duration::from_secs(minutes * 60) / PROFILES.len() as u32;
    for profile in PROFILES {
        run::step(&format!("fsx, profile {profile}"));
        let plan = Plan {
            machine: profile,
            profile,
            budget: BUDGET,
            store: vec![
                playground
                    .path(&format!("store-{profile}"))
                    .display()
                    .to_string(),
            ],
            limits: "",
        };
        let mut volume = Volume::start(&playground, &plan)?;
        let (begin, first) = (Instant::now(), seed()?);
        let mut bursts = 0;
        while begin.elapsed() < time {
            burst(
                &playground,
                &mut volume,
                first + bursts * SIZES.len() as u64,
            )
            .with_context(|| format!("profile {profile}"))?;
            bursts += 1;
        }
        volume.unmount()?;
        println!(
            "{} runs of {OPERATIONS} operations, from seed {first}",
            bursts * SIZES.len() as u64
        );
    }
    Ok(())
}

fn seed() -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now.as_secs() * 1000)
}

/// An fsx that runs.
struct Running {
    child: Child,
    seed: u64,
    file: PathBuf,
    said: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn burst(playground: &Playground, volume: &mut Volume<'_>, seed: u64) -> Result<()> {
    let mut running = Vec::new();
    for (size, seed) in SIZES.into_iter().zip(seed..) {
        running.push(start(playground, volume.root(), size, seed)?);
    }
    for fsx in &mut running {
        while fsx.child.try_wait()?.is_none() {
            // What keeps changing, and what is open, is named: that is no failure.
            volume.larder().arg("commit").output()?;
            volume.larder().arg("stash").arg(volume.root()).output()?;
        }
        let status = fsx.child.wait()?;
        if !status.success() {
            let kept = run::target().join("fsx-failed");
            fs::create_dir_all(&kept)?;
            fs::copy(&fsx.said, kept.join("said"))?;
            bail!(
                "fsx failed with seed {} on a file of at most {} ({status}); see {}",
                fsx.seed,
                fsx.file.display(),
                kept.display()
            );
        }
    }
    let left: Vec<Vec<u8>> = running
        .iter()
        .map(|fsx| fs::read(&fsx.file))
        .collect::<Result<_, _>>()?;
    volume.send_away()?;
    for (fsx, left) in running.iter().zip(left) {
        if fs::read(&fsx.file)? != left {
            bail!(
                "{} came back otherwise than fsx with seed {} left it",
                fsx.file.display(),
                fsx.seed
            );
        }
    }
    Ok(())
}

fn start(playground: &Playground, root: &Path, size: u64, seed: u64) -> Result<Running> {
    let config = playground.path(&format!("fsx-{size}.toml"));
    fs::write(&config, configuration(size))?;
    let said = playground.path(&format!("fsx-{size}.txt"));
    let file = root.join(format!("at most {size}"));
    let log = File::create(&said)?;
    let child = Command::new(setup::fsx_program())
        .args([
            "-v",
            "-S",
            &seed.to_string(),
            "-N",
            &OPERATIONS.to_string(),
            "-f",
        ])
        .arg(config)
        .arg("-P")
        .arg(playground.path(""))
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("fsx does not start")?;
    Ok(Running {
        child,
        seed,
        file,
        said,
    })
}

/// All that fsx can do on Linux.
fn configuration(size: u64) -> String {
    format!(
        "flen = {size}\n\
         [opsize]\n\
         max = {}\n\
         [weights]\n\
         close_open = 3\n\
         read = 10\n\
         write = 10\n\
         mapread = 10\n\
         mapwrite = 10\n\
         invalidate = 2\n\
         truncate = 4\n\
         fsync = 0.3\n\
         fdatasync = 0.3\n\
         posix_fallocate = 2\n\
         punch_hole = 5\n\
         sendfile = 5\n\
         posix_fadvise = 3\n\
         copy_file_range = 5\n",
        (size / 4).min(300_000)
    )
}

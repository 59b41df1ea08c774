//! An SSH server that is away for long, while programs go on.
//!
//! Content that is here is read and changed, new files come, names move. The daemon stays as
//! small as it was; when the server is back all of it is stored, and another machine has the
//! same tree.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::haul::{Dice, RESIDENT_MAX_KIB, resident_kib};
use crate::playground::Playground;
use crate::run;
use crate::sshd::Sshd;
use crate::volume::{Plan, Volume};

const PAUSE: Duration = Duration::from_millis(30);
const FILES: u64 = 2000;

/// Has a server be away for so long.
pub fn run(playground: &Playground, profile: &str, minutes: u64) -> Result<()> {
    let dir = playground.path("sshd");
    let mut sshd = Sshd::start(&dir)?;
    let address = sshd.address(&playground.path("nas"))?;
    let (identity, known_hosts) = (sshd.identity(), sshd.known_hosts()?);
    let reach = [
        "--identity".to_owned(),
        identity.display().to_string(),
        "--known-hosts".to_owned(),
        known_hosts.display().to_string(),
    ];
    let plan = Plan {
        machine: "server-away",
        profile,
        budget: "2G",
        store: [vec![address.clone()], reach.to_vec()].concat(),
        limits: "read-wait = \"3s\"",
    };
    let mut volume = Volume::start(playground, &plan)?;
    change(volume.root(), 0, Duration::from_secs(10))?;
    volume.commit()?;
    sshd.stop()?;
    let (begin, time) = (Instant::now(), Duration::from_secs(minutes * 60));
    let (mut done, mut most_kib) = (0, 0);
    while begin.elapsed() < time {
        let part = Duration::from_secs(30).min(time);
        done += change(volume.root(), done + 1, part)?;
        most_kib = most_kib.max(resident_kib(volume.pid()?)?);
    }
    println!(
        "{done} operations in {} s without a server; {most_kib} KiB of memory at most",
        begin.elapsed().as_secs()
    );
    ensure!(
        most_kib < RESIDENT_MAX_KIB,
        "That is above {RESIDENT_MAX_KIB} KiB."
    );
    sshd.restart()?;
    volume.commit()?;
    println!("The server was back; all is stored.");
    let other = playground.path("mount-elsewhere");
    run::output(
        playground
            .larder("elsewhere")
            .arg("open")
            .arg(&address)
            .arg(&other)
            .args(&reach),
    )?;
    run::output(playground.larder("elsewhere").arg("mount").arg(&other))?;
    let same = run::output(
        Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([volume.root(), &other]),
    );
    run::output(playground.larder("elsewhere").arg("unmount").arg(&other))?;
    same?;
    volume.unmount()
}

/// Changes the tree for so long; answers how many times.
fn change(root: &Path, seed: u64, time: Duration) -> Result<u64> {
    let begin = Instant::now();
    let (mut dice, mut done) = (Dice::new(seed), 0);
    while begin.elapsed() < time {
        let n = dice.below(FILES);
        let dir = root.join((n % 50).to_string());
        let path = dir.join(format!("file {n}"));
        fs::create_dir_all(&dir)?;
        match dice.below(10) {
            0..3 => fs::write(
                &path,
                format!("{n}, {done}. ").repeat(dice.below(4000) as usize),
            )?,
            3 if path.exists() => fs::rename(&path, dir.join(format!("file {}", n + FILES)))?,
            4 if path.exists() => fs::remove_file(&path)?,
            5 => drop(fs::read_dir(&dir)?.count()),
            _ if path.exists() => {
                // What is here is read at once, with or without a server.
                let text = fs::read_to_string(&path)?;
                ensure!(
                    text.is_empty() || text.starts_with(&format!("{n}, ")),
                    "{} is another file",
                    path.display()
                );
            }
            _ => {}
        }
        done += 1;
        std::thread::sleep(PAUSE);
    }
    Ok(done)
}

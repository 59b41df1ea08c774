//! A real daemon whose calls of the kernel fail, or kill it, each at its turn.
//!
//! strace has the n-th call of one kind fail in each of the daemon's threads: a read, a
//! write, a sync, a rename, and so on, once with EIO and once with ENOSPC; and once the daemon
//! is killed there. So for every n until there are no more such calls. Before that, reads and
//! writes do less than they were asked to (`short.c`), which is an error to nobody.
//!
//! Meanwhile files are written and synced, stored, dropped and read. What a sync acknowledged is
//! noted outside. No read may give other bytes, nothing may hang, and once the calls work again all
//! that was acknowledged is there.
//!
//! `write` itself is left out, since it is also how the daemon's threads wake each other.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::haul::Dice;
use crate::playground::{Playground, Program};
use crate::run;
use crate::volume::{Plan, Volume};

/// Calls that fail together: those that do the same in different forms.
const CALLS: [&str; 9] = [
    "pwrite64,pwritev",
    "pread64,preadv",
    "fsync,fdatasync,syncfs",
    "ftruncate",
    "fallocate",
    "rename,renameat,renameat2",
    "unlink,unlinkat",
    "link,linkat,mkdir,mkdirat",
    "statx,newfstatat,fstat",
];
const ENDS: [&str; 3] = ["error=EIO", "error=ENOSPC", "signal=KILL"];
/// What takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(90);
const SHORT_RUNS: u64 = 20;
const FILES: u64 = 6;
const STEPS: u64 = 14;

/// Goes through the calls for so long, from the `first` of each kind on.
pub fn run(minutes: u64, first: u64) -> Result<()> {
    let playground = Playground::new("faults", Program::Build)?;
    let cut = with_short_calls(&playground).context("with short reads and writes")?;
    println!("{cut} reads and writes did less than they were asked to");
    let (begin, time) = (Instant::now(), Duration::from_secs(minutes * 60));
    let mut left: Vec<(&str, &str)> = CALLS
        .iter()
        .flat_map(|&calls| ENDS.map(|end| (calls, end)))
        .collect();
    let (mut done, mut failed) = (0, 0);
    for n in first.. {
        let mut still = Vec::new();
        for &(calls, end) in &left {
            if begin.elapsed() > time {
                println!(
                    "{done} runs, {failed} calls failed or killed it, up to the call {n} of each kind"
                );
                return Ok(());
            }
            let inject = format!("inject={calls}:{end}:when={n}");
            let hit = once(&playground, &format!("m{n}-{done}"), &inject)
                .with_context(|| format!("`strace -e {inject}`"))?;
            done += 1;
            failed += hit;
            if hit > 0 {
                still.push((calls, end));
            }
        }
        if still.is_empty() {
            println!(
                "{done} runs, {failed} calls failed or killed it; there are no more than {n} of a kind"
            );
            return Ok(());
        }
        println!("call {n} of each kind: {} kinds are left", still.len());
        left = still;
    }
    Ok(())
}

/// Many runs in which reads and writes of files do less than they were asked to; answers how many
/// did. None is an error to anybody.
fn with_short_calls(playground: &Playground) -> Result<u64> {
    let (source, library) = (playground.path("short.c"), playground.path("short.so"));
    fs::write(&source, include_str!("short.c"))?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]);
    run::output(cc.arg(&library).arg(&source))?;
    let count = playground.path("short-count");
    let words = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("SHORT_COUNT={}", count.display()),
    ];
    let (mut volume, mut files) = prepared(playground, "short")?;
    let mut cut = 0;
    for seed in 0..SHORT_RUNS {
        volume.mount_under(&words)?;
        let [commit, stash] = commands(&volume);
        files.work(volume.root(), 2 + seed, Some([commit, stash]))?;
        ensure!(
            files.0.values().all(|known| known.cut_off.is_none()),
            "A change failed."
        );
        volume.unmount()?;
        cut += fs::read_to_string(&count)?.trim().parse::<u64>()?;
        volume.mount()?;
        files.check(volume.root(), true)?;
        volume.commit()?;
        run::output(volume.larder().args(["verify", "--stores"]))?;
        volume.unmount()?;
    }
    ensure!(cut > 0, "No read or write was cut short.");
    Ok(cut)
}

/// A volume with some files, not mounted.
fn prepared<'a>(playground: &'a Playground, machine: &str) -> Result<(Volume<'a>, Files)> {
    let plan = Plan {
        machine,
        profile: "cached",
        budget: "64M",
        store: vec![store(playground, machine).display().to_string()],
        limits: "read-wait = \"3s\"\ndirty-stall = \"3s\"",
    };
    let mut volume = Volume::start(playground, &plan)?;
    let mut files = Files::default();
    files.work(volume.root(), 1, None)?;
    volume.unmount()?;
    Ok((volume, files))
}

fn store(playground: &Playground, machine: &str) -> PathBuf {
    playground.path(&format!("store-{machine}"))
}

/// What has all stored, and what has it dropped.
fn commands(volume: &Volume<'_>) -> [Command; 2] {
    let (commit, mut stash) = (volume.larder(), volume.larder());
    stash.arg("stash").arg(volume.root());
    [commit, stash]
}

/// One run on a volume of its own; answers how many calls were made to fail.
fn once(playground: &Playground, machine: &str, inject: &str) -> Result<u64> {
    let (mut volume, mut files) = prepared(playground, machine)?;
    let log = playground.path(&format!("strace-{machine}"));
    let strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", inject, "-e"];
    let mut words: Vec<String> = strace.map(str::to_owned).to_vec();
    let calls = inject.trim_start_matches("inject=");
    let calls = calls.split(':').next().unwrap_or(calls);
    words.push(format!("trace={calls}"));
    words.extend(["-o".to_owned(), log.display().to_string()]);
    // A volume that cannot be opened is refused, which is right.
    let mounted = volume.mount_under(&words).is_ok();
    if mounted {
        files = at_most(&mut volume, files)?;
        if volume.unmount().is_err() {
            volume.kill()?;
        }
    } else {
        volume.kill()?;
    }
    let said = fs::read_to_string(playground.path(&format!("said-{machine}")))?;
    ensure!(!said.contains("panicked"), "The daemon panicked:\n{said}");
    volume.mount().context("once the calls work again")?;
    files
        .check(volume.root(), true)
        .context("once the calls work again")?;
    volume.commit()?;
    run::output(volume.larder().args(["verify", "--stores"]))?;
    volume.unmount()?;
    fs::remove_dir_all(store(playground, machine))?;
    fs::remove_dir_all(playground.path(machine))?;
    let hit = fs::read_to_string(&log).unwrap_or_default();
    fs::remove_file(&log)?;
    let killed = u64::from(hit.contains("+++ killed by SIGKILL"));
    Ok(killed + hit.matches("(INJECTED)").count() as u64)
}

/// Works on the files while calls fail, and does not wait for ever.
fn at_most(volume: &mut Volume<'_>, mut files: Files) -> Result<Files> {
    let (root, commands) = (volume.root().to_owned(), commands(volume));
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let worked = files.work(&root, 2, Some(commands));
        let _ = done.send(worked.map(|()| files));
    });
    match ended.recv_timeout(PATIENCE) {
        Ok(worked) => worked,
        Err(_) => {
            volume.kill()?;
            bail!("Something hangs: it took more than {PATIENCE:?}.")
        }
    }
}

/// What is known of a file.
#[derive(Default)]
struct Known {
    acknowledged: Vec<u8>,
    /// What a change that failed would have made of it. It is not touched again.
    cut_off: Option<Vec<u8>>,
}

#[derive(Default)]
struct Files(BTreeMap<u64, Known>);

impl Files {
    /// Changes files; then has all stored and dropped by the commands, reads, and changes
    /// some more. Failures are noted and go by; wrong bytes do not.
    fn work(&mut self, root: &Path, seed: u64, commands: Option<[Command; 2]>) -> Result<()> {
        let mut dice = Dice::new(seed);
        for step in 0..STEPS {
            self.change(root, step % FILES, &mut dice);
        }
        let Some(commands) = commands else {
            return Ok(());
        };
        for mut command in commands {
            command.output()?;
        }
        self.check(root, false)?;
        for step in 0..STEPS {
            self.change(root, step % FILES, &mut dice);
        }
        self.check(root, false)
    }

    fn change(&mut self, root: &Path, n: u64, dice: &mut Dice) {
        let known = self.0.entry(n).or_default();
        if known.cut_off.is_some() {
            return;
        }
        let fresh = format!("{n} and {}. ", dice.below(1000)).repeat(1 + dice.below(9000) as usize);
        let fresh = fresh.into_bytes();
        let old = &known.acknowledged;
        let path = root.join(format!("file {n}"));
        let (next, done) = match dice.below(4) {
            0 | 1 => (fresh.clone(), replace(&path, &fresh)),
            2 => {
                let at = dice.below(old.len() as u64 + 1);
                let mut next = old.clone();
                next.resize(next.len().max(at as usize + fresh.len()), 0);
                next[at as usize..at as usize + fresh.len()].copy_from_slice(&fresh);
                (next, put(&path, &fresh, at))
            }
            _ => {
                let len = dice.below(old.len() as u64 + 1);
                (old[..len as usize].to_vec(), cut(&path, len))
            }
        };
        match done {
            Ok(()) => known.acknowledged = next,
            Err(_) => known.cut_off = Some(next),
        }
    }

    /// Whether each file that can be read is what was acknowledged, or lies between that and
    /// what was cut off; with `all` each must be there.
    fn check(&self, root: &Path, all: bool) -> Result<()> {
        for (n, known) in &self.0 {
            let found = match fs::read(root.join(format!("file {n}"))) {
                Ok(found) => found,
                // Of what was never acknowledged even the name may be missing.
                Err(_) if !all || known.acknowledged.is_empty() => continue,
                Err(error) => bail!("file {n}, which was acknowledged: {error}"),
            };
            let mut pairs = found.iter().zip(&known.acknowledged);
            ensure!(
                known.explains(&found),
                "file {n} has {} bytes that are not the {} that were acknowledged; they part at \
                 {:?}",
                found.len(),
                known.acknowledged.len(),
                pairs.position(|(one, other)| one != other)
            );
        }
        Ok(())
    }
}

impl Known {
    fn explains(&self, found: &[u8]) -> bool {
        let before = &self.acknowledged;
        let Some(after) = &self.cut_off else {
            return found == before;
        };
        let lengths = before.len().min(after.len())..=before.len().max(after.len());
        lengths.contains(&found.len())
            && found.iter().enumerate().all(|(at, byte)| {
                let new_end = at >= before.len() && *byte == 0;
                before.get(at) == Some(byte) || after.get(at) == Some(byte) || new_end
            })
    }
}

/// As an editor saves: a new file takes the old one's name, and all of it is synced.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

fn put(path: &Path, bytes: &[u8], at: u64) -> std::io::Result<()> {
    change(path, |file| file.write_all_at(bytes, at))
}

fn cut(path: &Path, len: u64) -> std::io::Result<()> {
    change(path, |file| file.set_len(len))
}

/// Changes a file, which may be a new one, and syncs it and its name.
fn change(path: &Path, act: impl Fn(&File) -> std::io::Result<()>) -> std::io::Result<()> {
    let mut options = File::options();
    let options = options.write(true).create(true).truncate(false);
    let file = options.open(path)?;
    act(&file)?;
    file.sync_all()?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_cut_off_may() {
        let mut known = Known {
            acknowledged: b"old bytes".to_vec(),
            cut_off: None,
        };
        assert!(known.explains(b"old bytes"));
        assert!(!known.explains(b"old byte"));
        assert!(!known.explains(b"new bytes"));
        known.cut_off = Some(b"new bytes and more".to_vec());
        assert!(known.explains(b"old bytes"));
        assert!(known.explains(b"new bytes\0\0\0"));
        assert!(!known.explains(b"0ld bytes"));
        assert!(!known.explains(b"old"));
    }
}

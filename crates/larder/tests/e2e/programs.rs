//! Programs that ask much of a file system, on a real mount: with their own checks, with
//! their content sent away in between, and with a kill in the middle.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use larder_store::testing::noise;

use crate::machine::{Machine, picture};
use crate::remote::{EAGER, Remote, assert_no_diff, run, stash_all};

fn git(at: &Path, args: &[&str]) -> String {
    let settings = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "-c",
        "init.defaultBranch=main",
        "-c",
        "protocol.file.allow=always",
        "-c",
        "safe.directory=*",
        "-C",
    ];
    let at = at.to_str().unwrap();
    run("git", settings.iter().chain(&[at]).chain(args))
}

/// A repository with 1,200 files and 12 commits.
fn make_repository(at: &Path) {
    fs::create_dir(at).unwrap();
    git(at, &["init", "-q"]);
    for commit in 0..12 {
        for i in 0..100 {
            let below = at.join(format!("dir{}/sub{}", i % 10, commit % 3));
            fs::create_dir_all(&below).unwrap();
            let text = format!("commit {commit}, file {i}\n").repeat(20 + i);
            fs::write(below.join(format!("{commit}-{i}.txt")), text).unwrap();
        }
        fs::write(at.join("changes"), format!("{commit}\n").repeat(5000)).unwrap();
        fs::write(at.join("image"), noise(commit, 300_000)).unwrap();
        git(at, &["add", "-A"]);
        git(at, &["commit", "-q", "-m", &format!("commit {commit}")]);
    }
}

fn git_works_on_a_mount(profile: &str) {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop
        .larder(["mount", "Larder", "--profile", profile])
        .ok();
    let (source, clone) = (
        dir.path().join("source"),
        laptop.mount_point().join("clone"),
    );
    make_repository(&source);
    let (from, to) = (source.to_str().unwrap(), clone.to_str().unwrap());
    git(dir.path(), &["clone", "-q", "--no-local", from, to]);
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    git(&clone, &["fsck", "--full", "--strict"]);
    fs::write(clone.join("changes"), "mine\n").unwrap();
    git(&clone, &["commit", "-q", "-a", "-m", "mine"]);
    git(&clone, &["checkout", "-q", "HEAD~6"]);
    git(&clone, &["checkout", "-q", "main"]);
    git(&clone, &["gc", "-q", "--aggressive", "--prune=now"]);
    laptop.larder(["commit"]).ok();
    stash_all(&laptop);
    git(&clone, &["fsck", "--full", "--strict"]);
    assert_eq!(git(&clone, &["status", "--porcelain"]), "");
    assert_eq!(git(&clone, &["rev-list", "--count", "HEAD"]).trim(), "13");
    let back = dir.path().join("back");
    git(
        dir.path(),
        &["clone", "-q", "--no-local", to, back.to_str().unwrap()],
    );
    git(&back, &["fsck", "--full", "--strict"]);
    laptop.unmount();
}

#[test]
fn git_clones_collects_and_checks_on_a_passthrough_or_cached_mount() {
    // What the rights allow is taken by default.
    git_works_on_a_mount(if rustix::process::geteuid().is_root() {
        "passthrough"
    } else {
        "cached"
    });
}

#[test]
fn git_clones_collects_and_checks_on_a_no_open_mount() {
    git_works_on_a_mount("no-open");
}

#[test]
fn rsync_brings_a_tree_there_and_back_by_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let source = dir.path().join("source");
    crate::machine::make_tree(&source);
    let (there, back) = (laptop.mount_point().join("there"), dir.path().join("back"));
    let rsync = |from: &Path, to: &Path| {
        let from = format!("{}/", from.display());
        run("rsync", ["-aHAXc", "-i", &from, to.to_str().unwrap()])
    };
    rsync(&source, &there);
    // Nothing differs: not by content, nor by what rsync keeps beside it.
    assert_eq!(rsync(&source, &there), "");
    laptop.larder(["commit"]).ok();
    stash_all(&laptop);
    assert_eq!(rsync(&source, &there), "");
    stash_all(&laptop);
    rsync(&there, &back);
    assert_eq!(rsync(&source, &back), "");
    assert_no_diff(&source, &back);
    assert_eq!(picture(&there), picture(&source));
}

/// `sqlite3` on a database that adds row after row, each its own transaction, and says so.
struct Inserting {
    child: Child,
    acknowledged: Vec<u64>,
    said: BufReader<std::process::ChildStdout>,
}

impl Inserting {
    fn start(database: &Path, synchronous: &'static str, from: u64) -> Self {
        let mut child = Command::new("sqlite3")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        std::thread::spawn(move || {
            let begin = format!(
                "PRAGMA synchronous={synchronous};\n\
                 CREATE TABLE IF NOT EXISTS t(n INTEGER PRIMARY KEY, text);\n"
            );
            let _ = input.write_all(begin.as_bytes());
            for n in from..from + 1_000_000 {
                // The next is not asked for if one failed: what is said was acknowledged.
                let line = format!(
                    ".bail on\nINSERT INTO t VALUES({n}, hex(randomblob({})));\nSELECT 'done {n}';\n",
                    n % 700
                );
                if input.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
        let said = BufReader::new(child.stdout.take().unwrap());
        Self {
            child,
            acknowledged: Vec::new(),
            said,
        }
    }

    /// Reads until so many rows are acknowledged.
    fn wait_for(&mut self, rows: usize) {
        while self.acknowledged.len() < rows {
            assert!(self.read_line(), "sqlite3 ended");
        }
    }

    fn read_line(&mut self) -> bool {
        let mut line = String::new();
        if self.said.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        if let Some(n) = line.trim().strip_prefix("done ") {
            self.acknowledged.push(n.parse().unwrap());
        }
        true
    }

    /// Ends it at once; answers all that it had acknowledged.
    fn kill(mut self) -> Vec<u64> {
        let _ = self.child.kill();
        while self.read_line() {}
        let _ = self.child.wait();
        std::mem::take(&mut self.acknowledged)
    }
}

impl Drop for Inserting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn assert_holds(database: &Path, acknowledged: &[u64]) {
    let ask = |sql: &str| run("sqlite3", [database.to_str().unwrap(), sql]);
    assert_eq!(ask("PRAGMA integrity_check").trim(), "ok");
    let rows = ask("SELECT n FROM t");
    let rows: std::collections::BTreeSet<u64> =
        rows.lines().map(|row| row.parse().unwrap()).collect();
    for n in acknowledged {
        assert!(
            rows.contains(n),
            "row {n} was acknowledged and is not there"
        );
    }
}

fn sqlite_survives(profile: &str, journal: &str, synchronous: &'static str) {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    let mount = |laptop: &Machine| {
        laptop
            .larder(["mount", "Larder", "--profile", profile])
            .ok()
    };
    mount(&laptop);
    let database: PathBuf = laptop.mount_point().join("rows.db");
    run(
        "sqlite3",
        [
            database.to_str().unwrap(),
            &format!("PRAGMA journal_mode={journal}"),
        ],
    );
    let mut acknowledged = Vec::new();
    for round in 0..4u64 {
        let mut inserting = Inserting::start(&database, synchronous, round * 1_000_000);
        inserting.wait_for(60);
        let before = inserting.acknowledged.len();
        let is_killed = round % 2 == 1;
        if is_killed {
            laptop.kill_daemon();
        }
        let mut rows = inserting.kill();
        if is_killed && journal == "delete" && rows.len() > before {
            // To SQLite a directory that cannot be opened, to sync that its journal is gone, needs
            // no sync (unixDelete in its os_unix.c): if the daemon ended just then, the journal
            // may be there again, and the row that it spoke of is not.
            rows.pop();
        }
        acknowledged.extend(rows);
        if round % 2 == 1 {
            mount(&laptop);
        }
        assert_holds(&database, &acknowledged);
        laptop.larder(["commit"]).ok();
        laptop.larder(["stash", "Larder"]).ok();
        assert_holds(&database, &acknowledged);
    }
    assert!(acknowledged.len() >= 240);
    laptop.wait_until_stored();
    let elsewhere = remote.another_machine();
    assert_holds(&elsewhere.mount_point().join("rows.db"), &acknowledged);
}

#[test]
fn a_database_with_a_journal_keeps_every_acknowledged_row_through_kills() {
    // FULL does not sync the journal's removal, which is the commit; EXTRA does.
    sqlite_survives("cached", "delete", "EXTRA");
}

#[test]
fn a_database_with_a_log_keeps_every_acknowledged_row_through_kills() {
    sqlite_survives("cached", "wal", "FULL");
}

#[test]
fn a_database_keeps_every_acknowledged_row_through_kills_on_a_no_open_mount() {
    sqlite_survives("no-open", "wal", "FULL");
}

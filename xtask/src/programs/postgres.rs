//! PostgreSQL on a mount, killed, and killed with its file system.
//!
//! Two loads: pgbench, whose sums must agree; and rows each in a transaction of its own,
//! which are noted here, outside, once they were acknowledged. In each round the database's
//! processes are killed, in every other one the daemon first. The database mends itself, and
//! then holds every acknowledged row; `pg_amcheck` finds nothing in its tables and indexes,
//! `pg_checksums` nothing in its pages. In between all of it is stored, dropped and fetched.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::playground;
use crate::run;
use crate::volume::Volume;

const ROUNDS: u64 = 6;
/// pgbench's scale: 15 MB each.
const SCALE: &str = "3";
const LOAD: Duration = Duration::from_secs(12);
const PATIENCE: Duration = Duration::from_secs(120);
/// A debit and what it was entered as must agree, in all four tables.
const SUMS: &str = "SELECT count(DISTINCT s) FROM (\
    SELECT sum(abalance) s FROM pgbench_accounts UNION ALL \
    SELECT sum(bbalance) FROM pgbench_branches UNION ALL \
    SELECT sum(tbalance) FROM pgbench_tellers UNION ALL \
    SELECT coalesce(sum(delta), 0) FROM pgbench_history) sums";

/// Does all rounds on the volume.
pub fn run(volume: &mut Volume<'_>, sockets: &Path) -> Result<()> {
    let server = Server::make(volume.root(), sockets)?;
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let mut running = server.start()?;
        if round == 0 {
            server.ask(
                "CREATE EXTENSION amcheck; CREATE TABLE noted(n bigint PRIMARY KEY, text text)",
            )?;
            run::output(&mut server.program("pgbench", &["-q", "-i", "-s", SCALE, "postgres"]))?;
        }
        let more = under_load(&server, round, || {
            if round % 2 == 1 {
                volume.kill()?;
            }
            running.kill()
        })?;
        if round % 2 == 1 {
            volume.mount()?;
        }
        ensure!(
            more.len() > 20,
            "Only {} rows were acknowledged.",
            more.len()
        );
        acknowledged.extend(more);
        let mut running = server.start()?;
        server
            .check(&acknowledged)
            .with_context(|| format!("round {round}"))?;
        running.stop()?;
        run::output(&mut server.program("pg_checksums", &["--check"]))?;
        volume.send_away()?;
        println!(
            "round {round}: {} rows acknowledged, and all there",
            acknowledged.len()
        );
    }
    Ok(())
}

/// Puts load on it, ends it all by `end`, and answers the rows that were acknowledged.
fn under_load(server: &Server, round: u64, end: impl FnOnce() -> Result<()>) -> Result<Vec<u64>> {
    let mut bench = server
        .program("pgbench", &["-n", "-c", "3", "-T", "3600", "postgres"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut rows = server
        .program(
            "psql",
            &["-X", "-q", "-v", "ON_ERROR_STOP=1", "-t", "-A", "postgres"],
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = rows.stdin.take().context("psql has no input")?;
    let said = BufReader::new(rows.stdout.take().context("psql has no output")?);
    let asking = std::thread::spawn(move || {
        for n in round * 1_000_000.. {
            let line = format!(
                "INSERT INTO noted VALUES ({n}, repeat('{n} ', {})) RETURNING n;\n",
                n % 300
            );
            if input.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    });
    let (noted, all) = mpsc::channel();
    let reading = std::thread::spawn(move || {
        for n in said.lines().map_while(Result::ok) {
            if let Ok(n) = n.trim().parse::<u64>() {
                let _ = noted.send(n);
            }
        }
    });
    std::thread::sleep(LOAD);
    let ended = end();
    for child in [&mut bench, &mut rows] {
        let _ = child.kill();
        child.wait()?;
    }
    let _ = (asking.join(), reading.join());
    ended?;
    Ok(all.iter().collect())
}

/// A database cluster, and where its programs are.
struct Server {
    programs: PathBuf,
    data: PathBuf,
    sockets: PathBuf,
}

impl Server {
    fn make(root: &Path, sockets: &Path) -> Result<Self> {
        let server = Self {
            programs: programs()?,
            data: root.join("cluster"),
            sockets: sockets.to_owned(),
        };
        for dir in [&server.data, &server.sockets] {
            fs::create_dir(dir)?;
            run::output(Command::new("chown").arg("postgres:").arg(dir))?;
        }
        run::output(&mut server.program("initdb", &["-k", "-A", "trust", "-E", "UTF8"]))?;
        Ok(server)
    }

    /// One of its programs, as the user that it wants to be.
    fn program(&self, name: &str, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args([
                "--reuid",
                "postgres",
                "--regid",
                "postgres",
                "--clear-groups",
            ])
            .arg(self.programs.join(name))
            .args(words)
            .env("PGDATA", &self.data)
            .env("PGHOST", &self.sockets)
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(Stdio::null());
        command
    }

    fn start(&self) -> Result<Running> {
        let log = self.sockets.join("log");
        let log_file = fs::File::options().create(true).append(true).open(&log)?;
        let sockets = self.sockets.to_string_lossy();
        let mut server = self.program("postgres", &["-c", "listen_addresses=", "-k", &sockets]);
        let child = server
            .stdout(log_file.try_clone()?)
            .stderr(log_file)
            .spawn()
            .context("PostgreSQL does not start")?;
        let mut running = Running { child: Some(child) };
        let begin = Instant::now();
        while self.ask("SELECT 1").is_err() {
            let ended = match &mut running.child {
                Some(child) => child.try_wait()?,
                None => None,
            };
            if ended.is_some() || begin.elapsed() > PATIENCE {
                bail!("PostgreSQL does not answer:\n{}", fs::read_to_string(&log)?);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(running)
    }

    fn ask(&self, sql: &str) -> Result<String> {
        let words = [
            "-X",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-t",
            "-A",
            "-c",
            sql,
            "postgres",
        ];
        run::output(&mut self.program("psql", &words))
    }

    /// Every acknowledged row is there, sums agree, and nothing is broken inside.
    fn check(&self, acknowledged: &[u64]) -> Result<()> {
        let there = self.ask("SELECT n FROM noted")?;
        let there: std::collections::BTreeSet<u64> =
            there.lines().map(str::parse).collect::<Result<_, _>>()?;
        if let Some(lost) = acknowledged.iter().find(|n| !there.contains(n)) {
            bail!("Row {lost} was acknowledged and is lost.");
        }
        ensure!(
            self.ask(SUMS)?.trim() == "1",
            "pgbench's sums do not agree."
        );
        run::output(&mut self.program("pg_amcheck", &["--heapallindexed", "postgres"]))?;
        Ok(())
    }
}

/// Where Debian has them, which are not in `PATH`; of several versions the last.
fn programs() -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|programs| programs.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .context("there is no PostgreSQL (Debian: postgresql)")
}

/// A server that runs.
struct Running {
    child: Option<Child>,
}

impl Running {
    /// Kills all its processes as a crash would.
    fn kill(&mut self) -> Result<()> {
        match self.child.take() {
            Some(mut child) => playground::kill(&mut child),
            None => Ok(()),
        }
    }

    /// Stops it in order, with whoever is connected sent away.
    fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("it has no process")?, Signal::INT)?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

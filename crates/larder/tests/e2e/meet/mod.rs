//! Three machines that are used all the time, on lines that are cut, slow and lossy.
//!
//! They meet directly (iroh) and on an SSH server, change names and contents of the same tree and
//! of the same files, and now and then a daemon ends and comes back. When all is quiet and the
//! lines are good again they must come to one tree, and a machine that is opened then has it, too;
//! and nothing that the system acknowledged is lost: each version that was written is there, or was
//! written over or deleted by somebody who had it. Each byte that anybody reads meanwhile must be one
//! that was written there.
//!
//! `cargo xtask meet` has it run for long, with 10,000 files.

mod dice;
mod ledger;
pub mod network;
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use larder_store::testing::Sshd;
use parking_lot::Mutex;
use serde_json::Value;

use crate::machine::{Machine, wait_for};
use crate::remote::{Remote, set_limits};
use dice::Dice;
use ledger::{Ledger, Mark};
use network::{Network, Place, Weather};
use user::{Deeds, User, version_in};

const MACHINES: usize = 3;
const NAMES: [&str; MACHINES] = ["a", "b", "c"];
/// Much is stored and asked for, and nobody waits long for what a cut line does not bring.
const LIMITS: &str = "commit-interval = \"1s\"\nsettle-quiet = \"0\"\nproof-delay = \"1s\"\n\
                      sync-interval = \"2s\"\nread-wait = \"2s\"";
/// Rounds of commits and syncs, at most, until all trees are one.
const ROUNDS: usize = 12;

/// How long, and with how much.
struct Wish {
    time: Duration,
    files: u64,
    seed: u64,
}

impl Wish {
    fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok()?.parse().ok();
        match number("LARDER_MEET_MINUTES") {
            Some(minutes) => Self {
                time: Duration::from_secs(60 * minutes),
                files: number("LARDER_MEET_FILES").unwrap_or(10_000),
                seed: number("LARDER_SEED").unwrap_or_else(now),
            },
            None => Self {
                time: Duration::from_secs(6),
                files: number("LARDER_MEET_FILES").unwrap_or(300),
                seed: number("LARDER_SEED").unwrap_or_else(now),
            },
        }
    }

    /// The longest that a line is cut: in a long run, longer than anything waits for it.
    fn longest_cut(&self) -> Duration {
        (self.time / 6).clamp(Duration::from_secs(1), Duration::from_secs(25))
    }
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

#[test]
fn three_machines_in_use_on_bad_lines_come_to_one_tree_and_lose_nothing() {
    let wish = Wish::from_environment();
    println!("LARDER_SEED={}, {} files", wish.seed, wish.files);
    let sshd = Sshd::start();
    let network = Network::new(MACHINES, sshd.socket());
    let ledger = Mutex::new(Ledger::default());
    let machines = start(&network, &sshd, wish.files, &ledger);
    let is_over = AtomicBool::new(false);
    let deeds: Vec<Deeds> = std::thread::scope(|scope| {
        let working: Vec<_> = machines
            .iter()
            .enumerate()
            .map(|(number, machine)| {
                let (ledger, is_over) = (&ledger, &is_over);
                let seed = wish.seed + 1 + number as u64;
                let root = machine.mount_point();
                scope.spawn(move || {
                    let mut user = User::new(NAMES[number], &root, seed, ledger);
                    let deeds = user.work(is_over, |dice| {
                        if dice.below(3000) == 0 {
                            machine.unmount();
                            machine.mount();
                        }
                    });
                    is_over.store(true, Ordering::Relaxed);
                    deeds
                })
            })
            .collect();
        scope.spawn(|| make_weather(&network, &wish, &is_over));
        let begin = Instant::now();
        while begin.elapsed() < wish.time && working.iter().all(|user| !user.is_finished()) {
            std::thread::sleep(Duration::from_millis(50));
        }
        is_over.store(true, Ordering::Relaxed);
        let joined = working.into_iter().map(|user| user.join());
        joined
            .map(|deeds| deeds.expect("a user's thread"))
            .collect()
    });
    network.heal();
    tell(&network, &machines, &deeds, &ledger.lock());
    let rounds = meet(&machines);
    println!("One tree after {rounds} rounds");
    judge(&machines, &ledger);
    for machine in &machines {
        machine.larder(["verify", "--stores"]).ok();
        assert_no_panic(machine);
    }
    let fresh = Remote::sftp(&sshd).another_machine();
    fresh.larder(["sync"]);
    assert_same(&machines[0], &fresh);
}

/// The machines, with one volume, and its first files on all.
fn start(network: &Network, sshd: &Sshd, files: u64, ledger: &Mutex<Ledger>) -> Vec<Machine> {
    let mut machines: Vec<Machine> = Vec::new();
    for place in &network.places {
        let remote = Remote::sftp_by(sshd, place.store.socket());
        let machine = Machine::started_by(place.before.clone());
        if machines.is_empty() {
            remote.init(&machine, "1G").ok();
            set_limits(&machine, LIMITS);
            machine.mount();
            User::new("first", &machine.mount_point(), 0, ledger).settle_in(files);
            machine.larder(["commit"]).ok();
        } else {
            let passphrase = ["--passphrase-file", "passphrase"];
            remote.open(&machine, passphrase).ok();
            set_limits(&machine, LIMITS);
            machine.mount();
        }
        machines.push(machine);
    }
    let ids: Vec<String> = machines.iter().zip(NAMES).map(own_id).collect();
    for (machine, place) in machines.iter().zip(&network.places) {
        machine.unmount();
        let path = machine.state_dir().join("config.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text + &peers_of(place, &ids)).unwrap();
        machine.mount();
    }
    wait_for("all to meet", || {
        let mut here = machines.iter().map(here);
        here.all(|here| here == MACHINES - 1)
    });
    machines
}

/// The replica as which a machine makes commits.
fn own_id((machine, name): (&Machine, &str)) -> String {
    fs::write(machine.mount_point().join(format!("of {name}")), "").unwrap();
    machine.larder(["commit"]).ok();
    let log = machine.larder(["log", "--json"]).ok().json();
    let newest = log.as_array().and_then(|log| log.first()).unwrap();
    newest["author"].as_str().unwrap().to_owned()
}

fn peers_of(place: &Place, ids: &[String]) -> String {
    let known = ids.iter().zip(&place.others);
    let known: Vec<String> = known
        .filter_map(|(id, address)| address.map(|address| format!("\"{id}@{address}\"")))
        .collect();
    format!(
        "\n[peers]\nlisten = \"{}\"\nknown = [{}]\n",
        place.listen,
        known.join(", ")
    )
}

/// How many others a machine sees.
fn here(machine: &Machine) -> usize {
    let peers = machine.larder(["peers", "--json"]).ok().json();
    let peers = peers.as_array().unwrap();
    peers.iter().filter(|peer| peer["here"] == true).count()
}

/// Cuts lines, holds them, makes them long and lossy, until it is over.
fn make_weather(network: &Network, wish: &Wish, is_over: &AtomicBool) {
    let mut dice = Dice::new(wish.seed);
    let pause = |time: Duration| {
        let begin = Instant::now();
        while begin.elapsed() < time && !is_over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    while !is_over.load(Ordering::Relaxed) {
        let longest = wish.longest_cut().as_millis() as u64;
        let long = Duration::from_millis(200 + dice.below(longest));
        let delay = Duration::from_millis(dice.below(60));
        let store = dice.choose(&network.places).map(|place| &place.store);
        match (dice.below(6), store, dice.choose(&network.lines)) {
            (0, Some(store), _) => store.cut(),
            (1, Some(store), _) => store.cut_after(dice.below(1 << 20) as u32),
            (2, Some(store), _) => {
                store.hold(true);
                pause(long);
                store.cut();
                store.hold(false);
            }
            (3, Some(store), _) => store.delay(delay),
            (4, _, Some(line)) => {
                line.change(Weather {
                    is_cut: true,
                    ..Weather::default()
                });
                pause(long);
                line.change(Weather::default());
            }
            (5, _, Some(line)) => line.change(Weather {
                is_cut: false,
                delay,
                lost_of_1000: dice.below(50),
            }),
            _ => {}
        }
        pause(Duration::from_millis(dice.below(800)));
    }
}

/// Has all store and take in until none has anything new; answers how many rounds it took.
fn meet(machines: &[Machine]) -> usize {
    for round in 1..=ROUNDS {
        for machine in machines {
            machine.larder(["commit"]).ok();
        }
        let mut is_new = false;
        for machine in machines {
            let said = machine.larder(["sync", "--json"]).json();
            is_new |= said["commits"] != 0 || said["left"] != Value::Array(Vec::new());
        }
        let names = machines.iter().map(|machine| names(&machine.mount_point()));
        let names: BTreeSet<Vec<PathBuf>> = names.collect();
        if !is_new && names.len() == 1 {
            return round;
        }
    }
    panic!("the machines do not come to one tree in {ROUNDS} rounds");
}

fn names(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = picture(root).into_keys().collect();
    found.sort();
    found
}

/// What each path is, and for a file how long, by whom it may be read, and when it was written.
fn picture(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.unwrap(),
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_owned();
            if name.starts_with(".larder") {
                continue;
            }
            let meta = match fs::symlink_metadata(&path) {
                // It went while it was looked at.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                meta => meta.unwrap(),
            };
            if meta.is_dir() {
                left.push(path);
                found.insert(name, format!("directory {:o}", meta.mode()));
            } else {
                let time = (meta.mtime(), meta.mtime_nsec());
                let (mode, links, len) = (meta.mode(), meta.nlink(), meta.len());
                found.insert(name, format!("file {mode:o} {links} {len} {time:?}"));
            }
        }
    }
    found
}

/// All trees are one, in their bytes, and nothing is lost.
fn judge(machines: &[Machine], ledger: &Mutex<Ledger>) {
    for other in &machines[1..] {
        assert_same(&machines[0], other);
    }
    let root = machines[0].mount_point();
    let mut there: BTreeSet<Mark> = BTreeSet::new();
    for (name, what) in picture(&root) {
        if what.starts_with("file") {
            there.extend(version_in(&root.join(name), ledger).unwrap());
        }
    }
    let ledger = ledger.lock();
    let lost: Vec<String> = ledger
        .lost(&there)
        .into_iter()
        .map(|m| ledger.tell(m))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:#?}");
    println!(
        "{} versions are there, of {} that were written",
        there.len(),
        ledger.count()
    );
}

/// Two machines show the same tree, with the same bytes.
fn assert_same(one: &Machine, other: &Machine) {
    let (one, other) = (one.mount_point(), other.mount_point());
    let (here, there) = (picture(&one), picture(&other));
    let differ = |(name, what): &(&PathBuf, &String)| there.get(*name) != Some(*what);
    let odd: Vec<_> = here.iter().filter(differ).collect();
    assert!(
        odd.is_empty() && here.len() == there.len(),
        "{odd:#?}, {} and {}",
        here.len(),
        there.len()
    );
    for (name, what) in here {
        if what.starts_with("file") {
            let same = fs::read(one.join(&name)).unwrap() == fs::read(other.join(&name)).unwrap();
            assert!(same, "{} differs", name.display());
        }
    }
}

fn assert_no_panic(machine: &Machine) {
    for entry in fs::read_dir(machine.state_dir().join("log")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("panic"), "{text}");
    }
}

/// What came to pass.
fn tell(network: &Network, machines: &[Machine], deeds: &[Deeds], ledger: &Ledger) {
    for ((machine, name), deeds) in machines.iter().zip(NAMES).zip(deeds) {
        println!(
            "{name}: {} operations, {} refused; {} KiB of memory at most",
            deeds.done,
            deeds.refused,
            peak_kib(machine).unwrap_or(0)
        );
        assert!(deeds.done > 50, "{name} did nearly nothing");
    }
    let (arrived, lost) = network.datagrams();
    println!("{} versions were written", ledger.count());
    println!("{arrived} datagrams arrived, {lost} were lost");
}

/// The most memory that a machine's daemon had.
fn peak_kib(machine: &Machine) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", machine.daemon_pid()?)).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

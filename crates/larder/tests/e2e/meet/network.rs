//! The lines between machines, and from each to the server: all of them can be cut and made long.
//!
//! With the rights for it each machine is in a network namespace of its own, whose only line ends
//! here. TCP to the server goes through a [`Wire`]. A datagram to another machine goes to a socket
//! here, which stands for that machine, and is sent on from the socket that stands for the sender:
//! later, or never. Without these rights all is on loopback, and only the lines to the server
//! can be cut: on loopback two machines find each other without the lines.
//!
//! A namespace lasts as long as a process that holds it, which ends with the test, also if that
//! is killed.

use std::collections::BinaryHeap;
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use larder_store::testing::Wire;
use parking_lot::{Condvar, Mutex};

use super::dice::Dice;

/// The port on which each machine listens in its namespace.
const PORT: u16 = 4242;
/// So often a line looks whether it should end.
const LOOK: Duration = Duration::from_millis(100);

/// Where one machine is.
pub struct Place {
    /// What its commands are started by.
    pub before: Vec<OsString>,
    /// Where it listens for others.
    pub listen: SocketAddr,
    /// Where it reaches each machine; of itself, nothing.
    pub others: Vec<Option<SocketAddr>>,
    /// Its line to the server.
    pub store: Wire,
    _namespace: Option<Namespace>,
}

/// Places, and the lines between them.
pub struct Network {
    pub places: Vec<Place>,
    /// Those between each two machines; none if they cannot be cut.
    pub lines: Vec<Line>,
}

impl Network {
    /// So many machines and a server.
    pub fn new(machines: usize, server: SocketAddr) -> Self {
        match Self::of_namespaces(machines, server) {
            Ok(network) => network,
            Err(why) => {
                println!("All is on loopback, and lines between machines stay: {why}");
                Self::on_loopback(machines, server)
            }
        }
    }

    fn on_loopback(machines: usize, server: SocketAddr) -> Self {
        let listen: Vec<SocketAddr> = (0..machines).map(|_| free_port()).collect();
        let place = |number: usize| Place {
            before: Vec::new(),
            listen: listen[number],
            others: (0..machines)
                .map(|other| (other != number).then_some(listen[other]))
                .collect(),
            store: Wire::to(server),
            _namespace: None,
        };
        Self {
            places: (0..machines).map(place).collect(),
            lines: Vec::new(),
        }
    }

    fn of_namespaces(machines: usize, server: SocketAddr) -> Result<Self, String> {
        let namespaces: Vec<Namespace> = (0..machines)
            .map(Namespace::new)
            .collect::<Result<_, _>>()?;
        let mut others = vec![vec![None; machines]; machines];
        let mut lines = Vec::new();
        for one in 0..machines {
            for other in one + 1..machines {
                let ends = [&namespaces[one], &namespaces[other]];
                let line = Line::between(ends).map_err(|error| error.to_string())?;
                others[one][other] = Some(line.ends[0]);
                others[other][one] = Some(line.ends[1]);
                lines.push(line);
            }
        }
        let places = namespaces.into_iter().zip(others);
        let place = |(namespace, others): (Namespace, _)| Place {
            before: namespace.enter(),
            listen: namespace.inside,
            others,
            store: Wire::from(IpAddr::V4(namespace.outside), server),
            _namespace: Some(namespace),
        };
        Ok(Self {
            places: places.map(place).collect(),
            lines,
        })
    }

    /// All lines as good as they get.
    pub fn heal(&self) {
        for place in &self.places {
            place.store.hold(false);
            place.store.delay(Duration::ZERO);
        }
        for line in &self.lines {
            line.change(Weather::default());
        }
    }

    /// Datagrams that arrived, and that did not.
    pub fn datagrams(&self) -> (u64, u64) {
        let sum = |of: fn(&Shared) -> &AtomicU64| {
            let counts = self.lines.iter().map(|line| of(&line.shared));
            counts.map(|count| count.load(Ordering::Relaxed)).sum()
        };
        (sum(|shared| &shared.arrived), sum(|shared| &shared.lost))
    }
}

/// A port of loopback where nobody listens.
fn free_port() -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.local_addr().unwrap()
}

/// A network namespace with one line, that ends here.
pub struct Namespace {
    holder: Child,
    /// The address of its line's end here.
    outside: Ipv4Addr,
    /// Where its machine listens.
    inside: SocketAddr,
}

impl Namespace {
    /// One of a few that a test has.
    ///
    /// # Errors
    /// Without the rights, or the programs, for it.
    pub fn new(number: usize) -> Result<Self, String> {
        let holder = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        // Addresses for the tests of networks, that nobody uses; others than a run beside this.
        let run = std::process::id() % 4096;
        let [high, low] = ((run << 4) as u16 + (number as u16 * 4)).to_be_bytes();
        let namespace = Self {
            holder,
            outside: Ipv4Addr::new(198, 18, high, low + 1),
            inside: SocketAddr::from(([198, 18, high, low + 2], PORT)),
        };
        namespace.connect(&format!("la{run}-{number}"))?;
        Ok(namespace)
    }

    fn connect(&self, name: &str) -> Result<(), String> {
        let pid = self.holder.id().to_string();
        let own = std::fs::read_link("/proc/self/ns/net").map_err(|error| error.to_string())?;
        let end = Instant::now() + Duration::from_secs(5);
        // Its process may not have come as far yet; or it has ended, without the rights.
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|other| other == own) {
            if Instant::now() > end {
                return Err("no network namespace can be made".to_owned());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let peer = [
            "link", "add", "name", name, "type", "veth", "peer", "name", "line",
        ];
        run("ip", &[&peer[..], &["netns", &pid]].concat())?;
        let here = format!("{}/30", self.outside);
        run("ip", &["addr", "add", &here, "dev", name])?;
        run("ip", &["link", "set", name, "up"])?;
        let there = format!("{}/30", self.inside.ip());
        let words = self.enter();
        let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        for settings in [
            &["ip", "addr", "add", &there, "dev", "line"][..],
            &["ip", "link", "set", "lo", "up"],
            &["ip", "link", "set", "line", "up"],
        ] {
            run(words[0], &[&words[1..], settings].concat())?;
        }
        Ok(())
    }

    /// Has all that is for no known network go to its line, as on a machine with a network.
    ///
    /// # Errors
    /// If it cannot be said.
    pub fn route_all(&self) -> Result<(), String> {
        let words = self.enter();
        let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        let route = ["ip", "route", "add", "default", "dev", "line"];
        run(words[0], &[&words[1..], &route].concat())
    }

    /// What starts a program there.
    pub fn enter(&self) -> Vec<OsString> {
        let net = format!("--net=/proc/{}/ns/net", self.holder.id());
        vec!["nsenter".into(), net.into(), "--".into()]
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let said = Command::new(program).args(words).output();
    let said = said.map_err(|error| format!("{program}: {error}"))?;
    match said.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&said.stderr).trim_end()
        )),
    }
}

/// What becomes of a datagram.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub is_cut: bool,
    pub delay: Duration,
    /// How many of a thousand are lost.
    pub lost_of_1000: u64,
}

/// Carries datagrams between two machines, in both directions.
pub struct Line {
    shared: Arc<Shared>,
    /// Where each of the two reaches the other.
    ends: [SocketAddr; 2],
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    weather: Mutex<Weather>,
    stop: AtomicBool,
    /// What is on its way, in both directions.
    under_way: Mutex<BinaryHeap<Datagram>>,
    more: Condvar,
    arrived: AtomicU64,
    lost: AtomicU64,
}

#[derive(PartialEq, Eq)]
struct Datagram {
    due: Instant,
    /// Which of the two it goes to.
    to: usize,
    bytes: Vec<u8>,
}

impl Ord for Datagram {
    /// What is due first is the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Datagram {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Line {
    fn between(ends: [&Namespace; 2]) -> std::io::Result<Self> {
        let bound = ends.map(|end| UdpSocket::bind((end.outside, 0)));
        let [first, second] = bound;
        let sockets = Arc::new([first?, second?]);
        let machines = ends.map(|end| end.inside);
        let shared = Arc::new(Shared {
            weather: Mutex::new(Weather::default()),
            stop: AtomicBool::new(false),
            under_way: Mutex::new(BinaryHeap::new()),
            more: Condvar::new(),
            arrived: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        });
        let addresses = [sockets[0].local_addr()?, sockets[1].local_addr()?];
        let mut threads = Vec::new();
        for from in 0..2 {
            sockets[from].set_read_timeout(Some(LOOK))?;
            let (shared, sockets) = (Arc::clone(&shared), Arc::clone(&sockets));
            threads.push(std::thread::spawn(move || {
                shared.take_in(&sockets[from], 1 - from);
            }));
        }
        let carrying = Arc::clone(&shared);
        threads.push(std::thread::spawn(move || {
            carrying.hand_out(&sockets, machines);
        }));
        Ok(Self {
            shared,
            ends: addresses,
            threads,
        })
    }

    pub fn change(&self, weather: Weather) {
        *self.shared.weather.lock() = weather;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.more.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    fn take_in(&self, socket: &UdpSocket, to: usize) {
        let mut buffer = vec![0; 64 << 10];
        let mut dice = Dice::new(to as u64);
        while !self.is_over() {
            let Ok(len) = socket.recv(&mut buffer) else {
                continue;
            };
            let weather = *self.weather.lock();
            if weather.is_cut || dice.below(1000) < weather.lost_of_1000 {
                self.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let datagram = Datagram {
                due: Instant::now() + weather.delay,
                to,
                bytes: buffer[..len].to_vec(),
            };
            self.under_way.lock().push(datagram);
            self.more.notify_one();
        }
    }

    fn hand_out(&self, sockets: &[UdpSocket; 2], machines: [SocketAddr; 2]) {
        let mut under_way = self.under_way.lock();
        while !self.is_over() {
            let now = Instant::now();
            match under_way.peek().map(|next| next.due) {
                None => drop(self.more.wait_for(&mut under_way, LOOK)),
                Some(due) if due > now => drop(self.more.wait_until(&mut under_way, due)),
                Some(_) => {
                    let Some(next) = under_way.pop() else {
                        continue;
                    };
                    parking_lot::MutexGuard::unlocked(&mut under_way, || {
                        // One that is not sent is lost, as any may be.
                        let _ = sockets[next.to].send_to(&next.bytes, machines[next.to]);
                    });
                    self.arrived.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

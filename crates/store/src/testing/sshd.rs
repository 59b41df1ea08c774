//! A real OpenSSH server of one's own.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

use crate::StoreOptions;

/// How a server differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct SshdOptions {
    /// SFTP requests that it denies, as `sftp-server -P` names them; extensions that are
    /// denied are not offered.
    pub denied: &'static [&'static str],
    /// Lines added to its configuration.
    pub config: &'static str,
}

/// An OpenSSH server on the loopback, for the current user, with keys of its own.
#[derive(Debug)]
pub struct Sshd {
    directory: TempDir,
    port: u16,
    user: String,
    process: Option<Child>,
}

impl Sshd {
    /// Starts one.
    ///
    /// # Panics
    /// If there is no sshd on this machine, or it does not start.
    pub fn start() -> Self {
        Self::start_with(&SshdOptions::default())
    }

    /// Starts one that differs.
    ///
    /// # Panics
    /// As [`Sshd::start`].
    pub fn start_with(options: &SshdOptions) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("files")).expect("a directory for files");
        for name in ["host_key", "user_key"] {
            make_key(&directory.path().join(name), "");
        }
        let authorized = directory.path().join("authorized_keys");
        fs::copy(directory.path().join("user_key.pub"), authorized).expect("an authorized key");
        if getuid().is_root() {
            // Where it confines its unprivileged part; the service's start makes it.
            fs::create_dir_all("/run/sshd").expect("the directory /run/sshd");
        }
        let mut sshd = Self {
            directory,
            port: 0,
            user: current_user(),
            process: None,
        };
        // The free port may be taken by somebody else before sshd takes it.
        for _ in 0..5 {
            sshd.port = free_port();
            sshd.write_config(options);
            if sshd.launch() {
                sshd.trust(sshd.socket());
                return sshd;
            }
        }
        panic!("sshd does not start: {}", sshd.log());
    }

    fn write_config(&self, options: &SshdOptions) {
        let at = |name: &str| self.directory.path().join(name).display().to_string();
        let denied = match options.denied {
            [] => String::new(),
            denied => format!(" -P {}", denied.join(",")),
        };
        let config = format!(
            "ListenAddress 127.0.0.1:{}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nUsePAM no\nMaxStartups 100\nLogLevel INFO\n\
             Subsystem sftp internal-sftp{denied}\n{}\n",
            self.port,
            at("host_key"),
            at("authorized_keys"),
            options.config,
        );
        fs::write(self.directory.path().join("sshd_config"), config).expect("a configuration");
    }

    /// Whether it came up.
    fn launch(&mut self) -> bool {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.path().join("log"))
            .expect("a log");
        let process = Command::new(program())
            .args(["-D", "-e", "-f"])
            .arg(self.directory.path().join("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd starts");
        self.process = Some(process);
        let end = Instant::now() + Duration::from_secs(10);
        while Instant::now() < end {
            let process = self.process.as_mut().expect("a process");
            if process.try_wait().expect("the state of sshd").is_some() {
                self.process = None;
                return false;
            }
            if TcpStream::connect(self.socket()).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Where it listens.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// The address of the store at `path` in [`Sshd::files`].
    pub fn address(&self, path: &str) -> String {
        self.address_by(self.socket(), path)
    }

    /// The same, but reached through `socket`, a [`Wire`](super::Wire) perhaps, which is
    /// trusted from now on.
    pub fn address_by(&self, socket: SocketAddr, path: &str) -> String {
        self.trust(socket);
        let root = self.files().join(path);
        format!("sftp://{}@{socket}{}", self.user, root.display())
    }

    /// Options with the key that it takes and the host key that it shows, which make the
    /// root.
    pub fn options(&self) -> StoreOptions {
        let mut options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        options.sftp.identity = Some(self.user_key());
        options.sftp.known_hosts = Some(self.known_hosts());
        options
    }

    /// The private key that it takes.
    pub fn user_key(&self) -> PathBuf {
        self.directory.path().join("user_key")
    }

    /// A file that knows it by every address that it was given.
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.path().join("known_hosts")
    }

    /// The directory that addresses point into.
    pub fn files(&self) -> PathBuf {
        self.directory.path().join("files")
    }

    /// Notes in [`Sshd::known_hosts`] that this server answers at `socket`.
    fn trust(&self, socket: SocketAddr) {
        let key = fs::read_to_string(self.directory.path().join("host_key.pub")).expect("a key");
        let line = format!("[{}]:{} {key}", socket.ip(), socket.port());
        let known = fs::read_to_string(self.known_hosts()).unwrap_or_default();
        if !known.contains(&line) {
            fs::write(self.known_hosts(), known + &line).expect("a known_hosts file");
        }
    }

    /// Makes a new private key beside its own, with a passphrase if not empty, and
    /// authorizes it.
    pub fn authorize_new_key(&self, name: &str, passphrase: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        make_key(&path, passphrase);
        let authorized = self.directory.path().join("authorized_keys");
        let mut keys = fs::read_to_string(&authorized).expect("authorized keys");
        keys += &fs::read_to_string(path.with_extension("pub")).expect("a public key");
        fs::write(authorized, keys).expect("authorized keys");
        path
    }

    /// Stops it and all its sessions, in the middle of whatever they do.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        // The listener first, so that it starts no more of what is ended next.
        let sessions = descendants(process.id());
        let _ = process.kill();
        let _ = process.wait();
        for session in sessions {
            let _ = kill_process(session, Signal::KILL);
        }
    }

    /// Starts it again, at the same port.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.launch(), "sshd does not start again: {}", self.log());
    }

    /// Starts it again with another host key, which nobody knows.
    ///
    /// # Panics
    /// If it does not start.
    pub fn change_host_key(&mut self) {
        let key = self.directory.path().join("host_key");
        fs::remove_file(&key).expect("the old key goes");
        make_key(&key, "");
        self.restart();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

fn program() -> PathBuf {
    let places = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"];
    let found = places.iter().map(Path::new).find(|path| path.exists());
    found
        .expect("no sshd here, which this test needs: apt-get install openssh-server")
        .to_owned()
}

fn make_key(path: &Path, passphrase: &str) {
    let made = Command::new("ssh-keygen")
        .args([
            "-q",
            "-t",
            "ed25519",
            "-C",
            "larder-test",
            "-N",
            passphrase,
            "-f",
        ])
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .expect("no ssh-keygen here, which this test needs: apt-get install openssh-client");
    assert!(made.success(), "ssh-keygen made no key");
}

fn current_user() -> String {
    let told = Command::new("id")
        .arg("-un")
        .output()
        .expect("the user's name");
    String::from_utf8(told.stdout)
        .expect("a name in UTF-8")
        .trim()
        .to_owned()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its number").port()
}

/// The processes that `parent` started, and theirs. Sessions of sshd leave its process
/// group, so the group does not have them.
fn descendants(parent: u32) -> Vec<Pid> {
    let mut all = Vec::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pairs: Vec<(u32, u32)> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // "pid (name) state ppid ...", and a name may hold anything.
            let (_, rest) = stat.rsplit_once(')')?;
            let ppid = rest.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, ppid))
        })
        .collect();
    let mut parents = vec![parent];
    while let Some(parent) = parents.pop() {
        for (pid, _) in pairs.iter().filter(|(_, ppid)| *ppid == parent) {
            parents.push(*pid);
            all.extend(i32::try_from(*pid).ok().and_then(Pid::from_raw));
        }
    }
    all
}

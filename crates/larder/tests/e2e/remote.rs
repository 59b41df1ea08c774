//! Stores on servers, as a user names and reaches them; and what lies on them.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use larder_store::testing::{DavServer, S3Server, Sshd};

use crate::machine::{Machine, Said, wait_until};

/// A store, and what a machine needs to reach it.
pub struct Remote {
    pub address: String,
    /// The directory under which the server keeps the store's objects.
    pub files: PathBuf,
    flags: Vec<OsString>,
    secrets: Option<String>,
}

impl Remote {
    pub fn folder(path: &Path) -> Self {
        Self {
            address: path.display().to_string(),
            files: path.to_owned(),
            flags: Vec::new(),
            secrets: None,
        }
    }

    pub fn sftp(sshd: &Sshd) -> Self {
        Self::sftp_by(sshd, sshd.socket())
    }

    /// The same, but reached through this socket.
    pub fn sftp_by(sshd: &Sshd, socket: SocketAddr) -> Self {
        let (key, known_hosts) = (sshd.user_key(), sshd.known_hosts());
        Self {
            address: sshd.address_by(socket, "store"),
            files: sshd.files().join("store"),
            flags: vec![
                "--identity".into(),
                key.into(),
                "--known-hosts".into(),
                known_hosts.into(),
            ],
            secrets: None,
        }
    }

    pub fn s3(server: &S3Server, socket: SocketAddr) -> Self {
        let s3 = server.options().s3;
        let secrets = format!(
            "s3-access-key-id = {:?}\ns3-secret-access-key = {:?}\n",
            s3.access_key_id.unwrap(),
            s3.secret_access_key.unwrap()
        );
        Self {
            address: server.address_by(socket, "a/prefix"),
            files: server.files().join("a/prefix"),
            flags: Vec::new(),
            secrets: Some(secrets),
        }
    }

    pub fn webdav(server: &DavServer, socket: SocketAddr) -> Self {
        let password = server.options().webdav.password.unwrap();
        Self {
            address: server.address_by(socket, "store"),
            files: server.files().join("store"),
            flags: Vec::new(),
            secrets: Some(format!("webdav-password = {password:?}\n")),
        }
    }

    pub fn init(&self, machine: &Machine, budget: &str) -> Said {
        let words = ["init", "Larder", "--json", "--budget", budget, "--store"];
        let mut args: Vec<OsString> = words.map(OsString::from).to_vec();
        args.push(OsString::from(&self.address));
        args.extend(["--passphrase-file", "passphrase"].map(OsString::from));
        args.extend(self.reach(machine));
        machine.larder(args)
    }

    /// A machine with a new volume here, made with `limits` in its settings.
    pub fn new_volume(&self, budget: &str, limits: &str) -> Machine {
        let machine = Machine::new();
        self.init(&machine, budget).ok();
        set_limits(&machine, limits);
        machine
    }

    pub fn open(&self, machine: &Machine, credential: [&str; 2]) -> Said {
        let mut args: Vec<OsString> = vec!["open".into(), OsString::from(&self.address)];
        args.push("Larder".into());
        args.extend(credential.map(OsString::from));
        args.extend(self.reach(machine));
        machine.larder(args)
    }

    /// A new machine on which the volume is open and mounted.
    #[track_caller]
    pub fn another_machine(&self) -> Machine {
        let machine = Machine::new();
        self.open(&machine, ["--passphrase-file", "passphrase"])
            .ok();
        machine.mount();
        machine
    }

    fn reach(&self, machine: &Machine) -> Vec<OsString> {
        let mut flags = self.flags.clone();
        if let Some(secrets) = &self.secrets {
            let path = machine.path("secrets");
            fs::write(&path, secrets).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            flags.extend(["--secrets-file".into(), path.into()]);
        }
        flags
    }

    /// The sizes of all objects whose name starts with `prefix`.
    pub fn objects(&self, prefix: &str) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        collect(&self.files, &self.files, &mut found);
        found.retain(|name, _| name.starts_with(prefix));
        found
    }

    pub fn bytes(&self, prefix: &str) -> u64 {
        self.objects(prefix).values().sum()
    }

    pub fn object(&self, name: &str) -> PathBuf {
        self.files.join(name)
    }
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, u64>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => collect(root, &path, found),
            Ok(meta) => {
                let name = path.strip_prefix(root).unwrap();
                found.insert(name.to_str().unwrap().to_owned(), meta.len());
            }
            // It went while it was looked at.
            Err(_) => {}
        }
    }
}

/// Limits that make a test short: nothing waits for more to come, and nothing comes unasked.
pub const EAGER: &str = "commit-interval = \"1s\"\nsettle-quiet = \"0\"\nproof-delay = \"1s\"\n\
                         sync-interval = \"0\"";

/// Adds limits to the settings of the machine's volume.
pub fn set_limits(machine: &Machine, limits: &str) {
    let path = machine.state_dir().join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    let (head, old) = match text.split_once("\n[limits]\n") {
        Some((head, old)) => (head.to_owned(), old.to_owned()),
        None => (text, String::new()),
    };
    fs::write(&path, format!("{head}\n[limits]\n{limits}\n{old}")).unwrap();
}

/// Runs a program of the system that must succeed; answers what it said.
#[track_caller]
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> String {
    let mut command = std::process::Command::new(program);
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{program}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Two trees that `diff` finds equal.
#[track_caller]
pub fn assert_no_diff(one: &Path, other: &Path) {
    let words = ["-r", "--no-dereference"].map(OsStr::new);
    let paths = [one.as_os_str(), other.as_os_str()];
    let said = run("diff", words.into_iter().chain(paths));
    assert_eq!(said, "");
}

/// Drops all content. What a store took without syncing goes once it is proven.
#[track_caller]
pub fn stash_proven(machine: &Machine) {
    wait_until("all content to go", || {
        let said = machine.larder(["stash", "Larder"]);
        (said.code == Some(0)).then_some(()).ok_or(said)
    });
}

/// Drops all content and forgets what memory still has of it, here and in the kernel: the
/// next read asks the store.
#[track_caller]
pub fn stash_all(machine: &Machine) {
    stash_proven(machine);
    machine.unmount();
    machine.mount();
}

/// Does `act` on a thread, and fails if it does not end: a hang is a failure, not a pause.
#[track_caller]
pub fn ends<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> T {
    let acting = std::thread::spawn(act);
    let begin = Instant::now();
    while !acting.is_finished() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it hangs");
        std::thread::sleep(Duration::from_millis(20));
    }
    acting.join().unwrap()
}

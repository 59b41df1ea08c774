//! The store on an SSH server: Debian's own sshd.
// What a test sets up fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use larder_store::testing::{SmallDisk, Sshd, SshdOptions, Wire, noise};
use larder_store::{Durability, ErrorKind, Key, Store, StoreOptions, open};

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn server() -> (Sshd, Arc<dyn Store>) {
    server_with(&SshdOptions::default())
}

fn server_with(options: &SshdOptions) -> (Sshd, Arc<dyn Store>) {
    let sshd = Sshd::start_with(options);
    let store = open(&sshd.address("larder"), &sshd.options()).unwrap();
    (sshd, store)
}

/// A store that gives up soon, so that a test of giving up does not take long.
fn hasty(options: StoreOptions) -> StoreOptions {
    let soon = Duration::from_millis(700);
    StoreOptions {
        stall_timeout: soon,
        ..options
    }
}

mod conforms {
    larder_store::conformance!(super::server());
}

/// A server with none of OpenSSH's extensions, and one session for each connection.
mod conforms_on_a_plain_server {
    larder_store::conformance!(super::server_with(&super::SshdOptions {
        denied: &["posix-rename", "fsync", "limits", "statvfs"],
        config: "MaxSessions 1",
    }));
}

#[tokio::test]
async fn a_put_is_synced_where_the_server_can_and_accepted_elsewhere() {
    let (_sshd, store) = server();
    store
        .put(&key("a"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert_eq!(store.durability(), Durability::Synced);
    let (_sshd, store) = server_with(&SshdOptions {
        denied: &["fsync"],
        config: "",
    });
    store
        .put(&key("a"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert_eq!(store.durability(), Durability::Accepted);
}

/// Notes for how many bytes a store asks at a time.
#[derive(Default)]
struct Asked(std::sync::Mutex<Vec<u64>>);

#[async_trait::async_trait]
impl larder_store::Pace for Asked {
    async fn may_send(&self, bytes: u64) {
        self.0.lock().unwrap().push(bytes);
    }
}

/// A pack of 16 MiB went out in one burst, whatever the limit.
#[tokio::test]
async fn a_limit_holds_within_one_object() {
    let (_sshd, store) = server();
    let (bytes, asked) = (noise(1, 3 << 20), Asked::default());
    store
        .put_paced(&key("a"), bytes.clone(), &asked)
        .await
        .unwrap();
    let asked = asked.0.into_inner().unwrap();
    assert_eq!(asked.iter().sum::<u64>(), 3 << 20);
    assert!(asked.iter().all(|&piece| piece <= 256 << 10), "{asked:?}");
    assert_eq!(store.get(&key("a")).await.unwrap(), Some(bytes));
}

#[tokio::test]
async fn a_small_read_costs_one_round_trip_and_the_first_of_an_object_two() {
    let sshd = Sshd::start();
    let wire = Wire::to(sshd.socket());
    let store = open(&sshd.address_by(wire.socket(), "larder"), &sshd.options()).unwrap();
    // The least of several: a file that is closed behind a call is a turn of the wire too.
    let (mut cold, mut warm) = (u64::MAX, u64::MAX);
    for n in 0..5 {
        let object = key(&format!("packs/aa/{n}"));
        store.put(&object, noise(1, 1 << 20)).await.unwrap();
        let before = wire.turns();
        store.get_range(&object, 5000..9000).await.unwrap().unwrap();
        let between = wire.turns();
        store
            .get_range(&object, 70_000..75_000)
            .await
            .unwrap()
            .unwrap();
        cold = cold.min(between - before);
        warm = warm.min(wire.turns() - between);
    }
    assert_eq!((cold, warm), (2, 1));
}

#[tokio::test]
async fn an_unknown_host_is_refused_with_its_fingerprint_and_what_to_do() {
    let (sshd, _) = server();
    let mut options = sshd.options();
    let empty = sshd.known_hosts().with_file_name("empty_known_hosts");
    options.sftp.known_hosts = Some(empty.clone());
    let store = open(&sshd.address("larder"), &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    for words in ["not known", "ED25519 SHA256:", "ssh -p"] {
        assert!(error.message.contains(words), "{error}");
    }
    assert!(!empty.exists());

    options.sftp.accept_new = true;
    let store = open(&sshd.address("larder"), &options).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
    // And it is remembered.
    options.sftp.accept_new = false;
    let store = open(&sshd.address("larder"), &options).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_hashed_entry_makes_a_host_known() {
    let (sshd, _) = server();
    let hashed = std::process::Command::new("ssh-keygen")
        .args(["-H", "-f"])
        .arg(sshd.known_hosts())
        .output()
        .unwrap();
    assert!(hashed.status.success());
    assert!(
        fs::read_to_string(sshd.known_hosts())
            .unwrap()
            .starts_with("|1|")
    );
    let options = sshd.options();
    let address = sshd.address("larder");
    // The address wrote the plain entry again; only the hashed one shall count.
    let text = fs::read_to_string(sshd.known_hosts()).unwrap();
    let hashed: String = text
        .lines()
        .filter(|l| l.starts_with("|1|"))
        .map(|l| format!("{l}\n"))
        .collect();
    fs::write(sshd.known_hosts(), hashed).unwrap();
    let store = open(&address, &options).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_changed_host_key_is_refused_even_if_new_ones_are_accepted() {
    let (mut sshd, _) = server();
    let address = sshd.address("larder");
    let mut options = sshd.options();
    options.sftp.accept_new = true;
    sshd.change_host_key();
    let store = open(&address, &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    for words in [
        "is not the one",
        "SHA256:",
        "ssh-keygen",
        "-R '[127.0.0.1]:",
    ] {
        assert!(error.message.contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_accepted_is_named() {
    let (sshd, _) = server();
    let other = Sshd::start();
    let mut options = sshd.options();
    options.sftp.identity = Some(other.user_key());
    let store = open(&sshd.address("larder"), &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(
        error
            .message
            .contains(&other.user_key().display().to_string()),
        "{error}"
    );
    assert!(error.message.contains("ssh-copy-id"), "{error}");
}

#[tokio::test]
async fn without_any_key_the_words_say_so() {
    let (sshd, _) = server();
    let mut options = sshd.options();
    options.sftp.identity = None;
    let store = open(&sshd.address("larder"), &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(error.message.contains("no key to try"), "{error}");
    options.sftp.identity = Some("/no/such/key".into());
    let store = open(&sshd.address("larder"), &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(
        error.message.contains("/no/such/key cannot be read"),
        "{error}"
    );
}

#[tokio::test]
async fn the_usual_key_files_below_home_are_found() {
    let (sshd, _) = server();
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    fs::copy(sshd.user_key(), home.path().join(".ssh/id_ed25519")).unwrap();
    let mut options = sshd.options();
    options.sftp.identity = None;
    options.sftp.home = Some(home.path().to_owned());
    let store = open(&sshd.address("larder"), &options).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_host_of_the_users_ssh_config_is_reached_as_ssh_would() {
    let (sshd, _) = server();
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".ssh")).unwrap();
    let socket = sshd.socket();
    let config = format!(
        "Host nas\n HostName {}\n Port {}\n IdentityFile {}\nHost far\n ProxyJump nas\n",
        socket.ip(),
        socket.port(),
        sshd.user_key().display(),
    );
    fs::write(home.path().join(".ssh/config"), config).unwrap();
    let mut options = sshd.options();
    options.sftp.identity = None;
    options.sftp.home = Some(home.path().to_owned());
    let address = sshd.address("larder");
    let rest = address.strip_prefix("sftp://").unwrap();
    let (user, path) = (
        rest.split('@').next().unwrap(),
        &rest[rest.find('/').unwrap()..],
    );
    let store = open(&format!("sftp://{user}@nas{path}"), &options).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
    let store = open(&format!("sftp://{user}@far{path}"), &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(error.message.contains("by way of nas"), "{error}");
}

/// An ssh-agent that ends with the test.
struct Agent {
    process: std::process::Child,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let process = std::process::Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { process, directory };
        for _ in 0..500 {
            if agent.socket().exists() {
                return agent;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("ssh-agent does not come up");
    }

    fn socket(&self) -> std::path::PathBuf {
        self.directory.path().join("socket")
    }

    /// Adds a key; its passphrase is given by a program, as `ssh-add` asks for one.
    fn add(&self, key: &std::path::Path, passphrase: &str) {
        let asked = self.directory.path().join("ask");
        fs::write(&asked, format!("#!/bin/sh\necho '{passphrase}'\n")).unwrap();
        let mut mode = fs::metadata(&asked).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o700);
        fs::set_permissions(&asked, mode).unwrap();
        let added = std::process::Command::new("ssh-add")
            .arg(key)
            .env("SSH_AUTH_SOCK", self.socket())
            .env("SSH_ASKPASS", asked)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .output()
            .unwrap();
        assert!(
            added.status.success(),
            "{}",
            String::from_utf8_lossy(&added.stderr)
        );
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_key_with_a_passphrase_works_through_the_agent_only() {
    let (sshd, _) = server();
    let locked = sshd.authorize_new_key("locked", "correct horse");
    let mut options = sshd.options();
    options.sftp.identity = Some(locked.clone());
    let store = open(&sshd.address("larder"), &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    for words in ["has a passphrase", "ssh-add"] {
        assert!(error.message.contains(words), "{error}");
    }

    let agent = Agent::start();
    options.sftp.agent = Some(agent.socket());
    let store = open(&sshd.address("larder"), &options).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(error.message.contains("not in the agent"), "{error}");

    agent.add(&locked, "correct horse");
    let store = open(&sshd.address("larder"), &options).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
    // Without a named key, the agent's keys are tried by themselves.
    options.sftp.identity = None;
    let store = open(&sshd.address("larder"), &options).unwrap();
    assert_eq!(store.list("").await.unwrap(), []);
}

#[tokio::test]
async fn a_missing_path_is_an_error_and_never_an_empty_store() {
    let (sshd, _) = server();
    let options = StoreOptions {
        create: false,
        ..sshd.options()
    };
    let store = open(&sshd.address("disk"), &options).unwrap();
    assert!(store.get(&key("volume")).await.is_err());
    assert!(store.get_range(&key("volume"), 0..1).await.is_err());
    assert!(store.stat(&key("volume")).await.is_err());
    assert!(store.list("").await.is_err());
    assert!(store.delete(&key("volume")).await.is_err());
    let error = store
        .put(&key("volume"), Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("mounted"), "{error}");
    assert!(!sshd.files().join("disk").exists());
}

#[tokio::test]
async fn a_path_that_cannot_be_written_is_said_with_the_user() {
    let (sshd, _) = server_with(&SshdOptions {
        denied: &["open", "mkdir", "opendir"],
        config: "",
    });
    let store = open(&sshd.address("larder"), &sshd.options()).unwrap();
    let error = store
        .put(&key("volume"), Bytes::from_static(b"x"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.message.contains("forbids it to"), "{error}");
}

#[tokio::test]
async fn a_server_without_sftp_is_said_to_be_one() {
    let (sshd, store) = server_with(&SshdOptions {
        denied: &[],
        config: "ForceCommand /bin/false",
    });
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.message.contains("no SFTP"), "{error}");
    drop(sshd);
}

#[tokio::test]
async fn nobody_at_the_port_is_said_at_once() {
    let (mut sshd, store) = server();
    sshd.stop();
    let error = store.list("").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(
        error.message.contains("refuses connections at port"),
        "{error}"
    );
}

#[tokio::test]
async fn a_host_that_does_not_exist_is_said_to_have_no_address() {
    let (sshd, _) = server();
    let store = open("sftp://me@no-such-host.invalid/x", &sshd.options()).unwrap();
    let error = store.list("").await.unwrap_err();
    assert!(error.message.contains("leads to no address"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_killed_and_comes_back_is_used_again() {
    let (mut sshd, store) = server();
    store.put(&key("before"), noise(1, 1000)).await.unwrap();
    sshd.stop();
    assert!(store.get(&key("before")).await.unwrap_err().is_passing());
    assert!(
        store
            .put(&key("during"), noise(2, 1000))
            .await
            .unwrap_err()
            .is_passing()
    );
    sshd.restart();
    assert_eq!(
        store.get(&key("before")).await.unwrap(),
        Some(noise(1, 1000))
    );
    store.put(&key("after"), noise(3, 1000)).await.unwrap();
    // A restart between two calls goes unnoticed.
    sshd.restart();
    assert_eq!(
        store.get(&key("after")).await.unwrap(),
        Some(noise(3, 1000))
    );
    sshd.restart();
    store.put(&key("again"), noise(4, 1000)).await.unwrap();
    assert_eq!(store.get(&key("during")).await.unwrap(), None);
}

#[tokio::test]
async fn a_put_that_is_cut_leaves_nothing_listed_or_readable() {
    let sshd = Sshd::start();
    let wire = Wire::to(sshd.socket());
    let store = open(&sshd.address_by(wire.socket(), "larder"), &sshd.options()).unwrap();
    wire.cut_after(3 << 20);
    let error = store
        .put(&key("packs/aa/x"), noise(1, 16 << 20))
        .await
        .unwrap_err();
    assert!(error.is_passing(), "{error}");
    assert_eq!(store.get(&key("packs/aa/x")).await.unwrap(), None);
    assert_eq!(store.list("").await.unwrap(), []);
    // The half of it lies where no key leads.
    assert_eq!(
        fs::read_dir(sshd.files().join("larder/.tmp"))
            .unwrap()
            .count(),
        1
    );
    // On a line that was up before, the put is made once more by itself.
    wire.cut_after(3 << 20);
    store
        .put(&key("packs/aa/x"), noise(1, 16 << 20))
        .await
        .unwrap();
    assert!(store.get(&key("packs/aa/x")).await.unwrap().unwrap() == noise(1, 16 << 20));
}

#[tokio::test]
async fn a_get_that_is_cut_is_made_again_on_a_new_line() {
    let sshd = Sshd::start();
    let wire = Wire::to(sshd.socket());
    let store = open(&sshd.address_by(wire.socket(), "larder"), &sshd.options()).unwrap();
    store
        .put(&key("packs/aa/x"), noise(1, 8 << 20))
        .await
        .unwrap();
    let lines = wire.connections();
    wire.cut();
    assert!(store.get(&key("packs/aa/x")).await.unwrap().unwrap() == noise(1, 8 << 20));
    assert_eq!(wire.connections(), lines + 1);
}

#[tokio::test]
async fn a_line_that_falls_silent_is_given_up_and_not_waited_for() {
    let sshd = Sshd::start();
    let wire = Wire::to(sshd.socket());
    let mut options = hasty(sshd.options());
    options.connect_timeout = Duration::from_millis(700);
    let store = open(&sshd.address_by(wire.socket(), "larder"), &options).unwrap();
    store.put(&key("volume"), noise(1, 1000)).await.unwrap();
    wire.hold(true);
    let error = store.get(&key("volume")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(store.put(&key("other"), noise(1, 1000)).await.is_err());
    wire.hold(false);
    assert_eq!(
        store.get(&key("volume")).await.unwrap(),
        Some(noise(1, 1000))
    );
}

#[tokio::test]
async fn callers_that_wait_for_one_connection_share_its_failure() {
    let sshd = Sshd::start();
    let wire = Wire::to(sshd.socket());
    let mut options = sshd.options();
    options.connect_timeout = Duration::from_millis(500);
    let store = open(&sshd.address_by(wire.socket(), "larder"), &options).unwrap();
    wire.hold(true);
    let volume = key("volume");
    let calls = (0..20).map(|_| store.get(&volume));
    let answers = futures::future::join_all(calls).await;
    assert!(answers.into_iter().all(|answer| answer.is_err()));
    assert_eq!(wire.connections(), 1);
}

#[tokio::test]
async fn many_objects_in_use_do_not_use_up_the_servers_handles() {
    let (_sshd, store) = server();
    let keys: Vec<_> = (0..300)
        .map(|n| key(&format!("packs/{:02x}/{n}", n % 40)))
        .collect();
    for chunk in keys.chunks(30) {
        let puts = chunk.iter().map(|key| store.put(key, noise(1, 2000)));
        futures::future::try_join_all(puts).await.unwrap();
    }
    for _ in 0..3 {
        let reads = keys.iter().map(|key| store.get_range(key, 100..200));
        let parts = futures::future::try_join_all(reads).await.unwrap();
        assert!(
            parts
                .iter()
                .all(|part| part.as_ref() == Some(&noise(1, 2000).slice(100..200)))
        );
    }
}

#[tokio::test]
async fn stale_puts_are_cleaned_and_fresh_or_foreign_files_are_not() {
    let (sshd, store) = server();
    let waiting = sshd.files().join("larder/.tmp");
    fs::create_dir_all(&waiting).unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
    let stale = waiting.join("put-00000000000000000000000000000001");
    let fresh = waiting.join("put-00000000000000000000000000000002");
    let foreign = waiting.join("notes");
    for (path, is_old) in [(&stale, true), (&fresh, false), (&foreign, true)] {
        let file = fs::File::create(path).unwrap();
        if is_old {
            file.set_modified(old).unwrap();
        }
    }
    store
        .put(&key("volume"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    assert!(!stale.exists());
    assert!(fresh.exists(), "another process may be writing it now");
    assert!(foreign.exists());
}

#[tokio::test]
async fn links_and_pipes_in_the_place_of_objects_are_errors() {
    let (sshd, store) = server();
    store
        .put(&key("first"), Bytes::from_static(b"x"))
        .await
        .unwrap();
    std::os::unix::fs::symlink("/etc/passwd", sshd.files().join("larder/volume")).unwrap();
    assert_eq!(store.list("").await.unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(
        store.stat(&key("volume")).await.unwrap_err().kind,
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_full_and_keeps_what_it_has() {
    let (sshd, store) = server();
    let place = sshd.files().join("larder");
    fs::create_dir(&place).unwrap();
    let Some(_disk) = SmallDisk::mount(&place, 1 << 20) else {
        return;
    };
    store.put(&key("small"), noise(1, 10_000)).await.unwrap();
    let error = store
        .put(&key("packs/aa/large"), noise(2, 4 << 20))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Full, "{error}");
    assert!(!error.is_passing());
    assert_eq!(store.get(&key("packs/aa/large")).await.unwrap(), None);
    assert_eq!(
        store.get(&key("small")).await.unwrap(),
        Some(noise(1, 10_000))
    );
    // Nothing of the large one takes room: what fits is taken.
    store.put(&key("middle"), noise(3, 600_000)).await.unwrap();
}

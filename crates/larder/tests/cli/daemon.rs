//! The daemon: one for each volume, ended cleanly or not, found or not.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::Stdio;

use crate::machine::{Machine, PATIENCE, Shelf, make_tree, noise, picture, runs, signal, wait_for};

#[test]
fn a_killed_daemon_leaves_a_volume_that_mount_mends() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let tree = laptop.mount_point().join("tree");
    make_tree(&tree);
    let before = picture(&tree);
    assert_eq!(picture(&tree), before);
    sync(&tree);
    laptop.kill_daemon();
    assert!(fs::read_dir(&tree).is_err(), "the mount is dead");
    // Commands work on a volume whose mount is dead.
    assert_eq!(laptop.entry("Larder/tree/large")["size_bytes"], 3 << 20);
    laptop.mount().says("dead daemon");
    assert_eq!(picture(&tree), before);
    laptop.wait_until_stored();
}

fn sync(dir: &std::path::Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            sync(&path);
        }
        fs::File::open(&path).unwrap().sync_all().unwrap();
    }
}

#[test]
fn doctor_takes_a_dead_mount_away_and_then_finds_nothing_wrong() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    laptop
        .larder(["doctor"])
        .ok()
        .says("The volume is mounted")
        .says("holds this volume");
    laptop.kill_daemon();
    assert!(laptop.is_mounted());
    laptop.larder(["doctor"]).ok().says("it was taken away");
    assert!(!laptop.is_mounted());
    let findings = laptop.larder(["doctor", "--json"]).ok().json();
    let levels = findings
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| &finding["level"]);
    assert!(
        levels.into_iter().all(|level| level != "error"),
        "{findings:#}"
    );
}

#[test]
fn doctor_finds_an_open_key_and_a_store_of_another_volume() {
    use std::os::unix::fs::PermissionsExt;
    let (shelf, other) = (Shelf::new(), Shelf::new());
    let laptop = Machine::with_volume(&shelf);
    drop(Machine::with_volume(&other));
    let key = laptop.state_dir().join("key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    laptop.larder(["doctor"]).ended(3).says("chmod 600");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    laptop.larder(["doctor"]).ok();
    fs::rename(shelf.path(), laptop.path("gone")).unwrap();
    fs::rename(other.path(), shelf.path()).unwrap();
    laptop
        .larder(["doctor"])
        .ended(3)
        .says("holds another volume");
}

#[test]
fn a_daemon_that_is_told_to_end_unmounts_and_keeps_everything() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    make_tree(&laptop.mount_point().join("tree"));
    let before = picture(&laptop.mount_point().join("tree"));
    let pid = laptop.daemon_pid().unwrap();
    signal(pid, "TERM");
    wait_for("the daemon to end", || !runs(pid));
    assert!(!laptop.is_mounted());
    laptop.mount();
    assert_eq!(picture(&laptop.mount_point().join("tree")), before);
}

#[test]
fn a_volume_has_one_daemon_and_an_end() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.larder(["unmount"]).ended(5).says("No daemon runs");
    laptop.mount();
    laptop
        .larder(["mount", "Larder"])
        .ended(5)
        .says("mounted already");
    let status = laptop.status();
    assert_eq!(status["mounted"], true);
    assert_eq!(
        status["daemon_pid"].as_i64(),
        laptop.daemon_pid().map(i64::from)
    );
    laptop.unmount();
    let status = laptop.status();
    assert_eq!(
        (&status["mounted"], &status["daemon_pid"]),
        (&false.into(), &().into())
    );
}

#[test]
fn a_mount_in_use_is_not_taken_away_unless_it_is_forced() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let held = fs::File::create(laptop.mount_point().join("held")).unwrap();
    laptop
        .larder(["unmount"])
        .ended(1)
        .says("in use")
        .says("--force");
    assert!(laptop.is_mounted());
    assert_eq!(laptop.status()["mounted"], true);
    laptop.larder(["unmount", "--force"]).ok();
    assert!(!laptop.is_mounted());
    drop(held);
    laptop.mount();
}

#[test]
fn the_daemon_leaves_its_directory_and_terminal_alone_and_logs_to_a_file() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let pid = laptop.daemon_pid().unwrap();
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap().to_str(),
        Some("/")
    );
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let session: i32 = fields[3].parse().unwrap();
    assert_eq!(session, pid, "it leads a session of its own");
    laptop.unmount();
    let logs: Vec<_> = fs::read_dir(laptop.state_dir().join("log"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(logs.len(), 1);
    let text = fs::read_to_string(logs[0].path()).unwrap();
    assert!(
        text.contains("the daemon serves") && text.contains("the daemon ends"),
        "{text}"
    );
}

#[test]
fn a_daemon_that_cannot_start_says_why_to_the_one_who_started_it() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    fs::write(laptop.mount_point().join("in the way"), "").unwrap();
    laptop
        .larder(["mount", "Larder"])
        .ended(1)
        .says("not empty");
    fs::remove_file(laptop.mount_point().join("in the way")).unwrap();
    laptop.mount();
}

#[test]
fn the_control_socket_is_the_users_alone_and_refuses_another_version() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let path = laptop.state_dir().join("control.sock");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    let mut socket = UnixStream::connect(&path).unwrap();
    let body = "{}";
    // At once: it is answered as soon as its head is there.
    let request = format!(
        "POST /v1/status HTTP/1.1\r\nhost: larder\r\nconnection: close\r\nlarder-protocol: 0\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
    assert!(answer.contains("another version"), "{answer}");
}

#[test]
fn state_may_lie_deeper_than_a_sockets_path_can_say() {
    let shelf = Shelf::new();
    let laptop = Machine::with_deep_home();
    laptop.init(&shelf).ok();
    laptop.mount();
    assert!(laptop.status()["daemon_pid"].is_number());
    laptop.unmount();
}

#[test]
fn everything_but_the_mount_works_without_a_daemon() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    make_tree(&laptop.path("tree"));
    let before = picture(&laptop.path("tree"));
    laptop.larder(["adopt", "tree"]).ok();
    laptop.larder(["commit", "-m", "offline"]).ok();
    laptop.larder(["log"]).ok().says("offline");
    laptop
        .larder(["status"])
        .ok()
        .says("Not mounted")
        .says("all is stored");
    laptop.larder(["stash", "Larder/tree"]).ok();
    assert_eq!(laptop.entry("Larder/tree/large")["presence"], "away");
    laptop.larder(["checkout", "Larder/tree/large"]).ok();
    assert_eq!(laptop.entry("Larder/tree/large")["presence"], "here");
    laptop.larder(["pin", "Larder/tree/docs"]).ok();
    laptop.larder(["verify", "--stores"]).ok();
    laptop.mount();
    assert_eq!(picture(&laptop.mount_point().join("tree")), before);
}

#[test]
fn each_profile_mounts_and_holds_a_tree() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    for profile in ["passthrough", "cached", "no-open"] {
        laptop
            .larder(["mount", "Larder", "--profile", profile])
            .ok();
        let tree = laptop.mount_point().join(profile);
        make_tree(&laptop.path(profile));
        crate::machine::copy_tree(&laptop.path(profile), &laptop.mount_point());
        assert_eq!(picture(&tree), picture(&laptop.path(profile)), "{profile}");
        laptop.unmount();
    }
}

#[test]
fn a_daemon_in_the_foreground_tells_systemd_when_it_is_ready_and_when_it_ends() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    let systemd = UnixDatagram::bind(laptop.path("notify")).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut text = [0; 64];
        let length = systemd.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    let mut command = laptop.command();
    command
        .env("NOTIFY_SOCKET", laptop.path("notify"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut daemon = command.args(["mount", "--foreground"]).spawn().unwrap();
    assert_eq!(told(), "READY=1");
    assert!(laptop.is_mounted());
    assert_eq!(laptop.daemon_pid(), i32::try_from(daemon.id()).ok());
    signal(laptop.daemon_pid().unwrap(), "INT");
    assert_eq!(told(), "STOPPING=1");
    assert!(daemon.wait().unwrap().success());
    assert!(!laptop.is_mounted());
}

#[test]
fn a_checkout_that_was_cut_off_harms_nothing_and_the_next_one_ends_it() {
    let shelf = Shelf::new();
    let laptop = Machine::with_volume(&shelf);
    laptop.mount();
    let file = laptop.mount_point().join("file");
    fs::write(&file, noise(4, 48 << 20)).unwrap();
    laptop.larder(["commit"]).ok();
    laptop.larder(["stash", "Larder"]).ok();
    let mut cut = laptop
        .command()
        .args(["checkout", "Larder"])
        .spawn()
        .unwrap();
    wait_for("something to come", || {
        laptop.entry("Larder/file")["presence"] != "away"
    });
    let _ = cut.kill();
    cut.wait().unwrap();
    laptop.larder(["checkout", "Larder"]).ok();
    assert_eq!(laptop.entry("Larder/file")["presence"], "here");
    assert_eq!(fs::read(&file).unwrap(), noise(4, 48 << 20));
}

//! Nonsense on the control socket: refused, and the daemon goes on as before.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use larder_store::testing::noise;

use crate::machine::runs;
use crate::remote::{EAGER, Remote};

const ROUNDS: u64 = 600;
/// Beyond what the daemon had before.
const MEMORY_KIB: u64 = 64 << 10;

/// An answer that must come is waited for longer than one to half a request, for which the
/// daemon itself waits.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(20);

const REQUESTS: [(&str, &str); 6] = [
    ("status", "{}"),
    (
        "list",
        r#"{"paths":[""],"recursive":true,"directory":false}"#,
    ),
    (
        "stash",
        r#"{"paths":["file"],"older_than_secs":null,"dry_run":true}"#,
    ),
    ("checkout", r#"{"paths":["file"]}"#),
    ("log", r#"{"limit":10}"#),
    ("verify", r#"{"paths":["file"],"stores":false}"#),
];

fn request(name: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /v1/{name} HTTP/1.1\r\nhost: larder\r\nlarder-protocol: 1\r\n\
         content-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Some bytes of it are others, are gone, or are there twice.
fn change(bytes: &mut Vec<u8>, round: u64) {
    let dice = noise(round, 64);
    let pick = |n: usize, end: usize| {
        (usize::from(dice[2 * n]) << 8 | usize::from(dice[2 * n + 1])) % end.max(1)
    };
    for n in 0..=pick(0, 3) {
        let at = pick(4 * n + 1, bytes.len());
        let end = at + pick(4 * n + 2, (bytes.len() - at).min(30));
        match pick(4 * n + 3, 6) {
            0 => bytes[at] ^= 1 << pick(4 * n + 4, 8),
            1 => bytes[at] = dice[at % 64],
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece.repeat(40));
            }
            _ => drop(bytes.splice(at..end, b"[[[[[[[[{\"paths\":9e999,".iter().copied())),
        }
        if bytes.is_empty() {
            bytes.push(0);
        }
    }
}

/// Sends it, and takes what is answered within a time.
fn send(socket: &Path, bytes: &[u8], patience: Duration) -> Vec<u8> {
    let mut line = UnixStream::connect(socket).unwrap();
    line.set_read_timeout(Some(patience)).unwrap();
    let _ = line.write_all(bytes);
    let mut answer = Vec::new();
    let _ = line.read_to_end(&mut answer);
    answer
}

fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

#[test]
fn nonsense_on_the_control_socket_is_refused_and_the_daemon_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let file = laptop.mount_point().join("file");
    fs::write(&file, noise(1, 100_000)).unwrap();
    laptop.larder(["commit"]).ok();
    let pid = laptop.daemon_pid().unwrap();
    let socket = laptop.state_dir().join("control.sock");
    for (name, body) in REQUESTS {
        let answer = String::from_utf8(send(&socket, &request(name, body), LONG)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
    }
    let before = resident_kib(pid);
    for round in 0..ROUNDS {
        let (name, body) = REQUESTS[round as usize % REQUESTS.len()];
        if round % 4 == 0 {
            let mut bytes = request(name, body);
            change(&mut bytes, round);
            send(&socket, &bytes, SHORT);
        } else {
            // What stands before the JSON is right, so that the JSON is looked at.
            let mut body = body.as_bytes().to_vec();
            change(&mut body, round);
            let bytes = request(name, &String::from_utf8_lossy(&body));
            let answer = send(&socket, &bytes, LONG);
            assert!(
                answer.starts_with(b"HTTP/1.1 "),
                "round {round}: {answer:?}"
            );
        }
    }
    // Deep, and long.
    send(&socket, &request("list", &"[".repeat(1 << 20)), LONG);
    send(
        &socket,
        &request(
            "list",
            &format!("{{\"paths\":[{}\"\"]}}", "\"a\",".repeat(300_000)),
        ),
        LONG,
    );
    assert!(runs(pid), "the daemon ended");
    assert_eq!(laptop.daemon_pid(), Some(pid));
    let after = resident_kib(pid);
    assert!(
        after < before + MEMORY_KIB,
        "{before} KiB before, {after} after"
    );
    assert_eq!(fs::read(&file).unwrap(), noise(1, 100_000));
    laptop.larder(["status"]).ok();
    laptop.unmount();
}

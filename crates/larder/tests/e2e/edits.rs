//! Edits inside a big file that is away.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use larder_store::testing::noise;

use crate::remote::{EAGER, Remote, run};

const SIZE: u64 = 192 << 20;

fn make_big(path: &Path) {
    let mut file = File::create(path).unwrap();
    for i in 0..SIZE >> 23 {
        // Half of it compresses.
        file.write_all(&noise(i, 4 << 20)).unwrap();
        file.write_all(&format!("row {i:9} ").repeat((4 << 20) / 14 + 1).as_bytes()[..4 << 20])
            .unwrap();
    }
}

fn edit(path: &Path, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[test]
fn an_edit_inside_a_big_file_that_is_away_fetches_and_sends_little() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let (copy, big) = (laptop.path("copy"), laptop.mount_point().join("big"));
    make_big(&copy);
    fs::copy(&copy, &big).unwrap();
    laptop.larder(["commit"]).ok();
    laptop.larder(["stash", "Larder/big"]).ok();
    let before = remote.bytes("");
    for path in [&copy, &big] {
        edit(path, SIZE / 2 + 12_345, &noise(99, 4096));
    }
    let here = laptop.entry("Larder/big")["bytes_here"].as_u64().unwrap();
    assert!(here < 2 << 20, "{here} bytes were fetched");
    laptop.larder(["commit"]).ok();
    let sent = remote.bytes("") - before;
    assert!(sent < 2 << 20, "{sent} bytes were sent");
    assert_eq!(laptop.entry("Larder/big")["presence"], "part");

    // Cut, grown, punched and zeroed as well, then read whole.
    for path in [&copy, &big] {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(SIZE - 5_000_001).unwrap();
        let mut file = File::options().append(true).open(path).unwrap();
        file.write_all(b"the new end").unwrap();
        let name = path.to_str().unwrap();
        run("fallocate", ["-p", "-o", "50000001", "-l", "3000001", name]);
        run("fallocate", ["-z", "-o", "90000001", "-l", "3001", name]);
        let mut file = File::options().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(SIZE + 1_000_000)).unwrap();
        file.write_all(b"beyond").unwrap();
    }
    laptop.larder(["commit"]).ok();
    let sent = remote.bytes("") - before;
    assert!(sent < 8 << 20, "{sent} bytes were sent");
    laptop.larder(["stash", "Larder/big"]).ok();
    run("cmp", [copy.to_str().unwrap(), big.to_str().unwrap()]);
    let desktop = remote.another_machine();
    let there = desktop.mount_point().join("big");
    run("cmp", [copy.to_str().unwrap(), there.to_str().unwrap()]);
}

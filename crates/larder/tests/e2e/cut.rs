//! Uploads that are cut by the death of the daemon.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use larder_store::testing::{Sshd, noise};

use crate::machine::wait_for;
use crate::remote::{EAGER, Remote};

const PACK: u64 = 16 << 20;
const FILES: u64 = 12;
const FILE: u64 = 8 << 20;

/// Each whole object with its inode: one that is sent again is another.
fn inodes(remote: &Remote) -> BTreeMap<String, u64> {
    let names = remote.objects("packs/").into_keys();
    names
        .filter_map(|name| Some((name.clone(), fs::metadata(remote.object(&name)).ok()?.ino())))
        .collect()
}

#[test]
fn a_first_upload_that_is_cut_goes_on_where_it_was() {
    let sshd = Sshd::start();
    let remote = Remote::sftp(&sshd);
    let limits = format!("{EAGER}\nupload = \"24M\"\nparallel-uploads = 2");
    let laptop = remote.new_volume("1G", &limits);
    laptop.mount();
    let root = laptop.mount_point();
    for i in 0..FILES {
        fs::write(root.join(i.to_string()), noise(i, FILE as usize)).unwrap();
        fs::File::open(root.join(i.to_string()))
            .unwrap()
            .sync_all()
            .unwrap();
    }
    let mut seen = BTreeMap::new();
    for cut in 1..=2 {
        wait_for("some packs to be stored", || {
            inodes(&remote).len() >= 2 * cut
        });
        laptop.kill_daemon();
        let there = inodes(&remote);
        seen.extend(there);
        laptop.mount().says("dead daemon");
    }
    laptop.wait_until_stored();
    let after = inodes(&remote);
    for (name, inode) in &seen {
        assert_eq!(after.get(name), Some(inode), "{name} was sent again");
    }
    // What was on its way at each cut may be sent twice, and no more.
    let sent = remote.bytes("packs/");
    let most = FILES * FILE + 2 * 2 * PACK + PACK / 2;
    assert!(sent <= most, "{sent} bytes were sent, more than {most}");
    laptop.larder(["stash", "Larder"]).ok();
    for i in 0..FILES {
        let read = fs::read(root.join(i.to_string())).unwrap();
        assert_eq!(read, noise(i, FILE as usize), "{i}");
    }
    laptop
        .larder(["verify", "--stores"])
        .ok()
        .says("Found no damage");
}

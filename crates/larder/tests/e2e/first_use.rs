//! What a user does first, on each kind of server: make, copy in, stash, open elsewhere.

use std::fs;
use std::path::Path;

use larder_store::testing::{DavServer, S3Server, Sshd, noise};

use crate::machine::{Machine, copy_tree, make_tree, picture};
use crate::remote::{EAGER, Remote, assert_no_diff, set_limits, stash_proven};

/// A tree with everything that trees have, `small` small files, and `large` of 20 MiB.
fn make_sources(root: &Path, small: u64, large: u64) {
    make_tree(root);
    for i in 0..small {
        let dir = root.join(format!("src/{}/{}", i % 7, i % 31));
        fs::create_dir_all(&dir).unwrap();
        let lines = format!("line {i} of some source\n").repeat(1 + (i as usize * 7) % 400);
        fs::write(dir.join(format!("{i}.rs")), lines).unwrap();
    }
    for i in 0..large {
        fs::write(root.join(format!("large {i}")), noise(i, 20 << 20)).unwrap();
    }
}

fn a_tree_goes_there_and_comes_back(remote: &Remote, small: u64, large: u64) {
    let laptop = Machine::new();
    let made = remote.init(&laptop, "1G").ok().json();
    set_limits(&laptop, EAGER);
    let original = laptop.path("tree");
    make_sources(&original, small, large);
    let before = picture(&original);
    laptop.mount();
    copy_tree(&original, &laptop.mount_point());
    let tree = laptop.mount_point().join("tree");
    assert_no_diff(&original, &tree);
    laptop.wait_until_stored();
    stash_proven(&laptop);
    let packs = remote.bytes("packs/");
    assert!(packs > large * (20 << 20), "{packs} bytes are stored");
    assert_eq!(laptop.status()["bytes_here"], 0);
    assert_no_diff(&original, &tree);
    assert_eq!(picture(&tree), before);
    laptop.larder(["verify", "--stores"]).ok();
    laptop.unmount();

    let recovery_key = made["recovery_key"].as_str().unwrap();
    for (name, secret) in [
        ("--passphrase-file", None),
        ("--recovery-key-file", Some(recovery_key)),
    ] {
        let desktop = Machine::new();
        let file = secret.map_or("passphrase", |key| {
            fs::write(desktop.path("key"), key).unwrap();
            "key"
        });
        remote.open(&desktop, [name, file]).ok();
        desktop.mount();
        let tree = desktop.mount_point().join("tree");
        assert_eq!(desktop.status()["bytes_here"], 0);
        assert_no_diff(&original, &tree);
        assert_eq!(picture(&tree), before);
    }
}

#[test]
fn a_tree_goes_to_an_ssh_server_and_comes_back_on_every_machine() {
    let sshd = Sshd::start();
    a_tree_goes_there_and_comes_back(&Remote::sftp(&sshd), 2000, 3);
}

#[test]
fn a_tree_goes_to_s3_and_comes_back_on_every_machine() {
    let server = S3Server::start();
    a_tree_goes_there_and_comes_back(&Remote::s3(&server, server.socket()), 300, 1);
}

#[test]
fn a_tree_goes_to_webdav_and_comes_back_on_every_machine() {
    let server = DavServer::start();
    a_tree_goes_there_and_comes_back(&Remote::webdav(&server, server.socket()), 300, 1);
}

//! Servers that fail, cut, dawdle and lie.

use std::fs;
use std::path::Path;

use larder_store::testing::{DavServer, S3Server, noise};

use crate::liar::{Liar, Lie, Mood};
use crate::machine::{picture, wait_for};
use crate::remote::{EAGER, Remote, ends, stash_all};

const FILES: u64 = 10;

fn content(i: u64) -> Vec<u8> {
    noise(i, 200_000 + 1000 * i as usize).to_vec()
}

fn write_all(root: &Path) {
    for i in 0..FILES {
        fs::write(root.join(i.to_string()), content(i)).unwrap();
    }
}

/// How many files read right, all at once; the others must give an error.
fn read_right(root: &Path) -> u64 {
    let root = root.to_owned();
    let read = ends(move || {
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..FILES)
                .map(|i| (i, root.join(i.to_string())))
                .map(|(i, path)| scope.spawn(move || (i, fs::read(path))))
                .collect();
            let joined = readers.into_iter().map(|reader| reader.join().unwrap());
            joined.collect::<Vec<_>>()
        })
    });
    for (i, read) in &read {
        if let Ok(bytes) = read {
            assert!(*bytes == content(*i), "wrong bytes of file {i}");
        }
    }
    read.iter().filter(|(_, read)| read.is_ok()).count() as u64
}

fn a_liar_is_survived(remote: &Remote, liar: &Liar) {
    let laptop = remote.new_volume("1G", &format!("{EAGER}\nread-wait = \"2s\""));
    laptop.mount();
    let root = laptop.mount_point();
    // Half of all that is sent goes wrong; everything is stored in the end.
    liar.tell(Mood {
        lies: vec![Lie::ServerError, Lie::LostAnswer, Lie::Broken, Lie::Late],
        one_in: 2,
        method: None,
    });
    write_all(&root);
    wait_for("lies about what is sent", || liar.told() > 3);
    liar.tell(Mood {
        lies: vec![Lie::ServerError, Lie::LostAnswer, Lie::Broken, Lie::Late],
        one_in: 8,
        method: None,
    });
    laptop.wait_until_stored();
    liar.be_honest();
    laptop.larder(["verify", "--stores"]).ok();

    // Some answers are wrong: asked again, everything comes.
    stash_all(&laptop);
    liar.tell(Mood {
        lies: vec![Lie::WrongBytes, Lie::Short, Lie::Broken, Lie::ServerError],
        one_in: 2,
        method: Some("GET"),
    });
    let told = liar.told();
    wait_for("lies about what is read", || {
        stash_all(&laptop);
        read_right(&root);
        liar.told() > told + 2
    });

    // All are: nothing is served.
    for lie in [Lie::WrongBytes, Lie::Short, Lie::Missing] {
        liar.be_honest();
        wait_for("the store to be found", || {
            laptop.larder(["checkout", "Larder"]).code == Some(0)
        });
        stash_all(&laptop);
        liar.tell(Mood {
            lies: vec![lie],
            one_in: 1,
            method: Some("GET"),
        });
        assert_eq!(read_right(&root), 0, "{lie:?}");
    }
    liar.be_honest();
    wait_for("all content to come", || read_right(&root) == FILES);

    // A machine that opens meanwhile has the tree, or says why not.
    liar.tell(Mood {
        lies: vec![Lie::WrongBytes, Lie::Short, Lie::Broken, Lie::ServerError],
        one_in: 6,
        method: None,
    });
    let desktop = crate::machine::Machine::new();
    let mut is_older = false;
    wait_for("another machine to open it", || {
        let opened = remote.open(&desktop, ["--passphrase-file", "passphrase"]);
        assert!(
            opened.code == Some(0) || opened.err.contains("Error:"),
            "{opened:?}"
        );
        is_older = opened.err.contains("cannot be used");
        opened.code == Some(0)
    });
    liar.be_honest();
    desktop.mount();
    if is_older {
        // The newest head came damaged each time, and it said so; now it comes.
        desktop.larder(["sync"]).ok();
    }
    assert_eq!(picture(&desktop.mount_point()), picture(&root));
}

#[test]
fn an_s3_server_that_lies_is_survived() {
    let server = S3Server::start();
    let liar = Liar::before(server.socket());
    a_liar_is_survived(&Remote::s3(&server, liar.socket()), &liar);
}

#[test]
fn a_webdav_server_that_lies_is_survived() {
    let server = DavServer::start();
    let liar = Liar::before(server.socket());
    a_liar_is_survived(&Remote::webdav(&server, liar.socket()), &liar);
}

//! Three machines with one volume that meet directly, by tickets.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::machine::{Machine, noise, wait_for};
use crate::meet::network::Namespace;
use crate::remote::{EAGER, Remote, set_limits};

/// A socket of this machine alone.
const HERE: &str = "\n[peers]\nlisten = \"127.0.0.1:0\"\n";

fn stay_on_loopback(machine: &Machine) {
    add_to_config(machine, HERE);
}

fn add_to_config(machine: &Machine, words: &str) {
    let path = machine.state_dir().join("config.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text + words).unwrap();
}

fn inviter(store: &Path) -> Machine {
    let machine = Remote::folder(store).new_volume("1G", EAGER);
    stay_on_loopback(&machine);
    machine.mount();
    machine
}

fn ticket(machine: &Machine) -> String {
    let said = machine.larder(["invite", "--json"]).ok().json();
    said["ticket"].as_str().unwrap().to_owned()
}

fn joined(inviter: &Machine) -> Machine {
    let machine = Machine::new();
    machine
        .larder(["join", &ticket(inviter), "Larder"])
        .ok()
        .says("Opened volume");
    set_limits(&machine, EAGER);
    stay_on_loopback(&machine);
    machine.mount();
    machine
}

fn peers(machine: &Machine) -> Vec<Value> {
    let said = machine.larder(["peers", "--json"]).ok().json();
    said.as_array().unwrap().clone()
}

fn here(machine: &Machine) -> Vec<Value> {
    let mut peers = peers(machine);
    peers.retain(|peer| peer["here"] == true);
    peers
}

fn sum(machine: &Machine, what: &str) -> u64 {
    let peers = peers(machine);
    peers.iter().map(|peer| peer[what].as_u64().unwrap()).sum()
}

#[test]
fn machines_that_were_invited_tell_and_give_each_other_what_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let laptop = inviter(&store);
    let picture = noise(1, 2_000_000);
    fs::write(laptop.mount_point().join("picture"), &picture).unwrap();
    laptop.larder(["commit"]).ok();
    let desktop = joined(&laptop);
    let server = joined(&laptop);
    wait_for("both to be there", || here(&laptop).len() == 2);

    // What the laptop stores is known at once.
    fs::write(laptop.mount_point().join("letter"), "Dear Anna").unwrap();
    laptop.larder(["commit"]).ok();
    let log = laptop.larder(["log", "--json"]).ok().json();
    let newest = log[0]["n"].as_u64().unwrap();
    for machine in [&desktop, &server] {
        wait_for("the news", || {
            here(machine).iter().any(|peer| peer["newest"] == newest)
        });
    }

    // The store holds no content any more, and all of it can be read.
    fs::rename(store.join("packs"), dir.path().join("packs")).unwrap();
    fs::create_dir(store.join("packs")).unwrap();
    for machine in [&desktop, &server] {
        let read = fs::read(machine.mount_point().join("picture")).unwrap();
        assert!(read == picture);
    }
    assert!(sum(&desktop, "bytes_from") >= 2_000_000);
    assert!(sum(&server, "bytes_from") >= 2_000_000);
    assert!(sum(&laptop, "bytes_to") >= 2_000_000);
    laptop.larder(["peers"]).ok().says("here, at 127.0.0.1");

    // One that ends is gone at once, and comes back.
    desktop.unmount();
    wait_for("it to be gone", || here(&laptop).len() == 1);
    laptop.larder(["peers"]).ok().says("seen ");
    desktop.mount();
    wait_for("it to be back", || here(&laptop).len() == 2);
    desktop.unmount();
    desktop.larder(["peers"]).ok().says("seen ");
}

#[test]
fn a_ticket_that_is_not_good_is_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let laptop = inviter(&store);
    laptop.larder(["commit"]).ok();
    let ticket = ticket(&laptop);
    let other = Machine::new();

    // A wrong store costs no ticket.
    let elsewhere = dir.path().join("elsewhere");
    let stranger = Remote::folder(&elsewhere).new_volume("1G", EAGER);
    let wrong = elsewhere.to_str().unwrap();
    let said = other.larder(["join", &ticket, "Larder", "--store", wrong]);
    said.ended(2).says("does not hold the volume");
    drop(stranger);
    other.larder(["join", &ticket, "Larder"]).ok();
    let third = Machine::new();
    let used = third.larder(["join", &ticket, "Larder"]);
    used.ended(1).says("used already").says("larder invite");
    let cut = third.larder(["join", &ticket[..ticket.len() - 9], "Larder"]);
    cut.ended(2).says("mistyped, or a part is missing");
    let said = laptop.larder(["invite", "--good-for", "0s", "--json"]).ok();
    let old = said.json()["ticket"].as_str().unwrap().to_owned();
    let said = third.larder(["join", &old, "Larder"]);
    said.ended(1).says("too old");
    laptop.unmount();
    let said = laptop.larder(["invite"]);
    assert_ne!(said.code, Some(0));
    said.says("larder mount");
}

/// On a network of its own, as everyone on the real one would hear them.
#[test]
fn machines_on_one_network_find_each_other_if_they_are_told_to() {
    let network = Namespace::new(0).expect("this machine can have networks of its own");
    network.route_all().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let store = Remote::folder(&dir.path().join("store"));
    let on_the_network = || Machine::started_by(network.enter());
    let laptop = on_the_network();
    store.init(&laptop, "1G").ok();
    let desktop = on_the_network();
    let server = on_the_network();
    for machine in [&desktop, &server] {
        store
            .open(machine, ["--passphrase-file", "passphrase"])
            .ok();
    }
    for machine in [&laptop, &desktop, &server] {
        set_limits(machine, EAGER);
    }
    for machine in [&laptop, &desktop] {
        add_to_config(machine, "\n[peers]\nmdns = true\n");
        machine.mount();
    }
    add_to_config(&server, "\n[peers]\nlisten = \"127.0.0.1:0\"\n");
    server.mount();
    // Whom one has something of, one calls; nobody was invited, and no address was named.
    fs::write(laptop.mount_point().join("letter"), "Dear Anna").unwrap();
    laptop.larder(["commit"]).ok();
    desktop.larder(["sync"]).ok();
    wait_for("them to find each other", || {
        here(&laptop).len() == 1 && here(&desktop).len() == 1
    });
    // Who was not told to says nothing to anybody.
    assert_eq!(here(&server), Vec::<Value>::new());
}

//! What the program says without a volume: help, usage, exit codes, completions, manual.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::machine::{Machine, Shelf};

const COMMANDS: [&str; 34] = [
    "init",
    "open",
    "mount",
    "unmount",
    "status",
    "ls",
    "stash",
    "checkout",
    "adopt",
    "pin",
    "unpin",
    "commit",
    "sync",
    "conflicts",
    "resolve",
    "invite",
    "join",
    "peers",
    "log",
    "show",
    "diff",
    "tag",
    "restore",
    "undelete",
    "history",
    "history keep",
    "collect",
    "verify",
    "store",
    "doctor",
    "service",
    "completions",
    "help",
    "store check",
];

#[test]
fn the_help_is_as_it_was_reviewed() {
    let machine = Machine::new();
    let help = machine.larder(["--help"]).ok().out;
    let reviewed = include_str!("help.txt");
    assert_eq!(
        help, reviewed,
        "review the change and write it to tests/help.txt:\n{help}"
    );
}

#[test]
fn every_command_explains_itself() {
    let machine = Machine::new();
    for command in COMMANDS.iter().filter(|command| **command != "help") {
        machine
            .larder(command.split(' ').chain(["--help"]))
            .ok()
            .says("Usage: larder");
    }
}

#[test]
fn the_topics_are_shown() {
    let machine = Machine::new();
    let codes = machine.larder(["help", "exit-codes"]).ok();
    for code in 0..=5 {
        assert!(codes.out.contains(&format!("\n {code}  ")), "{codes:#?}");
    }
    machine.larder(["help", "stores"]).ok().says("secrets.toml");
    machine
        .larder(["help", "environment"])
        .ok()
        .says("LARDER_HOME");
    machine.larder(["help", "nothing"]).ended(2);
}

#[test]
fn what_makes_no_sense_is_a_usage_error_with_a_hint() {
    let shelf = Shelf::new();
    let machine = Machine::new();
    machine.larder(["frobnicate"]).ended(2);
    machine
        .larder(["init", "x", "--store", "/s", "--budget", "much"])
        .ended(2)
        .says("20G");
    machine
        .larder(["status"])
        .ended(2)
        .says("Hint: `larder init");
    machine.init(&shelf).ok();
    machine.larder(["ls", "/etc"]).ended(2).says("in no volume");
    machine
        .larder(["ls", "Larder/nothing"])
        .ended(1)
        .says("nothing: there is no such file");
    machine
        .larder(["--volume", "beefbeef", "status"])
        .ended(2)
        .says("Volumes here");
    machine.larder(["stash"]).ended(2);
    machine.larder(["mount", "elsewhere"]).ended(2);
    for address in ["ftp://host/x", "https://host/x", "sftp://me:secret@host/x"] {
        let init = ["init", "new", "--store", address, "--budget", "1G"];
        let said = machine.larder(init);
        assert!(!said.err.contains("secret"), "{said:#?}");
        assert_ne!(said.code, Some(0));
    }
}

#[test]
fn a_passphrase_is_not_guessed_when_there_is_no_terminal() {
    let machine = Machine::new();
    let init = ["init", "x", "--store", "s", "--budget", "1G"];
    machine.larder(init).ended(2).says("--passphrase-file");
    let mut command = machine.command();
    command
        .env("LARDER_PASSPHRASE_FILE", "passphrase")
        .args(init);
    crate::machine::Said::from(command.output().unwrap())
        .ok()
        .says("Recovery key:");
}

#[test]
fn a_setting_that_makes_no_sense_is_refused_by_name() {
    let shelf = Shelf::new();
    let machine = Machine::with_volume(&shelf);
    let config = machine.state_dir().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[limits]\nuplaod = \"5M\"\n")).unwrap();
    machine
        .larder(["status"])
        .ended(2)
        .says("uplaod")
        .says("config.toml");
    machine.larder(["doctor"]).ended(3).says("uplaod");
    fs::write(&config, format!("{text}\n[limits]\nupload = \"5M\"\n")).unwrap();
    machine.larder(["status"]).ok();
}

#[test]
fn secrets_are_kept_apart_and_for_their_owner() {
    let machine = Machine::new();
    let secrets = machine.path("secrets");
    fs::write(&secrets, "webdav-password = \"hunter2\"\n").unwrap();
    let init = [
        "init",
        "x",
        "--store",
        "s",
        "--budget",
        "1G",
        "--passphrase-file",
        "passphrase",
        "--secrets-file",
        "secrets",
    ];
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o644)).unwrap();
    machine.larder(init).ended(1).says("chmod 600");
    fs::set_permissions(&secrets, fs::Permissions::from_mode(0o600)).unwrap();
    machine.larder(init).ok();
    let kept = machine.state_dir().join("secrets.toml");
    assert_eq!(
        fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let config = fs::read_to_string(machine.state_dir().join("config.toml")).unwrap();
    assert!(!config.contains("hunter2"));
    let said = machine.larder(["store", "list"]).ok();
    assert!(!said.out.contains("hunter2"));
}

#[test]
fn shells_and_man_get_their_files() {
    let machine = Machine::new();
    for shell in ["bash", "zsh", "fish"] {
        machine.larder(["completions", shell]).ok().says("checkout");
    }
    machine.larder(["man", "pages"]).ok();
    let main = fs::read_to_string(machine.path("pages/larder.1")).unwrap();
    assert!(
        main.contains("EXIT CODES") && main.contains("LARDER_HOME"),
        "{main}"
    );
    for page in ["larder-stash.1", "larder-store-check.1"] {
        assert!(machine.path("pages").join(page).exists(), "{page}");
    }
}

#[test]
fn a_systemd_unit_is_offered() {
    let shelf = Shelf::new();
    let machine = Machine::with_volume(&shelf);
    let unit = machine.larder(["service", "show"]).ok();
    assert!(unit.out.contains("Type=notify") && unit.out.contains("mount --foreground"));
    machine
        .larder(["service", "install"])
        .ok()
        .says("systemctl --user");
    let dir = machine.path(".config/systemd/user");
    let installed = fs::read_dir(dir).unwrap().next().unwrap().unwrap().path();
    assert_eq!(fs::read_to_string(installed).unwrap(), unit.out);
}

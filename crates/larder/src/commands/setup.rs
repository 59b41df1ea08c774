//! `init` and `open`: a volume comes to this machine.

use std::path::Path;

use larder_daemon::{
    ByteSize, Credential, Failure, FailureKind, Home, Opened, StoreConfig, Wanted, init as make,
    open as bring,
};

use super::on_runtime;
use crate::args::{Init, Open, Reach};
use crate::exit::Exit;
use crate::say::{self, Bar};
use crate::{passphrase, units};

pub fn init(args: &Init) -> Result<Exit, Failure> {
    let home = Home::from_env()?;
    let wanted = wanted(&args.dir, &args.store, args.budget, &args.reach).checked(&home)?;
    let words = passphrase::new(args.passphrase.passphrase_file.as_deref())?;
    let made = on_runtime(make(&home, wanted, &words)).map_err(about_stores)?;
    if args.json {
        say::json(&made)?;
    } else {
        let mount = made.mount.display();
        say::out(format_args!(
            "Made volume {} at {mount}; its content lives on {}.",
            made.volume, made.store
        ));
        say::out(format_args!(
            "\nRecovery key:\n\n    {}\n",
            made.recovery_key
        ));
    }
    say::warning("The recovery key is shown this once, and opens the volume for whoever has it.");
    say::hint("Write it down, and keep it apart from this machine.");
    stays_here(&made.local);
    say::hint(format_args!(
        "`larder mount {}` mounts the volume.",
        made.mount.display()
    ));
    Ok(Exit::Done)
}

pub fn open(args: &Open) -> Result<Exit, Failure> {
    let home = Home::from_env()?;
    let wanted = wanted(&args.dir, &args.store, args.budget, &args.reach).checked(&home)?;
    let credential = credential(args)?;
    let bar = Bar::new();
    let opened = on_runtime(bring(
        &home,
        wanted,
        credential,
        args.commit.as_deref(),
        &|progress| bar.report(progress),
    ));
    drop(bar);
    say_opened(&opened.map_err(about_stores)?, args.json)
}

/// Says that a volume is on this machine now.
pub fn say_opened(opened: &Opened, json: bool) -> Result<Exit, Failure> {
    opened.warnings.iter().for_each(say::warning);
    if json {
        say::json(opened)?;
        return Ok(Exit::Done);
    }
    say::out(format_args!(
        "Opened volume {} at {}: {}, {}.",
        opened.volume,
        opened.mount.display(),
        say::count(opened.files, "file"),
        units::size(opened.bytes),
    ));
    stays_here(&opened.local);
    say::hint(format_args!(
        "`larder mount {}` mounts it.",
        opened.mount.display()
    ));
    Ok(Exit::Done)
}

/// Says what is not stored: whoever does not know it may count on a copy that is not there.
fn stays_here(rules: &[String]) {
    say::hint(format_args!(
        "What is named {} stays on this machine only; `local` in config.toml changes that.",
        rules.join(", ")
    ));
}

pub fn wanted(dir: &Path, address: &str, budget: ByteSize, reach: &Reach) -> Wanted {
    Wanted {
        mount: dir.to_owned(),
        store: StoreConfig {
            address: address.to_owned(),
            identity: reach.identity.clone(),
            known_hosts: reach.known_hosts.clone(),
            accept_new_host_key: reach.accept_new_host_key,
        },
        budget,
        secrets_file: reach.secrets_file.clone(),
    }
}

/// A store that is used for the first time may need what only a page can explain.
pub fn about_stores(failure: Failure) -> Failure {
    match failure.kind {
        FailureKind::Store if failure.hint.is_none() => {
            failure.hint("`larder help stores` says how each kind of store is reached.")
        }
        _ => failure,
    }
}

fn credential(args: &Open) -> Result<Credential, Failure> {
    if args.recovery_key || args.recovery_key_file.is_some() {
        let key = passphrase::recovery_key(args.recovery_key_file.as_deref())?;
        return Ok(Credential::RecoveryKey(key.to_string()));
    }
    let words = passphrase::known(args.passphrase.passphrase_file.as_deref())?;
    Ok(Credential::Passphrase(words.to_string()))
}

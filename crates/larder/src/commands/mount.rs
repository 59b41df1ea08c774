//! `mount`, `unmount`, `service`: the life of a volume's daemon.

use std::ffi::OsString;

use larder_daemon::{Failure, FailureKind, Located, MountWish, Ready, ServiceUnit, Unmounted};

use super::{Machine, on_runtime};
use crate::args::{Mount, ServiceCommand, Unmount};
use crate::exit::Exit;
use crate::{say, units};

pub fn mount(machine: Machine, args: &Mount) -> Result<Exit, Failure> {
    if args.detached {
        return Ok(detached(&machine, args));
    }
    let located = machine.locate_dir(args.dir.as_ref()).map_err(not_a_mount)?;
    let replica = &located.replica;
    if args.dir.is_some() && located.paths.iter().any(|path| !path.is_empty()) {
        return Err(not_a_mount(Failure::usage(format!(
            "The volume is mounted at {}, not below it.",
            replica.config.mount.display()
        ))));
    }
    if args.foreground {
        let _log = larder_daemon::log_to_files(&replica.dir)?;
        let shown = replica.config.mount.display().to_string();
        on_runtime(larder_daemon::run(replica, wish(args), |ready: &Ready| {
            say_ready(&shown, ready);
            say::hint("Ctrl-C unmounts it.");
        }))?;
        return Ok(Exit::Done);
    }
    let ready = larder_daemon::start_detached(&daemon_args(&located, args))?;
    say_ready(&replica.config.mount.display().to_string(), &ready);
    Ok(Exit::Done)
}

fn not_a_mount(failure: Failure) -> Failure {
    match failure.hint {
        Some(_) => failure,
        None => failure.hint("`mount` in config.toml says where a volume is mounted."),
    }
}

fn say_ready(mount: &str, ready: &Ready) {
    say::out(format_args!("Mounted {mount}."));
    for note in &ready.notes {
        say::warning(note);
    }
}

fn wish(args: &Mount) -> MountWish {
    MountWish {
        profile: args.profile,
        allow_other: args.allow_other,
    }
}

/// The arguments of the process that becomes the daemon.
fn daemon_args(located: &Located, args: &Mount) -> Vec<OsString> {
    let volume = located.replica.volume.to_string();
    let mut words: Vec<OsString> = vec!["--volume".into(), volume.into()];
    words.extend(["mount".into(), "--detached".into()]);
    if let Some(profile) = args.profile {
        words.extend(["--profile".into(), profile.name().into()]);
    }
    if args.allow_other {
        words.push("--allow-other".into());
    }
    words
}

/// Is the daemon that another `larder mount` started and waits for.
fn detached(machine: &Machine, args: &Mount) -> Exit {
    larder_daemon::leave_session();
    let served = machine.locate(&[]).and_then(|located| {
        let _log = larder_daemon::log_to_files(&located.replica.dir)?;
        on_runtime(larder_daemon::run(&located.replica, wish(args), |ready| {
            larder_daemon::tell_starter(Ok(ready.clone()));
        }))
    });
    match served {
        Ok(()) => Exit::Done,
        Err(failure) => {
            let exit = Exit::from(failure.kind);
            larder_daemon::tell_starter(Err(failure));
            exit
        }
    }
}

pub fn unmount(machine: Machine, args: &Unmount) -> Result<Exit, Failure> {
    let located = machine.locate_dir(args.dir.as_ref())?;
    let replica = &located.replica;
    let shown = replica.config.mount.display();
    match on_runtime(larder_daemon::unmount(replica, args.force))? {
        Unmounted::Ended { bytes_waiting } => {
            say::out(format_args!("Unmounted {shown}."));
            if bytes_waiting > 0 {
                say::warning(format_args!(
                    "{} are not stored yet, and only here. They will be after the next mount.",
                    units::size(bytes_waiting)
                ));
            }
        }
        Unmounted::DeadMount => say::out(format_args!(
            "Took a dead daemon's mount away from {shown}."
        )),
        Unmounted::Nothing => {
            return Err(Failure::new(
                FailureKind::Daemon,
                format!("No daemon runs for the volume at {shown}."),
            )
            .hint("`larder mount` starts one."));
        }
    }
    Ok(Exit::Done)
}

pub fn service(machine: Machine, command: &ServiceCommand) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let program = std::env::current_exe()
        .map_err(|e| Failure::failed(format!("This program's path cannot be told: {e}.")))?;
    let unit = ServiceUnit::for_mount(&located.replica, &program);
    match command {
        ServiceCommand::Show => say::raw(unit.text.as_bytes()),
        ServiceCommand::Install => {
            let path = unit.install()?;
            say::out(format_args!("Wrote {}.", path.display()));
            say::hint(format_args!(
                "`systemctl --user daemon-reload && systemctl --user enable --now {}` mounts the \
                 volume now and at each login.",
                unit.name
            ));
        }
    }
    Ok(Exit::Done)
}

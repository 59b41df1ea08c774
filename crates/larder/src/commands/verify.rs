//! `verify`: every hash, here and on the stores.

use larder_daemon::{DamageReport, Failure, Verify as VerifyOp, VerifyReport};

use super::{Machine, ask, tree_paths};
use crate::args::Verify;
use crate::exit::Exit;
use crate::{say, units};

pub fn run(machine: Machine, args: &Verify) -> Result<Exit, Failure> {
    let located = machine.locate(&args.paths)?;
    let verified = ask(
        &located,
        VerifyOp {
            paths: tree_paths(&located),
            stores: args.stores,
        },
    )?;
    match args.json {
        true => say::json(&verified)?,
        false => show(&verified),
    }
    let well = [&verified.damaged, &verified.missing, &verified.unknown]
        .iter()
        .all(|found| found.is_empty());
    Ok(Exit::look_if(!well))
}

fn show(verified: &VerifyReport) {
    say::out(format_args!(
        "Verified {} and {} of the stores, {}.",
        say::count(verified.files, "file"),
        say::count(verified.objects, "object"),
        units::size(verified.bytes)
    ));
    list("Damaged", &verified.damaged);
    list("Missing", &verified.missing);
    list("Could not be looked at", &verified.unknown);
    match (
        verified.damaged.len() + verified.missing.len(),
        verified.unknown.len(),
    ) {
        (0, 0) => say::out("Found no damage."),
        (0, _) => say::out("Found no damage in what could be looked at."),
        _ => {}
    }
}

fn list(title: &str, found: &[DamageReport]) {
    if !found.is_empty() {
        say::out(format_args!("{title}:"));
    }
    for one in found {
        let mended = if one.mended { " (fetched anew)" } else { "" };
        say::out(format_args!("  {}: {}{mended}", one.place, one.problem));
    }
}

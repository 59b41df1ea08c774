//! `pin` and `unpin`: what is always here.

use larder_daemon::{Failure, Pin};

use super::{Machine, ask, tree_paths};
use crate::args::Paths;
use crate::exit::Exit;
use crate::say;

pub fn run(machine: Machine, args: &Paths, pinned: bool) -> Result<Exit, Failure> {
    let located = machine.locate(&args.paths)?;
    let paths = tree_paths(&located);
    let report = ask(&located, Pin { paths, pinned })?;
    if args.json {
        say::json(&report)?;
        return Ok(Exit::Done);
    }
    let paths = say::count(report.changed, "path");
    match pinned {
        true => say::out(format_args!(
            "Pinned {paths}: the content stays here, or comes."
        )),
        false => say::out(format_args!(
            "Unpinned {paths}: the content may go when space is needed."
        )),
    }
    Ok(Exit::Done)
}

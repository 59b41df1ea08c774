//! `stash`: frees the space of what is stored for sure.

use larder_daemon::{Failure, Stash as StashOp, StashReport};

use super::{Machine, ask, say_kept, tree_paths};
use crate::args::Stash;
use crate::exit::Exit;
use crate::{say, units};

pub fn run(machine: Machine, args: &Stash) -> Result<Exit, Failure> {
    let located = machine.locate(&args.paths)?;
    let stashed = ask(
        &located,
        StashOp {
            paths: tree_paths(&located),
            older_than_secs: args.older_than.map(|age| age.as_secs()),
            dry_run: args.dry_run,
        },
    )?;
    match args.json {
        true => say::json(&stashed)?,
        false => show(&stashed),
    }
    Ok(Exit::look_if(!stashed.kept.is_empty()))
}

fn show(stashed: &StashReport) {
    let files = say::count(stashed.files, "file");
    let bytes = units::size(stashed.freed_bytes);
    say::out(match (stashed.dry_run, stashed.files) {
        (true, _) => format!("Would stash {files} and free {bytes}."),
        (false, 0) => "Nothing was stashed.".to_owned(),
        (false, _) => format!("Stashed {files} and freed {bytes}."),
    });
    if !stashed.kept.is_empty() {
        let kept = say::count(stashed.kept.len() as u64, "file");
        say::out(format_args!("Kept {kept}:"));
        say_kept(&stashed.kept);
    }
}

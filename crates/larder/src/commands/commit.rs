//! `commit`: a named state of the tree.

use larder_daemon::{Commit as CommitOp, CommitMade, Failure};

use super::{Machine, ask, tree_paths};
use crate::args::Commit;
use crate::exit::Exit;
use crate::say;

pub fn commit(machine: Machine, args: &Commit) -> Result<Exit, Failure> {
    let located = machine.locate(&args.paths)?;
    let (message, paths) = (args.message.clone(), tree_paths(&located));
    let commit = ask(&located, CommitOp { message, paths })?;
    match args.json {
        true => say::json(&commit)?,
        false => show(&commit),
    }
    Ok(Exit::look_if(!commit.still_changing.is_empty()))
}

fn show(commit: &CommitMade) {
    let id = short(&commit.id);
    match commit.n {
        0 => say::out(format_args!("Nothing changed since commit {id}")),
        n => say::out(format_args!("Made commit {n} {id}")),
    }
    if commit.files_local > 0 {
        say::warning(format_args!(
            "{} stay on this machine only, by a rule, and are in no commit. `local` in \
             config.toml and files named .larderignore hold the rules.",
            say::count(commit.files_local, "file")
        ));
    }
    for path in &commit.still_changing {
        say::warning(format_args!(
            "{path} kept changing; it is not in the commit as it is now."
        ));
    }
}

/// The start of an id, enough to tell commits apart.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

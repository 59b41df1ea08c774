//! `commit`: a named state of the tree.

use larder_daemon::{Commit as CommitOp, CommitMade, Failure, Sync as SyncOp, SyncReport};

use super::{Machine, ask};
use crate::args::{Commit, Sync};
use crate::exit::Exit;
use crate::say;

pub fn commit(machine: Machine, args: &Commit) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let message = args.message.clone();
    let commit = ask(&located, CommitOp { message })?;
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

/// Includes what other machines stored.
pub fn sync(machine: Machine, args: &Sync) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let allow_deletions = args.allow_deletions;
    let synced = ask(&located, SyncOp { allow_deletions })?;
    match args.json {
        true => say::json(&synced)?,
        false => show_synced(&synced),
    }
    Ok(Exit::look_if(
        !synced.left.is_empty() || !synced.conflicts.is_empty(),
    ))
}

fn show_synced(synced: &SyncReport) {
    match synced.commits {
        0 => say::out(format_args!("There is nothing new of other machines.")),
        commits => say::out(format_args!(
            "Took in {} of other machines, with {} here.",
            say::count(commits, "commit"),
            say::count(synced.changed, "change")
        )),
    }
    for path in &synced.conflicts {
        say::warning(format_args!(
            "{path} was changed on two machines: both versions are kept, side by side."
        ));
    }
    for left in &synced.left {
        say::warning(format_args!("{left}."));
    }
}

/// The start of an id, enough to tell commits apart.
pub fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

//! `commit` and `log`: named states of the tree.

use larder_daemon::{Commit as CommitOp, CommitMade, CommitReport, Failure, Log as LogOp};

use super::{Machine, ask};
use crate::args::{Commit, Log};
use crate::exit::Exit;
use crate::table::{Side, Table};
use crate::{say, units};

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

pub fn log(machine: Machine, args: &Log) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let commits = ask(&located, LogOp { limit: args.limit })?;
    if args.json {
        say::json(&commits)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[Side::Right, Side::Left, Side::Left, Side::Left]);
    for commit in &commits {
        table.row(row(commit));
    }
    table.lines().for_each(say::out);
    Ok(Exit::Done)
}

fn row(commit: &CommitReport) -> [String; 4] {
    let message = commit.message.as_deref().unwrap_or_default();
    let first_line = message.lines().next().unwrap_or_default();
    let text = match commit.stored {
        true => first_line.to_owned(),
        false => format!("(not stored yet) {first_line}"),
    };
    let id = short(&commit.id).to_owned();
    [commit.n.to_string(), id, units::time(commit.time), text]
}

/// The start of an id, enough to tell commits apart.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

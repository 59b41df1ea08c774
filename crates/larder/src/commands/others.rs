//! `sync`, `conflicts` and `resolve`: what other machines did.

use larder_daemon::{
    ConflictReport, Conflicts as ConflictsOp, Failure, Preview as PreviewOp, PreviewReport,
    Resolve as ResolveOp, ResolvedReport, Sync as SyncOp, SyncReport, VersionReport,
};

use super::past::changes;
use super::{Machine, ask, tree_paths};
use crate::args::{Json, Resolve, Sync};
use crate::exit::Exit;
use crate::table::{Side, Table};
use crate::{say, units};

/// Includes what other machines stored, or says what that would do.
pub fn sync(machine: Machine, args: &Sync) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    if args.dry_run {
        let preview = ask(&located, PreviewOp {})?;
        match args.json {
            true => say::json(&preview)?,
            false => show_preview(&preview),
        }
        return Ok(Exit::look_if(!preview.left.is_empty()));
    }
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
            "{path} was changed on two machines: both versions are kept, side by side. \
             `larder conflicts` lists them."
        ));
    }
    for left in &synced.left {
        say::warning(format_args!("{left}."));
    }
}

fn show_preview(preview: &PreviewReport) {
    match preview.coming.is_empty() {
        true => say::out(format_args!("There is nothing new of other machines.")),
        false => {
            say::out(format_args!("This would change here:"));
            changes(&preview.coming);
        }
    }
    for path in &preview.conflicts {
        say::warning(format_args!(
            "{path} was changed on two machines: both versions would be kept, side by side."
        ));
    }
    if !preview.going.is_empty() {
        say::out(format_args!("This would be stored:"));
        for path in &preview.going {
            say::out(format_args!("  {path}"));
        }
    }
    if preview.going_deleted > 0 {
        say::out(format_args!(
            "{} deleted here.",
            say::count(preview.going_deleted, "file")
        ));
    }
    for left in &preview.left {
        say::warning(format_args!("{left}."));
    }
}

/// Lists what stands side by side.
pub fn conflicts(machine: Machine, args: &Json) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let conflicts = ask(&located, ConflictsOp {})?;
    match args.json {
        true => say::json(&conflicts)?,
        false if conflicts.is_empty() => say::out(format_args!("There are no conflicts.")),
        false => conflicts.iter().for_each(show_conflict),
    }
    Ok(Exit::look_if(!conflicts.is_empty()))
}

fn show_conflict(conflict: &ConflictReport) {
    say::out(format_args!("{}", conflict.path));
    let mut table = Table::new(&[Side::Left, Side::Right, Side::Left, Side::Left]);
    for version in &conflict.versions {
        table.row([
            format!("  {}", version.letter),
            units::size(version.size_bytes),
            units::time(version.modified),
            place(version),
        ]);
    }
    table.lines().for_each(say::out);
}

fn place(version: &VersionReport) -> String {
    match (&version.replica, &version.day) {
        (Some(replica), Some(day)) => format!("{}, of {replica} on {day}", version.path),
        _ => version.path.to_string(),
    }
}

/// Ends a conflict.
pub fn resolve(machine: Machine, args: &Resolve) -> Result<Exit, Failure> {
    let located = machine.locate(std::slice::from_ref(&args.path))?;
    let Some(path) = tree_paths(&located).pop() else {
        return Err(Failure::usage("Say which file.".to_owned()));
    };
    let keep = args.keep;
    let resolved = ask(&located, ResolveOp { path, keep })?;
    match args.json {
        true => say::json(&resolved)?,
        false => show_resolved(&resolved),
    }
    Ok(Exit::Done)
}

fn show_resolved(resolved: &ResolvedReport) {
    for path in &resolved.kept {
        say::out(format_args!("Kept {path}"));
    }
    for path in &resolved.removed {
        say::out(format_args!(
            "Removed {path}; `larder undelete` or `larder restore` brings it back"
        ));
    }
}

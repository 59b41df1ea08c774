//! `log`, `show`, `diff`, `tag`, `restore` and `undelete`: the past of the tree.

use larder_daemon::{
    Change, ChangeReport, CommitReport, Diff as DiffOp, Failure, GiveTag, ListTags, Log as LogOp,
    LogOf, NodeKind, Restore as RestoreOp, RestoreReport, Show as ShowOp, TakeTagBack, When,
};

use super::commit::short;
use super::{Machine, ask, say_kept, tree_paths};
use crate::args::{Diff, Log, Restore, Show, Tag, Undelete};
use crate::exit::Exit;
use crate::table::{Side, Table};
use crate::{say, units};

pub fn log(machine: Machine, args: &Log) -> Result<Exit, Failure> {
    let located = machine.locate(args.path.as_slice())?;
    let limit = args.limit;
    let mut table = Table::new(&[Side::Right, Side::Left, Side::Left, Side::Left]);
    if let Some(path) = tree_paths(&located).pop() {
        let events = ask(&located, LogOf { path, limit })?;
        if args.json {
            say::json(&events)?;
            return Ok(Exit::Done);
        }
        for event in &events {
            let [n, id, time, text] = row(&event.commit);
            table.row([n, id, time, format!("{}  {text}", words(&event.change))]);
        }
        table.lines().for_each(say::out);
        return Ok(Exit::Done);
    }
    let log = ask(&located, LogOp { limit })?;
    if args.json {
        say::json(&log.commits)?;
    } else {
        for commit in &log.commits {
            table.row(row(commit));
        }
        table.lines().for_each(say::out);
    }
    if let Some(why) = log.cut {
        say::warning(format_args!("older commits cannot be shown: {why}"));
    }
    Ok(Exit::Done)
}

fn row(commit: &CommitReport) -> [String; 4] {
    let message = commit.message.as_deref().unwrap_or_default();
    let first_line = message.lines().next().unwrap_or_default();
    let names = match commit.tags.is_empty() {
        true => String::new(),
        false => format!("[{}] ", commit.tags.join(", ")),
    };
    let text = match commit.stored {
        true => format!("{names}{first_line}"),
        false => format!("{names}(not stored yet) {first_line}"),
    };
    let id = short(&commit.id).to_owned();
    [commit.n.to_string(), id, units::time(commit.time), text]
}

pub fn show(machine: Machine, args: &Show) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let commit = args.commit.clone();
    let diff = ask(&located, ShowOp { commit })?;
    if args.json {
        say::json(&diff)?;
        return Ok(Exit::Done);
    }
    let CommitReport { n, id, author, .. } = &diff.to;
    say::out(format_args!("Commit {n} {id}"));
    say::out(format_args!("By {author}, {}", units::time(diff.to.time)));
    if !diff.to.tags.is_empty() {
        say::out(format_args!("Named {}", diff.to.tags.join(", ")));
    }
    for line in diff.to.message.as_deref().unwrap_or_default().lines() {
        say::out(format_args!("    {line}"));
    }
    changes(&diff.changes);
    Ok(Exit::Done)
}

pub fn diff(machine: Machine, args: &Diff) -> Result<Exit, Failure> {
    let located = machine.locate(args.path.as_slice())?;
    let diff = ask(
        &located,
        DiffOp {
            from: args.from.clone(),
            to: args.to.clone().unwrap_or(When::Latest),
            path: tree_paths(&located).pop().unwrap_or_default(),
        },
    )?;
    match args.json {
        true => say::json(&diff)?,
        false => changes(&diff.changes),
    }
    Ok(Exit::Done)
}

pub fn tag(machine: Machine, args: &Tag) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    if let Some(name) = args.delete.clone() {
        let tag = ask(&located, TakeTagBack { name })?;
        match args.json {
            true => say::json(&tag)?,
            false => say::out(format_args!(
                "Commit {} is not named {} any more",
                short(&tag.commit),
                tag.name
            )),
        }
        return Ok(Exit::Done);
    }
    if let (Some(commit), Some(name)) = (args.commit.clone(), args.name.clone()) {
        let words = format!("is named {name} now");
        let commit = ask(&located, GiveTag { commit, name })?;
        match args.json {
            true => say::json(&commit)?,
            false => say::out(format_args!(
                "Commit {} {} {words}",
                commit.n,
                short(&commit.id)
            )),
        }
        return Ok(Exit::Done);
    }
    let tags = ask(&located, ListTags {})?;
    if args.json {
        say::json(&tags)?;
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&[Side::Left, Side::Left, Side::Left]);
    for tag in &tags {
        let time = tag.time.map(units::time).unwrap_or_default();
        table.row([tag.name.clone(), short(&tag.commit).to_owned(), time]);
    }
    table.lines().for_each(say::out);
    Ok(Exit::Done)
}

/// Prints what changed, a line each.
pub fn changes(changes: &[ChangeReport]) {
    let mut table = Table::new(&[Side::Left, Side::Right, Side::Left]);
    for change in changes {
        let size = match change.size_after.or(change.size_before) {
            Some(bytes) if change.kind == NodeKind::File => units::size(bytes),
            _ => String::new(),
        };
        table.row([verb(change).to_owned(), size, place(change)]);
    }
    table.lines().for_each(say::out);
}

fn words(change: &ChangeReport) -> String {
    format!("{} {}", verb(change), place(change))
}

fn verb(change: &ChangeReport) -> &'static str {
    match change.change {
        Change::Added => "added",
        Change::Removed => "deleted",
        Change::Content => "changed",
        Change::Moved => "moved",
        Change::Attributes => "attributes",
    }
}

fn place(change: &ChangeReport) -> String {
    match &change.from {
        Some(from) => format!("{} (was {from})", change.path),
        None => change.path.to_string(),
    }
}

pub fn restore(machine: Machine, args: &Restore) -> Result<Exit, Failure> {
    let mut paths = vec![args.path.clone()];
    paths.extend(args.to.clone());
    let located = machine.locate(&paths)?;
    let mut paths = tree_paths(&located).into_iter();
    let restored = ask(
        &located,
        RestoreOp {
            path: paths.next().unwrap_or_default(),
            at: Some(args.at.clone()),
            to: paths.next(),
        },
    )?;
    said(&restored, args.json)
}

pub fn undelete(machine: Machine, args: &Undelete) -> Result<Exit, Failure> {
    let located = machine.locate(std::slice::from_ref(&args.path))?;
    let restored = ask(
        &located,
        RestoreOp {
            path: tree_paths(&located).pop().unwrap_or_default(),
            at: None,
            to: None,
        },
    )?;
    said(&restored, args.json)
}

fn said(restored: &RestoreReport, json: bool) -> Result<Exit, Failure> {
    if json {
        say::json(restored)?;
    } else {
        say::out(summary(restored));
        if !restored.kept.is_empty() {
            say::out("Could not bring back:");
            say_kept(&restored.kept);
        }
    }
    Ok(Exit::look_if(!restored.kept.is_empty()))
}

fn summary(restored: &RestoreReport) -> String {
    let RestoreReport { commit, path, .. } = restored;
    let when = format!("commit {} of {}", commit.n, units::time(commit.time));
    if restored.files + restored.directories == 0 && restored.kept.is_empty() {
        return format!("{path} is as it was in {when}.");
    }
    let files = say::count(restored.files, "file");
    let directories = match restored.directories {
        0 => String::new(),
        n => format!(" and {}", say::count(n, "directory")),
    };
    let size = units::size(restored.bytes);
    format!("Brought back {files}{directories} as in {when}: {path}, {size}.")
}

#[cfg(test)]
mod tests {
    use larder_daemon::TreePath;

    use super::*;

    #[test]
    fn what_came_back_is_said_in_one_sentence() {
        let commit = CommitReport {
            n: 7,
            id: String::new(),
            time: 0,
            message: None,
            stored: true,
            author: String::new(),
            tags: Vec::new(),
        };
        let mut restored = RestoreReport {
            commit,
            path: TreePath(b"photos".to_vec()),
            files: 2,
            directories: 1,
            bytes: 2048,
            same: 3,
            kept: Vec::new(),
        };
        let words = summary(&restored);
        assert!(words.starts_with("Brought back 2 files and 1 directory as in commit 7 of "));
        assert!(words.ends_with(": photos, 2.0 KiB."), "{words}");
        (restored.files, restored.directories) = (0, 0);
        assert!(summary(&restored).starts_with("photos is as it was in commit 7"));
    }
}

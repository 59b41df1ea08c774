//! `history` and `collect`: how much of the past is kept, and what is deleted for it.

use larder_daemon::{
    ByteSize, Collect as CollectOp, CollectReport, Failure, History as HistoryOp, HistoryReport,
    Keep as KeepOp, Periods, show_time,
};

use super::commit::short;
use super::{Machine, ask};
use crate::args::{Collect, History, HistoryCommand, Keep, KeepCount};
use crate::exit::Exit;
use crate::say;

pub fn history(machine: Machine, args: &History) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let history = match &args.command {
        None => ask(&located, HistoryOp {})?,
        Some(HistoryCommand::Keep(keep)) => {
            let keep = periods(keep);
            ask(&located, KeepOp { keep })?
        }
    };
    match args.json {
        true => say::json(&history)?,
        false => show(&history),
    }
    Ok(Exit::Done)
}

fn periods(keep: &Keep) -> Option<Periods> {
    let count = |count: Option<KeepCount>| match count {
        None => Some(0),
        Some(KeepCount::All) => None,
        Some(KeepCount::Newest(n)) => Some(n),
    };
    (!keep.everything).then(|| Periods {
        hourly: count(keep.hourly),
        daily: count(keep.daily),
        weekly: count(keep.weekly),
        monthly: count(keep.monthly),
    })
}

fn show(history: &HistoryReport) {
    let Some(keep) = history.keep else {
        return say::out("All commits are kept.");
    };
    let rules = [
        (keep.hourly, "hour"),
        (keep.daily, "day"),
        (keep.weekly, "week"),
        (keep.monthly, "month"),
    ];
    say::out("Kept are the newest commit of each machine, those with a message, and the last of");
    for (count, period) in rules {
        match count {
            Some(0) => {}
            Some(1) => say::out(format_args!("  the newest {period}")),
            Some(n) => say::out(format_args!("  each of the newest {n} {period}s")),
            None => say::out(format_args!("  each {period}")),
        }
    }
    say::out("`larder collect` deletes from the store what only other commits need.");
}

pub fn collect(machine: Machine, args: &Collect) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let dry_run = args.dry_run;
    let done = ask(&located, CollectOp { dry_run })?;
    match args.json {
        true => say::json(&done)?,
        false => show_collected(&done),
    }
    Ok(Exit::Done)
}

fn show_collected(done: &CollectReport) {
    let (verb, size) = (if done.dry_run { "Would give" } else { "Gave" }, ByteSize);
    say::out(format_args!(
        "{verb} up {}; {} kept.",
        say::count(done.commits_given_up, "commit"),
        match done.commits_kept {
            1 => "1 is".to_owned(),
            n => format!("{n} are"),
        }
    ));
    if done.packs_let_off > 0 {
        say::out(format_args!(
            "{} are needed again.",
            say::count(done.packs_let_off, "pack")
        ));
    }
    if !done.dry_run {
        say::out(format_args!(
            "Deleted {} with {}.",
            say::count(done.packs_deleted, "pack"),
            size(done.bytes_deleted)
        ));
    }
    if done.packs_condemned > 0 {
        let verb = match done.dry_run {
            true => "would be condemned",
            false => "are condemned",
        };
        say::out(format_args!(
            "{} with {} {verb}: nothing that is kept needs them.",
            say::count(done.packs_condemned, "pack"),
            size(done.bytes_condemned)
        ));
    }
    if done.waiting.is_empty() {
        return;
    }
    say::out("They are deleted by a later `larder collect`, when these machines know of it:");
    for waiting in &done.waiting {
        say::out(format_args!(
            "  {}  last heard of {}",
            short(&waiting.replica),
            show_time(waiting.heard)
        ));
    }
}

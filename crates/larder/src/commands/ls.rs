//! `ls`: the true size and time of files, and how much of each is here.

use larder_daemon::{EntryReport, Failure, List, NodeKind, Presence};

use super::{Machine, ask, tree_paths};
use crate::args::Ls;
use crate::exit::Exit;
use crate::table::{Side, Table};
use crate::{say, units};

pub fn run(machine: Machine, args: &Ls) -> Result<Exit, Failure> {
    let located = match args.paths.is_empty() {
        // The current directory if it is in a volume, else the only volume's root.
        true => machine
            .locate(std::slice::from_ref(&machine.cwd))
            .or_else(|_| machine.locate(&[]))?,
        false => machine.locate(&args.paths)?,
    };
    let mut paths = tree_paths(&located);
    if paths.is_empty() {
        paths.push(Default::default());
    }
    let entries = ask(
        &located,
        List {
            paths,
            recursive: args.recursive,
            directory: args.directory,
        },
    )?;
    if args.json {
        say::json(&entries)?;
    } else if args.long {
        long(&entries).iter().for_each(say::out);
    } else {
        entries.iter().for_each(|entry| say::out(&entry.path));
    }
    Ok(Exit::Done)
}

fn long(entries: &[EntryReport]) -> Vec<String> {
    let mut table = Table::new(&[
        Side::Left,
        Side::Right,
        Side::Left,
        Side::Left,
        Side::Right,
        Side::Left,
    ]);
    for entry in entries {
        table.row([
            mode(entry),
            entry.size_bytes.to_string(),
            units::time(entry.modified),
            state(entry),
            stores(entry),
            name(entry),
        ]);
    }
    table.lines().collect()
}

fn mode(entry: &EntryReport) -> String {
    let kind = match entry.kind {
        NodeKind::File => '-',
        NodeKind::Directory => 'd',
        NodeKind::Symlink => 'l',
        NodeKind::Fifo => 'p',
        NodeKind::Socket => 's',
        NodeKind::CharDevice => 'c',
        NodeKind::BlockDevice => 'b',
    };
    let bit = |bit: u32, letter: char| if entry.mode & bit != 0 { letter } else { '-' };
    let run = |run: u32, set: u32, both: char| match (entry.mode & set != 0, entry.mode & run != 0)
    {
        (true, true) => both,
        (true, false) => both.to_ascii_uppercase(),
        (false, true) => 'x',
        (false, false) => '-',
    };
    [
        kind,
        bit(0o400, 'r'),
        bit(0o200, 'w'),
        run(0o100, 0o4000, 's'),
        bit(0o040, 'r'),
        bit(0o020, 'w'),
        run(0o010, 0o2000, 's'),
        bit(0o004, 'r'),
        bit(0o002, 'w'),
        run(0o001, 0o1000, 't'),
    ]
    .into_iter()
    .collect()
}

/// `here`, `part` or `away`, and what else is to be known.
fn state(entry: &EntryReport) -> String {
    let presence = match entry.presence {
        _ if entry.kind != NodeKind::File => "-",
        Presence::Here => "here",
        Presence::Part => "part",
        Presence::Away => "away",
    };
    let marks = [
        (entry.dirty, "dirty"),
        (entry.pinned, "pinned"),
        (entry.local, "local"),
    ];
    let said = marks.iter().filter(|(is, _)| *is).map(|(_, word)| *word);
    std::iter::once(presence)
        .chain(said)
        .collect::<Vec<_>>()
        .join(",")
}

fn stores(entry: &EntryReport) -> String {
    match entry.kind {
        NodeKind::File => entry.stores.to_string(),
        _ => "-".into(),
    }
}

fn name(entry: &EntryReport) -> String {
    match &entry.target {
        Some(target) => format!("{} -> {target}", entry.path),
        None => entry.path.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use larder_daemon::TreePath;

    use super::*;

    fn entry(kind: NodeKind, mode: u32) -> EntryReport {
        EntryReport {
            path: TreePath(b"a".to_vec()),
            kind,
            mode,
            links: 1,
            uid: 0,
            gid: 0,
            size_bytes: 5,
            modified: 0,
            presence: Presence::Part,
            bytes_here: 2,
            dirty: true,
            pinned: true,
            local: false,
            stores: 1,
            target: None,
        }
    }

    #[test]
    fn modes_look_as_in_ls() {
        for (kind, bits, text) in [
            (NodeKind::File, 0o644, "-rw-r--r--"),
            (NodeKind::Directory, 0o1777, "drwxrwxrwt"),
            (NodeKind::File, 0o6750, "-rwsr-s---"),
            (NodeKind::File, 0o4640, "-rwSr-----"),
            (NodeKind::Symlink, 0o777, "lrwxrwxrwx"),
        ] {
            assert_eq!(mode(&entry(kind, bits)), text);
        }
    }

    #[test]
    fn the_state_says_how_much_is_here_and_why_it_stays() {
        assert_eq!(state(&entry(NodeKind::File, 0)), "part,dirty,pinned");
        assert_eq!(state(&entry(NodeKind::Directory, 0)), "-,dirty,pinned");
    }
}

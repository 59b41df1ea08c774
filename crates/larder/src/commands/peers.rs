//! `invite`, `join` and `peers`: other machines of the volume, met directly.

use std::io::Read;
use std::time::{Duration, SystemTime};

use larder_daemon::{
    Failure, Home, Invite as InviteOp, ListPeers, PeerReport, join as bring, read_ticket,
};

use super::setup::{about_stores, say_opened, wanted};
use super::{Machine, ask, on_runtime};
use crate::args::{Invite, Join, Json};
use crate::exit::Exit;
use crate::say::{self, Bar};
use crate::table::{Side, Table};
use crate::units;

/// A ticket is shorter.
const TICKET_MAX_BYTES: u64 = 64 << 10;

pub fn invite(machine: Machine, args: &Invite) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let good_for_secs = args.good_for.as_secs();
    let made = ask(&located, InviteOp { good_for_secs })?;
    if args.json {
        say::json(&made)?;
    } else {
        say::out(&made.ticket);
    }
    say::warning(format_args!(
        "Whoever has this ticket can read and change the whole volume. It is good once, until {}.",
        units::time(made.expires)
    ));
    say::hint(format_args!(
        "On the other machine: larder join TICKET DIR. It meets this one at {}, and gets content \
         from {}.",
        made.addresses.join(" or "),
        made.store
    ));
    Ok(Exit::Done)
}

pub fn join(args: &Join) -> Result<Exit, Failure> {
    let home = Home::from_env()?;
    let ticket = match args.ticket.as_str() {
        "-" => read_ticket(&from_input()?)?,
        text => read_ticket(text)?,
    };
    let store = args.store.as_ref().unwrap_or(&ticket.store);
    let wanted = wanted(&args.dir, store, args.budget, &args.reach).checked(&home)?;
    let bar = Bar::new();
    let opened = on_runtime(bring(&home, wanted, &ticket, &|progress| {
        bar.report(progress);
    }));
    drop(bar);
    say_opened(&opened.map_err(about_stores)?, args.json)
}

fn from_input() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .take(TICKET_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| Failure::failed(format!("Standard input cannot be read: {error}.")))?;
    Ok(text)
}

pub fn list(machine: Machine, args: &Json) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let known = ask(&located, ListPeers {})?;
    if args.json {
        say::json(&known)?;
        return Ok(Exit::Done);
    }
    if known.is_empty() {
        say::out("No other machine is known.");
        say::hint("`larder invite` prints a ticket for one.");
        return Ok(Exit::Done);
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    lines(&known, now).iter().for_each(say::out);
    Ok(Exit::Done)
}

fn lines(known: &[PeerReport], now: Duration) -> Vec<String> {
    let mut table = Table::new(&[Side::Left, Side::Left, Side::Left, Side::Left]);
    for peer in known {
        let id = peer.replica.get(..8).unwrap_or_default();
        let name = match peer.name.as_str() {
            "" => "?".to_owned(),
            name => name.to_owned(),
        };
        table.row([id.to_owned(), name, presence(peer, now), newest(peer)]);
    }
    let mut lines: Vec<String> = table.lines().collect();
    let failed = known.iter().filter_map(|peer| {
        let error = peer.last_error.as_ref()?;
        let id = peer.replica.get(..8).unwrap_or_default();
        Some(format!("{id}: {error}"))
    });
    lines.extend(failed);
    lines
}

fn presence(peer: &PeerReport, now: Duration) -> String {
    if peer.here {
        let at = peer.addresses.first().map_or("", String::as_str);
        return format!("here, at {at}");
    }
    let seen = peer.last_seen.and_then(|seen| u64::try_from(seen).ok());
    match seen.map(Duration::from_nanos) {
        Some(seen) => format!(
            "seen {} ago",
            units::secs(now.saturating_sub(seen).as_secs())
        ),
        None => "never met".to_owned(),
    }
}

fn newest(peer: &PeerReport) -> String {
    match (peer.newest, peer.included) {
        (None, _) => "stored nothing yet".to_owned(),
        (Some(n), true) => format!("its commit {n} is included here"),
        (Some(n), false) => format!("its commit {n} is not included here yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(id: &str, name: &str) -> PeerReport {
        PeerReport {
            replica: id.repeat(32),
            name: name.to_owned(),
            here: false,
            last_seen: None,
            newest: None,
            included: true,
            addresses: vec!["192.168.1.7:4242".to_owned()],
            round_trip_secs: None,
            bytes_from: 0,
            bytes_to: 0,
            last_error: None,
        }
    }

    #[test]
    fn it_is_said_who_is_here_and_what_of_them_is_not() {
        let known = [
            PeerReport {
                here: true,
                newest: Some(7),
                included: false,
                ..peer("ab", "laptop")
            },
            PeerReport {
                last_seen: Some(1_000_000_000_000),
                newest: Some(3),
                last_error: Some("it does not answer".to_owned()),
                ..peer("cd", "desktop")
            },
            peer("ef", ""),
        ];
        let text = lines(&known, Duration::from_secs(1060)).join("\n");
        let expected = "\
abababab  laptop   here, at 192.168.1.7:4242  its commit 7 is not included here yet
cdcdcdcd  desktop  seen 1m ago                its commit 3 is included here
efefefef  ?        never met                  stored nothing yet
cdcdcdcd: it does not answer";
        assert_eq!(text, expected);
    }
}

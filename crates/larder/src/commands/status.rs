//! `status`: what is here, what waits, how the stores are.

use std::io::IsTerminal;
use std::time::Duration;

use larder_daemon::{Failure, Session, Status as StatusOp, StatusReport, StoreReport};

use super::{Machine, on_runtime};
use crate::args::Status;
use crate::exit::Exit;
use crate::table::{Side, Table};
use crate::{say, units};

pub fn run(machine: Machine, args: &Status) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    on_runtime(async {
        loop {
            // Anew each time: a daemon may come or go while it is watched.
            let session = Session::start(&located.replica).await?;
            let status = session.ask(StatusOp {}, &|_| {}).await;
            let ended = session.end().await;
            show(&status?, args)?;
            ended?;
            if !args.watch {
                return Ok(Exit::Done);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
}

fn show(status: &StatusReport, args: &Status) -> Result<(), Failure> {
    match (args.json, args.watch) {
        (true, true) => return say::json_line(status),
        (true, false) => return say::json(status),
        (false, true) if std::io::stdout().is_terminal() => {
            // Home, and clear what was there.
            say::raw(b"\x1b[H\x1b[2J");
        }
        _ => {}
    }
    lines(status).iter().for_each(say::out);
    status.warnings.iter().for_each(say::warning);
    Ok(())
}

fn lines(status: &StatusReport) -> Vec<String> {
    let state = match (status.mounted, status.daemon_pid) {
        (true, Some(pid)) => format!("mounted, daemon {pid}"),
        _ => "not mounted".to_owned(),
    };
    let mut table = Table::new(&[Side::Left, Side::Right, Side::Left]);
    table.row([
        "All".into(),
        units::size(status.bytes_all),
        format!(
            "in {} and {}",
            say::count(status.files, "file"),
            say::count(status.directories, "directory")
        ),
    ]);
    table.row([
        "Here".into(),
        units::size(status.bytes_here),
        // Small files take more of it than they have bytes.
        format!(
            "on this disk, of a budget of {}",
            units::size(status.budget_bytes)
        ),
    ]);
    table.row([
        "Waiting".into(),
        units::size(status.bytes_waiting),
        waiting(status),
    ]);
    if status.files_local > 0 {
        table.row([
            "Local".into(),
            units::size(status.bytes_local),
            format!(
                "in {} that a rule keeps on this machine only",
                say::count(status.files_local, "file")
            ),
        ]);
    }
    if status.conflicts > 0 {
        table.row([
            "Conflicts".into(),
            status.conflicts.to_string(),
            "changed on two machines; `larder conflicts` lists them".into(),
        ]);
    }
    let mut lines = vec![format!(
        "Volume {} at {}",
        status.volume,
        status.mount.display()
    )];
    lines.push(format!("{}\n", capital(&state)));
    lines.extend(table.lines());
    lines.push(String::new());
    lines.extend(status.stores.iter().map(store));
    lines
}

fn waiting(status: &StatusReport) -> String {
    if status.files_waiting == 0 && status.bytes_waiting == 0 {
        return match status.files_local {
            0 => "all is stored".into(),
            _ => "all else is stored".into(),
        };
    }
    let mut text = format!(
        "to be stored, in {}",
        say::count(status.files_waiting, "file")
    );
    if status.upload_bytes_per_sec > 0 {
        text += &format!(", {}/s", units::size(status.upload_bytes_per_sec));
    }
    if let Some(left) = status.left_secs {
        text += &format!(", {} left", units::secs(left));
    }
    text
}

fn store(store: &StoreReport) -> String {
    let state = match (store.reachable, &store.last_error) {
        (true, _) => "reachable".to_owned(),
        (false, Some(error)) => {
            let address = format!("{}: ", store.address);
            let error = error.strip_prefix(&address).unwrap_or(error);
            format!("not reachable: {error}")
        }
        (false, None) => "not reachable".to_owned(),
    };
    let speed = |name: &str, bytes| match bytes {
        0 => String::new(),
        bytes => format!(", {name} {}/s", units::size(bytes)),
    };
    let to = speed("to it", store.upload_bytes_per_sec);
    let from = speed("from it", store.download_bytes_per_sec);
    let waiting = match store.bytes_waiting {
        0 => String::new(),
        bytes => format!(", {} waiting", units::size(bytes)),
    };
    format!("Store {}: {state}{waiting}{to}{from}", store.address)
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> StatusReport {
        StatusReport {
            volume: "ab".repeat(16),
            mount: "/home/me/Larder".into(),
            mounted: true,
            daemon_pid: Some(7),
            files: 1,
            directories: 2,
            bytes_all: 5 << 30,
            bytes_here: 1 << 30,
            bytes_waiting: 300 << 20,
            files_waiting: 12,
            bytes_local: 0,
            files_local: 0,
            budget_bytes: 20 << 30,
            upload_bytes_per_sec: 10 << 20,
            left_secs: Some(30),
            stores: vec![StoreReport {
                address: "sftp://nas/x".into(),
                reachable: false,
                last_error: Some("sftp://nas/x: it does not answer".into()),
                bytes_waiting: 300 << 20,
                upload_bytes_per_sec: 0,
                download_bytes_per_sec: 1 << 20,
                left_secs: None,
            }],
            warnings: vec![],
            uncommitted_nodes: 3,
            conflicts: 0,
        }
    }

    #[test]
    fn the_status_says_what_is_here_what_waits_and_for_how_long() {
        let text = lines(&status()).join("\n");
        let expected = "\
Volume abababababababababababababababab at /home/me/Larder
Mounted, daemon 7

All      5.0 GiB  in 1 file and 2 directories
Here     1.0 GiB  on this disk, of a budget of 20 GiB
Waiting  300 MiB  to be stored, in 12 files, 10 MiB/s, 30s left

Store sftp://nas/x: not reachable: it does not answer, 300 MiB waiting, from it 1.0 MiB/s";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_stored_is_said_to_be() {
        let status = StatusReport {
            bytes_waiting: 0,
            files_waiting: 0,
            ..status()
        };
        assert_eq!(waiting(&status), "all is stored");
    }

    #[test]
    fn what_a_rule_keeps_here_is_never_passed_over() {
        let status = StatusReport {
            bytes_waiting: 0,
            files_waiting: 0,
            bytes_local: 57 << 10,
            files_local: 4,
            ..status()
        };
        let text = lines(&status).join("\n");
        assert!(text.contains("all else is stored"), "{text}");
        let line = "Local     57 KiB  in 4 files that a rule keeps on this machine only";
        assert!(text.contains(line), "{text}");
    }
}

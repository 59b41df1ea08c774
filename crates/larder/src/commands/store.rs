//! `store list` and `store check`.

use larder_daemon::{Failure, StoreCheck, check_store};

use super::{Machine, on_runtime};
use crate::args::StoreCommand;
use crate::exit::Exit;
use crate::say;
use crate::table::{Side, Table};

pub fn run(machine: Machine, command: &StoreCommand) -> Result<Exit, Failure> {
    let located = machine.locate(&[])?;
    let config = &located.replica.config.store;
    match command {
        StoreCommand::List(args) => {
            match args.json {
                true => say::json(&[serde_json::json!({ "address": config.address })])?,
                false => say::out(&config.address),
            }
            Ok(Exit::Done)
        }
        StoreCommand::Check(args) => {
            let check = on_runtime(check_store(&located.replica))?;
            match args.json {
                true => say::json(&[&check])?,
                false => show(&check),
            }
            Ok(match check.works {
                true => Exit::Done,
                false => Exit::Store,
            })
        }
    }
}

fn show(check: &StoreCheck) {
    say::out(format_args!("Store {}", check.address));
    let mut table = Table::new(&[Side::Left, Side::Right, Side::Left]);
    for step in &check.steps {
        let time = format!("{:.1} ms", step.took_secs * 1e3);
        let outcome = step.failure.clone().unwrap_or_else(|| "ok".into());
        table.row([format!("  {}", step.what), time, outcome]);
    }
    table.lines().for_each(say::out);
    if check.works && !check.synced {
        say::warning(
            "The store does not say that what it took is on its disk; a power cut there may lose it.",
        );
    }
}

//! `checkout`: brings content back.

use larder_daemon::{Checkout as CheckoutOp, CheckoutReport, Failure};

use super::{Machine, ask, say_kept, tree_paths};
use crate::args::Checkout;
use crate::exit::Exit;
use crate::{say, units};

pub fn run(machine: Machine, args: &Checkout) -> Result<Exit, Failure> {
    let located = machine.locate(&args.paths)?;
    let paths = tree_paths(&located);
    let brought = ask(&located, CheckoutOp { paths })?;
    if args.json {
        say::json(&brought)?;
    } else {
        say::out(words(&brought));
        if !brought.failed.is_empty() {
            let failed = say::count(brought.failed.len() as u64, "file");
            say::out(format_args!("Could not bring {failed}:"));
            say_kept(&brought.failed);
            say::hint("The same command goes on where this one stopped.");
        }
    }
    Ok(match brought.cut {
        true => Exit::Store,
        false => Exit::look_if(!brought.failed.is_empty()),
    })
}

fn words(brought: &CheckoutReport) -> String {
    if brought.files == 0 && brought.failed.is_empty() {
        return "All is here already.".into();
    }
    format!(
        "Brought {}, {}.",
        say::count(brought.files, "file"),
        units::size(brought.fetched_bytes)
    )
}

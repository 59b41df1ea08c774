//! `larder`: words, tables, exit codes. All else is the daemon's room and below.

mod args;
mod commands;
mod exit;
mod passphrase;
mod say;
mod table;
mod topics;
mod units;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Larder;
use crate::exit::Exit;

fn main() -> ExitCode {
    larder_daemon::give_back_what_is_free();
    if let Some(topic) = topics::asked_for(std::env::args_os()) {
        say::out(format_args!("{}\n\n{}", topic.title, topic.text.trim_end()));
        return Exit::Done.into();
    }
    let larder = Larder::parse();
    match commands::run(larder) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            say::failure(&failure);
            Exit::from(failure.kind).into()
        }
    }
}

//! Leaving the terminal: the program starts itself again, detached, and waits for a line
//! that says that the daemon is ready, or why it is not.
//!
//! The line is an [`Event`] on the new process's standard output, a pipe. A process that
//! ends without it died.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::wire::Event;

/// What a daemon says when it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its process.
    pub pid: u32,
    /// What the user should know, each a sentence.
    pub notes: Vec<String>,
}

/// Starts this program with `args` as a process that outlives its terminal, and waits until
/// it is ready.
///
/// # Errors
/// What the new process says, or that it died.
pub fn start_detached(args: &[OsString]) -> Result<Ready, Failure> {
    let not_started =
        |e: std::io::Error| Failure::failed(format!("The daemon could not be started: {e}."));
    let program = std::env::current_exe().map_err(not_started)?;
    let mut child = Command::new(program)
        .args(args)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(not_started)?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        BufReader::new(pipe)
            .read_line(&mut line)
            .map_err(not_started)?;
    }
    match serde_json::from_str(&line) {
        Ok(Event::Done(ready)) => Ok(ready),
        Ok(Event::Failed(failure)) => {
            let _ = child.wait();
            Err(failure)
        }
        _ => {
            let end = child.wait().map_err(not_started)?;
            Err(
                Failure::failed(format!("The daemon ended before it was ready ({end})."))
                    .hint("Its log is in the state directory; `--foreground` shows what happens."),
            )
        }
    }
}

/// Leaves the terminal's session, so that closing the terminal does not reach this process.
pub fn leave_session() {
    // It fails only for a process that leads its group, which one started by `start_detached` does not.
    let _ = rustix::process::setsid();
}

/// Tells the process that waits in [`start_detached`].
pub fn tell_starter(outcome: Result<Ready, Failure>) {
    let event = match outcome {
        Ok(ready) => Event::Done(ready),
        Err(failure) => Event::Failed(failure),
    };
    if let Ok(line) = serde_json::to_string(&event) {
        // Nobody may wait any more; the daemon serves all the same.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
}

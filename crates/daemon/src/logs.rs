//! The daemon's log: `log/larder.<date>.log` in the state directory, a file a day, the last
//! seven kept. Quiet unless something is wrong; `LARDER_LOG` (as `debug`, or
//! `larder_store=trace,info`) says more. Panics are logged too.

use std::path::{Path, PathBuf};

use tracing_appender::non_blocking::WorkerGuard;
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;
use crate::home::private_dir;

const KEPT_FILES: usize = 7;
const FILTER_VARIABLE: &str = "LARDER_LOG";
/// Of mDNS only what is broken: without a network it warns every few seconds.
const QUIET: &str = "warn,larder_daemon=info,swarm_discovery=error";

/// Writes what is left when dropped.
#[derive(Debug)]
#[must_use]
pub struct LogGuard(#[expect(dead_code, reason = "held, never read")] WorkerGuard);

/// The directory of a replica's logs.
pub fn log_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("log")
}

/// Logs into the files of `state_dir` from now on.
///
/// # Errors
/// If the log cannot be written, or `LARDER_LOG` makes no sense.
pub fn log_to_files(state_dir: &Path) -> Result<LogGuard, Failure> {
    let dir = log_dir(state_dir);
    private_dir(&dir)?;
    let files = RollingFileAppender::builder()
        .rotation(Rotation::DAILY)
        .filename_prefix("larder")
        .filename_suffix("log")
        .max_log_files(KEPT_FILES)
        .build(&dir)
        .map_err(|e| Failure::io("write a log in", &dir, e))?;
    let (writer, guard) = tracing_appender::non_blocking(files);
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(QUIET)?)
        .with_ansi(false)
        .with_writer(writer);
    // A second subscriber cannot be set: a process runs one daemon.
    let _ = log.try_init();
    log_panics();
    Ok(LogGuard(guard))
}

/// Logs to the terminal, for commands and the foreground; nothing unless `LARDER_LOG` is set.
///
/// # Errors
/// If `LARDER_LOG` makes no sense.
pub fn log_to_terminal() -> Result<(), Failure> {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter("off")?)
        .with_writer(std::io::stderr);
    let _ = log.try_init();
    Ok(())
}

fn filter(default: &str) -> Result<EnvFilter, Failure> {
    let text = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let text = if text.is_empty() { default } else { &text };
    EnvFilter::builder().parse(text).map_err(|e| {
        Failure::usage(format!("{FILTER_VARIABLE}={text} makes no sense: {e}."))
            .hint("Write a level (error, warn, info, debug, trace) or part=level,...")
    })
}

fn log_panics() {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "a thread ended in a panic");
        earlier(panic);
    }));
}

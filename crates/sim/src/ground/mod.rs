//! The ground that the real code stands on: its clock, its threads, its chance.
//!
//! The code that is tested is not changed for it. This crate has functions of the C library's names
//! (`calls`), and who is linked with it calls them: so clocks show simulated time, random bytes come
//! from the seed, and a thread that waits gives its turn to another (`turns`). What is not simulated
//! (every thread before [`begin`]) gets the real thing.

#[allow(unsafe_code, reason = "the C library's functions have C's types")]
mod calls;
mod dice;
mod turns;

pub use dice::Dice;
pub use turns::{
    Nanos, act_on, between, keep_trace, kept_trace, kill, now, set_clock, trace, trace_hash,
    turns_taken,
};

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// The exit code of a run that cannot go on.
pub const STUCK: i32 = 3;

/// From now on this thread is simulated, and all that it starts.
pub fn begin(seed: u64) {
    calls::stay_on_one(seed);
    turns::begin(seed);
}

/// Starts this program again, once, so that memory lies at the same addresses in each run: by these the
/// library of locks finds them. Its words are one of a fixed length then. Where a sandbox refuses that,
/// runs of one seed may differ.
pub fn fix_addresses() {
    if calls::fix_addresses()
        && let Ok(program) = std::env::current_exe()
    {
        let words: Vec<_> = std::env::args().skip(1).collect();
        let words = format!("{:4096}", words.join(" "));
        let failed = Command::new(program).arg0("larder-sim").arg(words).exec();
        end(&format!("the program does not start again: {failed}"));
    }
}

/// Closes all files below a directory that threads have open who were killed, as the kernel does when
/// a process ends.
pub fn close_below(directory: &Path) {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let mut below = Vec::new();
    for entry in open.flatten() {
        let is_below = std::fs::read_link(entry.path()).is_ok_and(|to| to.starts_with(directory));
        if let (true, Ok(number)) = (is_below, entry.file_name().to_string_lossy().parse()) {
            below.push(number);
        }
    }
    for descriptor in below {
        calls::close_orphan(descriptor);
    }
}

/// Ends the process at once: the run cannot go on.
pub fn end(why: &str) -> ! {
    let _ = writeln!(std::io::stderr(), "stuck: {why}");
    calls::exit_now(STUCK)
}

/// Ends the process at once, whatever its threads are at.
pub fn exit(code: i32) -> ! {
    let _ = std::io::stdout().flush();
    calls::exit_now(code)
}

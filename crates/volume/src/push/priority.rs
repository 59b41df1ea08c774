//! Stepping behind the user's own work.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Between 0 (as everyone) and 19 (last). The kernel's I/O priority follows it.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 12;

/// Gives the calling thread, and it alone, a low priority for the processor and the disk.
pub(super) fn step_behind() {
    // On Linux "this process" (no pid) means the calling thread.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "could not lower the priority of storing");
    }
}

/// The processor time that the calling thread has used; none where the kernel does not say.
pub(super) fn cpu_used() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

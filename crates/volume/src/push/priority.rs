//! Stepping behind the user's own work.

use std::time::Duration;

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

/// The processor time that the calling thread has used.
pub(super) fn cpu_used() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(used.tv_sec).unwrap_or(0),
        u32::try_from(used.tv_nsec).unwrap_or(0),
    )
}

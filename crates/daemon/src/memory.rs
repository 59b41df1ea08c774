//! How the C library's allocator treats memory that is free again.
//!
//! A pack is 16 MiB, and packs are made, sent and read by many threads. Left alone, glibc has
//! eight heaps for each core and keeps in them whatever was freed: a daemon with 120 MiB at
//! most in use held 330 MiB after it had stored and read a gigabyte.

#![allow(
    unsafe_code,
    reason = "no crate here has a safe call for the allocator"
)]

/// So many heaps: one for the threads that wait for others, and one more.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: libc::c_int = 2;
/// What is larger goes back to the system as soon as it is free: packs, and the pieces of
/// them that are on the line. Kept, those of many threads take as much again in gaps.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 128 << 10;

/// Makes this process give memory back. To be called before it has threads.
pub fn give_back_what_is_free() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: two numbers are set, before any other thread could allocate.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
    }
}

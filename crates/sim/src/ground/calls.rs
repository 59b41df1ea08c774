//! The functions of the C library that a simulated thread does not get as they are.
//!
//! Each does the real thing for a thread that is not simulated.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use libc::{
    CLOCK_BOOTTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_COARSE, CLOCK_MONOTONIC_RAW, CLOCK_REALTIME,
    CLOCK_REALTIME_COARSE, ETIMEDOUT, epoll_event, pthread_attr_t, pthread_mutex_t, pthread_t,
    size_t, ssize_t, timespec, timeval,
};

use super::turns::{self, Nanos, Woken};

/// The number of malloc's option of that name; the crate `libc` does not have it.
const M_ARENA_MAX: c_int = -8;
const SECOND: u64 = 1_000_000_000;

/// The function of this name that would be called without this crate.
macro_rules! real {
    ($name:literal as $kind:ty) => {{
        static FOUND: AtomicUsize = AtomicUsize::new(0);
        let name: &CStr = $name;
        let address = find(&FOUND, name);
        // SAFETY: the C library's function of that name has this type.
        #[allow(unused_unsafe, reason = "some who ask are unsafe already")]
        let real = unsafe { std::mem::transmute::<usize, $kind>(address) };
        real
    }};
}

fn find(found: &AtomicUsize, name: &CStr) -> usize {
    let known = found.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    // SAFETY: a name that ends with a zero.
    let address = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) } as usize;
    if address == 0 {
        exit_now(super::STUCK);
    }
    found.store(address, Ordering::Relaxed);
    address
}

fn set_errno(code: c_int) {
    // SAFETY: the address of this thread's errno.
    unsafe { *libc::__errno_location() = code };
}

/// From now on this process runs on one processor: one thread at a time has its turn anyway, and
/// hands it over faster so. Which one is chosen by the number.
pub(super) fn stay_on_one(number: u64) {
    // SAFETY: a set of processors of its real size, on this stack.
    unsafe {
        let mut may: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut may) != 0 {
            return;
        }
        let all: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
            .filter(|&one| libc::CPU_ISSET(one, &may))
            .collect();
        if let Some(&one) = all.get((number % all.len().max(1) as u64) as usize) {
            let mut only: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(one, &mut only);
            libc::sched_setaffinity(0, size, &only);
        }
    }
}

/// The kernel's number of this thread.
pub(super) fn thread_id() -> c_int {
    // SAFETY: takes nothing.
    unsafe { libc::gettid() }
}

/// Waits, really, until a thread that ends is gone with all that it gives back.
pub(super) fn wait_until_gone(thread: c_int) {
    type Kind = unsafe extern "C" fn() -> c_int;
    let (call, yield_now) = (real!(c"syscall" as Syscall), real!(c"sched_yield" as Kind));
    // SAFETY: signal 0 is none: it only asks whether the thread is there.
    unsafe {
        let process = libc::getpid() as usize;
        while call(libc::SYS_tgkill, process, thread as usize, 0, 0, 0, 0) == 0 {
            yield_now();
        }
    }
}

/// Lets memory lie at the same addresses in each run: some locks hash by them. Answers whether the
/// program must be started again for that.
pub(super) fn fix_addresses() -> bool {
    // SAFETY: numbers only.
    unsafe {
        libc::mallopt(M_ARENA_MAX, 1);
        let has = libc::personality(0xffff_ffff);
        let fixed = libc::ADDR_NO_RANDOMIZE;
        has != -1 && has & fixed == 0 && libc::personality((has | fixed) as libc::c_ulong) != -1
    }
}

/// Closes a descriptor whose owner never runs again.
pub(super) fn close_orphan(descriptor: c_int) {
    // SAFETY: nobody uses it any more.
    unsafe { libc::close(descriptor) };
}

pub(super) fn exit_now(code: c_int) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

type Syscall = unsafe extern "C" fn(c_long, usize, usize, usize, usize, usize, usize) -> c_long;

/// Waits, really, while the word has this value.
pub(super) fn real_wait(word: &AtomicU32, value: u32) {
    let call = real!(c"syscall" as Syscall);
    let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word lives on; there is no time limit.
    unsafe {
        call(
            libc::SYS_futex,
            word.as_ptr() as usize,
            op as usize,
            value as usize,
            0,
            0,
            0,
        );
    }
}

/// Wakes who waits, really, for the word.
pub(super) fn real_wake(word: &AtomicU32) {
    let call = real!(c"syscall" as Syscall);
    let op = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    // SAFETY: the word lives on.
    unsafe {
        call(
            libc::SYS_futex,
            word.as_ptr() as usize,
            op as usize,
            1,
            0,
            0,
            0,
        );
    }
}

/// Whether a descriptor can be read without waiting.
pub(super) fn has_something(descriptor: c_int) -> bool {
    let mut poll = libc::pollfd {
        fd: descriptor,
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one descriptor, and no waiting.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

fn nanos(time: &timespec) -> Nanos {
    (time.tv_sec.max(0) as u64).saturating_mul(SECOND) + time.tv_nsec.max(0) as u64
}

/// What is `time` on the clock of all that waits, as nanoseconds since the simulation began.
fn moment(time: &timespec, is_wall: bool) -> Nanos {
    let ahead = turns::clock(is_wall).saturating_sub(turns::now());
    nanos(time).saturating_sub(ahead)
}

// Time.

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: c_int, time: *mut timespec) -> c_int {
    let is_wall = match clock {
        CLOCK_REALTIME | CLOCK_REALTIME_COARSE => true,
        CLOCK_MONOTONIC | CLOCK_MONOTONIC_COARSE | CLOCK_MONOTONIC_RAW | CLOCK_BOOTTIME => false,
        // How long a thread computed, which is never the same twice: here that takes no time.
        _ if turns::me().is_some() => {
            unsafe { *time = std::mem::zeroed() };
            return 0;
        }
        _ => false,
    };
    if turns::me().is_none() {
        type Kind = unsafe extern "C" fn(c_int, *mut timespec) -> c_int;
        return unsafe { real!(c"clock_gettime" as Kind)(clock, time) };
    }
    let now = turns::clock(is_wall);
    unsafe {
        (*time).tv_sec = (now / SECOND) as i64;
        (*time).tv_nsec = (now % SECOND) as i64;
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn gettimeofday(time: *mut timeval, zone: *mut c_void) -> c_int {
    if turns::me().is_none() {
        type Kind = unsafe extern "C" fn(*mut timeval, *mut c_void) -> c_int;
        return unsafe { real!(c"gettimeofday" as Kind)(time, zone) };
    }
    let now = turns::clock(true);
    unsafe {
        (*time).tv_sec = (now / SECOND) as i64;
        (*time).tv_usec = (now % SECOND / 1000) as i64;
    }
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn time(into: *mut i64) -> i64 {
    if turns::me().is_none() {
        type Kind = unsafe extern "C" fn(*mut i64) -> i64;
        return unsafe { real!(c"time" as Kind)(into) };
    }
    let now = (turns::clock(true) / SECOND) as i64;
    if !into.is_null() {
        unsafe { *into = now };
    }
    now
}

#[unsafe(no_mangle)]
unsafe extern "C" fn nanosleep(time: *const timespec, left: *mut timespec) -> c_int {
    if turns::me().is_none() {
        type Kind = unsafe extern "C" fn(*const timespec, *mut timespec) -> c_int;
        return unsafe { real!(c"nanosleep" as Kind)(time, left) };
    }
    turns::sleep_until(turns::now() + nanos(unsafe { &*time }));
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn clock_nanosleep(
    clock: c_int,
    flags: c_int,
    time: *const timespec,
    left: *mut timespec,
) -> c_int {
    if turns::me().is_none() {
        type Kind = unsafe extern "C" fn(c_int, c_int, *const timespec, *mut timespec) -> c_int;
        return unsafe { real!(c"clock_nanosleep" as Kind)(clock, flags, time, left) };
    }
    let time = unsafe { &*time };
    let until = match flags & libc::TIMER_ABSTIME {
        0 => turns::now() + nanos(time),
        _ => moment(time, clock == CLOCK_REALTIME),
    };
    turns::sleep_until(until);
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn usleep(micros: c_uint) -> c_int {
    if turns::me().is_none() {
        type Kind = unsafe extern "C" fn(c_uint) -> c_int;
        return unsafe { real!(c"usleep" as Kind)(micros) };
    }
    turns::sleep_until(turns::now() + u64::from(micros) * 1000);
    0
}

// Chance.

#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(into: *mut c_void, len: size_t, flags: c_uint) -> ssize_t {
    if turns::me().is_none() {
        type Kind = unsafe extern "C" fn(*mut c_void, size_t, c_uint) -> ssize_t;
        return unsafe { real!(c"getrandom" as Kind)(into, len, flags) };
    }
    if len > 0 {
        turns::fill(unsafe { std::slice::from_raw_parts_mut(into.cast(), len) });
    }
    len as ssize_t
}

// Threads, and what they wait for.

/// Rust's locks, and whatever else asks the kernel itself.
#[unsafe(no_mangle)]
unsafe extern "C" fn syscall(
    number: c_long,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    e: usize,
    f: usize,
) -> c_long {
    if turns::me().is_some() {
        match number {
            libc::SYS_futex => return unsafe { futex(a, b, c, d, f) },
            libc::SYS_getrandom => {
                return unsafe { getrandom(a as *mut c_void, b, c as c_uint) } as c_long;
            }
            _ => {}
        }
    }
    unsafe { real!(c"syscall" as Syscall)(number, a, b, c, d, e, f) }
}

unsafe fn futex(address: usize, op: usize, value: usize, time: usize, bits: usize) -> c_long {
    let op = op as c_int;
    let command = op & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    match command {
        libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET => {
            let word = unsafe { AtomicU32::from_ptr(address as *mut u32) };
            if word.load(Ordering::SeqCst) != value as u32 {
                set_errno(libc::EAGAIN);
                return -1;
            }
            let (is_until, bits) = match command {
                libc::FUTEX_WAIT => (false, u32::MAX),
                _ => (true, bits as u32),
            };
            let until = (time != 0).then(|| {
                let time = unsafe { &*(time as *const timespec) };
                match is_until {
                    true => moment(time, op & libc::FUTEX_CLOCK_REALTIME != 0),
                    false => turns::now() + nanos(time),
                }
            });
            match turns::wait_word(address, bits, until) {
                Woken::Rung => 0,
                Woken::Late => {
                    set_errno(ETIMEDOUT);
                    -1
                }
            }
        }
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => {
            let bits = match command {
                libc::FUTEX_WAKE => u32::MAX,
                _ => bits as u32,
            };
            let most = (value as c_int).max(0) as usize;
            let rung = turns::ring_word(address, bits, most);
            if rung > 0 {
                turns::between();
            }
            rung as c_long
        }
        _ => super::end("a kind of futex that is not simulated"),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn sched_yield() -> c_int {
    match turns::me() {
        Some(_) => turns::yield_now(),
        None => std::hint::spin_loop(),
    }
    0
}

type Start = extern "C" fn(*mut c_void) -> *mut c_void;

struct Begun {
    start: Start,
    argument: *mut c_void,
    newcomer: turns::Newcomer,
}

extern "C" fn start_in_turn(begun: *mut c_void) -> *mut c_void {
    // SAFETY: made by `pthread_create` for this thread alone.
    let begun = unsafe { Box::from_raw(begun.cast::<Begun>()) };
    turns::arrive(begun.newcomer);
    leave_at_end();
    (begun.start)(begun.argument)
}

/// The turn goes on when all destructors of this thread's variables have run.
fn leave_at_end() {
    extern "C" fn at_end(_: *mut c_void) {
        turns::leave();
    }
    static KEY: AtomicU32 = AtomicU32::new(u32::MAX);
    let mut key = KEY.load(Ordering::Relaxed);
    // SAFETY: a key of this process; only one thread at a time is here.
    unsafe {
        if key == u32::MAX {
            libc::pthread_key_create(&mut key, Some(at_end));
            KEY.store(key, Ordering::Relaxed);
        }
        libc::pthread_setspecific(key, std::ptr::dangling::<u8>().cast());
    }
}

/// The numbers of threads by what the C library calls them.
static NUMBERS: std::sync::Mutex<Vec<(pthread_t, usize)>> = std::sync::Mutex::new(Vec::new());

fn numbers() -> std::sync::MutexGuard<'static, Vec<(pthread_t, usize)>> {
    NUMBERS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_create(
    thread: *mut pthread_t,
    attributes: *const pthread_attr_t,
    start: Start,
    argument: *mut c_void,
) -> c_int {
    type Kind =
        unsafe extern "C" fn(*mut pthread_t, *const pthread_attr_t, Start, *mut c_void) -> c_int;
    let create = real!(c"pthread_create" as Kind);
    let Some(newcomer) = turns::enter() else {
        return unsafe { create(thread, attributes, start, argument) };
    };
    let begun = Box::new(Begun {
        start,
        argument,
        newcomer,
    });
    let begun = Box::into_raw(begun).cast();
    let code = unsafe { create(thread, attributes, start_in_turn, begun) };
    if code != 0 {
        super::end("the machine has no room for another thread");
    }
    let mut numbers = numbers();
    let name = unsafe { *thread };
    numbers.retain(|(other, _)| *other != name);
    numbers.push((name, newcomer.0));
    drop(numbers);
    turns::between();
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_join(thread: pthread_t, value: *mut *mut c_void) -> c_int {
    type Kind = unsafe extern "C" fn(pthread_t, *mut *mut c_void) -> c_int;
    if turns::me().is_some() {
        let found = numbers().iter().find(|(name, _)| *name == thread).copied();
        if let Some((_, number)) = found {
            turns::join(number);
        }
    }
    unsafe { real!(c"pthread_join" as Kind)(thread, value) }
}

type MutexCall = unsafe extern "C" fn(*mut pthread_mutex_t) -> c_int;

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_lock(mutex: *mut pthread_mutex_t) -> c_int {
    if turns::me().is_none() {
        return unsafe { real!(c"pthread_mutex_lock" as MutexCall)(mutex) };
    }
    loop {
        let code = unsafe { pthread_mutex_trylock(mutex) };
        if code != libc::EBUSY {
            return code;
        }
        turns::wait_word(mutex as usize, u32::MAX, None);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_trylock(mutex: *mut pthread_mutex_t) -> c_int {
    let code = unsafe { real!(c"pthread_mutex_trylock" as MutexCall)(mutex) };
    if code == 0 && turns::me().is_some() {
        turns::hold(1);
    }
    code
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pthread_mutex_unlock(mutex: *mut pthread_mutex_t) -> c_int {
    let code = unsafe { real!(c"pthread_mutex_unlock" as MutexCall)(mutex) };
    if turns::me().is_some() {
        turns::hold(-1);
        turns::ring_word(mutex as usize, u32::MAX, 1);
    }
    code
}

#[unsafe(no_mangle)]
unsafe extern "C" fn epoll_wait(
    descriptor: c_int,
    events: *mut epoll_event,
    most: c_int,
    millis: c_int,
) -> c_int {
    type Kind = unsafe extern "C" fn(c_int, *mut epoll_event, c_int, c_int) -> c_int;
    let real = real!(c"epoll_wait" as Kind);
    if turns::me().is_none() {
        return unsafe { real(descriptor, events, most, millis) };
    }
    let found = unsafe { real(descriptor, events, most, 0) };
    if found != 0 || millis == 0 {
        return found;
    }
    let until = (millis > 0).then(|| turns::now() + millis as u64 * 1_000_000);
    turns::wait_poll(descriptor, until);
    unsafe { real(descriptor, events, most, 0) }
}

// What is written: another thread, or a kill, may come before it. The file system stamps files by its
// own clock, so the stamps that are shown are kept here.

/// When a file was written last, by device and number.
static STAMPS: std::sync::Mutex<BTreeMap<(u64, u64), Nanos>> =
    std::sync::Mutex::new(BTreeMap::new());

fn stamps() -> std::sync::MutexGuard<'static, BTreeMap<(u64, u64), Nanos>> {
    STAMPS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn stamp(descriptor: c_int) {
    if turns::me().is_none() {
        return;
    }
    // SAFETY: room for the answer.
    let mut stat: libc::stat64 = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    if unsafe { libc::fstat64(descriptor, &mut stat) } == 0 {
        let now = turns::EPOCH_SECS * SECOND + turns::now();
        stamps().insert((stat.st_dev, stat.st_ino), now);
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn statx(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    into: *mut libc::statx,
) -> c_int {
    type Kind =
        unsafe extern "C" fn(c_int, *const c_char, c_int, c_uint, *mut libc::statx) -> c_int;
    let code = unsafe { real!(c"statx" as Kind)(directory, path, flags, mask, into) };
    if code == 0 && turns::me().is_some() {
        let found = unsafe { &mut *into };
        let device = libc::makedev(found.stx_dev_major, found.stx_dev_minor);
        let time = stamps().get(&(device, found.stx_ino)).copied();
        let time = time.unwrap_or(turns::EPOCH_SECS * SECOND);
        for stamp in [
            &mut found.stx_mtime,
            &mut found.stx_ctime,
            &mut found.stx_atime,
            &mut found.stx_btime,
        ] {
            stamp.tv_sec = (time / SECOND) as i64;
            stamp.tv_nsec = (time % SECOND) as u32;
        }
    }
    code
}

#[unsafe(no_mangle)]
unsafe extern "C" fn write(descriptor: c_int, bytes: *const c_void, len: size_t) -> ssize_t {
    type Kind = unsafe extern "C" fn(c_int, *const c_void, size_t) -> ssize_t;
    let done = unsafe { real!(c"write" as Kind)(descriptor, bytes, len) };
    if descriptor <= 2 {
        // What is told of a run does not change it.
        return done;
    }
    stamp(descriptor);
    if len == 8 {
        // Perhaps it wakes who polls.
        turns::stir();
    }
    done
}

#[unsafe(no_mangle)]
unsafe extern "C" fn pwrite64(
    descriptor: c_int,
    bytes: *const c_void,
    len: size_t,
    at: i64,
) -> ssize_t {
    type Kind = unsafe extern "C" fn(c_int, *const c_void, size_t, i64) -> ssize_t;
    turns::between();
    stamp(descriptor);
    unsafe { real!(c"pwrite64" as Kind)(descriptor, bytes, len, at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn ftruncate64(descriptor: c_int, len: i64) -> c_int {
    type Kind = unsafe extern "C" fn(c_int, i64) -> c_int;
    turns::between();
    stamp(descriptor);
    unsafe { real!(c"ftruncate64" as Kind)(descriptor, len) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fsync(descriptor: c_int) -> c_int {
    type Kind = unsafe extern "C" fn(c_int) -> c_int;
    turns::between();
    unsafe { real!(c"fsync" as Kind)(descriptor) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn fdatasync(descriptor: c_int) -> c_int {
    type Kind = unsafe extern "C" fn(c_int) -> c_int;
    turns::between();
    unsafe { real!(c"fdatasync" as Kind)(descriptor) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    type Kind = unsafe extern "C" fn(*const c_char, *const c_char) -> c_int;
    turns::between();
    unsafe { real!(c"rename" as Kind)(from, to) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    type Kind = unsafe extern "C" fn(*const c_char) -> c_int;
    turns::between();
    unsafe { real!(c"unlink" as Kind)(path) }
}

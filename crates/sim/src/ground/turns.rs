//! Threads take turns: one runs, and which is next is drawn from the seed.
//!
//! A thread gives its turn away when it waits (for a lock, for time, for work) and, by chance, where
//! another might come in between. If all wait, time moves to the first moment that somebody waits
//! for. So no time passes while nothing happens, and the same seed gives the same run.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::dice::Dice;

/// A moment in simulated time: nanoseconds since the simulation began.
pub type Nanos = u64;

/// The simulation begins at this second after 1970.
pub(super) const EPOCH_SECS: u64 = 1_790_000_000;
/// Nothing that is simulated takes so many turns.
const MOST_TURNS: u64 = 30_000_000;

/// What a thread is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It may run.
    Ready,
    /// Until a word in memory is rung.
    Word { address: usize, bits: u32 },
    /// Until a poll of this descriptor gives something.
    Poll { descriptor: i32 },
    /// Until a time.
    Asleep,
    /// Until a thread has ended.
    Join { thread: usize },
    /// It has ended.
    Ended,
}

#[derive(Debug)]
struct Thread {
    state: State,
    until: Option<Nanos>,
    /// Whether it goes on since its time was over.
    is_late: bool,
    /// Which machine's it is.
    machine: usize,
    /// Set when it is its turn.
    go: &'static AtomicU32,
}

/// Why a thread goes on that waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// What it waited for is there.
    Rung,
    /// Its time is over.
    Late,
}

struct Turns {
    threads: Vec<Thread>,
    now: Nanos,
    schedule: Dice,
    chance: Dice,
    /// One in so many places where another might come in between, it does.
    one_in: u64,
    dead: BTreeSet<usize>,
    /// What each machine's clock is ahead of the true time, by number of the machine.
    ahead: Vec<i64>,
    turns: u64,
    trace: u64,
    /// What the trace was made of, if it is kept.
    kept: Option<Vec<u64>>,
}

static TURNS: Mutex<Option<Turns>> = Mutex::new(None);
/// The kernel's number of a thread that ends: it is waited for, since it gives memory back.
static ENDING: AtomicI32 = AtomicI32::new(0);
/// Whether a descriptor that is polled may have something.
static STIRRED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// This thread's number and one; 0: it is not simulated.
    static ME: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    /// While it is above zero, nobody comes in between.
    static HELD: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

fn turns() -> MutexGuard<'static, Option<Turns>> {
    TURNS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn with<T>(act: impl FnOnce(&mut Turns) -> T) -> Option<T> {
    turns().as_mut().map(act)
}

/// This thread's number, if it is simulated.
pub fn me() -> Option<usize> {
    ME.get().checked_sub(1)
}

/// From now on this thread is simulated, and all that it starts.
pub fn begin(seed: u64) {
    let mut dice = Dice::new(seed);
    let one_in = [1, 2, 4, 16, 64][dice.below(5)];
    *turns() = Some(Turns {
        threads: vec![Thread::new(0)],
        now: 0,
        schedule: Dice::new(dice.number()),
        chance: Dice::new(dice.number()),
        one_in,
        dead: BTreeSet::new(),
        ahead: Vec::new(),
        turns: 0,
        trace: seed,
        kept: None,
    });
    ME.set(1);
}

/// Adds to what tells two runs apart.
pub fn trace(words: &[u64]) {
    with(|turns| turns.mix(words));
}

/// From now on what the trace is made of is kept.
pub fn keep_trace() {
    with(|turns| turns.kept = Some(Vec::new()));
}

/// What the trace was made of since then.
pub fn kept_trace() -> Vec<u64> {
    with(|turns| turns.kept.take())
        .flatten()
        .unwrap_or_default()
}

/// What this run is up to now, in one number.
pub fn trace_hash() -> u64 {
    with(|turns| turns.trace).unwrap_or(0)
}

/// How many turns were taken.
pub fn turns_taken() -> u64 {
    with(|turns| turns.turns).unwrap_or(0)
}

/// The time since the simulation began.
pub fn now() -> Nanos {
    with(|turns| turns.now).unwrap_or(0)
}

/// What a clock shows: the time since 1970 as this thread's machine thinks it is, or the time since
/// its start. Looking takes a moment.
pub fn clock(is_wall: bool) -> Nanos {
    with(|turns| {
        turns.now += 100;
        if !is_wall {
            return turns.now + 1_000_000_000_000;
        }
        let machine = me().map_or(0, |me| turns.threads[me].machine);
        let ahead = turns.ahead.get(machine).copied().unwrap_or(0);
        (EPOCH_SECS * 1_000_000_000 + turns.now).saturating_add_signed(ahead)
    })
    .unwrap_or(0)
}

/// Sets a machine's clock so far ahead of the true time, in nanoseconds.
pub fn set_clock(machine: usize, ahead: i64) {
    with(|turns| {
        if turns.ahead.len() <= machine {
            turns.ahead.resize(machine + 1, 0);
        }
        turns.ahead[machine] = ahead;
    });
}

/// Random bytes, for whoever asks the system for them.
pub fn fill(bytes: &mut [u8]) {
    with(|turns| turns.chance.fill(bytes));
}

/// This thread acts on that machine from now on; what it starts belongs there.
pub fn act_on(machine: usize) {
    let me = me();
    with(|turns| me.map(|me| turns.threads[me].machine = machine));
}

/// No thread of this machine has a turn any more.
pub fn kill(machine: usize) {
    with(|turns| {
        turns.mix(&[1, machine as u64]);
        turns.dead.insert(machine)
    });
}

/// Who begins: its number, and what says that it is its turn.
pub type Newcomer = (usize, &'static AtomicU32);

/// A new thread of this thread's machine; it may run.
pub fn enter() -> Option<Newcomer> {
    let me = me()?;
    with(|turns| {
        let thread = Thread::new(turns.threads[me].machine);
        let go = thread.go;
        turns.threads.push(thread);
        (turns.threads.len() - 1, go)
    })
}

/// This thread is that one; returns when it is its turn. Until then another one has it, so nothing
/// is touched that is anybody else's.
pub fn arrive((number, go): Newcomer) {
    wait_for_turn(go);
    ME.set(number + 1);
}

/// This thread ends; the next one goes on.
pub fn leave() {
    let Some(me) = me() else { return };
    ME.set(0);
    let next = with(|turns| {
        turns.threads[me].state = State::Ended;
        for thread in &mut turns.threads {
            if thread.state == (State::Join { thread: me }) {
                thread.ready(false);
            }
        }
        let next = turns.pick();
        turns.threads[next].go
    });
    if let Some(next) = next {
        ENDING.store(super::calls::thread_id(), Ordering::SeqCst);
        give(next);
    }
}

/// Waits until that thread has ended.
pub fn join(thread: usize) {
    let has_ended = with(|turns| turns.threads[thread].state == State::Ended).unwrap_or(true);
    if !has_ended {
        wait(State::Join { thread }, None);
    }
}

/// Waits until somebody rings this word in memory.
pub fn wait_word(address: usize, bits: u32, until: Option<Nanos>) -> Woken {
    wait(State::Word { address, bits }, until)
}

/// Rings a word in memory: so many of those who wait for it go on. Answers how many.
pub fn ring_word(address: usize, bits: u32, most: usize) -> usize {
    let rung = with(|turns| {
        let mut waiting: Vec<usize> = (0..turns.threads.len())
            .filter(|&at| {
                matches!(turns.threads[at].state,
                    State::Word { address: word, bits: mask } if word == address && mask & bits != 0)
                    && turns.is_alive(at)
            })
            .collect();
        let mut rung = 0;
        while rung < most && !waiting.is_empty() {
            let at = turns.schedule.below(waiting.len());
            let thread = waiting.swap_remove(at);
            turns.threads[thread].ready(false);
            rung += 1;
        }
        rung
    });
    rung.unwrap_or(0)
}

/// Waits for a time.
pub fn sleep_until(until: Nanos) {
    wait(State::Asleep, Some(until));
}

/// Waits until a descriptor has something.
pub fn wait_poll(descriptor: i32, until: Option<Nanos>) -> Woken {
    wait(State::Poll { descriptor }, until)
}

/// Something may be there for a descriptor that is polled.
pub fn stir() {
    STIRRED.store(true, Ordering::Relaxed);
}

/// While the count is above zero, nobody comes in between where it is not needed.
pub fn hold(change: i32) {
    HELD.set(HELD.get().saturating_add_signed(change));
}

/// Another thread may come in between here.
pub fn between() {
    if me().is_none() || HELD.get() > 0 {
        return;
    }
    let is_now = with(|turns| turns.one_in == 1 || turns.schedule.number() % turns.one_in == 0);
    if is_now == Some(true) {
        yield_now();
    }
}

/// Another thread may have its turn.
pub fn yield_now() {
    wait(State::Ready, None);
}

fn wait(state: State, until: Option<Nanos>) -> Woken {
    let Some(me) = me() else { return Woken::Rung };
    let Some((next, go)) = with(|turns| {
        let thread = &mut turns.threads[me];
        (thread.state, thread.until, thread.is_late) = (state, until, false);
        let next = turns.pick();
        (turns.threads[next].go, turns.threads[me].go)
    }) else {
        return Woken::Rung;
    };
    if !std::ptr::eq(next, go) {
        give(next);
        wait_for_turn(go);
    }
    match with(|turns| turns.threads[me].is_late) {
        Some(true) => Woken::Late,
        _ => Woken::Rung,
    }
}

fn give(next: &'static AtomicU32) {
    next.store(1, Ordering::Release);
    super::calls::real_wake(next);
}

fn wait_for_turn(go: &'static AtomicU32) {
    while go.swap(0, Ordering::Acquire) == 0 {
        super::calls::real_wait(go, 0);
    }
    match ENDING.swap(0, Ordering::SeqCst) {
        0 => {}
        ending => super::calls::wait_until_gone(ending),
    }
}

impl Thread {
    fn new(machine: usize) -> Self {
        Self {
            state: State::Ready,
            until: None,
            is_late: false,
            machine,
            go: Box::leak(Box::new(AtomicU32::new(0))),
        }
    }

    fn ready(&mut self, is_late: bool) {
        (self.state, self.until, self.is_late) = (State::Ready, None, is_late);
    }
}

impl Turns {
    fn is_alive(&self, thread: usize) -> bool {
        !self.dead.contains(&self.threads[thread].machine)
    }

    fn mix(&mut self, words: &[u64]) {
        if let Some(kept) = &mut self.kept {
            kept.extend(words);
        }
        for word in words {
            self.trace = (self.trace ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.trace ^= self.trace >> 29;
        }
    }

    /// Whose turn is next. If all wait, time moves on.
    fn pick(&mut self) -> usize {
        self.turns += 1;
        if self.turns > MOST_TURNS {
            super::end("it takes too many turns: somebody turns in a circle");
        }
        self.now += self.schedule.number() % 20_000;
        loop {
            self.wake_late();
            if STIRRED.swap(false, Ordering::Relaxed) {
                self.wake_polling();
            }
            let ready: Vec<usize> = (0..self.threads.len())
                .filter(|&at| self.threads[at].state == State::Ready && self.is_alive(at))
                .collect();
            if !ready.is_empty() {
                let next = ready[self.schedule.below(ready.len())];
                self.mix(&[2, next as u64, self.now]);
                return next;
            }
            let first = (0..self.threads.len())
                .filter(|&at| self.is_alive(at))
                .filter_map(|at| self.threads[at].until)
                .min();
            match first {
                Some(first) => self.now = self.now.max(first),
                None => super::end("all threads wait for each other for ever"),
            }
        }
    }

    fn wake_late(&mut self) {
        let now = self.now;
        for thread in &mut self.threads {
            if thread.state != State::Ended && thread.until.is_some_and(|until| until <= now) {
                thread.ready(true);
            }
        }
    }

    fn wake_polling(&mut self) {
        for thread in &mut self.threads {
            if let State::Poll { descriptor } = thread.state
                && super::calls::has_something(descriptor)
            {
                thread.ready(false);
            }
        }
    }
}

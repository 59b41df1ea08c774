//! Threads for what may wait.
//!
//! A session thread answers what never waits. All else goes to a [`Pool`]: threads start
//! as jobs come, up to a limit, and end when there is nothing to do. The queue needs no
//! limit of its own: the kernel sends one request at a time for each waiting thread of a
//! user, and a bounded number on its own behalf.
//!
//! Waits of different causes have pools of their own ([`Workers`]), so that readers that
//! wait for a slow store do not hold up an fsync.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

type Job = Box<dyn FnOnce() + Send>;

/// A thread with nothing to do ends after this long.
const IDLE: Duration = Duration::from_secs(10);

/// The pools, by what their jobs wait for.
#[derive(Debug)]
pub(crate) struct Workers {
    /// Readers of content that is away.
    pub(crate) read: Pool,
    /// Changes of content: slowed down to the rate of the store, or of what is away.
    pub(crate) write: Pool,
    /// Lookers at what was, some of which is away.
    pub(crate) look: Pool,
    /// The local disk, and answers that take a while to compute.
    pub(crate) disk: Pool,
}

impl Workers {
    pub(crate) fn new() -> Self {
        Self {
            read: Pool::new("larder-read", 64),
            write: Pool::new("larder-write", 64),
            look: Pool::new("larder-look", 16),
            disk: Pool::new("larder-disk", 16),
        }
    }
}

/// Threads that run jobs.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
    work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("jobs", &self.jobs.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Pool {
    pub(crate) fn new(name: &'static str, limit: usize) -> Self {
        let shared = Shared {
            name,
            limit,
            state: Mutex::default(),
            work: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Runs the job on a thread of the pool, soon.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.shared.state.lock();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() || state.threads >= self.shared.limit {
            self.shared.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        self.start_thread();
    }

    fn start_thread(&self) {
        let shared = Arc::clone(&self.shared);
        let started = thread::Builder::new()
            .name(shared.name.to_owned())
            .spawn(move || shared.work_until_idle());
        if let Err(error) = started {
            tracing::warn!(%error, "no thread could be started; the others take its work");
            let mut state = self.shared.state.lock();
            state.threads -= 1;
            let left = if state.threads == 0 {
                state.jobs.pop_front()
            } else {
                None
            };
            drop(state);
            // With no thread at all the work is done here: slow, but never lost.
            if let Some(job) = left {
                job();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn work_until_idle(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                // A job that panics takes no thread with it: its reply, dropped, says EIO.
                let _ = catch_unwind(AssertUnwindSafe(job));
                state = self.state.lock();
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let waited = self.work.wait_for(&mut state, IDLE);
            state.idle -= 1;
            if waited.timed_out() && state.jobs.is_empty() {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_job_that_waits_holds_up_no_other() {
        let pool = Pool::new("test", 2);
        let (release, wait) = mpsc::channel::<()>();
        pool.run(move || wait.recv().unwrap());
        let (done, jobs_done) = mpsc::channel();
        for job in 0..100 {
            let done = done.clone();
            pool.run(move || done.send(job).unwrap());
        }
        drop(done);
        assert_eq!(jobs_done.iter().count(), 100);
        release.send(()).unwrap();
    }

    #[test]
    fn more_threads_than_the_limit_never_run() {
        let pool = Pool::new("test", 3);
        let running = Arc::new(Mutex::new((0, 0)));
        let (done, jobs_done) = mpsc::channel();
        for _ in 0..50 {
            let (running, done) = (Arc::clone(&running), done.clone());
            pool.run(move || {
                let mut now = running.lock();
                now.0 += 1;
                now.1 = now.1.max(now.0);
                drop(now);
                thread::yield_now();
                running.lock().0 -= 1;
                done.send(()).unwrap();
            });
        }
        drop(done);
        assert_eq!(jobs_done.iter().count(), 50);
        assert!(running.lock().1 <= 3);
    }

    #[test]
    fn work_that_was_given_is_done_though_the_pool_is_dropped() {
        let (done, jobs_done) = mpsc::channel();
        let pool = Pool::new("test", 1);
        for job in 0..20 {
            let done = done.clone();
            pool.run(move || done.send(job).unwrap());
        }
        drop((pool, done));
        assert_eq!(jobs_done.iter().count(), 20);
    }
}

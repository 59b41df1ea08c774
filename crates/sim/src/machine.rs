//! A machine: a replica's real code, its runtime, and its line to the store.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use larder_model::KeepPolicy;
use larder_store::Store;
use larder_volume::{CollectReport, CommitReport, Deletions, Settings, SyncReport, Volume};
use tokio::runtime::Runtime;

use crate::ground;
use crate::marks::Mark;
use crate::store::Line;

/// Nothing takes longer where nothing fails, in simulated time.
const PATIENCE: Duration = Duration::from_secs(3600);
const LOOK: Duration = Duration::from_millis(20);

/// What was asked for and not waited for.
#[derive(Debug)]
enum Job {
    Commit(Answer<CommitReport>, BTreeSet<Mark>),
    Sync(Answer<SyncReport>),
    Collect(Answer<CollectReport>),
    Keep(Answer<()>),
}

type Answer<T> = Arc<Mutex<Option<larder_volume::Result<T>>>>;

fn take<T>(answer: &Answer<T>) -> Option<larder_volume::Result<T>> {
    answer.lock().unwrap_or_else(PoisonError::into_inner).take()
}

/// A replica that runs.
#[derive(Debug)]
pub struct Running {
    /// The real thing.
    pub volume: Arc<Volume>,
    runtime: Runtime,
    jobs: Vec<Job>,
}

/// What the machine's ended jobs tell.
#[derive(Debug, Default)]
pub struct Ended {
    /// What stored commits have.
    pub acknowledged: Vec<BTreeSet<Mark>>,
    /// What went wrong, in words.
    pub failed: Vec<String>,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// Its replica, unless it was killed.
    pub running: Option<Running>,
    /// Its line to the store.
    pub line: Arc<Line>,
    /// How far its clock is ahead, in nanoseconds.
    pub ahead: i64,
    state: PathBuf,
    /// Its number for the ground: another one after each kill.
    number: usize,
    kills: usize,
}

/// The number of machine `who` after so many kills.
fn number(who: usize, kills: usize) -> usize {
    1 + who + kills * 16
}

/// A runtime for what belongs to one machine.
fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_io().enable_time();
    Ok(builder.build()?)
}

impl Machine {
    /// A machine that keeps its state there; nothing runs yet.
    pub fn new(who: usize, directory: &Path, line: Arc<Line>) -> Self {
        Self {
            running: None,
            line,
            ahead: 0,
            state: directory.join(format!("machine-{who}-0")),
            number: number(who, 0),
            kills: 0,
        }
    }

    /// What this thread does from now on, it does there.
    pub fn act(&self) {
        ground::act_on(self.number);
        ground::set_clock(self.number, self.ahead);
    }

    /// Makes the replica's state by what is given, and starts it.
    ///
    /// # Errors
    /// If it cannot be made or does not start.
    pub fn make<T, E: std::error::Error + Send + Sync + 'static>(
        &mut self,
        settings: &Settings,
        make: impl FnOnce(&Runtime, &Path, Arc<dyn Store>) -> Result<T, E>,
    ) -> Result<()> {
        self.act();
        let runtime = runtime()?;
        make(&runtime, &self.state, Arc::clone(&self.line) as _)?;
        self.run(runtime, settings)
    }

    /// Starts the replica.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(&mut self, settings: &Settings) -> Result<()> {
        self.act();
        let runtime = runtime()?;
        self.run(runtime, settings)
    }

    fn run(&mut self, runtime: Runtime, settings: &Settings) -> Result<()> {
        let store: Arc<dyn Store> = Arc::clone(&self.line) as _;
        let handle = runtime.handle().clone();
        let volume = Volume::start(&self.state, store, settings.clone(), handle)
            .context("it does not start")?;
        volume.run();
        self.running = Some(Running {
            volume,
            runtime,
            jobs: Vec::new(),
        });
        Ok(())
    }

    /// Closes the volume, if it runs.
    ///
    /// # Errors
    /// If it does not end as it should.
    pub fn stop(&mut self) -> Result<()> {
        self.act();
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        running.runtime.block_on(running.volume.shutdown())?;
        let gone = Arc::downgrade(&running.volume);
        drop((running.volume, running.jobs));
        drop(running.runtime);
        wait_until("a closed volume is let go", || gone.strong_count() == 0)
    }

    /// Kills all of the machine's threads where they are. What is on its disk stays.
    ///
    /// # Errors
    /// If its files cannot be moved.
    pub fn kill(&mut self, who: usize, directory: &Path) -> Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        ground::act_on(0);
        ground::kill(self.number);
        // Its threads exist still, and never run again: nothing of them may be waited for.
        std::mem::forget(running);
        ground::close_below(&self.state);
        self.kills += 1;
        self.number = number(who, self.kills);
        let next = directory.join(format!("machine-{who}-{}", self.kills));
        move_state(&self.state, &next)
            .with_context(|| format!("the files of {}", self.state.display()))?;
        self.state = next;
        Ok(())
    }

    /// Asks for a commit.
    pub fn ask_commit(&mut self, must_have: BTreeSet<Mark>, message: Option<String>) {
        let Some(running) = &mut self.running else {
            return;
        };
        let (volume, answer) = (Arc::clone(&running.volume), Answer::default());
        let told = Arc::clone(&answer);
        running.runtime.spawn(async move {
            let done = volume.commit(message, &|_| {}).await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        });
        running.jobs.push(Job::Commit(answer, must_have));
    }

    /// Asks for what others did.
    pub fn ask_sync(&mut self, deletions: Deletions) {
        let Some(running) = &mut self.running else {
            return;
        };
        let (volume, answer) = (Arc::clone(&running.volume), Answer::default());
        let told = Arc::clone(&answer);
        running.runtime.spawn(async move {
            let done = volume.sync(deletions, &|_| {}).await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        });
        running.jobs.push(Job::Sync(answer));
    }

    /// Asks for what nobody needs to be deleted.
    pub fn ask_collect(&mut self) {
        let Some(running) = &mut self.running else {
            return;
        };
        let (volume, answer) = (Arc::clone(&running.volume), Answer::default());
        let told = Arc::clone(&answer);
        running.runtime.spawn(async move {
            let done = volume.collect(false, &|_| {}).await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        });
        running.jobs.push(Job::Collect(answer));
    }

    /// Says how much of the history is kept.
    pub fn ask_keep(&mut self, keep: KeepPolicy) {
        let Some(running) = &mut self.running else {
            return;
        };
        let (volume, answer) = (Arc::clone(&running.volume), Answer::default());
        let told = Arc::clone(&answer);
        running.runtime.spawn(async move {
            let done = volume.set_retention(Some(keep)).await;
            *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        });
        running.jobs.push(Job::Keep(answer));
    }

    /// Whether nothing is asked for that is not answered.
    pub fn is_idle(&self) -> bool {
        let jobs = self.running.as_ref().map(|running| running.jobs.len());
        jobs.unwrap_or(0) == 0
    }

    /// Takes what was answered since the last time.
    pub fn take_ended(&mut self) -> Ended {
        let mut ended = Ended::default();
        let Some(running) = &mut self.running else {
            return ended;
        };
        running.jobs.retain(|job| !match job {
            Job::Commit(answer, marks) => match take(answer) {
                Some(Ok(report)) => {
                    if report.still_changing.is_empty() {
                        ended.acknowledged.push(marks.clone());
                    }
                    true
                }
                other => has_ended("commit", other, &mut ended),
            },
            Job::Sync(answer) => has_ended("sync", take(answer), &mut ended),
            Job::Collect(answer) => has_ended("collect", take(answer), &mut ended),
            Job::Keep(answer) => has_ended("keep", take(answer), &mut ended),
        });
        ended
    }

    /// Does something on the machine's runtime, as one of its tasks, and waits for it; `None` if it
    /// takes longer than that.
    ///
    /// # Errors
    /// If nothing runs there.
    pub fn wait_for<F>(
        &self,
        within: Duration,
        work: impl FnOnce(Arc<Volume>) -> F,
    ) -> Result<Option<F::Output>>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let Some(running) = &self.running else {
            bail!("the machine does not run");
        };
        let task = running.runtime.spawn(work(Arc::clone(&running.volume)));
        let waited = running
            .runtime
            .block_on(async { tokio::time::timeout(within, task).await });
        match waited {
            Ok(done) => Ok(Some(done?)),
            Err(_) => Ok(None),
        }
    }
}

/// Whether something was answered; that it failed is told.
fn has_ended<T>(what: &str, answer: Option<larder_volume::Result<T>>, ended: &mut Ended) -> bool {
    if let Some(Err(error)) = &answer {
        ended.failed.push(format!("{what}: {error}"));
    }
    answer.is_some()
}

/// Moves a replica's files away from the threads that were killed. They have the database open and
/// locked: so of that a copy is taken. A cache file keeps its number.
fn move_state(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    let mut names = Vec::new();
    for entry in std::fs::read_dir(from)? {
        names.push(entry?.file_name());
    }
    names.sort();
    for name in names {
        let (old, new) = (from.join(&name), to.join(&name));
        let text = name.to_string_lossy();
        if text.starts_with("volume.db") {
            std::fs::copy(old, new)?;
        } else if text != "lock" {
            std::fs::rename(old, new)?;
        }
    }
    Ok(())
}

/// Waits until something is so.
///
/// # Errors
/// If it takes too long.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<()> {
    let rounds = PATIENCE.as_millis() / LOOK.as_millis();
    for _ in 0..rounds {
        if is_so() {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    bail!("waited in vain until {what}")
}

//! Sequences from seeds, for so many or for so long.
//!
//! A sequence is made from one number, its seed, and the next has the next seed. A run says
//! the seed of a sequence that failed, and how to run it again; then it looks for a shorter
//! one that fails as well.
//!
//! Most of a sequence's time is waiting, for a store or for a commit. So several are done
//! side by side, each on a volume of its own; and a volume is a new one after some hundred
//! sequences, since what was stored is never deleted and would fill the disk.
//!
//! - `LARDER_SEED` is the first seed; a random one if it is not set.
//! - `LARDER_REFERENCE_CASES` says how many sequences each test does.
//! - `LARDER_TORTURE_SECS` has each test run for so long instead.
//! - `LARDER_REFERENCE_REPEAT` has each sequence done so often: what depends on how threads
//!   meet does not fail each time.
//! - `LARDER_REFERENCE_VOLUMES` says how many volumes are used side by side.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use larder_mount::Profile;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const SHRINK_ITERATIONS_MAX: u32 = 4000;
const SHRINK_TIME_MAX: Duration = Duration::from_secs(180);
/// A long run tells how far it is after so many.
const TELL_EVERY: u64 = 500;
/// Sequences after which a volume is a new one.
const VOLUME_SEQUENCES: u64 = 100;

/// How long a test runs, and from which seed.
struct Run {
    seed: u64,
    cases: u64,
    end: Option<Instant>,
    repeat: u64,
    volumes: u64,
}

impl Run {
    fn from_environment(cases: u64) -> Self {
        let secs = number("LARDER_TORTURE_SECS");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            seed: number("LARDER_SEED").unwrap_or_else(|| now.unwrap().as_micros() as u64),
            cases: match secs {
                Some(_) => u64::MAX,
                None => number("LARDER_REFERENCE_CASES").unwrap_or(cases),
            },
            end: secs.map(|secs| Instant::now() + Duration::from_secs(secs)),
            repeat: number("LARDER_REFERENCE_REPEAT").unwrap_or(1),
            volumes: number("LARDER_REFERENCE_VOLUMES").unwrap_or(1),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Does sequence after sequence, and answers how many; panics with the shortest one found that
/// fails. `volume` makes a new volume, and answers what does a sequence on it.
pub fn run<T: Debug + Clone, S: Strategy<Value = Vec<T>>, H: Fn(&[T]) -> Result<(), String>>(
    what: &str,
    profile: Profile,
    cases: u64,
    sequences: impl Fn() -> S + Sync,
    volume: impl Fn() -> H + Sync,
) -> u64 {
    let run = Run::from_environment(cases);
    let begin = Instant::now();
    let (begun, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let go_on =
        || run.end.is_none_or(|end| Instant::now() < end) && !failed.load(Ordering::Relaxed);
    let work = || {
        let sequences = sequences();
        while go_on() && begun.load(Ordering::Relaxed) < run.cases {
            let holds = volume();
            for _ in 0..VOLUME_SEQUENCES {
                let next = begun.fetch_add(1, Ordering::Relaxed);
                if next >= run.cases || !go_on() {
                    return Ok(());
                }
                let seed = run.seed + next;
                let held = one(what, profile, seed, run.repeat, &sequences, &holds);
                held.inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                let done = done.fetch_add(run.repeat, Ordering::Relaxed) + run.repeat;
                if done.is_multiple_of(TELL_EVERY) {
                    eprintln!("{what}, {profile:?}: {done} so far");
                }
            }
        }
        Ok(())
    };
    let outcomes: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let working: Vec<_> = (0..run.volumes).map(|_| scope.spawn(work)).collect();
        let ended = working.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    });
    let done = done.into_inner();
    println!(
        "\n{what}, {profile:?}: {done} sequences of {} operations at most from seed {}, {:.0} a minute",
        super::OPS_MAX,
        run.seed,
        done as f64 / begin.elapsed().as_secs_f64() * 60.0
    );
    for outcome in outcomes {
        outcome.unwrap_or_else(|why| panic!("{why}"));
    }
    done
}

fn one<T: Debug + Clone>(
    what: &str,
    profile: Profile,
    seed: u64,
    repeat: u64,
    sequences: &impl Strategy<Value = Vec<T>>,
    holds: &impl Fn(&[T]) -> Result<(), String>,
) -> Result<(), String> {
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: SHRINK_ITERATIONS_MAX,
        max_shrink_time: SHRINK_TIME_MAX.as_millis() as u32,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &spread(seed));
    let mut runner = TestRunner::new_with_rng(config, rng);
    let said = RefCell::new(false);
    let outcome = runner.run(sequences, |ops| {
        for _ in 0..repeat {
            if let Err(why) = holds(&ops) {
                if !said.replace(true) {
                    let words = format!("{profile:?}").to_lowercase();
                    eprintln!("{what}, {profile:?}, seed {seed}: {why}\n{ops:#?}");
                    eprintln!("Again: cargo xtask torture --profile {words} --seed {seed}");
                }
                return Err(TestCaseError::fail(why));
            }
        }
        Ok(())
    });
    outcome.map_err(|difference| format!("{what}, {profile:?}, seed {seed}: {difference}"))
}

/// The seed's bits spread over what the generator takes.
fn spread(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&seed.to_le_bytes());
    }
    bytes
}

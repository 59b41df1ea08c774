//! Sequences from seeds, one after the other, for so many or for so long.
//!
//! A sequence is made from one number, its seed, and the next has the next seed. A run says
//! the seed of a sequence that failed, and how to run it again; then it looks for a shorter
//! one that fails as well.
//!
//! - `LARDER_SEED` is the first seed; a random one if it is not set.
//! - `LARDER_REFERENCE_CASES` says how many sequences each test does.
//! - `LARDER_TORTURE_SECS` has each test run for so long instead.
//! - `LARDER_REFERENCE_REPEAT` has each sequence done so often: what depends on how threads
//!   meet does not fail each time.

use std::cell::RefCell;
use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime};

use larder_mount::Profile;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

const SHRINK_ITERATIONS_MAX: u32 = 4000;
const SHRINK_TIME_MAX: Duration = Duration::from_secs(180);

/// How long a test runs, and from which seed.
struct Run {
    seed: u64,
    cases: u64,
    end: Option<Instant>,
    repeat: u64,
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
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What was done, in figures.
pub struct Done {
    pub sequences: u64,
}

/// Does sequence after sequence; panics with the shortest one found that fails.
pub fn run<T: Debug + Clone>(
    what: &str,
    profile: Profile,
    cases: u64,
    sequences: &impl Strategy<Value = Vec<T>>,
    holds: impl Fn(&[T]) -> Result<(), String>,
) -> Done {
    let run = Run::from_environment(cases);
    let begin = Instant::now();
    let mut done = 0;
    while done < run.cases && run.end.is_none_or(|end| Instant::now() < end) {
        one(
            what,
            profile,
            run.seed + done,
            run.repeat,
            sequences,
            &holds,
        );
        done += 1;
    }
    let secs = begin.elapsed().as_secs_f64();
    println!(
        "{what}, {profile:?}: {} sequences of {} operations at most from seed {}, {:.0} a minute",
        done * run.repeat,
        super::OPS_MAX,
        run.seed,
        (done * run.repeat) as f64 / secs * 60.0
    );
    Done { sequences: done }
}

fn one<T: Debug + Clone>(
    what: &str,
    profile: Profile,
    seed: u64,
    repeat: u64,
    sequences: &impl Strategy<Value = Vec<T>>,
    holds: &impl Fn(&[T]) -> Result<(), String>,
) {
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
    if let Err(difference) = outcome {
        panic!("{what}, {profile:?}, seed {seed}: {difference}");
    }
}

/// The seed's bits spread over what the generator takes.
fn spread(seed: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for piece in bytes.chunks_mut(8) {
        piece.copy_from_slice(&seed.to_le_bytes());
    }
    bytes
}

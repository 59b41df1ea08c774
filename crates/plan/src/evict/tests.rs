//! What both policies promise, and where they differ.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const MIB: u64 = 1 << 20;

/// A cache of `budget` bytes under a policy: what a trace of uses finds here.
struct Cache {
    policy: Box<dyn Policy>,
    here: HashMap<u64, u64>,
    budget: u64,
}

impl Cache {
    fn new(policy: Box<dyn Policy>, budget: u64) -> Self {
        Self {
            policy,
            here: HashMap::new(),
            budget,
        }
    }

    /// Uses a file; whether it was here.
    fn use_file(&mut self, ino: u64, bytes: u64) -> bool {
        if self.here.contains_key(&ino) {
            self.policy.touch(ino);
            return true;
        }
        self.here.insert(ino, bytes);
        self.policy.insert(ino, bytes);
        let need = bytes_to_free(self.policy.bytes(), self.budget, 95, 85);
        for victim in self.policy.victims(need, &mut |_| true) {
            self.here.remove(&victim.ino);
        }
        false
    }

    fn missing_of(&self, inos: std::ops::Range<u64>) -> usize {
        inos.filter(|ino| !self.here.contains_key(ino)).count()
    }
}

fn policies() -> [Box<dyn Policy>; 2] {
    [
        Box::new(Lru::new()),
        Box::new(S3Fifo::new(Refetch::default())),
    ]
}

/// Works on 600 files for a while, then reads 10,000 others once each, in order: how many
/// of the 600 have to be fetched again.
fn lost_to_a_scan(policy: Box<dyn Policy>) -> usize {
    let mut cache = Cache::new(policy, 1000 * MIB);
    for _day in 0..5 {
        for ino in 0..600 {
            cache.use_file(ino, MIB);
        }
    }
    for ino in 10_000..20_000 {
        cache.use_file(ino, MIB);
    }
    cache.missing_of(0..600)
}

#[test]
fn a_bulk_scan_does_not_push_out_the_working_set() {
    // The trace is a real trap only if the baseline falls into it.
    assert_eq!(lost_to_a_scan(Box::new(Lru::new())), 600);
    assert_eq!(lost_to_a_scan(Box::new(S3Fifo::new(Refetch::default()))), 0);
}

/// The same with work going on during the scan, one use in ten: how many fetches the work
/// waits for.
fn misses_of_work_during_a_scan(policy: Box<dyn Policy>) -> usize {
    let mut cache = Cache::new(policy, 1000 * MIB);
    for turn in 0..3000 {
        cache.use_file(turn % 600, MIB);
    }
    let mut misses = 0;
    for turn in 0..20_000 {
        cache.use_file(10_000 + turn, MIB);
        if turn % 10 == 0 {
            misses += usize::from(!cache.use_file(turn / 10 % 600, MIB));
        }
    }
    misses
}

#[test]
fn work_goes_on_undisturbed_during_a_scan() {
    assert!(misses_of_work_during_a_scan(Box::new(Lru::new())) > 1000);
    assert!(misses_of_work_during_a_scan(Box::new(S3Fifo::new(Refetch::default()))) < 20);
}

#[test]
fn a_scan_over_what_is_here_proves_nothing() {
    let mut cache = Cache::new(Box::new(S3Fifo::new(Refetch::default())), 1000 * MIB);
    for _ in 0..5 {
        for ino in 0..300 {
            cache.use_file(ino, MIB);
        }
    }
    for ino in 1000..1500 {
        cache.use_file(ino, MIB); // copied in
    }
    for ino in (0..300).chain(1000..1500) {
        cache.use_file(ino, MIB); // grep -r over all
    }
    for ino in 2000..2600 {
        cache.use_file(ino, MIB);
    }
    assert_eq!(cache.missing_of(0..300), 0);
}

#[test]
fn what_was_here_before_a_restart_outlives_a_scan_after_it() {
    let mut policy = S3Fifo::new(Refetch::default());
    for ino in 0..600 {
        policy.restore(ino, MIB);
    }
    let mut cache = Cache::new(Box::new(policy), 1000 * MIB);
    cache.here = (0..600).map(|ino| (ino, MIB)).collect();
    for ino in 10_000..15_000 {
        cache.use_file(ino, MIB);
    }
    assert_eq!(cache.missing_of(0..600), 0);
}

#[test]
fn of_the_same_age_one_film_goes_before_many_letters() {
    let mut policy = S3Fifo::new(Refetch::default());
    for ino in 0..1000 {
        policy.insert(ino, 4096);
    }
    policy.insert(5000, 4096 * MIB);
    for ino in 1000..2000 {
        policy.insert(ino, 4096);
    }
    let gone = policy.victims(100 * MIB, &mut |_| true);
    assert_eq!(
        gone.iter().map(|victim| victim.ino).collect::<Vec<_>>(),
        [5000]
    );
}

#[test]
fn small_files_that_come_together_cost_no_more_for_a_byte_each() {
    let mut policy = S3Fifo::new(Refetch::default());
    // All of them lie below what one request brings: oldest first, whatever the size.
    for ino in 0..10 {
        policy.insert(ino, if ino % 2 == 0 { 4096 } else { 65_536 });
    }
    let gone = policy.victims(4096 * 2 + 65_536 * 2, &mut |_| true);
    assert_eq!(
        gone.iter().map(|victim| victim.ino).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
}

#[test]
fn the_watermarks_make_batches() {
    assert_eq!(bytes_to_free(950, 1000, 95, 85), 0);
    assert_eq!(bytes_to_free(951, 1000, 95, 85), 101);
    assert_eq!(bytes_to_free(u64::MAX, u64::MAX, 100, 0), 0);
    assert_eq!(bytes_to_free(u64::MAX, u64::MAX - 1, 100, 0), u64::MAX);
    assert_eq!(bytes_to_free(10, 0, 95, 85), 10);
}

#[test]
fn a_disk_that_others_fill_shrinks_the_budget() {
    assert_eq!(budget_within_disk(100, 40, 1000, 10), 100);
    assert_eq!(budget_within_disk(100, 40, 20, 10), 50);
    assert_eq!(budget_within_disk(100, 5, 0, 10), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u64, u64),
    Touch(u64),
    Remove(u64),
    Evict(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..40u64, 0..200_000u64).prop_map(|(ino, bytes)| Step::Insert(ino, bytes)),
        4 => (0..40u64).prop_map(Step::Touch),
        1 => (0..40u64).prop_map(Step::Remove),
        2 => (0..600_000u64, 1..5u64).prop_map(|(need, every)| Step::Evict(need, every)),
    ]
}

proptest! {
    /// The policy's books are those of a plain map, whatever happens; it frees what it was
    /// asked for if it can, and never names what may not go.
    #[test]
    fn the_books_of_a_policy_are_true(steps in prop::collection::vec(step(), 1..120)) {
        for mut policy in policies() {
            let mut model: HashMap<u64, u64> = HashMap::new();
            for step in &steps {
                match *step {
                    Step::Insert(ino, bytes) => {
                        policy.insert(ino, bytes);
                        model.insert(ino, bytes.div_ceil(4096) * 4096);
                    }
                    Step::Touch(ino) => policy.touch(ino),
                    Step::Remove(ino) => {
                        policy.remove(ino);
                        model.remove(&ino);
                    }
                    Step::Evict(need, every) => {
                        let mut asked = Vec::new();
                        let gone = policy.victims(need, &mut |ino| {
                            asked.push(ino);
                            ino % every == 0
                        });
                        for victim in &gone {
                            prop_assert_eq!(victim.ino % every, 0);
                            prop_assert_eq!(model.remove(&victim.ino), Some(victim.bytes));
                        }
                        let freed: u64 = gone.iter().map(|victim| victim.bytes).sum();
                        let could = model.keys().any(|ino| ino % every == 0);
                        prop_assert!(freed >= need || !could);
                        let times = asked.len();
                        asked.sort_unstable();
                        asked.dedup();
                        prop_assert_eq!(asked.len(), times);
                    }
                }
                prop_assert_eq!(policy.len(), model.len());
                prop_assert_eq!(policy.bytes(), model.values().sum::<u64>());
            }
        }
    }
}

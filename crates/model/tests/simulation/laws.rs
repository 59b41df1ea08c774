//! The laws of joins and of repair, on states that replicas really come to.

use std::sync::Arc;

use larder_model::{NodeId, State};

use crate::planted::Bug;
use crate::random::Random;
use crate::steps::{Plan, Step, plan};
use crate::world::World;

fn joined(a: &State, b: &State) -> State {
    let mut joined = a.clone();
    joined.join(b);
    joined
}

/// Commits of all replicas of a sequence. Partial ones among them; compaction is left out,
/// since a join in its wake needs repair to be whole.
fn commits(seed: u64) -> Vec<Arc<State>> {
    let mut plan = plan(seed);
    plan.away = None;
    plan.steps
        .retain(|step| !matches!(step, Step::Compact { .. }));
    World::new(&plan, Bug::None).commits(&plan.steps).unwrap()
}

#[test]
fn joins_are_commutative_associative_and_idempotent() {
    let mut differ = 0;
    for seed in 0..1_500 {
        let commits = commits(seed);
        let mut random = Random::new(seed);
        for _ in 0..4 {
            let mut one = || &*commits[random.below(commits.len() as u64) as usize];
            let (a, b, c) = (one(), one(), one());
            differ += u64::from(a.nodes != b.nodes && b.nodes != c.nodes);
            let ab = joined(a, b);
            assert_eq!(ab, joined(b, a), "seed {seed}");
            assert_eq!(joined(&ab, c), joined(a, &joined(b, c)), "seed {seed}");
            assert_eq!(joined(&ab, b), ab, "seed {seed}");
            assert_eq!(joined(a, a), *a, "seed {seed}");
        }
    }
    assert!(differ > 1_000);
}

#[test]
fn a_state_that_was_joined_brings_nothing_new() {
    for seed in 0..500 {
        let commits = commits(seed);
        for a in &commits {
            for b in commits.iter().filter(|b| a.clock.includes(&b.clock)) {
                assert_eq!(joined(a, b).nodes, a.nodes, "seed {seed}");
            }
        }
    }
}

#[test]
fn what_one_replica_did_alone_comes_over_unchanged() {
    for seed in 0..1_000 {
        let mut plan: Plan = plan(seed);
        plan.away = None;
        for step in &mut plan.steps {
            step.let_one_act();
        }
        let mut world = World::new(&plan, Bug::None);
        world.forbid_repair = true;
        world
            .run(&plan.steps)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

#[test]
fn repair_of_what_a_join_touched_is_the_repair_of_all() {
    for seed in 0..1_500 {
        let plan = plan(seed);
        let mut world = World::new(&plan, Bug::None);
        world.compare = true;
        world
            .run(&plan.steps)
            .unwrap_or_else(|failure| panic!("seed {seed}: {failure}"));
    }
}

#[test]
fn a_repaired_state_needs_no_repair() {
    for seed in 0..500 {
        let all = commits(seed);
        let root = all[0].nodes.get(&NodeId::ROOT).unwrap();
        assert!(root.is_alive());
        for state in &all {
            assert_eq!(crate::world::repair_of_all(state), vec![], "seed {seed}");
        }
    }
}

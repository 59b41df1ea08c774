//! Bugs that are planted into what a replica has after a commit, so that the checkers can be checked.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_model::{Dot, Life, Node, Register, ReplicaId, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    None,
    /// Of equal values that two wrote, the dots of one are dropped.
    OneDotOfEqualValues,
    /// A delete beats a concurrent edit.
    DeleteBeatsEdit,
    /// Of contents side by side only one is kept, and no copy is made.
    OneContentOnly,
    /// What repair makes depends on who repairs.
    RepairOfItsOwn,
    /// A commit tells of more than it has.
    ClockAhead,
}

impl Bug {
    pub const ALL: [Self; 5] = [
        Self::OneDotOfEqualValues,
        Self::DeleteBeatsEdit,
        Self::OneContentOnly,
        Self::RepairOfItsOwn,
        Self::ClockAhead,
    ];

    /// What the bug makes of another's state before it is joined.
    pub fn in_what_is_joined(self, state: &State, ours: &State) -> State {
        let mut bad = state.clone();
        if self == Self::OneContentOnly {
            for (id, node) in state.nodes.iter() {
                let Some(here) = ours.nodes.get(id) else {
                    continue;
                };
                if here.content != node.content {
                    let mut node = node.as_ref().clone();
                    node.content = here.content.clone();
                    bad.nodes.set(*id, Some(Arc::new(node)));
                }
            }
        }
        bad
    }

    /// What the bug makes of a commit.
    pub fn in_a_commit(self, mut state: State, replica: ReplicaId) -> State {
        if self == Self::ClockAhead {
            let commit = state.clock.get(&replica) + 1;
            state.clock.include(Dot { replica, commit });
            return state;
        }
        let spoil: fn(&mut Node) = match self {
            Self::OneDotOfEqualValues => |node| {
                one_dot(&mut node.content);
                one_dot(&mut node.life);
                node.links.values_mut().for_each(one_dot);
            },
            Self::DeleteBeatsEdit => |node| {
                let deleted = |life: &&larder_model::Valued<Life>| life.value == Life::Deleted;
                if let Some(deleted) = node.life.0.iter().find(deleted).cloned() {
                    node.life = Register(vec![deleted]);
                }
            },
            _ => return state,
        };
        let nodes: Vec<_> = state
            .nodes
            .iter()
            .map(|(id, node)| (*id, node.clone()))
            .collect();
        for (id, node) in nodes {
            let mut spoiled = node.as_ref().clone();
            spoil(&mut spoiled);
            if spoiled != *node {
                state.nodes.set(id, Some(Arc::new(spoiled)));
            }
        }
        state
    }
}

fn one_dot<T>(register: &mut Register<T>) {
    for valued in &mut register.0 {
        if let Some(first) = valued.dots.first().copied() {
            valued.dots = BTreeSet::from([first]);
        }
    }
}

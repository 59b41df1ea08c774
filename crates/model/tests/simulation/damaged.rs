//! States that no replica makes, but that a damaged or hostile one may send: repair ends, and
//! leaves a tree in order.

use std::collections::BTreeSet;
use std::sync::Arc;

use larder_model::*;

use crate::check::{content, misplaced};
use crate::random::Random;
use crate::world::repair_of_all;

fn id(n: u64) -> NodeId {
    let mut id = [0; 16];
    id[15] = n as u8;
    NodeId(id)
}

fn dot(random: &mut Random) -> Dot {
    Dot {
        replica: ReplicaId([random.below(3) as u8; 32]),
        commit: random.below(4),
    }
}

fn register<T>(random: &mut Random, most: u64, value: impl Fn(&mut Random) -> T) -> Register<T> {
    let count = random.below(most + 1);
    let one = |_| Valued {
        value: value(random),
        dots: (0..random.below(3)).map(|_| dot(random)).collect(),
    };
    Register((0..count).map(one).collect())
}

fn link(random: &mut Random) -> Link {
    let name = ["a", "b", "a (conflict, R1, 1970-01-01)"][random.below(3) as usize];
    Link {
        place: Place {
            parent: id(random.below(9)),
            name: Name::new(name).unwrap(),
        },
        present: !random.one_in(3),
        time: Hlc([random.below(4), u64::MAX][usize::from(random.one_in(9))]),
    }
}

fn node(random: &mut Random) -> Node {
    let kinds = [Kind::File, Kind::Directory, Kind::Directory, Kind::Symlink];
    let links = random.below(4);
    Node {
        kind: kinds[random.below(4) as usize],
        life: register(random, 2, |random| match random.one_in(3) {
            true => Life::Deleted,
            false => Life::Alive,
        }),
        links: (0..links)
            .map(|_| (LinkId(random.below(3)), register(random, 2, link)))
            .collect(),
        attrs: register(random, 2, |random| Attrs {
            time: Hlc(random.below(3)),
            ..Attrs::default()
        }),
        content: register(random, 3, |random| content(random.below(4))),
    }
}

#[test]
fn repair_of_any_state_ends_and_leaves_a_tree_in_order() {
    for seed in 0..5_000 {
        let mut random = Random::new(seed);
        let nodes = (1..8).map(|n| (id(n), Arc::new(node(&mut random))));
        let mut nodes: Nodes = nodes.collect();
        let root = Node::new_root(Attrs::default(), dot(&mut random));
        nodes.set(NodeId::ROOT, Some(Arc::new(root)));
        let mut state = State {
            nodes,
            clock: Clock::new(),
        };
        let next = Dot {
            replica: ReplicaId([9; 32]),
            commit: 9,
        };
        for change in repair_of_all(&state) {
            let node = state
                .nodes
                .get(&change.node)
                .map(|node| node.as_ref().clone());
            let node = change.write.apply(node, next).map(Arc::new);
            state.nodes.set(change.node, node);
        }
        let ids: BTreeSet<_> = state.nodes.iter().map(|(id, _)| *id).collect();
        assert!(ids.len() >= 8);
        assert_eq!(misplaced(&state.nodes), None, "seed {seed}");
        assert_eq!(repair_of_all(&state), vec![], "seed {seed}");
    }
}

//! A replica's working state: what its next commit makes of the last.
//!
//! Changes carry the dot of the next commit at once: nobody else has it, so to every other clock
//! they are news. When a commit takes some paths only, what it leaves behind gets the dot of the
//! one after; for this each changed node's base is kept, the version without the changes. So
//! no dot is ever in the clock of a commit that does not have its change: others would take it
//! for overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::{
    Change, Clock, Dot, Joined, Kind, Naming, Node, NodeId, Nodes, ReplicaId, State, Touched,
    is_compactable, join, repair,
};

/// A replica's state with the changes that no commit has taken yet.
#[derive(Debug, Clone)]
pub struct Working {
    replica: ReplicaId,
    /// The nodes with the changes; what the last commit and the joins since include.
    state: State,
    /// The changed nodes, as they are without the changes.
    base: BTreeMap<NodeId, Option<Arc<Node>>>,
    /// Those of them that the next commit must take.
    bound: BTreeSet<NodeId>,
}

impl Working {
    /// Goes on from a committed state.
    pub fn new(replica: ReplicaId, state: State) -> Self {
        Self {
            replica,
            state,
            base: BTreeMap::new(),
            bound: BTreeSet::new(),
        }
    }

    /// All nodes, with the changes.
    pub fn nodes(&self) -> &Nodes {
        &self.state.nodes
    }

    /// The nodes with the changes, and what is included without them.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The dot of the next commit.
    pub fn dot(&self) -> Dot {
        self.state.clock.next(self.replica)
    }

    /// The nodes that no commit has as they are.
    pub fn changed(&self) -> impl Iterator<Item = &NodeId> {
        self.base.keys()
    }

    /// Adds a new node.
    pub fn add(&mut self, id: NodeId, node: Node) {
        self.set(id, node);
    }

    /// Changes a node; false if there is none.
    pub fn edit(&mut self, id: NodeId, edit: impl FnOnce(&mut Node, Dot)) -> bool {
        let Some(node) = self.state.nodes.get(&id) else {
            return false;
        };
        let mut edited = node.as_ref().clone();
        edit(&mut edited, self.dot());
        self.set(id, edited);
        true
    }

    fn set(&mut self, id: NodeId, node: Node) {
        let before = self.state.nodes.get(&id).cloned();
        self.base.entry(id).or_insert(before);
        self.state.nodes.set(id, Some(Arc::new(node)));
    }

    /// Joins another replica's committed state, and repairs what that left. The answer is what
    /// repair did. The next commit takes all that is changed now, since what repair
    /// did may rest on it.
    pub fn join(&mut self, theirs: &State, naming: &Naming<'_>) -> Vec<Change> {
        let mut clock = self.state.clock.clone();
        clock.join(&theirs.clock);
        self.redate(self.dot(), clock.next(self.replica));
        let touched = Touched::between(&self.state, theirs);
        self.join_bases(theirs);
        for (id, node) in &touched.nodes {
            self.state.nodes.set(*id, node.clone());
        }
        self.state.clock = clock;
        self.repair(&touched, naming)
    }

    /// Repairs what was changed in these nodes, and binds all changes to the next commit.
    pub fn repair(&mut self, touched: &Touched, naming: &Naming<'_>) -> Vec<Change> {
        let changes = match repair(&self.state.nodes, touched, naming) {
            Ok(changes) => changes,
            Err(never) => match never {},
        };
        let dot = self.dot();
        for change in &changes {
            let node = self.state.nodes.get(&change.node).cloned();
            let changed = change.write.apply(node.as_deref().cloned(), dot);
            self.base.entry(change.node).or_insert(node);
            self.state.nodes.set(change.node, changed.map(Arc::new));
        }
        self.bound = self.base.keys().copied().collect();
        changes
    }

    fn join_bases(&mut self, theirs: &State) {
        let mut bases = std::mem::take(&mut self.base);
        for (id, base) in &mut bases {
            let (a, b) = (base.as_ref(), theirs.nodes.get(id));
            *base = match join(self.state.side(&a), theirs.side(&b)) {
                Joined::Gone => None,
                Joined::Node(node) | Joined::Renew(node) => Some(Arc::new(node)),
            };
        }
        self.base = bases;
    }

    /// Makes a commit of all changes.
    pub fn commit(&mut self) -> State {
        let all = self.base.keys().copied().collect();
        self.commit_these(&all)
    }

    /// Makes a commit of the changes of some nodes, and of those without which it would not be a
    /// tree in order. All else is in it as in its base.
    pub fn commit_only(&mut self, wanted: &BTreeSet<NodeId>) -> State {
        let taken = self.with_what_they_need(wanted);
        self.commit_these(&taken)
    }

    fn commit_these(&mut self, taken: &BTreeSet<NodeId>) -> State {
        let dot = self.dot();
        let nodes = self.without_changes(|id| !taken.contains(id));
        self.state.clock.include(dot);
        self.base.retain(|id, _| !taken.contains(id));
        self.bound.clear();
        self.redate(dot, self.dot());
        State {
            nodes,
            clock: self.state.clock.clone(),
        }
    }

    /// Gives all changes another dot.
    fn redate(&mut self, from: Dot, to: Dot) {
        for id in self.base.keys().filter(|_| from != to) {
            if let Some(node) = self.state.nodes.get(id) {
                let mut node = node.as_ref().clone();
                node.redate(from, to);
                self.state.nodes.set(*id, Some(Arc::new(node)));
            }
        }
    }

    fn without_changes(&self, of: impl Fn(&NodeId) -> bool) -> Nodes {
        let mut nodes = self.state.nodes.clone();
        for (id, base) in self.base.iter().filter(|(id, _)| of(id)) {
            nodes.set(*id, base.clone());
        }
        nodes
    }

    /// The changed nodes that a commit of some of them takes: with each its directories above that
    /// are new or moved, whoever had its place before, and what was in a directory that goes.
    fn with_what_they_need(&self, wanted: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let bases = self.without_changes(|_| true);
        let mut waiting: BTreeSet<NodeId> = wanted.union(&self.bound).copied().collect();
        let mut taken = BTreeSet::new();
        while let Some(id) = waiting.pop_first() {
            let (Some(node), true) = (self.state.nodes.get(&id), self.base.contains_key(&id))
            else {
                continue;
            };
            if !taken.insert(id) {
                continue;
            }
            for (_, link) in node.names() {
                self.changed_above(link.place.parent, &mut waiting);
                let before = bases.named(&link.place.parent, &link.place.name);
                waiting.extend(before.map(|entry| entry.node));
            }
            if node.kind == Kind::Directory && !node.is_alive() {
                waiting.extend(bases.children(id).map(|entry| entry.node));
            }
        }
        taken
    }

    /// The directories from `at` up that have another place, or another life, than in their base.
    fn changed_above(&self, mut at: NodeId, found: &mut BTreeSet<NodeId>) {
        while let Some(node) = self.state.nodes.get(&at) {
            if let Some(base) = self.base.get(&at) {
                let same = base.as_ref().is_some_and(|base| {
                    base.is_alive() == node.is_alive() && base.names().eq(node.names())
                });
                if !same {
                    found.insert(at);
                }
            }
            match node.present_links().next() {
                Some((_, link)) => at = link.place.parent,
                None => return,
            }
        }
    }

    /// Forgets the deleted nodes that all members have seen, by the clocks of their joined states.
    pub fn compact(&mut self, members: &[&Clock]) {
        let own = self.state.clock.clone();
        let members = || members.iter().copied().chain([&own]);
        let forgotten: Vec<NodeId> = self
            .state
            .nodes
            .iter()
            .filter(|(id, node)| !self.base.contains_key(id) && is_compactable(node, members()))
            .map(|(id, _)| *id)
            .collect();
        for id in forgotten {
            self.state.nodes.set(id, None);
        }
    }
}

//! Joining: from two versions of the same thing, the one that includes both.
//!
//! No merge base is needed, since each value says who wrote it (its dots) and each side says
//! what it includes (its clock). A dot that both sides hold stays. A dot that one side holds
//! stays if the other side's clock does not cover it: it is news there. If it does cover it, the
//! other side had it and overwrote it. A value lives while it has a dot, and equal values are one
//! value with the dots of both. Nodes that are equal on both sides join to themselves, so only
//! those need a join in which two trees differ.
//!
//! **A node that one side lacks** was never there, or was deleted and compacted. The clock
//! tells: a dot that the lacking side's clock covers was there. If all dots are news, the node
//! is new. If none is, it is gone on purpose. If some are, somebody changed a node that others
//! had deleted and forgotten: it stays whole, and it must be *renewed* by repair (each
//! register gets a new dot). Else a third replica, whose clock covers the old dots and that lacks
//! them, would take its registers apart.
//!
//! Without compaction a join never leaves a register empty that was not so on both sides.
//! In its wake two sides can each lack what the other holds; then all values stay, since to
//! keep too much is a conflict that repair ends, and to keep nothing is a loss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::{Clock, Dot, Link, LinkId, Node, NodeId, Register, State, Valued};

/// A thing as one side has it, with what that side includes.
#[derive(Debug)]
pub struct Side<'a, T> {
    /// The thing.
    pub has: &'a T,
    /// What the side includes: every dot of the thing, and more.
    pub clock: &'a Clock,
}

impl<T> Clone for Side<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Side<'_, T> {}

impl<'a, T> Side<'a, T> {
    /// Something else of the same side.
    pub fn with<U>(self, has: &'a U) -> Side<'a, U> {
        Side {
            has,
            clock: self.clock,
        }
    }
}

/// What became of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Joined {
    /// It is gone: one side had deleted and compacted all that the other has.
    Gone,
    /// It is this.
    Node(Node),
    /// It is this, and one side had compacted a part of it: repair must renew it.
    Renew(Node),
}

/// Joins two versions of a register.
pub fn join_registers<T: Clone + Ord>(
    ours: Side<'_, Register<T>>,
    theirs: Side<'_, Register<T>>,
) -> Register<T> {
    let joined = join_or_empty(ours, theirs);
    if joined.0.is_empty() {
        return union(ours.has, theirs.has);
    }
    joined
}

fn join_or_empty<T: Clone + Ord>(
    ours: Side<'_, Register<T>>,
    theirs: Side<'_, Register<T>>,
) -> Register<T> {
    if ours.has == theirs.has {
        return ours.has.clone();
    }
    let mut joined = Register(Vec::new());
    for (from, other) in [(ours, theirs), (theirs, ours)] {
        for valued in &from.has.0 {
            let stays = |dot: &&Dot| !other.clock.covers(dot) || other.has.has_dot(dot);
            let dots: BTreeSet<Dot> = valued.dots.iter().filter(stays).copied().collect();
            joined.add(&valued.value, dots);
        }
    }
    joined.sort();
    joined
}

fn union<T: Clone + Ord>(ours: &Register<T>, theirs: &Register<T>) -> Register<T> {
    let mut all = Register(Vec::new());
    for valued in ours.0.iter().chain(&theirs.0) {
        all.add(&valued.value, valued.dots.clone());
    }
    all.sort();
    all
}

/// Joins two versions of a node.
pub fn join_nodes(ours: Side<'_, Node>, theirs: Side<'_, Node>) -> Node {
    let (a, b) = (ours.has, theirs.has);
    if a == b {
        return a.clone();
    }
    fn both<'a, T: Clone + Ord + 'a>(
        ours: Side<'a, Node>,
        theirs: Side<'a, Node>,
        register: impl Fn(&'a Node) -> &'a Register<T>,
    ) -> Register<T> {
        join_registers(
            ours.with(register(ours.has)),
            theirs.with(register(theirs.has)),
        )
    }
    Node {
        // It never differs, but what a damaged replica sends must not depend on who joins.
        kind: a.kind.min(b.kind),
        life: both(ours, theirs, |node| &node.life),
        links: join_links(ours, theirs),
        attrs: both(ours, theirs, |node| &node.attrs),
        content: both(ours, theirs, |node| &node.content),
    }
}

/// A link that one side lacks is as a register without values.
fn join_links(ours: Side<'_, Node>, theirs: Side<'_, Node>) -> BTreeMap<LinkId, Register<Link>> {
    let none = Register(Vec::new());
    let of = |side: &Side<'_, Node>, id: LinkId| -> Register<Link> {
        side.has.links.get(&id).unwrap_or(&none).clone()
    };
    let ids: BTreeSet<LinkId> = [ours, theirs]
        .iter()
        .flat_map(|side| side.has.links.keys().copied())
        .collect();
    let mut joined = BTreeMap::new();
    for &id in &ids {
        let link = join_or_empty(ours.with(&of(&ours, id)), theirs.with(&of(&theirs, id)));
        if !link.0.is_empty() {
            joined.insert(id, link);
        }
    }
    if joined.is_empty() {
        let all = |&id: &LinkId| (id, union(&of(&ours, id), &of(&theirs, id)));
        joined = ids.iter().map(all).collect();
    }
    joined
}

/// Joins what two sides have, or lack, of a node.
pub fn join(ours: Side<'_, Option<&Arc<Node>>>, theirs: Side<'_, Option<&Arc<Node>>>) -> Joined {
    match (ours.has, theirs.has) {
        (Some(a), Some(b)) => {
            Joined::Node(join_nodes(ours.with(a.as_ref()), theirs.with(b.as_ref())))
        }
        (Some(node), None) => join_with_absent(node, theirs.clock),
        (None, Some(node)) => join_with_absent(node, ours.clock),
        (None, None) => Joined::Gone,
    }
}

fn join_with_absent(node: &Node, lacking: &Clock) -> Joined {
    let (mut news, mut known) = (false, false);
    for dot in node.dots() {
        match lacking.covers(dot) {
            true => known = true,
            false => news = true,
        }
    }
    match (news, known) {
        (true, true) => Joined::Renew(node.clone()),
        (false, true) => Joined::Gone,
        (_, false) => Joined::Node(node.clone()),
    }
}

/// What a join does to a state.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// The nodes that change, as they become; `None` if gone.
    pub nodes: BTreeMap<NodeId, Option<Arc<Node>>>,
    /// Those of them that must be renewed.
    pub renew: BTreeSet<NodeId>,
}

impl Touched {
    /// What becomes of `ours` when it joins `theirs`.
    pub fn between(ours: &State, theirs: &State) -> Self {
        let mut touched = Self::default();
        let (a, b) = (ours.nodes.iter(), theirs.nodes.iter());
        let ids: BTreeSet<NodeId> = a.chain(b).map(|(id, _)| *id).collect();
        for id in ids {
            let (a, b) = (ours.nodes.get(&id), theirs.nodes.get(&id));
            if a != b {
                touched.take(id, a, join(ours.side(&a), theirs.side(&b)));
            }
        }
        touched
    }

    /// Takes in what became of a node. `before` is what the state has.
    pub fn take(&mut self, id: NodeId, before: Option<&Arc<Node>>, joined: Joined) {
        let node = match joined {
            Joined::Gone => None,
            Joined::Node(node) => Some(node),
            Joined::Renew(node) => {
                self.renew.insert(id);
                Some(node)
            }
        };
        if self.renew.contains(&id) || before.map(Arc::as_ref) != node.as_ref() {
            self.nodes.insert(id, node.map(Arc::new));
        }
    }
}

impl State {
    /// Something that this state has, or lacks.
    pub fn side<'a, T>(&'a self, has: &'a T) -> Side<'a, T> {
        Side {
            has,
            clock: &self.clock,
        }
    }

    /// Joins another state. What that leaves is for repair.
    pub fn join(&mut self, theirs: &Self) -> Touched {
        let touched = Touched::between(self, theirs);
        for (id, node) in &touched.nodes {
            self.nodes.set(*id, node.clone());
        }
        self.clock.join(&theirs.clock);
        touched
    }
}

impl<T> Register<T> {
    /// All dots of all values.
    pub fn dots(&self) -> impl Iterator<Item = &Dot> {
        self.0.iter().flat_map(|valued| &valued.dots)
    }

    /// Whether a value has this dot.
    pub fn has_dot(&self, dot: &Dot) -> bool {
        self.0.iter().any(|valued| valued.dots.contains(dot))
    }
}

impl<T: Clone + Ord> Register<T> {
    /// Adds dots to a value.
    pub(crate) fn add(&mut self, value: &T, dots: BTreeSet<Dot>) {
        if dots.is_empty() {
            return;
        }
        match self.0.iter_mut().find(|valued| &valued.value == value) {
            Some(valued) => valued.dots.extend(dots),
            None => self.0.push(Valued {
                value: value.clone(),
                dots,
            }),
        }
    }

    /// The order in which a register is written, so that equal registers are equal.
    pub(crate) fn sort(&mut self) {
        self.0
            .sort_by(|a, b| (&a.dots, &a.value).cmp(&(&b.dots, &b.value)));
    }
}

impl Node {
    /// All dots of all registers.
    pub fn dots(&self) -> impl Iterator<Item = &Dot> {
        let links = self.links.values().flat_map(Register::dots);
        self.life
            .dots()
            .chain(links)
            .chain(self.attrs.dots())
            .chain(self.content.dots())
    }
}

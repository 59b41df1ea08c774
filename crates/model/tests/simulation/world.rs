//! The replicas, what users do on them, and what is owed to the users.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use larder_model::*;

use crate::check::{content, contents, disorder, target, token};
use crate::planted::Bug;
use crate::steps::{Plan, Step};

/// Contents below this number may be written more than once.
const SHARED: u64 = 4;
const MOST_REPAIR_ROUNDS: usize = 2;

/// What is wrong.
#[derive(Debug, Clone)]
pub enum Failure {
    Disorder(String),
    Apart(String),
    Lost(String),
    Twice(String),
    Rounds(usize),
    Repairs(String),
}

impl Failure {
    /// So that a shorter sequence fails in the same way.
    pub fn kind(&self) -> u8 {
        match self {
            Self::Disorder(_) => 0,
            Self::Apart(_) => 1,
            Self::Lost(_) => 2,
            Self::Twice(_) => 3,
            Self::Rounds(_) => 4,
            Self::Repairs(_) => 5,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disorder(what) => write!(f, "the tree is not in order: {what}"),
            Self::Apart(what) => write!(f, "the replicas stay apart: {what}"),
            Self::Lost(what) => write!(f, "a content is lost: {what}"),
            Self::Twice(what) => write!(f, "a content is there twice: {what}"),
            Self::Rounds(rounds) => write!(f, "it took {rounds} rounds of repair"),
            Self::Repairs(what) => write!(f, "repair of a part and of all differ: {what}"),
        }
    }
}

/// What happened, in numbers.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub joins: u64,
    pub repairs: u64,
    pub copies: u64,
    pub renamed: u64,
    pub merged: u64,
    pub revived: u64,
    pub to_root: u64,
    pub renewed: u64,
    pub once: u64,
    pub forgotten: u64,
    pub partial: u64,
    pub twice: u64,
    pub rounds: [u64; MOST_REPAIR_ROUNDS + 1],
}

impl Outcome {
    pub fn parts(&self) -> [(&'static str, u64); 11] {
        [
            ("a join", self.joins),
            ("a repair", self.repairs),
            ("a conflict copy", self.copies),
            ("another place", self.renamed),
            ("a place in the root", self.to_root),
            ("one link of two", self.once),
            ("a merge", self.merged),
            ("a new node or a revival", self.revived),
            ("a renewal", self.renewed),
            ("a compaction", self.forgotten),
            ("a partial commit", self.partial),
        ]
    }

    fn count(&mut self, change: &Change) {
        let count = match &change.write {
            Write::New(_) => &mut self.copies,
            Write::Life(Life::Alive) => &mut self.revived,
            Write::Life(Life::Deleted) => &mut self.merged,
            Write::Renew => &mut self.renewed,
            Write::Link(_, link) if !link.present => &mut self.once,
            Write::Link(_, link) if link.place.parent == NodeId::ROOT => &mut self.to_root,
            Write::Link(..) => &mut self.renamed,
            _ => return,
        };
        *count += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.joins += other.joins;
        self.repairs += other.repairs;
        self.copies += other.copies;
        self.renamed += other.renamed;
        self.merged += other.merged;
        self.revived += other.revived;
        self.to_root += other.to_root;
        self.renewed += other.renewed;
        self.once += other.once;
        self.forgotten += other.forgotten;
        self.partial += other.partial;
        self.twice += other.twice;
        for (sum, rounds) in self.rounds.iter_mut().zip(other.rounds) {
            *sum += rounds;
        }
    }
}

struct Replica {
    id: ReplicaId,
    working: Working,
    /// Its commits, the newest last, each with its time.
    commits: Vec<(Arc<State>, Hlc)>,
    /// The clocks of the states of others that were joined.
    joined: Vec<Clock>,
    time: Hlc,
    skew: Option<u64>,
}

pub struct World {
    replicas: Vec<Replica>,
    away: Option<(usize, usize)>,
    at_once: bool,
    bug: Bug,
    /// Whether each repair is compared with that of the whole state.
    pub compare: bool,
    /// Whether a repair is a failure.
    pub forbid_repair: bool,
    now: u64,
    done: usize,
    made: u64,
    written: BTreeSet<u64>,
    /// Contents that somebody overwrote or deleted who saw them.
    given_up: BTreeSet<u64>,
    outcome: Outcome,
}

fn replica_id(at: usize) -> ReplicaId {
    ReplicaId([at as u8 + 1; 32])
}

fn hash(bytes: &[u8], salt: u64) -> [u8; 32] {
    let mut hash = [0; 32];
    for (part, at) in hash.chunks_mut(8).zip(0u64..) {
        let mut hasher = DefaultHasher::new();
        (bytes, at, salt).hash(&mut hasher);
        part.copy_from_slice(&hasher.finish().to_le_bytes());
    }
    hash
}

fn name_of(replica: &ReplicaId) -> String {
    format!("R{}", replica.0[0])
}

/// What repair makes of a state as if all of it were new.
pub fn repair_of_all(state: &State) -> Vec<Change> {
    let all = state.nodes.iter();
    let all = Touched {
        nodes: all.map(|(id, node)| (*id, Some(node.clone()))).collect(),
        ..Touched::default()
    };
    let naming = Naming {
        replica: &name_of,
        hash: &|bytes| hash(bytes, 0),
    };
    repair(&Nodes::default(), &all, &naming).unwrap()
}

/// The repair of what a join touched, and that of the whole joined state.
fn both_repairs(ours: &State, theirs: &State, naming: &Naming<'_>) -> (Vec<Change>, Vec<Change>) {
    let touched = Touched::between(ours, theirs);
    let part = repair(&ours.nodes, &touched, naming).unwrap();
    let mut joined = ours.clone();
    joined.join(theirs);
    let all = joined.nodes.iter();
    let all = Touched {
        nodes: all.map(|(id, node)| (*id, Some(node.clone()))).collect(),
        renew: touched.renew,
    };
    (part, repair(&Nodes::default(), &all, naming).unwrap())
}

impl World {
    pub fn new(plan: &Plan, bug: Bug) -> Self {
        let first = Dot {
            replica: ReplicaId([99; 32]),
            commit: 1,
        };
        let root = Node::new_root(Attrs::default(), first);
        let state = State {
            nodes: [(NodeId::ROOT, Arc::new(root))].into_iter().collect(),
            clock: [first].into_iter().collect(),
        };
        let replicas = plan.skew.iter().enumerate().map(|(at, &skew)| Replica {
            id: replica_id(at),
            working: Working::new(replica_id(at), state.clone()),
            commits: vec![(Arc::new(state.clone()), Hlc(0))],
            joined: vec![state.clock.clone(); plan.replicas],
            time: Hlc(1),
            skew,
        });
        Self {
            replicas: replicas.collect(),
            away: plan.away,
            at_once: plan.at_once,
            bug,
            compare: false,
            forbid_repair: false,
            now: 10,
            done: 0,
            made: SHARED,
            written: BTreeSet::new(),
            given_up: BTreeSet::new(),
            outcome: Outcome::default(),
        }
    }

    pub fn run(mut self, steps: &[Step]) -> Result<Outcome, Failure> {
        for (step, done) in steps.iter().zip(0..) {
            self.now += 1;
            self.done = done;
            self.act(step)?;
        }
        self.settle()?;
        self.check_contents()?;
        Ok(self.outcome)
    }

    /// The commits of all replicas after some steps.
    pub fn commits(mut self, steps: &[Step]) -> Result<Vec<Arc<State>>, Failure> {
        for (step, done) in steps.iter().zip(0..) {
            self.now += 1;
            self.done = done;
            self.act(step)?;
        }
        let commits = self
            .replicas
            .into_iter()
            .flat_map(|replica| replica.commits);
        Ok(commits.map(|(state, _)| state).collect())
    }

    fn act(&mut self, step: &Step) -> Result<(), Failure> {
        match *step {
            Step::File {
                who,
                parent,
                name,
                shared,
            } => {
                let token = self.token(shared);
                self.create(who, parent, name, Kind::File, content(token));
            }
            Step::Symlink { who, parent, name } => {
                let token = self.token(false);
                self.create(who, parent, name, Kind::Symlink, target(token));
            }
            Step::Directory { who, parent, name } => {
                self.create(who, parent, name, Kind::Directory, Content::None);
            }
            Step::Write { who, node, shared } => self.write(who, node, shared),
            Step::Mode { who, node } => self.attrs(who, node, true),
            Step::Touch { who, node } => self.attrs(who, node, false),
            Step::Move {
                who,
                node,
                parent,
                name,
            } => self.relocate(who, node, parent, name),
            Step::Link {
                who,
                node,
                parent,
                name,
            } => self.link(who, node, parent, name),
            Step::Remove { who, node } => self.remove(who, node),
            Step::Commit { who } => self.commit(who)?,
            Step::CommitSome { who, which } => self.commit_some(who, which)?,
            Step::Join {
                who,
                from,
                back,
                commits,
            } => {
                if who != from && !self.is_away(who) && !self.is_away(from) {
                    for (bit, at) in [(1, from), (2, who)] {
                        if commits & bit != 0 {
                            self.commit(at)?;
                        }
                    }
                    self.join(who, from, back)?;
                }
            }
            Step::Compact { who } => self.compact(who),
        }
        Ok(())
    }

    fn is_away(&self, at: usize) -> bool {
        self.away
            .is_some_and(|(who, since)| who == at && since <= self.done)
    }

    // What users do.

    fn token(&mut self, shared: bool) -> u64 {
        if shared {
            return self.now % SHARED;
        }
        self.made += 1;
        self.made
    }

    fn time(&mut self, who: usize) -> Hlc {
        let now = self.now;
        let replica = &mut self.replicas[who];
        let wall = replica.skew.map_or(5, |skew| now + skew);
        replica.time = replica.time.next(wall);
        replica.time
    }

    /// The live nodes of one kind or of all, without the root, counted around.
    fn pick(&self, who: usize, at: u64, of: impl Fn(&Node) -> bool) -> Option<NodeId> {
        let nodes = self.replicas[who].working.nodes();
        let live: Vec<NodeId> = nodes
            .iter()
            .filter(|(id, node)| **id != NodeId::ROOT && node.is_alive() && of(node))
            .map(|(id, _)| *id)
            .collect();
        let at = at.checked_rem(live.len() as u64)?;
        live.get(at as usize).copied()
    }

    fn directory(&self, who: usize, at: u64) -> NodeId {
        match at % 3 {
            0 => NodeId::ROOT,
            _ => self
                .pick(who, at / 3, |node| node.kind == Kind::Directory)
                .unwrap_or(NodeId::ROOT),
        }
    }

    fn place(&self, who: usize, parent: u64, name: u64) -> Place {
        let names = ["a", "b", "c.txt"];
        Place {
            parent: self.directory(who, parent),
            name: Name::new(names[name as usize % names.len()]).unwrap(),
        }
    }

    fn at(&self, who: usize, place: &Place) -> Option<(NodeId, LinkId)> {
        let nodes = self.replicas[who].working.nodes();
        let entry = nodes.named(&place.parent, &place.name).next()?;
        Some((entry.node, entry.link))
    }

    fn create(&mut self, who: usize, parent: u64, name: u64, kind: Kind, content: Content) {
        let place = self.place(who, parent, name);
        if self.at(who, &place).is_some() {
            return;
        }
        let time = self.time(who);
        self.written
            .extend(token(&content).filter(|token| *token > SHARED));
        let attrs = Attrs {
            time,
            ..Attrs::default()
        };
        let mut id = [0; 16];
        id[..6].copy_from_slice(&self.now.to_be_bytes()[2..]);
        id[8] = who as u8;
        let working = &mut self.replicas[who].working;
        let dot = working.dot();
        working.add(NodeId(id), Node::new(kind, place, attrs, content, dot));
    }

    fn write(&mut self, who: usize, node: u64, shared: bool) {
        let Some(id) = self.pick(who, node, |node| node.kind == Kind::File) else {
            return;
        };
        let new = self.token(shared);
        let time = self.time(who);
        self.give_up(who, id);
        if new > SHARED {
            self.written.insert(new);
        }
        self.replicas[who].working.edit(id, |node, dot| {
            node.write_content(content(new), dot);
            let attrs = Attrs {
                mtime: Time(time.0 as i64),
                time,
                ..node.attrs().cloned().unwrap()
            };
            node.write_attrs(attrs, dot);
        });
    }

    fn give_up(&mut self, who: usize, id: NodeId) {
        let node = self.replicas[who].working.nodes().get(&id);
        let seen = node.and_then(|node| node.content()).and_then(token);
        self.given_up.extend(seen);
    }

    fn attrs(&mut self, who: usize, node: u64, mode: bool) {
        let Some(id) = self.pick(who, node, |_| true) else {
            return;
        };
        let time = self.time(who);
        self.replicas[who].working.edit(id, |node, dot| {
            let mut attrs = node.attrs().cloned().unwrap();
            attrs.time = time;
            match mode {
                true => attrs.mode = time.0 as u32 & 0o777,
                false => attrs.mtime = Time(time.0 as i64),
            }
            node.write_attrs(attrs, dot);
        });
    }

    fn is_inside(&self, who: usize, at: NodeId, directory: NodeId) -> bool {
        let nodes = self.replicas[who].working.nodes();
        let mut at = at;
        while at != NodeId::ROOT {
            if at == directory {
                return true;
            }
            match nodes
                .get(&at)
                .and_then(|node| node.names().next().map(|n| n.1.clone()))
            {
                Some(link) => at = link.place.parent,
                None => return false,
            }
        }
        false
    }

    /// Renames, over what is there as a file system does it.
    fn relocate(&mut self, who: usize, node: u64, parent: u64, name: u64) {
        let Some(id) = self.pick(who, node, |_| true) else {
            return;
        };
        let place = self.place(who, parent, name);
        if self.is_inside(who, place.parent, id) || !self.make_room(who, id, &place) {
            return;
        }
        let time = self.time(who);
        self.replicas[who].working.edit(id, |moved, dot| {
            let links: Vec<LinkId> = moved.names().map(|(link, _)| link).collect();
            let link = links[node as usize / 7 % links.len()];
            moved.write_link(link, place, time, dot);
        });
    }

    fn make_room(&mut self, who: usize, id: NodeId, place: &Place) -> bool {
        let Some((there, link)) = self.at(who, place) else {
            return true;
        };
        let nodes = self.replicas[who].working.nodes();
        let is_directory = |id| {
            nodes
                .get(id)
                .is_some_and(|node| node.kind == Kind::Directory)
        };
        if there == id
            || is_directory(&there) != is_directory(&id)
            || nodes.children(there).next().is_some()
        {
            return false;
        }
        self.unlink(who, there, link);
        true
    }

    fn link(&mut self, who: usize, node: u64, parent: u64, name: u64) {
        let Some(id) = self.pick(who, node, |node| node.kind != Kind::Directory) else {
            return;
        };
        let place = self.place(who, parent, name);
        if self.at(who, &place).is_some() {
            return;
        }
        let time = self.time(who);
        let link = LinkId(self.now << 8 | who as u64);
        self.replicas[who]
            .working
            .edit(id, |node, dot| node.write_link(link, place, time, dot));
    }

    fn remove(&mut self, who: usize, node: u64) {
        let Some(id) = self.pick(who, node, |_| true) else {
            return;
        };
        let named = self.replicas[who]
            .working
            .nodes()
            .get(&id)
            .cloned()
            .unwrap();
        let links: Vec<LinkId> = named.names().map(|(link, _)| link).collect();
        self.remove_all(who, id, links[node as usize / 7 % links.len()]);
    }

    fn remove_all(&mut self, who: usize, id: NodeId, link: LinkId) {
        let nodes = self.replicas[who].working.nodes();
        let children: Vec<Entry> = nodes.children(id).cloned().collect();
        for entry in children {
            self.remove_all(who, entry.node, entry.link);
        }
        self.unlink(who, id, link);
    }

    fn unlink(&mut self, who: usize, id: NodeId, link: LinkId) {
        let nodes = self.replicas[who].working.nodes();
        let names = nodes.get(&id).map_or(0, |node| node.names().count());
        let time = self.time(who);
        if names > 1 {
            let working = &mut self.replicas[who].working;
            working.edit(id, |node, dot| node.remove_link(link, time, dot));
            return;
        }
        self.give_up(who, id);
        self.replicas[who].working.edit(id, Node::delete);
    }

    // What replicas do.

    fn commit(&mut self, who: usize) -> Result<(), Failure> {
        let state = self.replicas[who].working.commit();
        self.publish(who, state, true)
    }

    fn commit_some(&mut self, who: usize, which: u64) -> Result<(), Failure> {
        let changed: Vec<NodeId> = self.replicas[who].working.changed().copied().collect();
        let some: BTreeSet<NodeId> = changed
            .iter()
            .enumerate()
            .filter(|(at, _)| which >> (at % 64) & 1 == 1)
            .map(|(_, id)| *id)
            .collect();
        let state = self.replicas[who].working.commit_only(&some);
        let left = self.replicas[who].working.changed().count();
        self.outcome.partial += u64::from(left > 0);
        self.publish(who, state, left == 0)
    }

    fn publish(&mut self, who: usize, state: State, whole: bool) -> Result<(), Failure> {
        if let Some(what) = disorder(&state.nodes) {
            return Err(Failure::Disorder(format!("a commit of {who}: {what}")));
        }
        let replica = &mut self.replicas[who];
        let state = match self.bug {
            Bug::None => state,
            bug => {
                let bad = bug.in_a_commit(state, replica.id);
                if whole && bug != Bug::ClockAhead {
                    replica.working = Working::new(replica.id, bad.clone());
                }
                bad
            }
        };
        replica.joined[who] = state.clock.clone();
        replica.commits.push((Arc::new(state), replica.time));
        Ok(())
    }

    fn join(&mut self, who: usize, from: usize, back: usize) -> Result<bool, Failure> {
        let theirs = &self.replicas[from].commits;
        let at = theirs.len().saturating_sub(1 + back);
        let (state, time) = theirs[at].clone();
        self.join_state(who, from, &state, time)
    }

    fn join_state(
        &mut self,
        who: usize,
        from: usize,
        theirs: &State,
        time: Hlc,
    ) -> Result<bool, Failure> {
        let salt = match self.bug {
            Bug::RepairOfItsOwn => who as u64,
            _ => 0,
        };
        let bug = self.bug;
        let replica = &mut self.replicas[who];
        let spoiled;
        let theirs = match bug {
            Bug::OneContentOnly => {
                spoiled = bug.in_what_is_joined(theirs, replica.working.state());
                &spoiled
            }
            _ => theirs,
        };
        let hash = |bytes: &[u8]| hash(bytes, salt);
        let naming = Naming {
            replica: &name_of,
            hash: &hash,
        };
        if self.compare {
            let (found, whole) = both_repairs(replica.working.state(), theirs, &naming);
            if found != whole {
                let what = format!("{who} joins {from}: {found:?}, of all nodes: {whole:?}");
                return Err(Failure::Repairs(what));
            }
        }
        let changes = replica.working.join(theirs, &naming);
        replica.joined[from].join(&theirs.clock);
        replica.time = replica.time.max(time);
        self.outcome.joins += 1;
        self.outcome.repairs += u64::from(!changes.is_empty());
        changes.iter().for_each(|change| self.outcome.count(change));
        if self.forbid_repair && !changes.is_empty() {
            return Err(Failure::Repairs(format!("{who} joins {from}: {changes:?}")));
        }
        if let Some(what) = disorder(self.replicas[who].working.nodes()) {
            return Err(Failure::Disorder(format!("{who} joins {from}: {what}")));
        }
        Ok(!changes.is_empty())
    }

    fn compact(&mut self, who: usize) {
        let away: Vec<bool> = (0..self.replicas.len())
            .map(|at| self.is_away(at))
            .collect();
        let replica = &mut self.replicas[who];
        let members: Vec<&Clock> = replica
            .joined
            .iter()
            .enumerate()
            .filter(|(at, _)| !away[*at])
            .map(|(_, clock)| clock)
            .collect();
        let before = replica.working.nodes().iter().count();
        replica.working.compact(&members);
        let after = replica.working.nodes().iter().count();
        self.outcome.forgotten += (before - after) as u64;
    }

    // What must come of it.

    /// All meet, again and again, until nothing changes.
    fn settle(&mut self) -> Result<(), Failure> {
        let mut repairs = 0;
        for who in 0..self.replicas.len() {
            self.commit(who)?;
        }
        for _ in 0..12 {
            let repaired = self.round()?;
            let first = &self.replicas[0].commits;
            let first = &first[first.len() - 1].0.nodes;
            let same = self.replicas.iter().all(|replica| {
                let last = &replica.commits[replica.commits.len() - 1].0;
                &last.nodes == first
            });
            if same && !repaired {
                self.outcome.rounds[repairs] += 1;
                return Ok(());
            }
            repairs += usize::from(repaired);
            if repairs > MOST_REPAIR_ROUNDS {
                return Err(Failure::Rounds(repairs));
            }
        }
        Err(Failure::Apart(self.difference()))
    }

    fn round(&mut self) -> Result<bool, Failure> {
        self.now += 1;
        let last = |replica: &Replica| replica.commits[replica.commits.len() - 1].clone();
        let begin: Vec<_> = self.replicas.iter().map(last).collect();
        let mut repaired = false;
        for who in 0..self.replicas.len() {
            for from in (0..self.replicas.len()).filter(|from| *from != who) {
                let (state, time) = match self.at_once {
                    true => begin[from].clone(),
                    false => last(&self.replicas[from]),
                };
                repaired |= self.join_state(who, from, &state, time)?;
            }
            self.commit(who)?;
        }
        Ok(repaired)
    }

    fn difference(&self) -> String {
        let nodes = |at: usize| {
            &self.replicas[at].commits[self.replicas[at].commits.len() - 1]
                .0
                .nodes
        };
        let mut words = String::new();
        for at in 1..self.replicas.len() {
            let ids: BTreeSet<_> = nodes(0)
                .iter()
                .chain(nodes(at).iter())
                .map(|(id, _)| *id)
                .collect();
            for id in ids {
                let (a, b) = (nodes(0).get(&id), nodes(at).get(&id));
                if a != b {
                    words += &format!("\n0 has {id} as {a:?}\n{at} has it as {b:?}");
                }
            }
        }
        words
    }

    fn check_contents(&mut self) -> Result<(), Failure> {
        let commits = &self.replicas[0].commits;
        let there = contents(&commits[commits.len() - 1].0.nodes);
        let kept: BTreeMap<_, _> = there.iter().filter(|(token, _)| **token > SHARED).collect();
        for token in self.written.difference(&self.given_up) {
            if !kept.contains_key(token) {
                return Err(Failure::Lost(format!("{token}")));
            }
        }
        if let Some((token, nodes)) = kept.iter().find(|(_, nodes)| nodes.len() > 1) {
            // Three can each make the same copy, and one of them edit it before they meet: then a
            // content may be there once more than it must. That is rare, and loses nothing.
            self.outcome.twice += 1;
            if self.replicas.len() == 2 {
                return Err(Failure::Twice(format!("{token} in {nodes:?}")));
            }
        }
        Ok(())
    }
}

//! What users wrote, and what became of it: so that at the end nobody has lost anything.

use std::collections::{BTreeMap, BTreeSet};

use crate::marks::{Found, Mark};
use crate::tree::Tree;

#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    /// A commit that has it is stored, as its machine was told.
    is_acknowledged: bool,
    /// Somebody who had it before him overwrote or deleted it.
    is_given_up: bool,
}

/// What was written.
#[derive(Debug, Default)]
pub struct Ledger {
    fates: BTreeMap<Mark, Fate>,
    /// By machine, what it wrote and no commit is known to have.
    open: BTreeMap<usize, BTreeSet<Mark>>,
    next: Mark,
}

impl Ledger {
    /// A number for a new record.
    pub fn new_mark(&mut self) -> Mark {
        self.next += 1;
        self.next
    }

    /// A machine wrote this.
    pub fn wrote(&mut self, who: usize, mark: Mark) {
        self.fates.insert(mark, Fate::default());
        self.open.entry(who).or_default().insert(mark);
    }

    /// Somebody gave up what was there.
    pub fn gave_up(&mut self, found: &Found) {
        for mark in found.marks() {
            self.fates.entry(mark).or_default().is_given_up = true;
        }
    }

    /// What a commit of this machine that begins now must have.
    pub fn open_of(&self, who: usize) -> BTreeSet<Mark> {
        self.open.get(&who).cloned().unwrap_or_default()
    }

    /// A commit that must have these is stored.
    pub fn acknowledged(&mut self, who: usize, marks: &BTreeSet<Mark>) {
        for mark in marks {
            self.fates.entry(*mark).or_default().is_acknowledged = true;
            self.open.entry(who).or_default().remove(mark);
        }
    }

    /// The machine was killed: what no commit has may be gone.
    pub fn killed(&mut self, who: usize) {
        self.open.remove(&who);
    }

    /// Whether this must be there at the end.
    pub fn is_owed(&self, mark: Mark) -> bool {
        let fate = self.fates.get(&mark);
        fate.is_some_and(|fate| fate.is_acknowledged && !fate.is_given_up)
    }

    /// How many records a stored commit has.
    pub fn count_acknowledged(&self) -> usize {
        let fates = self.fates.values();
        fates.filter(|fate| fate.is_acknowledged).count()
    }

    /// What was acknowledged, was given up by nobody, and is not in the tree.
    pub fn lost(&self, tree: &Tree) -> Vec<Mark> {
        let mut there = BTreeSet::new();
        for shown in tree.values() {
            there.extend(crate::marks::find(&shown.content).marks());
        }
        let fates = self.fates.iter();
        fates
            .filter(|(mark, fate)| {
                fate.is_acknowledged && !fate.is_given_up && !there.contains(mark)
            })
            .map(|(mark, _)| *mark)
            .collect()
    }
}

//! Who wrote what, and in which order: dots, clocks, hybrid logical time.

use std::collections::BTreeMap;

use crate::ReplicaId;

/// Who last wrote a part of a node: a replica, at one of its commits (counted from 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dot {
    /// The replica that wrote.
    pub replica: ReplicaId,
    /// The commit of that replica that carried the change, from 1.
    pub commit: u64,
}

/// A version vector: for each replica, the last of its commits that is included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clock(BTreeMap<ReplicaId, u64>);

impl Clock {
    /// The clock that includes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last commit of `replica` that is included; 0 if none is.
    pub fn get(&self, replica: &ReplicaId) -> u64 {
        self.0.get(replica).copied().unwrap_or(0)
    }

    /// Whether the change with this dot is included.
    pub fn covers(&self, dot: &Dot) -> bool {
        dot.commit <= self.get(&dot.replica)
    }

    /// Includes all that `dot.replica` did up to `dot.commit`.
    pub fn include(&mut self, dot: Dot) {
        let last = self.0.entry(dot.replica).or_insert(0);
        *last = (*last).max(dot.commit);
    }

    /// Includes all that `other` includes.
    pub fn join(&mut self, other: &Self) {
        for (&replica, &commit) in &other.0 {
            self.include(Dot { replica, commit });
        }
    }

    /// Whether all that `other` includes is included here.
    pub fn includes(&self, other: &Self) -> bool {
        other.iter().all(|dot| self.covers(&dot))
    }

    /// The dot of the next commit of `replica`, which includes all that is included here. Its
    /// number is above that of every included commit, of others too: so numbers never go
    /// against the order in which things were seen. They may leave gaps.
    pub fn next(&self, replica: ReplicaId) -> Dot {
        let last = self.0.values().copied().max().unwrap_or(0);
        Dot {
            replica,
            commit: last.saturating_add(1),
        }
    }

    /// The last included dot of each replica, by replica id.
    pub fn iter(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0
            .iter()
            .map(|(&replica, &commit)| Dot { replica, commit })
    }
}

impl FromIterator<Dot> for Clock {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut clock = Self::new();
        dots.into_iter().for_each(|dot| clock.include(dot));
        clock
    }
}

/// Hybrid logical time: wall nanoseconds since 1970, never going back on one replica and
/// never behind what it has seen, whatever the wall clock does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The time of the next event, when the wall clock shows `wall_nanos` and `self` was
    /// the last event known.
    pub fn next(self, wall_nanos: u64) -> Self {
        Self(wall_nanos.max(self.0.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ReplicaId = ReplicaId([1; 32]);
    const B: ReplicaId = ReplicaId([2; 32]);

    fn dot(replica: ReplicaId, commit: u64) -> Dot {
        Dot { replica, commit }
    }

    #[test]
    fn a_clock_covers_what_it_includes_and_no_more() {
        let clock: Clock = [dot(A, 3)].into_iter().collect();
        assert!(clock.covers(&dot(A, 3)) && clock.covers(&dot(A, 1)));
        assert!(!clock.covers(&dot(A, 4)) && !clock.covers(&dot(B, 1)));
    }

    #[test]
    fn joined_clocks_include_both() {
        let a: Clock = [dot(A, 3), dot(B, 1)].into_iter().collect();
        let b: Clock = [dot(A, 2), dot(B, 5)].into_iter().collect();
        let mut both = a.clone();
        both.join(&b);
        assert!(both.includes(&a) && both.includes(&b));
        assert!(!a.includes(&b) && !b.includes(&a));
    }

    #[test]
    fn the_next_commit_has_a_number_above_all_that_it_includes() {
        let clock: Clock = [dot(A, 3), dot(B, 7)].into_iter().collect();
        assert_eq!(clock.next(A), dot(A, 8));
        assert_eq!(Clock::new().next(A), dot(A, 1));
    }

    #[test]
    fn time_never_goes_back_when_the_wall_clock_does() {
        let last = Hlc(1_000).next(5_000);
        assert!(last.next(10) > last);
    }
}

//! What happens in a sequence, as plain numbers, so that steps can be left out.

use std::fmt;

use crate::random::Random;

/// One act of one replica. `at`, `node` and `parent` count among what there is at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    File {
        who: usize,
        parent: u64,
        name: u64,
        shared: bool,
    },
    Symlink {
        who: usize,
        parent: u64,
        name: u64,
    },
    Directory {
        who: usize,
        parent: u64,
        name: u64,
    },
    Write {
        who: usize,
        node: u64,
        shared: bool,
    },
    Mode {
        who: usize,
        node: u64,
    },
    Touch {
        who: usize,
        node: u64,
    },
    Move {
        who: usize,
        node: u64,
        parent: u64,
        name: u64,
    },
    Link {
        who: usize,
        node: u64,
        parent: u64,
        name: u64,
    },
    /// One name of a file, or all of a directory.
    Remove {
        who: usize,
        node: u64,
    },
    Commit {
        who: usize,
    },
    /// Of some of the changed nodes, by the bits.
    CommitSome {
        who: usize,
        which: u64,
    },
    /// With what another has committed, or had `back` commits ago. Who meets commits first, the
    /// bits say which of the two.
    Join {
        who: usize,
        from: usize,
        back: usize,
        commits: u64,
    },
    Compact {
        who: usize,
    },
}

impl Step {
    /// Whatever is done to files is done by the first replica.
    pub fn let_one_act(&mut self) {
        match self {
            Self::File { who, .. }
            | Self::Symlink { who, .. }
            | Self::Directory { who, .. }
            | Self::Write { who, .. }
            | Self::Mode { who, .. }
            | Self::Touch { who, .. }
            | Self::Move { who, .. }
            | Self::Link { who, .. }
            | Self::Remove { who, .. } => *who = 0,
            Self::Commit { .. }
            | Self::CommitSome { .. }
            | Self::Join { .. }
            | Self::Compact { .. } => {}
        }
    }
}

/// A sequence, and what is the same all through it.
#[derive(Debug, Clone)]
pub struct Plan {
    pub replicas: usize,
    /// Who is no member from which step on: it meets nobody before the end, nobody waits for it.
    pub away: Option<(usize, usize)>,
    /// How far each wall clock is off; `None`: it stands still.
    pub skew: Vec<Option<u64>>,
    /// At the end, in each round: all join what the others had when it began, or one after
    /// another what they have now.
    pub at_once: bool,
    pub steps: Vec<Step>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            replicas,
            away,
            skew,
            at_once,
            steps,
        } = self;
        writeln!(
            f,
            "{} steps of {replicas} replicas, away {away:?}, skew {skew:?}, at once {at_once}:",
            steps.len()
        )?;
        steps.iter().try_for_each(|step| writeln!(f, "  {step:?}"))
    }
}

pub fn plan(seed: u64) -> Plan {
    let mut random = Random::new(seed);
    let replicas = 2 + random.below(3) as usize;
    let skew = |random: &mut Random| match random.below(6) {
        0 => None,
        1 => Some(random.below(1 << 50)),
        _ => Some(random.below(20)),
    };
    let skew = (0..replicas).map(|_| skew(&mut random)).collect();
    let at_once = random.one_in(2);
    let count = 6 + random.below(50);
    let away = random.one_in(2).then(|| {
        let since = random.below(count) as usize;
        (random.below(replicas as u64) as usize, since)
    });
    // Some sequences meet often, some rarely.
    let meets = 3 + random.below(20);
    let theme = THEMES[random.below(4) as usize];
    let steps = (0..count)
        .map(|_| step(&mut random, replicas as u64, &theme, meets))
        .collect();
    Plan {
        replicas,
        away,
        skew,
        at_once,
        steps,
    }
}

/// How often each kind of step comes, in the order of `step`: of everything, mostly of contents, of
/// directories, of what is deleted and forgotten.
const THEMES: [[u64; 12]; 4] = [
    [4, 1, 4, 4, 1, 1, 5, 1, 3, 1, 1, 1],
    [4, 1, 1, 9, 1, 1, 3, 3, 2, 1, 1, 1],
    [2, 0, 7, 1, 1, 1, 9, 0, 3, 1, 1, 1],
    [3, 0, 3, 3, 1, 1, 2, 1, 6, 2, 1, 6],
];

fn kind(random: &mut Random, theme: &[u64], meets: u64) -> usize {
    let mut at = random.below(theme.iter().sum::<u64>() + meets);
    for (kind, weight) in theme.iter().enumerate() {
        match at.checked_sub(*weight) {
            Some(rest) => at = rest,
            None => return kind,
        }
    }
    theme.len()
}

fn step(random: &mut Random, replicas: u64, theme: &[u64], meets: u64) -> Step {
    let who = random.below(replicas) as usize;
    let (node, parent, name) = (random.below(64), random.below(16), random.below(3));
    let shared = random.one_in(8);
    match kind(random, theme, meets) {
        0 => Step::File {
            who,
            parent,
            name,
            shared,
        },
        1 => Step::Symlink { who, parent, name },
        2 => Step::Directory { who, parent, name },
        3 => Step::Write { who, node, shared },
        4 => Step::Mode { who, node },
        5 => Step::Touch { who, node },
        6 => Step::Move {
            who,
            node,
            parent,
            name,
        },
        7 => Step::Link {
            who,
            node,
            parent,
            name,
        },
        8 => Step::Remove { who, node },
        9 => Step::Commit { who },
        10 => Step::CommitSome {
            who,
            which: random.number(),
        },
        11 => Step::Compact { who },
        _ => {
            let from = random.below(replicas) as usize;
            let back = match random.below(4) {
                0 => random.below(3) as usize,
                _ => 0,
            };
            // Mostly both.
            let commits = random.below(8) | (random.below(8) & 3);
            Step::Join {
                who,
                from,
                back,
                commits,
            }
        }
    }
}

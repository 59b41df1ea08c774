//! What happens in a run, drawn from its seed before it begins: so a step can be left out, and the
//! others are the same.

use larder_store::Durability;

use crate::ground::Dice;
use crate::store::Weather;

/// The names that users give. Few, so that they meet.
pub const NAMES: [&str; 6] = ["a", "b", "c", "d.txt", "e", "sub"];

/// What a user does, or what happens to a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A file of this name is made, or emptied, and a record of so many bytes written into it.
    Write { len: usize },
    /// A record is added to a file.
    Append { len: usize },
    /// A record of a file is replaced by another of its size.
    Edit,
    /// The last record of a file is cut off, or all.
    Truncate { all: bool },
    /// A directory is made.
    Mkdir,
    /// A symlink is made.
    Symlink,
    /// A file gets another name, too.
    Link,
    /// A name is removed.
    Unlink,
    /// A directory is removed if nothing is in it.
    Rmdir,
    /// Something gets another place; what is there gives way.
    Rename,
    /// Two things take each other's places.
    Exchange,
    /// Permissions change.
    Mode { mode: u32 },
    /// An extended attribute is set, or removed.
    Xattr { is_set: bool },
    /// A file is opened to be written, and stays open.
    Open,
    /// A record is added to a file that is open.
    Log { len: usize },
    /// All files that are open are closed.
    Close,
    /// A file is synced.
    Fsync,
    /// A file is read.
    Read,
    /// The content of all files is dropped that may be.
    Stash,
    /// All content is brought.
    Checkout,
    /// A commit is asked for, and not waited for.
    Commit,
    /// What others did is asked for, and not waited for.
    Sync,
    /// A commit is made and waited for, and what the tree was then is kept to be compared.
    Snapshot,
    /// Something is brought back from a commit that was kept.
    Restore,
    /// What is away is read from the store as it is.
    Audit,
    /// So many hours, days and months are kept of the history from now on.
    Keep { most: u64 },
    /// What nobody needs is deleted from the store.
    Collect,
    /// The machine's processes are killed; it starts again at a later step.
    Kill { wait_micros: u64 },
    /// The machine's volume is closed and opened again.
    Restart,
    /// The machine's line to the store becomes so.
    Line(Weather),
    /// The machine's clock is so far ahead from now on, in seconds.
    Clock { ahead_secs: i64 },
    /// Time passes.
    Wait { millis: u64 },
}

/// One step: who, what, and numbers that choose among what there is then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The machine.
    pub who: usize,
    /// What happens.
    pub act: Act,
    /// What chooses.
    pub pick: [u64; 4],
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What it is drawn from.
    pub seed: u64,
    /// How many machines there are.
    pub machines: usize,
    /// How much content each keeps, in bytes.
    pub budget_bytes: u64,
    /// How long a file rests before it is stored.
    pub settle_millis: u64,
    /// How long a change waits for its commit.
    pub commit_millis: u64,
    /// How long a machine may be silent before it is not waited for.
    pub grace_secs: u64,
    /// What a put is worth.
    pub durability: Durability,
    /// What happens.
    pub steps: Vec<Step>,
}

/// The run of a seed.
pub fn plan(seed: u64) -> Plan {
    let mut dice = Dice::new(seed ^ 0x5eed);
    let machines = *dice.of(&[2, 2, 2, 2, 3, 3, 3, 4, 5]);
    let count = 20 + dice.below(60);
    // Some runs have no faults, some no kills: what is found there is simpler.
    let (faults, kills) = (dice.below(4) > 0, dice.below(3) > 0);
    let mut steps = Vec::with_capacity(count);
    let mut who = 0;
    while steps.len() < count {
        // A user does several things in a row.
        if dice.once_in(3) {
            who = dice.below(machines);
        }
        let act = act(&mut dice, faults, kills);
        let pick = [0; 4].map(|_: u64| dice.number());
        steps.push(Step { who, act, pick });
    }
    Plan {
        seed,
        machines,
        budget_bytes: *dice.of(&[1 << 30, 1 << 30, 8 << 20, 1 << 20]),
        settle_millis: *dice.of(&[10, 10, 2000]),
        commit_millis: *dice.of(&[200, 10_000, 3_600_000]),
        grace_secs: *dice.of(&[30 * 86_400, 30 * 86_400, 20]),
        durability: *dice.of(&[Durability::Synced, Durability::Synced, Durability::Accepted]),
        steps,
    }
}

fn act(dice: &mut Dice, faults: bool, kills: bool) -> Act {
    loop {
        return match dice.below(106) {
            0..11 => Act::Write { len: len(dice) },
            11 => Act::Open,
            12..14 => Act::Log { len: len(dice) },
            14 => Act::Close,
            15..22 => Act::Append { len: len(dice) },
            22..27 => Act::Edit,
            27..30 => Act::Truncate {
                all: dice.once_in(2),
            },
            30..36 => Act::Mkdir,
            36..38 => Act::Symlink,
            38..41 => Act::Link,
            41..46 => Act::Unlink,
            46..48 => Act::Rmdir,
            48..56 => Act::Rename,
            56 => Act::Exchange,
            57..59 => Act::Mode {
                mode: 0o600 | dice.below(64) as u32,
            },
            59..61 => Act::Xattr {
                is_set: !dice.once_in(3),
            },
            61 => Act::Fsync,
            62..64 => Act::Read,
            64..67 => Act::Stash,
            67 => Act::Checkout,
            68..74 => Act::Commit,
            74..82 => Act::Sync,
            82..86 => Act::Snapshot,
            86 => Act::Restore,
            87 => Act::Audit,
            88..91 if kills => Act::Kill {
                wait_micros: dice.number() % 40_000,
            },
            91 if kills => Act::Restart,
            92..95 if faults => Act::Line(weather(dice)),
            95 if faults => Act::Clock {
                ahead_secs: *dice.of(&[-86_400 * 400, -3600, 0, 7200, 86_400 * 3650]),
            },
            96..100 => Act::Wait {
                millis: *dice.of(&[5, 50, 500, 15_000]),
            },
            100..102 => Act::Keep {
                most: dice.below(3) as u64,
            },
            102..106 => Act::Collect,
            _ => continue,
        };
    }
}

fn len(dice: &mut Dice) -> usize {
    match dice.below(24) {
        0 => 100_000 + dice.below(400_000),
        1..4 => dice.below(20_000),
        4 => 0,
        _ => dice.below(200),
    }
}

fn weather(dice: &mut Dice) -> Weather {
    let mut of = |some: &[u64]| *dice.of(some);
    Weather {
        is_away: of(&[0, 0, 0, 1]) == 1,
        fails_before: of(&[0, 0, 20, 5]),
        fails_after: of(&[0, 0, 20, 5]),
        slow_millis: of(&[0, 10, 300, 3000]),
        stale_millis: of(&[0, 0, 2000, 60_000]),
    }
}

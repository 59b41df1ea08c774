//! Operations on names and content, done on a mount and on a plain directory alike.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use larder_mount::Profile;

use crate::bench::Bench;
use crate::ops::{self, Op, Outcome, Side};
use crate::{OPS_MAX, runs};

/// How much was really done, so that a run that does next to nothing is no proof.
#[derive(Clone, Copy, Default)]
struct Tally {
    done: u64,
    failed: u64,
    stashed: u64,
}

impl Tally {
    fn add(&mut self, more: Self) {
        self.done += more.done;
        self.failed += more.failed;
        self.stashed += more.stashed;
    }
}

fn compare(bench: &Bench, tally: &mut Tally, ops: &[Op]) -> Result<(), String> {
    let (plain_root, mounted_root) = bench.fresh();
    let round = PathBuf::from(mounted_root.file_name().unwrap());
    let mut plain = Side::new(&plain_root);
    let mut mounted = Side::new(&mounted_root);
    let populate = ops::populate();
    for (at, op) in populate.iter().chain(ops).enumerate() {
        match op {
            Op::Store => bench.store(),
            Op::Stash { at } => {
                let below = at.as_ref().map(Side::relative).unwrap_or_default();
                tally.stashed += bench.stash(&round.join(&below));
                mounted.drop_pages(&below);
            }
            Op::Restart => {
                plain.close_all();
                mounted.close_all();
                bench.restart();
            }
            _ => {
                let (expected, found) = (plain.run(op), mounted.run(op));
                match expected {
                    Outcome::Failed(_) | Outcome::NoSlot => tally.failed += 1,
                    _ => tally.done += 1,
                }
                same(&expected, &found).map_err(|why| format!("op {at}, {op:?}: {why}"))?;
            }
        }
    }
    plain.close_all();
    mounted.close_all();
    bench.store();
    tally.stashed += bench.stash(&round);
    mounted.drop_pages(Path::new(""));
    same_trees(&plain, &mounted)?;
    let _ = std::fs::remove_dir_all(&plain_root);
    let _ = std::fs::remove_dir_all(&mounted_root);
    Ok(())
}

fn same_trees(plain: &Side, mounted: &Side) -> Result<(), String> {
    let (expected, found) = (plain.whole_tree(), mounted.whole_tree());
    if expected.len() != found.len() {
        return Err(format!("{} nodes, not {}", found.len(), expected.len()));
    }
    for (expected, found) in expected.iter().zip(&found) {
        if expected.0 != found.0 {
            return Err(format!("{:?} instead of {:?}", found.0, expected.0));
        }
        same(&expected.1, &found.1).map_err(|why| format!("{:?}: {why}", expected.0))?;
        same(&expected.2, &found.2).map_err(|why| format!("{:?}: {why}", expected.0))?;
    }
    Ok(())
}

/// Whether two outcomes are alike; bytes are not printed, but where they part is told.
pub fn same(expected: &Outcome, found: &Outcome) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    match (expected, found) {
        (Outcome::Bytes(expected), Outcome::Bytes(found)) => {
            let part = expected.iter().zip(found).position(|(a, b)| a != b);
            Err(format!(
                "{} bytes, not {}; the first that differs is at {part:?}",
                found.len(),
                expected.len()
            ))
        }
        _ => Err(format!("{found:?}, not {expected:?}")),
    }
}

/// Does `cases` sequences on a mount of this profile and on a plain directory.
pub fn compare_at_length(profile: Profile, cases: u64) {
    let all = Mutex::new(Tally::default());
    let sequences = || proptest::collection::vec(ops::op(), 1..=OPS_MAX);
    let sequences = runs::run("trees", profile, cases, sequences, || {
        let bench = Bench::new(profile, 4 << 30);
        let all = &all;
        move |ops: &[Op]| {
            let mut tally = Tally::default();
            let outcome = compare(&bench, &mut tally, ops);
            all.lock().unwrap().add(tally);
            outcome
        }
    });
    let Tally {
        done,
        failed,
        stashed,
    } = all.into_inner().unwrap();
    println!("{done} operations done, {failed} failed alike, {stashed} files stashed");
    if sequences > 10 {
        assert!(stashed > sequences / 2, "too little was stashed");
        assert!(done > failed / 2, "too little was done");
    }
}

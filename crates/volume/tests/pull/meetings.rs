//! Random work on several machines with one volume, which meet on its store now and then. In the
//! end all have one tree, and a new machine sees the same. That no content is lost is for the
//! simulation of `larder-model` to show, which knows what each had seen.

use std::collections::BTreeMap;

use larder_model::Kind;
use larder_volume::{Caller, Ino, NewNode, ROOT, RenameMode, SetAttr, Volume};

use crate::support::{Replica, Shelf, settings};

const CALLER: Caller = Caller { uid: 0, gid: 0 };
const NAMES: [&str; 5] = ["a", "b", "c", "d.txt", "e"];

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }

    fn of<'a, T>(&mut self, some: &'a [T]) -> &'a T {
        &some[self.below(some.len())]
    }
}

/// A node of a tree as a user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shown {
    kind: Kind,
    mode: u32,
    nlink: u32,
    content: Vec<u8>,
}

/// All that is below the root: directories with their paths, and everything.
fn walk(volume: &Volume) -> Vec<(String, Ino, Kind)> {
    let mut found = Vec::new();
    let mut left = vec![(ROOT, String::new())];
    while let Some((directory, path)) = left.pop() {
        for entry in volume.list_dir(directory).unwrap() {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            if entry.kind == Kind::Directory {
                assert_eq!(volume.parent_of(entry.ino).unwrap(), directory, "{path}");
                left.push((entry.ino, path.clone()));
            }
            found.push((path, entry.ino, entry.kind));
        }
    }
    found
}

async fn tree(replica: &Replica) -> BTreeMap<String, Shown> {
    let mut tree = BTreeMap::new();
    for (path, ino, kind) in walk(&replica.volume) {
        let attr = replica.volume.attr(ino).unwrap();
        let content = match kind {
            Kind::File => replica.read(ino).await.unwrap(),
            _ => Vec::new(),
        };
        let shown = Shown {
            kind,
            mode: attr.mode,
            nlink: attr.nlink,
            content,
        };
        tree.insert(path, shown);
    }
    tree
}

/// One change that a user makes. What cannot be done is not.
fn change(replica: &Replica, dice: &mut Dice, n: u64) {
    let volume = &replica.volume;
    let all = walk(volume);
    let directories: Vec<Ino> = std::iter::once(ROOT)
        .chain(
            all.iter()
                .filter(|node| node.2 == Kind::Directory)
                .map(|node| node.1),
        )
        .collect();
    let others: Vec<Ino> = all
        .iter()
        .filter(|node| node.2 != Kind::Directory)
        .map(|node| node.1)
        .collect();
    let (parent, name) = (*dice.of(&directories), *dice.of(&NAMES));
    let (to, to_name) = (*dice.of(&directories), *dice.of(&NAMES));
    match dice.below(12) {
        0..4 => {
            let there = volume.lookup(parent, name.as_bytes()).unwrap();
            if there.is_none_or(|there| there.kind == Kind::File) {
                replica.write(parent, name, format!("content {n}").as_bytes());
            }
        }
        4..6 => {
            let new = NewNode {
                kind: Kind::Directory,
                mode: 0o755,
                rdev: 0,
                target: None,
                caller: CALLER,
            };
            let _ = volume.make_node(parent, name.as_bytes(), new);
        }
        6 => {
            let _ = volume.unlink(parent, name.as_bytes());
        }
        7 => {
            let _ = volume.rmdir(parent, name.as_bytes());
        }
        8..10 => {
            let (from, to) = ((parent, name), (to, to_name));
            let _ = volume.rename(
                from.0,
                from.1.as_bytes(),
                to.0,
                to.1.as_bytes(),
                RenameMode::Replace,
            );
        }
        10 if !others.is_empty() => {
            let _ = volume.link(*dice.of(&others), parent, name.as_bytes());
        }
        _ if !others.is_empty() => {
            let set = SetAttr {
                mode: Some(0o600 | dice.below(64) as u32),
                ..SetAttr::default()
            };
            volume.set_attr(*dice.of(&others), &set).unwrap();
        }
        _ => {}
    }
}

async fn run(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let shelf = Shelf::new();
    let mut replicas = vec![shelf.init(settings()).await];
    replicas[0].write(ROOT, "a", b"the first file");
    replicas[0].commit().await;
    for n in 1..2 + dice.below(2) {
        replicas.push(shelf.open(&format!("replica {n}"), settings()).await);
    }
    let mut n = 0;
    for _ in 0..6 + dice.below(10) {
        let who = dice.below(replicas.len());
        for _ in 0..dice.below(6) {
            n += 1;
            change(&replicas[who], &mut dice, n);
        }
        match dice.below(3) {
            0 => replicas[who].commit().await,
            1 => drop(replicas[who].sync().await),
            _ => {}
        }
    }
    // What each has is on the store first.
    for replica in &replicas {
        replica.commit().await;
    }
    for round in 0.. {
        let mut new = 0;
        for replica in &replicas {
            new += replica.sync().await.commits;
        }
        if new == 0 {
            break;
        }
        assert!(round < 6, "seed {seed}: they answer each other for ever");
    }
    let first = tree(&replicas[0]).await;
    for replica in &replicas[1..] {
        assert_eq!(tree(replica).await, first, "seed {seed}");
    }
    let fresh = shelf.open("fresh", settings()).await;
    // It starts from one of the commits that were made apart.
    fresh.sync().await;
    assert_eq!(tree(&fresh).await, first, "seed {seed}, a new machine");
    fresh.stop().await;
    for replica in replicas {
        // And each is the same after a restart.
        let state = replica.stop().await;
        let again = shelf.start(state, settings());
        assert_eq!(tree(&again).await, first, "seed {seed}, after a restart");
        again.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_that_meet_come_to_one_tree() {
    let number = |name: &str, default| {
        let set = std::env::var(name).ok();
        set.map_or(default, |set| set.parse::<u64>().unwrap())
    };
    let first = number("LARDER_SEED", 1);
    for seed in first..first + number("LARDER_SEEDS", 12) {
        run(seed).await;
    }
}

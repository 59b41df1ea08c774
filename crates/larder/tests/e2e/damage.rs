//! A store whose disk rots: every kind of object, damaged, cut short and lost.

use std::fs;
use std::path::{Path, PathBuf};

use larder_store::testing::noise;

use crate::machine::{Machine, picture};
use crate::remote::{EAGER, Remote, set_limits, stash_all};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Flipped,
    Cut,
    Lost,
}

impl Harm {
    const ALL: [Self; 3] = [Self::Flipped, Self::Cut, Self::Lost];

    fn befall(self, object: &Path, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        match self {
            Self::Flipped => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0x20;
            }
            Self::Cut => bytes.truncate(bytes.len() * 2 / 3),
            Self::Lost => return fs::remove_file(object).unwrap(),
        }
        fs::write(object, bytes).unwrap();
    }
}

const FILES: u64 = 8;

fn content(i: u64) -> Vec<u8> {
    noise(i, 150_000 + i as usize).to_vec()
}

/// A machine whose volume has some content on the store alone; and the recovery key, which
/// opens it faster than a passphrase.
fn stored(dir: &Path) -> (Remote, Machine, String) {
    let remote = Remote::folder(&dir.join("store"));
    let laptop = Machine::new();
    let made = remote.init(&laptop, "1G").ok().json();
    set_limits(&laptop, EAGER);
    laptop.mount();
    for i in 0..FILES {
        fs::write(laptop.mount_point().join(i.to_string()), content(i)).unwrap();
    }
    laptop.larder(["commit"]).ok();
    laptop.wait_until_stored();
    stash_all(&laptop);
    let recovery_key = made["recovery_key"].as_str().unwrap().to_owned();
    (remote, laptop, recovery_key)
}

/// One object of each kind: the newest, if there are several.
fn objects(remote: &Remote) -> Vec<(&'static str, String)> {
    ["packs/", "trees/", "index/", "heads/", "keys/", "volume"]
        .into_iter()
        .map(|kind| {
            let names = remote.objects(kind).into_keys();
            (kind, names.last().expect("an object of each kind"))
        })
        .map(|(kind, name)| (kind, name.to_owned()))
        .collect()
}

/// How many files read right; the others must give an error.
fn read_right(laptop: &Machine) -> u64 {
    let read = (0..FILES).filter(|i| {
        let read = fs::read(laptop.mount_point().join(i.to_string()));
        if let Ok(bytes) = &read {
            assert!(*bytes == content(*i), "wrong bytes of file {i}");
        }
        read.is_ok()
    });
    read.count() as u64
}

#[test]
fn every_harm_to_every_kind_of_object_is_found_and_no_wrong_byte_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let (remote, laptop, _) = stored(dir.path());
    laptop.larder(["verify", "--stores"]).ok();
    for (kind, name) in objects(&remote) {
        let object = remote.object(&name);
        let bytes = fs::read(&object).unwrap();
        for harm in Harm::ALL {
            harm.befall(&object, &bytes);
            let found = laptop
                .larder(["verify", "--stores", "--json"])
                .ended(3)
                .json();
            let listed = [&found["damaged"], &found["missing"]]
                .iter()
                .flat_map(|list| list.as_array().unwrap())
                .any(|one| {
                    one["place"]
                        .as_str()
                        .unwrap()
                        .contains(kind.trim_end_matches('/'))
                });
            assert!(listed, "{harm:?} {name} is not named in {found:#}");
            if kind == "packs/" {
                assert!(read_right(&laptop) < FILES, "{harm:?} {name}");
                let warnings = laptop.status()["warnings"].to_string();
                assert!(warnings.contains(&name), "{warnings}");
                stash_all(&laptop);
            }
            fs::write(&object, &bytes).unwrap();
        }
    }
    laptop.larder(["verify", "--stores"]).ok();
    assert_eq!(read_right(&laptop), FILES);
    assert_eq!(laptop.status()["warnings"].as_array().unwrap().len(), 0);
}

#[test]
fn another_machine_opens_right_or_not_at_all_whatever_befell_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (remote, laptop, recovery_key) = stored(dir.path());
    let before = picture(&laptop.mount_point());
    laptop.unmount();
    for (kind, name) in objects(&remote) {
        let object = remote.object(&name);
        let bytes = fs::read(&object).unwrap();
        for harm in Harm::ALL {
            harm.befall(&object, &bytes);
            let desktop = Machine::new();
            fs::write(desktop.path("key"), &recovery_key).unwrap();
            let opened = remote.open(&desktop, ["--recovery-key-file", "key"]);
            if opened.code == Some(0) {
                desktop.mount();
                let root = desktop.mount_point();
                assert_eq!(
                    fs::read_dir(&root).unwrap().count() as u64,
                    FILES,
                    "{harm:?} {name}"
                );
                if read_right(&desktop) == FILES {
                    assert_eq!(picture(&root), before, "{harm:?} {name}");
                }
            } else {
                assert!(opened.err.contains("Error:"), "{harm:?} {name}: {opened:?}");
                assert!(!has_state(&desktop), "{harm:?} {name} left a volume");
            }
            // Nothing of an index is needed but its speed, and content comes when it is read.
            if ["index/", "packs/"].contains(&kind) {
                assert_eq!(opened.code, Some(0), "{harm:?} {name}: {opened:?}");
            }
            if kind == "index/" {
                assert_eq!(read_right(&desktop), FILES, "{harm:?} {name}");
            }
            fs::write(&object, &bytes).unwrap();
        }
    }
}

fn has_state(machine: &Machine) -> bool {
    let volumes: PathBuf = machine.path("home/volumes");
    fs::read_dir(volumes).is_ok_and(|dir| dir.count() > 0)
}

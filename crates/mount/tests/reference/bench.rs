//! A mounted volume that can be told to store, to drop what it may, and to start anew.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};

use larder_mount::Profile;

use crate::served::{Served, hex};

/// A mounted volume, and room beside it on the same file system.
pub struct Bench {
    served: RefCell<Served>,
    root: tempfile::TempDir,
    round: Cell<u32>,
}

impl Bench {
    /// A new volume with this budget, which stores what is changed as soon as it can.
    pub fn new(profile: Profile, budget_bytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("plain")).unwrap();
        let served = Served::start(root.path(), profile, budget_bytes);
        Self {
            served: RefCell::new(served),
            root,
            round: Cell::new(0),
        }
    }

    /// Fresh directories of the same name, a plain one and one on the mount.
    pub fn fresh(&self) -> (PathBuf, PathBuf) {
        self.round.set(self.round.get() + 1);
        let name = format!("round{}", self.round.get());
        let [plain, mounted] = ["plain", "mnt"].map(|side| self.root.path().join(side).join(&name));
        for directory in [&plain, &mounted] {
            std::fs::create_dir(directory).unwrap();
        }
        (plain, mounted)
    }

    /// Unmounts, ends the volume, and begins anew. Nothing may be open.
    pub fn restart(&self) {
        self.served.borrow_mut().ask("restart");
    }

    /// Has the volume store all there is.
    pub fn store(&self) {
        self.served.borrow_mut().ask("store");
    }

    /// Drops what may be dropped below `path` of the volume; answers how many files.
    pub fn stash(&self, path: &Path) -> u64 {
        let request = format!("stash {}", hex(path));
        self.served.borrow_mut().ask(&request)
    }
}

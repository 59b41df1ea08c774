//! A store that can be counted and spoilt, and replicas on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use larder_format::ArgonParams;
use larder_store::testing::{Counting, Counts, Faulty, noise};
use larder_store::{Store, StoreOptions};
use larder_volume::{
    Access, Caller, Credential, Deletions, Ino, ROOT, Settings, SyncReport, Volume,
};
use tempfile::TempDir;
use tokio::runtime::Handle;

pub const PASSPHRASE: &str = "four of the horses";
const CALLER: Caller = Caller { uid: 1, gid: 1 };
const CHEAP: ArgonParams = ArgonParams {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};

/// A store in a folder, whose faults and requests are at hand.
pub struct Shelf {
    dir: TempDir,
    pub faulty: Arc<Faulty>,
    counting: Arc<Counting>,
}

/// A replica that runs.
pub struct Replica {
    pub volume: Arc<Volume>,
    pub state: PathBuf,
}

impl Shelf {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("store").to_str().unwrap().to_owned();
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let folder = larder_store::open(&address, &options).unwrap();
        let faulty = Arc::new(Faulty::new(folder));
        let below: Arc<dyn Store> = Arc::clone(&faulty) as _;
        Self {
            dir,
            faulty,
            counting: Arc::new(Counting::new(below)),
        }
    }

    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.counting) as _
    }

    /// What was asked of the store by now.
    pub fn counts(&self) -> Counts {
        self.counting.counts()
    }

    /// The files that the store's objects lie in.
    pub fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut directories = vec![self.dir.path().join("store")];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => directories.push(path),
                    false => found.push(path),
                }
            }
        }
        found.sort();
        found
    }

    /// The objects whose key begins so.
    pub fn objects_in(&self, prefix: &str) -> Vec<PathBuf> {
        let root = self.dir.path().join("store");
        let mut found = self.objects();
        found.retain(|path| path.strip_prefix(&root).unwrap().starts_with(prefix));
        found
    }

    pub fn state(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new volume on the store.
    pub async fn init(&self, settings: Settings) -> Replica {
        let state = self.state("first");
        larder_volume::init_at_cost(
            &state,
            self.store(),
            Some(PASSPHRASE),
            settings.clone(),
            CHEAP,
        )
        .await
        .unwrap();
        self.start(state, settings)
    }

    /// The same volume in another state directory.
    pub async fn open(&self, name: &str, settings: Settings) -> Replica {
        let state = self.state(name);
        let credential = Credential::Passphrase(PASSPHRASE.to_owned());
        larder_volume::open(
            &state,
            self.store(),
            credential,
            None,
            settings.clone(),
            &|_| {},
        )
        .await
        .unwrap();
        self.start(state, settings)
    }

    pub fn start(&self, state: PathBuf, settings: Settings) -> Replica {
        Self::start_on(self.store(), state, settings)
    }

    /// A replica whose own way to the store has faults of its own.
    pub fn start_apart(&self, state: PathBuf, settings: Settings) -> (Replica, Arc<Faulty>) {
        let faulty = Arc::new(Faulty::new(self.store()));
        let store = Arc::clone(&faulty) as _;
        (Self::start_on(store, state, settings), faulty)
    }

    pub fn start_on(store: Arc<dyn Store>, state: PathBuf, settings: Settings) -> Replica {
        let volume = Volume::start(&state, store, settings, Handle::current()).unwrap();
        volume.run();
        Replica { volume, state }
    }
}

/// Settings for tests: nothing waits long.
pub fn settings() -> Settings {
    Settings {
        read_wait: Duration::from_secs(10),
        settle_quiet: Duration::from_millis(10),
        keep_free_bytes: 0,
        sync_interval: None,
        ..Settings::for_budget(1 << 30)
    }
}

impl Replica {
    /// Makes a directory.
    pub fn mkdir(&self, parent: Ino, name: &str) -> Ino {
        let new = larder_volume::NewNode {
            kind: larder_model::Kind::Directory,
            mode: 0o755,
            rdev: 0,
            target: None,
            caller: CALLER,
        };
        self.volume
            .make_node(parent, name.as_bytes(), new)
            .unwrap()
            .ino
    }

    /// Makes a file with this content.
    pub fn write(&self, parent: Ino, name: &str, bytes: &[u8]) -> Ino {
        let made = self
            .volume
            .create(parent, name.as_bytes(), 0o644, CALLER, false);
        let ino = made.unwrap().ino;
        let access = Access {
            write: true,
            truncate: true,
            direct: false,
            tells_times: false,
        };
        self.volume.open(ino, access).unwrap();
        for (at, piece) in bytes.chunks(1 << 20).enumerate() {
            self.volume.write(ino, (at << 20) as u64, piece).unwrap();
        }
        self.volume.close(ino, access).unwrap();
        ino
    }

    /// Waits until all is stored and committed.
    pub async fn commit(&self) {
        self.volume
            .commit(Some("test".to_owned()), &|_| {})
            .await
            .unwrap();
    }

    /// Takes in what the others stored; nothing may be left for later.
    pub async fn sync(&self) -> SyncReport {
        let synced = self.volume.sync(Deletions::Guarded, &|_| {}).await;
        let report = synced.unwrap();
        assert_eq!(report.left, Vec::<String>::new());
        report
    }

    /// Reads a file as a program does: opens it, reads in pieces, closes it.
    pub async fn read(&self, ino: Ino) -> larder_volume::Result<Vec<u8>> {
        let volume = Arc::clone(&self.volume);
        tokio::task::spawn_blocking(move || {
            let access = Access::default();
            volume.open(ino, access)?;
            let mut bytes = Vec::new();
            let mut piece = vec![0; 128 << 10];
            let read = loop {
                match volume.read(ino, bytes.len() as u64, &mut piece) {
                    Ok(0) => break Ok(bytes),
                    Ok(len) => bytes.extend_from_slice(&piece[..len]),
                    Err(error) => break Err(error),
                }
            };
            volume.close(ino, access)?;
            read
        })
        .await
        .unwrap()
    }

    pub fn find(&self, path: &str) -> Ino {
        self.volume.resolve(path.as_bytes()).unwrap()
    }

    pub async fn stop(self) -> PathBuf {
        self.volume.shutdown().await.unwrap();
        self.state
    }

    /// Whether every byte of the file is here.
    pub fn is_here(&self, ino: Ino) -> bool {
        self.volume.missing(ino, 0..u64::MAX).unwrap().is_empty()
    }
}

/// Waits until something is so; a test that waits for ever has failed.
pub async fn until(mut so: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited for a minute");
}

/// Bytes that do not compress, the same for the same seed.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    noise(seed, len).to_vec()
}

/// A replica with a stored file that is away again.
pub async fn with_file_away(shelf: &Shelf, settings: Settings, content: &[u8]) -> (Replica, Ino) {
    let first = shelf.init(settings.clone()).await;
    first.write(ROOT, "file", content);
    first.commit().await;
    first.stop().await;
    // A new machine has nothing in memory of what was written.
    let second = shelf.open("second", settings).await;
    let ino = second.find("file");
    (second, ino)
}

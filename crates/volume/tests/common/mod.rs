//! A volume in a temporary directory, without a mount, for the tests of this crate.
//!
//! A [`Bench`] has a state directory, a folder store, and a runtime. Its store notes what
//! is put in which order, and can hold puts back; so a test can look at the moment between
//! two steps, and take the state directory as a crash would leave it.

#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use larder_format::tree::{Tree, TreeKind, decode_name_entry, name_key, parse_node_key};
use larder_format::{
    ArgonParams, Commit, KeyFile, decode_node, list, open_chunk, open_head, parse_head_name,
    parse_pack_name, read_pack,
};
use larder_model::{ChunkId, Content, Extent, Name, Node, NodeId};
use larder_store::{Durability, Key, ObjectMeta, Store, StoreError, StoreOptions};
use larder_volume::{Access, Caller, Ino, NewNode, ROOT, Settings, Volume};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub use larder_store::testing::noise;

/// Who makes files in tests.
pub const CALLER: Caller = Caller { uid: 0, gid: 0 };
/// Nothing in a test takes longer, however slow the machine is.
const PATIENCE: Duration = Duration::from_secs(60);

/// The passphrase of test volumes.
pub const PASSPHRASE: &str = "a passphrase";

/// A volume's directories, its store, and a runtime for it.
pub struct Bench {
    pub runtime: Runtime,
    pub store: Arc<Gate>,
    pub settings: Settings,
    pub recovery_key: String,
    directory: TempDir,
}

impl Bench {
    /// A new volume that is not started yet.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("store");
        std::fs::create_dir(&folder).unwrap();
        let below = larder_store::open(folder.to_str().unwrap(), &StoreOptions::default()).unwrap();
        Self::on(directory, below)
    }

    /// A new volume on this store.
    pub fn on(directory: TempDir, below: Arc<dyn Store>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let store = Arc::new(Gate::new(below));
        let settings = quick_settings();
        let cost = ArgonParams {
            memory_kib: 64,
            passes: 1,
            lanes: 1,
        };
        let state = directory.path().join("state");
        let made = runtime
            .block_on(larder_volume::init_at_cost(
                &state,
                store.clone(),
                Some(PASSPHRASE),
                settings.clone(),
                cost,
            ))
            .unwrap();
        Self {
            runtime,
            store,
            settings,
            recovery_key: made.recovery_key,
            directory,
        }
    }

    /// A directory that goes with the bench.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The volume's state directory.
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Starts the volume, with its background work.
    pub fn start(&self) -> Arc<Volume> {
        self.start_from(&self.state(), self.store.clone())
    }

    /// Starts the volume that has its state in `state`, with its background work.
    pub fn start_from(&self, state: &Path, store: Arc<dyn Store>) -> Arc<Volume> {
        let volume = self.start_still(state, store);
        volume.run();
        volume
    }

    /// Starts the volume that has its state in `state`, without background work.
    pub fn start_still(&self, state: &Path, store: Arc<dyn Store>) -> Arc<Volume> {
        let handle = self.runtime.handle().clone();
        Volume::start(state, store, self.settings.clone(), handle).unwrap()
    }

    /// Shuts the volume down cleanly.
    pub fn stop(&self, volume: Arc<Volume>) {
        self.runtime.block_on(volume.shutdown()).unwrap();
        let gone = Arc::downgrade(&volume);
        drop(volume);
        until("the volume is let go", || gone.strong_count() == 0);
    }

    /// The state directory as a crash at this moment would leave it, in a new place.
    pub fn crash_image(&self, name: &str) -> PathBuf {
        let image = self.path(name);
        copy_directory(&self.state(), &image);
        image
    }

    /// Commits, and waits until the commit is stored.
    pub fn commit(&self, volume: &Arc<Volume>) -> larder_volume::CommitReport {
        self.runtime.block_on(volume.commit(None, &|_| {})).unwrap()
    }

    /// Takes in what others stored; nothing may be left.
    pub fn sync(&self, volume: &Arc<Volume>) {
        let deletions = larder_volume::Deletions::Guarded;
        let synced = self.runtime.block_on(volume.sync(deletions, &|_| {}));
        assert_eq!(synced.unwrap().left, Vec::<String>::new());
    }

    /// What the newest head on the store reaches, read by the formats alone. There must be
    /// one.
    pub fn stored(&self) -> Stored {
        let keys = KeyFile::decode(&std::fs::read(self.state().join("key")).unwrap()).unwrap();
        self.runtime
            .block_on(Stored::read(&*self.store.below, &keys))
    }
}

impl Bench {
    /// What this commit reaches on the store.
    pub fn stored_at(&self, commit_id: ChunkId) -> Stored {
        let stored = self.stored();
        Stored {
            commit: Commit::decode(&stored.chunks[&commit_id]).unwrap(),
            commit_id,
            ..stored
        }
    }
}

/// Settings with short waits.
pub fn quick_settings() -> Settings {
    let mut settings = Settings::for_budget(1 << 30);
    settings.settle_quiet = Duration::from_millis(40);
    settings.settle_open = Duration::from_millis(400);
    settings.commit_interval = Duration::from_millis(200);
    settings.read_wait = Duration::from_secs(5);
    settings.keep_free_bytes = 0;
    settings.sync_interval = None;
    settings
}

/// Copies the files and directories below `from`.
pub fn copy_directory(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            match std::fs::copy(entry.path(), target) {
                // A deleted file's bytes go a moment later.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            }
        }
    }
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Makes a directory in the root, or in a directory that is there.
pub fn make_dir(volume: &Volume, path: &str) -> Ino {
    let (parent, name) = parent_of(volume, path);
    let new = NewNode {
        kind: larder_model::Kind::Directory,
        mode: 0o755,
        rdev: 0,
        target: None,
        caller: CALLER,
    };
    volume.make_node(parent, name.as_bytes(), new).unwrap().ino
}

/// Makes or replaces a file's content.
pub fn write_file(volume: &Volume, path: &str, bytes: &[u8]) -> Ino {
    let (parent, name) = parent_of(volume, path);
    let ino = volume
        .create(parent, name.as_bytes(), 0o644, CALLER, false)
        .unwrap()
        .ino;
    with_open(volume, ino, true, || write_all(volume, ino, 0, bytes));
    ino
}

/// Overwrites a part of a file.
pub fn edit_file(volume: &Volume, ino: Ino, off: u64, bytes: &[u8]) {
    with_open(volume, ino, false, || write_all(volume, ino, off, bytes));
}

/// Does something while the file is open for writing.
pub fn with_open(volume: &Volume, ino: Ino, truncate: bool, act: impl FnOnce()) {
    let access = Access {
        write: true,
        truncate,
        ..Access::default()
    };
    volume.open(ino, access).unwrap();
    act();
    volume.close(ino, access).unwrap();
}

fn write_all(volume: &Volume, ino: Ino, off: u64, bytes: &[u8]) {
    let mut done = 0;
    for piece in bytes.chunks(1 << 20) {
        let at = off + done;
        let written = match volume.write_here(ino, at, piece).unwrap() {
            Some(written) => written,
            None => volume.write(ino, at, piece).unwrap(),
        };
        assert_eq!(written, piece.len());
        done += piece.len() as u64;
    }
}

/// All bytes of a file.
pub fn read_file(volume: &Volume, path: &str) -> Vec<u8> {
    let ino = volume.resolve(path.as_bytes()).unwrap();
    let mut bytes = vec![0; volume.attr(ino).unwrap().size as usize];
    let mut done = 0;
    while done < bytes.len() {
        let more = volume.read(ino, done as u64, &mut bytes[done..]).unwrap();
        assert_ne!(more, 0);
        done += more;
    }
    bytes
}

fn parent_of<'a>(volume: &Volume, path: &'a str) -> (Ino, &'a str) {
    match path.rsplit_once('/') {
        Some((parent, name)) => (volume.resolve(parent.as_bytes()).unwrap(), name),
        None => (ROOT, path),
    }
}

/// Which puts a [`Gate`] holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Before the object is there.
    Before,
    /// When it is there, before that is answered.
    After,
}

/// A store that notes what is put, and can hold puts back.
#[derive(Debug)]
pub struct Gate {
    pub below: Arc<dyn Store>,
    state: Mutex<GateState>,
}

#[derive(Debug, Default)]
struct GateState {
    puts: Vec<(String, u64)>,
    hold: Option<(String, Hold)>,
    held: u64,
    away: bool,
}

impl Gate {
    pub fn new(below: Arc<dyn Store>) -> Self {
        Self {
            below,
            state: Mutex::default(),
        }
    }

    /// Holds back all puts under this prefix, for good.
    pub fn hold(&self, prefix: &str, hold: Hold) {
        self.state.lock().hold = Some((prefix.to_owned(), hold));
    }

    /// How many puts are held back.
    pub fn held(&self) -> u64 {
        self.state.lock().held
    }

    /// Takes the store away, or brings it back.
    pub fn set_away(&self, away: bool) {
        self.state.lock().away = away;
    }

    /// The names of the objects that were put since the last call, in order, with sizes.
    pub fn take_puts(&self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.state.lock().puts)
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.state.lock().away {
            let kind = larder_store::ErrorKind::Unavailable;
            return Err(StoreError::new(kind, "gate", "the store is away"));
        }
        Ok(())
    }

    async fn pass(&self, key: &Key, now: Hold) {
        let held = {
            let mut state = self.state.lock();
            let held = matches!(&state.hold, Some((prefix, when))
                if *when == now && key.as_str().starts_with(prefix));
            state.held += u64::from(held);
            held
        };
        if held {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Store for Gate {
    fn address(&self) -> &str {
        "gate"
    }

    fn durability(&self) -> Durability {
        self.below.durability()
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        self.check()?;
        self.pass(key, Hold::Before).await;
        let size = bytes.len() as u64;
        self.below.put(key, bytes).await?;
        self.state.lock().puts.push((key.to_string(), size));
        self.pass(key, Hold::After).await;
        Ok(())
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.check()?;
        self.below.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.check()?;
        self.below.get_range(key, range).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.check()?;
        self.below.list(prefix).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        self.check()?;
        self.below.stat(key).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.check()?;
        self.below.delete(key).await
    }
}

/// What lies on a store, read by the formats alone.
pub struct Stored {
    /// Every chunk of every pack.
    pub chunks: BTreeMap<ChunkId, Vec<u8>>,
    /// The newest commit.
    pub commit: Commit,
    pub commit_id: ChunkId,
}

impl Stored {
    pub async fn read(store: &dyn Store, keys: &KeyFile) -> Self {
        // The head first: what it reaches is there by then, whatever comes meanwhile.
        let heads = store.list("heads/").await.unwrap();
        let (replica, n) = heads
            .iter()
            .map(|object| parse_head_name(object.key.as_str()).unwrap())
            .max_by_key(|(_, n)| *n)
            .unwrap();
        let name = Key::new(larder_format::head_name(&replica, n)).unwrap();
        let bytes = store.get(&name).await.unwrap().unwrap();
        let mut chunks = BTreeMap::new();
        for prefix in ["packs/", "trees/"] {
            for object in store.list(prefix).await.unwrap() {
                let (kind, id) = parse_pack_name(object.key.as_str()).unwrap();
                let bytes = store.get(&object.key).await.unwrap().unwrap();
                let (seal, entries) = read_pack(&keys.keys, kind, &id, &bytes).unwrap();
                for entry in entries {
                    let range = entry.range();
                    let sealed = &bytes[range.start as usize..range.end as usize];
                    let chunk = open_chunk(&keys.keys, &seal, &entry, sealed).unwrap();
                    chunks.insert(entry.chunk, chunk.to_vec());
                }
            }
        }
        let commit_id = open_head(&keys.keys, &replica, n, &bytes).unwrap().commit;
        let commit = Commit::decode(&chunks[&commit_id]).unwrap();
        Self {
            chunks,
            commit,
            commit_id,
        }
    }

    fn page(&self, id: &ChunkId) -> Result<Vec<u8>, larder_format::FormatError> {
        Ok(self.chunks[id].clone())
    }

    /// All nodes of the newest commit.
    pub fn nodes(&self) -> BTreeMap<NodeId, Node> {
        let tree = Tree {
            kind: TreeKind::Nodes,
            root: self.commit.nodes,
        };
        tree.scan(&[], |id: &ChunkId| self.page(id))
            .map(|entry| {
                let (key, value) = entry.unwrap();
                (parse_node_key(&key).unwrap(), decode_node(&value).unwrap())
            })
            .collect()
    }

    /// The node at a path in the newest commit, found by the tree of names.
    pub fn find(&self, path: &str) -> Option<Node> {
        let tree = Tree {
            kind: TreeKind::Names,
            root: self.commit.names,
        };
        let mut at = NodeId::ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let key = name_key(&at, &Name::new(name).unwrap());
            let value = tree.get(&key, &mut |id: &ChunkId| self.page(id)).unwrap()?;
            at = decode_name_entry(&value).unwrap().node;
        }
        let nodes = Tree {
            kind: TreeKind::Nodes,
            root: self.commit.nodes,
        };
        let key = larder_format::tree::node_key(&at);
        let value = nodes
            .get(&key, &mut |id: &ChunkId| self.page(id))
            .unwrap()?;
        Some(decode_node(&value).unwrap())
    }

    /// The pieces of a node's content.
    pub fn extents(&self, content: &Content) -> Vec<Extent> {
        let mut extents = Vec::new();
        list::expand(
            content,
            &mut |id: &ChunkId| self.page(id),
            |_, extent| -> Result<(), larder_format::FormatError> {
                extents.push(extent);
                Ok(())
            },
        )
        .unwrap();
        extents
    }

    /// The bytes of the file at a path in the newest commit.
    pub fn file(&self, path: &str) -> Option<Vec<u8>> {
        let node = self.find(path)?;
        let [content] = node.content.0.as_slice() else {
            panic!("{path} is a conflict");
        };
        let mut bytes = Vec::new();
        for extent in self.extents(&content.value) {
            match extent {
                Extent::Chunk { id, .. } => bytes.extend_from_slice(&self.chunks[&id]),
                Extent::Hole { len } => bytes.resize(bytes.len() + len as usize, 0),
            }
        }
        Some(bytes)
    }
}

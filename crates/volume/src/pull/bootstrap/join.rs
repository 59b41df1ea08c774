//! Bringing a known volume to this machine: the whole tree at once, content on demand.
//!
//! This replica is new: it has a key of its own, and heads of its own. It takes over the
//! newest commit, or the one that the user names, as its base and writes nothing to the store.

use std::path::Path;
use std::sync::Arc;

use larder_format::{KeyFile, ReplicaKey, decode_volume_header, object};
use larder_model::{ChunkId, VolumeId};
use larder_store::Store;

use super::super::locate::key;
use super::super::request::Fetcher;
use super::super::source::Source;
use super::Credential;
use super::create::first_node;
use super::staging::{Staging, random};
use super::{heads, packs, slots, tree};
use crate::collect::marks;
use crate::progress::Report;
use crate::push::set_base_commit;
use crate::{Result, Settings, VolumeError};

/// What was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenReport {
    /// The volume.
    pub volume: VolumeId,
    /// Files in its tree.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What the user should know, in words.
    pub warnings: Vec<String>,
}

/// Which volume a store holds; `None` if the store says that it holds none.
///
/// # Errors
/// If the store gives no answer, or the header is damaged or from a newer Larder.
pub async fn find_volume(store: &dyn Store) -> Result<Option<VolumeId>> {
    let header = store.get(&key(object::VOLUME)?).await?;
    Ok(header
        .map(|bytes| decode_volume_header(&bytes))
        .transpose()?)
}

/// Makes a new replica, in `state_dir`, of the volume that `store` holds: of its newest
/// commit, or of the one that is given.
///
/// # Errors
/// If the store cannot be reached or holds no volume, the credential opens it not, the
/// tree is damaged, or the disk fails. Then `state_dir` holds no replica, and it can be
/// tried again.
pub async fn open(
    state_dir: &Path,
    store: Arc<dyn Store>,
    credential: Credential,
    commit: Option<ChunkId>,
    settings: Settings,
    report: Report<'_>,
) -> Result<OpenReport> {
    let Some(volume) = find_volume(&*store).await? else {
        return Err(VolumeError::State(format!(
            "{} holds no volume. `larder init` makes one",
            store.address()
        )));
    };
    let wait = settings.read_wait * 4;
    let source = Arc::new(Source::new(store, &settings));
    let (keys, slots) = slots::open_keys(&source, volume, &credential, wait).await?;
    let staging = Staging::begin(state_dir)?;
    staging.write_keys(&KeyFile {
        keys: keys.clone(),
        replica: ReplicaKey::from_seed(random()?)?,
    })?;
    let fetcher = Fetcher {
        source,
        keys: Arc::new(keys),
        problems: Arc::default(),
        others: Arc::default(),
    };
    let db = staging.db();
    db.write(|tx| slots::note_slots(tx, &slots))?;
    // Before any pack is known: what is deleted at this moment is not what this replica rests on.
    marks::learn(fetcher.source.store().as_ref(), &fetcher.keys, db).await?;
    let learn = || packs::learn_packs(&fetcher.source, &fetcher.keys, db, wait, report);
    let mut warnings = learn().await?;
    if !warnings.is_empty() {
        // A pack that is not known may hold the newest commit.
        tokio::time::sleep(heads::PAUSE).await;
        warnings = learn().await?;
    }
    let base = match commit {
        Some(id) => Some(heads::commit(&fetcher, db, id, wait).await?),
        None => {
            let (newest, apart) = heads::newest(&fetcher, db, wait).await?;
            warnings.extend(apart);
            newest
        }
    };
    let (files, bytes) = match &base {
        Some(base) => {
            tree::fetch_pages(&fetcher, db, &base.commit, wait, report).await?;
            // Long, but all of the machine waits for nothing else now.
            tree::fill(db, &base.commit, report)?;
            db.write(|tx| set_base_commit(tx, &base.bytes))?;
            (base.commit.files, base.commit.bytes)
        }
        None => {
            db.write(first_node)?;
            (0, 0)
        }
    };
    staging.finish()?;
    Ok(OpenReport {
        volume,
        files,
        bytes,
        warnings,
    })
}

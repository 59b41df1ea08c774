//! What a user can set of a volume on one machine.

use std::time::Duration;

pub use larder_plan::evict::PolicyKind;

/// Limits and habits of one replica. Plain values: reading a file of them is the daemon's.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How many bytes of content this machine keeps.
    pub budget_bytes: u64,
    /// Eviction starts above this share of the budget (0 to 1).
    pub high_watermark: f64,
    /// Eviction stops at this share of the budget (0 to 1).
    pub low_watermark: f64,
    /// What goes first.
    pub eviction: PolicyKind,
    /// Above these dirty bytes, writers slow down to the rate of the store.
    pub dirty_soft_bytes: u64,
    /// Above these dirty bytes, writers wait.
    pub dirty_hard_bytes: u64,
    /// Above the dirty limit, the disk counts as full when nothing drained for so long.
    pub dirty_stall: Duration,
    /// This much stays free on the disk under the cache.
    pub keep_free_bytes: u64,
    /// A changed file is stored once it has been quiet for so long.
    pub settle_quiet: Duration,
    /// A file that stays open is stored, as it is, this long after its first change.
    pub settle_open: Duration,
    /// At most this long between a stored change and the commit that carries it.
    pub commit_interval: Duration,
    /// A commit is made when so many nodes changed, though the interval is not over.
    pub commit_nodes: u64,
    /// So often the store is asked what other replicas put there; `None`: only when a user asks,
    /// or [`crate::Volume::others_changed`] says so.
    pub sync_interval: Option<Duration>,
    /// What a store took without syncing it is looked at again after so long, twice.
    pub proof_delay: Duration,
    /// The marks of other replicas are looked at this often.
    pub mark_interval: Duration,
    /// A replica of which nothing was seen for so long does not hold up what is to be deleted.
    pub member_grace: Duration,
    /// Packs on their way to the store at once.
    pub parallel_uploads: usize,
    /// Range requests on their way from the store at once.
    pub parallel_fetches: usize,
    /// Bytes per second to the store, at most.
    pub upload_limit: Option<u64>,
    /// Bytes per second from the store, at most.
    pub download_limit: Option<u64>,
    /// Bytes per second read from the cache to be stored, at most.
    pub ingest_limit: Option<u64>,
    /// Share of one core that hashing and compressing may take (0 to 1; 1: all of it).
    pub cpu_share: f64,
    /// A reader waits at most so long for content that is away.
    pub read_wait: Duration,
    /// Patterns, in gitignore's syntax, of what stays local.
    pub local_rules: Vec<String>,
}

impl Settings {
    /// Settings for a budget, all else as it comes.
    pub fn for_budget(budget_bytes: u64) -> Self {
        Self {
            budget_bytes,
            high_watermark: 0.95,
            low_watermark: 0.85,
            eviction: PolicyKind::default(),
            dirty_soft_bytes: budget_bytes / 2,
            dirty_hard_bytes: budget_bytes / 4 * 3,
            dirty_stall: Duration::from_secs(60),
            keep_free_bytes: 256 << 20,
            settle_quiet: Duration::from_secs(2),
            settle_open: Duration::from_secs(60),
            commit_interval: Duration::from_secs(10),
            commit_nodes: 10_000,
            sync_interval: Some(Duration::from_secs(60)),
            proof_delay: Duration::from_secs(30),
            mark_interval: Duration::from_secs(10 * 60),
            member_grace: Duration::from_secs(30 * 24 * 60 * 60),
            parallel_uploads: 3,
            parallel_fetches: 8,
            upload_limit: None,
            download_limit: None,
            ingest_limit: None,
            cpu_share: 1.0,
            read_wait: Duration::from_secs(30),
            local_rules: Self::default_local_rules(),
        }
    }

    /// What stays local unless a user says otherwise.
    pub fn default_local_rules() -> Vec<String> {
        ["target/", "node_modules/", "*.tmp"]
            .map(str::to_owned)
            .to_vec()
    }
}

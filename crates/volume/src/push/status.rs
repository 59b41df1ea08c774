//! How far storing is.

use std::time::SystemTime;

use crate::Volume;

/// How far storing is. All numbers are cheap to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushStatus {
    /// Bytes that wait to be stored. They go down with each pack that is acknowledged.
    pub waiting_bytes: u64,
    /// Files that wait to be stored.
    pub waiting_files: u64,
    /// How fast that goes, in bytes of files per second over the last while: as content
    /// compresses, and some of it is stored already, more than is sent.
    pub bytes_per_sec: u64,
    /// How long the rest takes at this rate; `None` while nothing moves.
    pub seconds_left: Option<u64>,
    /// What the store said when it last took nothing; `None` once it takes content again.
    pub last_error: Option<String>,
    /// Since when it takes nothing.
    pub down_since: Option<SystemTime>,
    /// What a user should know and perhaps act upon, the gravest first.
    pub warnings: Vec<String>,
}

impl Volume {
    /// How far storing is.
    pub fn push_status(&self) -> PushStatus {
        let shared = &self.push.shared;
        let (dirty_bytes, waiting_files) = self.live.dirty_totals();
        let waiting_bytes = dirty_bytes.saturating_sub(shared.outbox.stored_ahead());
        let bytes_per_sec = shared.stored_per_sec();
        let time_left = shared.time_left(waiting_bytes);
        let trouble = shared.health.trouble();
        let mut warnings: Vec<_> = self.words_of_apart().into_iter().collect();
        warnings.extend(shared.warnings.all());
        warnings.extend(
            trouble
                .iter()
                .filter(|trouble| trouble.needs_user)
                .map(|trouble| format!("nothing can be stored: {}", trouble.words)),
        );
        PushStatus {
            waiting_bytes,
            waiting_files,
            bytes_per_sec,
            seconds_left: time_left.map(|time| time.as_secs()),
            down_since: trouble.as_ref().map(|trouble| trouble.since),
            last_error: trouble.map(|trouble| trouble.words),
            warnings,
        }
    }
}

//! What the control socket is told, and what a daemon answers.

use serde::Serialize;
use serde::de::DeserializeOwned;

use larder_daemon::{
    Adopt, Checkout, Commit, CommitReport, EntryReport, Failure, List, Log, Pin, Stash,
    StashReport, Status, StatusReport, Verify, VerifyReport,
};

/// Every request and answer, read from JSON. What can be read is written and read again.
pub fn control(bytes: &[u8]) {
    fn through<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
        if let Ok(value) = serde_json::from_slice::<T>(bytes) {
            let text = serde_json::to_vec(&value).expect("what was read can be written");
            serde_json::from_slice::<T>(&text).expect("what was written can be read");
        }
    }
    through::<Status>(bytes);
    through::<List>(bytes);
    through::<Stash>(bytes);
    through::<Checkout>(bytes);
    through::<Pin>(bytes);
    through::<Adopt>(bytes);
    through::<Commit>(bytes);
    through::<Log>(bytes);
    through::<Verify>(bytes);
    through::<Failure>(bytes);
    through::<StatusReport>(bytes);
    through::<StashReport>(bytes);
    through::<VerifyReport>(bytes);
    through::<Vec<CommitReport>>(bytes);
    through::<Vec<EntryReport>>(bytes);
}

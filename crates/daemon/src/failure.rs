//! What went wrong, in the user's words, with what to do: the one error of this room.
//!
//! A [`Failure`] crosses the control socket as JSON and ends as `Error:` and `Hint:`
//! lines and an exit code. Its kind says what the caller can do, not where it came from.

use std::fmt;
use std::path::Path;

use larder_mount::MountError;
use larder_store::{ErrorKind, StoreError};
use larder_volume::VolumeError;
use serde::{Deserialize, Serialize};

/// What kind of failure it is; each has an exit code (see `larder help exit-codes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// It did not work; the message says why.
    Failed,
    /// The request makes no sense: a wrong path, a setting that does not exist.
    Usage,
    /// A store cannot be reached, is full, or refuses.
    Store,
    /// No daemon runs where one is needed, or another process holds the volume.
    Daemon,
}

/// Something did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the caller can do about it.
    pub kind: FailureKind,
    /// What happened, to what.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, message: impl fmt::Display) -> Self {
        Self {
            kind,
            message: message.to_string(),
            hint: None,
        }
    }

    /// It did not work.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(FailureKind::Failed, message)
    }

    /// The request makes no sense.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(FailureKind::Usage, message)
    }

    /// `what` could not be done with the file or directory at `path`.
    pub fn io(what: &str, path: &Path, error: impl fmt::Display) -> Self {
        Self::failed(format!("Could not {what} {}: {error}.", path.display()))
    }

    /// What went wrong with `place`.
    pub(crate) fn about(place: &dyn fmt::Display, error: &VolumeError) -> Self {
        Self::new(kind_of(error), format!("{place}: {error}."))
    }

    /// The same failure, with what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }
}

impl From<VolumeError> for Failure {
    fn from(error: VolumeError) -> Self {
        Self::new(kind_of(&error), sentence(&error))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(kind_of_store(&error), sentence(&error))
    }
}

impl From<MountError> for Failure {
    fn from(error: MountError) -> Self {
        Self::failed(sentence(&error))
    }
}

fn kind_of(error: &VolumeError) -> FailureKind {
    match error {
        VolumeError::Store(error) => kind_of_store(error),
        VolumeError::Away(_) | VolumeError::TimedOut(_) => FailureKind::Store,
        VolumeError::Locked(_) | VolumeError::Stopping => FailureKind::Daemon,
        _ => FailureKind::Failed,
    }
}

fn kind_of_store(error: &StoreError) -> FailureKind {
    match error.kind {
        ErrorKind::Invalid => FailureKind::Usage,
        ErrorKind::Damaged => FailureKind::Failed,
        ErrorKind::Unavailable | ErrorKind::Refused | ErrorKind::Full => FailureKind::Store,
    }
}

/// An error's words as a sentence: a capital at the start, a full stop at the end. What
/// starts with a path or an address stays as it is.
pub(crate) fn sentence(error: &impl fmt::Display) -> String {
    let text = error.to_string();
    let text = text.trim_end_matches('.');
    let end = if text.ends_with(['?', '!']) { "" } else { "." };
    let first_word = text.split(' ').next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if first_word.chars().all(char::is_alphabetic) => {
            let capital: String = first.to_uppercase().collect();
            format!("{capital}{}{end}", chars.as_str())
        }
        _ => format!("{text}{end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_as_sentences_and_addresses_stay_as_they_are() {
        for (text, told) in [
            ("there is no room", "There is no room."),
            ("sftp://nas/x: no answer.", "sftp://nas/x: no answer."),
            ("/a is not empty", "/a is not empty."),
            ("is its disk mounted?", "Is its disk mounted?"),
        ] {
            assert_eq!(sentence(&text), told);
        }
    }
}

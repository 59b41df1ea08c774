//! How the program ends. `larder help exit-codes` documents the numbers.

use std::process::ExitCode;

use larder_daemon::FailureKind;

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It worked.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command makes no sense.
    Usage = 2,
    /// It worked, and something is to be looked at.
    Look = 3,
    /// A store cannot be reached, is full, or refuses.
    Store = 4,
    /// No daemon runs where one is needed, or another process holds the volume.
    Daemon = 5,
}

impl Exit {
    /// Done, or to be looked at.
    pub fn look_if(look: bool) -> Self {
        if look { Self::Look } else { Self::Done }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<FailureKind> for Exit {
    fn from(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Failed => Self::Failed,
            FailureKind::Usage => Self::Usage,
            FailureKind::Store => Self::Store,
            FailureKind::Daemon => Self::Daemon,
        }
    }
}

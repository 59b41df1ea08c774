//! What a volume could not do.
//!
//! Each error says what happened in the user's words, and has the errno that a program
//! on the mount gets.

use std::io;
use std::path::{Path, PathBuf};

use larder_store::StoreError;

/// What a volume could not do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// No such file or directory.
    #[error("there is no such file or directory")]
    NoEntry,
    /// Another file has taken the node's place.
    #[error("another version of the file has taken its place; open it again")]
    Stale,
    /// The name is taken.
    #[error("a file of this name is there already")]
    Exists,
    /// A directory that is not empty cannot go.
    #[error("the directory is not empty")]
    NotEmpty,
    /// A directory is needed.
    #[error("it is not a directory")]
    NotDirectory,
    /// A directory cannot serve.
    #[error("it is a directory")]
    IsDirectory,
    /// The bytes cannot be a name.
    #[error(transparent)]
    Name(#[from] larder_model::NameError),
    /// No such extended attribute.
    #[error("there is no such extended attribute")]
    NoAttribute,
    /// The value is too large, or the file would be.
    #[error("{0} is too large")]
    TooLarge(&'static str),
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(&'static str),
    /// This cannot be done here.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
    /// It may not be done.
    #[error("{0}")]
    NotPermitted(&'static str),
    /// No room here, and nothing drained for a while.
    #[error("there is no room: {0}")]
    NoSpace(String),
    /// The content is on a store that cannot be reached now.
    #[error("the content is away and its store cannot be reached: {0}")]
    Away(String),
    /// The store did not answer in time.
    #[error("the store did not answer within {0} s")]
    TimedOut(u64),
    /// Bytes are not what they must be, here or on a store.
    #[error("{0}")]
    Damaged(String),
    /// Another process holds the volume.
    #[error("another process (pid {0}) holds this volume")]
    Locked(String),
    /// The state directory is from a newer Larder, or not Larder's.
    #[error("{0}")]
    State(String),
    /// A file of the state directory.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The database.
    #[error("the database failed: {0}")]
    Database(#[from] rusqlite::Error),
    /// A store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object or a stored value that cannot be read.
    #[error(transparent)]
    Format(#[from] larder_format::FormatError),
    /// The daemon is stopping.
    #[error("Larder is stopping")]
    Stopping,
}

/// The result of what a volume does.
pub type Result<T, E = VolumeError> = std::result::Result<T, E>;

impl VolumeError {
    /// An I/O error, with the file it is about.
    pub fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// What a system call on the mount answers.
    pub fn errno(&self) -> i32 {
        match self {
            Self::NoEntry => libc::ENOENT,
            Self::Stale => libc::ESTALE,
            Self::Exists => libc::EEXIST,
            Self::NotEmpty => libc::ENOTEMPTY,
            Self::NotDirectory => libc::ENOTDIR,
            Self::IsDirectory => libc::EISDIR,
            Self::Name(larder_model::NameError::TooLong) => libc::ENAMETOOLONG,
            Self::Name(larder_model::NameError::Invalid) | Self::Invalid(_) => libc::EINVAL,
            Self::NoAttribute => libc::ENODATA,
            Self::TooLarge(_) => libc::EFBIG,
            Self::Unsupported(_) => libc::EOPNOTSUPP,
            Self::NotPermitted(_) => libc::EPERM,
            Self::NoSpace(_) => libc::ENOSPC,
            Self::Away(_) => libc::ENETUNREACH,
            Self::TimedOut(_) => libc::ETIMEDOUT,
            Self::Locked(_) => libc::EBUSY,
            Self::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
            Self::Database(error) => database_errno(error),
            Self::Damaged(_)
            | Self::State(_)
            | Self::Store(_)
            | Self::Format(_)
            | Self::Stopping => libc::EIO,
        }
    }
}

fn database_errno(error: &rusqlite::Error) -> i32 {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => libc::ENOSPC,
        _ => libc::EIO,
    }
}

//! Freeing the space of what is stored, by hand.
//!
//! Each file goes only if [`Volume::drop_content`] says so; what stays is named, with the
//! reason. Nothing is pushed to make more of it go.

use std::time::Duration;

use super::evict::seconds_now;
use super::walk::{HereRow, files_below};
use crate::live::{Dropped, KeptReason};
use crate::progress::{Progress, Report, Unit};
use crate::{Ino, Result, Volume, VolumeError};

/// How to stash.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StashOptions {
    /// Only what was not used for so long.
    pub older_than: Option<Duration>,
    /// Only say what would go.
    pub dry_run: bool,
}

/// What was stashed, or would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StashReport {
    /// Files whose content went.
    pub files: u64,
    /// Bytes that it took.
    pub freed_bytes: u64,
    /// Paths of files that stay as they are, and why.
    pub kept: Vec<(Vec<u8>, String)>,
}

impl Volume {
    /// Drops the content of these files, and of all files in these directories, if it is
    /// stored for sure.
    ///
    /// # Errors
    /// If the disk or the database fails; what went until then is gone.
    pub fn stash(
        &self,
        paths: &[Ino],
        options: &StashOptions,
        report: Report<'_>,
    ) -> Result<StashReport> {
        self.pull.evictor.flush(&self.db)?;
        let here: Vec<(Ino, HereRow)> = self.db.read(|connection| {
            files_below(connection, paths, |file| {
                Ok(file.here.map(|here| (file.ino, here)))
            })
        })?;
        let mut stashed = StashReport::default();
        for (done, &(ino, row)) in here.iter().enumerate() {
            match self.stash_file(ino, row, options)? {
                Outcome::Freed(bytes) => {
                    stashed.files += 1;
                    stashed.freed_bytes += bytes;
                }
                Outcome::Kept(words) => stashed.kept.push((self.name_of(ino), words)),
                Outcome::Nothing => {}
            }
            // A look opens the file's cache file.
            self.trim_lives();
            report(Progress {
                phase: "stashing".to_owned(),
                done: done as u64 + 1,
                total: here.len() as u64,
                unit: Unit::Files,
                path: None,
            });
        }
        Ok(stashed)
    }

    fn stash_file(&self, ino: Ino, here: HereRow, options: &StashOptions) -> Result<Outcome> {
        if let Some(age) = options.older_than
            && here.used.saturating_add_unsigned(age.as_secs()) > seconds_now()
        {
            let words = format!("it was used in the last {} s", age.as_secs());
            return Ok(Outcome::Kept(words));
        }
        let dropped = match options.dry_run {
            true => self.would_keep(ino).map(|reason| match reason {
                None => Dropped::Freed(here.bytes),
                Some(reason) => Dropped::Kept(reason),
            }),
            false => self.drop_content(ino),
        };
        Ok(match dropped {
            Ok(Dropped::Freed(bytes)) => {
                if !options.dry_run {
                    self.pull.forget(ino);
                }
                Outcome::Freed(bytes)
            }
            Ok(Dropped::Kept(KeptReason::NotHere)) | Err(VolumeError::NoEntry) => Outcome::Nothing,
            Ok(Dropped::Kept(reason)) => Outcome::Kept(reason.words().to_owned()),
            Err(error) => return Err(error),
        })
    }
}

/// What became of one file.
enum Outcome {
    Freed(u64),
    Kept(String),
    /// There was nothing here to drop.
    Nothing,
}

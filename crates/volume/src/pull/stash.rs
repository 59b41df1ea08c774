//! Freeing the space of what is stored, by hand.
//!
//! Each file goes only if [`Volume::drop_contents`] says so; what stays is named, with the
//! reason. Nothing is pushed to make more of it go.

use std::time::Duration;

use super::evict::seconds_now;
use super::walk::{HereRow, files_below};
use crate::live::{Dropped, KeptReason};
use crate::progress::{Progress, Report, Unit};
use crate::{Ino, Result, Volume, VolumeError};

/// So many files are dropped before progress is told.
const FILES_AT_ONCE: usize = 64;

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
        let mut done = 0;
        for some in here.chunks(FILES_AT_ONCE) {
            self.stash_some(some, options, &mut stashed)?;
            // A look opens the file's cache file.
            self.trim_lives();
            done += some.len() as u64;
            report(Progress {
                phase: "stashing".to_owned(),
                done,
                total: here.len() as u64,
                unit: Unit::Files,
                path: None,
            });
        }
        Ok(stashed)
    }

    fn stash_some(
        &self,
        files: &[(Ino, HereRow)],
        options: &StashOptions,
        stashed: &mut StashReport,
    ) -> Result<()> {
        let mut old = Vec::with_capacity(files.len());
        for (ino, row) in files {
            match options.older_than {
                Some(age) if row.used.saturating_add_unsigned(age.as_secs()) > seconds_now() => {
                    let words = format!("it was used in the last {} s", age.as_secs());
                    stashed.kept.push((self.name_of(*ino), words));
                }
                _ => old.push((*ino, row.bytes)),
            }
        }
        let dropped = match options.dry_run {
            true => self.would_drop(&old),
            false => self.drop_contents(&old.iter().map(|(ino, _)| *ino).collect::<Vec<_>>()),
        };
        for ((ino, _), dropped) in old.into_iter().zip(dropped) {
            match dropped {
                Ok(Dropped::Freed(bytes)) => {
                    if !options.dry_run {
                        self.pull.forget(ino);
                    }
                    stashed.files += 1;
                    stashed.freed_bytes += bytes;
                }
                Ok(Dropped::Kept(KeptReason::NotHere)) | Err(VolumeError::NoEntry) => {}
                Ok(Dropped::Kept(reason)) => {
                    let words = reason.words().to_owned();
                    stashed.kept.push((self.name_of(ino), words));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What would become of files, each with the bytes that it takes.
    fn would_drop(&self, files: &[(Ino, u64)]) -> Vec<Result<Dropped>> {
        let each = files.iter().map(|&(ino, bytes)| {
            Ok(match self.would_keep(ino)? {
                None => Dropped::Freed(bytes),
                Some(reason) => Dropped::Kept(reason),
            })
        });
        each.collect()
    }
}

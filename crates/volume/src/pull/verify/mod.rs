//! Every hash, here and on the store.
//!
//! `here` reads what is in the cache and compares it with the hashes of its chunks. Clean
//! content that rotted is taken out of the cache and fetched anew; of content that is not
//! stored yet no hash is known. `stored` reads the objects of the store: each must be what
//! its name, its seal and its hashes say; every pack that the database knows must be there
//! with every chunk in its place, and so must the header, the key slots, and this replica's
//! indexes and newest head.
//!
//! What could not be looked at is unknown, not damaged and not well.

mod here;
mod stored;

use std::sync::Arc;

use crate::progress::Report;
use crate::{Ino, Result, Volume, VolumeError};

use super::walk::files_below;
use super::work;

/// Something that `verify` found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where: a path in the volume, or an object of the store.
    pub place: Vec<u8>,
    /// What, in words.
    pub problem: String,
    /// Whether it is well again: the content was fetched anew.
    pub mended: bool,
}

/// What `verify` looked at and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files whose content here was compared with its hashes.
    pub files: u64,
    /// Bytes that were read and hashed, here and on the store.
    pub bytes: u64,
    /// Objects of the store that were read.
    pub objects: u64,
    /// What is not what it must be.
    pub damaged: Vec<Finding>,
    /// What should be there and is not.
    pub missing: Vec<Finding>,
    /// What could not be looked at.
    pub unknown: Vec<Finding>,
}

impl Finding {
    fn of(place: impl Into<Vec<u8>>, problem: impl std::fmt::Display) -> Self {
        Self {
            place: place.into(),
            problem: problem.to_string(),
            mended: false,
        }
    }
}

impl VerifyReport {
    /// Whether all that was looked at is what it must be, or is again.
    pub fn is_well(&self) -> bool {
        let mended = |findings: &[Finding]| findings.iter().all(|finding| finding.mended);
        mended(&self.damaged) && self.missing.is_empty()
    }

    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.objects += other.objects;
        self.damaged.extend(other.damaged);
        self.missing.extend(other.missing);
        self.unknown.extend(other.unknown);
    }
}

impl Volume {
    /// Compares what is here of these files, and of all files in these directories, with
    /// its hashes; with `stores`, also what the store holds of them: all of its objects, if
    /// the root is among the paths.
    ///
    /// # Errors
    /// If the database fails, or the store's objects cannot be listed. What is found wrong
    /// is in the report.
    pub async fn verify(
        self: &Arc<Self>,
        paths: &[Ino],
        stores: bool,
        report: Report<'_>,
    ) -> Result<VerifyReport> {
        let weak = Arc::downgrade(self);
        let listing = paths.to_vec();
        let listed = work(&weak, move |volume| {
            let all = |file| Ok(Some(file));
            volume
                .db
                .read(|connection| files_below(connection, &listing, all))
        });
        let files = listed.await.ok_or(VolumeError::Stopping)??;
        let mut verified = here::verify(&weak, &files, report).await?;
        if stores {
            let all = paths.contains(&crate::ROOT);
            let files = files.iter().map(|file| file.ino).collect();
            let stored = stored::verify(self, files, all, report).await?;
            if all && stored.is_well() && stored.unknown.is_empty() {
                let settling = work(&weak, |volume| crate::push::end_doubt(volume));
                settling.await.ok_or(VolumeError::Stopping)??;
            }
            verified.add(stored);
        }
        Ok(verified)
    }
}

//! What other machines did, and how it is asked for.

use larder_volume::Deletions;
use serde::{Deserialize, Serialize};
use tokio::task::block_in_place;

use crate::failure::Failure;
use crate::host::Host;
use crate::operations::storing;
use crate::past::change_report;
use crate::report::{
    ConflictReport, PreviewReport, ResolvedReport, SyncReport, TreePath, VersionReport,
};
use crate::wire::Operation;
use larder_volume::progress::Report;

/// Include what other machines stored.
#[derive(Debug, Serialize, Deserialize)]
pub struct Sync {
    /// Also if much would be deleted here by that.
    pub allow_deletions: bool,
}

/// Say what `sync` would do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Preview {}

/// What stands side by side because two machines changed it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Conflicts {}

/// End a conflict.
#[derive(Debug, Serialize, Deserialize)]
pub struct Resolve {
    /// Where: the path of any of the versions.
    pub path: TreePath,
    /// Which stays.
    pub keep: KeepVersion,
}

/// Which version of a conflict stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepVersion {
    /// This one, by its place in the list; the others go.
    One(usize),
    /// All of them, each under a name of its own.
    All,
}

impl KeepVersion {
    /// Reads `A`, `B` and so on, or `both` or `all`.
    ///
    /// # Errors
    /// In words, if it is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.as_bytes() {
            b"both" | b"all" => Ok(Self::All),
            [letter] if letter.is_ascii_alphabetic() => {
                Ok(Self::One(usize::from(letter.to_ascii_uppercase() - b'A')))
            }
            _ => Err("say A, B and so on, as `larder conflicts` lists them, or `both`".into()),
        }
    }
}

/// The letter of a version; beyond Z there are none, and only `both` ends such a conflict.
fn letter(place: usize) -> String {
    match u8::try_from(place) {
        Ok(place @ 0..26) => char::from(b'A' + place).to_string(),
        _ => String::new(),
    }
}

impl Operation for Sync {
    const NAME: &'static str = "sync";
    const STOPS_WITH_ASKER: bool = false;
    const NEEDS_LOOPS: bool = true;
    type Answer = SyncReport;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<SyncReport, Failure> {
        let report = storing(host, report);
        let deletions = match self.allow_deletions {
            true => Deletions::Allowed,
            false => Deletions::Guarded,
        };
        let synced = host.volume.sync(deletions, &report).await?;
        Ok(SyncReport {
            commits: synced.commits,
            changed: synced.changed,
            conflicts: synced.conflicts.into_iter().map(TreePath).collect(),
            left: synced.left,
        })
    }
}

impl Operation for Preview {
    const NAME: &'static str = "preview";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = PreviewReport;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<PreviewReport, Failure> {
        let preview = host.volume.preview().await?;
        Ok(PreviewReport {
            coming: preview.coming.into_iter().map(change_report).collect(),
            conflicts: preview.conflicts.into_iter().map(TreePath).collect(),
            going: preview.going.into_iter().map(TreePath).collect(),
            going_deleted: preview.going_deleted,
            left: preview.left,
        })
    }
}

impl Operation for Conflicts {
    const NAME: &'static str = "conflicts";
    const STOPS_WITH_ASKER: bool = true;
    type Answer = Vec<ConflictReport>;

    async fn run(self, host: &Host, _: Report<'_>) -> Result<Vec<ConflictReport>, Failure> {
        let conflicts = block_in_place(|| host.volume.conflicts())?;
        let version = |(place, version): (usize, larder_volume::Version)| {
            let (replica, day) = version.mark.unzip();
            VersionReport {
                letter: letter(place),
                path: TreePath(version.path),
                kind: version.kind.into(),
                size_bytes: version.size,
                modified: version.modified.0,
                replica,
                day,
            }
        };
        Ok(conflicts
            .into_iter()
            .map(|conflict| ConflictReport {
                path: TreePath(conflict.path),
                versions: conflict
                    .versions
                    .into_iter()
                    .enumerate()
                    .map(version)
                    .collect(),
            })
            .collect())
    }
}

impl Operation for Resolve {
    const NAME: &'static str = "resolve";
    const STOPS_WITH_ASKER: bool = false;
    const NEEDS_LOOPS: bool = true;
    type Answer = ResolvedReport;

    async fn run(self, host: &Host, report: Report<'_>) -> Result<ResolvedReport, Failure> {
        let report = storing(host, report);
        let keep = match self.keep {
            KeepVersion::One(place) => larder_volume::Keep::One(place),
            KeepVersion::All => larder_volume::Keep::All,
        };
        let volume = &host.volume;
        let resolved = volume.resolve_conflict(&self.path.0, keep, &report).await?;
        Ok(ResolvedReport {
            kept: resolved.kept.into_iter().map(TreePath).collect(),
            removed: resolved.removed.into_iter().map(TreePath).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_its_letter() {
        for place in 0..26 {
            assert_eq!(
                KeepVersion::parse(&letter(place)),
                Ok(KeepVersion::One(place))
            );
        }
        assert_eq!(letter(26), "");
        assert_eq!(KeepVersion::parse("b"), Ok(KeepVersion::One(1)));
        assert_eq!(KeepVersion::parse("both"), Ok(KeepVersion::All));
        for wrong in ["", "AB", "1", "\u{e4}"] {
            assert!(KeepVersion::parse(wrong).is_err(), "{wrong}");
        }
    }
}

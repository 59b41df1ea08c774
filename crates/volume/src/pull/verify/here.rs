//! The content that is here, against its hashes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Weak;

use larder_model::{ChunkId, Content, Extent};

use super::{Finding, VerifyReport};
use crate::live::{Here, Map, Piece, map_of};
use crate::progress::{Progress, Report, Unit};
use crate::pull::walk::{FileRow, content_of};
use crate::pull::work;
use crate::{Ino, Result, Volume, VolumeError};

/// A chunk of a file that should be in its cache file.
#[derive(Debug, Clone, Copy)]
struct Held {
    off: u64,
    len: u64,
    chunk: ChunkId,
}

/// What is to be looked at of a file, and its state then.
struct Look {
    generation: u64,
    /// Whether the file has no map: it is here whole.
    whole: bool,
    held: Vec<Held>,
}

pub(super) async fn verify(
    volume: &Weak<Volume>,
    files: &[FileRow],
    report: Report<'_>,
) -> Result<VerifyReport> {
    let here: Vec<_> = files
        .iter()
        .filter_map(|file| file.here.map(|here| (file.ino, here.bytes)))
        .collect();
    let total: u64 = here.iter().map(|(_, bytes)| bytes).sum();
    let mut verified = VerifyReport::default();
    let mut away = Away::default();
    for (ino, _) in here {
        let looked = work(volume, move |volume| {
            let looked = match away.why.is_some() && volume.needs_the_store(ino)? {
                true => Looked::ListAway(None),
                false => volume.verify_file(ino)?,
            };
            // A look opens the file's cache file.
            volume.trim_lives();
            Ok::<_, VolumeError>((looked, away))
        })
        .await;
        let (looked, waiting) = looked.ok_or(VolumeError::Stopping)??;
        away = waiting;
        match looked {
            Looked::At(looked) => verified.add(looked),
            Looked::ListAway(why) => {
                away.files += 1;
                away.why = away.why.or(why);
            }
        }
        report(Progress {
            phase: "verifying what is here".to_owned(),
            done: verified.bytes,
            total: total.max(verified.bytes),
            unit: Unit::Bytes,
            path: None,
        });
    }
    if let Some(why) = away.why {
        let address = work(volume, |volume| volume.store.address().to_owned()).await;
        verified.unknown.push(Finding::of(
            address.ok_or(VolumeError::Stopping)?,
            format!(
                "the lists of chunks of {} files are away: {why}",
                away.files
            ),
        ));
    }
    Ok(verified)
}

/// Files whose lists of chunks are on the store, and why they could not be had. After the
/// first one no other is waited for.
#[derive(Default)]
struct Away {
    files: u64,
    why: Option<String>,
}

enum Looked {
    At(VerifyReport),
    /// And why, if the store was asked.
    ListAway(Option<String>),
}

impl Volume {
    /// Whether the file is clean, here whole, and its list of chunks is on the store.
    fn needs_the_store(&self, ino: Ino) -> Result<bool> {
        let whole = self.hold(ino, |held| {
            Ok(matches!(held.here, Here::Whole) && !held.dirty)
        });
        if !matches!(whole, Ok(true)) {
            return Ok(false);
        }
        let content = self.db.read(|connection| content_of(connection, ino))?;
        Ok(matches!(content, Content::List { .. }))
    }

    fn verify_file(&self, ino: Ino) -> Result<Looked> {
        let mut verified = VerifyReport::default();
        let look = match self.look_at(ino) {
            Ok(Some(look)) => look,
            Ok(None) | Err(VolumeError::NoEntry) => return Ok(Looked::At(verified)),
            Err(error @ (VolumeError::Away(_) | VolumeError::TimedOut(_))) => {
                return Ok(Looked::ListAway(Some(error.to_string())));
            }
            Err(error @ (VolumeError::Damaged(_) | VolumeError::Format(_))) => {
                verified.damaged.push(Finding::of(self.name_of(ino), error));
                return Ok(Looked::At(verified));
            }
            Err(error) => return Err(error),
        };
        verified.files = 1;
        let mut rotten = Vec::new();
        match self.compare(ino, &look, &mut rotten) {
            Ok(bytes) => verified.bytes = bytes,
            Err(VolumeError::Io { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if !rotten.is_empty() {
            verified.damaged.extend(self.mend(ino, &look, &rotten)?);
        }
        Ok(Looked::At(verified))
    }

    /// What of the file has hashes; `None` if nothing has.
    fn look_at(&self, ino: Ino) -> Result<Option<Look>> {
        let (generation, held) = self.hold(ino, |held| {
            let pieces = match &held.here {
                Here::Part { map, .. } => Some(held_in(map)),
                Here::Whole if !held.dirty => None,
                Here::Whole | Here::Away => Some(Vec::new()),
            };
            Ok((held.generation, pieces))
        })?;
        let whole = held.is_none();
        let held = match held {
            Some(held) => held,
            None => held_in(&present_map(&self.extents_of(ino)?)),
        };
        Ok((!held.is_empty()).then_some(Look {
            generation,
            whole,
            held,
        }))
    }

    fn extents_of(&self, ino: Ino) -> Result<Vec<Extent>> {
        let content = self.db.read(|connection| content_of(connection, ino))?;
        self.expand(&content)
    }

    /// Reads and hashes; answers how many bytes. What is not what it must be goes to
    /// `rotten`.
    fn compare(&self, ino: Ino, look: &Look, rotten: &mut Vec<Held>) -> Result<u64> {
        let path = self.cache.path(ino);
        let failed = |error| VolumeError::io(&path, error);
        let file = File::open(&path).map_err(failed)?;
        let mut bytes = Vec::new();
        let mut read = 0;
        for held in &look.held {
            if self.is_stopping() {
                return Err(VolumeError::Stopping);
            }
            bytes.resize(held.len as usize, 0);
            match file.read_exact_at(&mut bytes, held.off) {
                Ok(()) if self.keys.chunk_id(&bytes) == held.chunk => {}
                // A sector that cannot be read, or a file that was cut, is rot as well.
                Ok(()) | Err(_) => rotten.push(*held),
            }
            read += held.len;
        }
        Ok(read)
    }

    /// Takes rotten chunks out of the cache and fetches them anew. Chunks of a file that
    /// changed in the meantime are not rotten but overwritten.
    fn mend(&self, ino: Ino, look: &Look, rotten: &[Held]) -> Result<Vec<Finding>> {
        let extents = match look.whole {
            true => self.extents_of(ino)?,
            false => Vec::new(),
        };
        let taken_out = self.hold(ino, |held| {
            if held.generation != look.generation {
                return Ok(Vec::new());
            }
            if look.whole {
                if held.dirty || !matches!(held.here, Here::Whole) {
                    return Ok(Vec::new());
                }
                held.here = Here::part(present_map(&extents), false);
            }
            let mut taken = Vec::new();
            for rot in rotten {
                let range = rot.off..rot.off + rot.len;
                let changed = held.change_map(&range, |map| {
                    if let Some((len, Piece::Stored { chunk, present })) = map.get_mut(&rot.off)
                        && (*len, *chunk) == (rot.len, rot.chunk)
                        && *present
                    {
                        *present = false;
                        taken.push(*rot);
                    }
                });
                if changed.is_err() && matches!(held.here, Here::Part { stored: false, .. }) {
                    held.here = Here::Whole;
                }
                changed?;
            }
            Ok(taken)
        })?;
        let mut findings = Vec::new();
        for rot in taken_out {
            self.pull.flights.forget(&rot.chunk);
            let range = rot.off..rot.off + rot.len;
            let mut finding = Finding::of(
                self.name_of(ino),
                format!(
                    "bytes {} to {} here are not what was stored",
                    range.start, range.end
                ),
            );
            match self.ensure(ino, range) {
                Ok(()) => {
                    finding.mended = true;
                    finding.problem += "; they were fetched anew";
                }
                Err(error) => {
                    finding.problem += &format!(
                        "; they will be fetched anew when they are read, for now: {error}"
                    );
                }
            }
            findings.push(finding);
        }
        if !findings.is_empty() {
            self.notify.tell(|face| face.inode_changed(ino));
        }
        Ok(findings)
    }
}

/// The map of a file that is here whole.
fn present_map(extents: &[Extent]) -> Map {
    let mut map = map_of(extents);
    for (_, piece) in map.values_mut() {
        if let Piece::Stored { present, .. } = piece {
            *present = true;
        }
    }
    map
}

fn held_in(map: &Map) -> Vec<Held> {
    map.iter()
        .filter_map(|(&off, &(len, piece))| match piece {
            Piece::Stored {
                chunk,
                present: true,
            } => Some(Held { off, len, chunk }),
            _ => None,
        })
        .collect()
}

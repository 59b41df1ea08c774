//! Bringing content back, by hand.
//!
//! Files come in the order in which they lie in the packs, several waves at a time. What
//! is here already is skipped, so a checkout that was cut goes on where it ended. A file
//! that cannot be had is named and the rest goes on; if the store cannot be reached, or
//! there is no room, it ends at once.

use std::collections::HashSet;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use larder_model::{Content, Extent};
use rusqlite::{Connection, OptionalExtension};

use super::fetch::{Brought, Want, bring, wants};
use super::pin::pinned;
use super::walk::{FileRow, content_of, files_below};
use super::work;
use crate::progress::{Progress, Report, Unit};
use crate::{Ino, Result, Volume, VolumeError};

/// So many waves are under way at once.
const WAVES: usize = 3;
/// Bytes in a wave.
const WAVE_BYTES: u64 = 8 << 20;
const WAVE_FILES: usize = 1024;

/// What a checkout brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckoutReport {
    /// Files that are here whole now and were not before.
    pub files: u64,
    /// Bytes that came.
    pub fetched_bytes: u64,
    /// Paths of files that could not be brought, and why.
    pub failed: Vec<(Vec<u8>, String)>,
    /// Whether it ended before all was tried; run it again to go on.
    pub cut: bool,
}

/// A file to bring.
#[derive(Debug, Clone, Copy)]
struct Todo {
    ino: Ino,
    /// About how much of it is away, in bytes.
    away_bytes: u64,
    /// Where its first chunk lies: pack and offset.
    place: (i64, i64),
}

/// The files to bring, cut into waves.
struct Feed {
    todo: std::vec::IntoIter<Todo>,
    /// What is left of a file that is longer than a wave.
    rest: std::collections::VecDeque<Want>,
}

/// Some pieces to bring together.
#[derive(Default)]
struct Wave {
    wants: Vec<Want>,
    /// How many files have their last piece in this wave.
    ends: usize,
    failed: Vec<(Ino, VolumeError)>,
}

impl Volume {
    /// Brings the content of these files, and of all files in these directories.
    ///
    /// # Errors
    /// [`VolumeError::NoSpace`] if they do not fit into the budget, and failures of the
    /// database. What could not be brought is in the report.
    pub async fn checkout(
        self: &Arc<Self>,
        paths: &[Ino],
        report: Report<'_>,
    ) -> Result<CheckoutReport> {
        let weak = Arc::downgrade(self);
        let paths = paths.to_vec();
        let listed = work(&weak, move |volume| {
            let stays = volume
                .db
                .read(|connection| stays_here(connection, &paths))?;
            Ok::<_, VolumeError>((to_bring(volume, &paths)?, stays))
        });
        let (todo, stays) = listed.await.ok_or(VolumeError::Stopping)??;
        let files: Vec<Ino> = todo.iter().map(|todo| todo.ino).collect();
        let total: u64 = todo.iter().map(|todo| todo.away_bytes).sum();
        self.refuse_if_too_much(total, stays)?;
        let mut feed = Some(Feed {
            todo: todo.into_iter(),
            rest: std::collections::VecDeque::new(),
        });
        let mut running = FuturesUnordered::new();
        let mut checkout = CheckoutReport::default();
        loop {
            while running.len() < WAVES
                && !checkout.cut
                && let Some(feeding) = feed.take()
            {
                let next = work(&weak, move |volume| feeding.next(volume));
                let (fed, wave) = next.await.ok_or(VolumeError::Stopping)?;
                feed = fed;
                let brought = move |volume: &Arc<Self>| {
                    let brought = bring(volume, &wave.wants);
                    (wave, brought)
                };
                running.push(work(&weak, brought));
            }
            let Some(brought) = running.next().await else {
                break;
            };
            let (wave, brought) = brought.ok_or(VolumeError::Stopping)?;
            self.note_wave(wave, brought?, &mut checkout);
            report(Progress {
                phase: "fetching".to_owned(),
                done: checkout.fetched_bytes,
                total: total.max(checkout.fetched_bytes),
                unit: Unit::Bytes,
                path: None,
            });
        }
        // Readers may have brought files that no wave had to: all are looked at.
        let counting = work(&weak, move |volume| {
            volume.db.read(|c| count_whole(c, &files))
        });
        checkout.files = counting.await.ok_or(VolumeError::Stopping)??;
        Ok(checkout)
    }

    fn refuse_if_too_much(&self, bytes: u64, stays: u64) -> Result<()> {
        let budget = self.settings.budget_bytes;
        if bytes == 0 || bytes.saturating_add(stays) <= budget {
            return Ok(());
        }
        Err(VolumeError::NoSpace(format!(
            "this needs {bytes} bytes more; the budget is {budget}, and {stays} of it are taken \
             by what stays here: what is to be checked out, what is pinned, and what is not \
             stored for sure yet. Check out less, unpin something, or raise the budget"
        )))
    }

    fn note_wave(&self, wave: Wave, brought: Brought, checkout: &mut CheckoutReport) {
        checkout.fetched_bytes += brought.bytes;
        for (ino, error) in wave.failed.into_iter().chain(brought.failed) {
            let path = self.name_of(ino);
            checkout.cut |= ends_all(&error);
            if checkout.failed.last().is_none_or(|(last, _)| *last != path) {
                checkout.failed.push((path, error.to_string()));
            }
        }
    }
}

fn count_whole(connection: &Connection, files: &[Ino]) -> Result<u64> {
    let mut statement =
        connection.prepare_cached("SELECT 1 FROM cached WHERE ino = ?1 AND whole = 1")?;
    let mut whole = 0;
    for &ino in files {
        whole += u64::from(statement.exists([ino as i64])?);
    }
    Ok(whole)
}

/// Whether the next file would fail for the same reason.
fn ends_all(error: &VolumeError) -> bool {
    !matches!(error, VolumeError::Damaged(_) | VolumeError::Format(_))
}

impl Feed {
    /// The next wave, and the feed unless this was the last.
    fn next(mut self, volume: &Volume) -> (Option<Self>, Wave) {
        let mut wave = Wave::default();
        let mut bytes = 0;
        while bytes < WAVE_BYTES && wave.ends < WAVE_FILES {
            if let Some(want) = self.rest.pop_front() {
                bytes += want.missing.len;
                wave.ends += usize::from(self.rest.is_empty());
                wave.wants.push(want);
                continue;
            }
            let Some(todo) = self.todo.next() else {
                return (None, wave);
            };
            match wants(volume, todo.ino, 0..u64::MAX) {
                Ok(wants) => self.rest = wants.into(),
                Err(VolumeError::NoEntry) => {}
                Err(error) => {
                    let ends = ends_all(&error);
                    wave.failed.push((todo.ino, error));
                    if ends {
                        return (None, wave);
                    }
                }
            }
        }
        (Some(self), wave)
    }
}

/// Bytes here that cannot make way for these files: their own, those of pinned files, and
/// what is not stored for sure.
fn stays_here(connection: &Connection, paths: &[Ino]) -> Result<u64> {
    let mut stays = paths.to_vec();
    stays.extend(pinned(connection)?);
    let stays: HashSet<Ino> =
        files_below(connection, &stays, |file| Ok(file.here.map(|_| file.ino)))?
            .into_iter()
            .collect();
    let mut statement = connection.prepare_cached(
        "SELECT c.ino, c.bytes, c.dirty = 1 OR n.safe = 0
         FROM cached c JOIN nodes n ON n.ino = c.ino",
    )?;
    let mut rows = statement.query([])?;
    let mut bytes = 0u64;
    while let Some(row) = rows.next()? {
        if row.get(2)? || stays.contains(&(row.get::<_, i64>(0)? as Ino)) {
            bytes = bytes.saturating_add(row.get::<_, i64>(1)? as u64);
        }
    }
    Ok(bytes)
}

/// The files that are not here whole, in the order of their packs.
fn to_bring(volume: &Volume, paths: &[Ino]) -> Result<Vec<Todo>> {
    let mut todo = volume.db.read(|connection| {
        files_below(connection, paths, |file| {
            let whole = file.here.is_some_and(|here| here.whole);
            let wanted = !whole && file.size > 0;
            wanted.then(|| plan(connection, &file)).transpose()
        })
    })?;
    todo.sort_unstable_by_key(|todo| todo.place);
    Ok(todo)
}

fn plan(connection: &Connection, file: &FileRow) -> Result<Todo> {
    let content = content_of(connection, file.ino)?;
    let (stored, first) = match &content {
        Content::Extents(extents) => {
            let chunks = || {
                extents.iter().filter_map(|extent| match extent {
                    Extent::Chunk { id, len } => Some((*id, u64::from(*len))),
                    Extent::Hole { .. } => None,
                })
            };
            (
                chunks().map(|(_, len)| len).sum(),
                chunks().next().map(|(id, _)| id),
            )
        }
        Content::List { root, size } => (*size, Some(*root)),
        Content::None | Content::Target(_) => (0, None),
    };
    let place = match first {
        Some(id) => connection
            .prepare_cached("SELECT pack, off FROM chunks WHERE id = ?1")?
            .query_row([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?,
        None => None,
    };
    Ok(Todo {
        ino: file.ino,
        away_bytes: stored.saturating_sub(file.here.map_or(0, |here| here.bytes)),
        place: place.unwrap_or_default(),
    })
}

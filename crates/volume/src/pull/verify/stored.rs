//! The objects of the store, each read whole.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{StreamExt, stream};
use larder_format::{
    PackEntry, PackKind, decode_index, decode_volume_header, head_name, index_name, object,
    object_hash, open_chunk, open_head, open_mark, open_tags, parse_head_name, parse_index_name,
    parse_mark_name, parse_pack_name, parse_slot_name, parse_tags_name, read_pack, slot_kind,
    slot_name,
};
use larder_model::{ChunkId, Extent, IndexId, PackId};
use larder_store::ObjectMeta;
use rusqlite::{Connection, OptionalExtension};

use super::{Finding, VerifyReport};
use crate::progress::{Progress, Report, Unit};
use crate::pull::bootstrap::noted_slots;
use crate::pull::failure::Failure;
use crate::pull::locate::locate;
use crate::pull::walk::content_of;
use crate::pull::work;
use crate::{Ino, Result, Volume, VolumeError};

/// Objects in memory at once.
const AT_ONCE: usize = 3;
/// Content that could not be looked up is named so often, then only counted.
const NAMED: usize = 1000;

/// A pack as the database knows it.
#[derive(Debug, Clone, Copy)]
struct Known {
    row: i64,
    size: u64,
    chunks: u64,
}

type KnownPacks = HashMap<PackId, (PackKind, Known)>;

pub(super) async fn verify(
    volume: &Arc<Volume>,
    files: Vec<Ino>,
    all: bool,
    report: Report<'_>,
) -> Result<VerifyReport> {
    let weak = Arc::downgrade(volume);
    let looking = work(&weak, move |volume| volume.packs_of(&files));
    let (mut verified, wanted) = looking.await.ok_or(VolumeError::Stopping)??;
    let counting = work(&weak, |volume| volume.db.read(known_packs));
    let known = Arc::new(counting.await.ok_or(VolumeError::Stopping)??);
    let expecting = || work(&weak, |volume| volume.expected());
    let expected = expecting().await.ok_or(VolumeError::Stopping)??;

    let objects = match volume.store.list("").await {
        Ok(objects) => objects,
        Err(error) => {
            verified.unknown.push(Finding::of(
                volume.store.address(),
                format!("nothing on it could be looked at: {}", error.message),
            ));
            return Ok(verified);
        }
    };
    let listed: BTreeMap<&str, u64> = objects
        .iter()
        .map(|found| (found.key.as_str(), found.size))
        .collect();
    let is_wanted = |kind: PackKind, id: &PackId| {
        all || known
            .get(id)
            .is_some_and(|(_, pack)| kind == PackKind::Data && wanted.contains(&pack.row))
    };
    for (id, (kind, pack)) in known.iter().filter(|(id, (kind, _))| is_wanted(*kind, id)) {
        let name = larder_format::pack_name(*kind, id);
        verified.missing.extend(match listed.get(name.as_str()) {
            None => Some(Finding::of(name, "it is not on the store")),
            Some(&size) if size != pack.size => Some(Finding::of(
                name,
                format!("it has {size} bytes on the store instead of {}", pack.size),
            )),
            Some(_) => None,
        });
    }
    if all {
        // What was there before the list and is no longer needed after it may have gone.
        let still = expecting().await.ok_or(VolumeError::Stopping)??;
        let lost = expected
            .into_iter()
            .filter(|name| still.contains(name) && !listed.contains_key(name.as_str()));
        let finding = |name: String| Finding::of(name, "it is not on the store");
        verified.missing.extend(lost.map(finding));
    }
    let chosen: Vec<_> = objects
        .iter()
        .filter(|found| match parse_pack_name(found.key.as_str()) {
            Some((kind, id)) => is_wanted(kind, &id),
            None => all,
        })
        .cloned()
        .collect();
    read_all(volume, chosen, known, &mut verified, report).await?;
    Ok(verified)
}

async fn read_all(
    volume: &Arc<Volume>,
    objects: Vec<ObjectMeta>,
    known: Arc<KnownPacks>,
    verified: &mut VerifyReport,
    report: Report<'_>,
) -> Result<()> {
    let total: u64 = objects.iter().map(|found| found.size).sum();
    let (mut done, count) = (0, objects.len() as u64);
    let mut reading = stream::iter(objects)
        .map(|found| {
            let known = Arc::clone(&known);
            async move {
                let checked = check(volume, &found, known).await;
                (found, checked)
            }
        })
        .buffer_unordered(AT_ONCE);
    while let Some((found, checked)) = reading.next().await {
        let name = found.key.to_string();
        match checked {
            Ok(None) => {}
            Ok(Some(problem)) => verified.damaged.push(Finding::of(name, problem)),
            Err(Failure::Stopping) => return Err(VolumeError::Stopping),
            Err(Failure::Damaged(what)) => verified.damaged.push(Finding::of(name, what)),
            // One line for all that is left: each would say the same, after the same wait.
            Err(failure @ Failure::Away(_)) => {
                verified.unknown.push(Finding::of(
                    volume.store.address(),
                    format!(
                        "{} of {count} objects could not be looked at: {failure}",
                        count - verified.objects
                    ),
                ));
                return Ok(());
            }
            Err(failure) => verified.unknown.push(Finding::of(name, failure)),
        }
        verified.objects += 1;
        verified.bytes += found.size;
        done += found.size;
        report(Progress {
            phase: "verifying the store".to_owned(),
            done,
            total,
            unit: Unit::Bytes,
            path: Some(found.key.to_string()),
        });
    }
    Ok(())
}

/// What is wrong with the object, if anything.
async fn check(
    volume: &Arc<Volume>,
    found: &ObjectMeta,
    known: Arc<KnownPacks>,
) -> Result<Option<String>, Failure> {
    let deadline = Instant::now() + volume.settings.read_wait * 4;
    let bytes = match volume
        .pull
        .fetcher
        .source
        .fetch_whole(found, deadline)
        .await
    {
        Ok(bytes) => bytes,
        Err(failure) => {
            // A mark goes when its replica puts the next one.
            let is_mark = parse_mark_name(found.key.as_str()).is_some();
            return match volume.store.stat(&found.key).await {
                Ok(None) if is_mark => Ok(None),
                _ => Err(failure),
            };
        }
    };
    let name = found.key.to_string();
    let weak = Arc::downgrade(volume);
    let checked = work(&weak, move |volume| {
        volume.problem_of(&name, &bytes, &known)
    });
    match checked.await.ok_or(Failure::Stopping)? {
        Ok(()) => Ok(None),
        Err(error) => Ok(Some(error.to_string())),
    }
}

impl Volume {
    /// The packs that hold these files' chunks, by their rows; chunks that no pack holds are
    /// findings.
    fn packs_of(&self, files: &[Ino]) -> Result<(VerifyReport, HashSet<i64>)> {
        let mut verified = VerifyReport::default();
        let mut packs = HashSet::new();
        for &ino in files {
            let content = match self.db.read(|connection| content_of(connection, ino)) {
                // The file was deleted in the meantime.
                Err(VolumeError::NoEntry) => continue,
                other => other?,
            };
            let mut lost = 0u64;
            let each = self.each_extent(&content, &mut |_, extent| {
                if let Extent::Chunk { id, .. } = extent {
                    match self.db.read(|connection| row_of(connection, &id))? {
                        Some(pack) => {
                            packs.insert(pack);
                        }
                        None => lost += 1,
                    }
                }
                Ok(())
            });
            if let Err(error @ (VolumeError::Away(_) | VolumeError::TimedOut(_))) = each {
                verified.unknown.push(Finding::of(
                    self.store.address(),
                    format!("lists of chunks are away: {error}"),
                ));
                break;
            }
            if let Err(error) = each
                && verified.unknown.len() < NAMED
            {
                let problem = format!("its list of chunks cannot be read: {error}");
                let finding = Finding::of(self.name_of(ino), problem);
                verified.unknown.push(finding);
            }
            if lost > 0 {
                let problem = format!("{lost} of its chunks are in no pack that is known");
                let finding = Finding::of(self.name_of(ino), problem);
                verified.missing.push(finding);
            }
        }
        Ok((verified, packs))
    }

    /// The names of objects besides packs that must be on the store: the volume's header,
    /// its key slots, and the indexes and the newest head of this replica.
    fn expected(&self) -> Result<BTreeSet<String>> {
        let (slots, indexes, head) = self.db.read(|connection| {
            let mut indexes =
                connection.prepare_cached("SELECT id FROM indexes WHERE replaced IS NULL")?;
            let indexes: Vec<Vec<u8>> = indexes
                .query_map([], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let head: Option<i64> = connection.query_row(
                "SELECT max(n) FROM commits WHERE acked = 1 AND n >= ?1",
                [crate::push::first_commit(connection)? as i64],
                |row| row.get(0),
            )?;
            Ok((noted_slots(connection)?, indexes, head))
        })?;
        let slots = slots.iter().map(slot_name);
        let indexes = indexes
            .iter()
            .filter_map(|id| IndexId::from_slice(id))
            .map(|id| index_name(&id));
        let head = head.map(|n| head_name(&self.replica().id(), n as u64));
        let header = object::VOLUME.to_owned();
        Ok(slots.chain(indexes).chain(head).chain([header]).collect())
    }

    /// # Errors
    /// What is wrong with the object.
    fn problem_of(&self, name: &str, bytes: &Bytes, known: &KnownPacks) -> Result<()> {
        if let Some((kind, id)) = parse_pack_name(name) {
            return self.check_pack(kind, &id, bytes, known);
        }
        if let Some(id) = parse_index_name(name) {
            check_name(bytes, &id.0)?;
            decode_index(&self.keys, bytes)?;
            return Ok(());
        }
        if let Some(id) = parse_slot_name(name) {
            check_name(bytes, &id.0)?;
            slot_kind(bytes)?;
            return Ok(());
        }
        if let Some((replica, n)) = parse_head_name(name) {
            let head = open_head(&self.keys, &replica, n, bytes)?;
            let own = replica == self.replica().id();
            let place = self
                .db
                .read(|connection| locate(connection, &head.commit))?;
            return match place {
                None if own => Err(VolumeError::Damaged(
                    "the commit that it names is in no pack that is known".to_owned(),
                )),
                _ => Ok(()),
            };
        }
        if let Some((replica, n)) = parse_tags_name(name) {
            open_tags(&self.keys, &replica, n, bytes)?;
            return Ok(());
        }
        if let Some((replica, n)) = parse_mark_name(name) {
            open_mark(&self.keys, &replica, n, bytes)?;
            return Ok(());
        }
        if name == object::VOLUME {
            let volume = decode_volume_header(bytes)?;
            if volume != self.id() {
                return Err(VolumeError::Damaged(format!("it names volume {volume}")));
            }
        }
        // Whatever else lies there is not Larder's.
        Ok(())
    }

    fn check_pack(
        &self,
        kind: PackKind,
        id: &PackId,
        bytes: &Bytes,
        known: &KnownPacks,
    ) -> Result<()> {
        let (seal, entries) = read_pack(&self.keys, kind, id, bytes)?;
        for entry in &entries {
            let range = entry.range();
            let sealed = bytes.get(range.start as usize..range.end as usize);
            open_chunk(&self.keys, &seal, entry, sealed.unwrap_or_default())?;
        }
        match known.get(id) {
            Some((_, pack)) => self.check_places(pack, &entries),
            None => Ok(()),
        }
    }

    /// Whether every chunk that the database places in this pack is there.
    fn check_places(&self, pack: &Known, entries: &[PackEntry]) -> Result<()> {
        let there = self.db.read(|connection| {
            let mut there = 0;
            for entry in entries {
                match locate(connection, &entry.chunk)? {
                    Some(place) if place.pack == pack.row && place.entry == *entry => there += 1,
                    _ => {}
                }
            }
            Ok(there)
        })?;
        if there < pack.chunks {
            return Err(VolumeError::Damaged(format!(
                "{} of the {} chunks that should be in it are not",
                pack.chunks - there,
                pack.chunks
            )));
        }
        Ok(())
    }
}

fn check_name(bytes: &[u8], id: &[u8; 32]) -> Result<()> {
    if object_hash(bytes) == *id {
        Ok(())
    } else {
        Err(VolumeError::Damaged(
            "its bytes do not match its name".to_owned(),
        ))
    }
}

fn row_of(connection: &Connection, chunk: &ChunkId) -> Result<Option<i64>> {
    Ok(connection
        .prepare_cached("SELECT pack FROM chunks WHERE id = ?1")?
        .query_row([chunk.as_bytes()], |row| row.get(0))
        .optional()?)
}

fn known_packs(connection: &Connection) -> Result<KnownPacks> {
    let mut statement = connection.prepare(
        "SELECT p.pack, p.id, p.kind, p.size,
                coalesce(n.chunks, 0)
         FROM packs p LEFT JOIN (SELECT pack, count(*) AS chunks FROM chunks GROUP BY pack) n
              ON n.pack = p.pack
         WHERE p.id NOT IN (SELECT pack FROM doomed)",
    )?;
    let mut rows = statement.query([])?;
    let mut known = KnownPacks::new();
    while let Some(row) = rows.next()? {
        let id: Vec<u8> = row.get(1)?;
        let (Some(id), Some(kind)) = (PackId::from_slice(&id), PackKind::from_code(row.get(2)?))
        else {
            return Err(VolumeError::Damaged(
                "the database's list of packs is damaged".to_owned(),
            ));
        };
        let pack = Known {
            row: row.get(0)?,
            size: row.get::<_, i64>(3)? as u64,
            chunks: row.get::<_, i64>(4)? as u64,
        };
        known.insert(id, (kind, pack));
    }
    Ok(known)
}

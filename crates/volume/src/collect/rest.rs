//! What rests on packs that do not count any more finds another place.
//!
//! What is here becomes dirty where no pack that counts has it, and is stored anew; until all was
//! gone through nothing is dropped. What is away is copied into a pack of this replica's own,
//! where nobody else keeps it for this replica's sake: what a join or a restore takes in, and all
//! that there is after this replica was away for too long.

use std::collections::HashSet;
use std::sync::Arc;

use larder_format::{PackKind, PackWriter, References, decode_content, list as lists};
use larder_model::{ChunkId, Content, PackId};
use larder_store::ObjectMeta;
use rusqlite::{Connection, OptionalExtension};

use super::marks;
use crate::live::{Held, Here, Piece};
use crate::pull::{fetch_chunks, learn_indexes};
use crate::push::{
    Shared, blocking, chunk_compressor, fresh_salt, is_chunk_stored, push_indexes,
    record_for_commit, send_pack,
};
use crate::{Ino, Result, Volume, VolumeError};

/// So many bytes of chunks are fetched before they are packed.
const COPIED_AT_ONCE: u64 = 16 << 20;
/// So many files are named in a warning.
const NAMED: usize = 5;

/// Looks which of the packs that the database knows the store lists. Those that it does not, do
/// not count.
///
/// # Errors
/// If the store cannot be asked, or the database fails.
pub(super) async fn compare_with_list(volume: &Arc<Volume>) -> Result<()> {
    let has_packs: bool = volume
        .db
        .read(|tx| Ok(tx.query_row("SELECT EXISTS(SELECT 1 FROM packs)", [], |row| row.get(0))?))?;
    if !has_packs {
        return Ok(());
    }
    let mut listed: Vec<PackId> = Vec::new();
    for prefix in [larder_format::object::TREES, larder_format::object::PACKS] {
        let found: Vec<ObjectMeta> = volume.store.list(&format!("{prefix}/")).await?;
        let names = found.iter().map(|found| found.key.as_str());
        listed.extend(
            names
                .filter_map(larder_format::parse_pack_name)
                .map(|(_, id)| id),
        );
    }
    listed.sort_unstable();
    let noting = Arc::clone(volume);
    blocking(move || {
        let known = noting.db.read(|tx| {
            let mut known = tx.prepare_cached("SELECT id FROM packs WHERE condemned = 0")?;
            let rows = known.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
            let ids = rows.map(|row| PackId::from_slice(&row?).ok_or_else(marks::damaged));
            ids.collect::<Result<Vec<_>>>()
        })?;
        let is_lost = |id: &&PackId| listed.binary_search(id).is_err();
        let lost: Vec<_> = known.iter().filter(is_lost).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let mut losses = noting.push.losses();
        *losses += 1;
        noting.db.write_synced(|tx| {
            let mut update = tx.prepare_cached("UPDATE packs SET condemned = 1 WHERE id = ?1")?;
            for id in &lost {
                update.execute([id.as_bytes()])?;
            }
            marks::doom(tx)
        })
    })
    .await
}

/// Makes dirty what is here and rests on packs that do not count any more. Until this has ended
/// well nothing is dropped.
///
/// # Errors
/// If the store cannot be asked, or the database fails.
pub(super) async fn settle(volume: &Arc<Volume>) -> Result<()> {
    // A chunk may lie in another pack, too, whose index object was read before.
    volume.seen.forget_indexes();
    let wait = volume.settings.read_wait * 4;
    let indexes = volume.seen.indexes();
    learn_indexes(volume.fetcher(), &volume.db, indexes, wait).await?;
    let working = Arc::clone(volume);
    blocking(move || {
        for ino in working.db.read(here)? {
            match make_own(&working, ino) {
                Ok(()) | Err(VolumeError::NoEntry | VolumeError::Stale) => {}
                Err(error) => return Err(error),
            }
            working.trim_lives();
        }
        working.push.store_anew();
        working.db.write_synced(marks::set_settled)
    })
    .await
}

/// Files of which something is here, and something is stored.
fn here(connection: &Connection) -> Result<Vec<Ino>> {
    let mut statement = connection.prepare(
        "SELECT n.ino FROM cached c JOIN nodes n ON n.ino = c.ino
         WHERE n.content IS NOT NULL AND n.nlink > 0",
    )?;
    let rows = statement.query_map([], |row| row.get::<_, i64>(0))?;
    Ok(rows
        .map(|ino| ino.map(|ino| ino as Ino))
        .collect::<Result<_, _>>()?)
}

fn make_own(volume: &Volume, ino: Ino) -> Result<()> {
    let content = match volume.db.read(|tx| content_of(tx, ino))? {
        Some(content) => content,
        None => return Ok(()),
    };
    let unstored = match unstored_of(volume, &content) {
        Ok(unstored) => unstored,
        // A page of its list is neither here nor there: what is here of the file is its own.
        Err(VolumeError::Damaged(_) | VolumeError::Format(_)) => None,
        Err(error) => return Err(error),
    };
    if unstored.as_ref().is_some_and(HashSet::is_empty) {
        return Ok(());
    }
    let is_unstored = |id: &ChunkId| unstored.as_ref().is_none_or(|ids| ids.contains(id));
    volume.hold(ino, |held| make_local(held, &is_unstored))?;
    volume.live.set_aside(ino, None);
    Ok(())
}

fn make_local(held: &mut Held<'_>, is_unstored: &dyn Fn(&ChunkId) -> bool) -> Result<()> {
    if matches!(held.here, Here::Away) {
        return Ok(());
    }
    held.mark_dirty()?;
    let all = 0..held.size.max(1);
    held.change_map(&all, |map| {
        for (_, piece) in map.values_mut() {
            if let Piece::Stored {
                chunk,
                present: true,
            } = piece
                && is_unstored(chunk)
            {
                *piece = Piece::Local;
            }
        }
    })?;
    held.note_dirty();
    Ok(())
}

fn content_of(tx: &Connection, ino: Ino) -> Result<Option<Content>> {
    let content: Option<Option<Vec<u8>>> = tx
        .prepare_cached("SELECT content FROM nodes WHERE ino = ?1")?
        .query_row([ino as i64], |row| row.get(0))
        .optional()?;
    let content = content.flatten();
    Ok(content.map(|bytes| decode_content(&bytes)).transpose()?)
}

/// Those of the chunks and pages of a content that no pack has that counts.
fn unstored_of(volume: &Volume, content: &Content) -> Result<Option<HashSet<ChunkId>>> {
    let mut all = References::of_content(content);
    if let Content::List { .. } = content {
        all = References::default();
        lists::pages(content, &mut |id: &ChunkId| volume.page(id), |id| {
            all.pages.push(id);
            Ok::<_, VolumeError>(())
        })?;
        volume.each_extent(content, &mut |_, extent| {
            if let larder_model::Extent::Chunk { id, .. } = extent {
                all.chunks.push(id);
            }
            Ok(())
        })?;
    }
    let ids = all.chunks.into_iter().chain(all.pages);
    let unstored = volume.db.read(|tx| {
        let mut unstored = HashSet::new();
        for id in ids {
            if !is_chunk_stored(tx, &id)? {
                unstored.insert(id);
            }
        }
        Ok(unstored)
    })?;
    Ok(Some(unstored))
}

/// Copies what these contents hold in packs that do not count into packs that do. If nothing was
/// ever condemned it does nothing. Blocks while it is fetched.
///
/// # Errors
/// If some of it cannot be had, or the volume stops.
pub(crate) async fn rescue(
    volume: &Arc<Volume>,
    contents: Vec<Content>,
    pages: Vec<ChunkId>,
) -> Result<()> {
    if !volume.db.read(is_any_doomed)? {
        return Ok(());
    }
    let mut wanted: Vec<ChunkId> = Vec::new();
    wanted.extend(volume.db.read(|tx| without_place(tx, pages))?);
    for content in contents {
        let looking = Arc::clone(volume);
        let unstored = blocking(move || unstored_of(&looking, &content)).await?;
        wanted.extend(unstored.unwrap_or_default());
    }
    wanted.sort_unstable();
    wanted.dedup();
    copy(volume, &wanted).await
}

fn is_any_doomed(tx: &Connection) -> Result<bool> {
    Ok(tx.query_row(
        "SELECT EXISTS(SELECT 1 FROM doomed) OR EXISTS(SELECT 1 FROM packs WHERE condemned = 1)",
        [],
        |row| row.get(0),
    )?)
}

fn without_place(tx: &Connection, ids: Vec<ChunkId>) -> Result<Vec<ChunkId>> {
    let mut left = Vec::new();
    for id in ids {
        if !is_chunk_stored(tx, &id)? {
            left.push(id);
        }
    }
    Ok(left)
}

/// Fetches chunks, and stores them in packs of this replica's own.
async fn copy(volume: &Arc<Volume>, chunks: &[ChunkId]) -> Result<()> {
    let shared = volume.push.shared();
    for kind in [PackKind::Data, PackKind::Tree] {
        let mut writer: Option<PackWriter> = None;
        let of_kind = volume.db.read(|tx| of_kind(tx, chunks, kind))?;
        for some in portions(&of_kind) {
            let mut came: Vec<(ChunkId, Vec<u8>)> = Vec::new();
            let wait = volume.settings.read_wait * 4;
            fetch_chunks(
                volume.fetcher(),
                &volume.db,
                &some,
                wait,
                &mut |id, bytes| {
                    came.push((id, bytes.to_vec()));
                    Ok(())
                },
            )
            .await?;
            let mut compressor = chunk_compressor()?;
            for (id, bytes) in came {
                let mut open = match writer.take() {
                    Some(open) => open,
                    None => PackWriter::new(&volume.keys, kind, fresh_salt()?)?,
                };
                let len = u32::try_from(bytes.len());
                let len = len.map_err(|_| VolumeError::TooLarge("a chunk"))?;
                let (codec, packed) = compressor.compress(&bytes);
                open.push(id, codec, len, packed)?;
                match open.is_full() {
                    true => store(&shared, volume, open).await?,
                    false => writer = Some(open),
                }
            }
        }
        if let Some(open) = writer {
            store(&shared, volume, open).await?;
        }
    }
    Ok(())
}

async fn store(shared: &Shared, volume: &Arc<Volume>, open: PackWriter) -> Result<()> {
    let sent = send_pack(shared, &volume.store, open.finish()?).await?;
    let noting = Arc::clone(volume);
    blocking(move || record_for_commit(&noting, sent)).await
}

/// Those that lie in packs of this kind, each with its length; what lies nowhere is an error.
fn of_kind(tx: &Connection, chunks: &[ChunkId], kind: PackKind) -> Result<Vec<(ChunkId, u64)>> {
    let mut find = tx.prepare_cached(
        "SELECT p.kind, c.raw_len FROM chunks c JOIN packs p ON p.pack = c.pack WHERE c.id = ?1",
    )?;
    let mut found = Vec::new();
    for id in chunks {
        let place: Option<(u8, i64)> = find
            .query_row([id.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match place {
            Some((code, len)) if code == kind.code() => found.push((*id, len as u64)),
            Some(_) => {}
            None => {
                return Err(VolumeError::State(format!(
                    "chunk {id} is not on the store any more: it was given up with the history \
                     that needed it"
                )));
            }
        }
    }
    Ok(found)
}

fn portions(chunks: &[(ChunkId, u64)]) -> Vec<Vec<ChunkId>> {
    let mut portions = vec![Vec::new()];
    let mut bytes = 0;
    for (id, len) in chunks {
        if bytes > COPIED_AT_ONCE {
            portions.push(Vec::new());
            bytes = 0;
        }
        bytes += len;
        if let Some(last) = portions.last_mut() {
            last.push(*id);
        }
    }
    portions.retain(|portion| !portion.is_empty());
    portions
}

/// Copies all that the tree holds, and that lies in packs that nobody keeps for this replica's
/// sake. What cannot be had is said.
///
/// # Errors
/// If the store cannot be asked, or the volume stops.
pub(super) async fn rescue_all(shared: &Shared, volume: &Arc<Volume>) -> Result<()> {
    if !volume.db.read(is_any_doomed)? {
        return Ok(());
    }
    let (mut lost, mut named): (usize, Vec<Ino>) = (0, Vec::new());
    let mut after = 0;
    loop {
        let reading = Arc::clone(volume);
        let some = blocking(move || reading.db.read(|tx| some_contents(tx, OF_ALL, after))).await?;
        let Some((last, _)) = some.last() else {
            break;
        };
        after = *last;
        for (ino, content) in some {
            match rescue(volume, vec![content], Vec::new()).await {
                Ok(()) => {}
                Err(VolumeError::Damaged(_) | VolumeError::Format(_) | VolumeError::State(_)) => {
                    // What is here of it is dirty, and stored from there.
                    if !is_here(volume, ino)? {
                        lost += 1;
                        named.extend((lost <= NAMED).then_some(ino));
                    }
                }
                // Whatever else it is, it is tried again.
                Err(error) => return Err(error),
            }
        }
    }
    crate::push::store_pages_anew(shared, volume).await?;
    push_indexes(shared, volume).await?;
    if lost == 0 {
        return Ok(());
    }
    let names: Vec<_> = named.iter().map(|ino| volume.name_of(*ino)).collect();
    let names: Vec<_> = names
        .iter()
        .map(|name| String::from_utf8_lossy(name))
        .collect();
    volume.push.warn(
        "given up",
        format!(
            "this machine was away for so long that the others gave up content that its tree still \
             has, and it is not here: of {} files, {} among them. If another machine has it, copy \
             it from there; else these files can only be deleted",
            lost,
            names.join(", ")
        ),
    );
    Ok(())
}

fn is_here(volume: &Volume, ino: Ino) -> Result<bool> {
    match volume.missing(ino, 0..u64::MAX) {
        Ok(missing) => Ok(missing.is_empty()),
        Err(VolumeError::NoEntry) => Ok(true),
        Err(_) => Ok(false),
    }
}

/// All nodes, and those that no commit has as they are.
const OF_ALL: &str = "SELECT ino, content FROM nodes
     WHERE ino > ?1 AND content IS NOT NULL AND nlink > 0 ORDER BY ino LIMIT 256";
const OF_UNCOMMITTED: &str = "SELECT n.ino, n.content FROM changed c JOIN nodes n ON n.ino = c.ino
     WHERE c.ino > ?1 AND n.content IS NOT NULL AND n.nlink > 0 ORDER BY c.ino LIMIT 256";
/// Pieces of dirty files that are away, and that no pack holds that counts.
const OF_DIRTY: &str = "SELECT DISTINCT e.chunk FROM cached d JOIN extents e ON e.ino = d.ino
     JOIN chunks c ON c.id = e.chunk JOIN packs p ON p.pack = c.pack
     WHERE d.dirty = 1 AND e.present = 0 AND p.condemned = 1 LIMIT 4096";

/// Copies what no commit has, is away, and lies in packs that do not count: nobody else knows that
/// this replica needs it. What is in a commit is kept by that.
///
/// # Errors
/// If the store cannot be asked, or the volume stops.
pub(crate) async fn rescue_uncommitted(volume: &Arc<Volume>) -> Result<()> {
    if !volume.db.read(is_any_doomed)? {
        return Ok(());
    }
    let flushing = Arc::clone(volume);
    blocking(move || {
        flushing.flush_lives();
        Ok(())
    })
    .await?;
    loop {
        let reading = Arc::clone(volume);
        let some = blocking(move || reading.db.read(away_of_dirty)).await?;
        if some.is_empty() {
            break;
        }
        copy(volume, &some).await?;
    }
    let mut after = 0;
    loop {
        let reading = Arc::clone(volume);
        let read = move || {
            reading
                .db
                .read(|tx| some_contents(tx, OF_UNCOMMITTED, after))
        };
        let some = blocking(read).await?;
        let Some((last, _)) = some.last() else {
            return Ok(());
        };
        after = *last;
        let contents = some.into_iter().map(|(_, content)| content);
        rescue(volume, contents.collect(), Vec::new()).await?;
    }
}

fn away_of_dirty(tx: &Connection) -> Result<Vec<ChunkId>> {
    let mut statement = tx.prepare_cached(OF_DIRTY)?;
    let rows = statement.query_map([], |row| row.get::<_, Vec<u8>>(0))?;
    rows.map(|row| ChunkId::from_slice(&row?).ok_or_else(marks::damaged))
        .collect()
}

fn some_contents(tx: &Connection, query: &str, after: Ino) -> Result<Vec<(Ino, Content)>> {
    let mut statement = tx.prepare_cached(query)?;
    let rows = statement.query_map([after as i64], |row| {
        Ok((row.get::<_, i64>(0)? as Ino, row.get::<_, Vec<u8>>(1)?))
    })?;
    rows.map(|row| {
        let (ino, content) = row?;
        Ok((ino, decode_content(&content)?))
    })
    .collect()
}

//! The newest tree: its pages from the store, and the database filled from them.
//!
//! Pages come level by level, each level with few requests, and stay in the database for
//! the next commit. Then the tree of nodes is read once, in the order of node ids, which
//! is that of creation: so nodes that were made together get neighbouring numbers.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use larder_format::peer::Piece;
use larder_format::tree::{self, Tree, TreeKind, parse_node_key};
use larder_format::{Commit, decode_node, kind_code};
use larder_model::{ChunkId, Kind, Link, LinkId, Node, NodeId};
use rusqlite::OptionalExtension;

use super::super::flight::{Boarding, Flights};
use super::super::request::{Fetcher, place};
use super::super::source::Urgency;
use crate::db::{Db, Transaction, set_meta};
use crate::node::Attr;
use crate::progress::{Progress, Report, Unit};
use crate::stored_node::StoredNode;
use crate::{Ino, ROOT, Result, VolumeError};

/// Requests that are under way at once.
const AT_ONCE: usize = 8;
/// Nodes that one transaction takes.
const NODES_AT_ONCE: usize = 10_000;
/// Chunks that are asked for in one go.
const CHUNKS_AT_ONCE: usize = 16_384;

/// Fetches chunks that the tables of packs know, in any order.
///
/// # Errors
/// If one of them cannot be had; those of `each`.
pub(crate) async fn fetch_chunks(
    fetcher: &Fetcher,
    db: &Db,
    chunks: &[ChunkId],
    wait: Duration,
    each: &mut (dyn FnMut(ChunkId, &[u8]) -> Result<()> + Send),
) -> Result<()> {
    // Nothing is asked for twice here, so nothing that landed needs to be kept.
    let flights = Flights::new(0);
    for chunks in chunks.chunks(CHUNKS_AT_ONCE) {
        let mut waiting = Vec::with_capacity(chunks.len());
        let mut departures = Vec::with_capacity(chunks.len());
        for &chunk in chunks {
            if let Boarding::Started(flight, departure) = flights.board(chunk) {
                waiting.push((chunk, flight));
                let piece = Piece { chunk, place: None };
                departures.push(departure.for_piece(Some(piece)));
            }
        }
        let placed = db.write(|tx| place(tx, departures, &fetcher.problems))?;
        let placed = fetcher
            .ask_others_first(placed, Instant::now() + wait)
            .await;
        let mut running = stream::iter(fetcher.requests(placed, Urgency::Behind)?)
            .map(|request| async move { request.run(Instant::now() + wait).await })
            .buffer_unordered(AT_ONCE);
        while running.next().await.is_some() {
            let now = Instant::now();
            let mut failed = None;
            waiting.retain(|(chunk, flight)| match flight.wait_until(now) {
                None => true,
                Some(Ok(bytes)) => {
                    failed = failed.take().or_else(|| each(*chunk, &bytes).err());
                    false
                }
                Some(Err(failure)) => {
                    failed = failed.take().or(Some(failure.into()));
                    false
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
        }
        // Those that no pack has, and those that others gave, ended without any request.
        for (chunk, flight) in waiting {
            let bytes = flight
                .wait_until(Instant::now())
                .unwrap_or(Err(super::super::failure::Failure::Stopping))?;
            each(chunk, &bytes)?;
        }
    }
    Ok(())
}

/// Brings all pages of a commit's trees into the table of pages.
///
/// # Errors
/// If one cannot be had.
pub(super) async fn fetch_pages(
    fetcher: &Fetcher,
    db: &Db,
    commit: &Commit,
    wait: Duration,
    report: Report<'_>,
) -> Result<()> {
    each_level(
        fetcher,
        db,
        commit,
        wait,
        report,
        |_| Ok(()),
        |pages| db.write(|tx| keep_pages(tx, pages.iter().map(|(id, bytes)| (id, &**bytes)))),
    )
    .await
}

/// Fetches the pages of a commit's trees that the table of pages lacks. What lies below a page that
/// it has is there, too.
///
/// # Errors
/// If one cannot be had.
pub(crate) async fn fetch_missing(
    fetcher: &Fetcher,
    db: &Db,
    commit: &Commit,
    wait: Duration,
    report: Report<'_>,
) -> Result<HashMap<ChunkId, Vec<u8>>> {
    let mut fetched = HashMap::new();
    let without_known = |level: &mut Vec<ChunkId>| {
        db.read(|connection| {
            let mut known = connection.prepare_cached("SELECT 1 FROM pages WHERE id = ?1")?;
            let mut missing = Vec::with_capacity(level.len());
            for id in level.drain(..) {
                if !known.exists([id.as_bytes()])? {
                    missing.push(id);
                }
            }
            *level = missing;
            Ok(())
        })
    };
    each_level(fetcher, db, commit, wait, report, without_known, |pages| {
        fetched.extend(pages);
        Ok(())
    })
    .await?;
    Ok(fetched)
}

/// Puts pages into the table of pages.
///
/// # Errors
/// If the database fails.
pub(crate) fn keep_pages<'a>(
    tx: &Transaction<'_>,
    pages: impl IntoIterator<Item = (&'a ChunkId, &'a [u8])>,
) -> Result<()> {
    let mut insert = tx.prepare_cached("INSERT OR IGNORE INTO pages(id, bytes) VALUES(?1, ?2)")?;
    for (id, bytes) in pages {
        insert.execute((id.as_bytes(), bytes))?;
    }
    Ok(())
}

/// Takes pages out of the table of pages.
///
/// # Errors
/// If the database fails.
pub(crate) fn forget_pages(tx: &Transaction<'_>, pages: &[ChunkId]) -> Result<()> {
    let mut delete = tx.prepare_cached("DELETE FROM pages WHERE id = ?1")?;
    for id in pages {
        delete.execute([id.as_bytes()])?;
    }
    Ok(())
}

/// Fetches the pages of a commit's trees level by level, but for those that `narrow` takes out.
async fn each_level(
    fetcher: &Fetcher,
    db: &Db,
    commit: &Commit,
    wait: Duration,
    report: Report<'_>,
    narrow: impl Fn(&mut Vec<ChunkId>) -> Result<()>,
    mut take: impl FnMut(Vec<(ChunkId, Vec<u8>)>) -> Result<()>,
) -> Result<()> {
    let mut seen = HashSet::new();
    let mut level = vec![commit.nodes, commit.names];
    level.retain(|page| seen.insert(*page));
    narrow(&mut level)?;
    let mut done = 0;
    while !level.is_empty() {
        let mut pages: Vec<(ChunkId, Vec<u8>)> = Vec::with_capacity(level.len());
        let total = done + level.len() as u64;
        fetch_chunks(fetcher, db, &level, wait, &mut |id, bytes| {
            pages.push((id, bytes.to_vec()));
            done += 1;
            report(Progress {
                phase: "fetching the tree".to_owned(),
                done,
                total,
                unit: Unit::Files,
                path: None,
            });
            Ok(())
        })
        .await?;
        level.clear();
        for (_, bytes) in &pages {
            level.extend(tree::references(bytes)?);
        }
        take(pages)?;
        level.retain(|page| seen.insert(*page));
        narrow(&mut level)?;
    }
    Ok(())
}

/// Fills the tables of nodes and names from the pages.
///
/// # Errors
/// If the tree is damaged, or the disk fails.
pub(super) fn fill(db: &Db, commit: &Commit, report: Report<'_>) -> Result<()> {
    let mut filling = Filling {
        next_ino: ROOT + 1,
        done: 0,
        from: Vec::new(),
    };
    while !db.write(|tx| filling.some(tx, commit))? {
        report(Progress {
            phase: "filling the tree".to_owned(),
            done: filling.done,
            total: commit.files.max(filling.done),
            unit: Unit::Files,
            path: None,
        });
    }
    db.write(|tx| {
        place_links(tx)?;
        let root: Option<i64> = tx
            .query_row("SELECT 1 FROM nodes WHERE ino = ?1", [ROOT as i64], |row| {
                row.get(0)
            })
            .optional()?;
        if root.is_none() {
            return Err(VolumeError::Damaged("the tree has no root".to_owned()));
        }
        set_meta(tx, "inos_reserved", &filling.next_ino.to_be_bytes())
    })
}

/// How far the nodes are entered.
struct Filling {
    next_ino: Ino,
    done: u64,
    /// The key of the next node.
    from: Vec<u8>,
}

impl Filling {
    /// Enters some nodes; whether it was the last ones.
    fn some(&mut self, tx: &Transaction<'_>, commit: &Commit) -> Result<bool> {
        // Links wait there until all nodes have their numbers.
        tx.execute_batch(
            "CREATE TEMP TABLE IF NOT EXISTS links(
                 child INTEGER, kind INTEGER, parent BLOB, name BLOB, link INTEGER)",
        )?;
        let nodes = Tree {
            kind: TreeKind::Nodes,
            root: commit.nodes,
        };
        let page = |id: &ChunkId| -> Result<Vec<u8>> {
            let bytes: Option<Vec<u8>> = tx
                .prepare_cached("SELECT bytes FROM pages WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| row.get(0))
                .optional()?;
            bytes.ok_or_else(|| VolumeError::Damaged(format!("page {id} of the tree is missing")))
        };
        for (count, entry) in nodes.scan(&self.from, page).enumerate() {
            let (key, value) = entry?;
            if count == NODES_AT_ONCE {
                self.from = key;
                return Ok(false);
            }
            let id = parse_node_key(&key)?;
            let node = decode_node(&value)?;
            if node.is_alive() {
                let ino = match id {
                    NodeId::ROOT => ROOT,
                    _ => self.next_ino,
                };
                if ino != ROOT {
                    self.next_ino += 1;
                }
                enter(tx, ino, id, &node)?;
                self.done += 1;
            }
        }
        Ok(true)
    }
}

fn enter(tx: &Transaction<'_>, ino: Ino, id: NodeId, node: &Node) -> Result<()> {
    let stored = StoredNode::new(&id, node)?;
    let attr = Attr {
        ino,
        nlink: 0,
        ..stored.attr
    };
    stored.insert(tx, &attr, id, None)?;
    for (link, place) in node.names() {
        keep_link(tx, ino, node.kind, link, place)?;
    }
    Ok(())
}

fn keep_link(tx: &Transaction<'_>, ino: Ino, kind: Kind, link: LinkId, place: &Link) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO temp.links(child, kind, parent, name, link) VALUES(?1, ?2, ?3, ?4, ?5)",
    )?
    .execute((
        ino as i64,
        kind_code(kind),
        place.place.parent.as_bytes(),
        place.place.name.as_bytes(),
        link.0 as i64,
    ))?;
    Ok(())
}

/// Enters the names, now that every node has its number, and what follows from them.
fn place_links(tx: &Transaction<'_>) -> Result<()> {
    tx.execute(
        "INSERT OR IGNORE INTO dentries(parent, name, child, kind, link)
         SELECT n.ino, l.name, l.child, l.kind, l.link
         FROM temp.links l JOIN nodes n ON n.id = l.parent
         WHERE l.child != ?1 ORDER BY n.ino, l.name",
        [ROOT as i64],
    )?;
    tx.execute_batch("DROP TABLE temp.links")?;
    let directory = kind_code(Kind::Directory);
    tx.execute(
        "UPDATE nodes SET nlink = (SELECT count(*) FROM dentries d WHERE d.child = nodes.ino)
         WHERE kind != ?1",
        [directory],
    )?;
    tx.execute(
        "UPDATE nodes SET
             nlink = 2 + (SELECT count(*) FROM dentries d
                          WHERE d.parent = nodes.ino AND d.kind = ?1),
             parent = (SELECT d.parent FROM dentries d WHERE d.child = nodes.ino)
         WHERE kind = ?1",
        [directory],
    )?;
    Ok(())
}

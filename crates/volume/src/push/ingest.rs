//! Dirty files become sealed packs.
//!
//! A thread of low priority for each lane (small files, large files) takes files that have
//! settled, in the order in which they were last changed. While somebody waits for all to be
//! stored, another thread, of the usual priority, helps with the small files: what the user
//! waits for should not stand behind the user's other work. What is stored already, or on its way, is not packed again; so a copy
//! costs nothing, and a file that was cut off by a crash goes on where it was. A pack is
//! closed when it is full, and also when nothing more came for a moment or somebody waits.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

use larder_format::{
    Chunker, Compressor, ListWriter, NewPiece, PackKind, PackWriter, SizeClass, list, rechunk,
};
use larder_model::{ChunkId, Content, Extent};
use larder_plan::settle::SettleRules;
use rusqlite::{Connection, OptionalExtension};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;

use super::outbox::{Cut, Number};
use super::priority;
use super::shared::Shared;
use super::source::{Reader, pieces};
use super::upload::{self, Parcel};
use crate::live::{Aside, Lane, Piece, Settling};
use crate::{Ino, Result, Settings, Volume, VolumeError};

/// How many files are looked at before what else there is to do is looked at again.
const FILES_AT_ONCE: usize = 256;
/// So many files a thread takes at a time: neighbours come to one pack, though another
/// thread may take the next ones.
const FILES_CLAIMED: usize = 64;
/// A thread that helps looks again after so long at most.
const HELP_PAUSE: Duration = Duration::from_millis(50);
/// A file that could not be read rests for so long.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// Starts the thread of a lane; the answer ends when it has ended.
pub(super) fn start(volume: &Arc<Volume>, lane: Lane) -> oneshot::Receiver<()> {
    spawn(volume, move |shared, volume| {
        priority::step_behind();
        work(shared, volume, lane);
    })
}

/// Starts a thread that helps to store small files for as long as somebody waits for that, if
/// there is none.
pub(super) fn help(volume: &Arc<Volume>) {
    if !volume.push.shared.begin_help() {
        return;
    }
    let ended = spawn(volume, |shared, volume| while help_on(shared, volume) {});
    let mut others = volume.push.ended.lock();
    // Those of earlier commits are gone by now.
    others.retain_mut(|ended| ended.try_recv() == Err(TryRecvError::Empty));
    others.push(ended);
}

/// Helps until nobody waits any more. Answers whether somebody came meanwhile.
fn help_on(shared: &Shared, volume: &Weak<Volume>) -> bool {
    let mut ingest = None;
    while shared.is_awaited() && !shared.is_stopping() {
        let Some(volume) = volume.upgrade() else {
            break;
        };
        let pause = match ingest_of(&mut ingest, &volume, Lane::Small) {
            Ok(ingest) => ingest.round(&volume),
            // The thread of the lane says so.
            Err(_) => HELP_PAUSE,
        };
        drop(volume);
        if !pause.is_zero() {
            std::thread::sleep(pause.min(HELP_PAUSE));
        }
    }
    if let (Some(mut ingest), Some(volume)) = (ingest, volume.upgrade()) {
        ingest.close_idle(&volume, true);
    }
    shared.end_help()
}

fn spawn(
    volume: &Arc<Volume>,
    work: impl FnOnce(&Shared, &Weak<Volume>) + Send + 'static,
) -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    let shared = Arc::clone(&volume.push.shared);
    let volume_then = Arc::downgrade(volume);
    let started = std::thread::Builder::new()
        .name("larder-ingest".to_owned())
        .spawn(move || {
            work(&shared, &volume_then);
            drop(end);
        });
    if let Err(error) = started {
        volume.push.shared.warnings.set(
            "ingest",
            format!("no thread could be started to store content: {error}"),
        );
    }
    ended
}

fn work(shared: &Shared, volume: &Weak<Volume>, lane: Lane) {
    let mut ingest = None;
    while !shared.is_stopping() {
        let Some(volume) = volume.upgrade() else {
            return;
        };
        let pause = match ingest_of(&mut ingest, &volume, lane) {
            Ok(ingest) => {
                shared.warnings.clear("ingest");
                ingest.round(&volume)
            }
            Err(error) => {
                shared.warnings.set("ingest", error.to_string());
                REST_AFTER_FAILURE
            }
        };
        drop(volume);
        if !pause.is_zero() {
            shared.wait_for_bell(lane as usize, pause);
        }
    }
}

fn ingest_of<'a>(
    ingest: &'a mut Option<Ingest>,
    volume: &Volume,
    lane: Lane,
) -> Result<&'a mut Ingest> {
    match ingest {
        Some(ingest) => Ok(ingest),
        None => Ok(ingest.insert(Ingest::new(&volume.settings, lane)?)),
    }
}

/// The state of the thread.
struct Ingest {
    lane: Lane,
    compressor: Compressor,
    chunkers: HashMap<SizeClassKey, Chunker>,
    /// Packs that are being filled: of data, and of the pages of long lists.
    data: Option<OpenPack>,
    lists: Option<OpenPack>,
    processor_used: Duration,
    rules: SettleRules,
    /// A pack that is not full is closed when it is so old.
    pack_age: Duration,
    tick: Duration,
}

type SizeClassKey = usize;

struct OpenPack {
    number: Number,
    writer: PackWriter,
    opened: Duration,
}

/// What became of a file that was claimed.
enum Step {
    /// Its chunks are stored or on their way.
    OnItsWay,
    /// It is not stored now, for this reason; `None`: it is not to be yet.
    SetAside(Option<Aside>),
    /// It is being written at this moment.
    Changing,
}

/// Why a file was not cut to its end.
enum Failure {
    /// The volume stops.
    Stopping,
    /// The file was changed or removed while it was read: there is something else to store
    /// now, or nothing.
    Changed,
    Other(VolumeError),
}

impl<E: Into<VolumeError>> From<E> for Failure {
    fn from(error: E) -> Self {
        match error.into() {
            VolumeError::Stopping => Self::Stopping,
            VolumeError::NoEntry => Self::Changed,
            other => Self::Other(other),
        }
    }
}

impl Ingest {
    fn new(settings: &Settings, lane: Lane) -> Result<Self> {
        let rules = SettleRules {
            quiet: settings.settle_quiet,
            longest_quiet: settings.settle_quiet * 10,
            open: settings.settle_open,
            open_and_busy: settings.settle_open * 10,
        };
        Ok(Self {
            lane,
            compressor: compressor()?,
            chunkers: HashMap::new(),
            data: None,
            lists: None,
            processor_used: priority::cpu_used(),
            rules,
            pack_age: (settings.commit_interval / 2).min(Duration::from_secs(5)),
            tick: (settings.settle_quiet / 2)
                .clamp(Duration::from_millis(20), Duration::from_secs(1)),
        })
    }

    /// Stores what is to be stored now. Answers how long to wait until the next look.
    fn round(&mut self, volume: &Arc<Volume>) -> Duration {
        let shared = &volume.push.shared;
        if !shared.may_push() {
            return self.tick;
        }
        let urgent = shared.is_urgent();
        let watched = volume.is_watched();
        let (own, tick) = match watched {
            true => (self.rules.when_watched(), self.tick.min(TICK_WHEN_WATCHED)),
            false => (self.rules, self.tick),
        };
        if !urgent && volume.is_in_burst(&own) {
            return tick;
        }
        let rules = if urgent { AT_ONCE } else { own };
        let now = shared.now();
        let attempts = &volume.push.attempts;
        let most = FILES_AT_ONCE + attempts.resting(now);
        let mut files = volume.settle_candidates(self.lane, &rules, most);
        files.retain(|&ino| !attempts.rests(ino, now));
        if !files.is_empty()
            && let Err(error) = volume.push.rules.refresh(volume)
        {
            return self.put_off("rules", &error, shared);
        }
        let mut moved_on = false;
        for ino in volume.claim_to_settle(&files, &rules, FILES_CLAIMED) {
            if shared.is_stopping() {
                return Duration::ZERO;
            }
            match self.take_in(volume, ino, &rules) {
                Ok(Step::OnItsWay) => moved_on = true,
                Ok(Step::SetAside(aside)) => {
                    volume.live.set_aside(ino, aside);
                    moved_on = true;
                }
                Ok(Step::Changing) => volume.live.set_aside(ino, None),
                Err(Failure::Stopping) => return Duration::ZERO,
                Err(Failure::Changed) => {
                    attempts.changed(ino);
                    volume.live.set_aside(ino, None);
                }
                Err(Failure::Other(error)) => {
                    note_failure(volume, ino, &error);
                    volume.live.set_aside(ino, None);
                }
            }
            // Each file that was looked at is open still.
            volume.trim_lives();
        }
        if moved_on {
            shared.warnings.clear("rules");
            return Duration::ZERO;
        }
        self.close_idle(volume, urgent || watched);
        if attempts.resting(now) == 0 {
            shared.warnings.clear("file");
        }
        tick
    }

    fn put_off(&self, topic: &'static str, error: &VolumeError, shared: &Shared) -> Duration {
        shared.warnings.set(topic, error.to_string());
        REST_AFTER_FAILURE.min(self.tick * 10)
    }

    /// Nothing more comes at the moment: closes packs that are old enough.
    fn close_idle(&mut self, volume: &Arc<Volume>, urgent: bool) {
        let age = if urgent {
            Duration::ZERO
        } else {
            self.pack_age
        };
        self.close_older(volume, PackKind::Data, age);
        self.close_older(volume, PackKind::Tree, age);
    }

    /// Closes a pack that was opened so long ago: files wait for it.
    fn close_older(&mut self, volume: &Arc<Volume>, kind: PackKind, age: Duration) {
        let now = volume.push.shared.now();
        self.close_if(volume, kind, |pack| now >= pack.opened + age);
    }

    /// Closes a pack of which this is so; the status says if that failed.
    fn close_if(
        &mut self,
        volume: &Arc<Volume>,
        kind: PackKind,
        is_due: impl FnOnce(&OpenPack) -> bool,
    ) {
        let due = self.slot(kind).as_ref().is_some_and(is_due);
        if due && let Err(error) = self.close(volume, kind) {
            volume.push.shared.warnings.set("pack", error.to_string());
        }
    }

    /// Closes packs for which many files wait, full or not.
    fn close_crowded(&mut self, volume: &Arc<Volume>) {
        let outbox = &volume.push.shared.outbox;
        for kind in [PackKind::Data, PackKind::Tree] {
            self.close_if(volume, kind, |pack| outbox.is_crowded(pack.number));
        }
    }

    /// Cuts one file, which is claimed, and packs what is not stored of it.
    fn take_in(
        &mut self,
        volume: &Arc<Volume>,
        ino: Ino,
        rules: &SettleRules,
    ) -> Result<Step, Failure> {
        // Files before it may have taken a while: it may have been opened or written since,
        // and so, a moment later, once more.
        if !volume.is_settle_due(ino, rules) {
            return Ok(Step::SetAside(None));
        }
        if volume.push.rules.keeps_local(volume, ino)? {
            return Ok(Step::SetAside(Some(Aside::Local)));
        }
        let attempts = &volume.push.attempts;
        let Some(mut settling) = volume.begin_settle(ino)? else {
            attempts.changed(ino);
            return Ok(Step::Changing);
        };
        if settling.open && !volume.is_settle_due(ino, rules) {
            return Ok(Step::SetAside(None));
        }
        if settling.open && attempts.has_stored(ino, settling.stamp()) {
            return Ok(Step::SetAside(Some(Aside::Stored)));
        }
        let outbox = &volume.push.shared.outbox;
        let losses = *volume.push.losses.read();
        let number = outbox.begin_file();
        let (content, extents) = match self.cut(volume, number, &settling) {
            Ok(cut) => cut,
            Err(failure) => {
                outbox.abandon_file(number);
                return Err(failure);
            }
        };
        settling.file = None;
        let cut = Cut {
            settling,
            content,
            extents,
            losses,
        };
        if let Some(mut done) = outbox.end_file(number, cut) {
            upload::finish(volume, &mut done);
        }
        self.close_crowded(volume);
        Ok(Step::OnItsWay)
    }

    fn cut(
        &mut self,
        volume: &Arc<Volume>,
        number: Number,
        settling: &Settling,
    ) -> Result<(Content, Vec<Extent>), Failure> {
        let Some(file) = settling.file.clone() else {
            return Ok((Content::Extents(Vec::new()), Vec::new()));
        };
        let path = volume.cache.path(settling.ino);
        let unread = |error: io::Error| match error.kind() {
            // Cut off past this process.
            io::ErrorKind::UnexpectedEof if !settling.still_is(&file) => Failure::Changed,
            _ => Failure::Other(VolumeError::io(&path, error)),
        };
        let pieces = pieces(settling, &file).map_err(unread)?;
        let class = class_of(volume, settling)?;
        let chunker = self.chunker(volume, class);
        let mut reader = Reader::new(&file, settling.size);
        let mut extents = Vec::new();
        rechunk(
            &chunker,
            &pieces,
            |offset, into: &mut [u8]| -> Result<(), Failure> {
                reader.read(offset, into).map_err(unread)
            },
            |piece| {
                extents.push(match piece {
                    NewPiece::Kept(extent) => extent,
                    NewPiece::Fresh { bytes, .. } => self.pack_fresh(volume, number, bytes)?,
                });
                Ok(())
            },
        )?;
        let mut list = ListWriter::new(&volume.keys);
        let mut put_page = |id, page: Vec<u8>| {
            volume.keep_pages([(&id, page.as_slice())]);
            self.pack(volume, number, PackKind::Tree, id, &page)
        };
        for extent in &extents {
            list.push(*extent, &mut put_page)?;
        }
        Ok((list.finish(&mut put_page)?, extents))
    }

    fn chunker(&mut self, volume: &Volume, class: SizeClass) -> Chunker {
        self.chunkers
            .entry(class.average())
            .or_insert_with(|| Chunker::new(&volume.keys, class))
            .clone()
    }

    fn pack_fresh(
        &mut self,
        volume: &Arc<Volume>,
        number: Number,
        bytes: &[u8],
    ) -> Result<Extent, Failure> {
        self.keep_limits(volume, bytes.len() as u64);
        let id = volume.keys.chunk_id(bytes);
        self.pack(volume, number, PackKind::Data, id, bytes)?;
        let len = u32::try_from(bytes.len()).map_err(|_| VolumeError::TooLarge("a chunk"))?;
        Ok(Extent::Chunk { id, len })
    }

    /// Puts a chunk into a pack, unless it is stored or on its way.
    fn pack(
        &mut self,
        volume: &Arc<Volume>,
        number: Number,
        kind: PackKind,
        id: ChunkId,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let outbox = &volume.push.shared.outbox;
        // Pages are no bytes of the file: they count for nothing in its progress.
        let counted = match kind {
            PackKind::Data => bytes.len() as u64,
            PackKind::Tree => 0,
        };
        if volume.push.shared.is_stopping() {
            return Err(Failure::Stopping);
        }
        // First what is on its way, then what is recorded: a pack leaves the one only when
        // it is in the other.
        if outbox.waits_for(number, &id, counted) {
            return Ok(());
        }
        if volume.db.look(|connection| is_stored(connection, &id))? {
            outbox.stored(number, counted);
            return Ok(());
        }
        let raw_len = u32::try_from(bytes.len()).map_err(|_| VolumeError::TooLarge("a chunk"))?;
        let mut open = match self.slot(kind).take() {
            Some(open) => open,
            None => open_pack(volume, kind)?,
        };
        let (codec, packed) = self.compressor.compress(bytes);
        open.writer.push(id, codec, raw_len, packed)?;
        outbox.packed(number, open.number, id, counted);
        let full = open.writer.is_full();
        *self.slot(kind) = Some(open);
        if full {
            self.close(volume, kind)?;
        }
        // A pack of pages fills slowly: many large files would wait for it.
        self.close_older(volume, PackKind::Tree, self.pack_age * 2);
        Ok(())
    }

    fn slot(&mut self, kind: PackKind) -> &mut Option<OpenPack> {
        match kind {
            PackKind::Data => &mut self.data,
            PackKind::Tree => &mut self.lists,
        }
    }

    fn close(&mut self, volume: &Arc<Volume>, kind: PackKind) -> Result<()> {
        if let Some(open) = self.slot(kind).take() {
            let number = open.number;
            let pack = open.writer.finish()?;
            volume.push.shared.outbox.leaves(number);
            upload::dispatch(volume, Parcel { number, pack });
        }
        Ok(())
    }

    /// Waits so that storing takes no more of the processor and the disk than it may.
    fn keep_limits(&mut self, volume: &Volume, bytes: u64) {
        let shared = &volume.push.shared;
        let used = priority::cpu_used();
        let more = used.saturating_sub(self.processor_used);
        self.processor_used = used;
        let wait = shared.may_ingest(more, bytes);
        if !wait.is_zero() {
            shared.rest(wait);
        }
    }
}

/// So often files are looked at while another machine watches.
const TICK_WHEN_WATCHED: Duration = Duration::from_millis(50);

/// All that is dirty is stored at once.
const AT_ONCE: SettleRules = SettleRules {
    quiet: Duration::ZERO,
    longest_quiet: Duration::ZERO,
    open: Duration::ZERO,
    open_and_busy: Duration::ZERO,
};

fn open_pack(volume: &Volume, kind: PackKind) -> Result<OpenPack, Failure> {
    let shared = &volume.push.shared;
    let number = shared.outbox.open_pack().ok_or(Failure::Stopping)?;
    let writer = salt().and_then(|salt| Ok(PackWriter::new(&volume.keys, kind, salt)?));
    match writer {
        Ok(writer) => Ok(OpenPack {
            number,
            writer,
            opened: shared.now(),
        }),
        Err(error) => {
            shared.outbox.acknowledged(number, []);
            Err(error.into())
        }
    }
}

/// # Errors
/// If there is no memory for it.
pub(crate) fn compressor() -> Result<Compressor> {
    Compressor::new().map_err(|error| VolumeError::State(format!("no compressor: {error}")))
}

/// Fresh random bytes, never used before.
pub(crate) fn salt() -> Result<[u8; 32]> {
    let mut salt = [0; 32];
    crate::names::fill_random(&mut salt)?;
    Ok(salt)
}

/// Whether a pack that counts holds the chunk.
pub(crate) fn is_stored(connection: &Connection, id: &ChunkId) -> Result<bool> {
    Ok(connection
        .prepare_cached(
            "SELECT 1 FROM chunks JOIN packs USING(pack) WHERE chunks.id = ?1 AND condemned = 0",
        )?
        .exists([id.as_bytes()])?)
}

/// The size class that the file was cut with before, or the one of its size.
fn class_of(volume: &Volume, settling: &Settling) -> Result<SizeClass> {
    if settling.size <= SizeClass::Small.min() as u64 {
        // One chunk in each class.
        return Ok(SizeClass::Small);
    }
    let in_map = settling
        .extents
        .iter()
        .filter_map(|extent| match extent.piece {
            Piece::Stored { .. } => u32::try_from(extent.len).ok(),
            Piece::Local | Piece::Hole => None,
        });
    let mut lens: Vec<u32> = in_map.collect();
    if lens.is_empty() {
        lens = lens_before(volume, settling.ino)?;
    }
    Ok(SizeClass::continuing(lens, settling.size))
}

/// The lengths of the first chunks of the file's stored version.
fn lens_before(volume: &Volume, ino: Ino) -> Result<Vec<u32>> {
    let content: Option<Vec<u8>> = volume.db.look(|connection| {
        connection
            .prepare_cached("SELECT content FROM nodes WHERE ino = ?1")?
            .query_row([ino as i64], |row| row.get(0))
            .optional()?
            .ok_or(VolumeError::NoEntry)
    })?;
    let Some(content) = content else {
        return Ok(Vec::new());
    };
    let content = larder_format::decode_content(&content)?;
    let mut lens = Vec::new();
    let enough = 0..64 * SizeClass::Large.average() as u64;
    let each = |_, extent| {
        if let Extent::Chunk { len, .. } = extent {
            lens.push(len);
        }
        Ok(())
    };
    list::expand_range(&content, enough, &mut |id: &ChunkId| volume.page(id), each)?;
    Ok(lens)
}

fn note_failure(volume: &Volume, ino: Ino, error: &VolumeError) {
    let shared = &volume.push.shared;
    volume
        .push
        .attempts
        .rest_until(ino, shared.now() + REST_AFTER_FAILURE);
    let path = match volume.path_of(ino) {
        // It was removed meanwhile.
        Ok(None) => return,
        path => path.ok().flatten().unwrap_or_default(),
    };
    shared.warnings.set(
        "file",
        format!(
            "{} could not be stored: {error}",
            String::from_utf8_lossy(&path)
        ),
    );
}

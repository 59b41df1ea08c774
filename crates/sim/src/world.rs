//! A run: machines, their users, and what must be so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use larder_format::ArgonParams;
use larder_model::{KeepPolicy, Kind};
use larder_volume::history::Which;
use larder_volume::{
    Access, Caller, Credential, Deletions, Ino, NewNode, ROOT, RenameMode, SetAttr, Settings,
    StashOptions, Volume, VolumeError, XattrMode,
};

use crate::ground;
use crate::ledger::Ledger;
use crate::machine::{Machine, wait_until};
use crate::marks::{self, Found};
use crate::steps::{Act, NAMES, Plan, Step};
use crate::store::{self, Shelf, Weather};
use crate::tree::{self, Place, Tree};

const CALLER: Caller = Caller { uid: 0, gid: 0 };
const PASSPHRASE: &str = "four of the horses";
const CHEAP: ArgonParams = ArgonParams {
    memory_kib: 64,
    passes: 1,
    lanes: 1,
};
/// So long a user waits for a commit that he wants to see, in simulated time.
const WANTED: Duration = Duration::from_secs(120);

/// A bug that is planted to see that it is found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Planted {
    /// None.
    #[default]
    Nothing,
    /// The store does not list one machine's heads: convergence.
    HidesHeads,
    /// A file goes that nobody deleted: nothing is lost.
    Deletes,
    /// The store acknowledges packs that it does not keep: the last copy.
    LosesPacks,
    /// The past that is shown is of the commit before: the time machine.
    ShowsOther,
}

impl Planted {
    /// All of them by name.
    pub const ALL: [(&'static str, Self); 4] = [
        ("hides-heads", Self::HidesHeads),
        ("deletes", Self::Deletes),
        ("loses-packs", Self::LosesPacks),
        ("shows-other", Self::ShowsOther),
    ];
}

/// What a run did.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome {
    /// Steps that were done and not refused.
    pub done: u64,
    /// Records in stored commits.
    pub acknowledged: u64,
    /// Moments that were kept and compared with the past.
    pub moments: u64,
    /// Rounds of syncs until all agreed.
    pub rounds: u64,
    /// Kills of a machine.
    pub kills: u64,
}

/// A tree that was, and the commit that has it.
#[derive(Debug)]
struct Kept {
    id: String,
    tree: Tree,
}

/// Everything in a run.
#[derive(Debug)]
pub struct World {
    machines: Vec<Machine>,
    settings: Settings,
    shelf: Shelf,
    directory: PathBuf,
    ledger: Ledger,
    kept: Vec<Kept>,
    outcome: Outcome,
    /// Files that a user has open to write, by machine.
    open: Vec<(usize, Ino)>,
    planted: Planted,
    /// What happened, in words.
    pub told: Vec<String>,
}

/// What a volume refused, or could not do: no user is astonished.
fn is_usual(error: &VolumeError) -> bool {
    !matches!(
        error,
        VolumeError::Damaged(_) | VolumeError::State(_) | VolumeError::Database(_)
    )
}

impl World {
    /// The machines of a plan, with one volume that all have opened.
    ///
    /// # Errors
    /// If they cannot be made.
    pub fn new(plan: &Plan, directory: &Path, planted: Planted) -> Result<Self> {
        let shelf = Shelf::new(
            plan.seed,
            plan.durability,
            match planted {
                Planted::LosesPacks => store::Planted::LosesPacks,
                Planted::HidesHeads => store::Planted::HidesHeads,
                _ => store::Planted::Nothing,
            },
        );
        let settings = Settings {
            keep_free_bytes: 0,
            settle_quiet: Duration::from_millis(plan.settle_millis),
            commit_interval: Duration::from_millis(plan.commit_millis),
            read_wait: Duration::from_secs(5),
            sync_interval: None,
            mark_interval: Duration::from_secs(30),
            member_grace: Duration::from_secs(plan.grace_secs),
            ..Settings::for_budget(plan.budget_bytes)
        };
        let mut machines: Vec<Machine> = (0..plan.machines)
            .map(|who| Machine::new(who, directory, shelf.line(who as u64)))
            .collect();
        machines[0].make(&settings, |runtime, state, store| {
            let settings = settings.clone();
            let init = larder_volume::init_at_cost(state, store, Some(PASSPHRASE), settings, CHEAP);
            runtime.block_on(init)
        })?;
        let mut world = Self {
            machines,
            settings,
            shelf,
            directory: directory.to_owned(),
            ledger: Ledger::default(),
            kept: Vec::new(),
            outcome: Outcome::default(),
            open: Vec::new(),
            planted,
            told: Vec::new(),
        };
        let first = Step {
            who: 0,
            act: Act::Write { len: 20 },
            pick: [0; 4],
        };
        world.step(&first)?;
        world.commit_and_wait(0)?;
        for who in 1..plan.machines {
            open(&mut world.machines[who], &world.settings)?;
        }
        Ok(world)
    }

    /// Does all steps, then heals all and looks whether all is as it must be.
    ///
    /// # Errors
    /// What is not as it must be.
    pub fn run(&mut self, steps: &[(usize, Step)]) -> Result<Outcome> {
        for (at, step) in steps {
            let turns = ground::turns_taken();
            let done = self.step(step);
            let words = match &done {
                Ok(true) => "done".to_owned(),
                Ok(false) => "refused".to_owned(),
                Err(error) => format!("failed: {error:#}"),
            };
            self.told.push(format!(
                "{at:3} {:>9} us {:>6} turns  machine {}: {:?}: {words}",
                ground::now() / 1000,
                ground::turns_taken() - turns,
                step.who,
                step.act
            ));
            self.outcome.done += u64::from(done.with_context(|| format!("step {at}"))?);
            self.take_ended();
        }
        self.heal()?;
        self.outcome.acknowledged = self.ledger.count_acknowledged() as u64;
        self.outcome.moments = self.kept.len() as u64;
        Ok(self.outcome)
    }

    fn take_ended(&mut self) {
        for (who, machine) in self.machines.iter_mut().enumerate() {
            let ended = machine.take_ended();
            for marks in &ended.acknowledged {
                self.ledger.acknowledged(who, marks);
            }
            for words in ended.failed {
                self.told.push(format!("    machine {who}: {words}"));
            }
        }
    }

    /// One step. Whether it was done, and not refused.
    fn step(&mut self, step: &Step) -> Result<bool> {
        let who = step.who % self.machines.len();
        self.machines[who].act();
        match step.act {
            Act::Wait { millis } => {
                std::thread::sleep(Duration::from_millis(millis));
                return Ok(true);
            }
            Act::Line(weather) => {
                self.machines[who].line.set(weather);
                return Ok(true);
            }
            Act::Clock { ahead_secs } => {
                self.machines[who].ahead = ahead_secs * 1_000_000_000;
                self.machines[who].act();
                return Ok(true);
            }
            _ if self.machines[who].running.is_none() => {
                // It was killed, and somebody starts it.
                self.machines[who].start(&self.settings)?;
            }
            _ => {}
        }
        match step.act {
            Act::Commit => {
                let marks = self.ledger.open_of(who);
                self.machines[who].ask_commit(marks, None);
                Ok(true)
            }
            Act::Sync => {
                let deletions = [Deletions::Guarded, Deletions::Allowed][step.pick[0] as usize % 2];
                self.machines[who].ask_sync(deletions);
                Ok(true)
            }
            Act::Keep { most } => {
                self.machines[who].ask_keep(KeepPolicy {
                    hourly: most,
                    daily: most,
                    weekly: 0,
                    monthly: 0,
                });
                Ok(true)
            }
            Act::Collect => {
                self.machines[who].ask_collect();
                Ok(true)
            }
            Act::Snapshot => self.snapshot(who),
            Act::Restore => self.restore(who, step),
            Act::Audit => self.audit(who),
            Act::Kill { wait_micros } => {
                std::thread::sleep(Duration::from_micros(wait_micros));
                self.take_ended();
                self.machines[who].kill(who, &self.directory)?;
                self.ledger.killed(who);
                self.open.retain(|(whose, _)| *whose != who);
                self.outcome.kills += 1;
                Ok(true)
            }
            Act::Restart => {
                self.close(who);
                self.machines[who].stop()?;
                self.machines[who].start(&self.settings)?;
                Ok(true)
            }
            _ => match self.user(who, step) {
                Ok(done) => Ok(done),
                Err(error) if is_usual(&error) => Ok(false),
                Err(error) => Err(anyhow!(error)),
            },
        }
    }

    /// Closes what a user of this machine has open.
    fn close(&mut self, who: usize) {
        let Ok(volume) = self.volume(who).map(Arc::clone) else {
            return;
        };
        for (whose, ino) in std::mem::take(&mut self.open) {
            match whose == who {
                // That it fails tells a program nothing that it could do something about.
                true => drop(volume.close(ino, writing(false))),
                false => self.open.push((whose, ino)),
            }
        }
    }

    fn volume(&self, who: usize) -> Result<&Arc<Volume>, VolumeError> {
        let running = self.machines[who].running.as_ref();
        Ok(&running.ok_or(VolumeError::Stopping)?.volume)
    }

    /// What a user does, as a mount would.
    fn user(&mut self, who: usize, step: &Step) -> Result<bool, VolumeError> {
        let volume = Arc::clone(self.volume(who)?);
        let places = tree::places(&volume)?;
        let Chosen {
            parent,
            name,
            node,
            file,
            to,
            to_name,
        } = Chosen::of(&places, step.pick);
        match (step.act, node, file) {
            (Act::Write { len }, ..) => {
                let before = self.before(&volume, parent, name)?;
                if before
                    .as_ref()
                    .is_some_and(|(attr, _)| attr.kind != Kind::File)
                {
                    return Ok(false);
                }
                let ino = volume.create(parent, name, 0o644, CALLER, false)?.ino;
                let mark = self.ledger.new_mark();
                let access = writing(true);
                if let Some((_, found)) = &before {
                    self.ledger.gave_up(found);
                }
                volume.open(ino, access)?;
                let written = write_all(&volume, ino, 0, &marks::record(mark, len));
                volume.close(ino, access)?;
                written?;
                self.ledger.wrote(who, mark);
            }
            (Act::Append { len }, _, Some(file)) => {
                let mark = self.ledger.new_mark();
                let end = volume.attr(file.ino)?.size;
                let access = writing(false);
                volume.open(file.ino, access)?;
                let written = write_all(&volume, file.ino, end, &marks::record(mark, len));
                volume.close(file.ino, access)?;
                written?;
                self.ledger.wrote(who, mark);
            }
            (Act::Edit, _, Some(file)) => {
                let found = marks::find(&tree::read(&volume, file.ino)?);
                let Some(&(old, at, len)) = choose(&found.records, step.pick[3]) else {
                    return Ok(false);
                };
                let mark = self.ledger.new_mark();
                self.ledger.gave_up(&only(old));
                let access = writing(false);
                volume.open(file.ino, access)?;
                let bytes = marks::record(mark, len - marks::record(0, 0).len());
                let written = write_all(&volume, file.ino, at as u64, &bytes);
                volume.close(file.ino, access)?;
                written?;
                self.ledger.wrote(who, mark);
            }
            (Act::Truncate { all }, _, Some(file)) => {
                let found = marks::find(&tree::read(&volume, file.ino)?);
                let (given_up, size) = match (all, found.records.last()) {
                    (false, Some(&(last, at, _))) => (only(last), at),
                    _ => (found, 0),
                };
                self.ledger.gave_up(&given_up);
                let set = SetAttr {
                    size: Some(size as u64),
                    ..SetAttr::default()
                };
                volume.set_attr(file.ino, &set)?;
            }
            (Act::Open, _, Some(file)) => {
                volume.open(file.ino, writing(false))?;
                self.open.push((who, file.ino));
            }
            (Act::Log { len }, ..) => {
                let own: Vec<Ino> = self
                    .open
                    .iter()
                    .filter(|(whose, _)| *whose == who)
                    .map(|(_, ino)| *ino)
                    .collect();
                let Some(&ino) = choose(&own, step.pick[3]) else {
                    return Ok(false);
                };
                let mark = self.ledger.new_mark();
                let attr = volume.attr(ino)?;
                write_all(&volume, ino, attr.size, &marks::record(mark, len))?;
                if attr.nlink > 0 {
                    self.ledger.wrote(who, mark);
                }
            }
            (Act::Close, ..) => self.close(who),
            (Act::Mkdir, ..) => {
                let new = new_node(Kind::Directory, 0o755, None);
                volume.make_node(parent, name, new)?;
            }
            (Act::Symlink, ..) => {
                let target = format!("to/{}", step.pick[3] % 100);
                let new = new_node(Kind::Symlink, 0o777, Some(target.as_bytes()));
                volume.make_node(parent, name, new)?;
            }
            (Act::Link, _, Some(file)) => {
                volume.link(file.ino, parent, name)?;
            }
            (Act::Unlink, ..) => {
                let before = self.before(&volume, parent, name)?;
                volume.unlink(parent, name)?;
                self.gone(before);
            }
            (Act::Rmdir, ..) => volume.rmdir(parent, name)?,
            (Act::Rename, Some(node), _) => {
                let before = self.before(&volume, to, to_name)?;
                let is_itself = before
                    .as_ref()
                    .is_some_and(|(attr, _)| attr.ino == node.ino);
                let mode = RenameMode::Replace;
                volume.rename(node.parent, &node.name, to, to_name, mode)?;
                if !is_itself {
                    self.gone(before);
                }
            }
            (Act::Exchange, Some(node), _) => {
                let mode = RenameMode::Exchange;
                volume.rename(node.parent, &node.name, to, to_name, mode)?;
            }
            (Act::Mode { mode }, Some(node), _) => {
                let set = SetAttr {
                    mode: Some(mode),
                    ..SetAttr::default()
                };
                volume.set_attr(node.ino, &set)?;
            }
            (Act::Xattr { is_set }, Some(node), _) => {
                let name = [b"user.one".as_slice(), b"user.two"][step.pick[3] as usize % 2];
                match is_set {
                    true => {
                        let value = step.pick[2].to_string();
                        volume.set_xattr(node.ino, name, value.as_bytes(), XattrMode::Any)?;
                    }
                    false => volume.remove_xattr(node.ino, name)?,
                }
            }
            (Act::Fsync, _, Some(file)) => volume.fsync(file.ino, false)?,
            (Act::Read, _, Some(file)) => {
                tree::read(&volume, file.ino)?;
            }
            (Act::Stash, ..) => {
                volume.stash(&[ROOT], &StashOptions::default(), &|_| {})?;
            }
            (Act::Checkout, ..) => {
                let checkout =
                    |volume: Arc<Volume>| async move { volume.checkout(&[ROOT], &|_| {}).await };
                let done = self.machines[who].wait_for(WANTED, checkout);
                if let Ok(Some(Err(error))) = done {
                    return Err(error);
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What is at a name now, and the records in it.
    fn before(
        &self,
        volume: &Volume,
        parent: Ino,
        name: &[u8],
    ) -> Result<Option<(larder_volume::Attr, Found)>, VolumeError> {
        let Some(attr) = volume.lookup(parent, name)? else {
            return Ok(None);
        };
        let found = match attr.kind {
            Kind::File => marks::find(&tree::read(volume, attr.ino)?),
            _ => Found::default(),
        };
        Ok(Some((attr, found)))
    }

    /// A name went; with the last one its content is given up.
    fn gone(&mut self, before: Option<(larder_volume::Attr, Found)>) {
        if let Some((attr, found)) = before
            && attr.nlink == 1
        {
            self.ledger.gave_up(&found);
        }
    }

    /// A commit, waited for, with the tree that it must show for ever.
    fn snapshot(&mut self, who: usize) -> Result<bool> {
        if !self.machines[who].is_idle() {
            return Ok(false);
        }
        let volume = Arc::clone(self.volume(who)?);
        let Ok(before) = tree::now(&volume) else {
            return Ok(false);
        };
        let marks = self.ledger.open_of(who);
        let commit = |volume: Arc<Volume>| async move {
            volume.commit(Some("kept".to_owned()), &|_| {}).await
        };
        let Some(done) = self.machines[who].wait_for(WANTED, commit)? else {
            return Ok(false);
        };
        let Ok(report) = done else {
            return Ok(false);
        };
        if !report.still_changing.is_empty() {
            return Ok(false);
        }
        self.ledger.acknowledged(who, &marks);
        let Ok(after) = tree::now(&volume) else {
            return Ok(false);
        };
        // What others did may have come meanwhile.
        if before == after {
            let id = report.id;
            self.kept.push(Kept { id, tree: after });
        }
        Ok(true)
    }

    fn restore(&mut self, who: usize, step: &Step) -> Result<bool> {
        if !self.machines[who].is_idle() {
            return Ok(false);
        }
        let Some(kept) = choose(&self.kept, step.pick[0]) else {
            return Ok(false);
        };
        let volume = Arc::clone(self.volume(who)?);
        let Ok(moment) = volume.moment(&Which::Name(kept.id.clone())) else {
            // It never came here.
            return Ok(false);
        };
        let paths: Vec<Vec<u8>> = kept.tree.keys().cloned().collect();
        let Some(path) = choose(&paths, step.pick[1]).cloned() else {
            return Ok(false);
        };
        self.machines[who].line.set(Weather::default());
        // Whatever is replaced, who restores has seen it.
        let Ok(now) = tree::now(&volume) else {
            return Ok(false);
        };
        let of_path = |at: &Vec<u8>| {
            at == &path
                || at
                    .strip_prefix(path.as_slice())
                    .is_some_and(|rest| rest[0] == b'/')
        };
        for (_, shown) in now.iter().filter(|(at, _)| of_path(at)) {
            self.ledger.gave_up(&marks::find(&shown.content));
        }
        let restore = |volume: Arc<Volume>| async move {
            volume.restore(moment, path.clone(), path, &|_| {}).await
        };
        match self.machines[who].wait_for(WANTED * 10, restore)? {
            Some(Ok(_)) => Ok(true),
            Some(Err(error)) if is_usual(&error) => Ok(false),
            Some(Err(VolumeError::State(_))) => Ok(false),
            Some(Err(error)) => Err(anyhow!(error).context("restore")),
            None => bail!("a restore does not end"),
        }
    }

    /// What is away must be on the store as it is.
    fn audit(&mut self, who: usize) -> Result<bool> {
        let volume = Arc::clone(self.volume(who)?);
        let line = Arc::clone(&self.machines[who].line);
        let weather = line.weather();
        line.set(Weather::default());
        let looked = self.read_what_is_away(&volume);
        line.set(weather);
        looked.map(|()| true)
    }

    fn read_what_is_away(&self, volume: &Volume) -> Result<()> {
        for place in tree::places(volume)? {
            if place.kind != Kind::File {
                continue;
            }
            let Ok(missing) = volume.missing(place.ino, 0..u64::MAX) else {
                // A join took it away meanwhile.
                continue;
            };
            if missing.is_empty() {
                continue;
            }
            match read_patiently(volume, place.ino) {
                Ok(_) | Err(VolumeError::NoEntry | VolumeError::Stale) => {}
                Err(error) => {
                    let path = String::from_utf8_lossy(&place.path);
                    bail!("last copy: {path} is away and cannot be read: {error}");
                }
            }
        }
        Ok(())
    }

    fn commit_and_wait(&mut self, who: usize) -> Result<()> {
        let marks = self.ledger.open_of(who);
        let commit = |volume: Arc<Volume>| async move { volume.commit(None, &|_| {}).await };
        self.machines[who].act();
        let done = self.machines[who].wait_for(Duration::from_secs(3600), commit)?;
        let report = done.context("a commit does not end where nothing fails")??;
        if !report.still_changing.is_empty() {
            bail!(
                "{:?} keep changing, and nobody changes them",
                report.still_changing
            );
        }
        self.ledger.acknowledged(who, &marks);
        Ok(())
    }

    fn sync_and_wait(&mut self, who: usize) -> Result<larder_volume::SyncReport> {
        let sync =
            |volume: Arc<Volume>| async move { volume.sync(Deletions::Allowed, &|_| {}).await };
        self.machines[who].act();
        let mut tries = 0;
        loop {
            let done = self.machines[who].wait_for(Duration::from_secs(3600), sync)?;
            match done.context("a sync does not end where nothing fails")? {
                // A store that was away a moment ago is asked again after a pause.
                Err(VolumeError::Away(_) | VolumeError::TimedOut(_)) if tries < 40 => {
                    tries += 1;
                    std::thread::sleep(Duration::from_secs(15));
                }
                done => return done.context("sync where nothing fails"),
            }
        }
    }

    /// All is well again: everything must come to one tree, and be there.
    fn heal(&mut self) -> Result<()> {
        for who in 0..self.machines.len() {
            self.machines[who].line.set(Weather::default());
            if self.machines[who].running.is_none() {
                self.machines[who].start(&self.settings)?;
            }
            self.machines[who].act();
            self.close(who);
        }
        let machines = &mut self.machines;
        let ledger = &mut self.ledger;
        wait_until("all that was asked for is answered", || {
            for (who, machine) in machines.iter_mut().enumerate() {
                for marks in machine.take_ended().acknowledged {
                    ledger.acknowledged(who, &marks);
                }
            }
            machines.iter().all(Machine::is_idle)
        })?;
        let count = self.machines.len();
        for who in 0..count {
            self.commit_and_wait(who)
                .with_context(|| format!("machine {who}"))?;
        }
        self.meet()?;
        // What stands beside the latest commit comes into the history with the next one.
        self.machines[0].act();
        let last = |volume: Arc<Volume>| async move {
            let message = Some("the last one".to_owned());
            volume.commit(message, &|_| {}).await
        };
        let done = self.machines[0].wait_for(Duration::from_secs(3600), last)?;
        done.context("a commit does not end where nothing fails")??;
        if self.planted == Planted::Deletes {
            self.delete_one()?;
        }
        self.meet()?;
        self.check()?;
        // What is kept is there after that, too.
        self.collect_all()?;
        self.check()
    }

    /// Each machine collects, and all take notice: what nothing needs is gone then.
    fn collect_all(&mut self) -> Result<()> {
        for _ in 0..2 {
            for who in 0..self.machines.len() {
                self.machines[who].act();
                let collect =
                    |volume: Arc<Volume>| async move { volume.collect(false, &|_| {}).await };
                let done = self.machines[who].wait_for(Duration::from_secs(3600), collect)?;
                done.context("a collection does not end where nothing fails")?
                    .with_context(|| format!("collection: machine {who}"))?;
            }
            self.meet()?;
        }
        Ok(())
    }

    /// All sync until nobody has anything new.
    fn meet(&mut self) -> Result<()> {
        let most = self.machines.len() as u64 + 4;
        for round in 0.. {
            let mut commits = 0;
            let mut left = Vec::new();
            for who in 0..self.machines.len() {
                let report = self
                    .sync_and_wait(who)
                    .with_context(|| format!("machine {who}"))?;
                commits += report.commits;
                left.extend(report.left);
            }
            if commits == 0 {
                if !left.is_empty() {
                    bail!("convergence: something is left though nothing fails: {left:?}");
                }
                return Ok(());
            }
            self.outcome.rounds = self.outcome.rounds.max(round + 1);
            if round == most {
                bail!("convergence: after {most} rounds they answer each other still");
            }
        }
        Ok(())
    }

    /// The planted bug: a file goes that somebody wrote and nobody deleted.
    fn delete_one(&mut self) -> Result<()> {
        self.machines[0].act();
        let volume = Arc::clone(self.volume(0)?);
        for place in tree::places(&volume)? {
            if place.kind != Kind::File || volume.attr(place.ino)?.nlink > 1 {
                continue;
            }
            let found = marks::find(&read_patiently(&volume, place.ino)?);
            if found.marks().any(|mark| self.ledger.is_owed(mark)) {
                volume.unlink(place.parent, &place.name)?;
                break;
            }
        }
        self.commit_and_wait(0)
    }

    fn check(&mut self) -> Result<()> {
        let mut trees = Vec::new();
        for who in 0..self.machines.len() {
            self.machines[who].act();
            let volume = self.volume(who)?;
            self.read_what_is_away(volume)
                .with_context(|| format!("machine {who}"))?;
            let tree = tree::now(volume).with_context(|| format!("machine {who}"))?;
            trees.push((format!("machine {who}"), tree));
        }
        let fresh = self.machines.len();
        let line = self.shelf.line(99);
        let mut machine = Machine::new(fresh, &self.directory, line);
        open(&mut machine, &self.settings).context("a new machine")?;
        self.machines.push(machine);
        self.sync_and_wait(fresh).context("a new machine")?;
        let volume = Arc::clone(self.volume(fresh)?);
        let tree = tree::now(&volume).context("a new machine")?;
        trees.push(("a new machine".to_owned(), tree));
        let (_, first) = &trees[0];
        for (whose, tree) in &trees[1..] {
            if let Some(words) = tree::difference(first, tree) {
                bail!("convergence: machine 0 and {whose} differ:{words}");
            }
        }
        let lost = self.ledger.lost(first);
        if !lost.is_empty() {
            bail!(
                "content lost: {lost:?} were stored, nobody gave them up, and they are not there"
            );
        }
        if self.outcome.kills == 0 {
            for (path, shown) in first {
                if shown.kind == Kind::File && marks::find(&shown.content).is_torn {
                    let path = String::from_utf8_lossy(path);
                    bail!("content torn: {path} has what nobody wrote");
                }
            }
        }
        for who in 0..self.machines.len() {
            self.machines[who].act();
            let volume = self.volume(who)?;
            self.check_past(volume)
                .with_context(|| format!("machine {who}"))?;
            let wrong = volume.database_check()?;
            if !wrong.is_empty() {
                bail!("machine {who}: the database is damaged: {wrong:?}");
            }
        }
        Ok(())
    }

    /// Each commit that was kept shows what was then, or never came here.
    fn check_past(&self, volume: &Volume) -> Result<()> {
        let mut reached = BTreeMap::new();
        for moment in volume.chain()? {
            let moment = moment.context("time machine")?;
            reached.insert(moment.id.to_string(), moment);
        }
        for Kept { id, tree } in &self.kept {
            let moment = reached
                .get(id)
                .with_context(|| format!("time machine: commit {id} is not in the history"))?;
            let mut shown = moment.clone();
            if self.planted == Planted::ShowsOther
                && let Some(before) = volume.before(moment)?
            {
                shown = before;
            }
            let then =
                tree::then(volume, &shown).with_context(|| format!("time machine: commit {id}"))?;
            if let Some(words) = tree::difference(tree, &then) {
                bail!("time machine: commit {id} is not what was then:{words}");
            }
        }
        Ok(())
    }
}

/// Reads a file, though its store was away a moment ago: it is asked again after a pause.
fn read_patiently(volume: &Volume, ino: Ino) -> Result<Vec<u8>, VolumeError> {
    let mut tries = 0;
    loop {
        match tree::read(volume, ino) {
            Err(VolumeError::Away(_) | VolumeError::TimedOut(_)) if tries < 40 => {
                tries += 1;
                std::thread::sleep(Duration::from_secs(15));
            }
            read => return read,
        }
    }
}

/// Makes a machine a replica of the volume that is on the store.
fn open(machine: &mut Machine, settings: &Settings) -> Result<()> {
    machine.make(settings, |runtime, state, store| {
        let credential = Credential::Passphrase(PASSPHRASE.to_owned());
        runtime.block_on(larder_volume::open(
            state,
            store,
            credential,
            None,
            settings.clone(),
            &|_| {},
        ))
    })
}

/// What a step is about, of all that is there.
struct Chosen<'a> {
    parent: Ino,
    name: &'static [u8],
    node: Option<&'a Place>,
    file: Option<&'a Place>,
    to: Ino,
    to_name: &'static [u8],
}

impl<'a> Chosen<'a> {
    fn of(places: &'a [Place], pick: [u64; 4]) -> Self {
        let directories: Vec<Ino> = std::iter::once(ROOT)
            .chain(
                places
                    .iter()
                    .filter(|place| place.kind == Kind::Directory)
                    .map(|place| place.ino),
            )
            .collect();
        let files: Vec<&Place> = places
            .iter()
            .filter(|place| place.kind == Kind::File)
            .collect();
        let directory = |pick: u64| choose(&directories, pick).copied().unwrap_or(ROOT);
        let name = |pick: u64| NAMES[(pick >> 32) as usize % NAMES.len()].as_bytes();
        Self {
            parent: directory(pick[0] & 0xffff_ffff),
            name: name(pick[0]),
            node: choose(places, pick[1]),
            file: choose(&files, pick[1]).copied(),
            to: directory(pick[2] & 0xffff_ffff),
            to_name: name(pick[2]),
        }
    }
}

fn choose<T>(some: &[T], pick: u64) -> Option<&T> {
    some.get((pick % some.len().max(1) as u64) as usize)
}

fn only(mark: marks::Mark) -> Found {
    Found {
        records: vec![(mark, 0, 0)],
        is_torn: false,
    }
}

fn writing(truncate: bool) -> Access {
    Access {
        write: true,
        truncate,
        ..Access::default()
    }
}

fn new_node(kind: Kind, mode: u32, target: Option<&[u8]>) -> NewNode<'_> {
    NewNode {
        kind,
        mode,
        rdev: 0,
        target,
        caller: CALLER,
    }
}

fn write_all(volume: &Volume, ino: Ino, off: u64, bytes: &[u8]) -> Result<(), VolumeError> {
    let mut done = 0;
    while done < bytes.len() {
        let at = off + done as u64;
        done += match volume.write_here(ino, at, &bytes[done..])? {
            Some(len) => len,
            None => volume.write(ino, at, &bytes[done..])?,
        };
    }
    Ok(())
}

//! Each command: from arguments to a request, from an answer to words and an exit code.

mod adopt;
mod checkout;
mod collect;
mod commit;
mod doctor;
mod ls;
mod mount;
mod others;
pub mod past;
mod peers;
mod pin;
mod setup;
mod shell;
mod stash;
mod status;
mod store;
mod verify;

use std::ffi::OsString;
use std::path::PathBuf;

use larder_daemon::{Failure, Home, KeptReport, Located, Operation, Session, TreePath, locate};

use crate::args::{Command, Larder};
use crate::exit::Exit;
use crate::say::{self, Bar};

/// Does what `larder` says.
pub fn run(larder: Larder) -> Result<Exit, Failure> {
    if !matches!(larder.command, Command::Mount(_)) {
        // A daemon logs into its own files.
        larder_daemon::log_to_terminal()?;
    }
    let machine = || Machine::new(larder.volume.clone());
    match &larder.command {
        Command::Init(args) => setup::init(args),
        Command::Open(args) => setup::open(args),
        Command::Mount(args) => mount::mount(machine()?, args),
        Command::Unmount(args) => mount::unmount(machine()?, args),
        Command::Status(args) => status::run(machine()?, args),
        Command::Ls(args) => ls::run(machine()?, args),
        Command::Stash(args) => stash::run(machine()?, args),
        Command::Checkout(args) => checkout::run(machine()?, args),
        Command::Adopt(args) => adopt::run(machine()?, args),
        Command::Pin(args) => pin::run(machine()?, args, true),
        Command::Unpin(args) => pin::run(machine()?, args, false),
        Command::Commit(args) => commit::commit(machine()?, args),
        Command::Sync(args) => others::sync(machine()?, args),
        Command::Conflicts(args) => others::conflicts(machine()?, args),
        Command::Resolve(args) => others::resolve(machine()?, args),
        Command::History(args) => collect::history(machine()?, args),
        Command::Collect(args) => collect::collect(machine()?, args),
        Command::Invite(args) => peers::invite(machine()?, args),
        Command::Join(args) => peers::join(args),
        Command::Peers(args) => peers::list(machine()?, args),
        Command::Log(args) => past::log(machine()?, args),
        Command::Show(args) => past::show(machine()?, args),
        Command::Diff(args) => past::diff(machine()?, args),
        Command::Tag(args) => past::tag(machine()?, args),
        Command::Restore(args) => past::restore(machine()?, args),
        Command::Undelete(args) => past::undelete(machine()?, args),
        Command::Verify(args) => verify::run(machine()?, args),
        Command::Store(command) => store::run(machine()?, command),
        Command::Doctor(args) => doctor::run(machine()?, args),
        Command::Service(command) => mount::service(machine()?, command),
        Command::Completions(args) => shell::completions(args),
        Command::Man(args) => shell::man(args),
    }
}

/// Where the command runs: the volumes that are here, and the one that `--volume` names.
pub struct Machine {
    home: Home,
    cwd: PathBuf,
    volume: Option<OsString>,
}

impl Machine {
    fn new(volume: Option<OsString>) -> Result<Self, Failure> {
        Ok(Self {
            home: Home::from_env()?,
            cwd: working_dir(),
            volume,
        })
    }

    /// The volume and the places in it that `paths` mean.
    fn locate(&self, paths: &[PathBuf]) -> Result<Located, Failure> {
        locate(&self.home, self.volume.as_deref(), &self.cwd, paths)
    }

    /// The volume that an optional directory means.
    fn locate_dir(&self, dir: Option<&PathBuf>) -> Result<Located, Failure> {
        self.locate(dir.map(std::slice::from_ref).unwrap_or_default())
    }
}

/// The current directory as the shell names it. That of a mount whose daemon died cannot be
/// asked for, but `PWD` still tells it.
fn working_dir() -> PathBuf {
    std::env::current_dir()
        .ok()
        .or_else(|| std::env::var_os("PWD").map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from("/"))
}

/// Runs `work` on a runtime of its own.
fn on_runtime<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("No threads could be started: {e}.")))?;
    runtime.block_on(work)
}

/// Has `operation` done, by the daemon or here, with a progress bar.
fn ask<O: Operation>(located: &Located, operation: O) -> Result<O::Answer, Failure> {
    on_runtime(async {
        let session = Session::start(&located.replica).await?;
        let bar = Bar::new();
        let answer = session
            .ask(operation, &|progress| bar.report(progress))
            .await;
        drop(bar);
        let ended = session.end().await;
        answer.and_then(|answer| ended.map(|()| answer))
    })
}

fn tree_paths(located: &Located) -> Vec<TreePath> {
    located.paths.iter().cloned().map(TreePath).collect()
}

/// How many files are named for one reason; the rest is counted.
const NAMED: usize = 10;

/// Says which files were left as they are, and why: each reason once.
fn say_kept(kept: &[KeptReport]) {
    kept_lines(kept).iter().for_each(say::out);
}

fn kept_lines(kept: &[KeptReport]) -> Vec<String> {
    let mut by_reason: Vec<(&str, Vec<&TreePath>)> = Vec::new();
    for KeptReport { path, reason } in kept {
        match by_reason.iter_mut().find(|(known, _)| known == reason) {
            Some((_, paths)) => paths.push(path),
            None => by_reason.push((reason, vec![path])),
        }
    }
    let mut lines = Vec::new();
    for (reason, paths) in by_reason {
        if let [path] = paths.as_slice() {
            lines.push(format!("  {path}: {reason}"));
            continue;
        }
        lines.push(format!(
            "  {}: {reason}",
            say::count(paths.len() as u64, "file")
        ));
        lines.extend(paths.iter().take(NAMED).map(|path| format!("    {path}")));
        if paths.len() > NAMED {
            lines.push(format!("    and {} more", paths.len() - NAMED));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_files_are_said_reason_by_reason() {
        let kept = |path: &str, reason: &str| KeptReport {
            path: TreePath(path.as_bytes().to_vec()),
            reason: reason.to_owned(),
        };
        let mut many: Vec<_> = (0..12)
            .map(|i| kept(&format!("{i}"), "it is open"))
            .collect();
        many.insert(1, kept("p", "it is pinned"));
        let lines = kept_lines(&many);
        assert_eq!(lines[..3], ["  12 files: it is open", "    0", "    1"]);
        assert_eq!(lines[11..], ["    and 2 more", "  p: it is pinned"]);
    }
}

//! The commands and their arguments.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueHint};
use larder_daemon::{ByteSize, KeepVersion, Profile, When, parse_duration};

/// One tree of files on all your machines; each keeps only its working set.
#[derive(Debug, Parser)]
#[command(
    name = "larder",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = crate::topics::POINTER)]
pub struct Larder {
    /// The volume: its id (or the start of it), or its mount path.
    #[arg(long, global = true, value_name = "VOLUME", env = "LARDER_VOLUME")]
    pub volume: Option<OsString>,

    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a new volume whose content lives on a store.
    Init(Init),
    /// Bring a volume to this machine from its store: the whole tree at once, content on demand.
    Open(Open),
    /// Mount a volume; its daemon runs until `larder unmount`.
    Mount(Mount),
    /// Unmount a volume and end its daemon, after everything is written to disk.
    Unmount(Unmount),
    /// Show what is here, what waits to be stored, and how the stores are.
    Status(Status),
    /// List files with their true size and time, and how much of each is here.
    Ls(Ls),
    /// Free the space of files whose content is stored for sure.
    Stash(Stash),
    /// Bring content back.
    Checkout(Checkout),
    /// Make an existing directory part of the volume, with no second copy of its content.
    Adopt(Adopt),
    /// Keep content here always: files, directories, and what is later made in them.
    Pin(Paths),
    /// Let content be dropped again when space is needed.
    Unpin(Paths),
    /// Store all changes and keep this state of the tree.
    Commit(Commit),
    /// Include what other machines stored, and store what is here, now.
    Sync(Sync),
    /// List the files that two machines changed apart from each other.
    Conflicts(Json),
    /// Say which version of such a file stays.
    Resolve(Resolve),
    /// Print a ticket with which another machine joins the volume, once.
    Invite(Invite),
    /// Bring a volume to this machine by the ticket of another one.
    Join(Join),
    /// Show the other machines: who is here, who was, and what each stored last.
    Peers(Json),
    /// List the commits, the newest first: all, or those that changed a path.
    Log(Log),
    /// Show a commit and what it changed.
    Show(Show),
    /// Show what differs between two commits.
    Diff(Diff),
    /// Give a commit a name, list the names, or take one back.
    Tag(Tag),
    /// Bring a file or directory back as it was.
    Restore(Restore),
    /// Bring back what was deleted.
    Undelete(Undelete),
    /// Show or say how much of the past is kept.
    History(History),
    /// Delete from the store what only commits need that are not kept.
    Collect(Collect),
    /// Compare content with its hashes, here and on the stores.
    Verify(Verify),
    /// List or try out the stores.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Look for what is wrong with this machine's part, and say how to mend it.
    Doctor(Doctor),
    /// Have systemd mount a volume at login.
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Print the completions of a shell.
    Completions(Completions),
    /// Write the manual pages into a directory.
    #[command(hide = true)]
    Man(Man),
}

/// Makes a volume.
#[derive(Debug, Args)]
#[command(after_help = crate::topics::ADDRESSES)]
pub struct Init {
    /// Where to mount it: an empty directory, made if it is not there.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// The store's address.
    #[arg(long, value_name = "URL")]
    pub store: String,
    /// How much content this machine keeps, as 20G or 500M.
    #[arg(long, value_name = "SIZE")]
    pub budget: ByteSize,
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
    #[command(flatten)]
    pub reach: Reach,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Opens a volume on a new machine.
#[derive(Debug, Args)]
#[command(after_help = crate::topics::ADDRESSES)]
pub struct Open {
    /// The store's address.
    #[arg(value_name = "URL")]
    pub store: String,
    /// Where to mount it: an empty directory, made if it is not there.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// How much content this machine keeps, as 20G or 500M.
    #[arg(long, value_name = "SIZE", default_value = "20G")]
    pub budget: ByteSize,
    #[command(flatten)]
    pub passphrase: PassphraseFrom,
    /// Open with the recovery key instead of the passphrase; asks for it on a terminal.
    #[arg(long)]
    pub recovery_key: bool,
    /// The state of this commit, by its whole id, instead of the newest one.
    #[arg(long, value_name = "ID")]
    pub commit: Option<String>,
    /// Open with the recovery key in this file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub recovery_key_file: Option<PathBuf>,
    #[command(flatten)]
    pub reach: Reach,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Where the passphrase comes from, if not from the terminal.
#[derive(Debug, Args)]
pub struct PassphraseFrom {
    /// Read the passphrase from the first line of this file (`-`: standard input).
    #[arg(long, value_name = "FILE", env = "LARDER_PASSPHRASE_FILE", value_hint = ValueHint::FilePath)]
    pub passphrase_file: Option<PathBuf>,
}

/// How a store is reached; kept in the volume's config.toml.
#[derive(Debug, Args)]
#[command(next_help_heading = "How the store is reached")]
pub struct Reach {
    /// SFTP: log in with this private key.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub identity: Option<PathBuf>,
    /// SFTP: the file of known host keys, instead of ~/.ssh/known_hosts.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub known_hosts: Option<PathBuf>,
    /// SFTP: take and remember the key of a host that is seen for the first time.
    #[arg(long)]
    pub accept_new_host_key: bool,
    /// A TOML file of mode 0600 with the store's secrets; it is copied to the state directory.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub secrets_file: Option<PathBuf>,
}

/// Mounts a volume.
#[derive(Debug, Args)]
pub struct Mount {
    /// The directory that `init` or `open` was told; not needed if there is one volume only.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Stay in the foreground until Ctrl-C.
    #[arg(long)]
    pub foreground: bool,
    /// How the kernel is told to cache, this time: `passthrough` (whole files are read and
    /// written past the daemon; needs CAP_SYS_ADMIN), `cached` (the kernel keeps pages and
    /// writes back) or `no-open` (opens do not reach the daemon; for read-mostly trees of
    /// small files).
    #[arg(long, value_name = "PROFILE", value_parser = profiles())]
    pub profile: Option<Profile>,
    /// Let other users of this machine see the mount, this time.
    #[arg(long)]
    pub allow_other: bool,
    /// Run as the daemon that another `larder mount` waits for.
    #[arg(long, hide = true, conflicts_with = "foreground")]
    pub detached: bool,
}

/// Unmounts a volume.
#[derive(Debug, Args)]
pub struct Unmount {
    /// The mount; not needed inside it, or if there is one volume only.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
    /// Detach it although files are open in it; those who hold them get errors.
    #[arg(long)]
    pub force: bool,
}

/// Shows the state of a volume.
#[derive(Debug, Args)]
pub struct Status {
    /// Show it again every second, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Print JSON (with --watch, one line each).
    #[arg(long)]
    pub json: bool,
}

/// Lists files.
#[derive(Debug, Args)]
pub struct Ls {
    /// Files and directories; the current directory, or the root of the volume.
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Mode, owner, size, time, and how much is here.
    #[arg(short, long)]
    pub long: bool,
    /// Everything below too.
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// The directory itself, not what is in it.
    #[arg(short, long, conflicts_with = "recursive")]
    pub directory: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Frees space.
#[derive(Debug, Args)]
pub struct Stash {
    /// Files and directories.
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Only what was not used for this long, as 10m, 2h or 3d.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub older_than: Option<Duration>,
    /// Only say what would be freed.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How a commit is named.
const WHEN: &str = "A time (2026-11-21, 2026-11-21T10:00, 3d for three days ago), a commit's \
number, the start of its id, a name that it was given, or `latest`";

/// Brings content.
#[derive(Debug, Args)]
pub struct Checkout {
    /// Files and directories.
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Takes a directory in.
#[derive(Debug, Args)]
pub struct Adopt {
    /// The directory, on the same file system as Larder's state.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// Where it is to be in the volume; by default its own name at the root.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub to: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Some paths.
#[derive(Debug, Args)]
pub struct Paths {
    /// Files and directories.
    #[arg(value_name = "PATH", required = true, value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Makes a commit.
#[derive(Debug, Args)]
pub struct Commit {
    /// Only what is at these paths and below them, now or in the latest commit. What else changed
    /// waits for the next commit.
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// What this state is.
    #[arg(short, long)]
    pub message: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Includes what other machines stored.
#[derive(Debug, Args)]
pub struct Sync {
    /// Do it even if more than a thousand files, or more than half of all, would be deleted
    /// here. They can be brought back with `larder restore`.
    #[arg(long)]
    pub allow_deletions: bool,
    /// Only say what would come and go, and what would be in conflict with the latest commit.
    #[arg(long, conflicts_with = "allow_deletions")]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Ends a conflict.
#[derive(Debug, Args)]
pub struct Resolve {
    /// The file, by the path of any of its versions.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// The version that stays, by its letter in `larder conflicts`; the others are deleted, and
    /// can be brought back. Or `both`: each stays, under a name of its own.
    #[arg(long, value_name = "A|B|both", value_parser = KeepVersion::parse)]
    pub keep: KeepVersion,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Invites another machine.
#[derive(Debug, Args)]
pub struct Invite {
    /// For how long the ticket is good, as 10m, 2h or 3d.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "1h")]
    pub good_for: Duration,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Joins a volume.
#[derive(Debug, Args)]
#[command(after_help = crate::topics::ADDRESSES)]
pub struct Join {
    /// What `larder invite` printed on the other machine (`-`: read it from standard input).
    pub ticket: String,
    /// Where to mount it: an empty directory, made if it is not there.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
    /// The store's address, if this machine reaches it by another one than the ticket's.
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// How much content this machine keeps, as 20G or 500M.
    #[arg(long, value_name = "SIZE", default_value = "20G")]
    pub budget: ByteSize,
    #[command(flatten)]
    pub reach: Reach,
    /// Print the result as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Lists commits.
#[derive(Debug, Args)]
pub struct Log {
    /// Only commits that changed this file, or this directory's own name or mode. It is
    /// followed through renames, and may be deleted.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: Option<PathBuf>,
    /// At most so many.
    #[arg(short = 'n', long, default_value_t = 50)]
    pub limit: u64,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Shows a commit.
#[derive(Debug, Args)]
pub struct Show {
    #[arg(value_parser = When::parse, help = WHEN)]
    pub commit: When,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Compares commits.
#[derive(Debug, Args)]
pub struct Diff {
    #[arg(value_name = "FROM", value_parser = When::parse, help = WHEN)]
    pub from: When,
    /// The other commit; by default the latest.
    #[arg(value_name = "TO", value_parser = When::parse)]
    pub to: Option<When>,
    /// Only what is at this path or below it.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub path: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Names commits.
#[derive(Debug, Args)]
pub struct Tag {
    #[arg(value_parser = When::parse, help = WHEN, requires = "name")]
    pub commit: Option<When>,
    /// The name. Without one, all names are listed.
    pub name: Option<String>,
    /// Take this name back, whichever machine gave it. The commit stays.
    #[arg(long, value_name = "NAME", conflicts_with = "commit")]
    pub delete: Option<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Brings back what was.
#[derive(Debug, Args)]
pub struct Restore {
    /// The file or directory, by the path it had then. In a directory, what was made since
    /// stays.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    #[arg(long, value_name = "WHEN", value_parser = When::parse, help = WHEN)]
    pub at: When,
    /// Put it there, as a copy, instead of where it was.
    #[arg(long, value_name = "OTHER", value_hint = ValueHint::AnyPath)]
    pub to: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Brings back what was deleted.
#[derive(Debug, Args)]
pub struct Undelete {
    /// The path that it had. It comes back as the newest commit that has it.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// How much of the past is kept.
#[derive(Debug, Args)]
pub struct History {
    #[command(subcommand)]
    pub command: Option<HistoryCommand>,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do about it.
#[derive(Debug, Subcommand)]
pub enum HistoryCommand {
    /// Say it for all machines of the volume. Nothing is deleted before `larder collect`.
    Keep(Keep),
}

/// Of which hours, days, weeks and months the last commit is kept.
#[derive(Debug, Args)]
#[command(
    after_help = "The newest commit of each machine, and commits with a message, are always \
kept. What is kept by one of the rules stays; a rule that is not given keeps nothing."
)]
pub struct Keep {
    /// The last commit of so many hours, the newest first, or of `all`.
    #[arg(long, value_name = "N", value_parser = KeepCount::parse)]
    pub hourly: Option<KeepCount>,
    /// The last commit of so many days.
    #[arg(long, value_name = "N", value_parser = KeepCount::parse)]
    pub daily: Option<KeepCount>,
    /// The last commit of so many weeks.
    #[arg(long, value_name = "N", value_parser = KeepCount::parse)]
    pub weekly: Option<KeepCount>,
    /// The last commit of so many months.
    #[arg(long, value_name = "N", value_parser = KeepCount::parse,
          required_unless_present_any = ["hourly", "daily", "weekly", "everything"])]
    pub monthly: Option<KeepCount>,
    /// All commits, as in the beginning. What was given up does not come back.
    #[arg(long, conflicts_with_all = ["hourly", "daily", "weekly", "monthly"])]
    pub everything: bool,
}

/// Of how many periods the last commit is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepCount {
    /// Of all.
    All,
    /// Of so many.
    Newest(u64),
}

impl KeepCount {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            number => match number.parse() {
                Ok(n) if n < u64::MAX => Ok(Self::Newest(n)),
                _ => Err("a number or `all` is expected".to_owned()),
            },
        }
    }
}

/// Deletes what is not needed.
#[derive(Debug, Args)]
pub struct Collect {
    /// Only say what would be given up.
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Checks content.
#[derive(Debug, Args)]
pub struct Verify {
    /// Files and directories; by default all of the volume.
    #[arg(value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub paths: Vec<PathBuf>,
    /// Read and check what the stores hold, too.
    #[arg(long)]
    pub stores: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// About the stores.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// List the volume's stores.
    List(Json),
    /// Try out each store: write, read, list and delete a small object.
    Check(Json),
}

/// How it is printed.
#[derive(Debug, Args)]
pub struct Json {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Looks for what is wrong.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// About systemd.
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Print the user unit of a volume.
    Show,
    /// Write the user unit of a volume where systemd looks for it.
    Install,
}

/// Prints completions.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell.
    pub shell: clap_complete::Shell,
}

/// Writes manual pages.
#[derive(Debug, Args)]
pub struct Man {
    /// Where to.
    #[arg(value_hint = ValueHint::DirPath)]
    pub dir: PathBuf,
}

fn profiles() -> impl TypedValueParser<Value = Profile> {
    PossibleValuesParser::new(Profile::ALL.map(Profile::name))
        .try_map(|name| name.parse::<Profile>())
}

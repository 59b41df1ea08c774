//! The daemon: owns one volume on this machine, and all that a command does to it.
//!
//! - `home`, `locate`: which volumes are here, and which one a path means;
//! - `config`, `secrets`, `stores`, `units`: settings, and from them a store;
//! - `setup`: a volume comes to this machine, new or from its store;
//! - `host`: a volume that this process holds; `operations`, `past` and `collect` for its history,
//!   `others` for what other machines did: what
//!   can be asked of it, and `report` what is answered;
//! - `wire`, `socket`, `server`, `client`: the control socket; `session`: a command's way to
//!   its volume, through the daemon or without;
//! - `peers`: other machines of the volume, inviting one and joining one;
//! - `run`: the daemon from its lock to its clean end; `detach`, `service`, `logs`: how it
//!   leaves the terminal, runs under systemd, and logs;
//! - `doctor`: what is wrong, and how to mend it;
//! - `failure`: what went wrong, in the user's words.
//!
//! Nothing here writes to the terminal, but for the line in `detach` and the log that
//! `LARDER_LOG` asks for.

mod client;
mod collect;
mod config;
mod detach;
mod doctor;
mod failure;
mod home;
mod host;
mod locate;
mod logs;
mod memory;
mod operations;
mod others;
mod past;
mod peers;
mod report;
mod run;
mod secrets;
mod server;
mod service;
mod session;
mod setup;
mod socket;
mod stores;
mod units;
mod wire;

pub use collect::{Collect, History, Keep};
pub use config::{Config, Limits, PeersConfig, Span, StoreConfig};
pub use detach::{Ready, leave_session, start_detached, tell_starter};
pub use doctor::{Finding, Level, examine};
pub use failure::{Failure, FailureKind};
pub use home::{Home, Replica, Staging};
pub use host::Host;
pub use larder_mount::Profile;
pub use larder_volume::Credential;
pub use larder_volume::progress::{Progress, Report, Unit};
pub use locate::{InVolume, Located, locate};
pub use logs::{LogGuard, log_to_files, log_to_terminal};
pub use memory::give_back_what_is_free;
pub use operations::{
    Adopt, CheckDatabase, Checkout, Commit, List, Pin, Stash, Status, Unmount, Verify,
};
pub use others::{Conflicts, KeepVersion, Preview, Resolve, Sync};
pub use past::{Diff, GiveTag, ListTags, Log, LogOf, Restore, Show, TakeTagBack, When, show_time};
pub use peers::{Invitation, Invite, ListPeers, PeerReport, join, read_ticket};
pub use report::{
    AdoptReport, Change, ChangeReport, CheckoutReport, CollectReport, CommitMade, CommitReport,
    ConflictReport, DamageReport, DiffReport, EntryReport, EventReport, HistoryReport, KeptReport,
    LogReport, NodeKind, Periods, PinReport, Presence, PreviewReport, ResolvedReport,
    RestoreReport, StashReport, StatusReport, StoreReport, SyncReport, TreePath, VerifyReport,
    VersionReport, WaitingReport,
};
pub use run::{MountWish, Unmounted, run, unmount};
pub use service::ServiceUnit;
pub use session::Session;
pub use setup::{Made, Opened, Wanted, init, open};
pub use stores::{StepReport, StoreCheck, check_store};
pub use units::{ByteSize, UnitError, parse_duration, show_duration};
pub use wire::Operation;

//! `config.toml`: what a user can set of one volume on this machine.
//!
//! Written once, by `init` or `open`, with every setting that has a default as a comment;
//! afterwards it is the user's. A key that is not known, or a value that makes no sense,
//! is refused with the file's name and the line: a misspelt limit must not be no limit.
//! It holds no secrets (see [`crate::secrets`]).

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use larder_model::ReplicaId;
use larder_mount::Profile;
use larder_volume::{PolicyKind, Settings};
use serde::{Deserialize, Deserializer};

use crate::failure::Failure;
use crate::units::{ByteSize, parse_duration};

/// The settings' file name in a state directory.
pub const CONFIG_FILE: &str = "config.toml";

/// The settings of one volume on this machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Config {
    /// Where it is mounted: an absolute path.
    pub mount: PathBuf,
    /// How many bytes of content this machine keeps.
    pub budget: ByteSize,
    /// How it is mounted; `None`: what fits the user's rights.
    #[serde(default, deserialize_with = "profile_by_name")]
    pub profile: Option<Profile>,
    /// Whether other users of this machine see the mount.
    #[serde(default)]
    pub allow_other: bool,
    /// Patterns, in gitignore's syntax, of what stays local; `None`: as it comes.
    #[serde(default)]
    pub local: Option<Vec<String>>,
    /// Where its content lives.
    pub store: StoreConfig,
    /// Limits and habits that differ from what comes.
    #[serde(default)]
    pub limits: Limits,
    /// Other machines of the volume, reached directly.
    #[serde(default)]
    pub peers: PeersConfig,
}

/// How other machines are met.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct PeersConfig {
    /// Where to listen, as `0.0.0.0:4242`, or `off`; `None`: as it comes.
    pub listen: Option<String>,
    /// Others, each as `REPLICA@HOST:PORT`, with an address for the host.
    pub known: Vec<String>,
    /// Whether this machine says on the local network that it is there, and hears who else is.
    pub mdns: bool,
}

/// What the settings of peers say: where to listen, and who is known.
type Parsed = (Option<SocketAddr>, Vec<(ReplicaId, SocketAddr)>);

impl PeersConfig {
    /// Whether nobody is to be met.
    pub fn is_off(&self) -> bool {
        self.listen.as_deref() == Some("off")
    }

    /// Whether the user asked for meeting others.
    pub(crate) fn is_asked_for(&self) -> bool {
        !self.is_off() && (self.listen.is_some() || !self.known.is_empty() || self.mdns)
    }

    pub(crate) fn parsed(&self) -> Result<Parsed, String> {
        let listen = match self.listen.as_deref() {
            None | Some("off") => None,
            Some(text) => Some(text.parse().map_err(|_| {
                format!("`listen` is {text:?}, and not an address and port or \"off\"")
            })?),
        };
        let known = self.known.iter().map(|text| {
            let parts = text.split_once('@');
            parts
                .and_then(|(id, address)| Some((id.parse().ok()?, address.parse().ok()?)))
                .ok_or_else(|| format!("`known` has {text:?}, and not REPLICA@ADDRESS:PORT"))
        });
        Ok((listen, known.collect::<Result<_, _>>()?))
    }
}

/// A store and how to reach it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StoreConfig {
    /// Its address: a folder, `sftp://`, `s3://`, `webdav(s)://`.
    pub address: String,
    /// SFTP: the private key file to log in with.
    #[serde(default)]
    pub identity: Option<PathBuf>,
    /// SFTP: the file of known host keys, instead of `~/.ssh/known_hosts`.
    #[serde(default)]
    pub known_hosts: Option<PathBuf>,
    /// SFTP: take and remember the key of a host seen for the first time.
    #[serde(default)]
    pub accept_new_host_key: bool,
}

/// Limits and habits; each `None` is what comes with the budget.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes per second to the store.
    pub upload: Option<ByteSize>,
    /// Bytes per second from the store.
    pub download: Option<ByteSize>,
    /// Bytes per second read from the cache to be stored.
    pub ingest: Option<ByteSize>,
    /// Share of one core that hashing and compressing may take.
    pub cpu: Option<f64>,
    /// Packs on their way to the store at once.
    pub parallel_uploads: Option<usize>,
    /// Requests on their way from the store at once.
    pub parallel_fetches: Option<usize>,
    /// How long a reader waits for content that is away.
    pub read_wait: Option<Span>,
    /// Dirty bytes above which writers slow down.
    pub dirty_soft: Option<ByteSize>,
    /// Dirty bytes above which writers wait.
    pub dirty_hard: Option<ByteSize>,
    /// Above the dirty limit, the disk counts as full when nothing drained for so long.
    pub dirty_stall: Option<Span>,
    /// What a store took without syncing it is looked at again after so long, twice.
    pub proof_delay: Option<Span>,
    /// What stays free on the disk.
    pub keep_free: Option<ByteSize>,
    /// Eviction starts above this share of the budget.
    pub high_watermark: Option<f64>,
    /// Eviction stops at this share of the budget.
    pub low_watermark: Option<f64>,
    /// What goes first: `s3-fifo` or `lru`.
    #[serde(deserialize_with = "policy_by_name")]
    pub eviction: Option<PolicyKind>,
    /// A file is stored once it was quiet for so long.
    pub settle_quiet: Option<Span>,
    /// A file that stays open is stored so long after its first change.
    pub settle_open: Option<Span>,
    /// At most this long between a stored change and its commit.
    pub commit_interval: Option<Span>,
    /// A commit is made when so many nodes changed.
    pub commit_nodes: Option<u64>,
    /// So often the store is asked what other machines put there; 0: only by `larder sync`.
    pub sync_interval: Option<Span>,
}

/// A duration, written `30s` or `2h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(pub Duration);

impl TryFrom<String> for Span {
    type Error = crate::units::UnitError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        parse_duration(&text).map(Self)
    }
}

impl Config {
    /// The settings in the file at `path`.
    ///
    /// # Errors
    /// If it cannot be read, or says what makes no sense.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(|e| Failure::io("read", path, e))?;
        Self::parse(&text).map_err(|why| {
            Failure::usage(format!("{}: {why}", path.display()))
                .hint("Correct the file; docs/configuration.md lists every setting.")
        })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        config.check()?;
        Ok(config)
    }

    /// Whether the settings make sense together.
    fn check(&self) -> Result<(), String> {
        if !self.mount.is_absolute() {
            return Err("`mount` must be an absolute path".into());
        }
        if self.budget.0 == 0 {
            return Err("`budget` must be more than 0".into());
        }
        let settings = self.settings();
        let share = |name: &str, value: f64| {
            (value > 0.0 && value <= 1.0)
                .then_some(())
                .ok_or_else(|| format!("`{name}` must be more than 0 and at most 1"))
        };
        share("high-watermark", settings.high_watermark)?;
        share("low-watermark", settings.low_watermark)?;
        share("cpu", settings.cpu_share)?;
        if settings.low_watermark >= settings.high_watermark {
            return Err("`low-watermark` must be below `high-watermark`".into());
        }
        if settings.dirty_soft_bytes > settings.dirty_hard_bytes {
            return Err("`dirty-soft` must not be above `dirty-hard`".into());
        }
        let limits = &self.limits;
        self.peers.parsed()?;
        let zero = [
            ("upload", limits.upload.is_some_and(|b| b.0 == 0)),
            ("download", limits.download.is_some_and(|b| b.0 == 0)),
            ("ingest", limits.ingest.is_some_and(|b| b.0 == 0)),
            ("dirty-stall", settings.dirty_stall.is_zero()),
            ("proof-delay", settings.proof_delay.is_zero()),
            ("parallel-uploads", settings.parallel_uploads == 0),
            ("parallel-fetches", settings.parallel_fetches == 0),
            ("commit-nodes", settings.commit_nodes == 0),
        ];
        match zero.iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(format!("`{name}` must be more than 0")),
            None => Ok(()),
        }
    }

    /// What the volume is to keep to.
    pub fn settings(&self) -> Settings {
        let mut settings = Settings::for_budget(self.budget.0);
        let limits = &self.limits;
        let bytes = |size: Option<ByteSize>| size.map(|size| size.0);
        let set = |slot: &mut u64, value: Option<u64>| *slot = value.unwrap_or(*slot);
        let set_share = |slot: &mut f64, value: Option<f64>| *slot = value.unwrap_or(*slot);
        let set_span = |slot: &mut Duration, value: Option<Span>| {
            *slot = value.map_or(*slot, |span| span.0);
        };
        let set_count = |slot: &mut usize, value: Option<usize>| *slot = value.unwrap_or(*slot);
        settings.upload_limit = bytes(limits.upload);
        settings.download_limit = bytes(limits.download);
        settings.ingest_limit = bytes(limits.ingest);
        set_share(&mut settings.cpu_share, limits.cpu);
        set_count(&mut settings.parallel_uploads, limits.parallel_uploads);
        set_count(&mut settings.parallel_fetches, limits.parallel_fetches);
        set_span(&mut settings.read_wait, limits.read_wait);
        set(&mut settings.dirty_soft_bytes, bytes(limits.dirty_soft));
        set(&mut settings.dirty_hard_bytes, bytes(limits.dirty_hard));
        set_span(&mut settings.dirty_stall, limits.dirty_stall);
        set_span(&mut settings.proof_delay, limits.proof_delay);
        set(&mut settings.keep_free_bytes, bytes(limits.keep_free));
        set_share(&mut settings.high_watermark, limits.high_watermark);
        set_share(&mut settings.low_watermark, limits.low_watermark);
        settings.eviction = limits.eviction.unwrap_or(settings.eviction);
        set_span(&mut settings.settle_quiet, limits.settle_quiet);
        set_span(&mut settings.settle_open, limits.settle_open);
        set_span(&mut settings.commit_interval, limits.commit_interval);
        set(&mut settings.commit_nodes, limits.commit_nodes);
        if let Some(Span(interval)) = limits.sync_interval {
            settings.sync_interval = (!interval.is_zero()).then_some(interval);
        }
        if let Some(local) = &self.local {
            settings.local_rules.clone_from(local);
        }
        settings
    }

    /// The text of a new `config.toml`: what was chosen, and the rest as comments.
    ///
    /// # Errors
    /// If a path in it is not UTF-8, which TOML cannot write.
    pub fn to_text(&self) -> Result<String, Failure> {
        let mut text = String::from(
            "# Larder: the settings of one volume on this machine.\n\
             # docs/configuration.md explains each. `larder unmount` and `larder mount`\n\
             # apply a change.\n\n",
        );
        let mut line = |key: &str, value: String| {
            let _ = writeln!(text, "{key} = {value}");
        };
        line("mount", quoted_path(&self.mount)?);
        line("budget", quoted(&exact_size(self.budget)));
        if let Some(profile) = self.profile {
            line("profile", quoted(profile.name()));
        }
        if self.allow_other {
            line("allow-other", "true".into());
        }
        if let Some(local) = &self.local {
            line("local", toml::Value::from(local.clone()).to_string());
        }
        text.push_str("\n[store]\n");
        self.store.write(&mut text)?;
        text.push_str(LIMITS_TEXT);
        Ok(text)
    }
}

impl StoreConfig {
    fn write(&self, text: &mut String) -> Result<(), Failure> {
        let mut line = |key: &str, value: String| {
            let _ = writeln!(text, "{key} = {value}");
        };
        line("address", quoted(&self.address));
        if let Some(identity) = &self.identity {
            line("identity", quoted_path(identity)?);
        }
        if let Some(known_hosts) = &self.known_hosts {
            line("known-hosts", quoted_path(known_hosts)?);
        }
        if self.accept_new_host_key {
            line("accept-new-host-key", "true".into());
        }
        Ok(())
    }
}

fn profile_by_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Profile>, D::Error> {
    let name = String::deserialize(from)?;
    name.parse().map(Some).map_err(serde::de::Error::custom)
}

fn policy_by_name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PolicyKind>, D::Error> {
    let name = String::deserialize(from)?;
    let found = PolicyKind::ALL.into_iter().find(|kind| kind.name() == name);
    let unknown = || serde::de::Error::custom(format!("{name:?} is neither s3-fifo nor lru"));
    found.map(Some).ok_or_else(unknown)
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> Result<String, Failure> {
    let text = std::str::from_utf8(path.as_os_str().as_bytes()).map_err(|_| {
        Failure::usage(format!(
            "{} is not UTF-8, so config.toml cannot name it.",
            path.display()
        ))
    })?;
    Ok(quoted(text))
}

/// A size in the largest binary unit that says it exactly.
fn exact_size(size: ByteSize) -> String {
    let mut value = size.0;
    let mut units = ["", "K", "M", "G", "T", "P"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while value != 0 && value.is_multiple_of(1024) {
        match units.next() {
            Some(next) => unit = next,
            None => break,
        }
        value /= 1024;
    }
    format!("{value}{unit}")
}

/// Every limit with what comes, as comments.
const LIMITS_TEXT: &str = r#"
# What follows is what comes by itself; remove a `#` to change it.
#[limits]
#upload = "5M"              # bytes per second to the store; none by default
#download = "50M"           # bytes per second from the store; none by default
#ingest = "100M"            # bytes per second read here to be stored; none by default
#cpu = 1.0                  # share of one core for hashing and compressing
#parallel-uploads = 3
#parallel-fetches = 8
#read-wait = "30s"          # how long a reader waits for content that is away
#dirty-soft = "10G"         # writers slow down above it; half of the budget by default
#dirty-hard = "15G"         # writers wait above it; three quarters by default
#dirty-stall = "60s"        # the disk counts as full when nothing was stored for so long
#proof-delay = "30s"        # what a store took without syncing is looked at after so long
#keep-free = "256M"         # stays free on the disk
#high-watermark = 0.95      # above this share of the budget content is dropped ...
#low-watermark = 0.85       # ... down to this one
#eviction = "s3-fifo"       # what goes first; or "lru": what was not used for the longest
#settle-quiet = "2s"        # a file is stored once it was quiet for so long
#settle-open = "60s"        # a file that stays open is stored so long after a change
#commit-interval = "10s"
#commit-nodes = 10000
#sync-interval = "1m"       # so often others are looked for on the store; "0": by hand, or when a peer says so

# Other machines of the volume, met directly. `larder invite` and `larder join` are all it needs.
##[peers]
#listen = "0.0.0.0:4242"    # or "off"; by default any port, once somebody was met or invited
#known = []                 # others, as "REPLICA@192.168.1.7:4242"
#mdns = false               # true: others on the local network are found by themselves
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen() -> Config {
        Config {
            mount: "/home/me/My \"Larder\"".into(),
            budget: ByteSize(20 << 30),
            profile: Some(Profile::NoOpen),
            allow_other: true,
            local: Some(vec!["*.o".into()]),
            store: StoreConfig {
                address: "sftp://nas/srv/larder".into(),
                identity: Some("/home/me/.ssh/id".into()),
                known_hosts: Some("/etc/hosts.known".into()),
                accept_new_host_key: true,
            },
            limits: Limits::default(),
            peers: PeersConfig::default(),
        }
    }

    #[test]
    fn what_init_writes_is_what_mount_reads() {
        let config = chosen();
        let text = config.to_text().unwrap();
        assert!(text.contains("budget = \"20G\""), "{text}");
        assert_eq!(Config::parse(&text), Ok(config));
    }

    #[test]
    fn every_limit_in_the_comments_is_one_that_is_read() {
        let mut text = chosen().to_text().unwrap();
        let at = text.find("#[limits]").unwrap();
        let limits = text.split_off(at).replace('#', "\n#").replace("\n#[", "[");
        let uncommented: String = limits
            .lines()
            .filter_map(|line| line.strip_prefix('#').or(Some(line)))
            .filter(|line| line.contains('=') || line.starts_with('['))
            .map(|line| format!("{line}\n"))
            .collect();
        let config = Config::parse(&(text + &uncommented)).unwrap();
        let settings = config.settings();
        assert_eq!(settings.upload_limit, Some(5 << 20));
        let defaults = Settings {
            upload_limit: Some(5 << 20),
            download_limit: Some(50 << 20),
            ingest_limit: Some(100 << 20),
            local_rules: vec!["*.o".into()],
            ..Settings::for_budget(20 << 30)
        };
        assert_eq!(settings, defaults);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        let base = "mount = \"/m\"\nbudget = \"1G\"\n[store]\naddress = \"/s\"\n";
        assert!(Config::parse(base).is_ok());
        for (line, word) in [
            ("[limits]\nuplaod = \"5M\"", "uplaod"),
            ("[limits]\nupload = \"fast\"", "fast"),
            ("profile = \"fast\"", "fast"),
            ("[limits]\nupload = 0", "upload"),
            ("[limits]\ndirty-stall = \"0\"", "dirty-stall"),
            ("[limits]\nhigh-watermark = 0.5", "low-watermark"),
            ("[limits]\nlow-watermark = nan", "low-watermark"),
            ("[limits]\neviction = \"fifo\"", "s3-fifo"),
            ("[limits]\nread-wait = \"soon\"", "soon"),
            ("[limits]\ndirty-hard = \"1M\"", "dirty-soft"),
            ("[peers]\nlisten = \"somewhere\"", "listen"),
            ("[peers]\nknown = [\"laptop\"]", "known"),
        ] {
            let text = match line.starts_with('[') {
                true => format!("{base}{line}\n"),
                false => format!("{line}\n{base}"),
            };
            let error = Config::parse(&text).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
        let lru = format!("{base}[limits]\neviction = \"lru\"\n");
        assert_eq!(
            Config::parse(&lru).unwrap().settings().eviction,
            PolicyKind::Lru
        );
        let relative = base.replace("/m", "m");
        assert!(Config::parse(&relative).unwrap_err().contains("mount"));
    }
}

//! Whether a server is the one that the user knows.
//!
//! As `ssh` does: the key that a server proves must be recorded for its name in the
//! user's `known_hosts` (hashed entries too) or in the system's. An unknown one is refused,
//! or remembered if the user said so; one that differs from what is recorded is always
//! refused. Servers have several keys; the kinds that are recorded are asked for first.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use russh::client;
use russh::keys::{Algorithm, HashAlg, PublicKey, PublicKeyOrCertificate, known_hosts};
use tokio::sync::watch;

/// The system's file, which an administrator fills for all users.
#[cfg(unix)]
const SYSTEM_FILE: &str = "/etc/ssh/ssh_known_hosts";

/// What a user knows of one server.
#[derive(Debug, Clone)]
pub(super) struct KnownHost {
    host: String,
    port: u16,
    file: PathBuf,
    accept_new: bool,
    recorded: Vec<PublicKey>,
}

impl KnownHost {
    /// Reads the files.
    ///
    /// # Errors
    /// In words, if an entry for this host cannot be read.
    pub(super) fn load(
        host: &str,
        port: u16,
        file: &Path,
        accept_new: bool,
    ) -> Result<Self, String> {
        let mut files = vec![file];
        #[cfg(unix)]
        files.push(Path::new(SYSTEM_FILE));
        let mut recorded = Vec::new();
        for file in files {
            let found = known_hosts::known_host_keys_path(host, port, file).map_err(|error| {
                format!(
                    "the entry for {host} in {} cannot be read: {error}",
                    file.display()
                )
            })?;
            recorded.extend(found.into_iter().map(|(_, key)| key));
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            file: file.to_owned(),
            accept_new,
            recorded,
        })
    }

    /// The kinds of keys to ask for, those first that are recorded.
    pub(super) fn preferred(&self, usual: &[Algorithm]) -> Cow<'static, [Algorithm]> {
        let plain = |kind: &Algorithm| match kind {
            Algorithm::Rsa { .. } => Algorithm::Rsa { hash: None },
            other => other.clone(),
        };
        let known: Vec<_> = self
            .recorded
            .iter()
            .map(|key| plain(&key.algorithm()))
            .collect();
        let mut kinds = usual.to_vec();
        kinds.sort_by_key(|kind| !known.contains(&plain(kind)));
        Cow::Owned(kinds)
    }

    /// Whether this key is the server's.
    ///
    /// # Errors
    /// In words, with what a user can do.
    fn judge(&self, key: &PublicKey) -> Result<(), String> {
        if self
            .recorded
            .iter()
            .any(|recorded| recorded.key_data() == key.key_data())
        {
            return Ok(());
        }
        if !self.recorded.is_empty() {
            return Err(self.changed(key));
        }
        if !self.accept_new {
            return Err(self.unknown(key));
        }
        self.remember(key)
    }

    fn remember(&self, key: &PublicKey) -> Result<(), String> {
        known_hosts::learn_known_hosts_path(&self.host, self.port, key, &self.file).map_err(
            |error| {
                format!(
                    "the host key of {} could not be remembered in {}: {error}",
                    self.host,
                    self.file.display()
                )
            },
        )?;
        tracing::info!(host = self.host, key = %print(key), "remembered a new host key");
        Ok(())
    }

    fn unknown(&self, key: &PublicKey) -> String {
        format!(
            "the host key of {} is not known yet; it is {}. If that is what the server shows \
             (`ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub` there), connect once with `ssh{} {}` \
             and answer yes, or give `--accept-new-host-key` (in config.toml: `accept-new-host-key = true`)",
            self.host,
            print(key),
            kind(key),
            self.port_flag(),
            self.host,
        )
    }

    fn changed(&self, key: &PublicKey) -> String {
        format!(
            "the host key of {} is not the one that {} has; it is now {}. Either the server was \
             set up anew or somebody is in between. If you are sure that it is the first, \
             `ssh-keygen -f {} -R '{}'` forgets the old key",
            self.host,
            self.file.display(),
            print(key),
            self.file.display(),
            match self.port {
                22 => self.host.clone(),
                port => format!("[{}]:{port}", self.host),
            },
        )
    }

    pub(super) fn port_flag(&self) -> String {
        match self.port {
            22 => String::new(),
            port => format!(" -p {port}"),
        }
    }
}

fn print(key: &PublicKey) -> String {
    format!(
        "{} {}",
        kind(key).to_uppercase(),
        key.fingerprint(HashAlg::Sha256)
    )
}

fn kind(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        Algorithm::Rsa { .. } => "rsa",
        Algorithm::Ecdsa { .. } => "ecdsa",
        Algorithm::Ed25519 => "ed25519",
        _ => "other",
    }
}

/// Judges the server's key during the handshake, and leaves the words for a refusal. It
/// lives as long as the connection.
pub(super) struct HostCheck {
    known: KnownHost,
    refusal: Arc<Mutex<Option<String>>>,
    _alive: watch::Sender<()>,
}

/// What is left of a [`HostCheck`] with the one who connects.
pub(super) struct Watched {
    /// Why the server was refused, if it was.
    pub(super) refusal: Arc<Mutex<Option<String>>>,
    /// Fails to change when the connection has ended.
    pub(super) ended: watch::Receiver<()>,
}

impl HostCheck {
    /// The check, and what to watch of it.
    pub(super) fn new(known: KnownHost) -> (Self, Watched) {
        let refusal = Arc::new(Mutex::new(None));
        let (alive, ended) = watch::channel(());
        let check = Self {
            known,
            refusal: refusal.clone(),
            _alive: alive,
        };
        (check, Watched { refusal, ended })
    }
}

impl client::Handler for HostCheck {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        match self.known.judge(&shown.public_key()) {
            Ok(()) => Ok(true),
            Err(words) => {
                *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(words);
                Ok(false)
            }
        }
    }
}

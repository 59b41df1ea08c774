//! Proving to a server who the user is.
//!
//! Keys only, in this order: the one that the user named; else those of the agent; else
//! those that `~/.ssh/config` names, and the usual files below `~/.ssh`. A key file with a passphrase is used through the agent.
//! What was tried, and why something was not, becomes part of the words for a failure.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use russh::MethodKind;
use russh::client::{AuthResult, Handle};
use russh::keys::{
    Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, load_secret_key, ssh_key,
};

use super::host_key::HostCheck;
use crate::SftpOptions;

/// The files that `ssh` looks for too.
const USUAL_FILES: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

type Session = Handle<HostCheck>;

/// Logs in, or says in words why not.
pub(super) async fn log_in(
    session: &mut Session,
    user: &str,
    options: &SftpOptions,
    configured: &[PathBuf],
) -> Result<(), String> {
    let mut attempt = Attempt {
        user,
        tried: Vec::new(),
        rsa_hash: None,
    };
    let named = options.identity.as_deref();
    let mut files = Vec::new();
    match named {
        Some(path) => files.push(read_key(path)?),
        None => {
            let directory = options.home.as_ref().map(|home| home.join(".ssh"));
            let usual = directory
                .iter()
                .flat_map(|d| USUAL_FILES.map(|name| d.join(name)));
            let paths = configured.iter().cloned().chain(usual);
            for path in paths.filter(|path| path.exists()) {
                match read_key(&path) {
                    Ok(key) => files.push(key),
                    Err(words) => attempt.tried.push(words),
                }
            }
        }
    }
    if attempt
        .by_agent(session, options, named.is_some(), &files)
        .await?
        || attempt.by_files(session, &files).await?
    {
        return Ok(());
    }
    Err(attempt.failure(session))
}

/// A key file, perhaps locked by a passphrase.
struct KeyFile {
    path: PathBuf,
    public: PublicKey,
    private: Option<Arc<PrivateKey>>,
}

fn read_key(path: &Path) -> Result<KeyFile, String> {
    let shown = path.display();
    match load_secret_key(path, None) {
        Ok(key) => Ok(KeyFile {
            path: path.to_owned(),
            public: key.public_key().clone(),
            private: Some(Arc::new(key)),
        }),
        Err(russh::keys::Error::IO(error)) => Err(format!("{shown} cannot be read: {error}")),
        Err(error) => match public_half(path) {
            Some(public) => Ok(KeyFile {
                path: path.to_owned(),
                public,
                private: None,
            }),
            None => Err(format!("{shown} is no usable private key: {error}")),
        },
    }
}

/// The public half of a locked key, which is not locked.
fn public_half(path: &Path) -> Option<PublicKey> {
    let text = std::fs::read_to_string(path).ok()?;
    if let Ok(key) = ssh_key::PrivateKey::from_openssh(&text) {
        return key.is_encrypted().then(|| key.public_key().clone());
    }
    // Older forms lock all; then the file beside it tells.
    let locked = text.contains("ENCRYPTED");
    let beside = format!("{}.pub", path.display());
    locked
        .then(|| russh::keys::load_public_key(beside).ok())
        .flatten()
}

struct Attempt<'a> {
    user: &'a str,
    /// What was tried and what could not be, in words.
    tried: Vec<String>,
    rsa_hash: Option<Option<HashAlg>>,
}

impl Attempt<'_> {
    async fn by_files(&mut self, session: &mut Session, files: &[KeyFile]) -> Result<bool, String> {
        for file in files {
            let shown = file.path.display();
            let Some(private) = &file.private else {
                self.tried.push(format!(
                    "{shown} has a passphrase and is not in the agent (`ssh-add {shown}` puts it there)"
                ));
                continue;
            };
            let hash = self.hash_for(session, &file.public).await;
            let key = PrivateKeyWithHashAlg::new(private.clone(), hash);
            let answer = session.authenticate_publickey(self.user, key).await;
            if self.accepted(&format!("{shown}"), answer.map_err(|e| e.to_string()))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tries the agent's keys; with a named identity only that one, if it is locked.
    #[cfg(unix)]
    async fn by_agent(
        &mut self,
        session: &mut Session,
        options: &SftpOptions,
        named: bool,
        files: &[KeyFile],
    ) -> Result<bool, String> {
        use russh::keys::agent::{AgentIdentity, client::AgentClient};

        let Some(socket) = &options.agent else {
            return Ok(false);
        };
        if named && files.iter().all(|file| file.private.is_some()) {
            return Ok(false);
        }
        let mut agent = match AgentClient::connect_uds(socket).await {
            Ok(agent) => agent,
            Err(error) => {
                self.tried.push(format!(
                    "the agent at {} is away: {error}",
                    socket.display()
                ));
                return Ok(false);
            }
        };
        if let Some(binding) = session.agent_session_binding() {
            // Agents older than this extension refuse it and work all the same.
            let _ = agent.bind_session(binding, false).await;
        }
        let identities = match agent.request_identities().await {
            Ok(identities) => identities,
            Err(error) => {
                self.tried
                    .push(format!("the agent at {} failed: {error}", socket.display()));
                return Ok(false);
            }
        };
        for identity in identities {
            let AgentIdentity::PublicKey { key, comment } = identity else {
                continue;
            };
            if named
                && !files
                    .iter()
                    .any(|file| file.public.key_data() == key.key_data())
            {
                continue;
            }
            let hash = self.hash_for(session, &key).await;
            let answer = session
                .authenticate_publickey_with(self.user, key, hash, &mut agent)
                .await;
            let what = format!("the agent's key {comment}");
            if self.accepted(&what, answer.map_err(|error| error.to_string()))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[cfg(not(unix))]
    async fn by_agent(
        &mut self,
        _: &mut Session,
        _: &SftpOptions,
        _: bool,
        _: &[KeyFile],
    ) -> Result<bool, String> {
        Ok(false)
    }

    /// How an RSA key should sign; asking the server may take a second, so only once.
    async fn hash_for(&mut self, session: &mut Session, key: &PublicKey) -> Option<HashAlg> {
        if !matches!(key.algorithm(), Algorithm::Rsa { .. }) {
            return None;
        }
        if self.rsa_hash.is_none() {
            let told = session.best_supported_rsa_hash().await.ok().flatten();
            self.rsa_hash = Some(told.unwrap_or(Some(HashAlg::Sha512)));
        }
        self.rsa_hash.flatten()
    }

    fn accepted(&mut self, what: &str, answer: Result<AuthResult, String>) -> Result<bool, String> {
        match answer {
            Ok(AuthResult::Success) => return Ok(true),
            Ok(AuthResult::Failure {
                partial_success: true,
                ..
            }) => {
                return Err(format!(
                    "the server takes {what}, but wants a second proof, which Larder cannot give"
                ));
            }
            Ok(AuthResult::Failure {
                remaining_methods, ..
            }) if !remaining_methods.is_empty()
                && !remaining_methods.contains(&MethodKind::PublicKey) =>
            {
                let methods = remaining_methods.iter().map(<&str>::from);
                return Err(format!(
                    "the server takes no keys from {}, only: {}",
                    self.user,
                    methods.collect::<Vec<_>>().join(", ")
                ));
            }
            Ok(AuthResult::Failure { .. }) => self.tried.push(format!("{what} was not accepted")),
            Err(error) => self.tried.push(format!("{what} failed: {error}")),
        }
        Ok(false)
    }

    fn failure(&self, session: &Session) -> String {
        let tried = match self.tried.is_empty() {
            true => "there is no key to try, neither in an agent nor below ~/.ssh".to_owned(),
            false => self.tried.join("; "),
        };
        let cut = match session.is_closed() {
            true => " (then it closed the line: too many keys? name the right one)",
            false => "",
        };
        format!(
            "the server does not let {} in: {tried}{cut}. `ssh-copy-id` puts a public key there",
            self.user
        )
    }
}

//! What a store needs to know besides its address.
//!
//! This crate reads no environment on its own: [`StoreOptions::from_environment`] does it
//! once, at the caller's word, so that tests and libraries get exactly what they hand in.

use std::env;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How stores are opened.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Make the root (the folder, the remote path) if it is not there. Only `init` wants
    /// this: for a store that is known to exist, a missing root is an unmounted disk.
    pub create: bool,
    /// How long to wait for a connection, and again for the handshake on it.
    pub connect_timeout: Duration,
    /// How long a connected store may stay silent while something is asked of it.
    pub stall_timeout: Duration,
    /// For `sftp://`.
    pub sftp: SftpOptions,
    /// For `s3://`.
    pub s3: S3Options,
    /// For `webdav://` and `webdavs://`.
    pub webdav: WebdavOptions,
}

/// How an SSH server is reached and known.
#[derive(Debug, Clone, Default)]
pub struct SftpOptions {
    /// The private key to use, instead of those found under [`SftpOptions::home`].
    pub identity: Option<PathBuf>,
    /// The file of known hosts, instead of `~/.ssh/known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// Whether to trust an unknown host at first sight and remember it. A host whose key
    /// changed is refused all the same.
    pub accept_new: bool,
    /// The socket of an SSH agent.
    pub agent: Option<PathBuf>,
    /// The user's home directory, where `.ssh` is looked for.
    pub home: Option<PathBuf>,
    /// The user name for addresses that name none.
    pub user: Option<String>,
}

/// How an S3 service is reached. What the address says goes before what stands here.
#[derive(Clone, Default)]
pub struct S3Options {
    /// URL of the service; Amazon's if absent.
    pub endpoint: Option<String>,
    /// Region that requests are signed for.
    pub region: Option<String>,
    /// Name of the profile in `~/.aws`.
    pub profile: Option<String>,
    /// Access key id.
    pub access_key_id: Option<String>,
    /// Secret access key.
    pub secret_access_key: Option<String>,
    /// Session token, for temporary credentials.
    pub session_token: Option<String>,
    /// Whether what is absent here may come from `AWS_*` variables, `~/.aws` and the
    /// machine's own role, as for the tools of Amazon.
    pub environment: bool,
}

/// How a WebDAV server is reached.
#[derive(Clone, Default)]
pub struct WebdavOptions {
    /// The user name, if the address has none.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
}

impl Default for StoreOptions {
    /// Nothing of the environment, a connection within 10 s, silence for at most 30 s.
    fn default() -> Self {
        Self {
            create: false,
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            sftp: SftpOptions::default(),
            s3: S3Options::default(),
            webdav: WebdavOptions::default(),
        }
    }
}

impl StoreOptions {
    /// The defaults, with what the environment offers: the home directory, the user's
    /// name, `SSH_AUTH_SOCK`, `AWS_*`, and `LARDER_WEBDAV_PASSWORD`.
    pub fn from_environment() -> Self {
        let text = |name: &str| env::var(name).ok().filter(|v| !v.is_empty());
        Self {
            sftp: SftpOptions {
                agent: env::var_os("SSH_AUTH_SOCK")
                    .filter(|v| !v.is_empty())
                    .map(PathBuf::from),
                home: env::home_dir(),
                user: text("USER")
                    .or_else(|| text("LOGNAME"))
                    .or_else(|| text("USERNAME")),
                ..SftpOptions::default()
            },
            s3: S3Options {
                endpoint: text("AWS_ENDPOINT_URL_S3").or_else(|| text("AWS_ENDPOINT_URL")),
                region: text("AWS_REGION").or_else(|| text("AWS_DEFAULT_REGION")),
                environment: true,
                ..S3Options::default()
            },
            webdav: WebdavOptions {
                user: None,
                password: text("LARDER_WEBDAV_PASSWORD"),
            },
            ..Self::default()
        }
    }

    /// How long one call that moves `bytes` may take on the slowest line that is still
    /// worth waiting for (16 KiB/s), for stores whose progress cannot be watched.
    pub(crate) fn patience(&self, bytes: u64) -> Duration {
        self.stall_timeout + Duration::from_secs(bytes >> 14)
    }
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Options")
            .field("endpoint", &self.endpoint)
            .field("region", &self.region)
            .field("profile", &self.profile)
            .field("environment", &self.environment)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WebdavOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebdavOptions")
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

//! A connection to an SSH server, with several SFTP sessions on it.
//!
//! One lane reads, others write, so that an fsync of a slow disk holds up no read, and a
//! long line is filled (a server's window is 2 MiB for each session). A server that allows
//! one session only gets one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use russh::client::{self, Handle};
use russh::{ChannelMsg, Preferred, SshId, cipher, compression};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::host_key::{HostCheck, KnownHost};
use super::lane::{Fault, Lane, Pulse};
use super::login::log_in;
use super::ssh_config::HostConfig;
use crate::{ErrorKind, SftpOptions, StoreOptions};

/// Sessions for puts, beside the one for all else.
const WRITERS: usize = 2;

/// Bytes that a server may send ahead: enough for 160 MB/s at 100 ms.
const RECEIVE_WINDOW_BYTES: u32 = 16 << 20;

/// Aes first: with hardware for it, several times as fast as the usual first choice.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

/// Where to connect, and as whom, as far as an address says it.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) user: Option<String>,
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// Where to connect, and as whom.
struct Resolved {
    user: String,
    host: String,
    port: u16,
    /// The name under which its host key is known.
    known_as: String,
    identities: Vec<PathBuf>,
}

impl Target {
    /// What the address leaves open comes from the user's `~/.ssh/config`, then from the
    /// options.
    fn resolve(&self, options: &SftpOptions) -> Result<Resolved, NoLine> {
        let config = options
            .home
            .as_deref()
            .map(|home| HostConfig::load(home, &self.host));
        let config = config.unwrap_or_default();
        if let Some(proxy) = config.real_proxy() {
            return Err(NoLine {
                kind: ErrorKind::Invalid,
                words: format!(
                    "~/.ssh/config reaches {} by way of {proxy}, which Larder cannot; forward a \
                     port (`ssh -L 2222:localhost:22 {}`) and use sftp://localhost:2222/…",
                    self.host, self.host
                ),
            });
        }
        let user = self
            .user
            .clone()
            .or(config.user)
            .or_else(|| options.user.clone());
        let user = user.ok_or_else(|| NoLine {
            kind: ErrorKind::Invalid,
            words: "say who you are there: sftp://user@host/path".to_owned(),
        })?;
        let host = config.host_name.unwrap_or_else(|| self.host.clone());
        Ok(Resolved {
            user,
            known_as: config.key_alias.unwrap_or_else(|| host.clone()),
            host,
            port: self.port.or(config.port).unwrap_or(22),
            identities: config.identities,
        })
    }
}

/// Why there is no line, in words.
#[derive(Debug, Clone)]
pub(super) struct NoLine {
    pub(super) kind: ErrorKind,
    pub(super) words: String,
}

fn away(words: impl Into<String>) -> NoLine {
    NoLine {
        kind: ErrorKind::Unavailable,
        words: words.into(),
    }
}

fn refused(words: impl Into<String>) -> NoLine {
    NoLine {
        kind: ErrorKind::Refused,
        words: words.into(),
    }
}

/// A connection that is logged in.
pub(super) struct Line {
    session: Handle<HostCheck>,
    reader: Arc<Lane>,
    writers: [OnceCell<Arc<Lane>>; WRITERS],
    next: AtomicUsize,
    pulse: Pulse,
    given_up: AtomicBool,
    pub(super) born: Instant,
}

impl Line {
    /// Connects and logs in.
    pub(super) async fn connect(target: &Target, options: &StoreOptions) -> Result<Self, NoLine> {
        let target = target.resolve(&options.sftp)?;
        let stream = dial(&target, options.connect_timeout).await?;
        let handshake = Self::shake_hands(&target, options, stream);
        match timeout(options.connect_timeout, handshake).await {
            Ok(result) => result,
            Err(_) => Err(away(format!(
                "{} port {} took the connection but did not finish the SSH handshake within {} s",
                target.host,
                target.port,
                options.connect_timeout.as_secs()
            ))),
        }
    }

    async fn shake_hands(
        target: &Resolved,
        options: &StoreOptions,
        stream: TcpStream,
    ) -> Result<Self, NoLine> {
        let known = known_host(target, options)?;
        let config = config(&known);
        let (check, watched) = HostCheck::new(known);
        let connected = client::connect_stream(Arc::new(config), stream, check).await;
        let mut session = connected.map_err(|error| {
            let words = watched
                .refusal
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            match words {
                Some(words) => refused(words),
                None => away(format!(
                    "the SSH handshake with {} port {} failed: {error}",
                    target.host, target.port
                )),
            }
        })?;
        log_in(
            &mut session,
            &target.user,
            &options.sftp,
            &target.identities,
        )
        .await
        .map_err(refused)?;

        let pulse = Pulse::new(options.stall_timeout, watched.ended);
        let reader = open_lane(&session, &pulse).await?;
        Ok(Self {
            session,
            reader,
            writers: Default::default(),
            next: AtomicUsize::new(0),
            pulse,
            given_up: AtomicBool::new(false),
            born: Instant::now(),
        })
    }

    /// Whether it can still be used, as far as is known.
    pub(super) fn is_alive(&self) -> bool {
        !self.given_up.load(Ordering::Acquire) && !self.session.is_closed()
    }

    /// Nobody should start anything on it any more.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// The lane for all but puts.
    pub(super) fn reader(&self) -> Arc<Lane> {
        self.reader.clone()
    }

    /// A lane for a put.
    pub(super) async fn writer(&self) -> Arc<Lane> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % WRITERS;
        let opened = self.writers[turn].get_or_init(|| async {
            match timeout(self.pulse.stall(), open_lane(&self.session, &self.pulse)).await {
                Ok(Ok(lane)) => lane,
                // A server may allow one session only, or the line is dead: the first
                // session shows which.
                Ok(Err(_)) | Err(_) => self.reader.clone(),
            }
        });
        opened.await.clone()
    }
}

fn known_host(target: &Resolved, options: &StoreOptions) -> Result<KnownHost, NoLine> {
    let options = &options.sftp;
    let usual = options
        .home
        .as_ref()
        .map(|home| home.join(".ssh").join("known_hosts"));
    let file =
        options.known_hosts.clone().or(usual).ok_or_else(|| {
            refused("no home directory is known, so no known_hosts file; name one")
        })?;
    KnownHost::load(&target.known_as, target.port, &file, options.accept_new).map_err(refused)
}

fn config(known: &KnownHost) -> client::Config {
    let usual = Preferred::DEFAULT;
    client::Config {
        client_id: SshId::Standard("SSH-2.0-Larder".into()),
        window_size: RECEIVE_WINDOW_BYTES,
        keepalive_interval: Some(Duration::from_secs(15)),
        keepalive_max: 3,
        preferred: Preferred {
            key: known.preferred(&usual.key),
            cipher: CIPHERS.into(),
            // What is stored is sealed, and does not compress.
            compression: (&[compression::NONE]).into(),
            ..usual
        },
        ..client::Config::default()
    }
}

/// Connects to the first address of the host that answers.
async fn dial(target: &Resolved, patience: Duration) -> Result<TcpStream, NoLine> {
    let (host, port) = (target.host.as_str(), target.port);
    let dialled = timeout(patience, async {
        let found = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| away(format!("the name {host} leads to no address: {error}")))?;
        let mut last = away(format!("the name {host} leads to no address"));
        for address in found {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    // Requests are small and answers are awaited: never hold one back.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Err(error) => last = away(dial_words(host, address, &error)),
            }
        }
        Err(last)
    });
    dialled.await.unwrap_or_else(|_| {
        Err(away(format!(
            "{host} port {port} does not answer within {} s",
            patience.as_secs()
        )))
    })
}

fn dial_words(host: &str, address: SocketAddr, error: &std::io::Error) -> String {
    let port = address.port();
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => {
            format!("{host} refuses connections at port {port}; does its SSH server run there?")
        }
        _ => format!("{host} port {port} cannot be reached: {error}"),
    }
}

async fn open_lane(session: &Handle<HostCheck>, pulse: &Pulse) -> Result<Arc<Lane>, NoLine> {
    let mut channel = session
        .channel_open_session()
        .await
        .map_err(|error| away(format!("the server opens no session: {error}")))?;
    let no_sftp =
        || refused("the server offers no SFTP to this user (`Subsystem sftp` in its sshd_config)");
    channel
        .request_subsystem(true, "sftp")
        .await
        .map_err(|error| away(error.to_string()))?;
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => break,
            Some(ChannelMsg::Failure | ChannelMsg::Close | ChannelMsg::Eof) => {
                return Err(no_sftp());
            }
            Some(_) => {}
            None => return Err(away("the server closed the line")),
        }
    }
    match Lane::start(channel.into_stream(), pulse.clone()).await {
        Ok(lane) => Ok(Arc::new(lane)),
        Err(Fault::Broken(_)) => Err(no_sftp()),
        Err(fault) => Err(away(format!("the SFTP session does not start: {fault:?}"))),
    }
}

//! Who is known, where they were, and which invitations are open: a file of the state directory.
//!
//! It is a memory, and no truth: if it is lost, peers are met again by the settings or by a new
//! invitation. It holds the secrets of open invitations, so it is its owner's alone. Written whole,
//! beside its place, and moved there.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use larder_format::peer::{Meeting, Proof, Side, is_same_proof};
use larder_model::{ReplicaId, VolumeId};
use serde::{Deserialize, Serialize};

use crate::error::{PeerError, Refusal, Result};

/// The book's file name in a state directory.
const BOOK_FILE: &str = "peers.json";

/// Addresses that are remembered of each.
const ADDRESSES: usize = 8;
/// Peers that are remembered.
const PEERS: usize = 1000;
/// Invitations that are remembered, used and old ones too.
const INVITATIONS: usize = 100;
const BOOK_MAX_BYTES: u64 = 4 << 20;

/// Whether the book in `state_dir` knows anyone, or has an open invitation.
///
/// # Errors
/// If it cannot be read.
pub fn is_anyone_known(state_dir: &Path) -> Result<bool> {
    Ok(!Book::open(state_dir)?.is_empty())
}

/// Remembers in `state_dir` where a replica is.
///
/// # Errors
/// If the book there cannot be read.
pub fn remember(state_dir: &Path, replica: ReplicaId, addresses: &[SocketAddr]) -> Result<()> {
    let mut book = Book::open(state_dir)?;
    for address in addresses.iter().rev() {
        book.note_address(replica, *address);
    }
    Ok(())
}

/// Who is known.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    pages: Pages,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Pages {
    version: u32,
    port: Option<u16>,
    peers: BTreeMap<String, Known>,
    invitations: Vec<Invitation>,
}

/// What is known of one.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Known {
    /// Where it was, the latest first.
    pub(crate) addresses: Vec<SocketAddr>,
    /// How its machine is called.
    pub(crate) name: String,
    /// When it was last connected, in seconds since 1970.
    pub(crate) seen: Option<u64>,
    /// The number of its newest commit, then.
    pub(crate) newest: Option<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Invitation {
    secret: [u8; 32],
    expires: u64,
    used: bool,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Invitation")
    }
}

impl Book {
    const VERSION: u32 = 1;

    /// The book in `state_dir`, empty if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or makes no sense.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let path = state_dir.join(BOOK_FILE);
        let failed = |why: String| PeerError::Book(path.display().to_string(), why);
        let text = match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Ok(meta) if meta.len() > BOOK_MAX_BYTES => {
                return Err(failed("it is too long. Remove it, and invite again".into()));
            }
            _ => Some(fs::read(&path).map_err(|error| failed(error.to_string()))?),
        };
        let pages: Pages = match text {
            None => Pages::default(),
            Some(text) => serde_json::from_slice(&text)
                .map_err(|error| failed(format!("{error}. Remove it, and invite again")))?,
        };
        if pages.version > Self::VERSION {
            return Err(failed(
                "it was written by a newer Larder; update Larder".into(),
            ));
        }
        Ok(Self { path, pages })
    }

    /// Whether anyone is known or invited.
    pub(crate) fn is_empty(&self) -> bool {
        self.pages.peers.is_empty() && self.pages.invitations.is_empty()
    }

    /// The port of the last time.
    pub(crate) fn port(&self) -> Option<u16> {
        self.pages.port
    }

    /// Remembers the port.
    pub(crate) fn note_port(&mut self, port: Option<u16>) {
        if self.pages.port != port {
            self.pages.port = port;
            self.write_soon();
        }
    }

    /// Everyone who is known.
    pub(crate) fn everyone(&self) -> Vec<(ReplicaId, Known)> {
        let parsed = |(id, known): (&String, &Known)| Some((id.parse().ok()?, known.clone()));
        self.pages.peers.iter().filter_map(parsed).collect()
    }

    /// Whether this one was met, or named by the user.
    pub(crate) fn knows(&self, id: ReplicaId) -> bool {
        self.pages.peers.contains_key(&id.to_string())
    }

    /// Where one was.
    pub(crate) fn addresses(&self, id: ReplicaId) -> Vec<SocketAddr> {
        let known = self.pages.peers.get(&id.to_string());
        known
            .map(|known| known.addresses.clone())
            .unwrap_or_default()
    }

    /// Remembers an address, as the latest.
    pub(crate) fn note_address(&mut self, id: ReplicaId, address: SocketAddr) {
        if self.pages.peers.len() >= PEERS && !self.pages.peers.contains_key(&id.to_string()) {
            return;
        }
        let known = self.pages.peers.entry(id.to_string()).or_default();
        if known.addresses.first() != Some(&address) {
            known.addresses.retain(|other| *other != address);
            known.addresses.insert(0, address);
            known.addresses.truncate(ADDRESSES);
            self.write_soon();
        }
    }

    /// Notes that one is connected, or was until now.
    pub(crate) fn note_seen(&mut self, id: ReplicaId, name: &str, newest: Option<u64>) {
        if let Some(known) = self.pages.peers.get_mut(&id.to_string()) {
            name.clone_into(&mut known.name);
            known.seen = Some(now());
            known.newest = newest.or(known.newest);
            self.write_soon();
        }
    }

    /// Opens an invitation.
    ///
    /// # Errors
    /// If it cannot be kept: then it must not be handed out.
    pub(crate) fn invite(&mut self, secret: [u8; 32], expires: u64) -> Result<()> {
        let invitations = &mut self.pages.invitations;
        if invitations.len() >= INVITATIONS {
            invitations.remove(0);
        }
        invitations.push(Invitation {
            secret,
            expires,
            used: false,
        });
        self.write()
    }

    /// Uses the invitation whose secret the caller of this meeting has proven to hold. From here
    /// on it is used, whatever happens.
    ///
    /// # Errors
    /// If there is none, it was used, or is too old; or that it is used cannot be kept.
    pub(crate) fn use_invitation(
        &mut self,
        meeting: &Meeting,
        volume: VolumeId,
        proof: &Proof,
    ) -> Result<[u8; 32]> {
        let found = self.pages.invitations.iter_mut().find(|invitation| {
            let right = meeting.proof_of_invitation(&invitation.secret, volume, Side::Caller);
            is_same_proof(&right, proof)
        });
        let refuse = |refusal| Err(PeerError::Refused(refusal));
        let Some(invitation) = found else {
            return refuse(Refusal::UnknownTicket);
        };
        if invitation.used {
            return refuse(Refusal::UsedTicket);
        }
        if invitation.expires <= now() {
            return refuse(Refusal::OldTicket);
        }
        invitation.used = true;
        let secret = invitation.secret;
        self.write()?;
        Ok(secret)
    }

    /// As [`Book::write`]; that it fails costs a memory only.
    fn write_soon(&mut self) {
        if let Err(error) = self.write() {
            tracing::warn!(%error, "what is known of peers could not be kept");
        }
    }

    fn write(&mut self) -> Result<()> {
        self.pages.version = Self::VERSION;
        let failed = |why: String| PeerError::Book(self.path.display().to_string(), why);
        let text = serde_json::to_vec(&self.pages).map_err(|error| failed(error.to_string()))?;
        let beside = self.path.with_extension("json.new");
        let write = || {
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            match self.path.parent() {
                Some(directory) => fs::File::open(directory)?.sync_all(),
                None => Ok(()),
            }
        };
        write().map_err(|error| failed(error.to_string()))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use larder_model::ReplicaId;

    use super::*;

    const VOLUME: VolumeId = VolumeId([9; 16]);

    fn meeting() -> Meeting {
        Meeting {
            caller: (ReplicaId([1; 32]), [2; 32]),
            called: (ReplicaId([3; 32]), [4; 32]),
        }
    }

    fn refusal(book: &mut Book, secret: [u8; 32]) -> Option<Refusal> {
        let proof = meeting().proof_of_invitation(&secret, VOLUME, Side::Caller);
        match book.use_invitation(&meeting(), VOLUME, &proof) {
            Ok(used) => {
                assert_eq!(used, secret);
                None
            }
            Err(error) => Some(error.answer()),
        }
    }

    #[test]
    fn an_invitation_is_used_once_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::open(dir.path()).unwrap();
        assert!(book.is_empty());
        book.invite([7; 32], now() + 60).unwrap();
        book.invite([8; 32], now()).unwrap();
        let mut book = Book::open(dir.path()).unwrap();
        assert_eq!(refusal(&mut book, [7; 32]), None);
        assert_eq!(refusal(&mut book, [7; 32]), Some(Refusal::UsedTicket));
        let mut book = Book::open(dir.path()).unwrap();
        assert_eq!(refusal(&mut book, [7; 32]), Some(Refusal::UsedTicket));
        assert_eq!(refusal(&mut book, [8; 32]), Some(Refusal::OldTicket));
        assert_eq!(refusal(&mut book, [5; 32]), Some(Refusal::UnknownTicket));
    }

    #[test]
    fn who_was_met_is_known_after_a_restart_and_only_to_the_owner() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let mut book = Book::open(dir.path()).unwrap();
        let id = ReplicaId([7; 32]);
        for port in 1..20 {
            book.note_address(id, SocketAddr::from(([10, 0, 0, 1], port)));
        }
        book.note_seen(id, "laptop", Some(5));
        let book = Book::open(dir.path()).unwrap();
        let (known_id, known) = book.everyone().remove(0);
        assert_eq!((known_id, known.addresses.len()), (id, ADDRESSES));
        assert_eq!(known.addresses[0].port(), 19);
        assert_eq!((known.name.as_str(), known.newest), ("laptop", Some(5)));
        let mode = fs::metadata(dir.path().join(BOOK_FILE)).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_book_is_refused_with_its_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(BOOK_FILE), b"{").unwrap();
        let error = Book::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(BOOK_FILE), "{error}");
        fs::write(dir.path().join(BOOK_FILE), b"{\"version\": 2}").unwrap();
        let error = Book::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("newer"), "{error}");
    }
}

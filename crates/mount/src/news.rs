//! Telling the kernel what changed from outside.
//!
//! The kernel keeps names and attributes for hours, so it must be told of each change
//! that did not come through it. Telling it may wait for a directory's lock, which is held
//! by whoever waits for an answer from here: so it is done by a thread of its own, never
//! by a session thread, and the news only queue up until then.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, mpsc};
use std::thread;

use fuser::{INodeNo, Notifier};
use larder_volume::{Ino, Notify};

use crate::dot_larder;
use crate::listings::Listings;
use crate::lookups::Lookups;

/// Something that the kernel must hear.
#[derive(Debug)]
pub(crate) enum News {
    /// A name went, and its node with it.
    EntryGone {
        parent: Ino,
        name: Vec<u8>,
        child: Ino,
    },
    /// A name means something else now.
    EntryChanged { parent: Ino, name: Vec<u8> },
    /// Attributes and pages that the kernel has of a node are not true any more.
    NodeChanged(Ino),
    /// Attributes only.
    AttributesChanged(Ino),
}

/// Where news are handed in. Never waits.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    queue: mpsc::Sender<News>,
    listings: Arc<Listings>,
    lookups: Arc<Lookups>,
}

impl Desk {
    /// A desk, and what comes in there.
    pub(crate) fn new(
        listings: Arc<Listings>,
        lookups: Arc<Lookups>,
    ) -> (Self, mpsc::Receiver<News>) {
        let (queue, news) = mpsc::channel();
        let desk = Self {
            queue,
            listings,
            lookups,
        };
        (desk, news)
    }

    pub(crate) fn tell(&self, news: News) {
        // When nobody listens any more, the mount has ended and nobody need know.
        let _ = self.queue.send(news);
    }
}

impl Notify for Desk {
    fn entry_gone(&self, parent: Ino, name: &[u8], child: Ino) {
        self.listings.outdate(parent);
        let name = name.to_vec();
        self.tell(News::EntryGone {
            parent,
            name,
            child,
        });
    }

    fn entry_changed(&self, parent: Ino, name: &[u8]) {
        self.listings.outdate(parent);
        let name = name.to_vec();
        self.tell(News::EntryChanged { parent, name });
    }

    fn inode_changed(&self, ino: Ino) {
        self.tell(News::NodeChanged(ino));
    }

    fn knows(&self, ino: Ino) -> bool {
        self.lookups.knows(ino)
    }
}

/// Tells the kernel all that comes in, until every desk is gone.
///
/// # Errors
/// If no thread can be started.
pub(crate) fn start(
    news: mpsc::Receiver<News>,
    notifier: Notifier,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name("larder-news".to_owned())
        .spawn(move || {
            for item in news {
                if let Err(error) = deliver(&notifier, &item) {
                    tracing::debug!(%error, ?item, "the kernel was told in vain");
                }
            }
        })
}

fn deliver(notifier: &Notifier, news: &News) -> io::Result<()> {
    match news {
        News::EntryGone {
            parent,
            name,
            child,
        } => {
            let (parent, name) = (INodeNo(*parent), OsStr::from_bytes(name));
            if notifier.delete(parent, INodeNo(*child), name).is_err() {
                // The name was found to mean another node, or the directory to be in use.
                notifier.inval_entry(parent, name)?;
            }
            listing_changed(notifier, parent)
        }
        News::EntryChanged { parent, name } => {
            let parent = INodeNo(*parent);
            notifier.inval_entry(parent, OsStr::from_bytes(name))?;
            listing_changed(notifier, parent)
        }
        News::NodeChanged(ino) if dot_larder::is_inside(*ino) => Ok(()),
        News::NodeChanged(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
        News::AttributesChanged(ino) => notifier.inval_inode(INodeNo(*ino), -1, 0),
    }
}

/// The kernel drops a directory's kept listing for an entry that it knows, not for one
/// that it has never heard of: so it is told of the directory too. After the entry,
/// because that waits for listings that are being read.
fn listing_changed(notifier: &Notifier, directory: INodeNo) -> io::Result<()> {
    notifier.inval_inode(directory, 0, 0)
}

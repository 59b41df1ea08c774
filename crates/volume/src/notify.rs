//! Telling the kernel of changes that did not come from it.
//!
//! The kernel keeps names and attributes for hours, so each change that comes from
//! outside the mount (a command, later a peer) must be told. The face that is mounted
//! does so on a thread of its own: here it is only handed the news, after the change is
//! committed and with no lock held.

use parking_lot::RwLock;

use crate::Ino;

/// Takes the news of changes from outside.
pub trait Notify: Send + Sync + std::fmt::Debug {
    /// A name went, and `child` with it.
    fn entry_gone(&self, parent: Ino, name: &[u8], child: Ino);
    /// A name came, or means another node now.
    fn entry_changed(&self, parent: Ino, name: &[u8]);
    /// A node's attributes or content changed.
    fn inode_changed(&self, ino: Ino);
    /// Whether the kernel knows the node, so that it will say when it does no more.
    fn knows(&self, ino: Ino) -> bool;
}

/// Who is to be told, if anyone.
#[derive(Debug, Default)]
pub(crate) struct Notifications(RwLock<Option<Box<dyn Notify>>>);

impl Notifications {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn tell(&self, news: impl Fn(&dyn Notify)) {
        if let Some(face) = self.0.read().as_deref() {
            news(face);
        }
    }

    pub(crate) fn knows(&self, ino: Ino) -> bool {
        self.0.read().as_deref().is_some_and(|face| face.knows(ino))
    }
}

impl crate::Volume {
    /// From now on, tells `face` of changes from outside; `None`: nobody.
    pub fn set_notifier(&self, face: Option<Box<dyn Notify>>) {
        *self.notify.0.write() = face;
    }
}

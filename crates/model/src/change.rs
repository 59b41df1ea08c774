//! Changes: what is written into the registers of a node.
//!
//! A change has no dot: it gets that of the commit that takes it. What a user does to a node
//! also writes that it is alive, so that an edit beats a delete made elsewhere. Two things
//! do not say so: what repair does to put a name right, or a file deleted elsewhere would
//! come back because of its name; and the times of a directory, which change with every entry,
//! or a directory deleted elsewhere would come back empty because one of its files went.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Attrs, Content, Dot, Hlc, Kind, Life, Link, LinkId, Node, NodeId, Place, Register, Valued,
};

/// A write into a register of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Write {
    /// The node is new; its registers follow.
    New(Kind),
    /// It is alive, or deleted.
    Life(Life),
    /// A link is there.
    Link(LinkId, Link),
    /// Its attributes.
    Attrs(Attrs),
    /// What it holds.
    Content(Content),
    /// Of contents that stand side by side this one stays. It keeps its dots: who edits it
    /// elsewhere has overwritten it, and not what repair made of it.
    Keep(Content),
    /// All registers get a new dot: others had deleted and forgotten the node.
    Renew,
}

/// A write, and the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// The node.
    pub node: NodeId,
    /// The write.
    pub write: Write,
}

impl Write {
    /// The node with this written at `dot`. Nothing comes of a write to no node, but for
    /// [`Write::New`].
    #[must_use]
    pub fn apply(&self, node: Option<Node>, dot: Dot) -> Option<Node> {
        if let Self::New(kind) = self {
            return node.or_else(|| Some(Node::without_values(*kind)));
        }
        let mut node = node?;
        match self {
            Self::New(_) => {}
            Self::Life(life) => node.life.write(*life, dot),
            Self::Link(id, link) => node.set_link(*id, link.clone(), dot),
            Self::Attrs(attrs) => node.attrs.write(attrs.clone(), dot),
            Self::Content(content) => node.content.write(content.clone(), dot),
            Self::Keep(content) => node.content.keep(content),
            Self::Renew => node.renew(dot),
        }
        Some(node)
    }
}

impl<T: Clone + Ord> Register<T> {
    /// Drops all values but this one, if it is there.
    fn keep(&mut self, value: &T) {
        let kept = self.0.iter().filter(|valued| &valued.value == value);
        let dots: BTreeSet<Dot> = kept.flat_map(|valued| &valued.dots).copied().collect();
        if self.0.iter().any(|valued| &valued.value == value) {
            *self = Self(vec![Valued {
                value: value.clone(),
                dots,
            }]);
        }
    }
}

impl Node {
    /// A node whose registers hold nothing yet.
    pub fn without_values(kind: Kind) -> Self {
        Self {
            kind,
            life: Register(Vec::new()),
            links: BTreeMap::new(),
            attrs: Register(Vec::new()),
            content: Register(Vec::new()),
        }
    }

    /// A new node at a place.
    pub fn new(kind: Kind, place: Place, attrs: Attrs, content: Content, dot: Dot) -> Self {
        let link = Link {
            place,
            present: true,
            time: attrs.time,
        };
        Self {
            kind,
            life: Register::one(Life::Alive, dot),
            links: BTreeMap::from([(LinkId::BIRTH, Register::one(link, dot))]),
            attrs: Register::one(attrs, dot),
            content: Register::one(content, dot),
        }
    }

    /// The root directory of a new volume: it has no place.
    pub fn new_root(attrs: Attrs, dot: Dot) -> Self {
        Self {
            life: Register::one(Life::Alive, dot),
            attrs: Register::one(attrs, dot),
            content: Register::one(Content::None, dot),
            ..Self::without_values(Kind::Directory)
        }
    }

    /// Writes what it holds.
    pub fn write_content(&mut self, content: Content, dot: Dot) {
        self.content.write(content, dot);
        self.claim(dot);
    }

    /// Writes what it holds, over no more than the values with the dots in `seen`: an edit that
    /// began before a join brought another version. What that leaves side by side is for repair.
    pub fn write_content_over(&mut self, content: Content, seen: &BTreeSet<Dot>, dot: Dot) {
        self.content.write_over(content, seen, dot);
        self.claim(dot);
    }

    /// Writes its attributes.
    pub fn write_attrs(&mut self, attrs: Attrs, dot: Dot) {
        let is_claim = self.kind != Kind::Directory
            || self.attrs().is_none_or(|before| {
                let with_times = Attrs {
                    mtime: attrs.mtime,
                    ctime: attrs.ctime,
                    time: attrs.time,
                    ..before.clone()
                };
                with_times != attrs
            });
        self.attrs.write(attrs, dot);
        if is_claim {
            self.claim(dot);
        }
    }

    /// Puts a link at a place: a rename or a move, or another hard link.
    pub fn write_link(&mut self, id: LinkId, place: Place, time: Hlc, dot: Dot) {
        let link = Link {
            place,
            present: true,
            time,
        };
        self.set_link(id, link, dot);
        self.claim(dot);
    }

    /// Removes one of several links.
    pub fn remove_link(&mut self, id: LinkId, time: Hlc, dot: Dot) {
        if let Some(link) = self.link(id) {
            let link = Link {
                present: false,
                time,
                ..link.clone()
            };
            self.set_link(id, link, dot);
            self.claim(dot);
        }
    }

    /// Deletes it. It keeps its last place and content, so that it can come back.
    pub fn delete(&mut self, dot: Dot) {
        self.life = Register::one(Life::Deleted, dot);
    }

    /// Says anew that it is alive, because it was changed or has come back.
    pub fn claim(&mut self, dot: Dot) {
        self.life = Register::one(Life::Alive, dot);
    }

    fn set_link(&mut self, id: LinkId, link: Link, dot: Dot) {
        match self.links.get_mut(&id) {
            Some(register) => register.write(link, dot),
            None => {
                self.links.insert(id, Register::one(link, dot));
            }
        }
    }

    /// Gives all registers a new dot, with what is read from them.
    fn renew(&mut self, dot: Dot) {
        let life = match self.is_alive() {
            true => Life::Alive,
            false => Life::Deleted,
        };
        self.life = Register::one(life, dot);
        let links: Vec<_> = self.links.keys().copied().collect();
        for id in links {
            if let Some(link) = self.link(id).cloned() {
                self.links.insert(id, Register::one(link, dot));
            }
        }
        if let Some(attrs) = self.attrs().cloned() {
            self.attrs = Register::one(attrs, dot);
        }
        if let Some(content) = self.content().cloned() {
            self.content = Register::one(content, dot);
        }
    }

    /// Puts another dot in the place of one, as when a commit does not take a change.
    pub(crate) fn redate(&mut self, from: Dot, to: Dot) {
        self.life.redate(from, to);
        self.links
            .values_mut()
            .for_each(|link| link.redate(from, to));
        self.attrs.redate(from, to);
        self.content.redate(from, to);
    }
}

impl<T: Clone + Ord> Register<T> {
    fn write_over(&mut self, value: T, seen: &BTreeSet<Dot>, dot: Dot) {
        for valued in &mut self.0 {
            valued.dots.retain(|dot| !seen.contains(dot));
        }
        self.0.retain(|valued| !valued.dots.is_empty());
        self.add(&value, BTreeSet::from([dot]));
        self.sort();
    }

    fn redate(&mut self, from: Dot, to: Dot) {
        for valued in &mut self.0 {
            if valued.dots.remove(&from) {
                valued.dots.insert(to);
            }
        }
        self.sort();
    }
}

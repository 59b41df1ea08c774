//! Reading registers: one answer from values that stand side by side, the same everywhere.
//!
//! `life`: alive beats deleted. A link and the attributes: the latest. Contents that stand side
//! by side are a real conflict: repair makes copies of all but one of them.

use crate::{
    Attrs, Clock, Content, Life, Link, LinkId, Node, Register, Side, Valued, join_registers,
};

impl Node {
    /// Whether it is alive.
    pub fn is_alive(&self) -> bool {
        self.life.0.iter().any(|valued| valued.value == Life::Alive)
    }

    /// Where one of its links is, or was last.
    pub fn link(&self, id: LinkId) -> Option<&Link> {
        self.links.get(&id).and_then(latest_link)
    }

    /// Its links that are present, whether it is alive or not.
    pub fn present_links(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        let links = self.links.iter();
        links.filter_map(|(&id, register)| {
            let link = latest_link(register)?;
            link.present.then_some((id, link))
        })
    }

    /// The names it has now: its present links, while it is alive.
    pub fn names(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        let alive = self.is_alive();
        self.present_links().filter(move |_| alive)
    }

    /// Its latest link, present or not.
    pub fn latest_link(&self) -> Option<(LinkId, &Link)> {
        let links = self.links.iter();
        links
            .filter_map(|(&id, register)| Some((id, latest_link(register)?)))
            .max_by_key(|(id, link)| (link.time, *id))
    }

    /// Its attributes.
    pub fn attrs(&self) -> Option<&Attrs> {
        let values = self.attrs.0.iter().map(|valued| &valued.value);
        values.max_by_key(|attrs| (attrs.time, *attrs))
    }

    /// What it holds: of contents that stand side by side, the one that keeps the name.
    pub fn content(&self) -> Option<&Content> {
        let values = self.content.0.iter();
        let highest = values.max_by(|a, b| a.rank().cmp(&b.rank()));
        highest.map(|valued| &valued.value)
    }
}

impl<T: Ord> Valued<T> {
    /// Which of concurrent writes goes before the others. Commit numbers grow with what a
    /// commit includes ([`Clock::next`]), so an overwriting value ranks above what it overwrote.
    /// That matters: the highest of all writes that a replica saw is then never one that
    /// somebody overwrote, nor one that another replica, who chose too, gave up.
    pub(crate) fn rank(&self) -> impl Ord + '_ {
        let last = self.dots.iter().map(|dot| (dot.commit, dot.replica)).max();
        (last, &self.value)
    }
}

fn latest_link(register: &Register<Link>) -> Option<&Link> {
    let values = register.0.iter().map(|valued| &valued.value);
    values.max_by_key(|link| (link.time, link.present, &link.place))
}

/// How one version of a thing stands to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// They say the same.
    InSync,
    /// The other side has overwritten what this one says.
    Older,
    /// This side has overwritten what the other says.
    Newer,
    /// Each side says something that the other has not seen.
    Conflict,
}

impl Standing {
    /// The standing of a whole of two parts.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::InSync, one) | (one, Self::InSync) => one,
            (a, b) if a == b => a,
            _ => Self::Conflict,
        }
    }
}

impl<T: PartialEq> Register<T> {
    /// Whether both hold the same values, whoever wrote them.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let is_there = |valued: &Valued<T>| other.0.iter().any(|v| v.value == valued.value);
        self.0.len() == other.0.len() && self.0.iter().all(is_there)
    }

    /// Whether a side with this clock includes all that the register says: then, if that side
    /// says something else, this version is older.
    pub fn is_included(&self, clock: &Clock) -> bool {
        self.dots().all(|dot| clock.covers(dot))
    }
}

impl<T: Clone + Ord> Register<T> {
    /// How this version, on a side that includes `clock`, stands to another: the newer one is
    /// what their join would give.
    pub fn standing(&self, clock: &Clock, other: &Self, other_clock: &Clock) -> Standing {
        if self.says_the_same(other) {
            return Standing::InSync;
        }
        let ours = Side { has: self, clock };
        let joined = join_registers(
            ours,
            Side {
                has: other,
                clock: other_clock,
            },
        );
        if joined.says_the_same(self) {
            return Standing::Newer;
        }
        match joined.says_the_same(other) {
            true => Standing::Older,
            false => Standing::Conflict,
        }
    }
}

impl Node {
    /// How this version, on a side that includes `clock`, stands to another.
    pub fn standing(&self, clock: &Clock, other: &Self, other_clock: &Clock) -> Standing {
        let none = Register(Vec::new());
        let links = self.links.keys().chain(other.links.keys());
        let links = links.map(|id| {
            let (a, b) = (self.links.get(id), other.links.get(id));
            a.unwrap_or(&none)
                .standing(clock, b.unwrap_or(&none), other_clock)
        });
        let all = [
            self.life.standing(clock, &other.life, other_clock),
            self.attrs.standing(clock, &other.attrs, other_clock),
            self.content.standing(clock, &other.content, other_clock),
        ];
        links.chain(all).fold(Standing::InSync, Standing::and)
    }
}

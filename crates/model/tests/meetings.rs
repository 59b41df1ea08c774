//! What comes of a meeting, case by case: what two did at once, and what both see then.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "what is not as it must be fails the test"
)]

use std::cell::Cell;
use std::convert::Infallible;
use std::sync::Arc;

use larder_model::*;

const DAY: u64 = 86_400_000_000_000;

fn node_id(n: u64) -> NodeId {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&n.to_be_bytes());
    NodeId(id)
}

fn text(text: &str) -> Content {
    // A target is as good as any content, and can be read.
    Content::Target(text.into())
}

fn place(parent: NodeId, name: &str) -> Place {
    Place {
        parent,
        name: Name::new(name).unwrap(),
    }
}

fn naming<T>(with: impl FnOnce(&Naming<'_>) -> T) -> T {
    let replica = |id: &ReplicaId| ["?", "desk", "lap", "srv"][usize::from(id.0[0])].to_owned();
    let hash = |bytes: &[u8]| {
        let mut hash = [0u8; 32];
        for (at, byte) in bytes.iter().enumerate() {
            let slot = &mut hash[at % 32];
            *slot = slot.wrapping_mul(31).wrapping_add(*byte);
        }
        hash
    };
    with(&Naming {
        replica: &replica,
        hash: &hash,
    })
}

/// A replica, and the time on its clock.
struct Peer {
    working: Working,
    time: u64,
}

/// Three replicas of an empty volume.
fn three() -> [Peer; 3] {
    let first = Dot {
        replica: ReplicaId([9; 32]),
        commit: 1,
    };
    let root = Arc::new(Node::new_root(Attrs::default(), first));
    let state = State {
        nodes: [(NodeId::ROOT, root)].into_iter().collect(),
        clock: [first].into_iter().collect(),
    };
    [1, 2, 3].map(|n| Peer {
        working: Working::new(ReplicaId([n; 32]), state.clone()),
        time: u64::from(n),
    })
}

impl Peer {
    fn tick(&mut self) -> Hlc {
        self.time += 10;
        Hlc(20_000 * DAY + self.time)
    }

    fn make(
        &mut self,
        id: u64,
        kind: Kind,
        parent: NodeId,
        name: &str,
        content: Content,
    ) -> NodeId {
        let attrs = Attrs {
            time: self.tick(),
            ..Attrs::default()
        };
        let dot = self.working.dot();
        let node = Node::new(kind, place(parent, name), attrs, content, dot);
        self.working.add(node_id(id), node);
        node_id(id)
    }

    fn file(&mut self, id: u64, parent: NodeId, name: &str, content: &str) -> NodeId {
        self.make(id, Kind::File, parent, name, text(content))
    }

    fn directory(&mut self, id: u64, parent: NodeId, name: &str) -> NodeId {
        self.make(id, Kind::Directory, parent, name, Content::None)
    }

    fn write(&mut self, id: NodeId, content: &str) {
        self.tick();
        self.working
            .edit(id, |node, dot| node.write_content(text(content), dot));
    }

    fn relocate(&mut self, id: NodeId, parent: NodeId, name: &str) {
        let time = self.tick();
        self.working.edit(id, |node, dot| {
            node.write_link(LinkId::BIRTH, place(parent, name), time, dot);
        });
    }

    fn delete(&mut self, id: NodeId) {
        self.tick();
        self.working.edit(id, Node::delete);
    }

    /// Takes over what another committed; whether there was something to repair.
    fn get(&mut self, other: &State) -> bool {
        naming(|naming| !self.working.join(other, naming).is_empty())
    }

    /// All paths, with what the files hold.
    fn tree(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.list(NodeId::ROOT, "", &mut paths);
        paths.sort();
        paths
    }

    fn list(&self, at: NodeId, above: &str, paths: &mut Vec<String>) {
        for entry in self.working.nodes().children(at) {
            let name = String::from_utf8_lossy(entry.name.as_bytes()).into_owned();
            let node = self.working.nodes().get(&entry.node).unwrap();
            match node.content() {
                Some(Content::Target(text)) => {
                    paths.push(format!("{above}{name}={}", String::from_utf8_lossy(text)));
                }
                _ => {
                    paths.push(format!("{above}{name}/"));
                    self.list(entry.node, &format!("{above}{name}/"), paths);
                }
            }
        }
    }
}

/// Both commit, and then take over what the other has.
fn meet(a: &mut Peer, b: &mut Peer) {
    let (from_a, from_b) = (a.working.commit(), b.working.commit());
    a.get(&from_b);
    b.get(&from_a);
}

/// Both see the same, these paths; and after one more meeting have equal states.
fn both_see(a: &mut Peer, b: &mut Peer, paths: &[&str]) {
    meet(a, b);
    assert_eq!(a.tree(), paths);
    assert_eq!(b.tree(), paths);
    let (from_a, from_b) = (a.working.commit(), b.working.commit());
    assert!(!a.get(&from_b) && !b.get(&from_a), "repaired twice");
    assert_eq!(a.working.nodes(), b.working.nodes());
}

#[test]
fn of_two_versions_one_keeps_the_name_and_the_other_is_a_copy() {
    let [mut a, mut b, _] = three();
    let doc = a.file(1, NodeId::ROOT, "doc.txt", "old");
    meet(&mut a, &mut b);
    a.write(doc, "of a");
    b.write(doc, "of b");
    let paths = ["doc (conflict, desk, 2024-10-04).txt=of a", "doc.txt=of b"];
    both_see(&mut a, &mut b, &paths);
}

#[test]
fn who_edits_while_others_repair_makes_no_second_conflict() {
    let [mut a, mut b, mut c] = three();
    let doc = a.file(1, NodeId::ROOT, "doc", "old");
    meet(&mut a, &mut c);
    meet(&mut a, &mut b);
    a.write(doc, "of a");
    b.write(doc, "of b");
    // The third one repairs what the two wrote; whose version stays goes on.
    c.get(&a.working.commit());
    c.get(&b.working.commit());
    b.write(doc, "of b, more");
    let copy = "doc (conflict, desk, 2024-10-04)=of a";
    both_see(&mut b, &mut c, &[copy, "doc=of b, more"]);
    meet(&mut a, &mut b);
    assert_eq!(a.tree(), [copy, "doc=of b, more"]);
}

#[test]
fn an_edit_that_began_before_a_join_is_beside_what_came() {
    let [mut a, mut b, _] = three();
    let doc = a.file(1, NodeId::ROOT, "doc", "old");
    meet(&mut a, &mut b);
    let open = b.working.nodes().get(&doc).unwrap();
    let seen = open.content.dots().copied().collect();
    a.write(doc, "of a");
    meet(&mut a, &mut b);
    assert_eq!(b.tree(), ["doc=of a"]);
    // Who had the old version open saves it now.
    b.working.edit(doc, |node, dot| {
        node.write_content_over(text("of b"), &seen, dot);
    });
    let paths = ["doc (conflict, desk, 2024-10-04)=of a", "doc=of b"];
    let node = b.working.nodes().get(&doc).unwrap().clone();
    let touched = Touched {
        nodes: [(doc, Some(node))].into_iter().collect(),
        ..Touched::default()
    };
    naming(|naming| b.working.repair(&touched, naming));
    both_see(&mut a, &mut b, &paths);
}

#[test]
fn a_third_one_that_saw_one_side_only_comes_to_the_same() {
    let [mut a, mut b, mut c] = three();
    let doc = a.file(1, NodeId::ROOT, "doc", "old");
    meet(&mut a, &mut b);
    a.write(doc, "of a");
    b.write(doc, "of b");
    // What was given up for the copy goes there too, and the copy comes.
    c.get(&a.working.commit());
    meet(&mut a, &mut b);
    let paths = ["doc (conflict, desk, 2024-10-04)=of a", "doc=of b"];
    both_see(&mut a, &mut c, &paths);
}

#[test]
fn an_edit_beats_a_delete() {
    let [mut a, mut b, _] = three();
    let home = a.directory(1, NodeId::ROOT, "home");
    let doc = a.file(2, home, "doc", "old");
    meet(&mut a, &mut b);
    a.delete(doc);
    a.delete(home);
    b.write(doc, "new");
    both_see(&mut a, &mut b, &["home/", "home/doc=new"]);
}

#[test]
fn what_is_moved_into_a_deleted_directory_brings_it_back() {
    let [mut a, mut b, _] = three();
    let outer = a.directory(1, NodeId::ROOT, "outer");
    let inner = a.directory(2, outer, "inner");
    let doc = a.file(3, NodeId::ROOT, "doc", "text");
    meet(&mut a, &mut b);
    a.delete(inner);
    a.delete(outer);
    b.relocate(doc, inner, "doc");
    both_see(
        &mut a,
        &mut b,
        &["outer/", "outer/inner/", "outer/inner/doc=text"],
    );
}

#[test]
fn a_directory_deleted_elsewhere_does_not_come_back_because_a_file_in_it_went() {
    let [mut a, mut b, _] = three();
    let home = a.directory(1, NodeId::ROOT, "home");
    let doc = a.file(2, home, "doc", "old");
    meet(&mut a, &mut b);
    a.delete(doc);
    a.delete(home);
    b.delete(doc);
    let time = b.tick();
    b.working.edit(home, |node, dot| {
        let attrs = Attrs {
            mtime: Time(7),
            ctime: Time(7),
            time,
            ..node.attrs().unwrap().clone()
        };
        node.write_attrs(attrs, dot);
    });
    both_see(&mut a, &mut b, &[]);
}

#[test]
fn of_two_files_of_one_name_the_later_is_renamed() {
    let [mut a, mut b, _] = three();
    let other = a.file(1, NodeId::ROOT, "other", "1");
    meet(&mut a, &mut b);
    a.file(2, NodeId::ROOT, "x.txt", "2");
    b.tick();
    b.relocate(other, NodeId::ROOT, "x.txt");
    let paths = ["x (conflict, lap, 2024-10-04).txt=1", "x.txt=2"];
    both_see(&mut a, &mut b, &paths);
}

#[test]
fn directories_of_one_name_become_one_and_so_on_below() {
    let [mut a, mut b, _] = three();
    for (peer, n, word) in [(&mut a, 10, "a"), (&mut b, 20, "b")] {
        let top = peer.directory(n, NodeId::ROOT, "top");
        let sub = peer.directory(n + 1, top, "sub");
        peer.file(n + 2, sub, "same", word);
        peer.file(n + 3, sub, &format!("only {word}"), word);
    }
    let paths = [
        "top/",
        "top/sub/",
        "top/sub/only a=a",
        "top/sub/only b=b",
        "top/sub/same (conflict, lap, 2024-10-04)=b",
        "top/sub/same=a",
    ];
    both_see(&mut a, &mut b, &paths);
}

#[test]
fn what_comes_late_into_a_merged_directory_follows() {
    let [mut a, mut b, mut c] = three();
    a.directory(1, NodeId::ROOT, "d");
    let gone = b.directory(2, NodeId::ROOT, "d");
    meet(&mut b, &mut c);
    meet(&mut a, &mut b);
    c.file(3, gone, "late", "text");
    meet(&mut b, &mut c);
    both_see(&mut a, &mut c, &["d/", "d/late=text"]);
}

#[test]
fn a_directory_keeps_its_name_against_a_file() {
    let [mut a, mut b, _] = three();
    a.file(1, NodeId::ROOT, "x", "text");
    b.tick();
    let x = b.directory(2, NodeId::ROOT, "x");
    b.file(3, x, "in it", "more");
    let paths = ["x (conflict, desk, 2024-10-04)=text", "x/", "x/in it=more"];
    both_see(&mut a, &mut b, &paths);
}

#[test]
fn a_circle_of_moves_is_opened_at_the_latest() {
    let [mut a, mut b, _] = three();
    let home = a.directory(9, NodeId::ROOT, "home");
    let one = a.directory(1, home, "one");
    let two = a.directory(2, home, "two");
    a.file(3, two, "doc", "text");
    meet(&mut a, &mut b);
    a.relocate(one, two, "one");
    for _ in 0..9 {
        b.tick();
    }
    b.relocate(two, one, "two");
    let paths = [
        "home/",
        "two (conflict, lap, 2024-10-04)/",
        "two (conflict, lap, 2024-10-04)/doc=text",
        "two (conflict, lap, 2024-10-04)/one/",
    ];
    both_see(&mut a, &mut b, &paths);
}

#[test]
fn two_hard_links_that_two_remove_leave_the_file_at_the_last_one() {
    let [mut a, mut b, _] = three();
    let doc = a.file(1, NodeId::ROOT, "first", "text");
    let time = a.tick();
    a.working.edit(doc, |node, dot| {
        node.write_link(LinkId(7), place(NodeId::ROOT, "second"), time, dot);
    });
    meet(&mut a, &mut b);
    let time = a.tick();
    a.working
        .edit(doc, |node, dot| node.remove_link(LinkId::BIRTH, time, dot));
    b.time = a.time;
    let time = b.tick();
    b.working
        .edit(doc, |node, dot| node.remove_link(LinkId(7), time, dot));
    both_see(&mut a, &mut b, &["second=text"]);
}

#[test]
fn a_replica_that_was_away_brings_back_what_it_changed_and_nothing_else() {
    let [mut a, mut b, mut c] = three();
    let home = a.directory(1, NodeId::ROOT, "home");
    let kept = a.file(2, home, "kept", "old");
    let gone = a.file(3, home, "gone", "text");
    let seen = a.working.commit();
    b.get(&seen);
    c.get(&seen);
    // Two of them delete all, and forget it; the third one was away and edits one file.
    for id in [kept, gone, home] {
        a.delete(id);
    }
    meet(&mut a, &mut b);
    meet(&mut a, &mut b);
    let from_b = b.working.commit();
    a.get(&from_b);
    a.working.compact(&[&from_b.clock]);
    assert_eq!(a.working.nodes().iter().count(), 1);
    c.write(kept, "new");
    c.file(4, home, "made", "more");
    let paths = [
        "kept (conflict, desk, 2024-10-04)=new",
        "made (conflict, srv, 2024-10-04)=more",
    ];
    both_see(&mut a, &mut c, &paths);
    both_see(&mut a, &mut b, &paths);
    meet(&mut b, &mut c);
    assert_eq!(b.tree(), paths);
}

#[test]
fn a_commit_of_one_path_takes_what_it_stands_on_and_no_more() {
    let [mut a, mut b, _] = three();
    let old = a.file(1, NodeId::ROOT, "doc", "old");
    meet(&mut a, &mut b);
    let home = a.directory(2, NodeId::ROOT, "home");
    let doc = a.file(3, home, "doc", "new");
    a.file(4, home, "other", "text");
    a.write(old, "edited");
    let partial = a.working.commit_only(&[doc].into_iter().collect());
    b.get(&partial);
    assert_eq!(b.tree(), ["doc=old", "home/", "home/doc=new"]);
    // What it left behind is no part of the commit's clock, so it comes later.
    let paths = ["doc=edited", "home/", "home/doc=new", "home/other=text"];
    both_see(&mut a, &mut b, &paths);
}

#[test]
fn versions_stand_to_each_other_as_they_were_written() {
    let [mut a, mut b, _] = three();
    let doc = a.file(1, NodeId::ROOT, "doc", "old");
    meet(&mut a, &mut b);
    let standing = |a: &Peer, b: &Peer| {
        let (here, there) = (a.working.nodes().get(&doc), b.working.nodes().get(&doc));
        let (here, there) = (here.unwrap(), there.unwrap());
        let clocks = (&a.working.state().clock, &b.working.state().clock);
        here.standing(clocks.0, there, clocks.1)
    };
    assert_eq!(standing(&a, &b), Standing::InSync);
    a.write(doc, "new");
    a.working.commit();
    assert_eq!(standing(&a, &b), Standing::Newer);
    assert_eq!(standing(&b, &a), Standing::Older);
    b.write(doc, "other");
    b.working.commit();
    assert_eq!(standing(&a, &b), Standing::Conflict);
}

/// Counts what repair asks of the tree.
struct Counting<'a> {
    nodes: &'a Nodes,
    asked: &'a Cell<u64>,
}

impl Tree for Counting<'_> {
    type Error = Infallible;

    fn node(&mut self, id: &NodeId) -> Result<Option<Arc<Node>>, Infallible> {
        self.asked.set(self.asked.get() + 1);
        Tree::node(&mut self.nodes, id)
    }

    fn named(&mut self, parent: &NodeId, name: &Name) -> Result<Vec<Entry>, Infallible> {
        self.asked.set(self.asked.get() + 1);
        Tree::named(&mut self.nodes, parent, name)
    }

    fn children(&mut self, parent: &NodeId) -> Result<Vec<Entry>, Infallible> {
        let children = Tree::children(&mut self.nodes, parent)?;
        self.asked.set(self.asked.get() + 1 + children.len() as u64);
        Ok(children)
    }
}

#[test]
fn the_cost_of_repair_follows_the_change_and_not_the_tree() {
    let asked = |size: u64| {
        let [mut a, mut b, _] = three();
        let home = a.directory(1, NodeId::ROOT, "home");
        for n in 0..size {
            a.file(1_000 + n, home, &format!("{n}"), "text");
        }
        b.get(&a.working.commit());
        b.delete(node_id(1_001));
        b.directory(2, NodeId::ROOT, "new");
        for (peer, n) in [(&mut a, 10), (&mut b, 20)] {
            peer.write(node_id(1_002), &n.to_string());
            peer.file(n, home, "one name", &n.to_string());
            let (one, two) = (node_id(1_003), node_id(1_004));
            peer.relocate(if n == 10 { one } else { two }, NodeId::ROOT, "moved");
        }
        let (ours, theirs) = (a.working.commit(), b.working.commit());
        let touched = Touched::between(&ours, &theirs);
        let asked = Cell::new(0);
        let tree = Counting {
            nodes: &ours.nodes,
            asked: &asked,
        };
        let changes = naming(|naming| repair(tree, &touched, naming)).unwrap();
        assert!(!changes.is_empty());
        asked.get()
    };
    assert_eq!(asked(100), asked(3_000));
}

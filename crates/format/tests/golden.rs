//! The bytes of every kind of object, made from fixed keys and salts, are those that are
//! checked in under `golden/`; and each version that ever was is still read.
//!
//! A change of a golden file is a change of the format: it needs a new version, a new folder
//! of golden files beside the old, and an entry in `docs/format.md`. The files of a new kind
//! of object are written by `LARDER_WRITE_GOLDEN=1 cargo test -p larder-format --test golden`,
//! which never replaces one.

// clippy.toml lets test functions unwrap; these are what they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use larder_format::peer::{Meeting, Message, Newest, Piece, PiecePlace, Purpose, Side};
use larder_format::tree::{
    Change, NameEntry, Tree, TreeKind, encode_name_entry, name_key, node_key,
};
use larder_format::*;
use larder_model::*;

const TEXT: &[u8] = b"a chunk of text, a chunk of text, a chunk of text, a chunk of text";

/// [`TEXT`] as a zstd frame, fixed here: another zstd may find another frame.
const TEXT_FRAME: [u8; 33] = [
    0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x42, 0xc5, 0x00, 0x00, 0x88, 0x61, 0x20, 0x63, 0x68, 0x75, 0x6e,
    0x6b, 0x20, 0x6f, 0x66, 0x20, 0x74, 0x65, 0x78, 0x74, 0x2c, 0x20, 0x01, 0x00, 0xa5, 0x68, 0x2e,
    0x01,
];

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/v1")
        .join(name)
}

/// Holds that these bytes are the golden ones.
fn hold(name: &str, bytes: &[u8]) {
    let path = golden(name);
    if std::env::var_os("LARDER_WRITE_GOLDEN").is_some() && !path.exists() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    let expected = fs::read(&path).unwrap();
    assert!(bytes == expected, "{name} is made otherwise than before");
}

fn read(name: &str) -> Vec<u8> {
    fs::read(golden(name)).unwrap()
}

fn keys() -> VolumeKeys {
    let mut keys = VolumeKeys::new(VolumeId(*b"golden volume id"), [0x22; 32], [0x33; 32]);
    keys.add_epoch([0x34; 32]);
    keys
}

fn replica() -> ReplicaKey {
    ReplicaKey::from_seed([0x44; 32]).unwrap()
}

fn same_keys(a: &VolumeKeys) {
    assert_eq!(a.volume(), keys().volume());
    assert_eq!(a.newest_epoch(), 2);
    assert_eq!(a.chunk_id(TEXT), keys().chunk_id(TEXT));
}

/// A node with something in each register: a conflict of contents, two links, xattrs.
fn node() -> Node {
    let dot = |replica: u8, commit| Dot {
        replica: ReplicaId([replica; 32]),
        commit,
    };
    let link = |name: &str, present, time| Link {
        place: Place {
            parent: NodeId(*b"parent directory"),
            name: Name::new(name).unwrap(),
        },
        present,
        time: Hlc(time),
    };
    let chunk = Extent::Chunk {
        id: keys().chunk_id(TEXT),
        len: TEXT.len() as u32,
    };
    let attrs = Attrs {
        mode: 0o4755,
        uid: 1000,
        gid: 100,
        rdev: 0x0801,
        mtime: Time(-5),
        ctime: Time(1_700_000_000_123_456_789),
        btime: Time(1_600_000_000_000_000_000),
        xattrs: BTreeMap::from([
            (b"user.empty".to_vec(), Vec::new()),
            (b"user.mime".to_vec(), b"text/plain".to_vec()),
        ]),
        time: Hlc(1_700_000_000_123_456_790),
    };
    let list = Content::List {
        root: ChunkId([7; 32]),
        size: 5_000_000_000,
    };
    Node {
        kind: Kind::File,
        life: Register(vec![
            Valued {
                value: Life::Deleted,
                dots: BTreeSet::from([dot(1, 3)]),
            },
            Valued {
                value: Life::Alive,
                dots: BTreeSet::from([dot(2, 300)]),
            },
        ]),
        links: BTreeMap::from([
            (
                LinkId::BIRTH,
                Register::one(link("old name", false, 5), dot(1, 2)),
            ),
            (
                LinkId(u64::MAX),
                Register::one(link("n\u{e4}me", true, 6), dot(2, 300)),
            ),
        ]),
        attrs: Register::one(attrs, dot(2, 299)),
        content: Register(vec![
            Valued {
                value: Content::Extents(vec![chunk, Extent::Hole { len: 1 << 40 }, chunk]),
                dots: BTreeSet::from([dot(1, 1), dot(2, 1)]),
            },
            Valued {
                value: list,
                dots: BTreeSet::from([dot(2, 300)]),
            },
        ]),
    }
}

fn commit() -> Commit {
    let author = replica().id();
    Commit {
        nodes: ChunkId([1; 32]),
        names: ChunkId([2; 32]),
        clock: [
            Dot {
                replica: author,
                commit: 300,
            },
            Dot {
                replica: ReplicaId([1; 32]),
                commit: 2,
            },
        ]
        .into_iter()
        .collect(),
        author,
        n: 300,
        time: Hlc(1_700_000_000_000_000_001),
        wall: Time(1_700_000_000_000_000_000),
        message: Some("before the move".to_owned()),
        parents: vec![ChunkId([3; 32])],
        files: 12,
        bytes: 34_567_890_123,
    }
}

fn pack(kind: PackKind) -> Pack {
    let keys = keys();
    let mut writer = PackWriter::new(&keys, kind, [0x55; 32]).unwrap();
    writer
        .push(keys.chunk_id(b"raw bytes"), Codec::Raw, 9, b"raw bytes")
        .unwrap();
    let len = TEXT.len() as u32;
    writer
        .push(keys.chunk_id(TEXT), Codec::Zstd, len, &TEXT_FRAME)
        .unwrap();
    writer.finish().unwrap()
}

#[test]
fn the_volume_header() {
    hold("volume", &encode_volume_header(keys().volume()));
    assert_eq!(decode_volume_header(&read("volume")), Ok(keys().volume()));
}

#[test]
fn the_key_slots() {
    let params = ArgonParams {
        memory_kib: 64,
        passes: 2,
        lanes: 1,
    };
    let slot = seal_passphrase_slot(&keys(), "pass phräse".as_bytes(), params, [0x66; 32]).unwrap();
    hold("slot-passphrase", &slot.bytes);
    let credential = Credential::Passphrase("pass phräse".as_bytes());
    same_keys(&open_slot(&read("slot-passphrase"), &credential).unwrap());

    let recovery = RecoveryKey::from_secret(std::array::from_fn(|i| 8 * i as u8 + 1));
    hold("recovery-key.txt", recovery.to_text().as_bytes());
    let slot = seal_recovery_slot(&keys(), &recovery, [0x67; 32]).unwrap();
    hold("slot-recovery", &slot.bytes);
    let text = String::from_utf8(read("recovery-key.txt")).unwrap();
    let typed = RecoveryKey::parse(&text).unwrap();
    same_keys(&open_slot(&read("slot-recovery"), &Credential::RecoveryKey(&typed)).unwrap());
}

#[test]
fn the_key_file() {
    let file = KeyFile {
        keys: keys(),
        replica: replica(),
    };
    hold("key-file", &file.encode());
    let read = KeyFile::decode(&read("key-file")).unwrap();
    same_keys(&read.keys);
    assert_eq!(read.replica.id(), replica().id());
}

#[test]
fn what_peers_say() {
    let newest = Newest {
        n: 300,
        commit: ChunkId([7; 32]),
    };
    let place = PiecePlace {
        node: NodeId([8; 16]),
        off: 1 << 40,
        len: 70_000,
    };
    let piece = |place| Piece {
        chunk: ChunkId([9; 32]),
        place,
    };
    let hello = Message::Hello {
        purpose: Purpose::Join,
        run: [1; 16],
        nonce: [2; 32],
    };
    let here = Message::Here {
        newest: Some(newest),
        name: "näme".to_owned(),
    };
    let pieces = Message::Pieces(vec![piece(None), piece(Some(place))]);
    for (name, message) in [
        ("peer-hello", hello),
        ("peer-here", here),
        ("peer-pieces", pieces),
        ("peer-head", Message::Head(newest)),
    ] {
        hold(name, &message.encode());
        assert_eq!(Message::decode(&read(name)), Ok(message));
    }
    let meeting = Meeting {
        caller: (replica().id(), [3; 32]),
        called: (ReplicaId([4; 32]), [5; 32]),
    };
    let member = meeting.proof_of_member(&keys(), Side::Caller).unwrap();
    let invited = meeting.proof_of_invitation(&[6; 32], keys().volume(), Side::Called);
    hold("peer-proofs", &[member, invited].concat());
}

#[test]
fn the_ticket() {
    let ticket = Ticket {
        volume: keys().volume(),
        replica: replica().id(),
        addresses: vec![
            "192.168.1.7:40000".parse().unwrap(),
            "[fe80::1]:40001".parse().unwrap(),
        ],
        store: "sftp://nas/srv/larder".to_owned(),
        expires: 1_800_000_000,
        secret: [7; 32].into(),
    };
    hold("ticket.txt", ticket.to_text().as_bytes());
    let text = String::from_utf8(read("ticket.txt")).unwrap();
    assert_eq!(Ticket::parse(&text), Ok(ticket));
}

#[test]
fn the_packs() {
    for (kind, name) in [(PackKind::Data, "pack-data"), (PackKind::Tree, "pack-tree")] {
        let made = pack(kind);
        hold(name, &made.bytes);
        let bytes = read(name);
        let (seal, entries) = read_pack(&keys(), kind, &made.id, &bytes).unwrap();
        assert_eq!(entries, made.entries);
        let chunks = entries.iter().map(|entry| {
            let range = entry.range();
            let sealed = &bytes[range.start as usize..range.end as usize];
            open_chunk(&keys(), &seal, entry, sealed)
                .unwrap()
                .into_bytes()
        });
        assert_eq!(
            chunks.collect::<Vec<_>>(),
            [b"raw bytes".to_vec(), TEXT.to_vec()]
        );
    }
}

#[test]
fn the_index_object() {
    let packs = [PackKind::Data, PackKind::Tree]
        .map(pack)
        .map(|pack| IndexedPack {
            id: pack.id,
            seal: pack.seal,
            size: pack.bytes.len() as u32,
            entries: pack.entries,
        });
    hold(
        "index",
        &encode_index(&keys(), [0x77; 32], &packs).unwrap().bytes,
    );
    assert_eq!(decode_index(&keys(), &read("index")), Ok(packs.to_vec()));
}

#[test]
fn the_list_of_tags() {
    let name = |text| TagName::new(text).unwrap();
    let tags = Tags {
        given: [
            (
                Hlc(1_700_000_000_000_000_001),
                (name("v1"), ChunkId([9; 32])),
            ),
            (
                Hlc(1_700_000_000_000_000_002),
                (name("n\u{e4}me"), ChunkId([8; 32])),
            ),
        ]
        .into(),
        taken_back: [(ReplicaId([1; 32]), Hlc(1_600_000_000_000_000_000))].into(),
    };
    hold("tags-list", &encode_tags(&tags).unwrap());
    hold(
        "tags",
        &seal_tags(&keys(), &replica(), 3, &tags, [0x88; 32]).unwrap(),
    );
    assert_eq!(
        open_tags(&keys(), &replica().id(), 3, &read("tags")),
        Ok(tags)
    );
}

#[test]
fn the_head() {
    let commit = ChunkId([0x99; 32]);
    hold(
        "head",
        &seal_head(&keys(), &replica(), 300, commit, [0x88; 32]).unwrap(),
    );
    let head = open_head(&keys(), &replica().id(), 300, &read("head")).unwrap();
    assert_eq!((head.commit, head.n), (commit, 300));
}

#[test]
fn the_mark() {
    let chunks = |byte| [ChunkId([byte; 32]), ChunkId([byte + 1; 32])].into();
    let packs = |byte| [PackId([byte; 32]), PackId([byte + 1; 32])].into();
    let mark = Mark {
        wall: Time(1_700_000_000_000_000_000),
        bases: chunks(1),
        seen: [(ReplicaId([3; 32]), 300), (ReplicaId([4; 32]), 1)].into(),
        retention: Some(Retention {
            time: Hlc(1_700_000_000_000_000_001),
            keep: Some(KeepPolicy {
                hourly: 24,
                daily: 30,
                weekly: 0,
                monthly: KeepPolicy::ALL,
            }),
        }),
        kept: chunks(5),
        given_up: chunks(7),
        condemned: packs(9),
        deleted: packs(11),
        without: [ReplicaId([13; 32])].into(),
    };
    hold(
        "mark",
        &seal_mark(&keys(), &replica(), 300, &mark, [0x8a; 32]).unwrap(),
    );
    let plain = open_mark(&keys(), &replica().id(), 300, &read("mark")).unwrap();
    assert_eq!(read_mark(&plain), Ok(mark));
}

#[test]
fn the_commit() {
    hold("commit", &commit().encode().unwrap());
    assert_eq!(Commit::decode(&read("commit")), Ok(commit()));
}

#[test]
fn the_node_and_the_contents() {
    hold("node", &encode_node(&node()).unwrap());
    assert_eq!(decode_node(&read("node")), Ok(node()));
    let contents = [
        ("content-none", Content::None),
        ("content-target", Content::Target(b"../elsewhere".to_vec())),
        ("content-extents", node().content.0[0].value.clone()),
        ("content-list", node().content.0[1].value.clone()),
    ];
    for (name, content) in contents {
        hold(name, &encode_content(&content));
        assert_eq!(decode_content(&read(name)), Ok(content));
    }
}

/// Pages by their id, and in the order in which they were put.
#[derive(Default)]
struct Pages(BTreeMap<ChunkId, Vec<u8>>, Vec<ChunkId>);

impl Pages {
    fn add(&mut self, id: ChunkId, bytes: Vec<u8>) -> Result<(), FormatError> {
        self.1.push(id);
        self.0.insert(id, bytes);
        Ok(())
    }

    /// Holds that the first page and the root, which is the last, are the golden ones.
    fn hold_first_and_root(&self, first: &str, root: &str) {
        hold(first, &self.0[&self.1[0]]);
        hold(root, &self.0[&self.1[self.1.len() - 1]]);
    }
}

impl PageSource for Pages {
    type Bytes = Vec<u8>;
    type Error = FormatError;

    fn page(&mut self, id: &ChunkId) -> Result<Vec<u8>, FormatError> {
        Ok(self.0[id].clone())
    }
}

impl PageStore for Pages {
    fn put(&mut self, id: ChunkId, bytes: Vec<u8>) -> Result<(), FormatError> {
        self.add(id, bytes)
    }

    fn dropped(&mut self, _: ChunkId) -> Result<(), FormatError> {
        Ok(())
    }
}

#[test]
fn the_pages_of_a_list() {
    let (keys, mut pages) = (keys(), Pages::default());
    let mut sink = |id, bytes| pages.add(id, bytes);
    let mut writer = ListWriter::new(&keys);
    let extents: Vec<_> = (0..500u32)
        .map(|n| match n % 7 {
            3 => Extent::Hole { len: 1 << (n % 50) },
            _ => Extent::Chunk {
                id: keys.chunk_id(&n.to_le_bytes()),
                len: n + 1,
            },
        })
        .collect();
    for extent in &extents {
        writer.push(*extent, &mut sink).unwrap();
    }
    let content = writer.finish(&mut sink).unwrap();
    pages.hold_first_and_root("list-leaf", "list-root");
    hold("list-content", &encode_content(&content));
    let mut read_back = Vec::new();
    let content = decode_content(&read("list-content")).unwrap();
    list::expand(&content, &mut pages, |_, extent| {
        read_back.push(extent);
        Ok(())
    })
    .unwrap();
    assert_eq!(read_back, extents);
}

#[test]
fn the_pages_of_the_tree_of_nodes() {
    let mut pages = Pages::default();
    let key = |n: u8| node_key(&NodeId([n; 16]));
    let mut long = node();
    let xattrs = &mut long.attrs.0[0].value.xattrs;
    xattrs.insert(b"user.long".to_vec(), vec![b'x'; 5000]);
    let short = node();
    let values = (0..=255).map(|n| (key(n), encode_node(if n == 0 { &long } else { &short })));
    let changes = values.clone().map(|(key, value)| {
        Ok(Change {
            key,
            value: Some(value?),
        })
    });
    let tree = Tree::build(&keys(), TreeKind::Nodes, changes, &mut pages).unwrap();
    pages.hold_first_and_root("nodes-long-value", "nodes-root");
    hold("nodes-leaf", &pages.0[&pages.1[1]]);
    hold("nodes-root-id", tree.root.as_bytes());
    let entries = tree
        .scan(&[], |id: &ChunkId| pages.page(id))
        .map(Result::unwrap);
    let expected = values.map(|(key, value)| (key, value.unwrap()));
    assert!(entries.eq(expected));
}

#[test]
fn the_pages_of_the_tree_of_names() {
    let mut pages = Pages::default();
    let entry = |n: u16| {
        let name = Name::new(format!("name {n:04}")).unwrap();
        let value = encode_name_entry(&NameEntry {
            node: NodeId([n as u8; 16]),
            link: LinkId(n.into()),
            kind: Kind::Symlink,
        });
        Ok(Change {
            key: name_key(&NodeId([(n / 50) as u8; 16]), &name),
            value: Some(value),
        })
    };
    let tree = Tree::build(&keys(), TreeKind::Names, (0..300).map(entry), &mut pages).unwrap();
    pages.hold_first_and_root("names-leaf", "names-root");
    hold("names-root-id", tree.root.as_bytes());
    assert_eq!(
        tree.scan(&[], |id: &ChunkId| pages.page(id))
            .flatten()
            .count(),
        300
    );
    let mut empty = Pages::default();
    let tree = Tree::build(&keys(), TreeKind::Names, [], &mut empty).unwrap();
    hold("names-empty", &empty.0[&tree.root]);
}

/// A reader needs no cut points, but a writer that finds others sends stored files again.
#[test]
fn the_cut_points() {
    let mut state = 1u64;
    let data: Vec<u8> = (0..8 << 20)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect();
    let mut text = String::new();
    for class in [SizeClass::Small, SizeClass::Middle, SizeClass::Large] {
        let chunker = Chunker::new(&keys(), class);
        let mut rest = &data[..];
        while let Some(len) = chunker.cut(rest, true) {
            text += &format!("{class:?} {len}\n");
            rest = &rest[len..];
        }
    }
    hold("cut-points.txt", text.as_bytes());
}

#[test]
fn no_golden_file_is_left_without_its_test() {
    let text = include_str!("golden.rs");
    for file in fs::read_dir(golden("")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(text.contains(&format!("\"{name}\"")), "{name}");
    }
}

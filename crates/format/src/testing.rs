//! What the tests of this room share: fixed keys, and the check that no damage goes unseen.

use std::collections::{BTreeMap, BTreeSet};

use larder_model::{
    Attrs, ChunkId, Content, Dot, Extent, Hlc, Kind, Life, Link, LinkId, Name, Node, NodeId, Place,
    Register, ReplicaId, Time, Valued, VolumeId,
};
use proptest::prelude::*;

use crate::{Commit, FormatError, PageSource, PageStore, ReplicaKey, VolumeKeys};

/// The keys of a made-up volume.
pub fn keys() -> VolumeKeys {
    VolumeKeys::new(VolumeId([0x11; 16]), [0x22; 32], [0x33; 32])
}

/// The key of a made-up replica.
pub fn replica() -> ReplicaKey {
    ReplicaKey::from_seed([0x44; 32]).unwrap()
}

/// Bytes that do not compress and are the same in every run.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Flips each bit-pattern of each byte in three ways, cuts at each length and appends a
/// byte: `read` must refuse all of it, and take the whole.
pub fn every_change_is_found<E: std::fmt::Debug>(
    good: &[u8],
    read: impl Fn(&[u8]) -> Result<(), E>,
) {
    read(good).unwrap();
    let mut bytes = good.to_vec();
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            bytes[at] ^= flip;
            assert!(read(&bytes).is_err(), "byte {at} ^ {flip:#x} was not seen");
            bytes[at] ^= flip;
        }
        assert!(read(&good[..at]).is_err(), "a cut at {at} was not seen");
    }
    bytes.push(0);
    assert!(read(&bytes).is_err(), "a byte too many was not seen");
}

/// That an object with a higher version byte is refused as newer, in words.
pub fn a_newer_version_is_refused(good: &[u8], read: impl Fn(&[u8]) -> Option<FormatError>) {
    let mut bytes = good.to_vec();
    bytes[7] += 1;
    let error = read(&bytes).unwrap();
    assert!(
        matches!(
            error,
            FormatError::Newer {
                version: 2,
                known: 1,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(error.to_string().contains("update Larder"), "{error}");
}

/// Pages in memory, with a count of reads.
#[derive(Default, Debug, Clone)]
pub struct Pages {
    pub map: BTreeMap<ChunkId, Vec<u8>>,
    /// While a change is made: pages that it put, which it must not read back.
    pub unread: Option<BTreeSet<ChunkId>>,
    pub reads: usize,
    pub put: usize,
    pub put_bytes: usize,
}

impl Pages {
    pub fn add(&mut self, id: ChunkId, page: Vec<u8>) -> Result<(), FormatError> {
        assert_eq!(keys().chunk_id(&page), id);
        self.put += 1;
        self.put_bytes += page.len();
        self.map.insert(id, page);
        Ok(())
    }
}

impl PageSource for Pages {
    type Bytes = Vec<u8>;
    type Error = FormatError;

    fn page(&mut self, id: &ChunkId) -> Result<Vec<u8>, FormatError> {
        self.reads += 1;
        let is_unread = |unread: &BTreeSet<_>| unread.contains(id);
        assert!(!self.unread.as_ref().is_some_and(is_unread), "read back");
        self.map.get(id).cloned().ok_or(FormatError::Damaged {
            what: "test",
            why: "a page is missing",
        })
    }
}

impl PageStore for Pages {
    fn put(&mut self, id: ChunkId, bytes: Vec<u8>) -> Result<(), FormatError> {
        if let Some(unread) = &mut self.unread {
            assert!(unread.insert(id), "put twice");
        }
        self.add(id, bytes)
    }

    fn dropped(&mut self, id: ChunkId) -> Result<(), FormatError> {
        let was_put = self.unread.as_ref().is_some_and(|put| put.contains(&id));
        assert!(!was_put, "dropped what was put");
        assert!(
            self.map.remove(&id).is_some(),
            "dropped a page that was not there"
        );
        Ok(())
    }
}

/// Any content.
pub fn any_content() -> impl Strategy<Value = Content> {
    let extent = prop_oneof![
        (any::<[u8; 32]>(), 1u32..=4 << 20).prop_map(|(id, len)| Extent::Chunk {
            id: ChunkId(id),
            len
        }),
        (1u64..1 << 40).prop_map(|len| Extent::Hole { len }),
    ];
    prop_oneof![
        Just(Content::None),
        any::<Vec<u8>>().prop_map(Content::Target),
        proptest::collection::vec(extent, 0..5).prop_map(Content::Extents),
        (any::<[u8; 32]>(), 0..=i64::MAX as u64).prop_map(|(root, size)| Content::List {
            root: ChunkId(root),
            size
        }),
    ]
}

/// A file as an import makes it, number `n`.
pub fn plain_node(n: u64) -> Node {
    let dot = Dot {
        replica: replica().id(),
        commit: 1 + n / 1000,
    };
    let time = 1_700_000_000_000_000_000 + n;
    let place = Place {
        parent: NodeId(*b"parent of nodes."),
        name: Name::new(format!("file {n}")).unwrap(),
    };
    let link = Link {
        place,
        present: true,
        time: Hlc(time),
    };
    let attrs = Attrs {
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Time(time as i64 - 1_000_000_000),
        ctime: Time(time as i64),
        btime: Time(time as i64),
        time: Hlc(time),
        ..Attrs::default()
    };
    let id = keys().chunk_id(&n.to_le_bytes());
    let content = Content::Extents(vec![Extent::Chunk { id, len: 4096 }]);
    Node {
        kind: Kind::File,
        life: Register::one(Life::Alive, dot),
        links: BTreeMap::from([(LinkId::BIRTH, Register::one(link, dot))]),
        attrs: Register::one(attrs, dot),
        content: Register::one(content, dot),
    }
}

fn any_register<T: std::fmt::Debug + Clone>(
    value: impl Strategy<Value = T>,
) -> impl Strategy<Value = Register<T>> {
    let dot = (0u8..3, 0u64..5).prop_map(|(replica, commit)| Dot {
        replica: ReplicaId([replica; 32]),
        commit,
    });
    let dots = proptest::collection::btree_set(dot, 0..3);
    // A map, so that the values are in the order of their dots and no two share them.
    proptest::collection::btree_map(dots, value, 0..3).prop_map(|values| {
        let valued = |(dots, value)| Valued { value, dots };
        Register(values.into_iter().map(valued).collect())
    })
}

fn any_link() -> impl Strategy<Value = Link> {
    let name = "[a-zé.]{1,9}x".prop_map(|name| Name::new(name).unwrap());
    (any::<[u8; 16]>(), name, any::<bool>(), any::<u64>()).prop_map(
        |(parent, name, present, time)| Link {
            place: Place {
                parent: NodeId(parent),
                name,
            },
            present,
            time: Hlc(time),
        },
    )
}

fn any_attrs() -> impl Strategy<Value = Attrs> {
    let xattrs = proptest::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 0..3);
    let numbers = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>());
    let times = (any::<i64>(), any::<i64>(), any::<i64>(), any::<u64>());
    (numbers, times, xattrs).prop_map(
        |((mode, uid, gid, rdev), (mtime, ctime, btime, time), xattrs)| Attrs {
            mode,
            uid,
            gid,
            rdev,
            mtime: Time(mtime),
            ctime: Time(ctime),
            btime: Time(btime),
            xattrs,
            time: Hlc(time),
        },
    )
}

/// Any node, also such as no volume has.
pub fn any_node() -> impl Strategy<Value = Node> {
    let kind = (1u8..=7).prop_map(|code| crate::kind_from_code(code).unwrap());
    let life = prop_oneof![Just(Life::Alive), Just(Life::Deleted)];
    let links = proptest::collection::btree_map(
        any::<u64>().prop_map(LinkId),
        any_register(any_link()),
        0..3,
    );
    (
        kind,
        any_register(life),
        links,
        any_register(any_attrs()),
        any_register(any_content()),
    )
        .prop_map(|(kind, life, links, attrs, content)| Node {
            kind,
            life,
            links,
            attrs,
            content,
        })
}

/// A commit as any.
pub fn commit() -> Commit {
    let author = replica().id();
    Commit {
        nodes: ChunkId([1; 32]),
        names: ChunkId([2; 32]),
        clock: [Dot {
            replica: author,
            commit: 300,
        }]
        .into_iter()
        .collect(),
        author,
        n: 300,
        time: Hlc(1_700_000_000_000_000_001),
        wall: Time(1_700_000_000_000_000_000),
        message: Some("before the move".to_owned()),
        parents: vec![ChunkId([3; 32])],
        files: 12,
        bytes: 34_567,
    }
}

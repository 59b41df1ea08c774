//! How a node is written: all its registers, each value with its dots.
//!
//! Replica ids are long and few, so a node begins with the list of those its dots name. Equal
//! nodes have equal bytes: replicas, links, attributes and dots are in order, and the values
//! of a register are in the order of their dots. The decoder takes no other order, so that a
//! node has one encoding only.

use std::collections::{BTreeMap, BTreeSet};

use larder_model::{
    Attrs, Dot, Hlc, Life, Link, LinkId, Name, Node, NodeId, Place, Register, ReplicaId, Time,
    Valued,
};

use crate::content::{put_content, read_content};
use crate::wire::{Reader, put_counted, put_varint, put_zigzag};
use crate::{FormatError, MAX_CHUNK_BYTES, kind_code, kind_from_code};

type Result<T> = std::result::Result<T, FormatError>;

const NOUN: &str = "node";
/// The version of a node's encoding, its first byte.
pub(crate) const NODE_VERSION: u8 = 1;
/// The longest encoding of a node, in bytes: with its key it fits a chunk.
pub const MAX_NODE_BYTES: usize = MAX_CHUNK_BYTES - 1024;

/// The bytes of a node.
///
/// # Errors
/// If they would be more than [`MAX_NODE_BYTES`]: some ten thousand hard links, or megabytes
/// of extended attributes.
pub fn encode_node(node: &Node) -> Result<Vec<u8>> {
    let replicas = Replicas::of(node);
    let mut out = vec![NODE_VERSION, kind_code(node.kind)];
    put_varint(&mut out, replicas.0.len() as u64);
    for replica in &replicas.0 {
        out.extend_from_slice(replica.as_bytes());
    }
    replicas.put_register(&mut out, &node.life, |out, life| {
        out.push(matches!(life, Life::Deleted).into());
    });
    put_varint(&mut out, node.links.len() as u64);
    for (id, link) in &node.links {
        put_varint(&mut out, id.0);
        replicas.put_register(&mut out, link, put_link);
    }
    replicas.put_register(&mut out, &node.attrs, put_attrs);
    replicas.put_register(&mut out, &node.content, put_content);
    if out.len() > MAX_NODE_BYTES {
        return Err(FormatError::TooLarge {
            what: NOUN,
            bytes: out.len() as u64,
            limit: MAX_NODE_BYTES as u64,
        });
    }
    Ok(out)
}

/// Reads a node.
///
/// # Errors
/// If the bytes are not one, or of a newer version.
pub fn decode_node(bytes: &[u8]) -> Result<Node> {
    let mut reader = Reader::new(NOUN, bytes);
    let version = reader.u8()?;
    reader.ensure(version != 0, "it has version 0")?;
    if version > NODE_VERSION {
        return Err(FormatError::Newer {
            what: NOUN,
            version: version.into(),
            known: NODE_VERSION.into(),
        });
    }
    let kind = reader.u8()?;
    let kind = kind_from_code(kind).ok_or_else(|| reader.damaged("it is of an unknown kind"))?;
    let replicas = Replicas::read(&mut reader)?;
    let node = Node {
        kind,
        life: replicas.read_register(&mut reader, read_life)?,
        links: read_links(&replicas, &mut reader)?,
        attrs: replicas.read_register(&mut reader, read_attrs)?,
        content: replicas.read_register(&mut reader, read_content)?,
    };
    reader.ensure(
        replicas.0 == Replicas::of(&node).0,
        "it lists replicas it does not name",
    )?;
    reader.finish()?;
    Ok(node)
}

/// The replicas that a node's dots name, in order.
struct Replicas(Vec<ReplicaId>);

impl Replicas {
    fn of(node: &Node) -> Self {
        let mut all = BTreeSet::new();
        fn gather<T>(all: &mut BTreeSet<ReplicaId>, register: &Register<T>) {
            let dots = register.0.iter().flat_map(|valued| &valued.dots);
            all.extend(dots.map(|dot| dot.replica));
        }
        gather(&mut all, &node.life);
        gather(&mut all, &node.attrs);
        gather(&mut all, &node.content);
        node.links.values().for_each(|link| gather(&mut all, link));
        Self(all.into_iter().collect())
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.count(ReplicaId::LEN)?;
        let mut replicas = Vec::with_capacity(count);
        for _ in 0..count {
            replicas.push(ReplicaId(reader.array()?));
        }
        let in_order = replicas.is_sorted_by(|a, b| a < b);
        reader.ensure(in_order, "its replicas are not in order")?;
        Ok(Self(replicas))
    }

    fn put_register<T>(
        &self,
        out: &mut Vec<u8>,
        register: &Register<T>,
        put: impl Fn(&mut Vec<u8>, &T),
    ) {
        let mut values: Vec<&Valued<T>> = register.0.iter().collect();
        values.sort_by(|a, b| a.dots.cmp(&b.dots));
        put_varint(out, values.len() as u64);
        for valued in values {
            put_varint(out, valued.dots.len() as u64);
            for dot in &valued.dots {
                // `of` gathered every replica, so the search finds each.
                let at = self.0.binary_search(&dot.replica).unwrap_or_else(|at| at);
                put_varint(out, at as u64);
                put_varint(out, dot.commit);
            }
            put(out, &valued.value);
        }
    }

    fn read_register<T>(
        &self,
        reader: &mut Reader<'_>,
        read: impl Fn(&mut Reader<'_>) -> Result<T>,
    ) -> Result<Register<T>> {
        let count = reader.count(2)?;
        let mut values: Vec<Valued<T>> = Vec::new();
        for _ in 0..count {
            let dots = self.read_dots(reader)?;
            let in_order = values.last().is_none_or(|last| last.dots < dots);
            reader.ensure(in_order, "the values of a register are not in order")?;
            let value = read(reader)?;
            values.push(Valued { value, dots });
        }
        Ok(Register(values))
    }

    fn read_dots(&self, reader: &mut Reader<'_>) -> Result<BTreeSet<Dot>> {
        let count = reader.count(2)?;
        let mut dots = BTreeSet::new();
        for _ in 0..count {
            let at = reader.varint()?;
            let replica = usize::try_from(at).ok().and_then(|at| self.0.get(at));
            let replica = *replica.ok_or_else(|| reader.damaged("a dot has no replica"))?;
            let commit = reader.varint()?;
            let dot = Dot { replica, commit };
            let in_order = dots.last().is_none_or(|last| last < &dot);
            reader.ensure(in_order, "its dots are not in order")?;
            dots.insert(dot);
        }
        Ok(dots)
    }
}

fn read_life(reader: &mut Reader<'_>) -> Result<Life> {
    match reader.u8()? {
        0 => Ok(Life::Alive),
        1 => Ok(Life::Deleted),
        _ => Err(reader.damaged("it is neither alive nor deleted")),
    }
}

fn put_link(out: &mut Vec<u8>, link: &Link) {
    out.push(link.present.into());
    out.extend_from_slice(link.place.parent.as_bytes());
    put_counted(out, link.place.name.as_bytes());
    out.extend_from_slice(&link.time.0.to_le_bytes());
}

fn read_links(
    replicas: &Replicas,
    reader: &mut Reader<'_>,
) -> Result<BTreeMap<LinkId, Register<Link>>> {
    let count = reader.count(2)?;
    let mut links = BTreeMap::new();
    for _ in 0..count {
        let id = LinkId(reader.varint()?);
        let in_order = links.last_key_value().is_none_or(|(last, _)| *last < id);
        reader.ensure(in_order, "its links are not in order")?;
        links.insert(id, replicas.read_register(reader, read_link)?);
    }
    Ok(links)
}

fn read_link(reader: &mut Reader<'_>) -> Result<Link> {
    let present = match reader.u8()? {
        0 => false,
        1 => true,
        _ => return Err(reader.damaged("a link is neither present nor removed")),
    };
    let parent = NodeId(reader.array()?);
    let name = read_name(reader, |reader| reader.counted())?;
    let time = Hlc(reader.u64()?);
    Ok(Link {
        place: Place { parent, name },
        present,
        time,
    })
}

/// The name that some bytes of the reader are.
pub(crate) fn read_name<'a>(
    reader: &mut Reader<'a>,
    bytes: impl Fn(&mut Reader<'a>) -> Result<&'a [u8]>,
) -> Result<Name> {
    let name = bytes(reader)?;
    Name::new(name).map_err(|_| reader.damaged("a name in it cannot be a name"))
}

/// Times lie near each other, so all but one are written as differences.
fn put_attrs(out: &mut Vec<u8>, attrs: &Attrs) {
    put_varint(out, attrs.mode.into());
    put_varint(out, attrs.uid.into());
    put_varint(out, attrs.gid.into());
    put_varint(out, attrs.rdev);
    out.extend_from_slice(&attrs.ctime.0.to_le_bytes());
    for time in [attrs.mtime.0, attrs.btime.0, attrs.time.0.cast_signed()] {
        put_zigzag(out, time.wrapping_sub(attrs.ctime.0));
    }
    put_varint(out, attrs.xattrs.len() as u64);
    for (name, value) in &attrs.xattrs {
        put_counted(out, name);
        put_counted(out, value);
    }
}

fn read_attrs(reader: &mut Reader<'_>) -> Result<Attrs> {
    let (mode, uid, gid) = (reader.varint32()?, reader.varint32()?, reader.varint32()?);
    let rdev = reader.varint()?;
    let ctime = i64::from_le_bytes(reader.array()?);
    let mut near = || Ok(ctime.wrapping_add(reader.zigzag()?));
    let (mtime, btime, time) = (near()?, near()?, near()?);
    let count = reader.count(2)?;
    let mut xattrs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for _ in 0..count {
        let name = reader.counted()?;
        let in_order = xattrs
            .last_key_value()
            .is_none_or(|(last, _)| last.as_slice() < name);
        reader.ensure(in_order, "its extended attributes are not in order")?;
        xattrs.insert(name.to_vec(), reader.counted()?.to_vec());
    }
    Ok(Attrs {
        mode,
        uid,
        gid,
        rdev,
        mtime: Time(mtime),
        ctime: Time(ctime),
        btime: Time(btime),
        xattrs,
        time: Hlc(time.cast_unsigned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{any_node, every_change_is_found};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_node_is_read_back(node in any_node()) {
            let bytes = encode_node(&node).unwrap();
            let read = decode_node(&bytes).unwrap();
            // In order, since `any_node` makes no registers in another.
            prop_assert_eq!(&read, &node);
            prop_assert_eq!(encode_node(&read).unwrap(), bytes);
        }

        #[test]
        fn a_node_has_one_encoding_only(node in any_node(), at: prop::sample::Index, flip: u8) {
            let mut bytes = encode_node(&node).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            if let Ok(other) = decode_node(&bytes) {
                prop_assert_eq!(encode_node(&other).unwrap(), bytes);
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_fail_otherwise_than_by_an_error(mut bytes: Vec<u8>) {
            bytes.splice(0..0, [NODE_VERSION, 1]);
            let _ = decode_node(&bytes);
        }
    }

    #[test]
    fn the_order_of_a_registers_values_does_not_matter() {
        let mut node = crate::testing::plain_node(1);
        let other = Dot {
            replica: ReplicaId([9; 32]),
            commit: 3,
        };
        node.life.0.push(Valued {
            value: Life::Deleted,
            dots: BTreeSet::from([other]),
        });
        let bytes = encode_node(&node).unwrap();
        node.life.0.reverse();
        assert_eq!(encode_node(&node).unwrap(), bytes);
    }

    #[test]
    fn a_cut_node_is_refused() {
        let bytes = encode_node(&crate::testing::plain_node(1)).unwrap();
        for at in 0..bytes.len() {
            assert!(decode_node(&bytes[..at]).is_err());
        }
        // The checker itself: a decoder that ignores its input is caught.
        let careless = || every_change_is_found(&bytes, |_| Ok::<_, FormatError>(()));
        assert!(std::panic::catch_unwind(careless).is_err());
    }

    #[test]
    fn a_newer_node_is_refused_as_newer() {
        let mut bytes = encode_node(&crate::testing::plain_node(1)).unwrap();
        bytes[0] = NODE_VERSION + 1;
        assert!(matches!(
            decode_node(&bytes),
            Err(FormatError::Newer { .. })
        ));
    }

    #[test]
    fn a_node_with_too_much_is_not_written() {
        let mut node = crate::testing::plain_node(1);
        let xattrs = &mut node.attrs.0[0].value.xattrs;
        xattrs.insert(b"user.big".to_vec(), vec![0; MAX_NODE_BYTES]);
        assert!(matches!(
            encode_node(&node),
            Err(FormatError::TooLarge { .. })
        ));
    }
}

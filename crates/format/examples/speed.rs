//! How fast content and trees go through this room, on one core.
//!
//! `cargo run --release -p larder-format --example speed`

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::time::Instant;

use larder_format::tree::{Change, Tree, TreeKind, diff, node_key};
use larder_format::{
    Chunker, Codec, Compressor, FormatError, NewPiece, OldPiece, PackKind, PackWriter, PageSource,
    PageStore, SizeClass, VolumeKeys, decode_node, encode_node, open_chunk, rechunk,
};
use larder_model::{
    Attrs, ChunkId, Content, Dot, Extent, Hlc, Kind, Life, Link, LinkId, Name, Node, NodeId, Place,
    Register, ReplicaId, Time, VolumeId,
};

#[path = "../tests/compressible/mod.rs"]
mod compressible;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let keys = VolumeKeys::new(VolumeId([1; 16]), [2; 32], [3; 32]);
    let mut numbers = compressible::Numbers::new(1);
    let noise: Vec<u8> = (0..32 << 20)
        .flat_map(|_| numbers.next().to_le_bytes())
        .collect();
    let text = compressible::log_lines(1, 256 << 20);
    for (what, data) in [("noise", &noise), ("text", &text)] {
        content(&keys, what, data)?;
    }
    tree(&keys)
}

fn rate(what: &str, bytes: usize, since: Instant) {
    let secs = since.elapsed().as_secs_f64();
    println!("{what:40} {:6.2} GB/s", bytes as f64 / secs / 1e9);
}

fn content(keys: &VolumeKeys, what: &str, data: &[u8]) -> Outcome {
    let chunker = Chunker::new(keys, SizeClass::Middle);
    let old = [OldPiece::Local {
        len: data.len() as u64,
    }];
    let read = |offset: u64, out: &mut [u8]| {
        out.copy_from_slice(&data[offset as usize..offset as usize + out.len()]);
        Ok::<_, Infallible>(())
    };
    let start = Instant::now();
    let mut chunks = Vec::new();
    let Ok(()) = rechunk(&chunker, &old, read, |piece| {
        if let NewPiece::Fresh { offset, bytes } = piece {
            chunks.push(offset as usize..offset as usize + bytes.len());
        }
        Ok(())
    });
    rate(&format!("{what}: read and cut"), data.len(), start);

    let start = Instant::now();
    let ids: Vec<_> = chunks
        .iter()
        .map(|c| keys.chunk_id(&data[c.clone()]))
        .collect();
    rate(&format!("{what}: name"), data.len(), start);

    let mut compressor = Compressor::new()?;
    let start = Instant::now();
    let with_zstd = chunks.iter().filter(|chunk| {
        let (codec, _) = compressor.compress(&data[(*chunk).clone()]);
        codec == Codec::Zstd
    });
    let with_zstd = with_zstd.count();
    rate(
        &format!("{what}: compress ({with_zstd} of {})", chunks.len()),
        data.len(),
        start,
    );

    let start = Instant::now();
    let mut writer = PackWriter::new(keys, PackKind::Data, [0; 32])?;
    let mut finished = None;
    for (id, chunk) in ids.iter().zip(&chunks) {
        writer.push(*id, Codec::Raw, chunk.len() as u32, &data[chunk.clone()])?;
        if writer.is_full() {
            let next = PackWriter::new(keys, PackKind::Data, [0; 32])?;
            finished = Some(std::mem::replace(&mut writer, next).finish()?);
        }
    }
    rate(&format!("{what}: seal and name packs"), data.len(), start);

    let Some(pack) = finished else { return Ok(()) };
    let start = Instant::now();
    let mut raw = 0;
    for entry in &pack.entries {
        let range = entry.range();
        let sealed = &pack.bytes[range.start as usize..range.end as usize];
        raw += open_chunk(keys, &pack.seal, entry, sealed)?.len();
    }
    rate(&format!("{what}: open and check"), raw, start);
    Ok(())
}

#[derive(Default)]
struct Pages {
    map: HashMap<ChunkId, Vec<u8>>,
    put: usize,
    bytes: usize,
}

impl PageSource for Pages {
    type Bytes = Vec<u8>;
    type Error = FormatError;

    fn page(&mut self, id: &ChunkId) -> Result<Vec<u8>, FormatError> {
        let missing = FormatError::Damaged {
            what: "page",
            why: "it is missing",
        };
        self.map.get(id).cloned().ok_or(missing)
    }
}

impl PageStore for Pages {
    fn put(&mut self, id: ChunkId, bytes: Vec<u8>) -> Result<(), FormatError> {
        self.put += 1;
        self.bytes += bytes.len();
        self.map.insert(id, bytes);
        Ok(())
    }

    fn dropped(&mut self, _: ChunkId) -> Result<(), FormatError> {
        Ok(())
    }
}

fn tree(keys: &VolumeKeys) -> Outcome {
    const COUNT: u64 = 1_000_000;
    let key = |n: u64| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(1_700_000_000_000 + n * 1000).to_be_bytes());
        id[8..].copy_from_slice(&compressible::Numbers::new(n).next().to_be_bytes());
        node_key(&NodeId(id))
    };
    let put = |n: u64, commit: u64| {
        let value = Some(encode_node(&node(keys, n, commit))?);
        Ok(Change { key: key(n), value })
    };
    let mut pages = Pages::default();
    let start = Instant::now();
    let tree = Tree::build(
        keys,
        TreeKind::Nodes,
        (0..COUNT).map(|n| put(n, 1)),
        &mut pages,
    )?;
    println!(
        "build a tree of {COUNT} nodes: {:.2} s, {} pages, {} MB, root at level {}",
        start.elapsed().as_secs_f64(),
        pages.put,
        pages.bytes / 1_000_000,
        pages.map[&tree.root][2]
    );
    let start = Instant::now();
    let mut files = 0;
    for entry in tree.scan(&[], |id: &ChunkId| pages.page(id)) {
        files += usize::from(decode_node(&entry?.1)?.kind == Kind::File);
    }
    println!(
        "read all {files} nodes of it: {:.2} s",
        start.elapsed().as_secs_f64()
    );

    for count in [1u64, 1000] {
        (pages.put, pages.bytes) = (0, 0);
        let start = Instant::now();
        let changes = (0..count).map(|n| put(n * (COUNT / count), 2));
        let changed = tree.apply(keys, changes, &mut pages)?;
        let apply = start.elapsed();
        let start = Instant::now();
        let mut found = 0;
        diff(&tree, &changed, &mut pages, |_| {
            found += 1;
            Ok(())
        })?;
        println!(
            "change {count} nodes: {:.2} ms, {} pages, {} KB; find {found}: {:.2} ms",
            apply.as_secs_f64() * 1e3,
            pages.put,
            pages.bytes / 1000,
            start.elapsed().as_secs_f64() * 1e3
        );
    }
    Ok(())
}

/// A file as an import makes it.
fn node(keys: &VolumeKeys, n: u64, commit: u64) -> Node {
    let dot = Dot {
        replica: ReplicaId([9; 32]),
        commit,
    };
    let nanos = 1_700_000_000_000_000_000 + n * 12_345;
    let link = Link {
        place: Place {
            parent: NodeId([(n / 100) as u8; 16]),
            name: Name::new(format!("picture-{n}.jpg")).unwrap_or_else(|_| unreachable!()),
        },
        present: true,
        time: Hlc(nanos),
    };
    let attrs = Attrs {
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        mtime: Time(nanos as i64 - (n as i64) * 1_000_003),
        ctime: Time(nanos as i64),
        btime: Time(nanos as i64),
        time: Hlc(nanos),
        ..Attrs::default()
    };
    let id = keys.chunk_id(&n.to_le_bytes());
    Node {
        kind: Kind::File,
        life: Register::one(Life::Alive, dot),
        links: BTreeMap::from([(LinkId::BIRTH, Register::one(link, dot))]),
        attrs: Register::one(attrs, dot),
        content: Register::one(Content::Extents(vec![Extent::Chunk { id, len: 5000 }]), dot),
    }
}

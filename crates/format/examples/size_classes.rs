//! What an edit of a large file sends, by the average length of its chunks: the measurement
//! behind `docs/decisions/0003-size-classes.md`.
//!
//! `cargo run --release -p larder-format --example size_classes [MiB]`

use std::collections::HashSet;

use fastcdc::v2020::FastCDC;
use larder_format::{Compressor, ListWriter, VolumeKeys};
use larder_model::{ChunkId, Extent, VolumeId};

#[path = "../tests/compressible/mod.rs"]
mod compressible;

/// What the two versions of a file cost with one average.
struct Sent {
    chunks: usize,
    new_chunks: usize,
    raw: usize,
    sealed: usize,
    list: usize,
}

fn measure(
    keys: &VolumeKeys,
    average: usize,
    before: &[u8],
    after: &[u8],
) -> std::io::Result<Sent> {
    let mut stored = HashSet::new();
    let extents = extents(keys, average, before);
    stored.extend(extents.iter().map(|(id, _)| *id));
    stored.extend(list_pages(keys, &extents).into_iter().map(|(id, _)| id));

    let mut compressor = Compressor::new()?;
    let mut seal_len = |bytes: &[u8]| compressor.compress(bytes).1.len() + 16;
    let extents = self::extents(keys, average, after);
    let mut sent = Sent {
        chunks: extents.len(),
        new_chunks: 0,
        raw: 0,
        sealed: 0,
        list: 0,
    };
    let mut at = 0;
    for (id, len) in &extents {
        if stored.insert(*id) {
            sent.new_chunks += 1;
            sent.raw += len;
            sent.sealed += seal_len(&after[at..at + len]);
        }
        at += len;
    }
    for (id, page) in list_pages(keys, &extents) {
        if stored.insert(id) {
            sent.list += seal_len(&page);
        }
    }
    Ok(sent)
}

fn extents(keys: &VolumeKeys, average: usize, data: &[u8]) -> Vec<(ChunkId, usize)> {
    FastCDC::new(data, average / 4, average, average * 4)
        .map(|chunk| {
            let bytes = &data[chunk.offset..chunk.offset + chunk.length];
            (keys.chunk_id(bytes), chunk.length)
        })
        .collect()
}

fn list_pages(keys: &VolumeKeys, extents: &[(ChunkId, usize)]) -> Vec<(ChunkId, Vec<u8>)> {
    let mut pages = Vec::new();
    let mut sink = |id, page| {
        pages.push((id, page));
        Ok::<_, std::convert::Infallible>(())
    };
    let mut writer = ListWriter::new(keys);
    for &(id, len) in extents {
        let len = len as u32;
        let Ok(()) = writer.push(Extent::Chunk { id, len }, &mut sink);
    }
    let Ok(_) = writer.finish(&mut sink);
    pages
}

fn main() -> std::io::Result<()> {
    let mib = std::env::args().nth(1).and_then(|arg| arg.parse().ok());
    let keys = VolumeKeys::new(VolumeId([1; 16]), [2; 32], [3; 32]);
    let before = compressible::log_lines(1, mib.unwrap_or(1024) << 20);
    let after = compressible::edited(&before);
    let mut compressor = Compressor::new()?;
    let packed: usize = before
        .chunks(128 << 10)
        .take(256)
        .map(|piece| compressor.compress(piece).1.len())
        .sum();
    println!("compresses {:.2} to 1", (256 << 17) as f64 / packed as f64);
    println!("average KiB | chunks | new chunks | raw KB | sealed KB | list KB | all KB");
    for average in [64, 128, 256, 512, 1024] {
        let sent = measure(&keys, average << 10, &before, &after)?;
        println!(
            "{average:11} | {:6} | {:10} | {:6} | {:9} | {:7} | {:6}",
            sent.chunks,
            sent.new_chunks,
            sent.raw / 1000,
            sent.sealed / 1000,
            sent.list / 1000,
            (sent.sealed + sent.list) / 1000
        );
    }
    Ok(())
}

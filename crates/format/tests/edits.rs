//! What a few small edits of a large file send: about two megabytes, with all that goes to
//! the store for them.

// clippy.toml lets test functions unwrap; these are what they share.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::HashSet;
use std::convert::Infallible;

use larder_format::{
    Chunker, Commit, Compressor, IndexedPack, ListWriter, NewPiece, OldPiece, Pack, PackKind,
    PackWriter, ReplicaKey, SizeClass, VolumeKeys, encode_index, rechunk, seal_head,
};
use larder_model::{ChunkId, Clock, Extent, Hlc, Time, VolumeId};

mod compressible;

/// What the store has, and the packs that a push fills.
struct Push<'k> {
    keys: &'k VolumeKeys,
    stored: HashSet<ChunkId>,
    compressor: Compressor,
    salts: u8,
}

impl<'k> Push<'k> {
    fn new(keys: &'k VolumeKeys) -> Self {
        Self {
            keys,
            stored: HashSet::new(),
            compressor: Compressor::new().unwrap(),
            salts: 0,
        }
    }

    fn salt(&mut self) -> [u8; 32] {
        self.salts += 1;
        [self.salts; 32]
    }

    fn writer(&mut self, kind: PackKind) -> PackWriter {
        PackWriter::new(self.keys, kind, self.salt()).unwrap()
    }

    fn add(&mut self, writer: &mut PackWriter, id: ChunkId, bytes: &[u8]) {
        if self.stored.insert(id) {
            let (codec, coded) = self.compressor.compress(bytes);
            writer.push(id, codec, bytes.len() as u32, coded).unwrap();
        }
    }

    /// Sends a file and a commit of it; gives how many bytes went to the store.
    fn send(&mut self, file: &[u8], n: u64) -> usize {
        let chunker = Chunker::new(self.keys, SizeClass::for_size(file.len() as u64));
        let len = file.len() as u64;
        let (mut extents, mut packs) = (Vec::new(), Vec::new());
        let mut data = self.writer(PackKind::Data);
        let read = |offset: u64, out: &mut [u8]| {
            out.copy_from_slice(&file[offset as usize..offset as usize + out.len()]);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = rechunk(&chunker, &[OldPiece::Local { len }], read, |piece| {
            let NewPiece::Fresh { bytes, .. } = piece else {
                panic!("a new file keeps nothing")
            };
            let id = self.keys.chunk_id(bytes);
            extents.push(Extent::Chunk {
                id,
                len: bytes.len() as u32,
            });
            self.add(&mut data, id, bytes);
            if data.is_full() {
                let next = self.writer(PackKind::Data);
                packs.push(std::mem::replace(&mut data, next).finish().unwrap());
            }
            Ok(())
        });
        packs.push(data.finish().unwrap());
        packs.push(self.list_and_commit(&extents, n));
        self.sizes(packs, n)
    }

    fn list_and_commit(&mut self, extents: &[Extent], n: u64) -> Pack {
        let mut trees = self.writer(PackKind::Tree);
        let mut list = ListWriter::new(self.keys);
        let mut sink = |id, page: Vec<u8>| {
            self.add(&mut trees, id, &page);
            Ok::<_, Infallible>(())
        };
        for extent in extents {
            let Ok(()) = list.push(*extent, &mut sink);
        }
        let Ok(_) = list.finish(&mut sink);
        let commit = Commit {
            nodes: ChunkId([0; 32]),
            names: ChunkId([0; 32]),
            clock: Clock::new(),
            author: ReplicaKey::from_seed([4; 32]).unwrap().id(),
            n,
            time: Hlc(n),
            wall: Time(0),
            message: None,
            parents: Vec::new(),
            files: 1,
            bytes: 0,
        };
        let commit = commit.encode().unwrap();
        self.add(&mut trees, self.keys.chunk_id(&commit), &commit);
        trees.finish().unwrap()
    }

    fn sizes(&mut self, packs: Vec<Pack>, n: u64) -> usize {
        let indexed: Vec<_> = packs
            .iter()
            .map(|pack| IndexedPack {
                id: pack.id,
                seal: pack.seal,
                size: pack.bytes.len() as u32,
                entries: pack.entries.clone(),
            })
            .collect();
        let salt = self.salt();
        let index = encode_index(self.keys, salt, &indexed).unwrap().bytes;
        let replica = ReplicaKey::from_seed([4; 32]).unwrap();
        let salt = self.salt();
        let head = seal_head(self.keys, &replica, n, ChunkId([0; 32]), salt).unwrap();
        let packed: usize = packs.iter().map(|pack| pack.bytes.len()).sum();
        packed + index.len() + head.len()
    }
}

fn sent_for_the_edits_of(len: usize) -> (usize, usize) {
    let keys = VolumeKeys::new(VolumeId([1; 16]), [2; 32], [3; 32]);
    let mut push = Push::new(&keys);
    let before = compressible::log_lines(1, len);
    let first = push.send(&before, 1);
    let after = compressible::edited(&before);
    drop(before);
    (first, push.send(&after, 2))
}

#[test]
fn small_edits_of_a_large_file_send_about_two_megabytes() {
    // The smallest file of the middle class: how much is sent does not go by its size.
    let (first, second) = sent_for_the_edits_of(65 << 20);
    assert!(first > 15_000_000, "{first} bytes for the whole file");
    assert!(second < 2_000_000, "{second} bytes for the edits");
}

#[test]
#[ignore = "a gigabyte of data: for a change of the size classes"]
fn small_edits_of_a_gigabyte_send_about_two_megabytes() {
    let (_, second) = sent_for_the_edits_of(1 << 30);
    println!("{second} bytes for the edits of 1 GiB");
    assert!(second < 2_000_000, "{second} bytes for the edits");
}

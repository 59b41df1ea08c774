//! Damaged and hostile bytes: the fuzz targets' functions, run shortly.
//!
//! Golden files are changed as rot, a cut line and a stranger change them, from seeds that
//! are the same in each run, and given to every decoder. None may panic, and none may take
//! more memory at once than a small multiple of what it was given. `cargo xtask fuzz` looks
//! longer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../../../../fuzz/src/decoders.rs"]
mod decoders;
mod memory;

use std::fs;
use std::path::PathBuf;

/// Changes of each golden file, for each decoder.
const CHANGES: u64 = 5000;
/// What a decoder may take at once for each byte that it is given, and beside that.
const MEMORY_FACTOR: usize = 64;
const MEMORY_BASE: usize = 256 << 10;

type Decoder = (&'static str, fn(&[u8]));

const DECODERS: [Decoder; 7] = [
    ("objects", decoders::objects),
    ("nodes", decoders::nodes),
    ("commits", decoders::commits),
    ("lists", decoders::lists),
    ("trees", decoders::trees),
    ("texts", decoders::texts),
    ("peers", decoders::peers),
];

/// Small numbers from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % end.max(1)
    }
}

fn golden() -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| !path.ends_with("cut-points.txt"))
        .collect();
    files.sort();
    assert!(files.len() > 20);
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One to four changes: bits, bytes, numbers, cuts, gaps, repeats, and parts of another file.
fn change(bytes: &mut Vec<u8>, other: &[u8], dice: &mut Dice) {
    const EXTREMES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xfe, 0xff, 3, 0x40];
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        let end = at + dice.below((bytes.len() - at).min(40));
        match dice.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << dice.below(8),
            1 if !bytes.is_empty() => bytes[at] = EXTREMES[dice.below(8)],
            2 => bytes[at..end].fill(EXTREMES[dice.below(8)]),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            6 => {
                let from = dice.below(other.len());
                let to = from + dice.below(other.len() - from);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => bytes.push(EXTREMES[dice.below(8)]),
        }
    }
}

fn try_all(bytes: &[u8], what: &str) {
    for (name, decode) in DECODERS {
        let taken = memory::most_taken_by(|| decode(bytes));
        assert!(
            taken <= MEMORY_FACTOR * bytes.len() + MEMORY_BASE,
            "{name} took {taken} bytes of memory for {} bytes, {what}",
            bytes.len()
        );
    }
}

#[test]
fn no_bytes_make_a_decoder_panic_or_take_much_memory() {
    let golden = golden();
    for (number, whole) in golden.iter().enumerate() {
        try_all(whole, &format!("golden file {number}"));
        for seed in 1..=CHANGES {
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
            let mut bytes = whole.clone();
            let other = &golden[dice.below(golden.len())];
            change(&mut bytes, other, &mut dice);
            try_all(&bytes, &format!("golden file {number}, seed {seed}"));
        }
    }
}

#[test]
fn the_memory_that_is_taken_is_measured() {
    let taken = memory::most_taken_by(|| {
        drop(std::hint::black_box(vec![1u8; 1 << 20]));
        drop(std::hint::black_box(vec![1u8; 3 << 20]));
    });
    assert!((3 << 20..4 << 20).contains(&taken), "{taken}");
}

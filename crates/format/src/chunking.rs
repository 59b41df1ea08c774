//! Where a file is cut into chunks.
//!
//! FastCDC (Xia and others, 2020; crate `fastcdc`, v2020, normalization level 1) finds cut
//! points from the content, so that an insertion moves the cuts only near it. The gear table
//! is seeded from the volume's id key: chunk sizes of a known file differ from volume to
//! volume. The size class goes by the file's size and stays with the file
//! (`docs/decisions/0003-size-classes.md` has the measurements behind it). Where the cuts lie
//! is a writer's choice: a reader needs none of this.

use std::borrow::Cow;

use fastcdc::v2020::{self, Normalization};

use crate::VolumeKeys;

/// The BLAKE3 derivation context of the gear table's seed.
pub(crate) const SEED_CONTEXT: &str = "larder 1 chunking seed";

const KIB: usize = 1024;
const MIB: u64 = 1 << 20;

/// How large the chunks of a file are, by the size of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SizeClass {
    /// Files up to 64 MiB.
    Small,
    /// Files up to 4 GiB.
    Middle,
    /// Files beyond.
    Large,
}

impl SizeClass {
    /// The class of a new file of this size in bytes.
    pub fn for_size(size: u64) -> Self {
        if size <= 64 * MIB {
            Self::Small
        } else if size <= 4096 * MIB {
            Self::Middle
        } else {
            Self::Large
        }
    }

    /// The class that a file goes on with: that of its stored chunks, told by their mean
    /// length, however the file grew or shrank since. With fewer than 16 of them a file is as
    /// good as new, and its size in bytes decides.
    pub fn continuing(stored_lens: impl IntoIterator<Item = u32>, size: u64) -> Self {
        let (count, bytes) = stored_lens
            .into_iter()
            .fold((0u64, 0u64), |(n, sum), len| (n + 1, sum + u64::from(len)));
        if count < 16 {
            return Self::for_size(size);
        }
        let mean = bytes / count;
        // The geometric mean of neighbours' averages parts them.
        let parts = |a: Self, b: Self| mean * mean < (a.average() * b.average()) as u64;
        if parts(Self::Small, Self::Middle) {
            Self::Small
        } else if parts(Self::Middle, Self::Large) {
            Self::Middle
        } else {
            Self::Large
        }
    }

    /// The shortest chunk that is cut by content, in bytes.
    pub fn min(self) -> usize {
        self.average() / 4
    }

    /// The length aimed at, in bytes.
    pub fn average(self) -> usize {
        match self {
            Self::Small => 64 * KIB,
            Self::Middle => 128 * KIB,
            Self::Large => 1024 * KIB,
        }
    }

    /// The longest chunk, in bytes.
    pub fn max(self) -> usize {
        self.average() * 4
    }
}

/// Finds cut points for files of one class in one volume.
#[derive(Debug, Clone)]
pub struct Chunker {
    class: SizeClass,
    gear: Cow<'static, [u64]>,
    gear_shifted: Cow<'static, [u64]>,
    mask_short: u64,
    mask_long: u64,
}

impl Chunker {
    /// The chunker of this volume for this class.
    pub fn new(keys: &VolumeKeys, class: SizeClass) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = blake3::derive_key(SEED_CONTEXT, keys.id_key());
        // Zero would mean no seed.
        let seed = u64::from_le_bytes([a, b, c, d, e, f, g, h]) | 1;
        let (gear, gear_shifted) = v2020::get_gear_with_seed(seed);
        let (mask_short, mask_long) = v2020::select_masks(class.average(), Normalization::Level1);
        Self {
            class,
            gear,
            gear_shifted,
            mask_short,
            mask_long,
        }
    }

    /// The class it cuts for.
    pub fn class(&self) -> SizeClass {
        self.class
    }

    /// How many bytes of `data` are the next chunk. `at_end` says that no bytes follow `data`;
    /// if some do, the answer is `None` until `data` has [`SizeClass::max`] bytes. Of no bytes
    /// there is no chunk.
    pub fn cut(&self, data: &[u8], at_end: bool) -> Option<usize> {
        let max = self.class.max();
        if data.is_empty() || (data.len() < max && !at_end) {
            return None;
        }
        let (_, len) = v2020::cut_gear(
            &data[..data.len().min(max)],
            self.class.min(),
            self.class.average(),
            max,
            self.mask_short,
            self.mask_long,
            self.mask_short << 1,
            self.mask_long << 1,
            &self.gear,
            &self.gear_shifted,
        );
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{keys, noise};
    use larder_model::VolumeId;

    fn cuts(chunker: &Chunker, mut data: &[u8]) -> Vec<usize> {
        let mut lens = Vec::new();
        while let Some(len) = chunker.cut(data, true) {
            lens.push(len);
            data = &data[len..];
        }
        lens
    }

    #[test]
    fn chunks_keep_within_the_bounds_of_their_class_and_near_its_average() {
        for class in [SizeClass::Small, SizeClass::Middle] {
            let data = noise(1, 128 * class.average());
            let lens = cuts(&Chunker::new(&keys(), class), &data);
            assert_eq!(lens.iter().sum::<usize>(), data.len());
            let (last, others) = lens.split_last().unwrap();
            assert!(others.iter().all(|&len| len >= class.min()));
            assert!(lens.iter().chain([last]).all(|&len| len <= class.max()));
            assert!((64..256).contains(&lens.len()), "{} chunks", lens.len());
        }
    }

    #[test]
    fn a_small_file_is_one_chunk() {
        let chunker = Chunker::new(&keys(), SizeClass::for_size(10));
        assert_eq!(cuts(&chunker, &noise(1, 16 * KIB)), [16 * KIB]);
        assert_eq!(cuts(&chunker, &[]), [0usize; 0]);
    }

    #[test]
    fn an_insertion_moves_the_cuts_only_near_it() {
        let chunker = Chunker::new(&keys(), SizeClass::Small);
        let before = noise(1, 4 << 20);
        let mut after = before.clone();
        after.splice(1000..1000, [7; 100]);
        let ends = |data: &[u8]| {
            let lens = cuts(&chunker, data);
            lens.iter()
                .rev()
                .scan(0, |sum, len| {
                    *sum += len;
                    Some(*sum)
                })
                .collect::<Vec<_>>()
        };
        let (before, after) = (ends(&before), ends(&after));
        let shared = before.iter().filter(|end| after.contains(end)).count();
        assert!(shared + 4 >= before.len(), "{shared} of {}", before.len());
    }

    #[test]
    fn the_cuts_of_a_known_file_differ_from_volume_to_volume() {
        let other = VolumeKeys::new(VolumeId([1; 16]), [0x99; 32], [0x33; 32]);
        let data = noise(1, 2 << 20);
        assert_ne!(
            cuts(&Chunker::new(&keys(), SizeClass::Small), &data),
            cuts(&Chunker::new(&other, SizeClass::Small), &data)
        );
    }

    #[test]
    fn a_file_keeps_its_class_when_it_grows_or_shrinks() {
        assert_eq!(SizeClass::for_size(64 * MIB), SizeClass::Small);
        assert_eq!(SizeClass::for_size(64 * MIB + 1), SizeClass::Middle);
        assert_eq!(SizeClass::for_size(4096 * MIB + 1), SizeClass::Large);
        for class in [SizeClass::Small, SizeClass::Middle, SizeClass::Large] {
            let lens = cuts(
                &Chunker::new(&keys(), class),
                &noise(2, 40 * class.average()),
            );
            let stored = || lens.iter().map(|&len| len as u32);
            assert_eq!(SizeClass::continuing(stored(), 1), class);
            assert_eq!(SizeClass::continuing(stored(), u64::MAX), class);
        }
        assert_eq!(SizeClass::continuing([1 << 20], 5), SizeClass::Small);
    }
}

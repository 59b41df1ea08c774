//! Compression of chunks: zstd when it pays.
//!
//! It pays when it saves at least one byte in sixteen; else the chunk is stored as it is and
//! is read without being copied through a decompressor. The output buffer is given to zstd
//! with just the size that still pays, so that it gives up early on what does not compress.

use zstd::bulk::{Compressor as Zstd, Decompressor};

use crate::{FormatError, MAX_CHUNK_BYTES};

const LEVEL: i32 = 3;

/// How a chunk's bytes are coded inside its seal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    /// The byte that stands for it in packs, indexes and the database.
    pub const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
        }
    }

    /// The codec of this byte.
    ///
    /// # Errors
    /// If a newer program must have written it.
    pub fn from_code(code: u8) -> Result<Self, FormatError> {
        match code {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            _ => Err(FormatError::Newer {
                what: "compression of chunks",
                version: code.into(),
                known: 1,
            }),
        }
    }

    /// The plaintext of `raw_len` bytes that is coded in `coded`.
    pub(crate) fn decode(self, coded: Vec<u8>, raw_len: u32) -> Result<Vec<u8>, FormatError> {
        let damaged = |why| FormatError::Damaged { what: "chunk", why };
        let raw_len = raw_len as usize;
        if raw_len > MAX_CHUNK_BYTES {
            return Err(damaged("it claims to be larger than a chunk can be"));
        }
        let raw = match self {
            Self::Raw => coded,
            Self::Zstd => {
                let mut raw = Vec::with_capacity(raw_len);
                Decompressor::new()
                    .and_then(|mut zstd| zstd.decompress_to_buffer(&coded, &mut raw))
                    .map_err(|_| damaged("it does not decompress"))?;
                raw
            }
        };
        if raw.len() == raw_len {
            Ok(raw)
        } else {
            Err(damaged("it has another length than its entry says"))
        }
    }
}

/// Compresses chunk after chunk with one set of buffers.
pub struct Compressor {
    zstd: Zstd<'static>,
    buffer: Vec<u8>,
}

impl Compressor {
    /// A compressor.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            zstd: Zstd::new(LEVEL)?,
            buffer: Vec::new(),
        })
    }

    /// The bytes to seal for `raw`: a zstd frame, or `raw` itself.
    pub fn compress<'a>(&'a mut self, raw: &'a [u8]) -> (Codec, &'a [u8]) {
        let pays = raw.len() - raw.len().div_ceil(16);
        if self.buffer.len() < pays {
            self.buffer.resize(pays, 0);
        }
        match self.zstd.compress_to_buffer(raw, &mut self.buffer[..pays]) {
            Ok(len) => (Codec::Zstd, &self.buffer[..len]),
            // Also when zstd failed otherwise: raw is always right.
            Err(_) => (Codec::Raw, raw),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    #[test]
    fn what_compresses_is_compressed_and_read_back() {
        let raw = b"the quick brown fox ".repeat(1000);
        let mut compressor = Compressor::new().unwrap();
        let (codec, coded) = compressor.compress(&raw);
        assert_eq!(codec, Codec::Zstd);
        assert!(coded.len() < raw.len() / 10);
        let coded = coded.to_vec();
        assert_eq!(codec.decode(coded, raw.len() as u32), Ok(raw));
    }

    #[test]
    fn what_does_not_pay_is_stored_as_it_is() {
        let mut compressor = Compressor::new().unwrap();
        for len in [0, 1, 15, 100, 100_000] {
            let raw = noise(len as u64, len);
            assert_eq!(compressor.compress(&raw), (Codec::Raw, &raw[..]));
        }
    }

    #[test]
    fn a_chunk_that_grows_beyond_its_claim_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        assert!(Codec::Zstd.decode(bomb.clone(), 1000).is_err());
        assert!(Codec::Zstd.decode(bomb, u32::MAX).is_err());
        let short = zstd::bulk::compress(&[0; 10], 3).unwrap();
        assert!(Codec::Zstd.decode(short, 1000).is_err());
    }

    #[test]
    fn an_unknown_codec_is_refused_as_newer() {
        assert!(matches!(
            Codec::from_code(2),
            Err(FormatError::Newer { .. })
        ));
        for codec in [Codec::Raw, Codec::Zstd] {
            assert_eq!(Codec::from_code(codec.code()), Ok(codec));
        }
    }
}

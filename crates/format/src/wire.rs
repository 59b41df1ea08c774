//! The primitive shapes of all encodings: integers, varints, counted bytes.
//!
//! [`Reader`] never panics, and never believes a length before it saw as many bytes; so
//! what a decoder allocates is bounded by what it was given. An integer has one encoding
//! only (varints are minimal), so that equal values are equal bytes.

use crate::FormatError;

type Result<T> = std::result::Result<T, FormatError>;

/// Reads an encoding from its front.
pub(crate) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of `bytes`, which should be a `what` (for the words of its errors).
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// The error that these bytes are not what they should be.
    pub fn damaged(&self, why: &'static str) -> FormatError {
        FormatError::Damaged {
            what: self.what,
            why,
        }
    }

    /// Fails with `why` unless `holds`.
    pub fn ensure(&self, holds: bool, why: &'static str) -> Result<()> {
        if holds {
            Ok(())
        } else {
            Err(self.damaged(why))
        }
    }

    /// The bytes not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.damaged("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (taken, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or_else(|| self.damaged("it ends too early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A LEB128 integer of at most 64 bits in its shortest form.
    pub fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            self.ensure(shift < 63 || bits <= 1, "an integer has over 64 bits")?;
            value |= bits << shift;
            if byte & 0x80 == 0 {
                self.ensure(byte != 0 || shift == 0, "an integer is padded")?;
                return Ok(value);
            }
        }
        Err(self.damaged("an integer has over 64 bits"))
    }

    /// A varint that fits 32 bits.
    pub fn varint32(&mut self) -> Result<u32> {
        let value = self.varint()?;
        u32::try_from(value).map_err(|_| self.damaged("an integer has over 32 bits"))
    }

    /// A varint of a signed number, zigzag.
    pub fn zigzag(&mut self) -> Result<i64> {
        let coded = self.varint()?;
        Ok((coded >> 1).cast_signed() ^ -(coded & 1).cast_signed())
    }

    /// How many items of at least `item_bytes` (not 0) follow: no more than can be there.
    pub fn count(&mut self, item_bytes: usize) -> Result<usize> {
        let count = self.varint()?;
        let possible = (self.rest.len() / item_bytes) as u64;
        self.ensure(count <= possible, "it counts more than it holds")?;
        Ok(count as usize)
    }

    /// Bytes behind their length.
    pub fn counted(&mut self) -> Result<&'a [u8]> {
        let len = self.count(1)?;
        self.take(len)
    }

    /// Ends the reading: nothing may follow.
    pub fn finish(self) -> Result<()> {
        self.ensure(self.rest.is_empty(), "bytes follow its end")
    }
}

/// Appends a LEB128 integer.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed integer, zigzag.
pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

/// Appends bytes behind their length.
pub(crate) fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_are_read_back(value: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_zigzag(&mut out, signed);
            let mut reader = Reader::new("test", &out);
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.zigzag(), Ok(signed));
            prop_assert!(reader.finish().is_ok());
        }
    }

    #[test]
    fn an_integer_has_one_encoding_only() {
        for bytes in [
            &[0x80, 0x00][..],
            &[0xff, 0x80, 0x00],
            &[0xff; 10],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02],
            &[0x80],
        ] {
            assert!(Reader::new("test", bytes).varint().is_err(), "{bytes:x?}");
        }
    }

    #[test]
    fn a_count_is_not_believed_beyond_the_bytes_there_are() {
        let mut out = Vec::new();
        put_varint(&mut out, u64::MAX);
        out.extend_from_slice(&[0; 64]);
        assert!(Reader::new("test", &out).count(1).is_err());
    }
}

//! The name of a directory entry.

use std::fmt;

/// One to 255 bytes, none of them `/` or NUL, neither `.` nor `..`. Any other bytes are
/// allowed: a name need not be UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

/// Why some bytes cannot be a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No bytes, `.`, `..`, or a byte that no name may hold.
    #[error("a name may not be empty, `.` or `..`, nor contain `/` or NUL")]
    Invalid,
    /// More than [`Name::MAX`] bytes.
    #[error("a name may have at most {} bytes", Name::MAX)]
    TooLong,
}

impl Name {
    /// The longest name, in bytes.
    pub const MAX: usize = 255;

    /// The name that these bytes are.
    ///
    /// # Errors
    /// If a name may not be so.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        if bytes.len() > Self::MAX {
            return Err(NameError::TooLong);
        }
        let reserved = bytes.is_empty() || bytes == b"." || bytes == b"..";
        if reserved || bytes.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(NameError::Invalid);
        }
        Ok(Self(bytes))
    }

    /// What is before every name, and none itself.
    pub(crate) fn least() -> Self {
        Self(Vec::new())
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl AsRef<[u8]> for Name {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_but_the_reserved_ones_are_a_name() {
        assert!(Name::new(vec![0xff; 255]).is_ok());
        assert!(Name::new(&b"..."[..]).is_ok());
        assert_eq!(Name::new(vec![b'a'; 256]), Err(NameError::TooLong));
        for bytes in [&b""[..], b".", b"..", b"a/b", b"a\0"] {
            assert_eq!(Name::new(bytes), Err(NameError::Invalid));
        }
    }
}

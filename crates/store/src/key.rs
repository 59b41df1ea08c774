//! The name of an object on a store.

use std::fmt;

/// Segments of `[a-z0-9.-]`, joined by `/`; no segment is empty or starts with a dot. So
/// a key is a safe relative path, and a safe part of a URL, everywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

/// Text that cannot be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name an object: segments of a-z, 0-9, `.` and `-`, joined by `/`")]
pub struct KeyError(String);

impl Key {
    /// The key that this text is.
    ///
    /// # Errors
    /// If it has another shape.
    pub fn new(text: impl Into<String>) -> Result<Self, KeyError> {
        let text = text.into();
        if text.len() <= 512 && text.split('/').all(is_segment) {
            Ok(Self(text))
        } else {
            Err(KeyError(text))
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// All before the last slash; empty if there is none.
    pub(crate) fn directory(&self) -> &str {
        self.0
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory)
    }
}

/// Whether this can stand between the slashes of a key.
pub(crate) fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && !text.starts_with('.')
        && text
            .bytes()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

/// The directory in which all keys with this prefix lie, without its slash.
pub(crate) fn prefix_directory(prefix: &str) -> &str {
    prefix
        .rsplit_once('/')
        .map_or("", |(directory, _)| directory)
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_a_safe_relative_path() {
        assert!(Key::new("packs/ab/abcd.x-1").is_ok());
        for text in ["", "/a", "a/", "a//b", "../a", "a/.tmp", "A", "a b", "a\\b"] {
            assert!(Key::new(text).is_err(), "{text}");
        }
    }
}

//! Names for objects that are still being written.
//!
//! They lie in one directory, `.tmp`, beside the objects: no [`Key`](crate::Key) can name
//! it, so a half-written object is never listed or read, and one listing finds what was
//! left behind by a process that died.

use std::time::Duration;

/// The directory for what is being written, below a store's root.
pub(crate) const DIRECTORY: &str = ".tmp";

/// From which age on a temporary object counts as left behind: longer than any put takes,
/// for another replica may be writing to the same store right now.
pub(crate) const STALE: Duration = Duration::from_secs(24 * 60 * 60);

const PREFIX: &str = "put-";

/// A fresh name, of 128 random bits: two machines that write to one store never meet.
pub(crate) fn name() -> std::io::Result<String> {
    let mut bits = [0u8; 16];
    getrandom::fill(&mut bits).map_err(std::io::Error::other)?;
    Ok(format!("{PREFIX}{:032x}", u128::from_be_bytes(bits)))
}

/// Whether [`name`] could have made this. Nothing else is ever cleaned away.
pub(crate) fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| rest.len() == 32 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_made_here_are_taken_for_temporary_ones() {
        assert!(is_ours(&name().unwrap()));
        assert_ne!(name().unwrap(), name().unwrap());
        for other in [
            "put-",
            "put-xyz",
            "notes.txt",
            "put-0123456789abcdef0123456789abcdeg",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}

//! What can be wrong with bytes that should be one of Larder's objects.

/// Why bytes are not the object they were taken for, or why an object cannot be made.
///
/// The words name the object and not its place: whoever read it knows the path and adds it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// The object is of a format that this program does not know yet.
    #[error(
        "this {what} has format {version}, and this program knows formats up to {known}: \
         it was written by a newer Larder; update Larder on this machine"
    )]
    Newer {
        /// The kind of object.
        what: &'static str,
        /// The version it carries.
        version: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// The bytes are cut, altered, or were never such an object.
    #[error("this {what} is damaged: {why}")]
    Damaged {
        /// The kind of object.
        what: &'static str,
        /// What does not fit.
        why: &'static str,
    },
    /// The object is whole, but belongs to another volume.
    #[error("this {what} belongs to another volume")]
    Foreign {
        /// The kind of object.
        what: &'static str,
    },
    /// The object is sealed with a key that this replica was not given.
    #[error(
        "this {what} is sealed with key {epoch}, which this replica does not have: \
         open the volume again with its passphrase or recovery key"
    )]
    NoKey {
        /// The kind of object.
        what: &'static str,
        /// The epoch of the missing seal key.
        epoch: u32,
    },
    /// An object, or a part of one, is larger than the format allows.
    #[error("a {what} of {bytes} bytes is over the limit of {limit} bytes")]
    TooLarge {
        /// The kind of object.
        what: &'static str,
        /// How large it is, in bytes.
        bytes: u64,
        /// How large it may be, in bytes.
        limit: u64,
    },
}

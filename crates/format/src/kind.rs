//! The numbers that stand for the kinds of nodes, in trees and in the database.

use larder_model::Kind;

/// The number of a kind.
pub const fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::File => 1,
        Kind::Directory => 2,
        Kind::Symlink => 3,
        Kind::Fifo => 4,
        Kind::Socket => 5,
        Kind::CharDevice => 6,
        Kind::BlockDevice => 7,
    }
}

/// The kind of a number.
pub const fn kind_from_code(code: u8) -> Option<Kind> {
    Some(match code {
        1 => Kind::File,
        2 => Kind::Directory,
        3 => Kind::Symlink,
        4 => Kind::Fifo,
        5 => Kind::Socket,
        6 => Kind::CharDevice,
        7 => Kind::BlockDevice,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_one_kind() {
        for code in 0..=255 {
            assert!(kind_from_code(code).is_none_or(|kind| kind_code(kind) == code));
        }
        assert_eq!((0..=255).filter_map(kind_from_code).count(), 7);
    }
}

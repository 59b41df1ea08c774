//! Holds that `docs/format.md` names what this room writes.

use crate::{ObjectKind, PageKind, head, mark, recovery, seal, slot, tags, tree};

const PAGE: &str = include_str!("../../../docs/format.md");

fn hold(what: &str) {
    assert!(
        PAGE.contains(&format!("`{what}`")),
        "docs/format.md does not name `{what}`"
    );
}

#[test]
fn every_kind_of_object_and_page_is_documented() {
    for kind in ObjectKind::ALL {
        hold(&format!("LARDER{}", char::from(kind.letter())));
    }
    for kind in PageKind::ALL {
        hold(&char::from(kind.letter()).to_string());
    }
}

#[test]
fn every_derivation_context_is_documented() {
    for context in [
        seal::OBJECT_KEY_CONTEXT,
        slot::PASSPHRASE_CONTEXT,
        slot::RECOVERY_CONTEXT,
        recovery::CHECKSUM_CONTEXT,
        crate::chunking::SEED_CONTEXT,
        tree::BOUNDARY_CONTEXT,
        head::SIGNATURE_CONTEXT,
        tags::SIGNATURE_CONTEXT,
        mark::SIGNATURE_CONTEXT,
        crate::peer::MEMBER_CONTEXT,
        crate::peer::INVITED_CONTEXT,
    ] {
        hold(context);
    }
}

#[test]
fn every_table_of_the_database_is_documented() {
    let schema = include_str!("../../volume/src/schema.sql");
    let tables = schema.split("CREATE TABLE ").skip(1);
    let mut count = 0;
    for table in tables.filter_map(|rest| rest.split('(').next()) {
        hold(table.trim());
        count += 1;
    }
    assert!(count > 10);
}

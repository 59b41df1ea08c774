//! What the crates of the workspace may name.
//!
//! Read from `cargo metadata`, so it is what cargo will build and not what a file says:
//!
//! - [`arrows`]: a room of the house names only rooms below it, and the three pure rooms
//!   name no crate that does I/O;
//! - [`licences`]: every crate that ends in the binary has a licence that allows it, and
//!   a few crates are not wanted at all;
//! - [`sources`]: what the compiler cannot see in a manifest: the pure rooms do not use the
//!   standard library's I/O, clocks and threads, and only the CLI prints.

mod arrows;
mod licences;
mod metadata;
mod sources;

use anyhow::Result;

use crate::run;
use metadata::Metadata;

/// Every broken rule, in words; and, printed only, what is worth a look.
pub fn findings() -> Result<Vec<String>> {
    let metadata = Metadata::read()?;
    for note in licences::twice(&metadata) {
        println!("Note: {note}");
    }
    let mut findings = arrows::broken(&metadata);
    findings.extend(licences::broken(&metadata));
    findings.extend(sources::broken(&run::root().join("crates"))?);
    Ok(findings)
}

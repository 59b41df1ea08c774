//! What the documents say of the repository is true.
//!
//! - [`links`]: a relative link leads to a file, and its `#part` to a heading;
//! - [`decisions`]: each decision record has a number of its own;
//! - [`promises`]: each promise to users names tests that hold it, and they exist.

mod decisions;
mod links;
mod promises;

use std::path::Path;

use anyhow::Result;

use crate::tree;

/// Every untrue statement, in words.
pub fn findings(root: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for page in tree::files(root, "md")? {
        findings.extend(links::broken(root, &page)?);
    }
    findings.extend(decisions::broken(&root.join("docs/decisions"))?);
    findings.extend(promises::broken(root)?);
    Ok(findings)
}

/// The lines of a page that are text, with their numbers: no code blocks.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_code = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
            return None;
        }
        (!in_code).then_some((at + 1, line))
    })
}

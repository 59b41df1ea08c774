//! Decision records: `docs/decisions/0000-words.md`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::tree;

/// Records without a number, and numbers that two records have.
pub fn broken(dir: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for file in tree::files(dir, "md")? {
        let name = file
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        match number(&name) {
            None => findings.push(format!("docs/decisions/{name}: the name has no number.")),
            Some(number) => {
                if let Some(other) = taken.insert(number.to_owned(), name.clone()) {
                    findings.push(format!(
                        "docs/decisions: {other} and {name} have one number."
                    ));
                }
            }
        }
    }
    Ok(findings)
}

fn number(name: &str) -> Option<&str> {
    let (number, words) = name.split_once('-')?;
    let digits = number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit());
    (digits && words.len() > ".md".len()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_decisions_of_one_number_are_found() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0001-a.md", "0002-b.md", "0002-c.md", "notes.md"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(broken(dir.path()).unwrap().len(), 2);
    }
}

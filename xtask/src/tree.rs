//! Walking directories.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// All files below `dir` whose name ends in `.extension`, sorted; nothing if there is no
/// such directory. Hidden directories and cargo's `target` are left out.
pub fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if dir.is_dir() {
        walk(dir, extension, &mut found)?;
    }
    found.sort();
    Ok(found)
}

fn walk(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, kind, name) = (entry.path(), entry.file_type()?, entry.file_name());
        if kind.is_dir() && name != "target" && !name.as_encoded_bytes().starts_with(b".") {
            walk(&path, extension, found)?;
        } else if kind.is_file() && path.extension().is_some_and(|end| end == extension) {
            found.push(path);
        }
    }
    Ok(())
}

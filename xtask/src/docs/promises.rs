//! Promises to users, and the tests that hold them.
//!
//! In `docs/promises.md` each `###` heading is a promise. Its text ends with a paragraph
//! that starts with `Held by`, with tests in backquotes: `crate::module::test`, the crate
//! by the name of its directory, a test of its `tests/` by the name of its file.

use std::path::Path;

use anyhow::{Context, Result};

use super::prose;
use crate::tree;

const PAGE: &str = "docs/promises.md";

/// Promises that no test holds, and tests that do not exist.
pub fn broken(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join(PAGE)).context(PAGE)?;
    let mut findings = Vec::new();
    for promise in promises(&text) {
        if promise.tests.is_empty() {
            findings.push(format!(
                "{PAGE}:{}: no test holds this promise.",
                promise.line
            ));
        }
        for test in promise.tests {
            if !exists(root, test)? {
                findings.push(format!("{PAGE}:{}: there is no test {test}.", promise.line));
            }
        }
    }
    Ok(findings)
}

struct Promise<'a> {
    line: usize,
    tests: Vec<&'a str>,
}

fn promises(text: &str) -> Vec<Promise<'_>> {
    let mut promises: Vec<Promise<'_>> = Vec::new();
    let mut naming = false;
    for (line, words) in prose(text) {
        if words.starts_with("### ") {
            promises.push(Promise {
                line,
                tests: Vec::new(),
            });
        }
        naming = !words.trim().is_empty() && (naming || words.starts_with("Held by"));
        if let (true, Some(promise)) = (naming, promises.last_mut()) {
            promise.tests.extend(words.split('`').skip(1).step_by(2));
        }
    }
    promises
}

fn exists(root: &Path, test: &str) -> Result<bool> {
    let mut parts: Vec<&str> = test.split("::").collect();
    let (Some(name), true) = (parts.pop(), parts.len() > 1) else {
        return Ok(false);
    };
    let room = parts.remove(0);
    let dir = if room == "xtask" {
        root.join(room)
    } else {
        root.join("crates").join(room)
    };
    for file in tree::files(&dir, "rs")? {
        let text = std::fs::read_to_string(&file)?;
        let inside = file.strip_prefix(&dir).unwrap_or(&file);
        let is_there = |module: &&str| {
            inside.with_extension("").iter().any(|part| part == *module)
                || text.contains(&format!("mod {module}"))
        };
        if parts.iter().all(is_there) && is_test(&text, name) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Macros of the workspace that make tests of the functions they are handed.
const MAKERS: [&str; 2] = ["in_each_profile!(", "conformance!(@ $make;"];

/// Whether a file has a test of this name: made by a macro, or written out.
fn is_test(text: &str, name: &str) -> bool {
    let handed = MAKERS.iter().flat_map(|maker| text.split(maker).skip(1));
    let mut names = handed.flat_map(|rest| rest.split(");").take(1));
    names.any(|names| {
        names
            .split([',', ' ', '\n'])
            .any(|word| word.trim() == name)
    }) || is_written_out(text, name)
}

/// Whether `name` is a function that stands right below a test's attribute, and is run.
fn is_written_out(text: &str, name: &str) -> bool {
    let head = format!("fn {name}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.iter().enumerate().any(|(at, line)| {
        let attributes = lines[..at]
            .iter()
            .rev()
            .take_while(|line| !line.is_empty() && **line != "}");
        line.contains(&head)
            && !attributes.clone().any(|line| line.starts_with("#[ignore"))
            && (attributes
                .clone()
                .any(|line| line.starts_with("#[") && line.contains("test"))
                || lines[..at].contains(&"proptest! {"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"fn not_a_test() {}

#[cfg(test)]
mod tests {
    /// Words.
    #[tokio::test]
    async fn saved_is_safe() {
    }

    fn helper() {}

    #[test]
    #[ignore = "slow"]
    fn left_out() {
    }

    in_each_profile!(
        names_are_kept,
        times_are_kept
    );
}
"#;

    fn house(promises: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for dir in ["docs", "crates/volume/src"] {
            std::fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        std::fs::write(root.path().join("crates/volume/src/push.rs"), SOURCE).unwrap();
        std::fs::write(root.path().join(PAGE), promises).unwrap();
        root
    }

    fn count(promises: &str) -> usize {
        broken(house(promises).path()).unwrap().len()
    }

    #[test]
    fn a_promise_with_its_test_is_fine() {
        assert_eq!(
            count("### Safe\n\nText.\n\nHeld by\n`volume::push::tests::saved_is_safe`.\n"),
            0
        );
    }

    #[test]
    fn a_test_that_a_macro_makes_is_one() {
        for name in ["names_are_kept", "times_are_kept"] {
            let page = format!("### Kept\n\nHeld by `volume::push::tests::{name}`.\n");
            assert_eq!(count(&page), 0, "{name}");
        }
    }

    #[test]
    fn a_promise_without_a_test_is_found() {
        assert_eq!(count("### Safe\n\nText with `code::like::this`.\n"), 1);
    }

    #[test]
    fn a_test_that_is_not_there_is_found() {
        for name in [
            "volume::push::tests::renamed",
            "volume::push::tests::helper",
            "volume::push::tests::left_out",
            "volume::push::not_a_test",
            "volume::pull::tests::saved_is_safe",
            "store::push::tests::saved_is_safe",
            "saved_is_safe",
        ] {
            assert_eq!(
                count(&format!("### Safe\n\nHeld by `{name}`.\n")),
                1,
                "{name}"
            );
        }
    }
}

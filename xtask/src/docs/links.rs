//! Links between the pages of this repository.

use std::path::Path;

use anyhow::Result;

use super::prose;

/// Links of a page that lead nowhere. Links to other sites are not followed.
pub fn broken(root: &Path, page: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(page)?;
    let name = page.strip_prefix(root).unwrap_or(page).display();
    let here = page.parent().unwrap_or(root);
    let mut findings = Vec::new();
    for (number, line) in prose(&text) {
        for target in targets(line).filter(|target| !is_elsewhere(target)) {
            let (path, part) = target.split_once('#').unwrap_or((target, ""));
            let file = if path.is_empty() {
                page.to_owned()
            } else {
                here.join(path)
            };
            if !file.exists() {
                findings.push(format!("{name}:{number}: there is no {path}."));
            } else if !part.is_empty() && !has_heading(&file, part)? {
                findings.push(format!(
                    "{name}:{number}: there is no heading for {target}."
                ));
            }
        }
    }
    Ok(findings)
}

fn is_elsewhere(target: &str) -> bool {
    ["http://", "https://", "mailto:"]
        .iter()
        .any(|scheme| target.starts_with(scheme))
}

/// What stands in the round brackets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'))
        .map(|(target, _)| target.trim())
}

fn has_heading(file: &Path, part: &str) -> Result<bool> {
    if file.is_dir() || file.extension().is_none_or(|end| end != "md") {
        return Ok(false);
    }
    let text = std::fs::read_to_string(file)?;
    let found = prose(&text).any(|(_, line)| {
        line.strip_prefix('#')
            .is_some_and(|rest| anchor(rest.trim_start_matches('#')) == part)
    });
    Ok(found)
}

/// The name that a rendered page gives to a heading.
fn anchor(heading: &str) -> String {
    let kept = heading
        .trim()
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nothing_is_found() {
        let root = tempfile::tempdir().unwrap();
        let page = root.path().join("page.md");
        std::fs::write(root.path().join("other.md"), "# It's here: now\n").unwrap();
        std::fs::write(
            &page,
            "[a](other.md) [b](missing.md)\n```\n[c](in-code.md)\n```\n\
             [d](https://example.org/x) [e](other.md#its-here-now) [f](other.md#gone)\n",
        )
        .unwrap();
        let findings = broken(root.path(), &page).unwrap();
        assert_eq!(
            findings,
            [
                "page.md:1: there is no missing.md.",
                "page.md:5: there is no heading for other.md#gone."
            ]
        );
    }
}

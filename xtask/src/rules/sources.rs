//! What a manifest does not show: uses of the standard library.
//!
//! Only code is read, not tests: a file ends, for these rules, at its `#[cfg(test)]`
//! module, and files named `tests.rs` or `testing.rs` are left out.

use std::path::Path;

use anyhow::Result;

use crate::tree;

/// Words that must not stand in some crates' code.
struct Rule {
    crates: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        crates: &["model", "format", "plan"],
        words: &[
            "std::fs",
            "std::net",
            "std::process",
            "std::env",
            "std::os",
            "File::",
        ],
        why: "a pure room does no I/O",
    },
    Rule {
        crates: &["model", "format", "plan"],
        words: &["SystemTime", "Instant::now", "UNIX_EPOCH"],
        why: "a pure room reads no clock: take the time as a parameter",
    },
    Rule {
        crates: &["model", "format", "plan"],
        words: &["SystemRandom", "RandomState", "OsRng"],
        why: "a pure room draws no random number: take it as a parameter",
    },
    Rule {
        crates: &["model", "format", "plan"],
        words: &["std::thread", "thread::spawn", "std::sync::mpsc"],
        why: "a pure room starts no thread",
    },
    Rule {
        crates: &[
            "model", "format", "plan", "store", "volume", "mount", "daemon",
        ],
        words: &["println!(", "print!("],
        why: "only the CLI prints",
    },
];

/// Every line under `crates` that breaks a rule.
pub fn broken(crates: &Path) -> Result<Vec<String>> {
    let mut findings = Vec::new();
    let mut rooms: Vec<&str> = RULES.iter().flat_map(|rule| rule.crates).copied().collect();
    rooms.sort_unstable();
    rooms.dedup();
    for room in rooms {
        for file in tree::files(&crates.join(room).join("src"), "rs")? {
            if !is_test_file(&file) {
                let text = std::fs::read_to_string(&file)?;
                findings.extend(
                    broken_in(room, &text).map(|found| format!("{}:{}", file.display(), found)),
                );
            }
        }
    }
    Ok(findings)
}

fn is_test_file(file: &Path) -> bool {
    file.iter().any(|part| {
        ["tests.rs", "tests", "testing.rs", "testing"]
            .iter()
            .any(|name| part == *name)
    })
}

fn broken_in(room: &str, text: &str) -> impl Iterator<Item = String> {
    let code = text
        .lines()
        .zip(1..)
        .take_while(|(line, _)| line.trim() != "#[cfg(test)]");
    let code = code.filter(|(line, _)| !line.trim_start().starts_with("//"));
    let hits = code.flat_map(move |(line, number)| {
        RULES
            .iter()
            .filter(move |rule| rule.crates.contains(&room))
            .flat_map(|rule| rule.words.iter().map(move |word| (rule, *word)))
            .filter(move |(_, word)| line.contains(word))
            .map(move |(rule, word)| format!("{number}: {word}: {}.", rule.why))
    });
    hits.collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(room: &str, text: &str) -> usize {
        broken_in(room, text).count()
    }

    #[test]
    fn a_clock_a_file_and_a_thread_in_a_pure_room_are_found() {
        assert_eq!(count("plan", "let now = std::time::SystemTime::now();"), 1);
        assert_eq!(
            count("format", "use std::fs;\nlet t = std::thread::spawn(f);"),
            2 + 1
        );
        assert_eq!(
            count("model", "let rng = ring::rand::SystemRandom::new();"),
            1
        );
        assert_eq!(
            count("volume", "let now = std::time::SystemTime::now();"),
            0
        );
    }

    #[test]
    fn a_library_that_prints_is_found() {
        assert_eq!(count("volume", "    println!(\"done\");"), 1);
    }

    #[test]
    fn tests_and_comments_may_do_what_they_need() {
        assert_eq!(count("plan", "// no std::fs here\n/// nor SystemTime\n"), 0);
        assert_eq!(
            count("format", "#[cfg(test)]\nmod tests { use std::fs; }"),
            0
        );
    }
}

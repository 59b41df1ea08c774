//! Licences that may end in the binary, and crates that must not.

use std::collections::BTreeMap;

use super::metadata::Metadata;

/// Licences that a binary under MIT or Apache-2.0 can carry.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that are not wanted, not in tests either, and why.
const BANNED: &[(&str, &str)] = &[
    (
        "openssl-sys",
        "ring and rustls serve; OpenSSL has to be there at build and at run time",
    ),
    (
        "native-tls",
        "ring and rustls serve; OpenSSL has to be there at build and at run time",
    ),
    (
        "aws-lc-sys",
        "one provider of cryptography for all, ring, and no C build of minutes",
    ),
    ("libfuse-sys", "fuser speaks to the kernel itself"),
];

/// Crates so large that two major versions of them are worth a look.
const LARGE: &[&str] = &[
    "axum",
    "clap",
    "hyper",
    "opendal",
    "regex-automata",
    "reqwest",
    "ring",
    "rusqlite",
    "russh",
    "rustix",
    "rustls",
    "serde_json",
    "syn",
    "tokio",
    "tower",
    "zstd-sys",
];

/// Every crate whose licence or name is not allowed.
pub fn broken(metadata: &Metadata) -> Vec<String> {
    let built_in = metadata.built_in();
    let mut findings = Vec::new();
    for package in &metadata.packages {
        if let Some((_, why)) = BANNED.iter().find(|(name, _)| *name == package.name) {
            findings.push(format!("{} is not wanted: {why}.", package.name));
        }
        if !built_in.contains(package.id.as_str()) {
            continue;
        }
        let licence = package.license.as_deref().unwrap_or("none");
        if !is_allowed(licence) {
            findings.push(format!(
                "The licence of {} {} is not on the list: {licence}.",
                package.name, package.version
            ));
        }
    }
    findings
}

/// Large crates that are built in two major versions.
pub fn twice(metadata: &Metadata) -> Vec<String> {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in metadata
        .packages
        .iter()
        .filter(|package| LARGE.contains(&&*package.name))
    {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    versions.retain(|_, all| all.len() > 1);
    versions
        .iter()
        .map(|(name, all)| format!("{name} is built more than once: {}.", all.join(", ")))
        .collect()
}

/// Whether an SPDX expression leaves a choice that is allowed. `OR` binds less than `AND`;
/// the old `/` means `OR`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words };
    reader.either() && reader.words.is_empty()
}

struct Reader<'a> {
    words: &'a [&'a str],
}

impl<'a> Reader<'a> {
    fn next_is(&mut self, word: &str) -> bool {
        let is = self.words.first() == Some(&word);
        if is {
            self.words = &self.words[1..];
        }
        is
    }

    fn either(&mut self) -> bool {
        let mut allowed = self.both();
        while self.next_is("OR") {
            allowed |= self.both();
        }
        allowed
    }

    fn both(&mut self) -> bool {
        let mut allowed = self.one();
        while self.next_is("AND") {
            allowed &= self.one();
        }
        allowed
    }

    fn one(&mut self) -> bool {
        if self.next_is("(") {
            let allowed = self.either();
            return self.next_is(")") && allowed;
        }
        let Some((&licence, rest)) = self.words.split_first() else {
            return false;
        };
        self.words = rest;
        if !self.next_is("WITH") {
            return ALLOWED.contains(&licence);
        }
        let Some((&exception, rest)) = self.words.split_first() else {
            return false;
        };
        self.words = rest;
        ALLOWED.contains(&format!("{licence} WITH {exception}").as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::super::metadata::planted::metadata;
    use super::*;

    #[test]
    fn a_licence_expression_is_read_as_it_is_meant() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-2.0) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
            "MIT AND BSD-3-Clause OR GPL-2.0",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in [
            "GPL-3.0",
            "none",
            "",
            "MIT AND GPL-3.0",
            "(MIT OR ISC) AND AGPL-3.0",
            "Apache-2.0 WITH Strange-exception",
            "MIT GPL-3.0",
            "(MIT",
            "OR",
        ] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn a_copyleft_crate_is_found_where_it_would_be_built_in() {
        let crates = [
            ("larder", "1.0.0", "MIT"),
            ("deep", "1.0.0", "MIT"),
            ("gpl", "1.0.0", "GPL-3.0"),
        ];
        let deep = [("larder", "deep", None), ("deep", "gpl", None)];
        assert_eq!(broken(&metadata(&crates, &deep)).len(), 1);
        let in_tests = [("larder", "deep", Some("dev")), ("deep", "gpl", None)];
        assert!(broken(&metadata(&crates, &in_tests)).is_empty());
    }

    #[test]
    fn a_crate_without_a_licence_is_found() {
        let crates = [("larder", "1.0.0", "MIT"), ("bare", "1.0.0", "")];
        assert_eq!(
            broken(&metadata(&crates, &[("larder", "bare", None)])).len(),
            1
        );
    }

    #[test]
    fn an_unwanted_crate_is_found_in_tests_too() {
        let crates = [("larder", "1.0.0", "MIT"), ("openssl-sys", "0.9.0", "MIT")];
        assert_eq!(
            broken(&metadata(
                &crates,
                &[("larder", "openssl-sys", Some("dev"))]
            ))
            .len(),
            1
        );
    }

    #[test]
    fn two_majors_of_a_large_crate_are_told() {
        let crates = [
            ("larder", "1.0.0", "MIT"),
            ("hyper", "0.14.0", "MIT"),
            ("hyper", "1.5.0", "MIT"),
        ];
        assert_eq!(twice(&metadata(&crates, &[])).len(), 1);
    }
}

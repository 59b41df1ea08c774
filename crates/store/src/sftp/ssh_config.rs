//! What the user's `~/.ssh/config` says of a host.
//!
//! Read are `Host` blocks (patterns with `*`, `?` and `!`), and in them `HostName`, `Port`,
//! `User`, `IdentityFile`, `HostKeyAlias`; as `ssh` does, the first value that is found
//! counts, and identity files add up. Not read are `Include` and `Match` (except `Match
//! all`). A host behind `ProxyJump` or `ProxyCommand` is refused in words, for connecting
//! past the proxy would reach another machine or none.

use std::path::{Path, PathBuf};

/// What a configuration says of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostConfig {
    pub(super) host_name: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) user: Option<String>,
    pub(super) identities: Vec<PathBuf>,
    pub(super) key_alias: Option<String>,
    /// How `ssh` would get there, if not directly.
    pub(super) proxy: Option<String>,
}

impl HostConfig {
    /// What the configuration below `home` says; nothing if there is none.
    pub(super) fn load(home: &Path, host: &str) -> Self {
        let text = std::fs::read_to_string(home.join(".ssh").join("config")).unwrap_or_default();
        Self::read(&text, home, host)
    }

    /// What `text` says.
    fn read(text: &str, home: &Path, host: &str) -> Self {
        let mut found = Self::default();
        let mut applies = true;
        for line in text.lines() {
            let Some((keyword, value)) = split(line) else {
                continue;
            };
            match keyword.to_ascii_lowercase().as_str() {
                "host" => applies = matches_any(&value, host),
                "match" => applies = value.eq_ignore_ascii_case("all"),
                keyword if applies => found.take(keyword, &value, home, host),
                _ => {}
            }
        }
        found
    }

    fn take(&mut self, keyword: &str, value: &str, home: &Path, host: &str) {
        let text = || Some(value.to_owned());
        match keyword {
            "hostname" => {
                self.host_name = self
                    .host_name
                    .take()
                    .or_else(|| Some(value.replace("%h", host)));
            }
            "port" => self.port = self.port.or_else(|| value.parse().ok()),
            "user" => self.user = self.user.take().or_else(text),
            "hostkeyalias" => self.key_alias = self.key_alias.take().or_else(text),
            "proxyjump" | "proxycommand" => self.proxy = self.proxy.take().or_else(text),
            "identityfile" if !value.eq_ignore_ascii_case("none") => {
                let path = value
                    .strip_prefix("~/")
                    .or_else(|| value.strip_prefix("%d/"));
                // A relative path is meant from the home directory; an absolute one stays.
                self.identities.push(home.join(path.unwrap_or(value)));
            }
            _ => {}
        }
    }

    /// The proxy that is really one: `none` turns off an earlier pattern's.
    pub(super) fn real_proxy(&self) -> Option<&str> {
        self.proxy
            .as_deref()
            .filter(|proxy| !proxy.eq_ignore_ascii_case("none"))
    }
}

/// `Keyword value`, `Keyword=value`, with quotes around the value perhaps.
fn split(line: &str) -> Option<(&str, String)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (keyword, value) = line.split_once(|c: char| c.is_whitespace() || c == '=')?;
    let value = value
        .trim_start_matches(|c: char| c.is_whitespace() || c == '=')
        .trim();
    let quoted = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'));
    Some((keyword, quoted.unwrap_or(value).to_owned()))
}

/// Whether a pattern fits and no negated one does.
fn matches_any(patterns: &str, host: &str) -> bool {
    let mut fits = false;
    for pattern in patterns.split_whitespace() {
        match pattern.strip_prefix('!') {
            Some(negated) if matches(negated.as_bytes(), host.as_bytes()) => return false,
            Some(_) => {}
            None => fits |= matches(pattern.as_bytes(), host.as_bytes()),
        }
    }
    fits
}

fn matches(pattern: &[u8], host: &[u8]) -> bool {
    match (pattern.split_first(), host.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), None) => matches(rest, host),
        (Some((b'*', rest)), Some((_, tail))) => matches(rest, host) || matches(pattern, tail),
        (Some((b'?', rest)), Some((_, tail))) => matches(rest, tail),
        (Some((wanted, rest)), Some((given, tail))) => {
            wanted.eq_ignore_ascii_case(given) && matches(rest, tail)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        # mine
        Host nas backup-*
            HostName = 192.168.1.7
            Port 2222
            IdentityFile ~/.ssh/nas_key
        Host *.lan !secret.lan
            User me
            HostName %h.example.org
        Host far
            ProxyJump gate
        Match exec true
            User nobody
        Host *
            User everyone
            IdentityFile \"/keys/my key\"
    ";

    fn read(host: &str) -> HostConfig {
        HostConfig::read(TEXT, Path::new("/home/me"), host)
    }

    #[test]
    fn the_first_value_counts_and_identities_add_up() {
        let nas = read("nas");
        assert_eq!(nas.host_name.as_deref(), Some("192.168.1.7"));
        assert_eq!(
            (nas.port, nas.user.as_deref()),
            (Some(2222), Some("everyone"))
        );
        let keys = ["/home/me/.ssh/nas_key", "/keys/my key"].map(PathBuf::from);
        assert_eq!(nas.identities, keys);
        assert_eq!(read("backup-3").port, Some(2222));
    }

    #[test]
    fn patterns_and_their_negations_are_told_apart() {
        let printer = read("printer.lan");
        assert_eq!(printer.user.as_deref(), Some("me"));
        assert_eq!(
            printer.host_name.as_deref(),
            Some("printer.lan.example.org")
        );
        assert_eq!(read("secret.lan").user.as_deref(), Some("everyone"));
        assert_eq!(read("elsewhere").host_name, None);
    }

    #[test]
    fn a_proxy_is_noticed() {
        assert_eq!(read("far").real_proxy(), Some("gate"));
        assert_eq!(read("nas").real_proxy(), None);
    }
}

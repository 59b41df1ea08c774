//! Addresses, as a user writes them.
//!
//! | address | store |
//! |---|---|
//! | `/srv/larder`, `../disk`, `file:///srv/larder` | a folder |
//! | `sftp://[user@]host[:port]/path` | an SSH server; `/~/path` is below the login directory |
//! | `s3://bucket[/prefix][?endpoint=URL&region=NAME&profile=NAME]` | an S3 service |
//! | `webdav://[user@]host[:port]/path`, `webdavs://…` | a WebDAV server, by HTTP or HTTPS |
//!
//! `%41` stands for a byte in paths, users and options. A password is never part of an
//! address: addresses are shown and logged.

use std::path::PathBuf;
use std::sync::Arc;

use crate::folder::Folder;
use crate::http::{S3, Webdav};
use crate::sftp::Sftp;
use crate::{ErrorKind, Store, StoreError, StoreOptions};

/// What an address says, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    Folder(PathBuf),
    Sftp(Server),
    S3(Bucket),
    Webdav { tls: bool, server: Server },
}

/// A path on a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) user: Option<String>,
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// As it stands in the address, from the first slash on, still percent-encoded.
    pub(crate) path: String,
}

/// A prefix in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) endpoint: Option<String>,
    pub(crate) region: Option<String>,
    pub(crate) profile: Option<String>,
}

/// Opens the store that `address` names. Nothing is connected before it is used.
///
/// # Errors
/// [`ErrorKind::Invalid`], in words, if the address or the options make no sense.
pub fn open(address: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match parse(address)? {
        Address::Folder(root) => Arc::new(Folder::new(address, root, options)),
        Address::Sftp(server) => Arc::new(Sftp::new(address, &server, options)?),
        Address::S3(bucket) => Arc::new(S3::new(address, &bucket, options)?),
        Address::Webdav { tls, server } => Arc::new(Webdav::new(address, &server, tls, options)?),
    })
}

/// What `address` says.
pub(crate) fn parse(address: &str) -> Result<Address, StoreError> {
    let wrong = |words: &str| StoreError::new(ErrorKind::Invalid, without_secret(address), words);
    let Some((scheme, rest)) = address.split_once("://") else {
        return parse_folder(address, &wrong);
    };
    match scheme {
        "file" => {
            let path = rest
                .strip_prefix("localhost")
                .unwrap_or(rest)
                .strip_prefix('/')
                .ok_or_else(|| wrong("write file:///path, with three slashes"))?;
            parse_folder(
                &format!("/{}", decode(path).map_err(|e| wrong(&e))?),
                &wrong,
            )
        }
        "sftp" | "ssh" => Ok(Address::Sftp(parse_server(rest, &wrong)?)),
        "s3" => Ok(Address::S3(parse_bucket(rest, &wrong)?)),
        "webdav" | "dav" => Ok(Address::Webdav {
            tls: false,
            server: parse_server(rest, &wrong)?,
        }),
        "webdavs" | "davs" => Ok(Address::Webdav {
            tls: true,
            server: parse_server(rest, &wrong)?,
        }),
        "http" => Err(wrong("for a WebDAV server write webdav://host/path")),
        "https" => Err(wrong("for a WebDAV server write webdavs://host/path")),
        other => Err(wrong(&format!(
            "{other}:// is no store that Larder knows; there are a folder's path, sftp://, s3://, \
             webdav:// and webdavs://"
        ))),
    }
}

fn parse_folder(path: &str, wrong: &dyn Fn(&str) -> StoreError) -> Result<Address, StoreError> {
    if path.is_empty() {
        return Err(wrong("an empty address; give a folder's path or a URL"));
    }
    let before_slash = path.split('/').next().unwrap_or_default();
    if let Some((host, _)) = before_slash.split_once(':')
        && host.len() > 1
        && !std::path::Path::new(path).exists()
    {
        return Err(wrong(&format!(
            "for an SSH server write sftp://{host}/path; for a folder with a colon write ./{path}"
        )));
    }
    // Absolute, because a daemon works in another directory than its user.
    let path = std::path::absolute(path)
        .map_err(|error| wrong("this path cannot be made absolute").caused_by(error))?;
    Ok(Address::Folder(path))
}

fn parse_server(text: &str, wrong: &dyn Fn(&str) -> StoreError) -> Result<Server, StoreError> {
    let (authority, path) = match text.find('/') {
        Some(at) => text.split_at(at),
        None => return Err(wrong("the path is missing: scheme://host/path")),
    };
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return Err(wrong(
            "a password in an address would be shown and logged; hand it in another way \
             (an SSH key, or LARDER_WEBDAV_PASSWORD)",
        ));
    }
    let (host, port) =
        split_port(place).ok_or_else(|| wrong("this host and port make no sense"))?;
    if host.is_empty() {
        return Err(wrong("the host is missing: scheme://host/path"));
    }
    let user = user.filter(|user| !user.is_empty()).map(decode).transpose();
    Ok(Server {
        user: user.map_err(|e| wrong(&e))?,
        host: host.to_owned(),
        port,
        path: path.to_owned(),
    })
}

/// `host`, `host:22`, `[::1]`, `[::1]:22`.
fn split_port(place: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match place.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?,
        None => match place.find(':') {
            Some(at) => place.split_at(at),
            None => (place, ""),
        },
    };
    match rest.strip_prefix(':') {
        None if rest.is_empty() => Some((host, None)),
        None => None,
        Some(port) => Some((host, Some(port.parse().ok().filter(|port| *port != 0)?))),
    }
}

fn parse_bucket(text: &str, wrong: &dyn Fn(&str) -> StoreError) -> Result<Bucket, StoreError> {
    let (place, query) = text.split_once('?').unwrap_or((text, ""));
    let (name, prefix) = place.split_once('/').unwrap_or((place, ""));
    if name.is_empty() {
        return Err(wrong("the bucket is missing: s3://bucket/prefix"));
    }
    if name.contains(['@', ':']) {
        return Err(wrong(
            "credentials do not belong in an address; use AWS_ACCESS_KEY_ID or a profile",
        ));
    }
    let mut bucket = Bucket {
        name: name.to_owned(),
        prefix: decode(prefix.trim_matches('/')).map_err(|e| wrong(&e))?,
        ..Bucket::default()
    };
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (option, value) = option.split_once('=').unwrap_or((option, ""));
        let value = Some(decode(value).map_err(|e| wrong(&e))?).filter(|value| !value.is_empty());
        match option {
            "endpoint" => bucket.endpoint = value,
            "region" => bucket.region = value,
            "profile" => bucket.profile = value,
            other => {
                return Err(wrong(&format!(
                    "{other:?} is no option of s3://; there are endpoint, region and profile"
                )));
            }
        }
    }
    Ok(bucket)
}

/// Undoes percent-encoding.
pub(crate) fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digit = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(format!(
                "{text:?}: a % needs two hex digits behind it; write %25 for itself"
            ));
        };
        bytes.push((high * 16 + low) as u8);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

/// The address as it may be shown: what looks like a password is left out.
fn without_secret(address: &str) -> String {
    let Some((scheme, rest)) = address.split_once("://") else {
        return address.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rsplit_once('@') {
        Some((user, _)) => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}{}", &rest[user.len()..])
        }
        None => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str) -> Server {
        match parse(address).unwrap() {
            Address::Sftp(server) | Address::Webdav { server, .. } => server,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_sftp_address_has_user_host_port_and_path() {
        let full = server("sftp://me%40home@nas.lan:2222/srv/larder");
        assert_eq!(full.user.as_deref(), Some("me@home"));
        assert_eq!((full.host.as_str(), full.port), ("nas.lan", Some(2222)));
        assert_eq!(full.path, "/srv/larder");
        let short = server("sftp://nas/~/larder");
        assert_eq!((short.user, short.port), (None, None));
        let v6 = server("webdavs://[::1]:8443/x");
        assert_eq!((v6.host.as_str(), v6.port), ("::1", Some(8443)));
    }

    #[test]
    fn a_path_or_a_file_url_is_a_folder() {
        let folder = |text: &str| match parse(text).unwrap() {
            Address::Folder(path) => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(folder("/srv/larder"), PathBuf::from("/srv/larder"));
        assert_eq!(folder("file:///srv/a%20b"), PathBuf::from("/srv/a b"));
        assert!(folder("relative/path").is_absolute());
    }

    #[test]
    fn an_s3_address_has_a_bucket_a_prefix_and_options() {
        let Address::S3(bucket) =
            parse("s3://photos/my/larder/?endpoint=https%3A%2F%2Fs3.example&region=eu-1").unwrap()
        else {
            panic!("no bucket")
        };
        assert_eq!(bucket.name, "photos");
        assert_eq!(bucket.prefix, "my/larder");
        assert_eq!(bucket.endpoint.as_deref(), Some("https://s3.example"));
        assert_eq!(bucket.region.as_deref(), Some("eu-1"));
        assert!(matches!(
            parse("s3://b?endpoint=http://127.0.0.1:9000").unwrap(),
            Address::S3(_)
        ));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_words_and_without_the_password() {
        for (address, words) in [
            ("", "empty address"),
            ("ftp://host/x", "no store that Larder knows"),
            ("https://host/x", "webdavs://"),
            ("sftp://host", "path is missing"),
            ("sftp:///x", "host is missing"),
            ("sftp://host:ssh/x", "make no sense"),
            ("sftp://me:geheim@host/x", "password"),
            ("webdavs://me:geheim@host/x", "password"),
            ("s3:///x", "bucket is missing"),
            ("s3://b/x?speed=fast", "no option"),
            ("sftp://a%zz@host/x", "hex digits"),
            ("nas:/srv/larder", "sftp://nas/path"),
        ] {
            let error = parse(address).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            let said = error.to_string();
            assert!(said.contains(words), "{address:?} said {said:?}");
            assert!(!said.contains("geheim"), "{said}");
        }
    }
}

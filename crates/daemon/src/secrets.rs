//! What a store wants to be shown: S3 keys, a WebDAV password.
//!
//! They come from the environment, else from `secrets.toml` (mode 0600) in the state
//! directory. (S3 keys that neither has come from where other tools look: `AWS_*`, `~/.aws`,
//! the machine's role; that is the store's own search.) They are never in `config.toml`, in
//! a log, or on a screen.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::Deserialize;

use crate::failure::Failure;

/// The secrets' file name in a state directory.
pub const SECRETS_FILE: &str = "secrets.toml";

/// A secret: never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for the store only.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The secrets of one store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Secrets {
    /// S3: the access key's id.
    pub s3_access_key_id: Option<Secret>,
    /// S3: the access key.
    pub s3_secret_access_key: Option<Secret>,
    /// S3: a session token.
    pub s3_session_token: Option<Secret>,
    /// WebDAV: the user.
    pub webdav_user: Option<Secret>,
    /// WebDAV: the password.
    pub webdav_password: Option<Secret>,
}

impl Secrets {
    /// The secrets of the volume in `state_dir`: from `env` (a look-up of variables), else
    /// from its file.
    ///
    /// # Errors
    /// If the file cannot be read, others may read it, or it says what makes no sense.
    pub fn load(state_dir: &Path, env: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let file = Self::read(&state_dir.join(SECRETS_FILE))?.unwrap_or_default();
        Ok(Self::from_env(env, file))
    }

    fn from_env(env: impl Fn(&str) -> Option<String>, file: Self) -> Self {
        let var = |name: &str| env(name).filter(|v| !v.is_empty()).map(Secret);
        Self {
            s3_access_key_id: var("LARDER_S3_ACCESS_KEY_ID").or(file.s3_access_key_id),
            s3_secret_access_key: var("LARDER_S3_SECRET_ACCESS_KEY").or(file.s3_secret_access_key),
            s3_session_token: var("LARDER_S3_SESSION_TOKEN").or(file.s3_session_token),
            webdav_user: var("LARDER_WEBDAV_USER").or(file.webdav_user),
            webdav_password: var("LARDER_WEBDAV_PASSWORD").or(file.webdav_password),
        }
    }

    /// The secrets in the file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// As [`Secrets::load`].
    pub fn read(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Failure::io("read", path, e)),
        };
        let mode = fs::metadata(path)
            .map_err(|e| Failure::io("read", path, e))?
            .mode();
        if mode & 0o077 != 0 {
            return Err(Failure::failed(format!(
                "Others may read the secrets in {}.",
                path.display()
            ))
            .hint(format!("chmod 600 {}", path.display())));
        }
        // The parser's own words would show the line, and with it a secret.
        toml::from_str(&text).map(Some).map_err(|e| {
            Failure::usage(format!(
                "{}: {}.",
                path.display(),
                e.message().trim_end_matches('.')
            ))
        })
    }

    /// Copies the secrets file at `from` into `state_dir`, after it was found to make sense.
    ///
    /// # Errors
    /// If it does not, or on an I/O error.
    pub fn adopt_file(from: &Path, state_dir: &Path) -> Result<(), Failure> {
        if Self::read(from)?.is_none() {
            return Err(Failure::usage(format!(
                "There is no file {}.",
                from.display()
            )));
        }
        let text = fs::read(from).map_err(|e| Failure::io("read", from, e))?;
        let target = state_dir.join(SECRETS_FILE);
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&target)?;
            file.write_all(&text)?;
            file.sync_all()
        };
        write().map_err(|e| Failure::io("write", &target, e))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(dir: &Path, text: &str, mode: u32) {
        let path = dir.join(SECRETS_FILE);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_environment_comes_first_then_the_file() {
        let dir = tempfile::tempdir().unwrap();
        write(
            dir.path(),
            "s3-access-key-id = \"file\"\nwebdav-user = \"me\"\n",
            0o600,
        );
        let secrets = Secrets::load(dir.path(), |name| match name {
            "LARDER_S3_SECRET_ACCESS_KEY" => Some("env".into()),
            "LARDER_WEBDAV_USER" => Some(String::new()),
            _ => None,
        })
        .unwrap();
        assert_eq!(secrets.s3_access_key_id, Some(Secret("file".into())));
        assert_eq!(secrets.s3_secret_access_key, Some(Secret("env".into())));
        assert_eq!(secrets.s3_session_token, None);
        assert_eq!(secrets.webdav_user, Some(Secret("me".into())));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "", 0o644);
        let failure = Secrets::load(dir.path(), |_| None).unwrap_err();
        assert!(
            failure
                .hint
                .is_some_and(|hint| hint.starts_with("chmod 600"))
        );
    }

    #[test]
    fn no_secret_is_shown_even_when_its_file_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "webdav-passwort = \"hunter2\"\n", 0o600);
        let failure = Secrets::load(dir.path(), |_| None).unwrap_err();
        assert!(failure.message.contains("webdav-passwort"), "{failure}");
        assert!(!failure.message.contains("hunter2"), "{failure}");
        assert!(!format!("{:?}", Secret("hunter2".into())).contains("hunter2"));
    }
}

//! What is to be known besides the commands: exit codes, addresses, files, variables.
//! Shown by `larder help TOPIC`, and part of the manual page.

use std::ffi::OsString;

/// Points to the topics, at the end of the help.
pub const POINTER: &str = "More: `larder help exit-codes`, `larder help stores`, \
`larder help environment`.";

/// A page that `larder help` shows.
pub struct Topic {
    /// The word after `larder help`.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// Its text.
    pub text: &'static str,
}

/// The topic that `larder help TOPIC` asks for, if it is one. (Other words are commands, and
/// clap's to explain.)
pub fn asked_for(args: impl IntoIterator<Item = OsString>) -> Option<&'static Topic> {
    let mut words = args.into_iter().skip(1);
    let (help, topic) = (words.next()?, words.next()?);
    if help != "help" || words.next().is_some() {
        return None;
    }
    TOPICS.iter().find(|known| *topic == *known.name)
}

/// How stores are named.
pub const ADDRESSES: &str = "\
Stores:
  /path/to/folder                          a folder
  sftp://[user@]host[:port]/path           an SSH server; /~/path is below the login directory
  s3://bucket[/prefix][?endpoint=URL&region=NAME]
                                           S3, or another service that speaks it
  webdav://host/path, webdavs://host/path  a WebDAV server, by HTTP or HTTPS
`larder help stores` says how secrets are handed in.";

/// All topics.
pub const TOPICS: [Topic; 3] = [
    Topic {
        name: "exit-codes",
        title: "EXIT CODES",
        text: " 0  It worked.
 1  It failed; the message says why.
 2  The command makes no sense: wrong arguments or settings, a path in no volume.
 3  It worked, and something is to be looked at: verify found damage, doctor an error,
    stash or adopt kept something, checkout could not bring all.
 4  A store cannot be reached, is full, or refuses.
 5  No daemon runs where one is needed, or another process holds the volume.
",
    },
    Topic {
        name: "stores",
        title: "STORES AND SECRETS",
        text: " /path/to/folder
     A folder: a disk, a mounted share.
 sftp://[USER@]HOST[:PORT]/PATH
     An SSH server; /~/PATH is below the login directory. Logs in with the agent, a key of
     ~/.ssh or --identity. The host must be in known_hosts, or be taken once with
     --accept-new-host-key.
 s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&profile=NAME]
     S3, or another service that speaks it. Keys: LARDER_S3_ACCESS_KEY_ID and
     LARDER_S3_SECRET_ACCESS_KEY, or the secrets file, or where other tools look (AWS_*,
     ~/.aws).
 webdav://HOST[:PORT]/PATH, webdavs://HOST[:PORT]/PATH
     A WebDAV server. LARDER_WEBDAV_USER and LARDER_WEBDAV_PASSWORD, or the secrets file.

The secrets file, secrets.toml in the volume's state directory, has mode 0600 and the keys
s3-access-key-id, s3-secret-access-key, s3-session-token, webdav-user, webdav-password.
`--secrets-file FILE` at init and open copies one there.
",
    },
    Topic {
        name: "environment",
        title: "ENVIRONMENT AND FILES",
        text: " LARDER_HOME             The directory of all state; else $XDG_DATA_HOME/larder, that is
                         ~/.local/share/larder.
 LARDER_VOLUME           The volume, as --volume.
 LARDER_PASSPHRASE_FILE  The passphrase's file, as --passphrase-file.
 LARDER_LOG              How much is logged: a level (error, warn, info, debug, trace), or
                         part=level,... A command logs to the terminal only if it is set.

 volumes/ID/config.toml  The settings of a volume; every setting is in it as a comment.
 volumes/ID/log/         The daemon's log, a file a day, seven kept.
 volumes/ID/key          The keys, mode 0600. Whoever has it can read the volume.
",
    },
];

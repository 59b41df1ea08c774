//! Which volume a path on the command line means, and which path within it.
//!
//! The longest mount path above it counts, whether or not it is mounted. A path is looked
//! at as the kernel would resolve it (symlinks in its directories followed) and, if that
//! leads to no volume (nothing is mounted, or the daemon died), as it is written; last, with
//! a symlink at its end followed too.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::failure::Failure;
use crate::home::{Home, Replica};

/// A path within a volume: names joined by `/`, no slash at either end; empty: the root.
pub type InVolume = Vec<u8>;

/// A volume, and paths within it.
#[derive(Debug, Clone)]
pub struct Located {
    /// The volume as this machine has it.
    pub replica: Replica,
    /// The paths, in the order of the arguments.
    pub paths: Vec<InVolume>,
}

/// The volume that `paths` (relative ones as seen from `cwd`) are all in, or the one that
/// `volume` names (a volume id or the start of one, or a mount path).
///
/// With no paths: the volume above `cwd`, else the only one here.
///
/// # Errors
/// If there is none, or more than one.
pub fn locate(
    home: &Home,
    volume: Option<&OsStr>,
    cwd: &Path,
    paths: &[PathBuf],
) -> Result<Located, Failure> {
    let replicas = home.replicas()?;
    let chosen = volume.map(|name| named(&replicas, name, cwd)).transpose()?;
    let Some(first) = paths.first() else {
        let replica = match chosen {
            Some(replica) => replica,
            None => at_hand(&replicas, cwd)?,
        };
        let paths = Vec::new();
        return Ok(Located {
            replica: replica.clone(),
            paths,
        });
    };
    let candidates = match chosen {
        Some(replica) => std::slice::from_ref(replica),
        None => &replicas[..],
    };
    let (replica, _) = split(candidates, cwd, first).ok_or_else(|| outside(&replicas, first))?;
    let inside = |path: &PathBuf| {
        split(std::slice::from_ref(replica), cwd, path)
            .map(|(_, inside)| inside)
            .ok_or_else(|| {
                Failure::usage(format!(
                    "{} is not in the volume at {}.",
                    path.display(),
                    replica.config.mount.display()
                ))
                .hint("Name the paths of one volume at a time.")
            })
    };
    Ok(Located {
        replica: replica.clone(),
        paths: paths.iter().map(inside).collect::<Result<_, _>>()?,
    })
}

/// The volume that is mounted at `mount`, by its settings.
pub fn by_mount(home: &Home, mount: &Path, cwd: &Path) -> Result<Option<Replica>, Failure> {
    let wanted = [real(cwd, mount), plain(cwd, mount)];
    Ok(home.replicas()?.into_iter().find(|replica| {
        wanted
            .iter()
            .flatten()
            .any(|path| *path == replica.config.mount)
    }))
}

/// The volume that `name` (an id, the start of one, or a mount path) means.
fn named<'r>(replicas: &'r [Replica], name: &OsStr, cwd: &Path) -> Result<&'r Replica, Failure> {
    let text = name.to_string_lossy();
    let is_id = text.len() >= 4 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let wanted = plain(cwd, Path::new(name));
    let mut matches = replicas.iter().filter(|replica| {
        (is_id && replica.volume.to_string().starts_with(&*text))
            || Some(&replica.config.mount) == wanted.as_ref()
    });
    match (matches.next(), matches.next()) {
        (Some(replica), None) => Ok(replica),
        (None, _) => {
            Err(Failure::usage(format!("There is no volume {text} here.")).hint(known(replicas)))
        }
        (Some(_), Some(_)) => Err(Failure::usage(format!(
            "{text} is the start of more than one volume id."
        ))
        .hint(known(replicas))),
    }
}

fn at_hand<'r>(replicas: &'r [Replica], cwd: &Path) -> Result<&'r Replica, Failure> {
    if let Some((replica, _)) = split(replicas, cwd, Path::new(".")) {
        return Ok(replica);
    }
    match replicas {
        [only] => Ok(only),
        [] => Err(Failure::usage("There is no volume on this machine.")
            .hint("`larder init DIR --store URL --budget SIZE` makes one.")),
        _ => Err(
            Failure::usage("There is more than one volume on this machine.").hint(known(replicas)),
        ),
    }
}

fn outside(replicas: &[Replica], path: &Path) -> Failure {
    Failure::usage(format!(
        "{} is in no volume of this machine.",
        path.display()
    ))
    .hint(known(replicas))
}

fn known(replicas: &[Replica]) -> String {
    if replicas.is_empty() {
        return "`larder init DIR --store URL --budget SIZE` makes a volume.".into();
    }
    let names: Vec<String> = replicas
        .iter()
        .map(|r| format!("{} at {}", r.volume, r.config.mount.display()))
        .collect();
    format!(
        "Volumes here: {}. `--volume` takes an id or a mount path.",
        names.join(", ")
    )
}

/// The innermost of `replicas` whose mount path lies above `path`, and what follows it.
fn split<'r>(replicas: &'r [Replica], cwd: &Path, path: &Path) -> Option<(&'r Replica, InVolume)> {
    let innermost = |path: PathBuf| {
        replicas
            .iter()
            .filter_map(|r| Some((r, path.strip_prefix(&r.config.mount).ok()?)))
            .min_by_key(|(_, inside)| inside.components().count())
            .map(|(r, inside)| (r, inside.as_os_str().as_bytes().to_vec()))
    };
    real(cwd, path)
        .and_then(innermost)
        .or_else(|| plain(cwd, path).and_then(innermost))
        .or_else(|| cwd.join(path).canonicalize().ok().and_then(innermost))
}

/// `path` with the symlinks of its directory resolved; the last name is kept as it is, a
/// symlink of the volume is a node of its own. `None` if the directory is not there.
fn real(cwd: &Path, path: &Path) -> Option<PathBuf> {
    let path = cwd.join(path);
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Some(parent.canonicalize().ok()?.join(name)),
        _ => path.canonicalize().ok(),
    }
}

/// `path` made absolute without looking at the disk; `..` goes up by name.
pub(crate) fn plain(cwd: &Path, path: &Path) -> Option<PathBuf> {
    let mut whole = PathBuf::new();
    for part in cwd.join(path).components() {
        match part {
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir => {}
            part => whole.push(part),
        }
    }
    whole.is_absolute().then_some(whole)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use larder_model::VolumeId;

    use super::*;
    use crate::config::CONFIG_FILE;

    struct Machine {
        root: tempfile::TempDir,
        home: Home,
    }

    impl Machine {
        fn with(mounts: &[&str]) -> Self {
            let root = tempfile::tempdir().unwrap();
            let home = Home::at(&root.path().join("home"));
            for (i, mount) in mounts.iter().enumerate() {
                let dir = home.state_dir(VolumeId([i as u8 + 1; 16]));
                fs::create_dir_all(&dir).unwrap();
                let mount = root.path().join(mount);
                fs::create_dir_all(&mount).unwrap();
                let text = format!(
                    "mount = {:?}\nbudget = \"1G\"\n[store]\naddress = \"/s\"\n",
                    mount
                );
                fs::write(dir.join(CONFIG_FILE), text).unwrap();
            }
            Self { root, home }
        }

        fn at(&self, cwd: &str, paths: &[&str]) -> Result<(u8, Vec<InVolume>), Failure> {
            let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
            let located = locate(&self.home, None, &self.root.path().join(cwd), &paths)?;
            Ok((located.replica.volume.0[0], located.paths))
        }
    }

    #[test]
    fn a_path_means_the_innermost_mount_above_it() {
        let machine = Machine::with(&["L", "L/inner", "other"]);
        let at = |cwd, paths| machine.at(cwd, paths).unwrap();
        assert_eq!(
            at("L", &["a/b", "./c/", "."]),
            (1, vec![b"a/b".to_vec(), b"c".to_vec(), vec![]])
        );
        assert_eq!(at("L", &["inner/x"]), (2, vec![b"x".to_vec()]));
        assert_eq!(at("L/inner", &["../x"]), (1, vec![b"x".to_vec()]));
        assert_eq!(at("other", &[]), (3, vec![]));
        assert!(machine.at("L", &["inner/x", "y"]).is_err());
        assert!(machine.at("L", &["../elsewhere"]).is_err());
        assert!(machine.at("", &[]).is_err(), "three volumes, none above");
    }

    #[test]
    fn a_symlink_to_the_mount_leads_into_it_and_a_symlink_in_it_stays_one() {
        let machine = Machine::with(&["L"]);
        symlink("L", machine.root.path().join("short")).unwrap();
        symlink("/etc", machine.root.path().join("L/link")).unwrap();
        let at = |cwd, paths| machine.at(cwd, paths).unwrap().1;
        assert_eq!(at("", &["short"]), vec![b"".to_vec()]);
        assert_eq!(at("", &["short/a"]), vec![b"a".to_vec()]);
        assert_eq!(at("", &["L/link"]), vec![b"link".to_vec()]);
        assert_eq!(
            at("", &["L/not/yet/there"]),
            vec![b"not/yet/there".to_vec()]
        );
    }

    #[test]
    fn a_volume_is_named_by_its_id_or_its_mount() {
        let machine = Machine::with(&["L", "M"]);
        let named = |name: &str| {
            let located = locate(
                &machine.home,
                Some(OsStr::new(name)),
                machine.root.path(),
                &[],
            );
            located.map(|l| l.replica.volume.0[0])
        };
        assert_eq!(named("0101"), Ok(1));
        assert_eq!(named("M"), Ok(2));
        assert!(named("01").is_err(), "too short to be an id");
        assert!(
            named("N")
                .unwrap_err()
                .hint
                .unwrap()
                .contains("Volumes here")
        );
    }
}

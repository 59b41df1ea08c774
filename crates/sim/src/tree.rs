//! A tree as a user sees it, now and in the past, so that two can be compared.

use std::collections::BTreeMap;
use std::fmt::Write;

use larder_model::{Content, Kind, NodeId};
use larder_volume::history::Moment;
use larder_volume::{Access, Attr, Ino, ROOT, Result, Volume};

use crate::marks;

/// So much is read at once.
const PIECE: usize = 64 << 10;

/// A node as a user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What it is.
    pub kind: Kind,
    /// Its permissions.
    pub mode: u32,
    /// How many names it has; of files.
    pub nlink: u32,
    /// When it was written last; of what is no directory.
    pub mtime: i64,
    /// What is in it: bytes, or where a symlink leads.
    pub content: Vec<u8>,
    /// Its extended attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All nodes by path.
pub type Tree = BTreeMap<Vec<u8>, Shown>;

/// A node of a volume that has a path.
#[derive(Debug, Clone)]
pub struct Place {
    /// Where it is.
    pub path: Vec<u8>,
    /// The directory that it is in, and its name there.
    pub parent: Ino,
    /// As above.
    pub name: Vec<u8>,
    /// Its number.
    pub ino: Ino,
    /// What it is.
    pub kind: Kind,
}

/// All places below the root, in order.
///
/// # Errors
/// What the volume says.
pub fn places(volume: &Volume) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let mut left = vec![(ROOT, Vec::new())];
    while let Some((parent, above)) = left.pop() {
        let mut entries = volume.list_dir(parent)?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let path = [above.as_slice(), b"/", &entry.name].concat();
            if entry.kind == Kind::Directory {
                left.push((entry.ino, path.clone()));
            }
            places.push(Place {
                path,
                parent,
                name: entry.name,
                ino: entry.ino,
                kind: entry.kind,
            });
        }
    }
    places.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(places)
}

/// All bytes of a file, read as a program reads them.
///
/// # Errors
/// What the volume says.
pub fn read(volume: &Volume, ino: Ino) -> Result<Vec<u8>> {
    volume.open(ino, Access::default())?;
    let bytes = to_end(|off, buf| volume.read(ino, off, buf));
    volume.close(ino, Access::default())?;
    bytes
}

fn to_end(mut read: impl FnMut(u64, &mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        match read(bytes.len() as u64, &mut piece)? {
            0 => return Ok(bytes),
            len => bytes.extend_from_slice(&piece[..len]),
        }
    }
}

fn shown(attr: &Attr, content: Vec<u8>, xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> Shown {
    let is_directory = attr.kind == Kind::Directory;
    Shown {
        kind: attr.kind,
        mode: attr.mode,
        nlink: if is_directory { 0 } else { attr.nlink },
        mtime: if is_directory { 0 } else { attr.mtime.0 },
        content,
        xattrs,
    }
}

/// The tree as it is now.
///
/// # Errors
/// What the volume says.
pub fn now(volume: &Volume) -> Result<Tree> {
    let mut tree = Tree::new();
    for place in places(volume)? {
        let attr = volume.attr(place.ino)?;
        let content = match place.kind {
            Kind::File => read(volume, place.ino)?,
            Kind::Symlink => volume.read_link(place.ino)?,
            _ => Vec::new(),
        };
        let mut xattrs = BTreeMap::new();
        for name in volume.list_xattrs(place.ino)? {
            if let Some(value) = volume.get_xattr(place.ino, &name)? {
                xattrs.insert(name, value);
            }
        }
        tree.insert(place.path, shown(&attr, content, xattrs));
    }
    Ok(tree)
}

/// The tree as it was.
///
/// # Errors
/// What the volume says.
pub fn then(volume: &Volume, moment: &Moment) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut left = vec![(NodeId::ROOT, Vec::new())];
    while let Some((directory, above)) = left.pop() {
        for (name, id, kind) in volume.past_entries(moment, directory)? {
            let path = [above.as_slice(), b"/", &name].concat();
            let attr = volume.past_attr(moment, id)?;
            let content = match kind {
                Kind::File => to_end(|off, buf| volume.read_past(moment, id, off, buf))?,
                Kind::Symlink => match volume.past_content(moment, id)? {
                    Content::Target(target) => target,
                    _ => Vec::new(),
                },
                _ => Vec::new(),
            };
            if kind == Kind::Directory {
                left.push((id, path.clone()));
            }
            let xattrs = volume.past_xattrs(moment, id)?;
            tree.insert(path, shown(&attr, content, xattrs));
        }
    }
    Ok(tree)
}

/// Where two trees differ, in words; `None` if they are equal.
pub fn difference(one: &Tree, other: &Tree) -> Option<String> {
    let mut words = String::new();
    let mut paths: Vec<_> = one.keys().chain(other.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let (a, b) = (one.get(path), other.get(path));
        if a != b {
            let path = String::from_utf8_lossy(path);
            let _ = write!(words, "\n  {path}: {} | {}", short(a), short(b));
        }
    }
    (!words.is_empty()).then_some(words)
}

fn short(shown: Option<&Shown>) -> String {
    let Some(shown) = shown else {
        return "nothing".to_owned();
    };
    let content = match shown.kind {
        Kind::File => {
            let found = marks::find(&shown.content);
            let marks: Vec<_> = found.marks().collect();
            format!(
                "{} bytes with {marks:?}{}",
                shown.content.len(),
                if found.is_torn { ", torn" } else { "" }
            )
        }
        _ => format!("{:?}", String::from_utf8_lossy(&shown.content)),
    };
    format!(
        "{:?} {:o} links {} mtime {} {content} xattrs {:?}",
        shown.kind,
        shown.mode,
        shown.nlink,
        shown.mtime,
        shown
            .xattrs
            .iter()
            .map(|(name, value)| (
                String::from_utf8_lossy(name).into_owned(),
                String::from_utf8_lossy(value).into_owned()
            ))
            .collect::<Vec<_>>()
    )
}

//! What maps a file, in a process of its own.
//!
//! A page fault, and the end of a map, wait for the file system under the memory lock of their
//! process. Who serves the mount in the same process may wait for that lock: then both wait for
//! ever, and no signal ends them. So the test starts its own program once more, for [`a_case`].

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use rustix::fs::SeekFrom as Find;

use crate::fixture::pattern;
use crate::system_calls::Map;

/// The time that [`Case::Time`] begins with.
pub fn long_ago() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1)
}

const CASE: &str = "LARDER_MAPPED_CASE";
const PATH: &str = "LARDER_MAPPED_PATH";

/// What is done with a map of a file.
#[derive(Debug, Clone, Copy)]
pub enum Case {
    /// 64 KiB of [`pattern`] are changed through the map and by calls.
    WithCalls,
    /// 8 KiB of zeros are changed when the file is closed and removed.
    WithoutDescriptor,
    /// 4 KiB are changed, long after [`long_ago`].
    Time,
    /// A byte at 4 MiB, in a hole of 6 MiB that begins with 3, is data at once.
    Hole,
    /// All of the file is [`pattern`].
    Pattern,
}

const ALL: [Case; 5] = [
    Case::WithCalls,
    Case::WithoutDescriptor,
    Case::Time,
    Case::Hole,
    Case::Pattern,
];

/// Does it with the file at `path`, in another process.
pub fn elsewhere(case: Case, path: &Path) {
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "--ignored", "mapped::a_case"])
        .env(CASE, format!("{case:?}"))
        .env(PATH, path)
        .output()
        .unwrap();
    assert!(
        done.status.success(),
        "{case:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
#[ignore = "it is started by the tests that need it"]
fn a_case() {
    let (Ok(name), Some(path)) = (std::env::var(CASE), std::env::var_os(PATH)) else {
        return;
    };
    let path = Path::new(&path);
    let open = || OpenOptions::new().read(true).write(true).open(path);
    let case = ALL.into_iter().find(|case| format!("{case:?}") == name);
    match case.unwrap() {
        Case::WithCalls => with_calls(open().unwrap()),
        Case::WithoutDescriptor => without_descriptor(open().unwrap(), path),
        Case::Time => time(open().unwrap()),
        Case::Hole => hole(open().unwrap()),
        Case::Pattern => {
            let file = open().unwrap();
            let len = file.metadata().unwrap().len() as usize;
            assert!(Map::of(&file, len).bytes() == pattern(len));
        }
    }
}

fn with_calls(file: File) {
    let mut map = Map::of(&file, 64 << 10);
    assert!(map.bytes() == pattern(64 << 10));
    map.bytes()[5000..5006].copy_from_slice(b"mapped");
    map.sync();
    let mut read = [0; 6];
    file.read_exact_at(&mut read, 5000).unwrap();
    assert_eq!(&read, b"mapped");
    file.write_all_at(b"called", 9000).unwrap();
    assert_eq!(&map.bytes()[9000..9006], b"called");
}

fn without_descriptor(file: File, path: &Path) {
    let mut map = Map::of(&file, 8192);
    drop(file);
    fs::remove_file(path).unwrap();
    map.bytes()[8000] = 7;
    map.sync();
    assert_eq!((map.bytes()[8000], map.bytes()[0]), (7, 0));
}

fn time(file: File) {
    file.set_modified(long_ago()).unwrap();
    let mut map = Map::of(&file, 4096);
    assert_eq!(file.metadata().unwrap().modified().unwrap(), long_ago());
    map.bytes()[0] = 1;
    map.sync();
}

fn hole(file: File) {
    let mut map = Map::of(&file, 6 << 20);
    map.bytes()[4 << 20] = 1;
    assert_eq!(rustix::fs::seek(&file, Find::Data(3 << 20)), Ok(4 << 20));
}

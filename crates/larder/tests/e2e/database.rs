//! The database of a replica is damaged: it is said, `doctor` says what to do, nothing that
//! is here is touched, and the volume is opened afresh from its store.

use std::fs::{self, File};
use std::path::Path;

use larder_store::testing::noise;

use crate::machine::{Machine, picture};
use crate::remote::{EAGER, Remote};

/// What may become of a file.
type Harm = (&'static str, fn(&Path));

const HARMS: [Harm; 5] = [
    ("zeroed", |path| {
        let len = fs::metadata(path).unwrap().len();
        fs::write(path, vec![0; len as usize]).unwrap();
    }),
    ("cut in the middle", |path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("overwritten from its second page on", |path| {
        let mut bytes = fs::read(path).unwrap();
        let len = bytes.len();
        bytes[4096..].copy_from_slice(&noise(1, len - 4096));
        fs::write(path, bytes).unwrap();
    }),
    ("gone", |path| fs::remove_file(path).unwrap()),
    ("replaced by a text", |path| {
        fs::write(path, "not a database\n".repeat(1000)).unwrap();
    }),
];

fn cache_files(machine: &Machine) -> Vec<std::path::PathBuf> {
    let listed = crate::remote::run(
        "find",
        [
            machine.state_dir().join("cache").as_os_str(),
            "-type".as_ref(),
            "f".as_ref(),
        ],
    );
    listed.lines().map(Into::into).collect()
}

#[test]
fn a_damaged_database_is_said_and_the_volume_is_opened_afresh() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    let root = laptop.mount_point();
    for i in 0..40 {
        let below = root.join(format!("dir {}", i % 7));
        fs::create_dir_all(&below).unwrap();
        fs::write(below.join(i.to_string()), noise(i, 50_000)).unwrap();
    }
    let before = picture(&root);
    laptop.larder(["commit"]).ok();
    laptop.unmount();
    let database = laptop.state_dir().join("volume.db");
    let whole = fs::read(&database).unwrap();
    let here = cache_files(&laptop);
    assert_eq!(here.len(), 40);
    for (what, harm) in HARMS {
        let _ = fs::remove_file(laptop.state_dir().join("volume.db-wal"));
        fs::write(&database, &whole).unwrap();
        harm(&database);
        let mounted = laptop.larder(["mount", "Larder"]);
        if mounted.code == Some(0) {
            // What can still be read of it is right; the rest is an error, and is said.
            for i in 0..40 {
                let path = root.join(format!("dir {}", i % 7)).join(i.to_string());
                if let Ok(bytes) = fs::read(path) {
                    assert!(bytes == *noise(i, 50_000), "{what}: wrong bytes of {i}");
                }
            }
        } else {
            assert!(mounted.err.contains("volume.db"), "{what}: {mounted:?}");
            assert!(mounted.err.contains("larder open"), "{what}: {mounted:?}");
            assert!(!mounted.err.contains("panicked"), "{what}: {mounted:?}");
        }
        let doctor = laptop.larder(["doctor"]).ended(3);
        assert!(
            doctor.out.contains("database") || doctor.out.contains("volume.db"),
            "{what}: {doctor:?}"
        );
        assert!(doctor.out.contains("larder open"), "{what}: {doctor:?}");
        assert!(!doctor.err.contains("panicked"), "{what}: {doctor:?}");
        laptop.larder(["unmount", "--force"]);
        assert_eq!(cache_files(&laptop), here, "{what}: content went");
    }
    let desktop = remote.another_machine();
    assert_eq!(picture(&desktop.mount_point()), before);
}

/// It is no damage: this program is too old, and says so; nothing is touched.
#[test]
fn a_database_from_a_newer_larder_is_left_as_it_is_and_doctor_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("1G", EAGER);
    laptop.mount();
    fs::write(laptop.mount_point().join("file"), noise(1, 50_000)).unwrap();
    laptop.larder(["commit"]).ok();
    laptop.unmount();
    let database = laptop.state_dir().join("volume.db");
    let set_format = |hex: &str| {
        let sql = format!("UPDATE meta SET value = x'{hex}' WHERE key = 'format'");
        let words = [database.as_os_str(), sql.as_ref()];
        crate::remote::run("sqlite3", words)
    };
    let ask = "SELECT hex(value) FROM meta WHERE key = 'format'";
    let before = crate::remote::run("sqlite3", [database.as_os_str(), ask.as_ref()]);
    set_format("0000000000000063");
    let here = cache_files(&laptop);
    let mounted = laptop.larder(["mount", "Larder"]);
    assert_ne!(mounted.code, Some(0));
    mounted.says("newer Larder");
    let doctor = laptop.larder(["doctor"]).ended(3);
    doctor.says("newer Larder");
    assert_eq!(cache_files(&laptop), here);
    set_format(before.trim());
    laptop.mount();
    let read = fs::read(laptop.mount_point().join("file")).unwrap();
    assert_eq!(read, noise(1, 50_000));
}

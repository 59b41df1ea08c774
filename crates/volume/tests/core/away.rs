//! Operations on a file whose content is away, or here in part.

use std::fs;

use larder_store::testing::SmallDisk;
use larder_volume::{ROOT, RenameMode, SetAttr};

use crate::bench::{Refusal, WRITE, counted, read_all, send_away};
use crate::common::{noise, with_open, write_file};

const ALLOCATE: i32 = 0;

/// Reserving room for a file that was away made zeros of it: only a range that is punched or
/// zeroed may be changed without its bytes.
#[test]
fn reserving_room_keeps_what_is_away() {
    let (bench, counts) = counted();
    let volume = bench.start();
    let bytes = noise(1, 3 << 20);
    let ino = write_file(&volume, "file", &bytes);
    send_away(&bench, &volume, &[ino]);
    let before = counts.counts();
    with_open(&volume, ino, false, || {
        volume.fallocate(ino, ALLOCATE, 0, 3 << 20).unwrap();
        volume
            .fallocate(ino, libc::FALLOC_FL_KEEP_SIZE, 1 << 20, 8 << 20)
            .unwrap();
        volume.fallocate(ino, ALLOCATE, 3 << 20, 1000).unwrap();
    });
    assert!(counts.counts().bytes_down < before.bytes_down + 10_000);
    let mut expected = bytes.to_vec();
    expected.resize((3 << 20) + 1000, 0);
    assert!(read_all(&volume, ino) == expected);
    send_away(&bench, &volume, &[ino]);
    assert!(read_all(&volume, ino) == expected, "once it was stored");
    bench.stop(volume);
}

/// A write over a whole chunk that is away claimed the chunk's place before the bytes were
/// there: when the disk was full, or the daemon died in between, zeros were the content.
#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let (bench, _) = counted();
    let volume = bench.start();
    let bytes = noise(1, 3 << 20);
    let ino = write_file(&volume, "file", &bytes);
    send_away(&bench, &volume, &[ino]);
    let refusal = Refusal::of(&bench.state(), "INSERT", "extents", "new.chunk IS NULL");
    volume.open(ino, WRITE).unwrap();
    volume.write(ino, 0, &vec![7; 2 << 20]).unwrap_err();
    drop(refusal);
    volume.close(ino, WRITE).unwrap();
    assert!(read_all(&volume, ino) == bytes);
    send_away(&bench, &volume, &[ino]);
    assert!(read_all(&volume, ino) == bytes, "once it was stored");
    bench.stop(volume);
}

/// As above, with a disk that is full before the bytes are there.
#[test]
fn a_write_on_a_full_disk_leaves_what_was_there() {
    let (bench, _) = counted();
    let cache = bench.state().join("cache");
    let volume = bench.start();
    let bytes = noise(1, 3 << 20);
    let ino = write_file(&volume, "file", &bytes);
    let small = write_file(&volume, "small", b"small");
    send_away(&bench, &volume, &[ino, small]);
    bench.stop(volume);
    fs::remove_dir_all(&cache).unwrap();
    fs::create_dir(&cache).unwrap();
    let Some(_disk) = SmallDisk::mount(&cache, 16 << 20) else {
        return;
    };
    let volume = bench.start();
    // The disk is asked how much is free now and then only.
    volume.open(small, WRITE).unwrap();
    volume.write(small, 0, b"SMALL").unwrap();
    volume.close(small, WRITE).unwrap();
    volume.open(ino, WRITE).unwrap();
    let ballast = cache.join("ballast");
    fs::write(&ballast, vec![1; 15 << 20]).unwrap();
    volume.write(ino, 0, &vec![7; 2 << 20]).unwrap_err();
    volume.write(ino, 3 << 20, &vec![7; 2 << 20]).unwrap_err();
    volume
        .fallocate(ino, ALLOCATE, 3 << 20, 12 << 20)
        .unwrap_err();
    fs::remove_file(ballast).unwrap();
    // What the writes left behind the end does not show up when the file grows.
    volume.write(ino, (3 << 20) + 5000, b"end").unwrap();
    volume.close(ino, WRITE).unwrap();
    let mut expected = bytes.to_vec();
    expected.resize((3 << 20) + 5000, 0);
    expected.extend_from_slice(b"end");
    assert!(read_all(&volume, ino) == expected);
    bench.commit(&volume);
    assert!(bench.stored().file("file").unwrap() == expected);
    bench.stop(volume);
}

/// A size that the file system cannot have left a map that was longer than the file: the
/// file could not be read any more once it was stored and away.
#[test]
fn a_size_that_cannot_be_leaves_the_file_as_it_was() {
    let (bench, _) = counted();
    let volume = bench.start();
    let bytes = noise(1, 3 << 20);
    let ino = write_file(&volume, "file", &bytes);
    send_away(&bench, &volume, &[ino]);
    with_open(&volume, ino, false, || {
        volume.write(ino, 100, b"edited").unwrap();
        let too_long = SetAttr {
            size: Some(i64::MAX as u64),
            ..SetAttr::default()
        };
        if volume.set_attr(ino, &too_long).is_ok() {
            // The file system can have it after all.
            let again = SetAttr {
                size: Some(3 << 20),
                ..SetAttr::default()
            };
            volume.set_attr(ino, &again).unwrap();
        }
        volume
            .fallocate(ino, ALLOCATE, 0, i64::MAX as u64)
            .unwrap_err();
    });
    let mut expected = bytes.to_vec();
    expected[100..106].copy_from_slice(b"edited");
    send_away(&bench, &volume, &[ino]);
    assert!(read_all(&volume, ino) == expected);
    bench.stop(volume);
}

/// A cut that failed in the database showed the file as empty until the next start.
#[test]
fn a_truncation_that_fails_leaves_the_file_as_it_was() {
    let (bench, _) = counted();
    let volume = bench.start();
    let bytes = noise(1, 300_000);
    let ino = write_file(&volume, "file", &bytes);
    send_away(&bench, &volume, &[ino]);
    for table in ["INSERT", "UPDATE"] {
        let refusal = Refusal::of(&bench.state(), table, "cached", "new.dirty = 1");
        let empty = SetAttr {
            size: Some(0),
            ..SetAttr::default()
        };
        volume.set_attr(ino, &empty).unwrap_err();
        drop(refusal);
        assert_eq!(volume.attr(ino).unwrap().size, 300_000);
        assert!(read_all(&volume, ino) == bytes);
    }
    volume
        .rename(ROOT, b"file", ROOT, b"moved", RenameMode::Replace)
        .unwrap();
    assert!(read_all(&volume, ino) == bytes);
    bench.stop(volume);
}

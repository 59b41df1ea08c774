//! Content: reading, writing, maps, holes, and files without a name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, SeekFrom as Find};
use rustix::io::Errno;

use crate::fixture::{Fixture, errno, pattern, until_found};
use crate::in_each_profile;
use crate::mapped::{self, Case, long_ago};
use crate::system_calls::lock_range;

in_each_profile!(
    what_is_written_is_read,
    an_unlinked_file_lives_while_it_is_open,
    a_replaced_file_lives_while_it_is_open,
    truncating_opens_empty_the_file,
    sizes_are_set_and_what_grows_is_zero,
    appends_of_two_writers_do_not_overwrite,
    maps_and_calls_see_the_same_bytes,
    a_map_outlives_its_descriptor,
    a_write_through_a_map_changes_the_time,
    direct_io_reads_and_writes,
    holes_are_found,
    data_that_is_not_written_out_yet_is_no_hole,
    holes_are_punched_and_ranges_zeroed,
    a_file_of_a_tebibyte_holds_bytes_at_its_end,
    ranges_are_copied,
    one_way_is_kept_for_all_handles,
    locks_exclude,
    syncing_succeeds,
    a_running_program_is_not_emptied,
);

fn open_rw(at: &Fixture, name: &str) -> File {
    let path = at.path(name);
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .unwrap()
}

fn what_is_written_is_read(at: &Fixture) {
    for len in [0, 1, 4095, 4096, 4097, 1 << 20, (3 << 20) + 17] {
        let bytes = pattern(len);
        fs::write(at.path("file"), &bytes).unwrap();
        assert_eq!(fs::metadata(at.path("file")).unwrap().len(), len as u64);
        assert!(fs::read(at.path("file")).unwrap() == bytes, "{len} bytes");
    }
    let file = open_rw(at, "file");
    file.write_all_at(b"edited", 1_000_000).unwrap();
    let mut read = [0; 8];
    file.read_exact_at(&mut read, 999_999).unwrap();
    assert_eq!(&read[1..7], b"edited");
    assert_eq!(file.read_at(&mut read, 1 << 40).unwrap(), 0);
}

fn an_unlinked_file_lives_while_it_is_open(at: &Fixture) {
    let mut file = open_rw(at, "file");
    file.write_all(b"before").unwrap();
    let ino = file.metadata().unwrap().ino();
    fs::remove_file(at.path("file")).unwrap();
    file.write_all(b" and after").unwrap();
    fs::write(at.path("file"), "another").unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before and after");
    let meta = file.metadata().unwrap();
    assert_eq!((meta.nlink(), meta.len()), (0, 16));
    file.set_len(6).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 6);
    assert!(at.volume().attr(ino).is_ok());
    drop(file);
    at.eventually("the node is deleted", || at.volume().attr(ino).is_err());
    assert_eq!(fs::read(at.path("file")).unwrap(), b"another");
}

fn a_replaced_file_lives_while_it_is_open(at: &Fixture) {
    fs::write(at.path("old"), "old").unwrap();
    fs::write(at.path("new"), "new").unwrap();
    let mut old = File::open(at.path("old")).unwrap();
    fs::rename(at.path("new"), at.path("old")).unwrap();
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "old");
    assert_eq!(fs::read(at.path("old")).unwrap(), b"new");
}

fn truncating_opens_empty_the_file(at: &Fixture) {
    let path = at.path("file");
    fs::write(&path, pattern(100_000)).unwrap();
    let other = File::open(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap().len(), 100_000);
    let mut file = OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    assert_eq!(other.metadata().unwrap().len(), 0);
    file.write_all(b"short").unwrap();
    drop(file);
    assert_eq!(fs::read(&path).unwrap(), b"short");
    let mut read = [0; 16];
    assert_eq!(other.read_at(&mut read, 0).unwrap(), 5);
}

fn sizes_are_set_and_what_grows_is_zero(at: &Fixture) {
    let file = open_rw(at, "file");
    file.write_all_at(&pattern(10_000), 0).unwrap();
    file.set_len(5_000).unwrap();
    file.set_len(20_000).unwrap();
    let bytes = fs::read(at.path("file")).unwrap();
    assert_eq!(bytes.len(), 20_000);
    assert!(bytes[..5_000] == pattern(10_000)[..5_000]);
    assert!(bytes[5_000..].iter().all(|&byte| byte == 0));
}

fn appends_of_two_writers_do_not_overwrite(at: &Fixture) {
    let open = || {
        OpenOptions::new()
            .append(true)
            .create(true)
            .open(at.path("log"))
            .unwrap()
    };
    let (mut one, mut other) = (open(), open());
    for _ in 0..100 {
        one.write_all(b"one\n").unwrap();
        other.write_all(b"two\n").unwrap();
    }
    assert_eq!(
        fs::read_to_string(at.path("log")).unwrap(),
        "one\ntwo\n".repeat(100)
    );
}

fn maps_and_calls_see_the_same_bytes(at: &Fixture) {
    fs::write(at.path("file"), pattern(64 << 10)).unwrap();
    mapped::elsewhere(Case::WithCalls, &at.path("file"));
    let bytes = fs::read(at.path("file")).unwrap();
    assert_eq!(
        (&bytes[5000..5006], &bytes[9000..9006]),
        (&b"mapped"[..], &b"called"[..])
    );
}

fn a_map_outlives_its_descriptor(at: &Fixture) {
    fs::write(at.path("file"), vec![0; 8192]).unwrap();
    mapped::elsewhere(Case::WithoutDescriptor, &at.path("file"));
}

fn a_write_through_a_map_changes_the_time(at: &Fixture) {
    fs::write(at.path("file"), vec![0; 4096]).unwrap();
    mapped::elsewhere(Case::Time, &at.path("file"));
    let changed = || fs::metadata(at.path("file")).unwrap().modified().unwrap() > long_ago();
    at.eventually("the time is new", changed);
}

fn direct_io_reads_and_writes(at: &Fixture) {
    const BLOCK: usize = 4096;
    let mut buffer = vec![0; 3 * BLOCK];
    let skip = buffer.as_ptr().align_offset(BLOCK);
    let aligned = &mut buffer[skip..skip + 2 * BLOCK];
    aligned.copy_from_slice(&pattern(2 * BLOCK));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(libc::O_DIRECT)
        .open(at.path("file"))
        .unwrap();
    file.write_all_at(aligned, BLOCK as u64).unwrap();
    aligned.fill(1);
    file.read_exact_at(aligned, 0).unwrap();
    assert!(aligned[..BLOCK].iter().all(|&byte| byte == 0));
    assert!(aligned[BLOCK..] == pattern(2 * BLOCK)[..BLOCK]);
    drop(file);
    assert!(fs::read(at.path("file")).unwrap()[BLOCK..] == pattern(2 * BLOCK));
}

const MIB: u64 = 1 << 20;

fn holes_are_found(at: &Fixture) {
    let file = open_rw(at, "file");
    file.write_all_at(&[1; 4096], 4 * MIB).unwrap();
    file.set_len(8 * MIB).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let file = open_rw(at, "file");
    assert_eq!(rustix::fs::seek(&file, Find::Data(0)), Ok(4 * MIB));
    assert_eq!(rustix::fs::seek(&file, Find::Hole(0)), Ok(0));
    assert_eq!(
        rustix::fs::seek(&file, Find::Hole(4 * MIB)),
        Ok(4 * MIB + 4096)
    );
    assert_eq!(
        rustix::fs::seek(&file, Find::Data(5 * MIB)),
        Err(Errno::NXIO)
    );
    assert_eq!(
        rustix::fs::seek(&file, Find::Hole(9 * MIB)),
        Err(Errno::NXIO)
    );
    assert!(file.metadata().unwrap().blocks() < 2048);
}

fn data_that_is_not_written_out_yet_is_no_hole(at: &Fixture) {
    let file = open_rw(at, "file");
    file.write_all_at(&[1; 4096], 2 * MIB).unwrap();
    assert_eq!(rustix::fs::seek(&file, Find::Data(0)), Ok(2 * MIB));
    file.write_all_at(&[1; 4096], 6 * MIB).unwrap();
    assert_eq!(rustix::fs::seek(&file, Find::Data(3 * MIB)), Ok(6 * MIB));
    assert_eq!(
        rustix::fs::seek(&file, Find::Hole(6 * MIB)),
        Ok(6 * MIB + 4096)
    );
    drop(file);
    mapped::elsewhere(Case::Hole, &at.path("file"));
}

fn holes_are_punched_and_ranges_zeroed(at: &Fixture) {
    let file = open_rw(at, "file");
    file.write_all_at(&[1; 1 << 20], 0).unwrap();
    let allocate = |flags, from, len| rustix::fs::fallocate(&file, flags, from, len);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    allocate(punch, 8192, 8192).unwrap();
    allocate(FallocateFlags::ZERO_RANGE, 1000, 10).unwrap();
    let bytes = fs::read(at.path("file")).unwrap();
    assert!(bytes[8192..16384].iter().all(|&byte| byte == 0));
    assert!(bytes[1000..1010].iter().all(|&byte| byte == 0));
    assert_eq!(
        (bytes[999], bytes[1010], bytes[8191], bytes[16384]),
        (1, 1, 1, 1)
    );
    assert_eq!(rustix::fs::seek(&file, Find::Hole(0)), Ok(8192));
    allocate(FallocateFlags::KEEP_SIZE, 2 * MIB, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), MIB);
    allocate(FallocateFlags::empty(), 2 * MIB, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2 * MIB + 4096);
    let collapse = FallocateFlags::COLLAPSE_RANGE;
    assert_eq!(allocate(collapse, 0, 4096), Err(Errno::OPNOTSUPP));
}

fn a_file_of_a_tebibyte_holds_bytes_at_its_end(at: &Fixture) {
    let file = open_rw(at, "file");
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"the end", (1 << 40) - 7).unwrap();
    drop(file);
    let file = File::open(at.path("file")).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert!(meta.blocks() < 2048);
    let mut read = [1; 16];
    file.read_exact_at(&mut read, (1 << 40) - 16).unwrap();
    assert_eq!(&read, b"\0\0\0\0\0\0\0\0\0the end");
}

fn ranges_are_copied(at: &Fixture) {
    let (from, to) = (open_rw(at, "from"), open_rw(at, "to"));
    from.write_all_at(&pattern(300_000), 0).unwrap();
    to.write_all_at(&[1; 100], 0).unwrap();
    let (mut from_at, mut to_at) = (1000, 50);
    let mut copied = 0;
    while copied < 200_000 {
        let left = 200_000 - copied;
        let more =
            rustix::fs::copy_file_range(&from, Some(&mut from_at), &to, Some(&mut to_at), left);
        copied += more.unwrap();
    }
    let bytes = fs::read(at.path("to")).unwrap();
    assert_eq!(bytes.len(), 200_050);
    assert!(bytes[..50] == [1; 50]);
    assert!(bytes[50..] == pattern(300_000)[1000..201_000]);
}

fn one_way_is_kept_for_all_handles(at: &Fixture) {
    let path = at.path("file");
    fs::write(&path, pattern(10_000)).unwrap();
    let reads = File::open(&path).unwrap();
    let writes = OpenOptions::new().write(true).open(&path).unwrap();
    writes.write_all_at(b"new", 5).unwrap();
    let mut read = [0; 3];
    reads.read_exact_at(&mut read, 5).unwrap();
    assert_eq!(&read, b"new");
    drop(reads);
    let again = open_rw(at, "file");
    again.read_exact_at(&mut read, 5).unwrap();
    assert_eq!(&read, b"new");
    assert_eq!(fs::read(&path).unwrap().len(), 10_000);
}

fn locks_exclude(at: &Fixture) {
    let (one, other) = (open_rw(at, "file"), open_rw(at, "file"));
    let try_flock = |file| rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive);
    try_flock(&one).unwrap();
    assert_eq!(try_flock(&other), Err(Errno::WOULDBLOCK));
    rustix::fs::flock(&one, FlockOperation::Unlock).unwrap();
    try_flock(&other).unwrap();

    lock_range(&one, 0, 100).unwrap();
    assert_eq!(errno(lock_range(&other, 50, 100)), libc::EAGAIN);
    lock_range(&other, 100, 100).unwrap();
    drop(one);
    at.eventually("a closed file's locks are gone", || {
        lock_range(&other, 0, 100).is_ok()
    });
}

fn syncing_succeeds(at: &Fixture) {
    let mut file = open_rw(at, "file");
    file.write_all(&pattern(1 << 20)).unwrap();
    file.sync_data().unwrap();
    file.sync_all().unwrap();
    File::open(at.root()).unwrap().sync_all().unwrap();
    rustix::fs::syncfs(&file).unwrap();
}

fn a_running_program_is_not_emptied(at: &Fixture) {
    let program = at.path("program");
    fs::copy("/bin/sleep", &program).unwrap();
    // A child that another test is just starting may hold the copy open for writing still.
    let start = || Command::new(&program).arg("60").spawn().ok();
    let mut running = until_found(start);
    let refused = rustix::fs::open(&program, OFlags::RDONLY | OFlags::TRUNC, Mode::empty());
    let refused = (
        refused.err(),
        OpenOptions::new()
            .write(true)
            .truncate(true)
            .open(&program)
            .is_err(),
    );
    let len = fs::metadata(&program).unwrap().len();
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(refused, (Some(Errno::TXTBSY), true));
    assert_eq!(len, fs::metadata("/bin/sleep").unwrap().len());
}

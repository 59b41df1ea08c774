//! Files that programs write past this process.

use std::os::unix::fs::FileExt;

use larder_volume::{Access, Dropped, Ino, KeptReason, Volume};

use crate::bench::{DIRECT, WRITE, cache_file, read_all, send_away};
use crate::common::{Bench, noise, until, write_file};

fn is_dirty(volume: &Volume, ino: Ino) -> bool {
    volume.entry(ino).unwrap().dirty
}

/// A program mapped a file, closed it, and went on writing through the map, as many do. The
/// file was stored and dropped in between; what was written then was lost.
#[test]
fn what_is_mapped_is_not_clean_though_it_was_closed() {
    let bench = Bench::new();
    let volume = bench.start();
    let ino = write_file(&volume, "file", &noise(1, 300_000));
    bench.commit(&volume);
    let opened = volume.open(ino, DIRECT).unwrap();
    // As the kernel does: a description of its own, which the map keeps.
    let path = cache_file(&bench.state(), ino);
    let map = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    drop(opened);
    volume.close(ino, DIRECT).unwrap();

    bench.commit(&volume);
    assert_eq!(
        volume.drop_content(ino).unwrap(),
        Dropped::Kept(KeptReason::Dirty)
    );
    map.write_all_at(b"late", 100).unwrap();
    drop(map);
    until("the file is clean", || !is_dirty(&volume, ino));
    send_away(&bench, &volume, &[ino]);
    let mut expected = noise(1, 300_000).to_vec();
    expected[100..104].copy_from_slice(b"late");
    assert!(read_all(&volume, ino) == expected);
    bench.stop(volume);
}

/// The kernel keeps what it read of a file: it would not see what is written through a map
/// that somebody kept.
#[test]
fn a_file_may_change_unseen_while_somebody_may_have_it_mapped() {
    let bench = Bench::new();
    let volume = bench.start();
    let ino = write_file(&volume, "file", &noise(1, 3000));
    bench.commit(&volume);
    until("the file is clean", || !is_dirty(&volume, ino));
    until("nobody has it", || !volume.may_change_unseen(ino));
    let opened = volume.open(ino, DIRECT).unwrap();
    assert!(volume.may_change_unseen(ino), "somebody has it to write");
    let path = cache_file(&bench.state(), ino);
    let map = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    drop(opened);
    volume.close(ino, DIRECT).unwrap();
    bench.commit(&volume);
    assert!(volume.may_change_unseen(ino), "it is mapped");
    drop(map);
    let is_still = || !volume.may_change_unseen(ino);
    until("nobody has it", is_still);
    bench.stop(volume);
}

/// As any open file it stays here, unless others need the room.
#[test]
fn what_is_open_lightly_is_not_dropped() {
    let bench = Bench::new();
    let volume = bench.start();
    let ino = write_file(&volume, "file", &noise(1, 3000));
    bench.commit(&volume);
    until("the file is clean", || !is_dirty(&volume, ino));
    volume.open_lightly(ino);
    volume.open_lightly(ino);
    volume.close_lightly(ino);
    let kept = Dropped::Kept(KeptReason::Open);
    assert_eq!(volume.drop_content(ino).unwrap(), kept);
    volume.close_lightly(ino);
    send_away(&bench, &volume, &[ino]);
    bench.stop(volume);
}

/// While a program read a file past this process, another opened it to write when there was
/// little room. It was told to write through this process, but all handles of a file go one
/// way: it wrote past it, into a file that counted as clean.
#[test]
fn who_writes_beside_a_direct_reader_makes_the_file_dirty() {
    let mut bench = Bench::new();
    bench.settings.dirty_soft_bytes = 1000;
    let volume = bench.start();
    let ino = write_file(&volume, "file", &noise(1, 300));
    bench.commit(&volume);
    let reader = Access {
        write: false,
        ..DIRECT
    };
    assert!(volume.open(ino, reader).unwrap().backing.is_some());
    let busy = write_file(&volume, "busy", b"");
    volume.open(busy, WRITE).unwrap();
    volume.write(busy, 0, &noise(2, 900)).unwrap();
    volume.open(ino, DIRECT).unwrap();
    assert!(is_dirty(&volume, ino));
    volume.close(ino, DIRECT).unwrap();
    volume.close(ino, reader).unwrap();
    // And the other way round: who joins a writer gives it a way past this process.
    bench.commit(&volume);
    until("the file is clean", || !is_dirty(&volume, ino));
    volume.open(ino, WRITE).unwrap();
    assert!(!is_dirty(&volume, ino));
    volume.open(ino, reader).unwrap();
    assert!(is_dirty(&volume, ino));
    volume.close(ino, reader).unwrap();
    volume.close(ino, WRITE).unwrap();
    volume.close(busy, WRITE).unwrap();
    bench.stop(volume);
}

/// While a file was looked at to be stored, a program opened it and said that it would not
/// wait (O_NONBLOCK). The look took a lease for a moment, and the program got EIO.
#[test]
fn who_opens_a_file_without_waiting_meets_no_lease() {
    use std::os::unix::fs::OpenOptionsExt;
    let bench = Bench::new();
    let volume = bench.start_still(&bench.state(), bench.store.clone());
    let ino = write_file(&volume, "file", &noise(1, 3000));
    let path = cache_file(&bench.state(), ino);
    // The kernel opens the file once it was told that it may.
    volume.open(ino, DIRECT).unwrap();
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| {
            let nonblocking = rustix::fs::OFlags::NONBLOCK.bits() as i32;
            let mut options = std::fs::File::options();
            options.write(true).custom_flags(nonblocking);
            (0..20_000)
                .map(|_| options.open(&path))
                .find(Result::is_err)
        });
        while !opener.is_finished() {
            volume.begin_settle(ino).unwrap();
        }
        let refused = opener.join().unwrap();
        assert!(refused.is_none(), "{refused:?}");
    });
    volume.close(ino, DIRECT).unwrap();
    bench.stop(volume);
}

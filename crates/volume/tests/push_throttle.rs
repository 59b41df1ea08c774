//! Writers are slowed to what the store takes, and told of a full disk only when nothing
//! drains.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::{Bench, CALLER, edit_file, noise, until, with_open, write_file};
use larder_volume::{Access, ROOT, VolumeError};

#[test]
fn much_more_than_the_dirty_limit_is_copied_in() {
    let mut bench = Bench::new();
    bench.settings.dirty_soft_bytes = 2 << 20;
    bench.settings.dirty_hard_bytes = 4 << 20;
    let volume = bench.start();
    for n in 0..24 {
        write_file(&volume, &format!("{n}"), &noise(n, 1 << 20));
        let dirty = volume.status().unwrap().dirty_bytes;
        assert!(dirty <= 4 << 20, "{dirty}");
    }
    bench.commit(&volume);
    bench.stop(volume);
    assert_eq!(bench.stored().commit.bytes, 24 << 20);
}

#[test]
fn a_disk_is_full_only_when_nothing_drained_for_a_while() {
    let mut bench = Bench::new();
    bench.settings.dirty_soft_bytes = 1 << 20;
    bench.settings.dirty_hard_bytes = 2 << 20;
    bench.settings.dirty_stall = Duration::from_secs(2);
    let volume = bench.start();
    bench.store.set_away(true);
    let ino = write_file(&volume, "a", &noise(1, 2 << 20));
    let mut refused = None;
    with_open(&volume, ino, false, || {
        refused = volume.write(ino, 2 << 20, &[1; 4096]).err();
    });
    let refused = refused.unwrap();
    assert!(matches!(refused, VolumeError::NoSpace(_)), "{refused}");
    assert_eq!(refused.errno(), 28);
    // It drains: the next write goes through.
    bench.store.set_away(false);
    let report = bench.commit(&volume);
    assert!(report.still_changing.is_empty());
    edit_file(&volume, ino, 2 << 20, &[1; 4096]);
    bench.commit(&volume);
    bench.stop(volume);
    assert_eq!(bench.stored().file("a").unwrap().len(), (2 << 20) + 4096);
}

#[test]
fn what_stays_free_on_the_disk_stays_free() {
    let mut bench = Bench::new();
    bench.settings.keep_free_bytes = u64::MAX / 2;
    bench.settings.dirty_stall = Duration::from_millis(100);
    let volume = bench.start();
    let ino = write_file(&volume, "a", b"");
    with_open(&volume, ino, false, || {
        let refused = volume.write(ino, 0, b"bytes").unwrap_err();
        assert!(matches!(refused, VolumeError::NoSpace(_)), "{refused}");
        assert_eq!(volume.write_here(ino, 0, b"bytes").unwrap(), None);
    });
    bench.stop(volume);
}

/// Whoever writes past the daemon cannot be slowed down, and would meet the end of the disk.
#[test]
fn on_a_tight_disk_no_file_is_written_past_the_daemon() {
    let past_the_daemon = |keep_free_bytes| {
        let mut bench = Bench::new();
        bench.settings.keep_free_bytes = keep_free_bytes;
        let volume = bench.start();
        let ino = volume.create(ROOT, b"a", 0o644, CALLER, false).unwrap().ino;
        let access = Access {
            write: true,
            direct: true,
            ..Access::default()
        };
        let opened = volume.open(ino, access).unwrap();
        volume.close(ino, access).unwrap();
        bench.stop(volume);
        opened.backing.is_some()
    };
    assert!(past_the_daemon(0));
    assert!(!past_the_daemon(u64::MAX / 2));
}

#[test]
fn local_files_do_not_count_as_waiting() {
    let mut bench = Bench::new();
    bench.settings.dirty_soft_bytes = 1 << 20;
    bench.settings.dirty_hard_bytes = 2 << 20;
    bench.settings.dirty_stall = Duration::from_millis(300);
    let volume = bench.start();
    for n in 0..6 {
        write_file(&volume, &format!("{n}.tmp"), &noise(n, 1 << 20));
        until("the rule is seen", || {
            volume.push_status().waiting_bytes == 0
        });
    }
    bench.stop(volume);
}

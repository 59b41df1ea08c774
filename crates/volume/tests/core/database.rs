//! A database that cannot be used is refused in words that say which file, and what to do.

use std::fs;
use std::path::Path;

use larder_volume::Volume;

use crate::bench::database;
use crate::common::{Bench, noise, read_file, write_file};

fn refused(bench: &Bench, image: &Path) -> String {
    let handle = bench.runtime.handle().clone();
    let started = Volume::start(image, bench.store.clone(), bench.settings.clone(), handle);
    started.unwrap_err().to_string()
}

fn bench_with_a_file() -> Bench {
    let bench = Bench::new();
    let volume = bench.start();
    write_file(&volume, "file", &noise(1, 10_000));
    bench.commit(&volume);
    bench.stop(volume);
    bench
}

#[test]
fn a_database_that_is_cut_or_zeroed_or_gone_is_refused_in_words() {
    let bench = bench_with_a_file();
    let spoil = |name: &str, spoil: &dyn Fn(&Path)| {
        let image = bench.crash_image(name);
        spoil(&image.join("volume.db"));
        let words = refused(&bench, &image);
        assert!(words.contains("volume.db"), "{name}: {words}");
        assert!(words.contains("larder open"), "{name}: {words}");
    };
    spoil("gone", &|path| fs::remove_file(path).unwrap());
    spoil("emptied", &|path| fs::write(path, "").unwrap());
    spoil("zeroed", &|path| {
        let len = fs::metadata(path).unwrap().len();
        fs::write(path, vec![0; len as usize]).unwrap();
    });
    spoil("no database", &|path| {
        fs::write(path, noise(1, 50_000)).unwrap()
    });
    spoil("cut", &|path| {
        let file = fs::File::options().write(true).open(path).unwrap();
        file.set_len(100).unwrap();
    });
    // What was spoilt was an image: the volume itself opens.
    let volume = bench.start();
    assert_eq!(read_file(&volume, "file"), noise(1, 10_000));
    bench.stop(volume);
}

#[test]
fn a_database_from_a_newer_larder_is_refused_in_words() {
    let bench = bench_with_a_file();
    let image = bench.crash_image("newer");
    database(&image)
        .execute(
            "UPDATE meta SET value = ?1 WHERE key = 'format'",
            [99i64.to_be_bytes()],
        )
        .unwrap();
    let words = refused(&bench, &image);
    assert!(
        words.contains("newer Larder") && words.contains("99"),
        "{words}"
    );
}

#[test]
fn a_database_of_an_older_format_is_brought_up_to_date() {
    let bench = bench_with_a_file();
    for (format, without) in [
        (4i64, ""),
        (3, "DROP TABLE replaced"),
        (2, "DROP TABLE replaced; DROP TABLE lists"),
        (
            1,
            "DROP TABLE replaced; DROP TABLE lists; DROP TABLE unproven; DROP TABLE awaiting",
        ),
    ] {
        let image = bench.crash_image(&format!("format {format}"));
        let older = database(&image);
        let without = format!(
            "DROP INDEX dentries_conflict; DROP TABLE doomed; DROP TABLE members;
             DROP TABLE given_up; {without}"
        );
        older.execute_batch(&without).unwrap();
        let set = "UPDATE meta SET value = ?1 WHERE key = 'format'";
        older.execute(set, [format.to_be_bytes()]).unwrap();
        drop(older);
        reopen_twice(&bench, &image);
    }
}

fn reopen_twice(bench: &Bench, image: &Path) {
    for _ in 0..2 {
        let volume = bench.start_from(image, bench.store.clone());
        assert_eq!(read_file(&volume, "file"), noise(1, 10_000));
        write_file(&volume, "another", b"new");
        bench.commit(&volume);
        bench.stop(volume);
    }
}

/// Rows that no Larder writes are an error of the file that they are of, and of no other.
#[test]
fn rows_that_make_no_sense_are_clear_errors() {
    let bench = bench_with_a_file();
    let spoilt = [
        "UPDATE nodes SET content = x'FF00FF' WHERE kind = 1",
        "UPDATE nodes SET size = -5 WHERE kind = 1",
        "UPDATE cached SET whole = 0",
        "UPDATE cached SET whole = 0; INSERT INTO extents VALUES(2, 0, -1, NULL, 1)",
        "UPDATE cached SET whole = 0, dirty = 1;
         INSERT INTO extents VALUES((SELECT ino FROM cached), 9223372036854775807, 9223372036854775807, NULL, 1)",
        "UPDATE dentries SET parent = child WHERE parent = 1",
        "UPDATE nodes SET kind = 200 WHERE ino > 1",
    ];
    for (n, sql) in spoilt.iter().enumerate() {
        let image = bench.crash_image(&format!("spoilt {n}"));
        database(&image).execute_batch(sql).unwrap();
        let handle = bench.runtime.handle().clone();
        let started = Volume::start(&image, bench.store.clone(), bench.settings.clone(), handle);
        let Ok(volume) = started else { continue };
        let ino = database(&image)
            .query_row("SELECT ino FROM nodes WHERE ino > 1", [], |row| {
                row.get::<_, i64>(0)
            })
            .unwrap() as u64;
        // Whatever it answers, it answers.
        let mut bytes = vec![0; 20_000];
        if let Ok(read) = volume.read(ino, 0, &mut bytes) {
            assert!(bytes[..read] == noise(1, 10_000)[..read], "{sql}");
        }
        let _ = volume.path_of(ino);
        let _ = volume.entries(larder_volume::ROOT, true);
        let _ = volume.write(ino, 5, b"x");
        bench.stop(volume);
    }
}

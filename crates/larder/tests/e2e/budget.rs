//! More than fits is copied in, and only what fits stays.

use std::fs;
use std::io::Write;
use std::path::Path;

use larder_store::testing::noise;

use crate::machine::wait_for;
use crate::remote::{EAGER, Remote, run};

const BUDGET: u64 = 32 << 20;
const ALL: u64 = 160 << 20;

/// Sizes from 1 to 12 MiB that add up to at least [`ALL`].
fn sizes() -> Vec<usize> {
    let mut sizes = Vec::new();
    let mut sum = 0;
    while sum < ALL {
        let size = (1 << 20) + sizes.len() * 2_345_678 % (11 << 20);
        sizes.push(size);
        sum += size as u64;
    }
    sizes
}

fn allocated(dir: &Path) -> u64 {
    let said = run("du", ["-s".as_ref(), "-B1".as_ref(), dir.as_os_str()]);
    said.split_whitespace().next().unwrap().parse().unwrap()
}

fn much_more_than_fits_goes_in_and_comes_back(profile: &str) {
    let dir = tempfile::tempdir().unwrap();
    let remote = Remote::folder(&dir.path().join("store"));
    let laptop = remote.new_volume("32M", EAGER);
    laptop
        .larder(["mount", "Larder", "--profile", profile])
        .ok();
    let root = laptop.mount_point();
    for (i, size) in sizes().into_iter().enumerate() {
        let mut file = fs::File::create(root.join(i.to_string())).unwrap();
        for piece in noise(i as u64, size).chunks(1 << 20) {
            file.write_all(piece).unwrap();
        }
    }
    laptop.wait_until_stored();
    let cache = laptop.state_dir().join("cache");
    wait_for("the cache to fit the budget", || {
        allocated(&cache) <= BUDGET + (1 << 20)
    });
    for (i, size) in sizes().into_iter().enumerate() {
        let read = fs::read(root.join(i.to_string())).unwrap();
        assert!(read == noise(i as u64, size), "file {i} differs");
    }
    wait_for("the cache to fit the budget", || {
        allocated(&cache) <= BUDGET + (1 << 20)
    });
    let status = laptop.status();
    assert!(
        status["bytes_here"].as_u64().unwrap() <= BUDGET,
        "{status:#}"
    );
    assert_eq!(
        status["warnings"].as_array().unwrap().len(),
        0,
        "{status:#}"
    );
}

#[test]
fn much_more_than_fits_goes_in_and_comes_back_in_profile_passthrough() {
    much_more_than_fits_goes_in_and_comes_back("passthrough");
}

#[test]
fn much_more_than_fits_goes_in_and_comes_back_in_profile_cached() {
    much_more_than_fits_goes_in_and_comes_back("cached");
}

#[test]
fn much_more_than_fits_goes_in_and_comes_back_in_profile_no_open() {
    much_more_than_fits_goes_in_and_comes_back("no-open");
}

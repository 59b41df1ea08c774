//! How fast stores are, on this machine: packs up and down, small ranges, small objects.
//!
//! Without arguments over OpenSSH's own server on the loopback; else over the stores whose
//! addresses are given, with what the environment offers. It puts 512 MiB below `probe/`
//! and deletes them again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use larder_store::testing::{Sshd, noise};
use larder_store::{Key, Store, StoreError, StoreOptions, open};

const PACKS: usize = 32;
const PACK_BYTES: usize = 16 << 20;

#[tokio::main]
async fn main() -> Result<(), StoreError> {
    let addresses: Vec<String> = std::env::args().skip(1).collect();
    if addresses.is_empty() {
        let sshd = Sshd::start();
        return measure(&open(&sshd.address("larder"), &sshd.options())?).await;
    }
    for address in addresses {
        let options = StoreOptions {
            create: true,
            ..StoreOptions::from_environment()
        };
        measure(&open(&address, &options)?).await?;
    }
    Ok(())
}

async fn measure(store: &Arc<dyn Store>) -> Result<(), StoreError> {
    println!("{}", store.address());
    let keys: Vec<Key> = (0..PACKS)
        .filter_map(|n| Key::new(format!("probe/throughput/{n:04}")).ok())
        .collect();
    let packs: Vec<_> = (0..4).map(|n| noise(n, PACK_BYTES)).collect();
    store.list("probe/").await?;

    for at_once in [1, 2, 4, 8] {
        let start = Instant::now();
        stream::iter(keys.iter().enumerate().map(Ok))
            .try_for_each_concurrent(at_once, |(n, key)| store.put(key, packs[n % 4].clone()))
            .await?;
        report(
            &format!("put 16 MiB, {at_once} at once"),
            PACKS * PACK_BYTES,
            start.elapsed(),
        );
    }
    for at_once in [1, 2, 4, 8] {
        let start = Instant::now();
        stream::iter(keys.iter().map(Ok))
            .try_for_each_concurrent(at_once, |key| async move { store.get(key).await.map(drop) })
            .await?;
        report(
            &format!("get 16 MiB, {at_once} at once"),
            PACKS * PACK_BYTES,
            start.elapsed(),
        );
    }
    for at_once in [1, 16] {
        let start = Instant::now();
        stream::iter((0..2000u64).map(Ok))
            .try_for_each_concurrent(at_once, |n| {
                let (key, at) = (&keys[n as usize % 8], n * 7919 % (PACK_BYTES as u64 - 4096));
                async move { store.get_range(key, at..at + 4096).await.map(drop) }
            })
            .await?;
        each(
            &format!("get_range 4 KiB, {at_once} at once"),
            2000,
            start.elapsed(),
        );
    }
    let small: Vec<Key> = (0..200)
        .filter_map(|n| Key::new(format!("probe/small/{n:04}")).ok())
        .collect();
    for at_once in [1, 8] {
        let start = Instant::now();
        stream::iter(small.iter().map(Ok))
            .try_for_each_concurrent(at_once, |key| store.put(key, noise(1, 1000)))
            .await?;
        each(
            &format!("put 1 KB, {at_once} at once"),
            small.len(),
            start.elapsed(),
        );
    }
    stream::iter(keys.iter().chain(&small))
        .map(|key| store.delete(key))
        .buffer_unordered(8)
        .try_collect()
        .await
}

fn report(what: &str, bytes: usize, took: Duration) {
    println!(
        "  {what:<28} {:>8.0} MB/s",
        bytes as f64 / 1e6 / took.as_secs_f64()
    );
}

fn each(what: &str, calls: usize, took: Duration) {
    println!(
        "  {what:<28} {:>8.0} us each",
        took.as_secs_f64() * 1e6 / calls as f64
    );
}

//! Others nearby are asked when they are likely to be faster, or when the store cannot give what is
//! wanted; and no read is lost by them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use larder_format::Verified;
use larder_format::peer::Piece;
use larder_store::testing::{Call, Fault, When};
use larder_volume::{Nearby, Settings, Volume};

use crate::support::{Replica, Shelf, bytes, settings};

/// What others do when they are asked.
#[derive(Debug, Clone, Copy)]
enum Do {
    Give,
    /// Every second piece.
    GiveSome,
    GiveNothing,
    NeverAnswer,
}

#[derive(Debug)]
struct Others {
    from: Arc<Volume>,
    expect: Duration,
    act: Do,
    asked: AtomicUsize,
    given: AtomicUsize,
}

#[async_trait]
impl Nearby for Others {
    fn expect(&self, _: u64) -> Option<Duration> {
        Some(self.expect)
    }

    async fn bring(&self, pieces: &[Piece], came: &(dyn Fn(usize, Verified) + Send + Sync)) {
        self.asked.fetch_add(pieces.len(), Ordering::SeqCst);
        for (at, piece) in pieces.iter().enumerate() {
            let gives = match self.act {
                Do::Give => true,
                Do::GiveSome => at % 2 == 0,
                Do::GiveNothing => false,
                Do::NeverAnswer => std::future::pending().await,
            };
            if gives && let Some(found) = self.from.piece_here(piece).unwrap() {
                self.given.fetch_add(1, Ordering::SeqCst);
                came(at, found);
            }
        }
    }
}

struct Two {
    shelf: Shelf,
    first: Replica,
    second: Replica,
    others: Arc<Others>,
    content: Vec<u8>,
}

impl Two {
    async fn new(settings: Settings, expect: Duration, act: Do) -> Self {
        let shelf = Shelf::new();
        let first = shelf.init(crate::support::settings()).await;
        let content = bytes(1, 3 << 20);
        first.write(larder_volume::ROOT, "file", &content);
        first.commit().await;
        let second = shelf.open("second", settings).await;
        let others = Arc::new(Others {
            from: Arc::clone(&first.volume),
            expect,
            act,
            asked: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
        });
        second.volume.ask_nearby(Some(Arc::clone(&others) as _));
        Self {
            shelf,
            first,
            second,
            others,
            content,
        }
    }

    async fn read(&self) -> bool {
        let read = self.second.read(self.second.find("file")).await;
        read.is_ok_and(|read| read == self.content)
    }

    fn asked(&self) -> usize {
        self.others.asked.load(Ordering::SeqCst)
    }

    fn given(&self) -> usize {
        self.others.given.load(Ordering::SeqCst)
    }

    async fn end(self) {
        self.second.stop().await;
        drop(self.others);
        self.first.stop().await;
    }
}

const NEAR: Duration = Duration::from_micros(1);
const FAR: Duration = Duration::from_secs(3600);

#[tokio::test(flavor = "multi_thread")]
async fn who_is_nearer_than_the_store_is_asked_and_the_store_is_not() {
    let two = Two::new(settings(), NEAR, Do::Give).await;
    let before = two.shelf.counts();
    assert!(two.read().await);
    assert!(two.given() > 3);
    assert_eq!(two.shelf.counts().ranges, before.ranges);
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_not_give_comes_from_the_store() {
    for act in [Do::GiveSome, Do::GiveNothing, Do::NeverAnswer] {
        let two = Two::new(settings(), NEAR, act).await;
        assert!(two.read().await, "{act:?}");
        assert!(two.asked() > 3, "{act:?}");
        two.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_that_a_join_needs_come_from_others_too() {
    let two = Two::new(settings(), NEAR, Do::Give).await;
    two.first.write(larder_volume::ROOT, "new", b"later");
    two.first.commit().await;
    two.second.sync().await;
    assert!(two.given() > 0);
    let read = two.second.read(two.second.find("new")).await;
    assert_eq!(read.unwrap(), b"later");
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_farther_than_the_store_is_not_asked() {
    let two = Two::new(settings(), FAR, Do::Give).await;
    assert!(two.read().await);
    assert_eq!(two.asked(), 0);
    two.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_store_cannot_give_comes_from_others_however_far() {
    let impatient = Settings {
        read_wait: Duration::from_secs(4),
        ..settings()
    };
    for fault in [Fault::Missing, Fault::WrongBytes, Fault::Cut, Fault::Hang] {
        let two = Two::new(impatient.clone(), FAR, Do::Give).await;
        two.shelf.faulty.set(fault, Call::Get, When::Always);
        assert!(two.read().await, "{fault:?}");
        assert!(two.given() > 3);
        two.end().await;
    }
}

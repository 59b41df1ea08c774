//! A ticket brings another machine into the volume, once.

use std::time::Duration;

use larder_format::Ticket;
use larder_peer::{Peers, take_invitation};
use larder_volume::{Credential, ROOT};

use crate::line::{is_here, peers};
use crate::support::{Replica, Shelf, bytes, settings, until};

const HOUR: Duration = Duration::from_secs(3600);

async fn one(shelf: &Shelf) -> (Replica, Peers) {
    let replica = shelf.init(settings()).await;
    replica.write(ROOT, "file", &bytes(1, 100_000));
    replica.commit().await;
    let peers = peers(&replica, "first", &[]).await;
    (replica, peers)
}

async fn refused(ticket: &Ticket) -> String {
    take_invitation(ticket).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_ticket_gets_the_keys_and_opens_the_volume() {
    let shelf = Shelf::new();
    let (first, here) = one(&shelf).await;
    let ticket = here.invite("/the/store", HOUR).unwrap();
    let ticket = Ticket::parse(&ticket.to_text()).unwrap();
    assert_eq!(ticket.store, "/the/store");
    let (keys, address) = take_invitation(&ticket).await.unwrap();
    assert!(address.is_some());
    let state = shelf.state("second");
    larder_volume::open(
        &state,
        shelf.store(),
        Credential::Keys(keys),
        None,
        settings(),
        &|_| {},
    )
    .await
    .unwrap();
    let second = shelf.start(state, settings());
    let read = second.read(second.find("file")).await.unwrap();
    assert_eq!(read, bytes(1, 100_000));
    let there = peers(&second, "second", &[&here]).await;
    until(|| is_here(&here, there.id())).await;
    here.close().await;
    there.close().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_once_in_time_and_as_it_was_given() {
    let shelf = Shelf::new();
    let (first, here) = one(&shelf).await;
    let ticket = here.invite("/the/store", HOUR).unwrap();
    take_invitation(&ticket).await.unwrap();
    let words = refused(&ticket).await;
    assert!(words.contains("used already"), "{words}");
    // Of two who come at once one is given the keys.
    let ticket = here.invite("/the/store", HOUR).unwrap();
    let (one, other) = tokio::join!(take_invitation(&ticket), take_invitation(&ticket));
    assert_eq!([one, other].iter().filter(|taken| taken.is_ok()).count(), 1);
    let mut wrong = here.invite("/the/store", HOUR).unwrap();
    wrong.secret[0] ^= 1;
    let words = refused(&wrong).await;
    assert!(words.contains("not one of this inviter's"), "{words}");
    let mut old = here.invite("/the/store", Duration::ZERO).unwrap();
    let words = refused(&old).await;
    assert!(words.contains("too old"), "{words}");
    // The inviter's clock counts, not what the ticket is made to say.
    old.expires += 1_000_000;
    let words = refused(&old).await;
    assert!(words.contains("too old"), "{words}");
    here.close().await;
    let words = refused(&ticket).await;
    assert!(words.contains("does not answer"), "{words}");
    first.stop().await;
}

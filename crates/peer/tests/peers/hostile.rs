//! Strangers, and members that do what the protocol does not allow.

use std::time::Duration;

use larder_format::VolumeKeys;
use larder_format::peer::{Message, Newest, Piece};
use larder_model::ChunkId;
use larder_peer::Peers;
use larder_store::testing::{Call, Fault, When};
use larder_volume::ROOT;

use crate::line::{Stranger, ended, hear, is_here, of, peers, say};
use crate::support::{Replica, Shelf, bytes, settings, until};

const NOT_MEMBER: u64 = 1;
const BROKE: u64 = 9;

async fn one(shelf: &Shelf) -> (Replica, Peers) {
    let replica = shelf.init(settings()).await;
    // Not beside each other: what lies beside what is read comes with it.
    let d = replica.mkdir(ROOT, "d");
    replica.write(d, "file", &bytes(1, 100_000));
    replica.write(ROOT, "before", &bytes(2, 100));
    replica.commit().await;
    let peers = peers(&replica, "first", &[]).await;
    (replica, peers)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_hold_the_keys_is_refused_and_served_nothing() {
    let shelf = Shelf::new();
    let (replica, peers) = one(&shelf).await;
    let volume = replica.volume.id();
    let mut newer = replica.volume.keys().clone();
    newer.add_epoch([9; 32]);
    let others = [VolumeKeys::new(volume, [1; 32], [2; 32]), newer];
    for (seed, keys) in (1..).zip(others) {
        let stranger = Stranger::new(seed).await;
        let connection = stranger.call_as_member(&peers, &keys).await;
        assert_eq!(ended(&connection).await, NOT_MEMBER);
        assert!(!is_here(&peers, stranger.id));
    }
    // Who asks without a proof hears nothing either.
    let stranger = Stranger::new(7).await;
    let connection = stranger.call(&peers).await;
    let (mut out, mut back) = connection.open_bi().await.unwrap();
    let piece = Piece {
        chunk: ChunkId([1; 32]),
        place: None,
    };
    say(&mut out, &Message::Pieces(vec![piece])).await;
    assert_eq!(hear(&mut back).await, None);
    assert_eq!(ended(&connection).await, BROKE);
    peers.close().await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_ends_the_connection_and_nothing_else() {
    let shelf = Shelf::new();
    let (replica, peers) = one(&shelf).await;
    let keys = replica.volume.keys().clone();
    let mut too_many = Message::Pieces(vec![
        Piece {
            chunk: ChunkId([1; 32]),
            place: None,
        };
        larder_format::peer::MAX_PIECES + 1
    ])
    .encode();
    let len = (too_many.len() as u32).to_le_bytes();
    too_many.splice(0..0, len);
    let garbage: [Vec<u8>; 4] = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        u32::MAX.to_le_bytes().to_vec(),
        [&5u32.to_le_bytes()[..], &[0xff; 5]].concat(),
        too_many,
    ];
    for (seed, garbage) in (1..).zip(garbage) {
        let stranger = Stranger::new(seed).await;
        let connection = stranger.call_as_member(&peers, &keys).await;
        until(|| is_here(&peers, stranger.id)).await;
        let (mut out, _back) = connection.open_bi().await.unwrap();
        out.write_all(&garbage).await.unwrap();
        assert_eq!(ended(&connection).await, BROKE, "{seed}");
        until(|| !is_here(&peers, stranger.id)).await;
        // For a while it need not call again.
        let again = stranger.call_as_member(&peers, &keys).await;
        assert_eq!(ended(&again).await, BROKE);
    }
    // Others are served all the while.
    let stranger = Stranger::new(100).await;
    let connection = stranger.call_as_member(&peers, &keys).await;
    let (mut out, mut back) = connection.open_bi().await.unwrap();
    say(&mut out, &Message::Ping).await;
    assert_eq!(hear(&mut back).await, Some(Message::Ping));
    // News that is none ends it as well.
    let mut out = connection.open_uni().await.unwrap();
    say(&mut out, &Message::Ping).await;
    assert_eq!(ended(&connection).await, BROKE);
    peers.close().await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_given_what_is_here_and_no_more() {
    let shelf = Shelf::new();
    let (replica, peers) = one(&shelf).await;
    let keys = replica.volume.keys().clone();
    let stranger = Stranger::new(1).await;
    let connection = stranger.call_as_member(&peers, &keys).await;
    let commit = replica.volume.newest_stored().borrow().unwrap();
    let page = |chunk| Piece { chunk, place: None };
    let node = larder_model::NodeId([7; 16]);
    let place = larder_format::peer::PiecePlace {
        node,
        off: 0,
        len: 10,
    };
    let nowhere = Piece {
        chunk: commit.commit,
        place: Some(place),
    };
    let (mut out, mut back) = connection.open_bi().await.unwrap();
    let pieces = vec![page(ChunkId([9; 32])), nowhere, page(commit.commit)];
    say(&mut out, &Message::Pieces(pieces)).await;
    let mut lens = [0; 8];
    back.read_exact(&mut lens).await.unwrap();
    assert_eq!(lens, [0; 8]);
    let rest = back.read_to_end(1 << 20).await.unwrap();
    assert_eq!(keys.chunk_id(&rest[4..]), commit.commit);
    peers.close().await;
    replica.stop().await;
}

/// What a hostile member answers to a request for pieces.
#[derive(Clone, Copy, PartialEq)]
enum Answers {
    WrongBytes,
    TooLong,
    Never,
}

async fn read_with(answers: Answers, seed: u8) {
    let shelf = Shelf::new();
    let (first, _peers) = one(&shelf).await;
    let second = shelf.open("second", settings()).await;
    // The store takes its time, and that is known: any peer is nearer.
    let slow = Fault::Slow(Duration::from_millis(400));
    shelf.faulty.set(slow, Call::Get, When::Always);
    second.read(second.find("before")).await.unwrap();
    let peers = peers(&second, "second", &[]).await;
    let stranger = Stranger::new(seed).await;
    let keys = second.volume.keys().clone();
    let connection = stranger.call_as_member(&peers, &keys).await;
    until(|| is_here(&peers, stranger.id)).await;
    let asked = connection.clone();
    let (told, mut was_asked) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut out, mut back)) = asked.accept_bi().await {
            match hear(&mut back).await {
                Some(Message::Ping) => say(&mut out, &Message::Ping).await,
                Some(Message::Pieces(pieces)) => {
                    told.send(()).unwrap();
                    let len = pieces[0].max_len() as u32;
                    let (len, bytes) = match answers {
                        Answers::WrongBytes => (len, vec![7; len as usize]),
                        Answers::TooLong => (u32::MAX, vec![7; 1 << 20]),
                        Answers::Never => {
                            // Kept open, and silent.
                            std::mem::forget((out, back));
                            continue;
                        }
                    };
                    let _ = out.write_all(&len.to_le_bytes()).await;
                    let _ = out.write_all(&bytes).await;
                }
                _ => return,
            }
        }
    });
    let read = second.read(second.find("d/file")).await.unwrap();
    assert_eq!(read, bytes(1, 100_000));
    assert!(was_asked.recv().await.is_some());
    match answers {
        Answers::Never => assert!(is_here(&peers, stranger.id)),
        _ => {
            assert_eq!(ended(&connection).await, BROKE);
            until(|| !is_here(&peers, stranger.id)).await;
            assert_eq!(of(&peers, stranger.id).bytes_from, 0);
        }
    }
    peers.close().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_never_read() {
    read_with(Answers::WrongBytes, 1).await;
    read_with(Answers::TooLong, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_answers_is_not_waited_for() {
    read_with(Answers::Never, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_counts_only_if_it_is_newer() {
    let shelf = Shelf::new();
    let (replica, peers) = one(&shelf).await;
    let keys = replica.volume.keys().clone();
    let stranger = Stranger::new(1).await;
    let connection = stranger.call_as_member(&peers, &keys).await;
    until(|| is_here(&peers, stranger.id)).await;
    for n in [7, 3] {
        let mut out = connection.open_uni().await.unwrap();
        let commit = ChunkId([1; 32]);
        say(&mut out, &Message::Head(Newest { n, commit })).await;
        out.finish().unwrap();
        until(|| of(&peers, stranger.id).newest == Some(7)).await;
    }
    peers.close().await;
    replica.stop().await;
}

//! A new volume, and the same one on another machine.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use larder_model::{Kind, Time};
use larder_store::Store;
use larder_store::testing::{Call, Fault, Faulty, When};
use larder_volume::history::Which;
use larder_volume::{
    Caller, Credential, NewNode, ROOT, SetAttr, TimeSet, Volume, VolumeError, XattrMode,
};

use crate::support::{PASSPHRASE, Replica, Shelf, bytes, settings};

fn passphrase() -> Credential {
    Credential::Passphrase(PASSPHRASE.to_owned())
}

/// Everything that a user sees of a tree, as lines.
fn listing(volume: &Volume) -> Vec<String> {
    let mut lines = Vec::new();
    let mut directories = vec![(String::new(), ROOT)];
    while let Some((path, directory)) = directories.pop() {
        let attr = volume.attr(directory).unwrap();
        lines.push(format!(
            "{path}/ {:o} {} {:?}",
            attr.mode, attr.nlink, attr.mtime
        ));
        for entry in volume.list_dir(directory).unwrap() {
            let path = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
            let attr = volume.attr(entry.ino).unwrap();
            if entry.kind == Kind::Directory {
                directories.push((path, entry.ino));
                continue;
            }
            let target = match entry.kind {
                Kind::Symlink => volume.read_link(entry.ino).unwrap(),
                _ => Vec::new(),
            };
            let xattrs: Vec<_> = volume
                .list_xattrs(entry.ino)
                .unwrap()
                .into_iter()
                .map(|name| {
                    let value = volume.get_xattr(entry.ino, &name).unwrap();
                    (name, value)
                })
                .collect();
            lines.push(format!(
                "{path} {:?} {:o} {} {} {} {} {} {} {:?} {:?} {:?} {target:?} {xattrs:?}",
                attr.kind,
                attr.mode,
                attr.nlink,
                attr.uid,
                attr.gid,
                attr.rdev,
                attr.size,
                attr.blocks,
                attr.mtime,
                attr.ctime,
                attr.btime,
            ));
        }
    }
    lines.sort();
    lines
}

fn make(replica: &Replica, name: &str, kind: Kind, target: Option<&[u8]>) {
    let new = NewNode {
        kind,
        mode: 0o640,
        rdev: if kind == Kind::CharDevice { 0x103 } else { 0 },
        target,
        caller: Caller { uid: 3, gid: 4 },
    };
    replica
        .volume
        .make_node(ROOT, name.as_bytes(), new)
        .unwrap();
}

/// A tree with one of each kind of node.
async fn tree(shelf: &Shelf) -> Replica {
    let replica = shelf.init(settings()).await;
    let directory = replica.mkdir(ROOT, "dir");
    let below = replica.mkdir(directory, "below");
    let file = replica.write(below, "file", &bytes(1, 300_000));
    replica.write(below, "empty", b"");
    replica.write(ROOT, "long", &bytes(2, 3 << 20));
    replica.volume.link(file, ROOT, b"hard").unwrap();
    replica
        .volume
        .set_xattr(file, b"user.colour", b"green", XattrMode::Any)
        .unwrap();
    let times = SetAttr {
        mode: Some(0o4755),
        mtime: Some(TimeSet::At(Time(1_234_567_890_123_456_789))),
        ..SetAttr::default()
    };
    replica.volume.set_attr(file, &times).unwrap();
    make(&replica, "link", Kind::Symlink, Some(b"dir/below/file"));
    make(&replica, "fifo", Kind::Fifo, None);
    make(&replica, "null", Kind::CharDevice, None);
    replica.commit().await;
    replica
}

#[tokio::test(flavor = "multi_thread")]
async fn another_machine_sees_the_same_tree_and_the_same_bytes() {
    let shelf = Shelf::new();
    let first = tree(&shelf).await;
    let seen = listing(&first.volume);
    first.stop().await;
    let second = shelf.open("second", settings()).await;
    assert_eq!(listing(&second.volume), seen);
    assert_eq!(second.volume.status().unwrap().bytes_here, 0);
    let file = second.find("dir/below/file");
    assert!(second.read(file).await.unwrap() == bytes(1, 300_000));
    assert!(second.read(second.find("long")).await.unwrap() == bytes(2, 3 << 20));
    assert!(
        second
            .read(second.find("dir/below/empty"))
            .await
            .unwrap()
            .is_empty()
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_replica_goes_on_from_the_first_ones_commit() {
    let shelf = Shelf::new();
    tree(&shelf).await.stop().await;
    let second = shelf.open("second", settings()).await;
    second.write(ROOT, "of the second", &bytes(9, 1000));
    second.commit().await;
    let seen = listing(&second.volume);
    second.stop().await;
    let third = shelf.open("third", settings()).await;
    assert_eq!(listing(&third.volume), seen);
    assert!(shelf.objects_in("heads").len() >= 2);
    third.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recovery_key_opens_the_volume_however_it_is_typed() {
    let shelf = Shelf::new();
    let made = larder_volume::init(&shelf.state("first"), shelf.store(), None, settings()).await;
    let key = made.unwrap().recovery_key;
    let typed = format!("  {} ", key.to_lowercase().replace('-', " "));
    let (state, typed) = (shelf.state("second"), Credential::RecoveryKey(typed));
    let opened = larder_volume::open(&state, shelf.store(), typed, None, settings(), &|_| {});
    assert_eq!(opened.await.unwrap().files, 0);
    let mode = std::fs::metadata(state.join("key")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_passphrase_opens_nothing_and_leaves_nothing() {
    let shelf = Shelf::new();
    tree(&shelf).await.stop().await;
    let wrong = Credential::Passphrase("wrong".to_owned());
    let state = shelf.state("second");
    let error = larder_volume::open(&state, shelf.store(), wrong, None, settings(), &|_| {})
        .await
        .unwrap_err();
    assert!(error.to_string().contains("passphrase"), "{error}");
    assert!(!state.join("volume.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_holds_a_volume_is_not_initialised_again() {
    let shelf = Shelf::new();
    shelf.init(settings()).await.stop().await;
    let before = shelf.objects();
    let again = larder_volume::init(&shelf.state("again"), shelf.store(), None, settings()).await;
    let Err(error) = again else {
        panic!("made a second volume on one store")
    };
    assert!(matches!(error, VolumeError::State(_)));
    assert!(error.to_string().contains("larder open"), "{error}");
    assert_eq!(shelf.objects(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_open_leaves_no_replica_and_can_be_repeated() {
    let shelf = Shelf::new();
    let first = tree(&shelf).await;
    let seen = listing(&first.volume);
    first.stop().await;
    let state = shelf.state("second");
    let mut failed = 0;
    for at in 0.. {
        shelf.faulty.clear();
        shelf.faulty.set(Fault::Refused, Call::Any, When::Once(at));
        match larder_volume::open(
            &state,
            shelf.store(),
            passphrase(),
            None,
            settings(),
            &|_| {},
        )
        .await
        {
            Ok(_) => break,
            Err(error) => {
                assert!(!state.join("volume.db").exists(), "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed >= 5, "{failed} steps failed");
    shelf.faulty.clear();
    let second = shelf.start(state, settings());
    assert_eq!(listing(&second.volume), seen);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_damaged_index_object_loses_nothing() {
    let shelf = Shelf::new();
    let first = tree(&shelf).await;
    let seen = listing(&first.volume);
    first.stop().await;
    for (at, index) in shelf.objects_in("index").into_iter().enumerate() {
        match at % 2 {
            0 => std::fs::remove_file(index).unwrap(),
            _ => std::fs::write(index, b"not an index").unwrap(),
        }
    }
    let second = shelf.open("second", settings()).await;
    assert_eq!(listing(&second.volume), seen);
    assert!(second.read(second.find("hard")).await.unwrap() == bytes(1, 300_000));
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_head_is_passed_over_for_the_one_before() {
    let shelf = Shelf::new();
    let first = tree(&shelf).await;
    first.write(ROOT, "later", b"later");
    first.commit().await;
    first.stop().await;
    let heads = shelf.objects_in("heads");
    std::fs::write(heads.last().unwrap(), b"not a head").unwrap();
    let state = shelf.state("second");
    let opened = larder_volume::open(
        &state,
        shelf.store(),
        passphrase(),
        None,
        settings(),
        &|_| {},
    )
    .await
    .unwrap();
    assert!(opened.warnings.iter().any(|words| words.contains("heads/")));
    let second = shelf.start(state, settings());
    assert!(second.volume.resolve(b"later").is_err());
    assert!(second.volume.resolve(b"hard").is_ok());
    second.stop().await;
}

/// A bit that turned on the way is no reason to begin with an older tree.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_damaged_once_is_asked_for_again() {
    let shelf = Shelf::new();
    let first = tree(&shelf).await;
    first.write(ROOT, "later", b"later");
    first.commit().await;
    first.stop().await;
    let places = [
        ("heads/", Fault::WrongBytes, Call::Get),
        ("heads/", Fault::Truncated, Call::Get),
        ("index/", Fault::WrongBytes, Call::Get),
    ];
    for (n, (under, fault, call)) in places.into_iter().enumerate() {
        let faulty = Arc::new(Faulty::new(shelf.store()));
        faulty.set_under(under, fault, call, When::Once(0));
        if under == "index/" {
            // Nor can the packs tell themselves what they hold.
            faulty.set_under("trees/", fault, call, When::Once(0));
        }
        let state = shelf.state(&format!("copy {n}"));
        let store: Arc<dyn Store> = faulty.clone();
        let opened = larder_volume::open(&state, store, passphrase(), None, settings(), &|_| {});
        let opened = opened.await.unwrap();
        assert_eq!(opened.warnings, [""; 0], "{under} {fault:?}");
        assert!(faulty.met() > 0, "{under} {fault:?}");
        let copy = shelf.start(state, settings());
        assert!(copy.volume.resolve(b"later").is_ok(), "{under} {fault:?}");
        copy.stop().await;
    }
}

/// So of two commits the one that includes the other is known by its number; and what counts its
/// own commits finds gaps.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_has_a_higher_number_than_all_that_it_includes() {
    let latest = |replica: &Replica| {
        let moment = replica.volume.moment(&Which::Latest).unwrap();
        moment.commit.n
    };
    let shelf = Shelf::new();
    let first = tree(&shelf).await;
    for n in 0..5 {
        first.write(ROOT, "file", format!("first {n}").as_bytes());
        first.commit().await;
    }
    let of_first = latest(&first);
    let state = first.stop().await;
    let heads = shelf.objects_in("heads").len();
    let second = shelf.open("second", settings()).await;
    for n in 1..=12 {
        second.write(ROOT, "file", format!("second {n}").as_bytes());
        second.commit().await;
        assert_eq!(latest(&second), of_first + n);
    }
    second.stop().await;
    assert_eq!(shelf.objects_in("heads").len(), heads + 8);
    // Both go on; a third sees what is newer.
    let first = shelf.start(state, settings());
    first.stop().await;
    let third = shelf.open("third", settings()).await;
    assert!(third.read(third.find("file")).await.unwrap() == b"second 12");
    third.stop().await;
}

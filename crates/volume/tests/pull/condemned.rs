//! What marks say is held to, whatever goes wrong meanwhile: nothing comes to rest on what others
//! condemned, and nothing is dropped that may rest on it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use larder_model::KeepPolicy;
use larder_store::testing::{Call, Fault, Faulty, When};
use larder_volume::history::Which;
use larder_volume::{Ino, ROOT, Settings};

use crate::collected::{LITTLE, copy_directory, opens_afresh, two, version};
use crate::support::{Replica, Shelf, settings, until};

const HOURS: KeepPolicy = KeepPolicy {
    hourly: 5,
    ..LITTLE
};

/// Who is waited for is not waited for long; who is about to call something safe asks first.
fn impatient() -> Settings {
    Settings {
        member_grace: Duration::ZERO,
        commit_interval: Duration::from_secs(3600),
        ..settings()
    }
}

/// No commit but those that are asked for.
fn slow() -> Settings {
    Settings {
        commit_interval: Duration::from_secs(3600),
        ..settings()
    }
}

/// What a test waits for that must not wait for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    let limit = Duration::from_secs(60);
    tokio::time::timeout(limit, what).await.unwrap()
}

/// The replicas that have objects of this kind.
fn replicas_in(shelf: &Shelf, kind: &str) -> BTreeSet<String> {
    let name = |path: PathBuf| path.parent().unwrap().file_name().unwrap().to_owned();
    let objects = shelf.objects_in(kind).into_iter();
    objects
        .map(|path| name(path).into_string().unwrap())
        .collect()
}

/// Where this replica's newest mark lies.
fn mark_of(shelf: &Shelf, replica: &Replica) -> PathBuf {
    let id = replica.volume.replica().id().to_string();
    let marks = shelf.objects_in(&format!("marks/{id}"));
    marks.last().unwrap().clone()
}

/// Turns a byte of an object.
fn spoil(path: &PathBuf) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// The second replica, started again with faults of its own.
async fn apart(shelf: &Shelf, second: Replica, settings: Settings) -> (Replica, Arc<Faulty>) {
    let state = second.stop().await;
    shelf.start_apart(state, settings)
}

/// A file in the second one's tree whose content is away, lies in one pack only, and was deleted
/// elsewhere since; no head or mark of the second one names a commit that has it.
async fn with_a_file_that_others_gave_up(
    shelf: &Shelf,
    first: &Replica,
    second: &Replica,
) -> (Ino, PathBuf) {
    let before: BTreeSet<_> = shelf.objects_in("packs").into_iter().collect();
    first.write(ROOT, "given up", &version(50));
    first.store().await;
    let mut new = shelf.objects_in("packs");
    new.retain(|path| !before.contains(path));
    // It said a moment ago what it stands on, and says it again after a while only.
    second.meet().await;
    let file = second.find("given up");
    assert!(!second.is_here(file));
    first.volume.unlink(ROOT, b"given up").unwrap();
    first.store().await;
    first.store_versions("file", 60..72).await;
    (file, new.pop().unwrap())
}

/// A clone made a commit: who finds that out in the middle of its work goes on under a new id.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_as_a_new_replica_is_a_member_before_it_has_a_head() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, slow).await;
    let (second, faulty) = apart(&shelf, second, slow()).await;
    second.write(ROOT, "mine", &version(80));
    second.store().await;
    let image = shelf.state("clone");
    copy_directory(&second.state, &image);
    let clone = shelf.start(image, slow());
    clone.write(ROOT, "of the clone", b"another");
    clone.store().await;
    clone.stop().await;

    faulty.set_under("marks/", Fault::Cut, Call::List, When::Once(0));
    second.write(ROOT, "after the clone", &version(81));
    // It learns that it has to be another one, and cannot become a member yet.
    soon(second.volume.commit(None, &|_| {})).await.unwrap_err();
    assert_eq!(faulty.met(), 1);
    soon(second.store()).await;
    assert_eq!(replicas_in(&shelf, "heads").len(), 3);
    assert_eq!(replicas_in(&shelf, "marks"), replicas_in(&shelf, "heads"));
    second.is_well().await;
    first.stop().await;
    second.stop().await;
}

/// The last run's commit was sent again, which took so long that nobody waited for this replica
/// any more. Nothing differs since: what it has here is not safe for that.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_runs_commit_reaches_is_safe_after_a_look_at_the_marks() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, impatient).await;
    let (second, faulty) = apart(&shelf, second, impatient()).await;
    // Cut against a pack that only the first one's history has.
    let file = second.write(ROOT, "again", &version(2));
    until(|| second.volume.push_status().waiting_files == 0).await;
    faulty.set(Fault::Cut, Call::Put, When::Always);
    let volume = Arc::clone(&second.volume);
    let committing = tokio::spawn(async move { volume.commit(None, &|_| {}).await });
    until(|| faulty.met() > 0).await;
    let state = second.stop().await;
    let _ = committing.await;

    let image = shelf.state("again");
    copy_directory(&state, &image);
    let faulty = Arc::new(Faulty::new(shelf.store()));
    faulty.set(Fault::Cut, Call::Put, When::Always);
    let second = Shelf::start_on(Arc::clone(&faulty) as _, image, impatient());
    // It has read the marks, and sends the commit again.
    until(|| faulty.met() > 0).await;
    first.store_versions("file", 22..24).await;
    first.collect().await;
    let done = first.collect().await;
    assert!(done.packs_deleted > 4, "{done:?}");
    faulty.clear();
    soon(second.store()).await;
    soon(second.store()).await;
    second.stash_all();
    assert_eq!(second.read(file).await.unwrap(), version(2));
    soon(second.store()).await;
    second.is_well().await;
    second.meet().await;
    opens_afresh(&shelf, "fresh", "again", &version(2)).await;
    first.stop().await;
    second.stop().await;
}

/// The commit was cut off after its pages were stored, and before its head was.
#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_a_cut_off_commit_that_were_condemned_are_stored_anew() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, slow).await;
    let (second, faulty) = apart(&shelf, second, slow()).await;
    faulty.set_under("heads/", Fault::Cut, Call::Put, When::Always);
    let trees = || {
        shelf
            .objects_in("trees")
            .into_iter()
            .collect::<BTreeSet<_>>()
    };
    let before = trees();
    second.mkdir(ROOT, "directory");
    let volume = Arc::clone(&second.volume);
    let committing = tokio::spawn(async move { volume.commit(None, &|_| {}).await });
    until(|| faulty.met() > 0).await;
    let state = second.stop().await;
    let _ = committing.await;
    let of_it: Vec<_> = trees().difference(&before).cloned().collect();
    assert_eq!(of_it.len(), 1);
    let condemned = first.collect().await;
    assert!(condemned.packs_condemned > 4, "{condemned:?}");

    let (before, heads) = (trees(), shelf.objects_in("heads"));
    let second = shelf.start(state, slow());
    until(|| shelf.objects_in("heads") != heads).await;
    assert_eq!(trees().len(), before.len() + 1, "its pages are stored anew");
    // As the collector does if it does not know of that head in time.
    std::fs::remove_file(&of_it[0]).unwrap();
    let fresh = shelf.open("fresh", slow()).await;
    fresh.meet().await;
    fresh.find("directory");
    for replica in [first, second, fresh] {
        replica.stop().await;
    }
}

/// A store that does not answer in time has not lost anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_copied_in_time_is_copied_later() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, slow).await;
    let (file, pack) = with_a_file_that_others_gave_up(&shelf, &first, &second).await;
    let condemned = first.collect().await;
    assert!(condemned.packs_condemned > 4, "{condemned:?}");
    // The store has another mark of it than the last one: it looks at all anew.
    std::fs::remove_file(mark_of(&shelf, &second)).unwrap();
    let state = second.stop().await;
    let hurried = Settings {
        read_wait: Duration::from_millis(200),
        ..slow()
    };
    let faulty = Arc::new(Faulty::new(shelf.store()));
    faulty.set_under("packs/", Fault::Hang, Call::Get, When::Always);
    let second = Shelf::start_on(Arc::clone(&faulty) as _, state, hurried);
    until(|| !second.volume.push_status().warnings.is_empty()).await;
    let warnings = second.volume.push_status().warnings;
    assert!(
        !warnings.iter().any(|words| words.contains("gave up")),
        "{warnings:?}"
    );
    let packs = || shelf.objects_in("packs").len();
    let before = packs();
    faulty.clear();
    until(|| packs() > before).await;
    soon(second.store()).await;
    std::fs::remove_file(pack).unwrap();
    assert_eq!(second.read(file).await.unwrap(), version(50));
    first.stop().await;
    second.stop().await;
}

/// Until it is known where all that is here lies, a restore replaces nothing either.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_replaced_while_it_may_rest_on_what_was_condemned() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, slow).await;
    let (second, faulty) = apart(&shelf, second, slow()).await;
    second.write(ROOT, "mine", &version(80));
    second.store().await;
    let then = second.volume.moment(&Which::Latest).unwrap();
    let mine = second.write(ROOT, "mine", &version(81));
    second.store().await;
    first.collect().await;
    // It sees what is condemned, and cannot find out what follows.
    faulty.set_under("index/", Fault::Cut, Call::List, When::Always);
    let met = second
        .volume
        .sync(larder_volume::Deletions::Guarded, &|_| {});
    soon(met).await.unwrap_err();
    let restore = || {
        let path = b"mine".to_vec();
        second
            .volume
            .restore(then.clone(), path.clone(), path, &|_| {})
    };
    let back = soon(restore()).await.unwrap();
    assert_eq!((back.files, back.kept.len()), (0, 1), "{back:?}");
    assert!(back.kept[0].1.contains("given up"), "{back:?}");
    assert_eq!(second.read(mine).await.unwrap(), version(81));
    faulty.clear();
    second.meet().await;
    let back = soon(restore()).await.unwrap();
    assert_eq!((back.files, back.kept.len()), (1, 0), "{back:?}");
    first.stop().await;
    second.stop().await;
}

/// A mark that rotted on the store stops nobody; until its replica puts it anew, what it says is
/// unknown, and nothing becomes safe.
#[tokio::test(flavor = "multi_thread")]
async fn one_mark_that_cannot_be_read_stops_nobody_and_comes_back() {
    let shelf = Shelf::new();
    // All of them look at the marks whenever something is about to be safe.
    let (first, second) = two(&shelf, impatient).await;
    let third = shelf.open("third", impatient()).await;
    let mark = mark_of(&shelf, &first);
    spoil(&mark);
    soon(third.volume.set_retention(Some(HOURS))).await.unwrap();
    let file = second.write(ROOT, "file of the second", &version(90));
    soon(second.store()).await;
    soon(second.meet()).await;
    // What the others say is heard.
    assert_eq!(second.volume.retention().unwrap(), Some(HOURS));
    let warns = || {
        let warnings = second.volume.push_status().warnings.into_iter();
        warnings.filter(|words| words.contains("mark")).count()
    };
    let stays = || {
        second.stash_all();
        second.is_here(file)
    };
    assert!(stays() && warns() == 1);
    let collected = second.volume.collect(false, &|_| {});
    assert!(soon(collected).await.is_err());
    // A machine that starts now works, too.
    let state = third.stop().await;
    let third = shelf.start(state, impatient());
    third.write(ROOT, "file of the third", b"3");
    soon(third.store()).await;

    // At its next look the first one puts it anew.
    soon(first.meet()).await;
    assert!(!mark.exists());
    soon(second.store()).await;
    assert!(!stays() && warns() == 0);
    // And at its start.
    let mark = mark_of(&shelf, &first);
    spoil(&mark);
    let state = first.stop().await;
    let first = shelf.start(state, impatient());
    until(|| !mark.exists()).await;
    for replica in [first, second, third] {
        soon(replica.meet()).await;
        replica.is_well().await;
        replica.stop().await;
    }
}

/// A store that takes nothing any more answers, and so does whoever waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_refuses_what_is_put_does_not_hang_what_is_asked() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, slow).await;
    for fault in [Fault::Full, Fault::Refused] {
        shelf.faulty.set(fault, Call::Put, When::Always);
        first.mkdir(ROOT, &format!("{fault:?}"));
        soon(first.volume.commit(None, &|_| {})).await.unwrap_err();
        soon(first.volume.collect(false, &|_| {}))
            .await
            .unwrap_err();
        shelf.faulty.clear();
        soon(first.store()).await;
        soon(first.collect()).await;
    }
    second.meet().await;
    let done = soon(first.collect()).await;
    assert!(done.packs_deleted > 4, "{done:?}");
    first.is_well().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_takes_in_what_others_do() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, slow).await;
    std::fs::remove_file(mark_of(&shelf, &second)).unwrap();
    let state = second.stop().await;
    let faulty = Arc::new(Faulty::new(shelf.store()));
    faulty.set(Fault::Refused, Call::Put, When::Always);
    first.write(ROOT, "to be read", b"read");
    first.store().await;
    let second = Shelf::start_on(Arc::clone(&faulty) as _, state, slow());
    soon(second.meet()).await;
    let read = second.read(second.find("to be read")).await;
    assert_eq!(read.unwrap(), b"read");
    first.stop().await;
    second.stop().await;
}

/// What stays local is in no commit: nobody else knows what it rests on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_copied_by_reference_does_not_rest_on_a_condemned_pack() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, slow).await;
    let (file, pack) = with_a_file_that_others_gave_up(&shelf, &first, &second).await;
    let copy = |name: &str| {
        let copy = second.write(ROOT, name, b"");
        let volume = Arc::clone(&second.volume);
        tokio::task::spawn_blocking(move || {
            let len = version(50).len() as u64;
            assert_eq!(volume.copy_range(file, 0, copy, 0, len).unwrap(), len);
            copy
        })
    };
    // Before the pack is condemned, and after this replica said that it knows.
    let before = copy("before.tmp").await.unwrap();
    assert!(!second.is_here(before));
    first.collect().await;
    soon(second.volume.set_retention(Some(LITTLE)))
        .await
        .unwrap();
    let after = copy("after.tmp").await.unwrap();
    for _ in 0..2 {
        second.meet().await;
    }
    // The heads of commits that had the file are dropped.
    second.store_versions("other", 100..110).await;
    for _ in 0..4 {
        first.meet().await;
        first.collect().await;
        second.meet().await;
    }
    assert!(!pack.exists(), "the test shows nothing");
    for copy in [before, after] {
        assert_eq!(second.read(copy).await.unwrap(), version(50));
    }
    first.stop().await;
    second.stop().await;
}

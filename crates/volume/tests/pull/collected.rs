//! History that is given up goes from the store, and nothing else does: whoever pushes, joins, crashes
//! or sleeps meanwhile.

use larder_model::{KeepPolicy, Kind};
use larder_store::testing::{Call, Fault, When};
use larder_volume::history::{Moment, Which};
use larder_volume::{CollectReport, ROOT, Settings};

use crate::support::{Replica, Shelf, bytes, settings, until};

const VERSION_BYTES: usize = 200_000;
/// So many heads are kept on a store, and all that they name.
const HEADS: u64 = 8;

/// One commit of this hour, and what heads and messages hold.
pub const LITTLE: KeepPolicy = KeepPolicy {
    hourly: 1,
    daily: 0,
    weekly: 0,
    monthly: 0,
};

pub fn version(n: u64) -> Vec<u8> {
    bytes(1000 + n, VERSION_BYTES)
}

impl Replica {
    /// A commit without a message.
    pub async fn store(&self) {
        self.volume.commit(None, &|_| {}).await.unwrap();
    }

    /// Stores versions of a file, each in a commit.
    pub async fn store_versions(&self, name: &str, versions: std::ops::Range<u64>) {
        for n in versions {
            self.write(ROOT, name, &version(n));
            self.store().await;
        }
    }

    pub async fn keep_little(&self) {
        self.volume.set_retention(Some(LITTLE)).await.unwrap();
    }

    pub async fn collect(&self) -> CollectReport {
        self.volume.collect(false, &|_| {}).await.unwrap()
    }

    /// Takes in what the others did, and gives its word.
    pub async fn meet(&self) {
        self.volume
            .sync(larder_volume::Deletions::Guarded, &|_| {})
            .await
            .unwrap();
    }

    pub fn moments(&self) -> Vec<Moment> {
        self.volume.chain().unwrap().map(Result::unwrap).collect()
    }

    /// Reads all that every commit has that is listed.
    async fn read_history(&self) {
        let volume = std::sync::Arc::clone(&self.volume);
        tokio::task::spawn_blocking(move || {
            for moment in volume.chain().unwrap() {
                let moment = moment.unwrap();
                let mut left = vec![larder_model::NodeId::ROOT];
                while let Some(directory) = left.pop() {
                    for (_, id, kind) in volume.past_entries(&moment, directory).unwrap() {
                        match kind {
                            Kind::Directory => left.push(id),
                            Kind::File => {
                                let size = volume.past_attr(&moment, id).unwrap().size;
                                let mut read = vec![0; size as usize];
                                let mut at = 0;
                                while at < read.len() {
                                    let more =
                                        volume.read_past(&moment, id, at as u64, &mut read[at..]);
                                    at += more.unwrap();
                                }
                            }
                            _ => {}
                        }
                    }
                }
            }
        })
        .await
        .unwrap();
    }

    /// All that is in the tree can be read, here or from the store, and the store has all.
    pub async fn is_well(&self) {
        let verified = self.volume.verify(&[ROOT], true, &|_| {}).await.unwrap();
        assert!(verified.is_well(), "{verified:?}");
        assert!(verified.unknown.is_empty(), "{verified:?}");
        self.read_history().await;
    }

    pub fn stash_all(&self) {
        let options = larder_volume::StashOptions {
            older_than: None,
            dry_run: false,
        };
        self.volume.stash(&[ROOT], &options, &|_| {}).unwrap();
    }
}

fn stored_bytes(shelf: &Shelf) -> u64 {
    let objects = shelf.objects_in("packs").into_iter();
    let objects = objects.chain(shelf.objects_in("trees"));
    objects
        .map(|path| std::fs::metadata(path).unwrap().len())
        .sum()
}

/// What a new machine sees is what the store has.
pub async fn opens_afresh(shelf: &Shelf, name: &str, file: &str, content: &[u8]) {
    let fresh = shelf.open(name, settings()).await;
    assert_eq!(fresh.read(fresh.find(file)).await.unwrap(), content);
    fresh.is_well().await;
    fresh.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_goes_and_what_is_kept_stays_whole() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.write(ROOT, "always", b"the same");
    first.store_versions("file", 0..3).await;
    first.write(ROOT, "file", &version(3));
    first.commit().await;
    let named = first.volume.moment(&Which::Latest).unwrap();
    first.store_versions("file", 4..20).await;
    // Without a policy nothing goes.
    let nothing = first.collect().await;
    assert_eq!(nothing.commits_given_up, 0);
    let before = stored_bytes(&shelf);

    first.keep_little().await;
    let dry = first.volume.collect(true, &|_| {}).await.unwrap();
    assert!(dry.packs_condemned > 0 && dry.packs_deleted == 0, "{dry:?}");
    assert_eq!(stored_bytes(&shelf), before);
    let done = first.collect().await;
    assert_eq!(done.commits_kept, HEADS + 1, "{done:?}");
    assert_eq!(done.commits_given_up, 11, "{done:?}");
    assert!(
        done.waiting.is_empty() && done.packs_condemned == 0,
        "{done:?}"
    );
    let after = stored_bytes(&shelf);
    assert_eq!(before - after, done.bytes_deleted);
    assert!(done.bytes_deleted > 10 * VERSION_BYTES as u64, "{done:?}");

    let moments = first.moments();
    assert_eq!(moments.len() as u64, HEADS + 1);
    let file = named_file(&first, &named);
    let mut then = vec![0; VERSION_BYTES];
    first.volume.read_past(&named, file, 0, &mut then).unwrap();
    assert_eq!(then, version(3));
    // The oldest that is kept follows in the list, though the chain is cut.
    assert_eq!(moments.last().unwrap().id, named.id);
    let oldest_head = &moments[HEADS as usize - 1];
    assert_eq!(
        first.volume.before(oldest_head).unwrap().unwrap().id,
        named.id
    );
    first.is_well().await;
    opens_afresh(&shelf, "fresh", "file", &version(19)).await;

    // Once more finds nothing; and after a restart the same is there.
    let again = first.collect().await;
    assert_eq!(
        (again.packs_condemned, again.packs_deleted),
        (0, 0),
        "{again:?}"
    );
    let state = first.stop().await;
    let first = shelf.start(state, settings());
    assert_eq!(first.moments().len() as u64, HEADS + 1);
    first.store_versions("file", 20..22).await;
    first.collect().await;
    first.is_well().await;
    first.stop().await;
}

fn named_file(replica: &Replica, moment: &Moment) -> larder_model::NodeId {
    let found = replica
        .volume
        .past_entry(moment, larder_model::NodeId::ROOT, b"file");
    found.unwrap().unwrap()
}

/// A machine with more history than is kept, and another one that has seen all of it.
pub async fn two(shelf: &Shelf, settings_of: impl Fn() -> Settings) -> (Replica, Replica) {
    let first = shelf.init(settings_of()).await;
    first.write(ROOT, "always", b"the same");
    first.store().await;
    first.store_versions("file", 0..12).await;
    let second = shelf.open("second", settings_of()).await;
    second.write(ROOT, "of the second", b"2");
    second.store().await;
    first.meet().await;
    // Beyond all that the heads name.
    first.store_versions("file", 12..22).await;
    second.meet().await;
    first.keep_little().await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_before_every_machine_knows() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, settings).await;
    let before = stored_bytes(&shelf);
    let condemned = first.collect().await;
    assert!(condemned.packs_condemned > 4, "{condemned:?}");
    assert_eq!(condemned.packs_deleted, 0);
    let waited_for: Vec<_> = condemned.waiting.iter().map(|one| one.replica).collect();
    assert_eq!(waited_for.len(), 1);
    // It is asked for ever so often; and a second collector waits for the first.
    let again = first.collect().await;
    assert_eq!(
        (again.packs_deleted, again.waiting.len()),
        (0, 1),
        "{again:?}"
    );
    assert!(stored_bytes(&shelf) >= before);
    first.is_well().await;

    second.meet().await;
    assert_eq!(second.volume.retention().unwrap(), Some(LITTLE));
    let done = first.collect().await;
    assert!(done.waiting.is_empty(), "{done:?}");
    assert_eq!(done.packs_deleted, condemned.packs_condemned, "{done:?}");
    for replica in [&first, &second] {
        replica.stash_all();
        assert_eq!(
            replica.read(replica.find("file")).await.unwrap(),
            version(21)
        );
        replica.is_well().await;
    }
    second.meet().await;
    second.is_well().await;
    opens_afresh(&shelf, "fresh", "file", &version(21)).await;
    // The second one collects, too: what the first gave up is given up for it.
    second.collect().await;
    first.meet().await;
    second.collect().await;
    first.meet().await;
    for replica in [&first, &second] {
        replica.is_well().await;
    }
    first.stop().await;
    second.stop().await;
}

/// Between the two phases, before the second machine knows, and after.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_against_a_condemned_pack_is_not_lost() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, settings).await;
    let condemned = first.collect().await;
    assert!(condemned.packs_condemned > 4, "{condemned:?}");
    // It does not know: this costs no content.
    let packs = || shelf.objects_in("packs").len();
    let before = packs();
    second.write(ROOT, "unknowing", &version(1));
    second.store().await;
    assert_eq!(packs(), before);
    second.meet().await;
    let let_off = first.collect().await;
    assert_eq!(let_off.packs_let_off, 1, "{let_off:?}");
    assert!(let_off.packs_deleted > 3, "{let_off:?}");
    second.stash_all();
    assert_eq!(
        second.read(second.find("unknowing")).await.unwrap(),
        version(1)
    );

    // It knows, and the packs are there still.
    first.store_versions("file", 22..25).await;
    second.meet().await;
    first.collect().await;
    second.meet().await;
    let before = packs();
    second.write(ROOT, "knowing", &version(12));
    second.store().await;
    assert_eq!(packs(), before + 1, "it was stored anew");
    first.meet().await;
    first.collect().await;
    second.stash_all();
    assert_eq!(
        second.read(second.find("knowing")).await.unwrap(),
        version(12)
    );
    for replica in [&first, &second] {
        replica.is_well().await;
    }
    opens_afresh(&shelf, "fresh", "knowing", &version(12)).await;
    first.stop().await;
    second.stop().await;
}

/// Stored against a pack, in no commit yet, and here: then the pack is condemned.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_and_only_in_a_condemned_pack_is_stored_anew() {
    let shelf = Shelf::new();
    let slowly = || Settings {
        commit_interval: std::time::Duration::from_secs(3600),
        ..settings()
    };
    let (first, second) = two(&shelf, slowly).await;
    let file = second.write(ROOT, "new", &version(2));
    until(|| second.volume.push_status().waiting_files == 0).await;
    let packs = || shelf.objects_in("packs").len();
    let before = packs();
    first.collect().await;
    second.meet().await;
    // The word was given before the file was in any commit; it is dirty, or stored anew.
    second.store().await;
    assert_eq!(packs(), before + 1);
    let done = first.collect().await;
    assert!(done.packs_deleted > 4, "{done:?}");
    second.stash_all();
    assert!(!second.is_here(file));
    assert_eq!(second.read(file).await.unwrap(), version(2));
    second.is_well().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_or_is_joined_out_of_a_condemned_pack_is_copied() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, settings).await;
    let third = shelf.open("third", settings()).await;
    third.meet().await;
    let old = second.moments().into_iter().rev().find(|moment| {
        moment.commit.author == first.volume.moment(&Which::Latest).unwrap().commit.author
            && moment.commit.files == 2
    });
    let old = old.unwrap();
    first.collect().await;
    // The third does not know yet; the second has given its word.
    third.write(ROOT, "unknowing", &version(4));
    third.store().await;
    let packs = || shelf.objects_in("packs").len();
    second
        .volume
        .sync(larder_volume::Deletions::Guarded, &|_| {})
        .await
        .unwrap();
    assert_eq!(
        second.read(second.find("unknowing")).await.unwrap(),
        version(4)
    );
    let before = packs();
    let back = second
        .volume
        .restore(old, b"file".to_vec(), b"back".to_vec(), &|_| {})
        .await
        .unwrap();
    assert_eq!(back.files, 1, "{back:?}");
    assert_eq!(packs(), before + 1, "it was copied");
    second.store().await;
    third.volume.unlink(ROOT, b"unknowing").unwrap();
    third.store().await;
    third.store_versions("other", 30..40).await;
    third.meet().await;
    let done = first.collect().await;
    assert!(done.packs_deleted > 3, "{done:?}");
    second.stash_all();
    assert_eq!(second.read(second.find("back")).await.unwrap(), version(0));
    assert_eq!(
        second.read(second.find("unknowing")).await.unwrap(),
        version(4)
    );
    second.is_well().await;
    for replica in [first, second, third] {
        replica.stop().await;
    }
}

/// Whatever the store hides in one of its lists.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_hides_something_deletes_nothing_that_is_needed() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, settings).await;
    for hidden in 0..14 {
        first
            .store_versions("file", 100 + hidden..101 + hidden)
            .await;
        second.write(ROOT, "of the second", &version(200 + hidden));
        second.store().await;
        shelf
            .faulty
            .set(Fault::Missing, Call::List, When::Once(hidden));
        // It may see that something is hidden, or do without.
        let _ = first.volume.collect(false, &|_| {}).await;
        shelf.faulty.clear();
        first.is_well().await;
        second.is_well().await;
        second.meet().await;
    }
    // All of them at once: nothing is done at all.
    first.store_versions("file", 300..301).await;
    let before = stored_bytes(&shelf);
    shelf.faulty.set(Fault::Missing, Call::List, When::Always);
    assert!(first.volume.collect(false, &|_| {}).await.is_err());
    assert_eq!(stored_bytes(&shelf), before);
    shelf.faulty.clear();
    let done = first.collect().await;
    assert!(done.packs_deleted > 0, "{done:?}");
    first.is_well().await;
    first.stop().await;
    second.stop().await;
}

/// Each change on the store is the last one before a crash, done or not.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_step_leaves_what_the_next_run_goes_on_with() {
    let shelf = Shelf::new();
    let (mut first, second) = two(&shelf, settings).await;
    let (mut n, mut crashes) = (1000, 0);
    for call in [Call::Put, Call::Delete] {
        for fault in [Fault::Hang, Fault::HangAfter] {
            for step in 0.. {
                first.store_versions("file", n..n + 2).await;
                n += 2;
                second.meet().await;
                first.volume.collect(true, &|_| {}).await.unwrap();
                let met = shelf.faulty.met();
                shelf.faulty.set(fault, call, When::From(step));
                let collecting = std::sync::Arc::clone(&first.volume);
                let task = tokio::spawn(async move { collecting.collect(false, &|_| {}).await });
                until(|| task.is_finished() || shelf.faulty.met() > met).await;
                let is_done = task.is_finished();
                let image = shelf.state(&format!("image {n}"));
                copy_directory(&first.state, &image);
                task.abort();
                let _ = task.await;
                first.stop().await;
                shelf.faulty.clear();
                first = shelf.start(image, settings());
                first.is_well().await;
                second.meet().await;
                second.is_well().await;
                if is_done {
                    break;
                }
                crashes += 1;
            }
        }
    }
    assert!(crashes > 12, "{crashes}");
    first.collect().await;
    second.meet().await;
    let done = first.collect().await;
    assert!(
        done.waiting.is_empty() && done.packs_condemned == 0,
        "{done:?}"
    );
    // Nothing that was to be deleted stayed: two machines' heads, and a little more.
    let most = (2 * HEADS + 4) * VERSION_BYTES as u64;
    let stored = stored_bytes(&shelf);
    let heads = shelf.objects_in("heads").len();
    assert!(stored < most, "{stored} of {most}, {heads} heads, {done:?}");
    opens_afresh(&shelf, "fresh", "file", &version(n - 1)).await;
    first.stop().await;
    second.stop().await;
}

pub fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &target),
            // What is deleted at this moment is not there after a crash either.
            false => drop(std::fs::copy(entry.path(), target)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_was_away_too_long_is_not_waited_for_and_comes_back() {
    let shelf = Shelf::new();
    let impatient = || Settings {
        member_grace: std::time::Duration::ZERO,
        ..settings()
    };
    let (first, second) = two(&shelf, impatient).await;
    second.meet().await;
    let state = second.stop().await;
    first.store_versions("file", 22..34).await;
    let condemned = first.collect().await;
    assert!(
        condemned.packs_condemned > 0 && condemned.packs_deleted == 0,
        "{condemned:?}"
    );
    assert_eq!(condemned.waiting.len(), 1);
    let done = first.collect().await;
    assert!(
        done.packs_deleted > 0 && done.waiting.is_empty(),
        "{done:?}"
    );

    // Its tree is what it was, and what it makes of content that is gone is stored.
    let second = shelf.start(state, impatient());
    assert_eq!(second.read(second.find("file")).await.unwrap(), version(21));
    second.write(ROOT, "again", &version(3));
    second.store().await;
    second.stash_all();
    assert_eq!(second.read(second.find("again")).await.unwrap(), version(3));
    second.meet().await;
    second.is_well().await;
    first.meet().await;
    first.stash_all();
    assert_eq!(first.read(first.find("again")).await.unwrap(), version(3));
    // From here on its word is waited for again.
    first.store_versions("file", 34..36).await;
    first.collect().await;
    first.is_well().await;
    opens_afresh(&shelf, "fresh", "again", &version(3)).await;
    first.stop().await;
    second.stop().await;
}

/// A backup of a machine's state from before a collection is put back.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_of_a_machine_does_not_rest_on_what_was_deleted_since() {
    let shelf = Shelf::new();
    let (first, second) = two(&shelf, settings).await;
    let state = second.stop().await;
    let backup = shelf.state("backup");
    copy_directory(&state, &backup);
    let second = shelf.start(state, settings());
    second.meet().await;
    first.collect().await;
    second.meet().await;
    let done = first.collect().await;
    assert!(done.packs_deleted > 4, "{done:?}");
    second.meet().await;
    first.collect().await;
    second.stop().await;
    let second = shelf.start(backup, settings());
    second.write(ROOT, "again", &version(5));
    second.store().await;
    second.stash_all();
    assert_eq!(second.read(second.find("again")).await.unwrap(), version(5));
    second.is_well().await;
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_has_a_name_is_kept() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.store_versions("file", 0..20).await;
    let second = shelf.open("second", settings()).await;
    let named = second.moments().remove(15);
    second.volume.tag(&named, "keep me").unwrap();
    second.meet().await;
    first.keep_little().await;
    first.collect().await;
    second.meet().await;
    let done = first.collect().await;
    assert!(done.packs_deleted > 0, "{done:?}");
    assert!(first.moments().iter().any(|moment| moment.id == named.id));
    first.is_well().await;
    opens_afresh(&shelf, "third", "file", &version(19)).await;
    // Without the name it goes.
    first.volume.take_tag_back("keep me").unwrap();
    for replica in [&first, &second, &first, &second] {
        replica.meet().await;
    }
    let done = first.collect().await;
    assert_eq!(done.commits_given_up, 1, "{done:?}");
    assert!(first.volume.tag(&named, "again").is_err());
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_given_before_the_word_keeps_what_another_gives_up() {
    let shelf = Shelf::new();
    let first = shelf.init(settings()).await;
    first.store_versions("file", 0..20).await;
    let second = shelf.open("second", settings()).await;
    second.meet().await;
    first.keep_little().await;
    let done = first.collect().await;
    assert!(
        done.packs_condemned > 0 && done.packs_deleted == 0,
        "{done:?}"
    );
    // It did not hear of that yet.
    let named = second.moments().remove(15);
    second.volume.tag(&named, "keep me").unwrap();
    second.meet().await;
    let done = first.collect().await;
    assert!(done.packs_let_off > 0 && done.packs_deleted > 0, "{done:?}");
    let file = named_file(&second, &named);
    let mut then = vec![0; VERSION_BYTES];
    second.volume.read_past(&named, file, 0, &mut then).unwrap();
    assert_eq!(then, version(4));
    let state = first.stop().await;
    let first = shelf.start(state, settings());
    first.collect().await;
    first.is_well().await;
    second.volume.read_past(&named, file, 0, &mut then).unwrap();
    assert_eq!(then, version(4));
    first.stop().await;
    second.stop().await;
}

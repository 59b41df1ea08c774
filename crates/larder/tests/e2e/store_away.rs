//! A server that goes in the middle of the work and comes back.

use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};

use larder_store::testing::{Sshd, noise};

use crate::machine::{picture, wait_for};
use crate::remote::{EAGER, Remote, ends};

const WAIT: &str = "read-wait = \"3s\"";

#[test]
fn all_but_content_that_is_away_goes_on_while_the_server_is_gone() {
    let mut sshd = Sshd::start();
    let remote = Remote::sftp(&sshd);
    let laptop = remote.new_volume("1G", &format!("{EAGER}\n{WAIT}"));
    laptop.mount();
    let root = laptop.mount_point();
    fs::create_dir_all(root.join("away")).unwrap();
    for i in 0..20 {
        fs::write(root.join(format!("away/{i}")), noise(i, 300_000)).unwrap();
    }
    laptop.larder(["commit"]).ok();
    laptop.larder(["stash", "Larder"]).ok();

    // Under load: a writer goes on and on while the server is killed.
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut written = 0;
            while !stop.load(Ordering::Relaxed) && written < 300 {
                let path = root.join(format!("new {written}"));
                fs::write(path, noise(1000 + written, 200_000)).unwrap();
                written += 1;
            }
            written
        });
        wait_for("packs to be on their way", || {
            remote.objects("packs/").len() > 1
        });
        sshd.stop();
        std::thread::sleep(std::time::Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        writing.join().unwrap()
    });

    // The tree is all there; what is here can be read, changed and moved.
    assert_eq!(fs::read_dir(root.join("away")).unwrap().count(), 20);
    assert_eq!(fs::metadata(root.join("away/7")).unwrap().len(), 300_000);
    assert_eq!(fs::read(root.join("new 0")).unwrap(), noise(1000, 200_000));
    fs::write(root.join("new 0"), "changed").unwrap();
    fs::write(root.join("away/replaced"), "new").unwrap();
    fs::rename(root.join("away"), root.join("moved")).unwrap();
    fs::rename(root.join("moved/3"), root.join("moved/three")).unwrap();
    fs::remove_file(root.join("moved/4")).unwrap();
    // What is away is refused in bounded time, and the next reader is refused at once.
    let away = root.join("moved/7");
    for _ in 0..3 {
        let path = away.clone();
        let refused = ends(move || fs::read(path)).unwrap_err();
        let known = [ErrorKind::NetworkUnreachable, ErrorKind::TimedOut];
        assert!(known.contains(&refused.kind()), "{refused:?}");
    }
    let status = laptop.status();
    assert_eq!(status["stores"][0]["reachable"], false, "{status:#}");
    assert!(status["stores"][0]["last_error"].is_string(), "{status:#}");
    laptop.larder(["status"]).ok().says("not reachable");
    laptop.larder(["checkout", "Larder/moved/7"]).ended(4);
    let before = fs::metadata(&away).unwrap().modified().unwrap();

    sshd.restart();
    laptop.wait_until_stored();
    wait_for("the status to say it", || {
        laptop.status()["stores"][0]["reachable"] == true
    });
    assert_eq!(fs::read(&away).unwrap(), noise(7, 300_000));
    assert_eq!(fs::metadata(&away).unwrap().modified().unwrap(), before);
    laptop.larder(["stash", "Larder"]).ok();
    for i in (0..20).filter(|i| *i != 4) {
        let name = if i == 3 {
            "three".to_owned()
        } else {
            i.to_string()
        };
        let read = fs::read(root.join("moved").join(name)).unwrap();
        assert_eq!(read, noise(i, 300_000), "{i}");
    }
    for i in 1..written {
        let read = fs::read(root.join(format!("new {i}"))).unwrap();
        assert_eq!(read, noise(1000 + i, 200_000), "{i}");
    }
    let elsewhere = remote.another_machine();
    assert_eq!(picture(&elsewhere.mount_point()), picture(&root));
    laptop.larder(["verify", "--stores"]).ok();
}

#[test]
fn a_volume_is_mounted_and_used_while_its_server_is_gone() {
    let mut sshd = Sshd::start();
    let remote = Remote::sftp(&sshd);
    let laptop = remote.new_volume("1G", &format!("{EAGER}\n{WAIT}"));
    laptop.mount();
    let root = laptop.mount_point();
    fs::write(root.join("kept"), "here").unwrap();
    fs::write(root.join("away"), noise(1, 100_000)).unwrap();
    laptop.larder(["commit"]).ok();
    laptop.larder(["stash", "Larder/away"]).ok();
    laptop.unmount();
    sshd.stop();
    laptop.mount();
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "here");
    fs::write(root.join("new"), "made offline").unwrap();
    let away = root.join("away");
    ends(move || fs::read(away)).unwrap_err();
    laptop.unmount();
    laptop.mount();
    assert_eq!(
        fs::read_to_string(root.join("new")).unwrap(),
        "made offline"
    );
    sshd.restart();
    laptop.wait_until_stored();
    assert_eq!(fs::read(root.join("away")).unwrap(), noise(1, 100_000));
    let elsewhere = remote.another_machine();
    assert_eq!(picture(&elsewhere.mount_point()), picture(&root));
}

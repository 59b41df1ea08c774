"""Content that is away: what it costs to read what was not here.

Larder's content is stashed, each subject is mounted anew and the kernel's caches are dropped
before each figure; then all have a moment to connect, and the server has its files in memory.
A far server is the same one behind a relay of 20 ms a round trip. rclone's mount is not here: it
is far behind in each row, and hangs in some cold `grep -r`.
"""

import os
import time

import datasets
from measure import Aim, Row, Trial, measure
from subjects import JuiceFs, Larder, Restic, S3fs, Sshfs
from workplace import Missing, check, drop_caches, probed, read_all, timed

FAR_MS = 20
CONNECT_SECS = 1.5
RANDOM_READS = 100


def table():
    """The rows, in the order they run."""
    rows = [
        Row("first-sftp", "first 4 KiB of a 50 MiB file, SFTP", aims=[Aim("larder", "peers", 1.0)]),
        Row("random-sftp", "random 4 KiB of a 50 MiB file, each, SFTP", aims=[Aim("larder", most=0.002)]),
        Row("seq-sftp", "sequential read of a 50 MiB file, SFTP", aims=[Aim("larder", "peers", 1.0)]),
        Row("grep-sftp", "`grep -r` of 2,000 small files, SFTP", aims=[Aim("larder", most=0.7)]),
        Row("first-sftp-far", "first 4 KiB, SFTP, 20 ms away", aims=[Aim("larder", most=0.050)]),
        Row("seq-sftp-far", "sequential read of 50 MiB, SFTP, 20 ms away", aims=[Aim("larder", "peers", 1.0)]),
        Row("grep-sftp-far", "`grep -r` of 500 small files, SFTP, 20 ms away", aims=[Aim("larder", most=1.0)]),
        Row("first-s3", "first 4 KiB of a 50 MiB file, S3", aims=[Aim("larder", "peers", 1.0)]),
        Row("random-s3", "random 4 KiB of a 50 MiB file, each, S3", aims=[Aim("larder", most=0.002)]),
        Row("seq-s3", "sequential read of a 50 MiB file, S3", aims=[Aim("larder", "peers", 1.0)]),
        Row("grep-s3", "`grep -r` of 2,000 small files, S3", aims=[Aim("larder", most=0.7)]),
        Row("first-s3-far", "first 4 KiB, S3, 20 ms away", aims=[Aim("larder", "peers", 1.0)]),
        Row("seq-s3-far", "sequential read of 50 MiB, S3, 20 ms away", aims=[Aim("larder", "peers", 1.0)]),
        Row("grep-s3-far", "`grep -r` of 500 small files, S3, 20 ms away", aims=[Aim("larder", most=1.0)]),
    ]
    return {row.name: row for row in rows}


def run(bench, rows):
    """Runs the wanted rows, by server and distance."""
    for kind, place in (("sftp", sftp), ("sftp-far", sftp), ("s3", s3), ("s3-far", s3)):
        wanted = [r for r in rows if r.name.split("-", 1)[1] == kind]
        if not wanted:
            continue
        with bench.workplace.stage() as stage:
            try:
                far = FAR_MS if kind.endswith("far") else 0
                subjects, served = place(bench, stage, far)
            except (Missing, RuntimeError) as error:
                bench.leave_out(f"all of {kind}: {error}")
                continue
            for row in wanted:
                fresh = {s.name: Fresh(s, served) for s in subjects}
                trials = {name: trial(bench, stage, row, f) for name, f in fresh.items()}
                measure(row, trials, max(3, bench.repeats // 2))
            for subject in subjects:
                if isinstance(subject, Larder):
                    subject.note_peak()


def sftp(bench, stage, far):
    """The subjects over one SSH server, and what it serves."""
    sshd = bench.sshd(stage)
    port = sshd.port
    if far:
        port = bench.relay(stage, sshd.port, far).port
        sshd.learn(port)
    files = stage.dir("served")
    fill(bench, files)
    store = stage.root / "store"
    larder = Larder(stage, bench.binary, "larder", sshd.address(store, port), sshd.larder())
    fill(bench, larder.path)
    subjects, served = [larder], [store, files]
    subjects += bench.peer("sshfs", lambda: Sshfs(stage, sshd, files, port))
    repository = stage.root / "restic-files"
    subjects += bench.peer("restic", lambda: Restic(stage, sshd, repository, port).showing(files))
    return subjects, [*served, repository]


def s3(bench, stage, far):
    """The subjects over one S3 server, and what it serves."""
    server = bench.s3(stage)
    port = bench.relay(stage, server.port, far).port if far else server.port
    files, store = server.dir / "files", server.dir / "store"
    files.mkdir()
    store.mkdir()
    fill(bench, files)
    larder = Larder(
        stage, bench.binary, "larder", server.address("store", port), environment=server.environment()
    )
    fill(bench, larder.path)
    subjects = [larder]
    subjects += bench.peer("s3fs", lambda: S3fs(stage, server, "files", port))
    chunks = server.dir / "juicefs"
    chunks.mkdir()
    for juicefs in bench.peer("juicefs", lambda: JuiceFs(stage, server, "juicefs", port)):
        fill(bench, juicefs.path)
        subjects.append(juicefs)
    return subjects, [store, files, chunks]


def fill(bench, path):
    """Two thousand small files and all the media."""
    docs = bench.data.get("docs")
    for directory in datasets.small(docs, 2000):
        target = path / "docs" / directory.relative_to(docs)
        target.parent.mkdir(parents=True, exist_ok=True)
        check(["cp", "-r", directory, target])
    check(["cp", "-r", bench.data.get("media"), path / "media"])


class Fresh:
    """A subject that is cold before each figure, and gives another file each time."""

    def __init__(self, subject, served):
        self.subject, self.served, self.turn = subject, served, -1

    def forget(self):
        """Nothing is here, nothing is cached; the server has all in memory, all are connected."""
        self.turn += 1
        self.subject.cold()
        drop_caches()
        for path in self.served:
            read_all(path)
        os.listdir(self.subject.path)
        time.sleep(CONNECT_SECS)

    def clip(self):
        """A media file that was not touched since."""
        return self.subject.path / "media" / f"clip-{self.turn % 20:02}.mov"

    def directories(self, count):
        """The directories with the first `count` small files."""
        docs = self.subject.path / "docs"
        return datasets.small(docs, count)


def trial(bench, stage, row, fresh):
    """What a row times."""
    what = row.name.split("-")[0]
    if what == "first":
        run = lambda: probed(stage, "first", fresh.clip(), 4096)
    elif what == "random":
        run = lambda: probed(stage, "rand", fresh.clip(), 4096, RANDOM_READS) / RANDOM_READS
    elif what == "seq":
        run = lambda: probed(stage, "seq", fresh.clip(), 1 << 20)
    else:
        count = 500 if "far" in row.name else 2000
        run = lambda: timed(["grep", "-r", "no such word", *fresh.directories(count)])
    return Trial(run, before=fresh.forget)

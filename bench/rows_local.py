"""Content that is here: what a program feels that works in the mount all day.

`native`, Larder in each profile, and the peers show the same `docs` and a file of 1 GiB. All is
stored and the daemons rest before anything is timed, but for what the row itself writes.
"""

import shutil

from datasets import MIB, total
from measure import Aim, Row, Trial, measure
from subjects import JuiceFs, Larder, Native, Rclone, Restic, Sshfs, copied
from workplace import check, drop_caches, probed, timed

# Rows on the file of 1 GiB, which are not for peers that take minutes for them.
ON_BIG = ("read-warm", "random-warm", "mmap", "read-disk")
PROFILES = ("passthrough", "cached", "no-open")


def all_profiles(ratio):
    return [Aim(f"larder-{profile}", "native", ratio) for profile in PROFILES]


def table():
    """The rows, in the order they run."""
    by = {profile: f"larder-{profile}" for profile in PROFILES}
    rows = [
        Row("read-warm", "warm re-read of 1 GiB by 1 MiB", aims=all_profiles(0.95)),
        Row("random-warm", "200,000 warm random reads of 4 KiB", aims=all_profiles(0.9)),
        Row("mmap", "scan of a warm map of 1 GiB", aims=[Aim(by["passthrough"], "native", 0.9)]),
        Row("read-disk", "read of 1 GiB that is here, not in memory", aims=all_profiles(0.9)),
        Row(
            "open-small",
            "open, fstat, read, close of 10,000 small files, warm",
            aims=[Aim(by["no-open"], "native", 0.5)]
            + [Aim(by[p], "peers", 3.0) for p in ("passthrough", "cached")],
        ),
        Row("find-warm", "`find -ls` of docs, warm", aims=all_profiles(0.7)),
        Row("grep-warm", "`grep -r` of docs, warm", aims=all_profiles(0.7)),
        Row("find-cold", "`find` of docs, nothing cached by the kernel", aims=cold_names()),
        Row("ls-cold", "`ls -lR` of docs, nothing cached by the kernel", aims=cold_names()),
        Row(
            "write-1m",
            "sequential write of 1 GiB by 1 MiB",
            aims=[Aim(by["passthrough"], "native", 0.9), Aim(by["cached"], "native", 0.85)],
        ),
        Row(
            "write-4k",
            "sequential write of 1 GiB by 4 KiB",
            aims=[Aim(by["passthrough"], "native", 0.9), Aim(by["cached"], "native", 0.7)],
        ),
        Row(
            "cp-docs",
            "`cp -r` of docs into the mount",
            aims=[Aim(by[p], "native", 0.4) for p in ("passthrough", "cached")]
            + [Aim(by[p], "peers", 4.0) for p in ("passthrough", "cached")],
        ),
    ]
    return {row.name: row for row in rows}


def cold_names():
    return [Aim("larder-passthrough", "native", 0.3), Aim("larder-passthrough", "peers", 4.0)]


def run(bench, rows):
    """Runs the wanted rows of this table."""
    with bench.workplace.stage() as stage:
        docs, big = bench.data.get("docs"), bench.data.get("big")
        subjects = show(bench, stage, docs, big)
        # What is read warm was read from the disk before by all: pages that were written lie in
        # memory as whoever wrote them did it, which alone makes a fifth in how fast they are read.
        drop_caches()
        names = stage.root / "names"
        names.write_text("".join(f"{p.relative_to(docs)}\n" for p in sorted(docs.rglob("*.txt"))))
        count = total(docs)[0]
        commands = reading(stage, names)
        for row in rows:
            if row.name in commands:
                make = commands[row.name]
                trials = {s.name: make(s) for s in subjects if shows(s, row)}
            elif row.name.startswith("write"):
                trials = {s.name: writing(bench, stage, s, row) for s in subjects if writes(s)}
            else:
                trials = {s.name: copying(docs, s) for s in subjects if writes(s)}
            repeats = bench.repeats if row.name in commands else max(3, bench.repeats // 2)
            measure(row, trials, repeats)
            row.notes.append(f"{count} files in docs")
        for subject in subjects:
            if isinstance(subject, Larder):
                subject.note_peak()


def shows(subject, row):
    return row.name not in ON_BIG or not isinstance(subject, (Rclone, Restic))


def writes(subject):
    return not isinstance(subject, Restic)


def show(bench, stage, docs, big):
    """The subjects, each showing the same files."""
    native = Native(stage)
    fill(native.path, docs, big)
    subjects = [native]
    for profile in bench.profiles:
        larder = Larder(
            stage, bench.binary, f"larder-{profile}", stage.dir(f"{profile}-store"), profile=profile
        )
        fill(larder.path, docs, big)
        larder.settle()
        subjects.append(larder)
    sshd = bench.sshd(stage)

    def files(name):
        fill(stage.dir(name), docs, big)
        return stage.dir(name)

    subjects += bench.peer("sshfs", lambda: Sshfs(stage, sshd, files("sshfs-files")))
    subjects += bench.peer("rclone", lambda: Rclone(stage, sshd, files("rclone-files")))
    subjects += bench.peer("juicefs", lambda: juicefs(bench, stage, docs, big))
    repository = stage.root / "restic-files"
    subjects += bench.peer("restic", lambda: Restic(stage, sshd, repository).showing(native.path))
    return subjects


def juicefs(bench, stage, docs, big):
    """JuiceFS over an S3 server."""
    server = bench.s3(stage)
    (server.dir / "juicefs").mkdir()
    subject = JuiceFs(stage, server, "juicefs")
    fill(subject.path, docs, big)
    return subject


def fill(path, docs, big):
    shutil.copytree(docs, path / "docs")
    shutil.copyfile(big, path / "big")


def reading(stage, names):
    """For each reading row: from a subject to its trial."""

    def probe(*arguments):
        return lambda s: Trial(lambda: probed(stage, *[a(s) for a in arguments]))

    def word(text):
        return lambda _: text

    def command(*parts):
        return lambda s: Trial(lambda: timed([*parts, s.path / "docs"]))

    def cold(make):
        def trial(subject):
            def forget():
                if isinstance(subject, Larder):
                    subject.remount()
                else:
                    subject.cold()
                drop_caches()

            return Trial(make(subject).run, before=forget)

        return trial

    def on_big(s):
        return s.path / "big"

    def on_docs(s):
        return s.path / "docs"

    seq = probe(word("seq"), on_big, word(MIB))
    return {
        "read-warm": seq,
        "random-warm": probe(word("rand"), on_big, word(4096), word(200_000)),
        "mmap": probe(word("mmap"), on_big),
        "read-disk": lambda s: Trial(seq(s).run, before=drop_caches),
        "open-small": probe(word("opens"), on_docs, word(names)),
        "find-warm": lambda s: Trial(lambda: timed(["find", s.path / "docs", "-ls"])),
        "grep-warm": command("grep", "-r", "no such word"),
        "find-cold": cold(command("find")),
        "ls-cold": cold(command("ls", "-lR")),
    }


def writing(bench, stage, subject, row):
    """Writes a new file and takes it away again."""
    path = subject.path / "new"
    block = MIB if row.name == "write-1m" else 4096
    size = 1024 * MIB // bench.scale

    def clear():
        path.unlink(missing_ok=True)
        check(["sync"])

    return Trial(
        lambda: probed(stage, "write", path, block, size), before=clear, after=clear
    )


def copying(docs, subject):
    """Copies `docs` in and takes it away again."""
    target = subject.path / "copy"

    def clear():
        if target.exists():
            shutil.rmtree(target)
        check(["sync"])

    return Trial(lambda: copied(docs, target), before=clear, after=clear)

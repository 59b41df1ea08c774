"""Two machines with one volume: how long until what one does can be read on the other.

Both are on this machine. Larder's meet on an SSH server, and directly if they know how; Syncthing's
two directories meet directly. Whoever made something says so (`larder commit`, a scan), so that
no row measures how long somebody waits for quiet. On the other side everything is read; for
`larder-pinned` all of it is kept on the other side, too, and it is waited for until it is there: that
is what Syncthing does.

All of it is on a loopback of its own, if that can be had. **Bytes that travel** are all that pass
there meanwhile: to the server and from it, between the two, and the headers of all that.
"""

import contextlib
import json
import os
import shutil
import time

from measure import Aim, Row, Trial, measure
from subjects import Larder, Syncthing
from workplace import Missing, OwnLoopback

PATIENCE_SECS = 300
EDITS = 22
RENAMED = 100_000
PER_DIRECTORY = 1000


def table():
    """The rows, in the order they run."""
    rows = [
        Row(
            "meet-docs",
            "10,000 files made here, until all are read there",
            aims=[Aim("larder", "syncthing", 5.0), Aim("larder-pinned", "syncthing", 5.0)],
        ),
        Row("meet-docs-cpu", "processor time of both for that", aims=[Aim("larder", "syncthing", 1.0)]),
        Row("meet-edit", "22 changes in 1 GiB here, until they are read there", aims=[Aim("larder", "syncthing", 10.0)]),
        Row("meet-edit-sent", "bytes that travel for that", "MB", [Aim("larder", most=2.0)], per=1e-6),
        Row("meet-rename", "a directory with 100,000 files renamed here, until it is so there"),
        Row("meet-rename-sent", "bytes that travel for that", "KB", [Aim("larder", most=65.536)], per=1e-3),
        Row("meet-one", "one small file saved here, until it is read there", aims=[Aim("larder", most=0.3)]),
        Row("meet-same", "a sync of 10,000 files without a change", aims=[Aim("larder", most=0.05)]),
    ]
    return {row.name: row for row in rows}


def run(bench, rows):
    """Runs the wanted rows."""
    wanted = {row.name: row for row in rows}
    with contextlib.ExitStack() as stack:
        try:
            counted = stack.enter_context(OwnLoopback()).bytes
        except Missing as missing:
            bench.leave_out(missing)
            counted = None
        stage = stack.enter_context(bench.workplace.stage())
        sshd = bench.sshd(stage)
        larder = LarderPair(bench, stage, sshd)
        pairs = [larder] + bench.peer("syncthing", lambda: SyncthingPair(stage))
        if {"meet-docs", "meet-docs-cpu"} & set(wanted):
            docs = bench.data.get("docs")
            cpu = wanted.get("meet-docs-cpu")
            row = wanted.get("meet-docs") or table()["meet-docs"]
            pinned = PinnedPair(bench, stage, sshd)
            measure(row, {p.name: Trial(p.bring(docs, cpu)) for p in [*pairs, pinned]}, 1, warm_ups=0)
            pinned.end()
        if {"meet-edit", "meet-edit-sent"} & set(wanted):
            for pair in pairs:
                pair.make_big(bench.data.get("vm"))
            trials = {p.name: sending(p, p.edit_big, wanted.get("meet-edit-sent"), counted) for p in pairs}
            measure(wanted.get("meet-edit") or table()["meet-edit"], trials, 3, warm_ups=1)
        if {"meet-rename", "meet-rename-sent"} & set(wanted):
            # Syncthing, which scans and deletes one by one, needs minutes for each.
            larder.make_many(RENAMED // bench.scale)
            sent = wanted.get("meet-rename-sent")
            trials = {larder.name: sending(larder, larder.rename_many, sent, counted)}
            measure(wanted.get("meet-rename") or table()["meet-rename"], trials, 3, warm_ups=1)
        if "meet-one" in wanted:
            measure(wanted["meet-one"], {p.name: Trial(p.save_one) for p in pairs}, bench.repeats)
        if "meet-same" in wanted:
            measure(wanted["meet-same"], {larder.name: Trial(larder.sync)}, bench.repeats)
        for pair in pairs:
            pair.end()


def sending(pair, act, row, counted):
    """A trial whose bytes on the line are kept in `row`, too."""
    before = 0

    def begin():
        nonlocal before
        # What others still say of the last one is not this one's.
        time.sleep(2)
        before = counted()

    def note():
        row.add(pair.name, counted() - before)

    if row is None or counted is None:
        return Trial(act)
    return Trial(act, begin, note)


class Pair:
    """Two directories, of which one follows the other."""

    turn = 0

    def told(self):
        """Says that something was made here."""

    def bring(self, source, cpu):
        """Copies a tree in and reads it there."""

        def trial():
            before = self.processor_secs()
            shutil.copytree(source, self.here / "docs")
            self.told()
            names = [os.path.join(h, n) for h, _, ns in os.walk(self.here / "docs") for n in ns]
            for name in names:
                path = self.there / os.path.relpath(name, self.here)
                self.read(path, os.path.getsize(name))
            self.wait_for_all(len(names), sum(os.path.getsize(name) for name in names))
            if cpu is not None:
                cpu.add(self.name, self.processor_secs() - before)

        return trial

    def wait_for_all(self, files, size):
        """Waits until so many files, and all that is in them, are on the other side."""

    def make_big(self, vm):
        """A large file, that is on both sides."""
        source = vm if vm.is_file() else next(p for p in vm.iterdir() if p.is_file())
        shutil.copyfile(source, self.here / "big")
        self.told()
        self.read(self.there / "big", source.stat().st_size)

    def edit_big(self):
        """Small changes all over it."""
        Pair.turn += 1
        mark = f"turn {Pair.turn:08}".encode()
        size = (self.here / "big").stat().st_size
        with open(self.here / "big", "r+b") as file:
            for number in range(EDITS):
                file.seek(size // EDITS * number + 4096 * Pair.turn)
                file.write(mark)
        self.told()
        last = size // EDITS * (EDITS - 1) + 4096 * Pair.turn
        self.wait(lambda: read_at(self.there / "big", last, len(mark)) == mark)

    def make_many(self, files):
        """A directory with many files, that is on both sides."""
        Pair.turn += 1
        home = self.here / "many-0"
        for directory in range(max(1, files // PER_DIRECTORY)):
            os.makedirs(home / f"{directory:04}")
            for number in range(PER_DIRECTORY):
                (home / f"{directory:04}" / f"{number:04}").write_bytes(b"%d %d" % (directory, number))
        self.told()
        last = f"{directory:04}/{number:04}"
        self.renamed, self.last = 0, last
        self.wait(lambda: (self.there / "many-0" / last).exists())

    def rename_many(self):
        """The directory gets another name."""
        old, self.renamed = self.renamed, self.renamed + 1
        (self.here / f"many-{old}").rename(self.here / f"many-{self.renamed}")
        self.told()
        there = self.there / f"many-{self.renamed}"
        self.wait(lambda: (there / self.last).exists() and not (self.there / f"many-{old}" / self.last).exists())

    def save_one(self):
        """One file, as an editor saves it."""
        Pair.turn += 1
        content = f"turn {Pair.turn}".encode()
        (self.here / "one").write_bytes(content)
        self.told()
        self.wait(lambda: read_at(self.there / "one", 0, 100) == content)

    def read(self, path, size):
        """Reads a file that may not be there yet."""
        self.wait(lambda: path.exists() and path.stat().st_size == size)
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass

    def wait(self, true, pause=0.002):
        """Waits until something is so."""
        until = time.monotonic() + PATIENCE_SECS
        while not true():
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} does not bring it")
            time.sleep(pause)


def read_at(path, offset, size):
    """Bytes of a file; None if it is not there."""
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            return file.read(size)
    except OSError:
        return None


class LarderPair(Pair):
    """Two machines of one volume on an SSH server."""

    name = "larder"

    def __init__(self, bench, stage, sshd):
        address = sshd.address(stage.root / f"{self.name}-store")
        first, second = f"{self.name}-first", f"{self.name}-second"
        self.first = Larder(stage, bench.binary, first, address, sshd.larder())
        self.first.commit()
        self.second = Larder(stage, bench.binary, second, address, sshd.larder(), ticket=self.first)
        self.here, self.there = self.first.path, self.second.path

    def told(self):
        self.first.run("--volume", self.first.path, "commit")

    def sync(self):
        """One sync that finds nothing."""
        self.second.run("--volume", self.second.path, "sync")

    def processor_secs(self):
        return sum(processor_secs(volume.child.pid) for volume in (self.first, self.second))

    def end(self):
        """Keeps what memory they took."""
        for volume in (self.first, self.second):
            volume.note_peak()


class PinnedPair(LarderPair):
    """The same, and the second machine keeps all content."""

    name = "larder-pinned"

    def __init__(self, bench, stage, sshd):
        super().__init__(bench, stage, sshd)
        self.second.run("--volume", self.second.path, "pin", self.second.path)

    def read(self, path, size):
        """Nobody asks for anything: it comes."""

    def wait_for_all(self, files, size):
        def is_there():
            said = json.loads(self.second.run("--volume", self.second.path, "status", "--json"))
            return said["files"] >= files and said["bytes_here"] >= size

        self.wait(is_there, 0.05)


class SyncthingPair(Pair):
    """Two of Syncthing, directly."""

    name = "syncthing"

    def __init__(self, stage):
        self.first, self.second = Syncthing(stage, "one"), Syncthing(stage, "two")
        self.first.meet(self.second)
        self.second.meet(self.first)
        self.here, self.there = self.first.path, self.second.path

    def told(self):
        self.first.scan()

    def processor_secs(self):
        return sum(processor_secs(one.child.pid) for one in (self.first, self.second))

    def end(self):
        """They end with the stage."""


def processor_secs(pid):
    """What a process and its threads used, in seconds; with those of its children."""
    total = 0
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            fields = open(f"/proc/{entry.name}/stat", encoding="utf-8").read().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(entry.name) == pid or int(fields[1]) == pid:
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")

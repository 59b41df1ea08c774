"""Two machines with one volume: how long until what one does can be read on the other.

Both are on this machine. Larder's meet on an SSH server, and directly if they know how; Syncthing's
two directories meet directly. Whoever made something says so (`larder commit`, a scan), so that
no row measures how long somebody waits for quiet. On the other side everything is read.
"""

import os
import shutil
import time

from measure import Aim, Row, Trial, measure
from subjects import Larder, Syncthing

PATIENCE_SECS = 300
EDITS = 22


def table():
    """The rows, in the order they run."""
    rows = [
        Row("meet-docs", "10,000 files made here, until all are read there", aims=[Aim("larder", "syncthing", 5.0)]),
        Row("meet-docs-cpu", "processor time of both for that", aims=[Aim("larder", "syncthing", 1.0)]),
        Row("meet-edit", "22 changes in 1 GiB here, until they are read there", aims=[Aim("larder", "syncthing", 10.0)]),
        Row("meet-one", "one small file saved here, until it is read there", aims=[Aim("larder", most=0.3)]),
        Row("meet-same", "a sync of 10,000 files without a change", aims=[Aim("larder", most=0.05)]),
    ]
    return {row.name: row for row in rows}


def run(bench, rows):
    """Runs the wanted rows."""
    wanted = {row.name: row for row in rows}
    with bench.workplace.stage() as stage:
        sshd = bench.sshd(stage)
        pairs = [LarderPair(bench, stage, sshd)]
        pairs += bench.peer("syncthing", lambda: SyncthingPair(stage))
        docs = bench.data.get("docs")
        if {"meet-docs", "meet-docs-cpu"} & set(wanted):
            cpu = wanted.get("meet-docs-cpu")
            row = wanted.get("meet-docs") or table()["meet-docs"]
            measure(row, {p.name: Trial(p.bring(docs, cpu)) for p in pairs}, 1, warm_ups=0)
        if "meet-edit" in wanted:
            for pair in pairs:
                pair.make_big(bench.data.get("vm"))
            measure(wanted["meet-edit"], {p.name: Trial(p.edit_big) for p in pairs}, 3, warm_ups=1)
        if "meet-one" in wanted:
            measure(wanted["meet-one"], {p.name: Trial(p.save_one) for p in pairs}, bench.repeats)
        if "meet-same" in wanted:
            larder = pairs[0]
            measure(wanted["meet-same"], {larder.name: Trial(larder.sync)}, bench.repeats)
        for pair in pairs:
            pair.end()


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
            if cpu is not None:
                cpu.add(self.name, self.processor_secs() - before)

        return trial

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

    def wait(self, true):
        """Waits until something is so."""
        until = time.monotonic() + PATIENCE_SECS
        while not true():
            if time.monotonic() > until:
                raise RuntimeError(f"{self.name} does not bring it")
            time.sleep(0.002)


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
        address = sshd.address(stage.root / "meet-store")
        self.first = Larder(stage, bench.binary, "first", address, sshd.larder())
        self.first.commit()
        self.second = Larder(stage, bench.binary, "second", address, sshd.larder(), ticket=self.first)
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

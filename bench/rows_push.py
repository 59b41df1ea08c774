"""Storing: how long until all of a tree is on an SSH server, and what it takes there.

Larder is timed twice: `larder` adopts a directory in place and stores it, as the peers read a
directory and store it; `larder-copy` has `cp -r` before that. The source is in the page cache,
the disk at rest, the server empty. `stored-...` rows come out of the same runs.
"""

import shutil
import time

from measure import Aim, Row, Trial, measure, say
from subjects import Larder, Restic, borg, casync, copied, rsync, rustic
from workplace import Missing, check, read_all, stored_bytes

SETS = ("docs", "source", "media", "vm")


def table():
    """The rows, in the order they run."""
    rows = []
    for name in SETS:
        ahead = [Aim("larder", "restic", 2.0)]
        if name != "media":
            ahead.append(Aim("larder", "rsync", 2.0))
        rows.append(Row(f"push-{name}", f"push of {name} over SFTP", aims=ahead))
    for name in ("docs", "source", "vm"):
        rows.append(Row(f"stored-{name}", f"bytes stored of {name}", "MB", [Aim("larder", "peers", 1.0)], per=1e-6))
    rows += [
        Row("edit-sent", "bytes sent after the edit of vm", "MB", [Aim("larder", most=2.0)], per=1e-6),
        Row("edit-time", "storing the edit of vm", "s", [Aim("larder", most=1.0)]),
        Row("edit-copy", "`cp` of the edited vm over the old one", "s"),
    ]
    return {row.name: row for row in rows}


def run(bench, rows):
    """Runs the wanted rows."""
    wanted = {row.name: row for row in rows}
    for name in SETS:
        push, stored = wanted.get(f"push-{name}"), wanted.get(f"stored-{name}")
        if push or stored:
            spare = table()
            push_one(bench, name, push or spare[f"push-{name}"], stored)
    if any(name.startswith("edit") for name in wanted):
        edit(bench, {**table(), **wanted})


def push_one(bench, name, row, stored):
    """One data set, each way."""
    source = bench.data.get(name)
    with bench.workplace.stage() as stage:
        sshd = bench.sshd(stage)
        pushes = {"larder": Push(bench, stage, sshd, source)}
        pushes["larder-copy"] = Push(bench, stage, sshd, source)
        for peer in ("restic", "rsync", "borg", "rustic", "casync"):
            if peer in bench.peers:
                pushes[peer] = Push(bench, stage, sshd, source)
        trials = {
            subject: Trial(getattr(p, subject.replace("-", "_")), p.clear, p.note)
            for subject, p in pushes.items()
        }
        # No warm-up: each starts from nothing anyway.
        measure(row, trials, max(1, bench.repeats // 3), warm_ups=0)
        for subject, p in pushes.items():
            if stored is not None and subject not in ("rsync", "larder-copy") and p.stored:
                stored.add(subject, p.stored)
                say(f"  {subject:20} stored {p.stored / 1e6:.1f} MB")


class Push:
    """One way to bring a tree to an empty place."""

    turn = 0

    def __init__(self, bench, stage, sshd, source):
        self.bench, self.stage, self.sshd, self.source = bench, stage, sshd, source
        self.stored, self.volume, self.target = 0, None, None

    def clear(self):
        """An empty place, and a source that is in memory."""
        Push.turn += 1
        self.target = self.stage.root / f"target-{Push.turn}"
        read_all(self.source if self.source.is_dir() else self.source.parent)
        check(["sync"])

    def note(self):
        """Keeps what was stored, and clears up."""
        self.stored = stored_bytes(self.target)
        if self.volume:
            self.volume.unmount()
            shutil.rmtree(self.volume.home)
            self.volume = None
        shutil.rmtree(self.target)

    def mounted(self):
        name = f"larder-{Push.turn}"
        self.volume = Larder(
            self.stage, self.bench.binary, name, self.sshd.address(self.target), self.sshd.larder()
        )
        return self.volume

    def larder(self):
        """Adopts a copy that lies beside, and stores it."""
        volume = self.mounted()
        copy = self.stage.root / f"copy-{Push.turn}"
        copy.mkdir()
        copied(self.source, copy)
        check(["sync"])
        return clock(lambda: (volume.run("--volume", volume.path, "adopt", copy), volume.commit()))

    def larder_copy(self):
        """Copies the tree in, and stores it."""
        volume = self.mounted()
        return clock(lambda: (copied(self.source, volume.path), volume.commit()))

    def restic(self):
        """A backup into a new repository."""
        return Restic(self.stage, self.sshd, self.target).backup(self.source)

    def rsync(self):
        """A copy of the plain files."""
        return rsync(self.sshd, self.source, f"{self.target}/")

    def borg(self):
        """A backup into a new repository on this disk: there is no borg on the server."""
        return borg(self.target, self.source)

    def rustic(self):
        """A backup into a new repository on this disk, as rustic knows no SFTP of its own."""
        return rustic(self.target, self.source)

    def casync(self):
        """An archive into a new store of chunks on this disk, not encrypted."""
        return casync(self.target, self.source)


def clock(run):
    """Runs it and returns the seconds it took."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def edit(bench, rows):
    """The edit of `vm`, once: a second one would find the first one's chunks."""
    old, new = bench.data.get("vm"), bench.data.get("vm_edited")
    with bench.workplace.stage() as stage:
        sshd = bench.sshd(stage)
        relay = bench.relay(stage, sshd.port, 0)
        sshd.learn(relay.port)

        def keep(subject, run):
            before = relay.sent()[0]
            took = clock(run)
            rows["edit-sent"].add(subject, relay.sent()[0] - before)
            rows["edit-time"].add(subject, took)
            say(f"  {subject:20} sent {rows['edit-sent'].best(subject):.2f} MB in {took:.2f} s")

        say("edit: vm is stored, edited and stored again")
        address = sshd.address(stage.root / "store", relay.port)
        larder = Larder(stage, bench.binary, "larder-edit", address, sshd.larder())
        check(["cp", old, larder.path / "vm"])
        larder.settle()
        rows["edit-copy"].add("larder", clock(lambda: check(["cp", new, larder.path / "vm"])))
        keep("larder", larder.commit)
        larder.note_peak()
        if "rsync" in bench.peers:
            check(["cp", old, stage.dir("rsync-target") / "vm"])
            target = f"{stage.root}/rsync-target/vm"
            keep("rsync", lambda: rsync(sshd, new, target, relay.port, ["--no-whole-file"]))
        if "restic" in bench.peers:
            try:
                here = stage.dir("restic-source") / "vm"
                check(["cp", old, here])
                restic = Restic(stage, sshd, stage.root / "restic-target", relay.port)
                restic.backup(here.parent)
                check(["cp", new, here])
                rows["edit-copy"].add("native", clock(lambda: check(["cp", new, here])))
                keep("restic", lambda: restic.backup(here.parent))
            except Missing as missing:
                bench.leave_out(missing)

"""What a long past and a large tree cost: `log` and `diff` over 10,000 commits, a join into a million.

The commits are made one after the other by the daemon, each of one changed file. The machines of
the join have the whole tree, each in its own database; what is timed is one `larder sync`.
"""

import json
import os
import random

from measure import Aim, Row, Trial, measure, say
from rows_large import make
from subjects import Larder

COMMITS = 10_000
# Of these commits each hundredth changes the file whose log is asked for.
EACH = 100
FILES = 1000
CHANGED = 1000


def table():
    """The rows, in the order they run."""
    rows = [
        Row("past-log", "`larder log PATH` over 10,000 commits, 100 of which changed it", aims=[Aim("larder", most=1.0)]),
        Row("past-diff", "`larder diff` of two that are 10,000 commits apart", aims=[Aim("larder", most=1.0)]),
        Row("past-diff-near", "`larder diff` of the last two"),
        Row(
            "join-changed",
            "a `larder sync` that takes in 1,000 changed files, among 1,000,000 and among 100,000",
            aims=[Aim("larder-million", "larder-100k", 1 / 2)],
        ),
    ]
    return {row.name: row for row in rows}


def run(bench, rows):
    """Runs the wanted rows."""
    wanted = {row.name: row for row in rows}
    if any(name.startswith("past") for name in wanted):
        past(bench, wanted)
    if "join-changed" in wanted:
        join(bench, wanted["join-changed"])


def past(bench, wanted):
    """A volume with many commits, and what is asked of them."""
    with bench.workplace.stage() as stage:
        volume = Larder(stage, bench.binary, "larder", stage.root / "past-store")
        for number in range(FILES):
            home = volume.path / f"{number % 20:02}"
            home.mkdir(exist_ok=True)
            (home / f"{number:04}").write_bytes(b"first")
        volume.commit()
        commits = COMMITS // bench.scale
        say(f"makes {commits} commits")
        asked = volume.path / "00" / "0000"
        for number in range(commits):
            one = number % FILES
            changed = asked if number % EACH == 0 else volume.path / f"{one % 20:02}" / f"{one:04}"
            changed.write_bytes(b"%d" % number)
            volume.commit()
        log = json.loads(volume.run("--volume", volume.path, "log", "--json", "-n", str(2 * COMMITS)))
        ids = [commit["id"] for commit in log]

        def said(*words):
            return Trial(lambda: void(volume.run("--volume", volume.path, *words)))

        for name, words in {
            "past-log": ("log", "-n", str(COMMITS), asked),
            "past-diff": ("diff", ids[-1], ids[0]),
            "past-diff-near": ("diff", ids[1], ids[0]),
        }.items():
            if name in wanted:
                measure(wanted[name], {"larder": said(*words)}, bench.repeats)
        volume.note_peak()


def void(_):
    """Has a trial timed."""


def join(bench, row):
    """Two machines with a large tree; one takes in what the other changed all over it."""
    with bench.workplace.stage() as stage:
        sizes = {"larder-100k": 100_000 // bench.scale, "larder-million": 1_000_000 // bench.scale}
        pairs = {name: Joining(bench, stage, name, files) for name, files in sizes.items()}
        trials = {name: Trial(p.sync, p.change) for name, p in pairs.items()}
        measure(row, trials, max(2, bench.repeats // 2))


class Joining:
    """Two machines with the same large tree."""

    def __init__(self, bench, stage, name, files):
        say(f"{name}: makes, adopts and opens {files} files")
        tree = stage.dir(f"{name}-tree")
        self.names = [f"{tree.name}/{n}" for n in make(tree, files)]
        store = stage.root / f"{name}-store"
        # Nobody takes in anything before it is timed.
        alone = ['sync-interval = "0"']
        self.first = Larder(stage, bench.binary, name, store, limits=alone)
        self.first.run("--volume", self.first.path, "adopt", tree)
        self.first.commit()
        self.second = Larder(stage, bench.binary, f"{name}-other", store, opened=True, limits=alone)
        self.turn = 0

    def change(self):
        """The other machine changes files; this one another."""
        self.turn += 1
        chosen = random.Random(self.turn).sample(self.names, CHANGED + 1)
        for name in chosen[1:]:
            os.chmod(self.second.path / name, 0o600 + self.turn % 2)
        os.utime(self.first.path / chosen[0])
        self.first.commit()
        self.second.commit()

    def sync(self):
        """Takes it in."""
        self.first.run("--volume", self.first.path, "sync")

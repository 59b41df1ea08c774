"""Rows: what is measured, of whom, against which aim, and what came out.

A row's figures are costs (seconds, or bytes), less is better. Its subjects take turns, so that
what else the machine does falls on all of them alike. `native` is the plain directory; who is
neither `native` nor `larder...` is a peer.
"""

import statistics
import sys
import time
from dataclasses import dataclass, field

from workplace import Missing


@dataclass
class Aim:
    """What a subject shall reach: `ratio` times the speed of `against`, or at most `most`.

    `against` is `native`, a peer, `peers` (the best of them) or None with `most`.
    """

    subject: str
    against: str | None = None
    ratio: float = 1.0
    most: float | None = None


@dataclass
class Row:
    """One line of the table."""

    name: str
    title: str
    unit: str = "s"
    aims: list = field(default_factory=list)
    samples: dict = field(default_factory=dict)
    notes: list = field(default_factory=list)
    per: float = 1.0

    def add(self, subject, cost):
        """Keeps a figure of a subject."""
        self.samples.setdefault(subject, []).append(cost * self.per)

    def best(self, subject):
        """A subject's smallest figure, or None."""
        return min(self.samples[subject]) if self.samples.get(subject) else None

    def median(self, subject):
        """A subject's median, or None."""
        return statistics.median(self.samples[subject]) if self.samples.get(subject) else None

    def best_peer(self):
        """The name of the peer with the smallest figure, or None."""
        peers = [s for s in self.samples if s != "native" and not s.startswith("larder")]
        return min(peers, key=self.best, default=None)

    def speed(self, subject, other):
        """How many times as fast as `other` a subject is, or None."""
        mine, theirs = self.best(subject), self.best(other) if other else None
        return theirs / mine if mine and theirs else None

    def judged(self):
        """Each aim with what was reached and whether it holds; what was not measured is left out."""
        out = []
        for aim in self.aims:
            mine = self.best(aim.subject)
            if mine is None:
                continue
            if aim.most is not None:
                out.append((aim, mine, mine <= aim.most))
                continue
            other = self.best_peer() if aim.against == "peers" else aim.against
            reached = self.speed(aim.subject, other)
            if reached is not None:
                out.append((aim, reached, reached >= aim.ratio))
        return out


@dataclass
class Trial:
    """How one subject runs a row: `run` returns the cost, or None to have itself timed."""

    run: object
    before: object = None
    after: object = None


def measure(row, trials, repeats, warm_ups=1):
    """Runs the trials in turns. A trial that fails is told, and is out of the row."""
    say(f"{row.name}: {row.title}")
    out = set()
    for turn in range(warm_ups + repeats):
        for subject, trial in trials.items():
            if subject in out:
                continue
            try:
                if trial.before:
                    trial.before()
                start = time.perf_counter()
                cost = trial.run()
                if cost is None:
                    cost = time.perf_counter() - start
                if trial.after:
                    trial.after()
            except (RuntimeError, OSError, Missing) as error:
                out.add(subject)
                row.notes.append(f"{subject}: {error}")
                say(f"  {subject} fails: {error}")
                continue
            if turn >= warm_ups:
                row.add(subject, cost)
    for subject in row.samples:
        say(f"  {subject:20} {row.best(subject):12.4f} {row.unit} (median {row.median(subject):.4f})")


def say(words):
    """A line for who watches."""
    print(words, file=sys.stderr, flush=True)

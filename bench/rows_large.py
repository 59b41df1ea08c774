"""A volume of a million files against one of 10,000: memory, the first look, and a lookup.

The trees are adopted and stored, then each volume is mounted anew.
"""

import os
import random
import time

from measure import Aim, Row, Trial, measure, say
from subjects import Larder
from workplace import check, drop_caches, drop_names, peak_memory, probed

LOOKUPS = 10_000
PER_DIRECTORY = 1000


def table():
    """The rows, in the order they run."""
    rows = [
        Row("million-import", "adopting and storing the tree"),
        Row("million-first-ls", "mount to the end of the first `ls`", aims=[Aim("larder-million", most=1.0)]),
        Row(
            "million-lookup",
            "a lookup at random, the kernel knows no names",
            "us",
            [Aim("larder-million", "larder-10k", 1 / 1.3)],
            per=1e6,
        ),
        Row("million-lookup-disk", "the same, and nothing of the database in memory", "us", per=1e6),
        Row("million-memory", "the daemon's memory after a `find`", "MB", [Aim("larder-million", most=250)], per=1e-6),
    ]
    return {row.name: row for row in rows}


def run(bench, rows):
    """Runs all of them: they need the same volumes."""
    wanted = {**table(), **{row.name: row for row in rows}}
    with bench.workplace.stage() as stage:
        sizes = {"larder-10k": 10_000, "larder-million": 1_000_000 // bench.scale}
        volumes = {}
        for name, files in sizes.items():
            say(f"{name}: makes and adopts {files} files")
            tree = stage.dir(f"{name}-tree")
            names = make(tree, files)
            volume = Larder(stage, bench.binary, name, stage.root / f"{name}-store")
            start = time.perf_counter()
            volume.run("--volume", volume.path, "adopt", tree)
            volume.commit()
            wanted["million-import"].add(name, time.perf_counter() - start)
            say(f"  {wanted['million-import'].best(name):.1f} s, {volume.note_peak() / 1e6:.0f} MB")
            sample = stage.root / f"{name}-names"
            chosen = random.Random(name).sample(names, LOOKUPS)
            sample.write_text("".join(f"{tree.name}/{n}\n" for n in chosen))
            volumes[name] = (volume, sample)
        measure(
            wanted["million-first-ls"],
            {n: Trial(first_look(v), v.unmount) for n, (v, _) in volumes.items()},
            bench.repeats,
        )
        for row, forget in (("million-lookup", drop_names), ("million-lookup-disk", drop_caches)):
            measure(
                wanted[row],
                {n: Trial(lookup(stage, v, s), forget) for n, (v, s) in volumes.items()},
                bench.repeats,
            )
        for name, (volume, _) in volumes.items():
            volume.remount()
            check(["find", volume.path, "-name", "nothing"])
            wanted["million-memory"].add(name, peak_memory(volume.child.pid))


def make(tree, files):
    """`files` small files, a thousand to a directory; their names."""
    names = []
    for directory in range(files // PER_DIRECTORY):
        home = f"{directory % 100:02}/{directory:04}"
        os.makedirs(tree / home)
        for number in range(PER_DIRECTORY):
            name = f"{home}/{number:06}.txt"
            with open(tree / name, "wb", buffering=0) as file:
                file.write(b"%d\n" % number)
            names.append(name)
    return names


def first_look(volume):
    def run():
        volume.mount()
        os.listdir(volume.path)

    return run


def lookup(stage, volume, sample):
    return lambda: probed(stage, "stats", volume.path, sample) / LOOKUPS

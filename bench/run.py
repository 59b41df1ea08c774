#!/usr/bin/env python3
"""Measures Larder side by side with a plain directory and with its peers. See README.md."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # The work tree stays as it is.

import report  # noqa: E402
import rows_cold  # noqa: E402
import rows_large  # noqa: E402
import rows_local  # noqa: E402
import rows_meet  # noqa: E402
import rows_past  # noqa: E402
import rows_push  # noqa: E402
import servers  # noqa: E402
from datasets import Datasets  # noqa: E402
from measure import say  # noqa: E402
from subjects import Larder  # noqa: E402
from workplace import HERE, Missing, Workplace, found  # noqa: E402

TABLES = {"local": rows_local, "push": rows_push, "cold": rows_cold, "large": rows_large, "meet": rows_meet, "past": rows_past}
PEERS = ("sshfs", "s3fs", "juicefs", "rclone", "restic", "rustic", "rsync", "borg", "casync", "syncthing")
MEMORY_AIM_BYTES = 120_000_000


class Bench:
    """What the rows of a run share: the binary, the data, the peers that are here."""

    def __init__(self, options, data):
        self.workplace, self.data = None, data
        self.binary = options.binary
        self.scale = data.scale
        self.repeats = options.repeats
        self.profiles = options.profiles.split(",")
        self.left_out = []
        self.peers = set()
        for peer in options.peers.split(","):
            try:
                if peer:
                    found(peer)
                    self.peers.add(peer)
            except Missing as missing:
                self.leave_out(missing)

    def leave_out(self, reason):
        """Says at the end that something was not measured."""
        if str(reason) not in self.left_out:
            say(f"Left out: {reason}")
            self.left_out.append(str(reason))

    def peer(self, name, make):
        """A list with the peer that `make` makes, or an empty one if it does not start."""
        if name not in self.peers:
            return []
        try:
            return [make()]
        except (Missing, RuntimeError) as error:
            self.leave_out(f"{name}: {error}")
            return []

    def sshd(self, stage):
        """An SSH server for a stage."""
        return servers.Sshd(stage)

    def s3(self, stage):
        """An S3 server for a stage."""
        return servers.S3(stage)

    def relay(self, stage, port, round_trip_ms):
        """A relay before a server."""
        return servers.Relay(stage, port, round_trip_ms)


def options():
    """The command line."""
    names = {name: list(module.table()) for name, module in TABLES.items()}
    epilog = "Rows: " + "; ".join(f"{t}: {' '.join(rows)}" for t, rows in names.items())
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog)
    parser.add_argument("--rows", default="local,push,cold,large", help="rows, tables or starts of row names")
    parser.add_argument("--peers", default=",".join(PEERS), help="of: %(default)s")
    parser.add_argument("--profiles", default=",".join(rows_local.PROFILES), help="of: %(default)s")
    parser.add_argument("--repeats", type=int, default=6, help="of quick rows; dear ones take less")
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, two repeats: to see that all runs")
    parser.add_argument("--json", type=Path, help="keep the results in this file")
    parser.add_argument("--binary", type=Path, help="this larder, instead of a release build")
    parser.add_argument("--dir", type=Path, default=HERE.parent / "target" / "bench", help="where data and work lie; its file system is measured (default: target/bench)")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.repeats = 2
    return chosen


def chosen_rows(words):
    """For each table the rows that are asked for."""
    out = {}
    for name, module in TABLES.items():
        rows = [
            row
            for row in module.table().values()
            if any(word == name or row.name.startswith(word) for word in words.split(","))
        ]
        if rows:
            out[name] = rows
    return out


def built():
    """The release binary, built now."""
    subprocess.run(["cargo", "build", "--release", "-p", "larder"], cwd=HERE.parent, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target")) / "release" / "larder"


def main():
    """Runs what was asked for, and says what came out."""
    chosen = options()
    wanted = chosen_rows(chosen.rows)
    if not wanted:
        sys.exit("No row has such a name: see --help.")
    chosen.binary = (chosen.binary or built()).resolve()
    chosen.dir = chosen.dir.resolve()
    data = Datasets(chosen.dir / "data", 10 if chosen.quick else 1)
    rows = [row for rows in wanted.values() for row in rows]
    bench = Bench(chosen, data)
    try:
        with Workplace(chosen.dir) as workplace:
            bench.workplace = workplace
            measured(bench, wanted)
    finally:
        # What was measured until a Ctrl-C is worth as much.
        results = report.results(rows, Larder.peaks, bench.left_out, MEMORY_AIM_BYTES)
        if chosen.json:
            report.write(results, chosen.json)
        print(report.table(results))


def measured(bench, wanted):
    """Runs the tables; one that fails leaves the others theirs."""
    if os.geteuid() != 0:
        bench.leave_out("dropping the kernel's caches, and the profile `passthrough`, need root")
    for name, rows in wanted.items():
        try:
            TABLES[name].run(bench, rows)
        except (Missing, RuntimeError) as error:
            bench.leave_out(f"the rest of {name}: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)

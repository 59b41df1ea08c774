"""The files that everything is measured with.

Each data set is made once, the same on every run, and kept below the data directory with a
stamp; a directory without its stamp is made anew. `docs` compresses to three quarters, `vm` to
a half, `media` and `big` do not compress; `source` is real source, so it differs from
machine to machine.
"""

import base64
import os
import random
import shutil
from pathlib import Path

MIB = 1 << 20


class Datasets:
    """Makes data sets on demand below `root`. `scale` divides sizes, for a quick look."""

    def __init__(self, root, scale=1):
        self.root = Path(root)
        self.scale = scale
        self.root.mkdir(parents=True, exist_ok=True)

    def get(self, name):
        """The directory (or, for `big` and `vm`, the file) of the data set `name`."""
        label = f"{name}-{self.scale}" if self.scale > 1 else name
        path = self.root / label
        stamp = self.root / f"{label}.made"
        if not stamp.exists():
            if path.is_dir():
                shutil.rmtree(path)
            MAKERS[name](path, self.scale)
            stamp.write_text("whole\n")
        return path


def docs(path, scale):
    """10,000 files of 1 - 32 KiB in 500 directories."""
    rng = random.Random("docs")
    for directory in range(500 // scale):
        home = path / f"{directory % 10:02}" / f"{directory:03}"
        home.mkdir(parents=True)
        for number in range(20):
            size = rng.randrange(1 << 10, 32 << 10)
            text = base64.encodebytes(rng.randbytes(size * 3 // 4))[:size]
            (home / f"note-{number:02}.txt").write_bytes(text)


def small(path, count):
    """The directories of the first `count` files of `docs`: what the cold `grep -r` reads."""
    every = [path / f"{d % 10:02}" / f"{d:03}" for d in range(count // 20)]
    return [directory for directory in every if directory.exists()]


def source(path, scale):
    """About 25,000 files of real source: the crates that cargo has unpacked here."""
    left = 25_000 // scale
    for root, old in source_files():
        if left == 0:
            return
        new = path / old.relative_to(root)
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(old, new)
        left -= 1
    if left > 20_000 // scale:
        raise SystemExit("There is too little source below CARGO_HOME: run `cargo fetch` first.")


def source_files():
    """The files that cargo has unpacked, up to 2 MiB each, with the registry's directory."""
    cargo = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    for root in sorted(cargo.glob("registry/src/*")):
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink() and path.stat().st_size <= 2 * MIB:
                yield root, path


def media(path, scale):
    """20 files of 50 MiB that do not compress."""
    path.mkdir()
    for number in range(20):
        noise(path / f"clip-{number:02}.mov", 50 * MIB // scale, f"media {number}")


def big(path, scale):
    """One file of 1 GiB that does not compress."""
    noise(path, 1024 * MIB // scale, "big")


def noise(path, size, seed):
    rng = random.Random(seed)
    with open(path, "wb") as out:
        for at in range(0, size, MIB):
            out.write(rng.randbytes(min(MIB, size - at)))


def vm(path, scale):
    """One file of 1 GiB that compresses to a half, as a disk's image does: in stretches of
    4 KiB to 128 KiB noise, files of `source`, words, and tables that are mostly zeros."""
    rng = random.Random("vm")
    files = (path for _, path in source_files() if path.stat().st_size <= 128 << 10)
    words = [base64.b32encode(rng.randbytes(4)).rstrip(b"=").lower() for _ in range(1024)]
    with open(path, "wb") as out:
        while (left := 1024 * MIB // scale - out.tell()) > 0:
            kind, stretch = rng.random(), rng.randrange(1, 33) * 4096
            old = next(files, None) if kind < 0.76 else None
            if kind < 0.16:
                data = rng.randbytes(stretch)
            elif old is not None:
                data = old.read_bytes()
            elif kind < 0.92:
                data = b" ".join(rng.choices(words, k=stretch // 8))[:stretch]
            else:
                data = (rng.randbytes(24) + bytes(40)) * (stretch // 64)
            out.write((data + bytes(-len(data) % 4096))[:left])


def vm_edited(path, scale):
    """`vm` with 1 KiB inserted near its start, 20 random 4 KiB changed and 1 MiB appended."""
    rng = random.Random("edit")
    original = path.parent / path.name.replace("vm_edited", "vm")
    with open(original, "rb") as old, open(path, "wb") as new:
        new.write(old.read(100_000))
        new.write(rng.randbytes(1024))
        shutil.copyfileobj(old, new, MIB)
        size = new.tell()
        for _ in range(20):
            new.seek(rng.randrange(size // 4096) * 4096)
            new.write(rng.randbytes(4096))
        new.seek(size)
        new.write(rng.randbytes(MIB))


MAKERS = {
    "docs": docs,
    "source": source,
    "media": media,
    "big": big,
    "vm": vm,
    "vm_edited": vm_edited,
}


def total(path):
    """Files and bytes below `path`, which may be a file."""
    path = Path(path)
    if path.is_file():
        return 1, path.stat().st_size
    sizes = [p.stat().st_size for p in path.rglob("*") if p.is_file()]
    return len(sizes), sum(sizes)

"""The ground that a run stands on: a directory, child processes and mounts, all taken away.

Everything that is started is registered here and ended in reverse order when the run ends, by
its end, an error, Ctrl-C or SIGTERM. Only processes that the run started are ended, by their
handle; only mounts below the run's own directory are unmounted.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


# Nothing takes this long, unless it hangs.
HANGS_SECS = 900
# Nothing that is timed as a whole command or loop does; what does is out of its row.
TIMED_SECS = 120


class Missing(Exception):
    """A program or a right that a row needs is not here; the row or peer is left out."""


class Workplace:
    """A fresh directory below `parent`, and all that runs in it. A context manager."""

    def __init__(self, parent):
        self.parent = Path(parent)
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        self.parent.mkdir(parents=True, exist_ok=True)
        self.root = Path(tempfile.mkdtemp(prefix="run-", dir=self.parent))
        self.stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.stack.callback(self.unmount_all)
        self.probe = self.root / "probe"
        try:
            check(["cc", "-O2", "-o", self.probe, HERE / "probe.c"])
        except BaseException:
            self.stack.close()
            raise
        return self

    def __exit__(self, *_):
        self.stack.close()

    def unmount_all(self):
        """Detaches what is still mounted below the directory, so that nothing is deleted
        through a mount."""
        mounts = [line.split()[4] for line in open("/proc/self/mountinfo", encoding="utf-8")]
        for mount in sorted((m for m in mounts if m.startswith(f"{self.root}/")), reverse=True):
            detach(mount, lazy=True)

    def stage(self):
        """A part of the run with a directory of its own: a context manager like this one."""
        return Stage(self)


class OwnLoopback:
    """Puts this process, and all that it starts, on a loopback of its own that counts what passes:
    nobody else's bytes are on it. A context manager. Only root can."""

    NEW_NETWORK = 0x40000000

    def __enter__(self):
        if os.geteuid() != 0:
            raise Missing("counting all bytes that travel needs root")
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.before = open("/proc/self/ns/net", "rb")
        if self.libc.unshare(self.NEW_NETWORK) != 0:
            raise Missing("there can be no network of its own here")
        check([found("ip"), "link", "set", "lo", "up"])
        return self

    def __exit__(self, *_):
        self.libc.setns(self.before.fileno(), self.NEW_NETWORK)
        self.before.close()

    def bytes(self):
        """All bytes so far, with the headers of the network."""
        for line in Path("/proc/self/net/dev").read_text().splitlines():
            name, _, counts = line.partition(":")
            if name.strip() == "lo":
                return int(counts.split()[0])
        raise Missing("there is no loopback")


class Stage:
    """Mounts, servers and files that a few rows share. All of it goes when the rows are done."""

    def __init__(self, workplace):
        self.workplace = workplace
        self.probe = workplace.probe
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        self.root = Path(tempfile.mkdtemp(prefix="stage-", dir=self.workplace.root))
        self.stack.callback(shutil.rmtree, self.root, ignore_errors=True)
        self.stack.callback(self.workplace.unmount_all)
        return self

    def __exit__(self, *_):
        self.stack.close()

    def dir(self, name):
        """The directory `name` of this stage, made if it is not there."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def start(self, command, name, **options):
        """Starts a process that is ended with the stage. Its words go to NAME.log."""
        log = open(self.root / f"{name}.log", "ab")
        options.setdefault("stdout", log)
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
            **options,
        )
        log.close()
        child.log = self.root / f"{name}.log"
        self.stack.callback(end, child)
        return child

    def mounted(self, command, name, mount, **options):
        """Starts a program that mounts `mount`, and waits until it has."""
        child = self.start(command, name, **options)
        wait_for(lambda: os.path.ismount(mount), child)
        return child


def end(child):
    """Ends a process that this run started; one that does not listen is killed."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def detach(mount, lazy=False):
    """Unmounts `mount`, if it is one."""
    if os.geteuid() == 0:
        command = ["umount", *(["-l"] if lazy else []), mount]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), mount]
    subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


def wait_for(true, child, secs=30):
    """Waits until `true()`, or fails with what `child` said."""
    until = time.monotonic() + secs
    while not true():
        if child.poll() is not None or time.monotonic() > until:
            raise RuntimeError(f"{child.args[0]} is not ready: {child.log.read_text()[-2000:]}")
        time.sleep(0.01)


def free_port():
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def listens(port):
    """Whether somebody answers on a port of loopback."""
    with socket.socket() as s:
        return s.connect_ex(("127.0.0.1", port)) == 0


def found(program):
    """The path of a program, or Missing."""
    paths = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    path = shutil.which(program, path=paths)
    if path is None:
        raise Missing(f"there is no {program}")
    return path


def finished(command, hangs=HANGS_SECS, **options):
    """Runs a command to its end; one that takes `hangs` seconds is killed and has failed."""
    command = [str(part) for part in command]
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=False,
            timeout=hangs,
            **options,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command)[:300]} hangs") from None


def check(command, **options):
    """Runs a command; fails with its words if it does. Returns what it printed."""
    done = finished(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))[:300]}: {done.stderr[-2000:]}")
    return done.stdout


def timed(command, **options):
    """Runs a command with its output thrown away, and returns the seconds it took."""
    start = time.perf_counter()
    done = finished(command, TIMED_SECS, stdout=subprocess.DEVNULL, **options)
    took = time.perf_counter() - start
    # grep says 1 where it found nothing; that is what it is asked for here.
    if done.returncode != 0 and not (command[0] == "grep" and done.returncode == 1):
        raise RuntimeError(f"{' '.join(map(str, command))[:300]}: {done.stderr[-2000:].decode()}")
    return took


def probed(stage, *arguments):
    """What a tight loop of `probe.c` says it took, in seconds."""
    return float(check([stage.probe, *arguments], hangs=TIMED_SECS))


def drop_caches():
    """Makes the kernel forget names, attributes and pages. Only root can."""
    if os.geteuid() != 0:
        raise Missing("dropping the kernel's caches needs root")
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3\n")


def drop_names():
    """Makes the kernel forget names and attributes, not the pages of open files. Only root can."""
    if os.geteuid() != 0:
        raise Missing("dropping the kernel's caches needs root")
    Path("/proc/sys/vm/drop_caches").write_text("2\n")


def read_all(path):
    """Reads what lies below `path`, so that a server has it in memory."""
    for home, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(home, name), "rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


def stored_bytes(path):
    """The sum of the sizes of the files below `path`."""
    return sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file())


def peak_memory(pid):
    """The most bytes of memory that a process ever held, or 0 if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0

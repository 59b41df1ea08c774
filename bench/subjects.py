"""Larder and its peers, as a benchmark sees them: something that shows a tree, or takes one.

A subject that shows a tree has `path`, where it is mounted, and `cold()`, which makes it forget
all that it can forget: its own memory and caches, not its connection.
"""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

from workplace import check, detach, end, found, free_port, peak_memory, wait_for

PASSPHRASE = "correct horse battery staple"


class Native:
    """A plain directory of the file system under all the others."""

    name = "native"

    def __init__(self, stage):
        self.path = stage.dir("native")

    def cold(self):
        """Only the kernel holds something."""


class Larder:
    """A volume with a daemon of its own, in a home of its own."""

    peaks = {}

    def __init__(
        self, stage, binary, name, address, options=(), profile=None, environment=None, ticket=None,
        opened=False, limits=(),
    ):
        self.stage, self.binary, self.name, self.profile = stage, binary, name, profile
        self.home = stage.dir(f"{name}-home")
        self.path = stage.dir(f"{name}-mount")
        self.child = None
        secret = self.home / "passphrase"
        secret.write_text(PASSPHRASE + "\n")
        self.environment = {
            **os.environ,
            **(environment or {}),
            "LARDER_HOME": str(self.home),
            "LARDER_PASSPHRASE_FILE": str(secret),
        }
        if opened:
            # Another machine of the volume that is there.
            self.run("open", address, self.path, "--budget", "60G", *options)
        elif ticket is None:
            self.run("init", self.path, "--store", address, "--budget", "60G", *options)
        else:
            # Another machine of the volume that `ticket` is.
            text = ticket.run("--volume", ticket.path, "invite").split()
            text = next(word for word in text if word.startswith("larder-"))
            self.run("join", text, self.path, "--budget", "60G", *options)
        if limits:
            config = next(self.home.glob("volumes/*/config.toml"))
            with open(config, "a", encoding="utf-8") as out:
                out.write("\n[limits]\n" + "".join(f"{limit}\n" for limit in limits))
        self.mount()

    def run(self, *arguments):
        """A command of Larder's; its words."""
        return check([self.binary, *arguments], env=self.environment)

    def mount(self):
        """Mounts it, with a daemon that is this run's child."""
        profile = ["--profile", self.profile] if self.profile else []
        self.child = self.stage.mounted(
            [self.binary, "mount", "--foreground", *profile, self.path],
            self.name,
            self.path,
            env=self.environment,
        )

    def note_peak(self):
        """Keeps what the daemon's memory came to."""
        peak = peak_memory(self.child.pid)
        self.peaks[self.name] = max(self.peaks.get(self.name, 0), peak)
        return peak

    def unmount(self):
        """Unmounts it and waits for its daemon's end."""
        self.note_peak()
        end(self.child)

    def commit(self):
        """Waits until all is stored."""
        self.run("--volume", self.path, "commit", "-m", "bench")

    def settle(self):
        """Stores all, and waits until the daemon is at rest."""
        self.commit()
        time.sleep(1)

    def cold(self):
        """Drops all content, and the daemon's memory with the daemon."""
        self.settle()
        self.run("stash", *[p for p in self.path.iterdir()])
        self.remount()

    def remount(self):
        """A new daemon."""
        self.unmount()
        self.mount()


class Syncthing:
    """Syncthing with its defaults, but that it looks for nobody outside, and does not wait for quiet."""

    name = "syncthing"

    def __init__(self, stage, name):
        self.path = stage.dir(f"syncthing-{name}")
        self.home = stage.dir(f"syncthing-{name}-home")
        program = found("syncthing")
        check([program, "generate", "--no-default-folder", "--skip-port-probing", f"--home={self.home}"])
        self.id = check([program, f"--home={self.home}", "--device-id"]).strip()
        self.port, gui = free_port(), free_port()
        self.key, self.gui = "bench", f"http://127.0.0.1:{gui}"
        self.child = stage.start(
            [program, "serve", "--no-browser", "--no-upgrade", "--no-restart", f"--home={self.home}"]
            + [f"--gui-address=127.0.0.1:{gui}", f"--gui-apikey={self.key}"],
            f"syncthing-{name}",
        )
        wait_for(lambda: self.ask("GET", "system/ping") is not None, self.child)
        options = self.ask("GET", "config/options")
        options.update(
            listenAddresses=[f"tcp://127.0.0.1:{self.port}"],
            globalAnnounceEnabled=False,
            localAnnounceEnabled=False,
            relaysEnabled=False,
            natEnabled=False,
            crashReportingEnabled=False,
            urAccepted=-1,
        )
        self.ask("PUT", "config/options", options)

    def meet(self, other):
        """Shares the directory with another."""
        device = {"deviceID": other.id, "addresses": [f"tcp://127.0.0.1:{other.port}"]}
        self.ask("PUT", f"config/devices/{other.id}", device)
        devices = [{"deviceID": self.id}, {"deviceID": other.id}]
        folder = {"id": "bench", "path": str(self.path), "devices": devices, "fsWatcherDelayS": 1}
        self.ask("PUT", "config/folders/bench", folder)

    def scan(self):
        """Has it look at the directory now."""
        self.ask("POST", "db/scan?folder=bench")

    def ask(self, method, path, body=None):
        """A request of its interface; None if it does not answer."""
        request = urllib.request.Request(
            f"{self.gui}/rest/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": self.key, "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.loads(answer.read() or b"{}")
        except (OSError, ValueError):
            return None


class Mounted:
    """What a program shows at `path`, which starts in `mount()`; a cache of files lies in `cache`."""

    cache = None

    def cold(self):
        """A new mount, for each caches names and attributes itself; and an empty cache."""
        detach(self.path)
        end(self.child)
        if self.cache:
            shutil.rmtree(self.cache, ignore_errors=True)
        self.mount()


class Sshfs(Mounted):
    """sshfs with its defaults, over a directory that an SSH server serves."""

    name = "sshfs"

    def __init__(self, stage, sshd, served, port=None):
        self.stage, self.sshd, self.served = stage, sshd, served
        self.port = port or sshd.port
        self.path = stage.dir("sshfs-mount")
        self.mount()

    def mount(self):
        """Connects and mounts."""
        self.child = self.stage.mounted(
            [found("sshfs"), "-f", "-p", self.port, "-o", f"IdentityFile={self.sshd.identity}"]
            + ["-o", f"UserKnownHostsFile={self.sshd.known_hosts}", "-F", "none"]
            + [f"{self.sshd.user}@127.0.0.1:{self.served}", self.path],
            "sshfs",
            self.path,
        )


class S3fs(Mounted):
    """s3fs without a disk cache, over a bucket."""

    name = "s3fs"

    def __init__(self, stage, s3, bucket, port=None):
        self.stage, self.s3, self.bucket = stage, s3, bucket
        self.port = port or s3.port
        self.path = stage.dir("s3fs-mount")
        self.secret = stage.root / "s3fs.passwd"
        self.secret.write_text(f"{s3.key}:{s3.secret}\n")
        self.secret.chmod(0o600)
        self.mount()

    def mount(self):
        """Connects and mounts."""
        self.child = self.stage.mounted(
            [found("s3fs"), self.bucket, self.path, "-f", "-o", f"passwd_file={self.secret}"]
            + ["-o", f"url=http://127.0.0.1:{self.port}", "-o", "use_path_request_style"]
            + ["-o", "parallel_count=10"],
            "s3fs",
            self.path,
        )


class Rclone(Mounted):
    """`rclone mount` over SFTP, with its full cache of files, which `cp` needs."""

    name = "rclone"

    def __init__(self, stage, sshd, served, port=None):
        self.stage, self.sshd, self.served = stage, sshd, served
        self.port = port or sshd.port
        self.path = stage.dir("rclone-mount")
        self.cache = stage.root / "rclone-cache"
        self.mount()

    def mount(self):
        """Connects and mounts."""
        remote = (
            f":sftp,host=127.0.0.1,port={self.port},user={self.sshd.user},"
            f"key_file={self.sshd.identity},known_hosts_file={self.sshd.known_hosts}:{self.served}"
        )
        self.child = self.stage.mounted(
            [found("rclone"), "--config", "", "mount", remote, self.path]
            + ["--vfs-cache-mode", "full", "--cache-dir", self.cache],
            "rclone",
            self.path,
        )


class JuiceFs(Mounted):
    """A JuiceFS file system in a bucket, its metadata in SQLite on this disk."""

    name = "juicefs"

    def __init__(self, stage, s3, bucket, port=None):
        self.stage = stage
        self.path = stage.dir("juicefs-mount")
        self.cache = stage.root / "juicefs-cache"
        self.meta = f"sqlite3://{stage.root}/juicefs.db"
        address = f"http://127.0.0.1:{port or s3.port}/{bucket}"
        keys = ["--access-key", s3.key, "--secret-key", s3.secret]
        check(
            [found("juicefs"), "format", "--storage", "minio", "--bucket", address]
            + [*keys, self.meta, "bench"]
        )
        self.mount()

    def mount(self):
        """Mounts it."""
        self.child = self.stage.mounted(
            [found("juicefs"), "mount", "--no-usage-report", "--no-syslog"]
            + ["--metrics", f"127.0.0.1:{free_port()}"]
            + ["--cache-dir", self.cache, self.meta, self.path],
            "juicefs",
            self.path,
        )


class Restic:
    """A restic repository on an SSH server, with its cache of metadata on this disk."""

    name = "restic"

    def __init__(self, stage, sshd, served, port=None):
        self.stage = stage
        self.command = [
            found("restic"),
            *["-r", f"sftp:bench:{served}"],
            *["-o", f"sftp.command={sshd.ssh(port)} -s {sshd.user}@127.0.0.1 sftp"],
        ]
        self.environment = {
            **os.environ,
            "RESTIC_PASSWORD": PASSPHRASE,
            "RESTIC_CACHE_DIR": str(stage.dir("restic-cache")),
        }
        self.mountpoint = stage.dir("restic-mount")
        self.child = None
        check([*self.command, "init"], env=self.environment)

    def backup(self, path):
        """Stores a tree or file; the seconds it took."""
        home, what = (path, ".") if path.is_dir() else (path.parent, path.name)
        start = time.perf_counter()
        check([*self.command, "backup", "--quiet", what], env=self.environment, cwd=home)
        return time.perf_counter() - start

    def showing(self, path):
        """Stores a tree and mounts it."""
        self.backup(path)
        return self.mount()

    def mount(self):
        """Mounts the snapshots; `path` is the newest one."""
        self.child = self.stage.mounted(
            [*self.command, "mount", self.mountpoint],
            "restic",
            self.mountpoint,
            env=self.environment,
        )
        self.path = self.mountpoint / "snapshots" / "latest"
        # Its list of snapshots comes with the first look.
        for _ in range(100):
            if self.path.exists():
                break
            time.sleep(0.1)
        return self

    def cold(self):
        """A new mount."""
        detach(self.mountpoint)
        end(self.child)
        self.mount()


def rsync(sshd, source, target, port=None, options=()):
    """`rsync -a` of a tree or file to an SSH server; the seconds it took."""
    start = time.perf_counter()
    check(
        [found("rsync"), "-a", *options, "-e", sshd.ssh(port), source]
        + [f"{sshd.user}@127.0.0.1:{target}"]
    )
    return time.perf_counter() - start


def borg(repository, source):
    """`borg create` with zstd into a new repository on this disk; the seconds it took."""
    environment = {**os.environ, "BORG_PASSPHRASE": PASSPHRASE, "BORG_BASE_DIR": f"{repository}-home"}
    Path(f"{repository}-home").mkdir(exist_ok=True)
    check([found("borg"), "init", "-e", "repokey-blake2", repository], env=environment)
    home, what = (source, ".") if source.is_dir() else (source.parent, source.name)
    start = time.perf_counter()
    check(
        [found("borg"), "create", "-C", "zstd,3", f"{repository}::bench", what],
        env=environment,
        cwd=home,
    )
    return time.perf_counter() - start


def rustic(repository, source):
    """A rustic backup into a new repository on this disk; the seconds it took."""
    command = [found("rustic"), "-r", repository, "--password", PASSPHRASE, "--no-progress", "--no-cache"]
    check([*command, "init"])
    home, what = (source, ".") if source.is_dir() else (source.parent, source.name)
    start = time.perf_counter()
    check([*command, "backup", what], cwd=home)
    return time.perf_counter() - start


def casync(store, source):
    """`casync make` into a new store of chunks on this disk; the seconds it took."""
    store.mkdir()
    start = time.perf_counter()
    index = "tree.caidx" if source.is_dir() else "file.caibx"
    check([found("casync"), "make", f"--store={store}/chunks.castr", store / index, source])
    return time.perf_counter() - start


def copied(source, target):
    """`cp -r`; the seconds it took."""
    start = time.perf_counter()
    subprocess.run(["cp", "-r", source, target], check=True)
    return time.perf_counter() - start

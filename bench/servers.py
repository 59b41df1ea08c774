"""Real servers on loopback, each with configuration and keys of its own.

`Sshd` is the system's OpenSSH server, `S3` and `WebDav` are `rclone serve`. Each serves a
directory whose files a benchmark may also lay there directly. `far` puts a relay before one.
"""

import os
import struct
import subprocess
from pathlib import Path

from workplace import HERE, check, found, free_port, listens, wait_for


class Sshd:
    """An OpenSSH server whose files are this machine's."""

    def __init__(self, stage):
        self.dir = stage.dir("sshd")
        self.user = check(["id", "-un"]).strip()
        self.identity = self.dir / "user_key"
        self.known_hosts = self.dir / "known_hosts"
        for key in ("host_key", "user_key"):
            check(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", key, "-f", self.dir / key])
        (self.dir / "authorized_keys").write_bytes((self.dir / "user_key.pub").read_bytes())
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        self.port = free_port()
        (self.dir / "config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.dir}/host_key\n"
            f"AuthorizedKeysFile {self.dir}/authorized_keys\nPidFile none\nStrictModes no\n"
            "UsePAM no\nPasswordAuthentication no\nMaxStartups 100\nMaxSessions 100\n"
            "Subsystem sftp internal-sftp\n"
        )
        child = stage.start([found("sshd"), "-D", "-e", "-f", self.dir / "config"], "sshd")
        wait_for(lambda: listens(self.port), child)
        self.learn(self.port)

    def learn(self, port):
        """Makes the host key known under another port, that of a relay."""
        key = (self.dir / "host_key.pub").read_text()
        with open(self.known_hosts, "a", encoding="utf-8") as known:
            known.write(f"[127.0.0.1]:{port} {key}")

    def address(self, path, port=None):
        """An address of Larder's for the directory `path`."""
        return f"sftp://{self.user}@127.0.0.1:{port or self.port}{path}"

    def larder(self):
        """What Larder is told to reach it."""
        return ["--identity", self.identity, "--known-hosts", self.known_hosts]

    def ssh(self, port=None):
        """The `ssh` command that reaches it."""
        return (
            f"ssh -F none -p {port or self.port} -i {self.identity} -o IdentitiesOnly=yes "
            f"-o UserKnownHostsFile={self.known_hosts} -o BatchMode=yes"
        )


class S3:
    """rclone's S3 server. Each directory of `dir` is a bucket."""

    key, secret = "larder-bench", "larder-bench-secret"

    def __init__(self, stage):
        self.dir = stage.dir("s3")
        self.port = free_port()
        child = stage.start(
            [found("rclone"), "--config", "", "serve", "s3", self.dir]
            + ["--addr", f"127.0.0.1:{self.port}", "--auth-key", f"{self.key},{self.secret}"]
            # A time of 0 makes it spin. Without an ETag no file is hashed when its size is asked for.
            + ["--vfs-cache-mode", "off", "--dir-cache-time", "1s", "--etag-hash", ""],
            "s3",
        )
        wait_for(lambda: listens(self.port), child)

    def address(self, bucket, port=None):
        """An address of Larder's for a bucket."""
        endpoint = f"http://127.0.0.1:{port or self.port}"
        return f"s3://{bucket}?endpoint={endpoint}&region=us-east-1"

    def environment(self):
        """The variables by which Larder is handed the keys."""
        return {
            "LARDER_S3_ACCESS_KEY_ID": self.key,
            "LARDER_S3_SECRET_ACCESS_KEY": self.secret,
        }


class Relay:
    """A relay before a server on `port`: `round_trip_ms` far, and it counts."""

    def __init__(self, stage, port, round_trip_ms):
        self.counts = stage.root / f"relay-{free_port()}.counts"
        child = stage.start(
            ["python3", HERE / "proxy.py", port, round_trip_ms, self.counts],
            "relay",
            stdout=subprocess.PIPE,
        )
        self.port = int(child.stdout.readline())

    def sent(self):
        """Bytes relayed so far: to the server, from the server."""
        return struct.unpack("<QQ", self.counts.read_bytes())

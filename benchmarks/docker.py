"""The peer: Debian's Docker engine, with a data folder of its own, started and ended here."""

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import debian

ROOTFS = "bench-rootfs"
BASE = "bench-base"
# What a Python image of the field has: our run image leaves pip to the build.
WITH_PIP = f"""\
FROM {ROOTFS}
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv
"""
# What the engine leaves behind of its network when it ends.
BRIDGE = "docker0"


class Docker:
    """A running engine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        self._process: subprocess.Popen[bytes] | None = None

    def argv(self, *args: str) -> list[str]:
        """A command of the client."""
        return ["/usr/bin/docker", "-H", f"unix://{self.socket}", *args]

    def run(self, *args: str, **kwargs: object) -> str:
        """Run a command of the client; its output. Raises CalledProcessError."""
        done = subprocess.run(self.argv(*args), check=True, capture_output=True, **kwargs)
        return str(done.stdout.decode()).strip()

    def start(self) -> float:
        """Start the engine; seconds until it answers."""
        log = (self.folder / "dockerd.log").open("ab")
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [
                "dockerd",
                *("-H", f"unix://{self.socket}"),
                *("--data-root", str(self.folder / "data")),
                *("--exec-root", str(self.folder / "exec")),
                *("--pidfile", str(self.folder / "pid")),
            ],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        while not self._answers():
            if self._process.poll() is not None:
                raise RuntimeError((self.folder / "dockerd.log").read_text()[-2000:])
            time.sleep(0.005)
        return time.perf_counter() - start

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(self.socket))
            probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return b"200" in probe.recv(100)
        return False

    def stop(self) -> None:
        """End the engine and wait for it."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._process = None
        with contextlib.suppress(FileNotFoundError):
            self.socket.unlink()

    def pid(self) -> int:
        """The daemon's pid."""
        assert self._process is not None
        return self._process.pid

    def import_base(self, rootfs: Path) -> None:
        """Make the base image of both sides' builds from a root file system's folder."""
        tar = subprocess.Popen(
            ["tar", "-C", str(rootfs), "--numeric-owner", "-c", "."], stdout=subprocess.PIPE
        )
        subprocess.run(
            self.argv("import", "-", ROOTFS),
            stdin=tar.stdout,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        tar.wait()
        self.run("build", "-q", "-t", BASE, "-", input=WITH_PIP.encode())


@contextlib.contextmanager
def engine() -> Iterator[Docker]:
    """A running engine in a scratch folder; gone at the end with all it made."""
    debian.install("dockerd", "docker.io", "iptables")
    folder = Path(tempfile.mkdtemp(prefix="sw-docker-", dir="/tmp"))
    docker = Docker(folder)
    try:
        docker.start()
        yield docker
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            if left := docker.run("ps", "-aq").split():
                docker.run("rm", "-f", *left)
        docker.stop()
        subprocess.run(["ip", "link", "del", BRIDGE], stderr=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)

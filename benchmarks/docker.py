"""The peer: Debian's Docker engine, with a data folder of its own, started and ended here."""

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import debian
from tests.dockerengine import Docker as Engine

ROOTFS = "bench-rootfs"
BASE = "bench-base"
# What a Python image of the field has: our run image leaves pip to the build.
WITH_PIP = f"""\
FROM {ROOTFS}
RUN apt-get update -q && apt-get install -y -q --no-install-recommends python3-venv
"""
# What the engine leaves behind of its network when it ends.
BRIDGE = "docker0"


class Docker(Engine):
    """The engine as the peer."""

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

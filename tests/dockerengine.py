"""Debian's Docker engine, with a data folder of its own, started and ended by who needs it."""

import contextlib
import signal
import socket
import subprocess
import time
from pathlib import Path


class Docker:
    """An engine with all its files below `folder`; `options` are more of dockerd's."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.options = options
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
                *self.options,
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

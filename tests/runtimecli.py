"""`shipway runtime` as people use it: a process of its own, and one with a terminal."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any

import support
from enginelab import Lab


def argv(lab: Lab, *args: str) -> list[str]:
    """The command line of a verb on the lab's engine."""
    return [sys.executable, "-m", "shipway.runtime", "--root", str(lab.config.root), *args]


def call(lab: Lab, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a verb to its end."""
    options = {"text": True, "capture_output": True, "timeout": 60} | options
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run(argv(lab, *args), env=support.clean_environ(), **options)


def ok(lab: Lab, *args: str, **options: Any) -> str:
    """What a verb says on stdout; it must succeed."""
    done = call(lab, *args, **options)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


class Terminal:
    """A verb on a terminal of its own: `screen` is all that came so far."""

    def __init__(self, lab: Lab, *args: str, rows: int = 24, columns: int = 80) -> None:
        self.master, slave = pty.openpty()
        self.resize(rows, columns)
        self.slave = slave
        self.process = subprocess.Popen(
            argv(lab, *args),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=support.clean_environ(TERM="xterm"),
            start_new_session=True,
        )
        self.screen = b""

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size."""
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def expect(self, text: str, timeout: float = 20.0) -> None:
        """Wait until that text came; what came before it is forgotten."""
        deadline = time.monotonic() + timeout
        while text.encode() not in self.screen:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.master], [], [], max(0.0, left))
            assert ready, f"no {text!r} within {timeout} s, but {self.screen!r}"
            self.screen += os.read(self.master, 65536)
        self.screen = self.screen.partition(text.encode())[2]

    def wait(self) -> int:
        """The verb's exit code."""
        return self.process.wait(20)

    def modes(self) -> list[Any]:
        """The terminal's settings."""
        return termios.tcgetattr(self.slave)


@contextlib.contextmanager
def terminal(lab: Lab, *args: str, **size: int) -> Iterator[Terminal]:
    """A verb on a terminal; killed at the end if it still runs."""
    found = Terminal(lab, *args, **size)
    try:
        yield found
    finally:
        if found.process.poll() is None:
            found.process.send_signal(signal.SIGKILL)
            found.process.wait(10)
        os.close(found.master)
        os.close(found.slave)

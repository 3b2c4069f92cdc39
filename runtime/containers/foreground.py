"""Containers and commands that a caller waits for, with their output as it comes."""

import os
import select
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from shipway.runtime.commands import PATH
from shipway.runtime.errors import Cancelled, TimedOut

CHUNK = 65536
# A threading.Event cannot be waited for together with file descriptors.
CANCEL_CHECK = 0.1

Output = Callable[[bytes], None]


@dataclass(frozen=True)
class Patience:
    """When to give up: if `cancelled` is set, or at `deadline` (monotonic seconds)."""

    cancelled: threading.Event | None
    deadline: float | None

    def check(self) -> None:
        """Raise Cancelled or TimedOut if it is time to."""
        if self.cancelled is not None and self.cancelled.is_set():
            raise Cancelled("cancelled")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise TimedOut("it ran longer than it may")

    def wait(self) -> float | None:
        """Milliseconds until the next check is due; None if never."""
        if self.cancelled is not None:
            return CANCEL_CHECK * 1000
        if self.deadline is not None:
            return max(0.0, self.deadline - time.monotonic()) * 1000
        return None


def pump(source: int, end: int | None, output: Output, patience: Patience) -> None:
    """Hand on what comes from `source` until it closes, or the process of pidfd `end` is dead.

    None stands for a process that is dead already. What it had written is handed on all the same.
    """
    os.set_blocking(source, False)
    poll = select.poll()
    poll.register(source, select.POLLIN)
    if end is not None:
        poll.register(end, select.POLLIN)
    ready: set[int | None] = set()
    while end is not None and end not in ready:
        patience.check()
        ready = {fd for fd, _ in poll.poll(patience.wait())}
        if source in ready and _forward(source, output) == b"":
            return
    # Looked at once more: it may have written between poll's look at one and at the other.
    while _forward(source, output):
        patience.check()


def _forward(source: int, output: Output) -> bytes | None:
    """Hand on one chunk; empty at the end of the stream, None if there is nothing now."""
    try:
        chunk = os.read(source, CHUNK)
    except BlockingIOError:
        return None
    if chunk:
        output(chunk)
    return chunk


def run_streamed(argv: list[str], output: Output, timeout: float | None) -> int:
    """Run a command, handing on stdout and stderr; returns its exit code. Raises TimedOut."""
    deadline = None if timeout is None else time.monotonic() + timeout
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={"PATH": PATH},
        start_new_session=True,
    )
    with process:
        assert process.stdout
        end = os.pidfd_open(process.pid)
        try:
            pump(process.stdout.fileno(), end, output, Patience(None, deadline))
        except BaseException:
            process.kill()
            raise
        finally:
            os.close(end)
        return process.wait()

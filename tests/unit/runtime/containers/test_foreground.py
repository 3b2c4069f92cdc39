"""Output that is handed on as it comes."""

import os
import subprocess
import threading
import time

import pytest

from shipway.runtime.containers.foreground import Patience, pump, run_streamed
from shipway.runtime.errors import Cancelled, TimedOut

FOREVER = Patience(None, None)


def test_what_a_dead_process_wrote_is_handed_on() -> None:
    """Output that is still in the pipe when its writer is dead already is not lost."""
    reader, writer = os.pipe()
    with subprocess.Popen(["true"]) as process:
        end = os.pidfd_open(process.pid)
    os.write(writer, b"x" * 50_000)
    for pidfd in (end, None):
        chunks: list[bytes] = []
        os.write(writer, b"last words")
        pump(reader, pidfd, chunks.append, FOREVER)
        assert b"".join(chunks).endswith(b"last words")
    for fd in (reader, writer, end):
        os.close(fd)


def test_a_command_gives_its_output_and_its_code() -> None:
    """Both streams come, and the exit code is the command's."""
    chunks: list[bytes] = []
    assert run_streamed(["sh", "-c", "echo a; echo b >&2; exit 3"], chunks.append, None) == 3
    assert b"".join(chunks) == b"a\nb\n"


def test_a_command_that_leaves_a_child_behind_ends() -> None:
    """A child that keeps the output open does not keep the caller waiting."""
    started = time.monotonic()
    with subprocess.Popen(["sleep", "0"]):
        assert run_streamed(["sh", "-c", "sleep 3 & echo a"], lambda _: None, None) == 0
    assert time.monotonic() - started < 2


def test_patience_ends_by_time_and_by_wish() -> None:
    """A deadline raises TimedOut, a set event Cancelled."""
    with pytest.raises(TimedOut):
        run_streamed(["sleep", "60"], lambda _: None, 0.1)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        Patience(cancelled, None).check()

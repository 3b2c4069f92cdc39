"""A container's log set aside when it has grown, without a line lost or doubled.

conmon 2.1 can only throw a log away, so this is done from outside, while it writes:

1. older files move up: `web.log.1` becomes `web.log.2`, and so on;
2. an empty `web.log.tmp` is made: conmon's own name for its next file, so that it finds room even
   on a full disk;
3. `web.log` is linked as `web.log.1`;
4. conmon is told to reopen its log: it renames `web.log.tmp` to `web.log` and writes there.

While the two names of step 3 are one file, a rotation is under way or was cut short. Whoever comes
next goes on from there. To be told twice would cost conmon what it wrote in between, so it is told
again only when nothing shows that it was told before.
"""

import fcntl
import os
import resource
import select
import struct
import termios
from contextlib import closing, suppress
from pathlib import Path

from shipway.runtime.errors import RuntimeFailure

REOPEN = b"2 0 0\n"  # conmon's control message
TIMEOUT = 10.0  # seconds conmon has for it
IN_HAND = 1.0  # seconds for a message that it has taken from its pipe
# How far over its size a file grows when nobody rotates it; then conmon drops lines.
HEADROOM = 8


def bound(monitor: int, size: int) -> None:
    """Hold every file that a conmon writes to HEADROOM times `size` bytes, whatever comes."""
    with suppress(ProcessLookupError):
        _, hard = resource.prlimit(monitor, resource.RLIMIT_FSIZE)
        resource.prlimit(monitor, resource.RLIMIT_FSIZE, (size * HEADROOM, hard))


def is_due(log: Path, size: int) -> bool:
    """Whether the log is larger than `size` bytes, or a rotation of it was cut short."""
    try:
        return os.stat(log).st_size > size or _is_under_way(log)
    except FileNotFoundError:
        return False


def older_numbers(log: Path) -> list[int]:
    """The numbers of the log's older files that are there, in no order."""
    start = f"{log.name}."
    try:
        names = os.listdir(log.parent)
    except FileNotFoundError:
        return []
    ends = [name.removeprefix(start) for name in names if name.startswith(start)]
    return [int(end) for end in ends if end.isdigit()]


def rotate(log: Path, control: Path, monitor: int, keep: int) -> bool:
    """Set the log aside as the newest of `keep` older files; False if its conmon has ended.

    `control` is conmon's fifo, `monitor` a pidfd of it. The caller holds a lock. RuntimeFailure.
    """
    again = _is_under_way(log)
    if not again:
        _move_up(log, max(1, keep))
        _temporary(log).unlink(missing_ok=True)
        os.close(
            os.open(_temporary(log), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        )
        os.link(log, _older(log, 1))
    done = _reopen(log, control, monitor, again)
    if not done:  # its last lines are in the file of both names
        with suppress(FileNotFoundError):
            if _is_under_way(log):
                _older(log, 1).unlink()
        _temporary(log).unlink(missing_ok=True)
    elif keep < 1:
        _older(log, 1).unlink(missing_ok=True)
    return done


def _older(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")


def _temporary(log: Path) -> Path:
    return log.with_name(f"{log.name}.tmp")


def _is_under_way(log: Path) -> bool:
    try:
        return os.path.samefile(log, _older(log, 1))
    except FileNotFoundError:
        return False


def _move_up(log: Path, keep: int) -> None:
    """Free the name of the newest older file; what would be one too many is deleted."""
    for number in older_numbers(log):
        if number > keep:
            _older(log, number).unlink()
    free = 1
    while free < keep and _older(log, free).exists():
        free += 1
    for number in range(free, 1, -1):
        _older(log, number - 1).rename(_older(log, number))
    if free == keep == 1:
        _older(log, 1).unlink(missing_ok=True)


def _reopen(log: Path, control: Path, monitor: int, again: bool) -> bool:
    """Have conmon write to a new file; False if it has ended, and what it wrote is in the old one."""
    try:
        pipe = os.open(control, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    with closing(os.fdopen(pipe, "r+b", buffering=0)):
        told = again and (_unread(pipe) > 0 or _await_reopened(log, monitor, IN_HAND))
        if not told:
            os.write(pipe, REOPEN)
        if not _await_reopened(log, monitor, TIMEOUT):
            if not _is_over(monitor, 0):
                raise RuntimeFailure(f"conmon did not reopen the log {log} within {TIMEOUT:.0f} s")
            return not _is_under_way(log)
    return True


def _unread(pipe: int) -> int:
    """Bytes in a fifo that its reader has not taken yet."""
    count: int = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]
    return count


def _await_reopened(log: Path, monitor: int, timeout: float) -> bool:
    """Wait until the two names are two files, at most so many seconds or until conmon's end.

    It takes less than a millisecond as a rule: looking again is cheaper than an inotify instance.
    """
    delay, waited = 0.0005, 0.0
    while _is_under_way(log):
        if waited >= timeout or _is_over(monitor, delay):
            return not _is_under_way(log)
        waited += delay
        delay = min(delay * 2, 0.1)
    return True


def _is_over(monitor: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(monitor, select.POLLIN)
    return bool(poll.poll(timeout * 1000))

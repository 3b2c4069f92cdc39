"""The end of a container that is to be removed when it ends: its monitor's last deed.

While the caller that runs it in the foreground lives, it holds the lock on the file `caller` and
removes the container itself. The monitor's exit command takes that lock without waiting, so the
Python below is started only when nobody is there: for a detached container, or a killed caller.
"""

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from shipway.runtime.containers.container import Files

FLOCK = "/usr/bin/flock"


def exit_command(files: Files) -> tuple[str, ...]:
    """What the monitor runs after it has noted the exit."""
    root = files.folder.parent.parent
    locking = (FLOCK, "--shared", "--nonblock", "--conflict-exit-code", "0", str(files.caller))
    python = (sys.executable, "-P", "-m", "shipway.runtime")
    return (*locking, *python, "--root", str(root), "reap", files.id)


@contextmanager
def attended(files: Files) -> Iterator[None]:
    """Hold the caller's lock: the monitor leaves the removal to us. The kernel frees it at death."""
    fd = os.open(files.caller, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def is_attended(files: Files) -> bool:
    """Whether somebody holds the caller's lock."""
    try:
        fd = os.open(files.caller, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)

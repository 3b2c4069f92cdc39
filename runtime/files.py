"""Durable files, and locks that every process on the machine honours."""

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipway.runtime.errors import HostUnfit, RuntimeFailure

REMEDIES = {
    errno.ENOSPC: ("cannot be written, for the disk is full", "free some space"),
    errno.EDQUOT: ("cannot be written, for a quota is used up", "free some space"),
    errno.EROFS: ("is read-only", "mount it writable, or choose another folder"),
    errno.EACCES: ("may not be written by this user", "run as root"),
    errno.EPERM: ("may not be written by this user", "run as root"),
    errno.ENOTDIR: ("is no folder", "choose another folder"),
}


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Name what makes a folder of the engine's unusable, and what would help. Raises HostUnfit."""
    try:
        yield
    except OSError as error:
        if isinstance(error, RuntimeFailure) or error.errno not in REMEDIES:
            raise
        what, remedy = REMEDIES[error.errno]
        where = error.filename2 or error.filename or folder
        raise HostUnfit(f"{os.fsdecode(where)} {what}", remedy) from error


def random_name(length: int) -> str:
    """`length` random bytes in hex: the module `secrets` would be loaded for this alone."""
    return os.urandom(length).hex()


# From linux/fs.h; the argument is a long, of which the kernel takes the lower half.
_GET_FLAGS, _SET_FLAGS, _TOP_OF_HIERARCHIES = 0x80086601, 0x40086602, 0x00020000


def atomic_write(path: Path, data: bytes, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` by `data`: a reader, or a crash, sees the old content or the new, never half.

    With `durable` false nothing is synced to disk: for what a reboot makes worthless anyway.
    """
    temporary = path.with_name(f".{path.name}.{random_name(4)}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def locked(path: Path, discard: bool = False, shared: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, against threads and processes alike; the kernel frees it at death.

    With `shared` others may share it, and who wants it alone waits for all of them.

    With `discard` the lock file is deleted at the end. That is safe because whoever waited for
    it sees that the file it locked is no longer the one of that name, and tries again.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            if _is_still_named(fd, path):
                yield
                if discard:
                    path.unlink(missing_ok=True)
                return
        finally:
            os.close(fd)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock file `path` unless somebody else does, and delete it; whether it was free."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        named = _is_still_named(fd, path)
        yield named
        if named:
            path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def _is_still_named(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def spread_below(path: Path) -> None:
    """Have ext4 put each folder made below `path` somewhere else on the disk (chattr +T).

    Else all come to where `path` is, and there every new file first steps over all that were deleted
    in the last minutes: 20,000 files then take 15 s in place of half a second. Other file systems
    know no such flag, and need none.
    """
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = int.from_bytes(fcntl.ioctl(fd, _GET_FLAGS, bytes(8))[:4], sys.byteorder)
            if not flags & _TOP_OF_HIERARCHIES:
                wanted = flags | _TOP_OF_HIERARCHIES
                fcntl.ioctl(fd, _SET_FLAGS, wanted.to_bytes(8, sys.byteorder))
        finally:
            os.close(fd)

"""Ids on a disk moved into a container's range and back, where the kernel cannot map them.

Moving twice is moving once, as long as the range begins at its size or above (`check`): whoever is
killed on the way leaves what the next one completes.
"""

import errno
import os
import stat
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shipway.runtime.errors import InvalidSpec
from shipway.runtime.spec import IdRange

Move = Callable[[int], int]

_ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_ACL_ENTRY = struct.Struct("<HHI")  # tag, permissions, id; from linux/posix_acl_xattr.h
_NAMED = (0x02, 0x08)  # the tags ACL_USER and ACL_GROUP, whose id counts
_CAPABILITY = "security.capability"
# From linux/capability.h: the version is the magic's top byte; only the newest says whose root.
_VERSION, _VERSION_2, _VERSION_3 = 0xFF00_0000, 0x0200_0000, 0x0300_0000
_CAPABILITY_BYTES = 20


def check(ids: IdRange) -> None:
    """Raise InvalidSpec for a range that could not be told from the container's own ids."""
    if ids.base < ids.size:
        raise InvalidSpec(
            f"the id range of {ids.size} from {ids.base} on must begin at {ids.size} or above, since"
            " mounts are not id-mapped here"
        )


def to_host(ids: IdRange) -> Move:
    """How a container's own ids become the machine's; others stay, and are nobody inside."""
    return partial(_to_host, ids)


def to_container(ids: IdRange) -> Move:
    """How the machine's ids become a container's own."""
    return partial(_to_container, ids)


def _to_host(ids: IdRange, number: int) -> int:
    return number + ids.base if number < ids.size else number


def _to_container(ids: IdRange, number: int) -> int:
    return number - ids.base if ids.base <= number < ids.base + ids.size else number


def move_tree(tree: Path, move: Move) -> None:
    """Give a tree that nobody else changes meanwhile other owners; all else stays. OSError.

    What lies deeper than a path can name keeps its ids: no layer can be made of it either.
    """
    top = os.fsencode(tree)
    _move_one(top, os.lstat(top), move)
    folders = [top]
    while folders:
        try:
            scan = os.scandir(folders.pop())
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            continue
        with scan:
            for entry in scan:
                try:
                    status = entry.stat(follow_symlinks=False)
                    _move_one(entry.path, status, move)
                except OSError as error:
                    if error.errno != errno.ENAMETOOLONG:
                        raise
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(entry.path)


def _move_one(path: bytes, status: os.stat_result, move: Move) -> None:
    before = (status.st_uid, status.st_gid)
    after = (move(status.st_uid), move(status.st_gid))
    marks = {}
    if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode):
        for name in os.listxattr(path, follow_symlinks=False):
            if name == _CAPABILITY or name in _ACLS:
                marks[name] = os.getxattr(path, name, follow_symlinks=False)
    if before != after:
        os.chown(path, *after, follow_symlinks=False)
        # The kernel takes set-id bits and capabilities away from a file that changes hands.
        if stat.S_ISREG(status.st_mode) and status.st_mode & (stat.S_ISUID | stat.S_ISGID):
            os.chmod(path, stat.S_IMODE(status.st_mode))
    for name, value in marks.items():
        os.setxattr(path, name, moved_mark(name, value, move), follow_symlinks=False)


def moved_mark(name: str, value: bytes, move: Move) -> bytes:
    """The value of an extended attribute with the ids in it moved; most have none."""
    if name in _ACLS:
        entries = _ACL_ENTRY.iter_unpack(value[4:])
        return value[:4] + b"".join(
            _ACL_ENTRY.pack(tag, allowed, move(number) if tag in _NAMED else number)
            for tag, allowed, number in entries
        )
    if name == _CAPABILITY:
        return _moved_capability(value, move)
    return value


def _moved_capability(value: bytes, move: Move) -> bytes:
    """A file's capabilities as those by the moved root. They count for nobody else."""
    magic = int.from_bytes(value[:4], "little")
    if magic & _VERSION not in (_VERSION_2, _VERSION_3):
        return value
    root = move(int.from_bytes(value[_CAPABILITY_BYTES:], "little"))
    flags, rest = magic & ~_VERSION, value[4:_CAPABILITY_BYTES]
    if root == 0:
        return (flags | _VERSION_2).to_bytes(4, "little") + rest
    return (flags | _VERSION_3).to_bytes(4, "little") + rest + root.to_bytes(4, "little")

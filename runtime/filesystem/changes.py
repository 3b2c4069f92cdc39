"""What a container has changed of its image, read from its writable layer: `diff`."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shipway.runtime.errors import CopyFailed
from shipway.runtime.images import whiteouts

DEEPEST = 200
# The engine writes these for each container; Docker mounts them, so they are no change either.
OURS = frozenset({b"/etc/hosts", b"/etc/hostname", b"/etc/resolv.conf"})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Kind = Literal["A", "C", "D"]


@dataclass(frozen=True)
class Change:
    """A path that was added, changed or deleted."""

    kind: Kind
    path: str


def compare(upper: Path, layers: Sequence[Path]) -> list[Change]:
    """All that a writable layer changes of those below it, topmost first, by path.

    Raises CopyFailed, and FileNotFoundError if it is not there.
    """
    with closing(_Tree(upper)) as top:
        lower = [_Tree(layer) for layer in layers]
        try:
            found = dict(_compare(b"", top.root, [tree.root for tree in lower], 0))
        finally:
            for tree in lower:
                tree.close()
    if not any(path.startswith(b"/etc/") for path in found):
        found.pop(b"/etc", None)
    return [Change(found[path], os.fsdecode(path)) for path in sorted(found)]


class _Tree:
    def __init__(self, folder: Path) -> None:
        self.root = os.open(folder, _FOLDER)

    def close(self) -> None:
        os.close(self.root)


def _compare(path: bytes, upper: int, lower: list[int], depth: int) -> Iterator[tuple[bytes, Kind]]:
    """The changes below a folder that is open in the upper and in the layers that have it."""
    if depth > DEEPEST:
        raise CopyFailed(f"folders lie within each other more than {DEEPEST} deep")
    for name in os.listdir(os.fsencode(f"/proc/self/fd/{upper}")):
        yield from _entry(path + b"/" + name, name, upper, lower, depth)


def _entry(
    path: bytes, name: bytes, upper: int, lower: list[int], depth: int
) -> Iterator[tuple[bytes, Kind]]:
    try:
        status, flags = _look(upper, name)
    except FileNotFoundError:
        return  # changed meanwhile
    before = _below(lower, name)
    if whiteouts.is_whiteout(status, flags):
        if before:
            yield path, "D"
        return
    if path in OURS:
        return
    yield path, "C" if before else "A"
    if not stat.S_ISDIR(status.st_mode):
        return
    try:
        inside = os.open(name, _FOLDER, dir_fd=upper)
    except OSError:
        return
    folders = _folders(lower, name) if before else []
    try:
        yield from _compare(path, inside, folders, depth + 1)
        if whiteouts.is_opaque(flags):
            yield from _hidden(path, inside, folders)
    finally:
        for fd in (inside, *folders):
            os.close(fd)


def _hidden(path: bytes, upper: int, lower: list[int]) -> Iterator[tuple[bytes, Kind]]:
    """What a folder that was made anew no longer has of the one before it."""
    for name in {name for fd in lower for name in os.listdir(os.fsencode(f"/proc/self/fd/{fd}"))}:
        try:
            os.stat(name, dir_fd=upper, follow_symlinks=False)
        except FileNotFoundError:
            if _below(lower, name):
                yield path + b"/" + name, "D"


def _below(lower: list[int], name: bytes) -> bool:
    """Whether the image has that name in a folder that is open in these layers, topmost first."""
    for fd in lower:
        try:
            status, flags = _look(fd, name)
        except FileNotFoundError:
            continue
        return not whiteouts.is_whiteout(status, flags)
    return False


def _folders(lower: list[int], name: bytes) -> list[int]:
    """The folder of that name, opened in each of the layers that make it up."""
    found = []
    for fd in lower:
        try:
            status, flags = _look(fd, name)
        except FileNotFoundError:
            continue
        if not stat.S_ISDIR(status.st_mode):
            break  # a file, or deleted: what lies in the layers below does not show
        found.append(os.open(name, _FOLDER, dir_fd=fd))
        if whiteouts.is_opaque(flags):
            break
    return found


def _look(folder: int, name: bytes) -> tuple[os.stat_result, dict[str, bytes]]:
    """A name's status and overlayfs's marks on it."""
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        return status, {}
    path = os.fsencode(f"/proc/self/fd/{folder}/") + name
    marks = {}
    for mark in os.listxattr(path, follow_symlinks=False):
        if ".overlay." in mark:
            marks[mark] = os.getxattr(path, mark, follow_symlinks=False)
    return status, whiteouts.overlay_flags(marks)

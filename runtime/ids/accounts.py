"""Users and groups by name, from an image's own etc/passwd and etc/group.

The files are read from the image's layers, not from a running container, by opening one folder after
the other: a symbolic link in an image is never followed, so none can lead to a file of the host.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime.errors import NoSuchUser

MOST_BYTES = 1024 * 1024
OPAQUE = "trusted.overlay.opaque"


@dataclass(frozen=True)
class Account:
    """Who a program runs as, in the container's own numbers."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @property
    def user(self) -> str:
        """As a specification has it."""
        return f"{self.uid}:{self.gid}"


def find_account(layers: Sequence[Path], user: str) -> Account:
    """The account meant by "", "name", "uid", "name:group" or "uid:gid". Raises NoSuchUser.

    `layers` are an image's, topmost first. Without a group it is the user's own from passwd and all
    that list the user; a number that passwd does not know has group 0, as with Docker.
    """
    name, colon, group = user.partition(":")
    name = name or "0"
    rows = [row for row in _rows(layers, "passwd", 7) if row[2].isdigit() and row[3].isdigit()]
    row = next((row for row in rows if row[0] == name), None)
    if row is None and name.isdigit():
        row = next((row for row in rows if int(row[2]) == int(name)), [name, "", name, "0"])
    if row is None:
        raise NoSuchUser(f"the image's passwd file knows no user {name!r}; use a number")
    home = row[5] if len(row) > 5 and row[5].startswith("/") else "/"
    uid, gid = int(row[2]), int(row[3])
    groups = [row for row in _rows(layers, "group", 4) if row[2].isdigit()]
    if not colon:
        others = [int(each[2]) for each in groups if row[0] in each[3].split(",")]
        return Account(uid, gid, tuple(sorted(set(others) - {gid})), home)
    return Account(uid, _group(groups, group), (), home)


def _group(rows: list[list[str]], name: str) -> int:
    for row in rows:
        if row[0] == name:
            return int(row[2])
    if name.isdigit():
        return int(name)
    raise NoSuchUser(f"the image's group file knows no group {name!r}; use a number")


def _rows(layers: Sequence[Path], name: str, columns: int) -> list[list[str]]:
    text = image_file(layers, ("etc", name)).decode(errors="replace")
    rows = [line.split(":") for line in text.splitlines()]
    return [row for row in rows if len(row) >= columns]


def image_file(layers: Sequence[Path], parts: Sequence[str]) -> bytes:
    """A small file of an image as its container first sees it; empty if it is none, or is not there."""
    for layer in layers:
        found = _look(layer, parts)
        if found is not None:
            return found
    return b""


def _look(layer: Path, parts: Sequence[str]) -> bytes | None:
    """The file's content in one layer; None if the layer below decides, empty if nothing is there."""
    folder = os.open(layer, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    hidden = False  # a folder on the way hides what lower layers have in it
    try:
        for part in parts[:-1]:
            kind = _kind(folder, part)
            if kind is None:
                return b"" if hidden else None
            if not stat.S_ISDIR(kind):
                return b""  # a whiteout, or a link that could lead anywhere
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = below
            hidden = hidden or _is_opaque(folder)
        kind = _kind(folder, parts[-1])
        if kind is None:
            return b"" if hidden else None
        if not stat.S_ISREG(kind):
            return b""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(parts[-1], flags, dir_fd=folder), "rb") as file:
            return file.read(MOST_BYTES)
    finally:
        os.close(folder)


def _kind(folder: int, name: str) -> int | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _is_opaque(folder: int) -> bool:
    try:
        return os.getxattr(folder, OPAQUE) == b"y"
    except OSError:
        return False

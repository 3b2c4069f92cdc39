"""Named networks and links, on disk: who may talk to whom, and under which names.

A network is a folder; a member is one symbolic link in it, `web -> shop frontend`, whose content is
the member's other names. A link from one container to another is kept alike, in a folder named for
the container that is reached. The bookkeeping outlives restarts; it ends with the container.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime.errors import (
    InvalidSpec,
    NetworkExists,
    NetworkInUse,
    NoSuchNetwork,
)
from shipway.runtime.files import atomic_write

NAME_PATTERN = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
HOST_PATTERN = re.compile(r"[a-zA-Z0-9_]([a-zA-Z0-9_.-]{0,251}[a-zA-Z0-9_])?")
# Docker's names for what a container has, or has not, without a network of a name.
RESERVED = ("bridge", "default", "host", "none")
_ABOUT = ".network.json"
_NO_NAMES = "-"


@dataclass(frozen=True)
class NamedNetwork:
    """A network: when it was made (epoch seconds), its labels, and each member's other names."""

    name: str
    created_at: float
    labels: Mapping[str, str]
    members: Mapping[str, tuple[str, ...]]


def check_network_name(name: str) -> str:
    """Return the name of a network, or raise InvalidSpec: it becomes a file's and a set's."""
    if not NAME_PATTERN.fullmatch(name):
        raise InvalidSpec(
            f"the network name {name!r} must be 1 to 63 of a-z, A-Z, 0-9, '_', '.' and '-',"
            " beginning with a letter or digit"
        )
    if name in RESERVED:
        raise InvalidSpec(f"the network name {name!r} has a meaning of its own; choose another")
    return name


def check_host_name(name: str) -> str:
    """Return a name that may stand in a hosts file, or raise InvalidSpec."""
    if not HOST_PATTERN.fullmatch(name) or ".." in name:
        raise InvalidSpec(
            f"the name {name!r} is no host name: letters, digits, '-', '_' and single dots"
        )
    return name


class Groups:
    """Folders of members, each with other names. Whoever changes them holds the network lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """All groups, in order."""
        found = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(name for name in found if not name.startswith("."))

    def members(self, group: str) -> dict[str, tuple[str, ...]]:
        """The members of a group and their other names, in order; none if there is no group."""
        folder = self.folder / group
        found = {}
        for name in sorted(os.listdir(folder)) if folder.is_dir() else ():
            if not name.startswith("."):
                text = os.readlink(folder / name)
                found[name] = () if text == _NO_NAMES else tuple(text.split(" "))
        return found

    def of(self, member: str) -> list[str]:
        """The groups that have this member."""
        return [name for name in self.names() if os.path.lexists(self.folder / name / member)]

    def join(self, group: str, member: str, names: Sequence[str]) -> None:
        """Put a member into a group, under these other names in place of any before."""
        folder = self.folder / group
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{member}"
        temporary.unlink(missing_ok=True)
        os.symlink(" ".join(names) or _NO_NAMES, temporary)
        os.rename(temporary, folder / member)

    def exists(self, group: str) -> bool:
        """Whether there is such a group."""
        return (self.folder / group).is_dir()

    def prune(self) -> None:
        """Delete the groups without members."""
        for name in self.names():
            with suppress(OSError):  # it has members
                (self.folder / name).rmdir()

    def leave(self, group: str, member: str) -> None:
        """Take a member out of a group."""
        (self.folder / group / member).unlink(missing_ok=True)


class NamedNetworks(Groups):
    """The named networks of one engine."""

    def check(self, names: Iterable[str]) -> None:
        """Raise NoSuchNetwork for the first that is not there."""
        for name in names:
            if not (self.folder / check_network_name(name)).is_dir():
                raise NoSuchNetwork(name)

    def create(self, name: str, labels: Mapping[str, str]) -> None:
        """Make a network. Raises NetworkExists."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            (self.folder / check_network_name(name)).mkdir()
        except FileExistsError:
            raise NetworkExists(name) from None
        about = {"created_at": time.time(), "labels": dict(labels)}
        atomic_write(self.folder / name / _ABOUT, json.dumps(about).encode())

    def get(self, name: str) -> NamedNetwork:
        """A network as it is now. Raises NoSuchNetwork."""
        self.check([name])
        folder = self.folder / name
        try:
            about = json.loads((folder / _ABOUT).read_bytes())
        except (FileNotFoundError, ValueError):  # whoever made it was killed just then
            about = {"created_at": folder.stat().st_mtime, "labels": {}}
        return NamedNetwork(name, about["created_at"], about["labels"], self.members(name))

    def remove(self, name: str) -> None:
        """Delete a network without members. Raises NoSuchNetwork, NetworkInUse."""
        members = self.get(name).members
        if members:
            raise NetworkInUse(
                f"the network {name!r} is used by {', '.join(members)}; remove or disconnect them first"
            )
        shutil.rmtree(self.folder / name)

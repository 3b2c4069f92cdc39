"""What an Aptfile asks for: a package a line, or the address of a .deb file."""

import re
from typing import NamedTuple

from shipway.buildpacks.kit.errors import CannotBuild

NAME = "Aptfile"
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9]+)?(?:=[A-Za-z0-9.+~:-]+)?")
_ADDRESS = re.compile(r"https?://\S+\.deb(?:#sha256=[0-9a-f]{64})?")
_EXPECTED = "expected a package name such as libvips42, or the URL of a .deb file."


class Wanted(NamedTuple):
    """Names of packages (`name` or `name=version`), and addresses of .deb files."""

    packages: tuple[str, ...]
    addresses: tuple[str, ...]


def parse(text: str) -> Wanted:
    """Read an Aptfile. Raises CannotBuild with the line that is wrong."""
    packages: dict[str, None] = {}
    addresses: dict[str, None] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip() if raw.lstrip().startswith("#") else raw.partition(" #")[0].strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith(":repo:"):
            raise CannotBuild(
                f"{NAME} line {number}: other repositories (:repo:) are not taken, as nothing says"
                " whose signature they must have.",
                "Name the package's .deb file by its URL instead.",
            )
        if _ADDRESS.fullmatch(line):
            addresses[line] = None
            continue
        for word in line.split():
            if not _PACKAGE.fullmatch(word):
                raise CannotBuild(f"{NAME} line {number}: {word[:60]!r} is neither; {_EXPECTED}")
            packages[word] = None
    return Wanted(tuple(packages), tuple(addresses))

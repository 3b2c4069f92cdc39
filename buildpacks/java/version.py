"""Which Java the app asks for, and which of the stack's does for it."""

import re
from collections.abc import Mapping

from shipway.buildpacks.kit.errors import CannotBuild

# Debian's, the one it prefers first.
AVAILABLE = {"debian 12": (17,), "debian 13": (21, 25)}
_VERSION = re.compile(r"(?:openjdk-|temurin-|zulu-)?(?:1\.)?(\d+)(?:[.+_-].*)?")
_PROPERTY = re.compile(r"(?m)^\s*java\.runtime\.version\s*[=:]\s*(\S+)")


def asked(texts: Mapping[str, str]) -> tuple[str, int] | None:
    """The file and the number of the first of `system.properties`, `.java-version` that names one.

    Raises CannotBuild for what is no version.
    """
    for source, text in texts.items():
        if source == "system.properties":
            match = _PROPERTY.search(text)
            wanted = match[1] if match else ""
        else:
            wanted = text.strip()
        if not wanted:
            continue
        version = _VERSION.fullmatch(wanted)
        if version is None:
            raise CannotBuild(
                f"{source} asks for Java {wanted[:40]!r}, which is no version that can be chosen.",
                "Expected one such as 21.",
            )
        return source, int(version[1])
    return None


def choose(wanted: tuple[str, int] | None, distro: str, stack: str) -> int:
    """The stack's oldest Java that runs what is asked for. Raises CannotBuild."""
    available = AVAILABLE.get(distro, (21,))
    if wanted is None:
        return available[0]
    source, number = wanted
    fitting = [version for version in available if version >= number]
    if not fitting:
        there = " and ".join(map(str, available))
        raise CannotBuild(f"{source} asks for Java {number}, but {stack} has {there}.")
    return fitting[0]

"""Where this host takes Debian's packages from, so that a stack is made from the same place."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ONE_LINE = re.compile(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s+(.+)")


@dataclass(frozen=True, slots=True)
class Source:
    """One archive of an apt source: its address, suite and components."""

    uri: str
    suite: str
    components: tuple[str, ...]


def sources_for(suite: str, etc: Path = Path("/etc")) -> list[str]:
    """Give the lines of a sources.list for Debian `suite`, from this host's own mirrors.

    Empty when the host is no Debian or names no mirror: mmdebstrap's default is right then.
    """
    release = _os_release(etc / "os-release")
    codename = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or not codename:
        return []
    main = security = None
    for source in _sources(etc / "apt"):
        if "main" not in source.components or not source.uri.startswith(("http://", "https://")):
            continue
        path = source.uri.rstrip("/").rpartition("/")[2]
        if source.suite == codename and path.startswith("debian"):
            main = main or source.uri
        if source.suite == f"{codename}-security":
            security = security or source.uri
    if main is None:
        return []
    lines = [f"deb {main} {suite} main", f"deb {main} {suite}-updates main"]
    if security:
        lines.append(f"deb {security} {suite}-security main")
    return lines


def _sources(apt: Path) -> Iterator[Source]:
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*"))]:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            continue
        yield from _deb822(text) if path.suffix == ".sources" else _one_line(text)


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.match(line.partition("#")[0].strip())
        if match:
            uri, suite, components = match.groups()
            yield Source(uri, suite, tuple(components.split()))


def _deb822(text: str) -> Iterator[Source]:
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        # a line that begins with a space goes on with the field above it
        lines = re.sub(r"\n[ \t]+", " ", stanza).splitlines()
        fields = {
            key.strip().lower(): value.split()
            for key, colon, value in (line.partition(":") for line in lines)
            if colon
        }
        if "deb" not in fields.get("types", ()) or fields.get("enabled") == ["no"]:
            continue
        for uri in fields.get("uris", ()):
            for suite in fields.get("suites", ()):
                yield Source(uri, suite, tuple(fields.get("components", ())))


def _os_release(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key: value.strip("\"'") for key, value in pairs}

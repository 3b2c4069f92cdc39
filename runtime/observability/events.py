"""What happened in an engine: a file of JSON lines, each put down by one write, with one file before it.

Nobody needs to run for it. Whoever does something notes it; that a container died is noted once, by
the first who sees its exit: the verb that waits for it, any later verb, or a follower of the events.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.runtime.files import locked

FOLDER = "events"
MOST_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Event:
    """Something that happened at `at` (epoch seconds) to a container, an image or a network."""

    at: float
    kind: str
    action: str
    id: str
    attributes: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """As Docker's API shows it."""
        nanoseconds = round(self.at * 1e9)
        return {
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": dict(self.attributes)},
            "scope": "local",
            "time": nanoseconds // 10**9,
            "timeNano": nanoseconds,
        }


def note(
    root: Path,
    kind: str,
    action: str,
    name: str,
    attributes: Mapping[str, str] | None = None,
    at: float | None = None,
) -> None:
    """Put down that `action` happened now (or at `at`) to the `kind` of that name or id.

    For instance `note(engine.config.root, "image", "pull", "debian:13")`. An event that cannot be
    written is dropped: what it tells of was done all the same.
    """
    event = [time.time() if at is None else at, kind, action, name, dict(attributes or {})]
    line = json.dumps(event, separators=(",", ":")).encode() + b"\n"
    folder = root / FOLDER
    try:
        fd = _open(folder)
        try:
            os.write(fd, line)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if size > MOST_BYTES:
            _rotate(folder)
    except OSError:
        return


def read(root: Path) -> list[Event]:
    """All events that are kept, oldest first."""
    found = [*earlier(root), *_parsed(root / FOLDER / "log")]
    return sorted(found, key=lambda event: event.at)


def earlier(root: Path) -> list[Event]:
    """The events of the file before the one that is written to."""
    return _parsed(root / FOLDER / "log.1")


def _parsed(path: Path) -> list[Event]:
    try:
        return list(parse(path.read_bytes()))
    except FileNotFoundError:
        return []


def parse(data: bytes) -> Iterator[Event]:
    """The events of some lines; a line that is none, as a crash of the machine can leave, is not."""
    for line in data.splitlines():
        try:
            at, kind, action, name, attributes = json.loads(line)
            yield Event(float(at), kind, action, name, attributes)
        except (ValueError, TypeError):
            continue


def _open(folder: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(folder / "log", flags, 0o600)
    except FileNotFoundError:
        folder.mkdir(mode=0o700, exist_ok=True)
        return os.open(folder / "log", flags, 0o600)


def _rotate(folder: Path) -> None:
    with locked(folder / "lock"):
        if (folder / "log").stat().st_size > MOST_BYTES:
            os.rename(folder / "log", folder / "log.1")

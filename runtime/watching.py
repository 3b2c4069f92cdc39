"""Following an engine's events as they come.

A container's end is told by its monitor alone, which writes a file. Who follows watches these files'
folders, and notes each end that nobody has noted yet.
"""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from inotify_simple import INotify, flags

from shipway.runtime.engine import Engine
from shipway.runtime.errors import RuntimeFailure
from shipway.runtime.observability import events
from shipway.runtime.observability.events import Event


def follow(engine: Engine, since: float, until: float | None) -> Iterator[Event]:
    """The events from `since` to `until` (epoch seconds); without `until` it never ends."""
    with INotify() as notify:
        watch = _Watch(engine, notify)
        watch.look()
        for event in watch.told():
            if since <= event.at and (until is None or event.at <= until):
                yield event
        while until is None or time.time() < until:
            for event in watch.wait(until):
                if since <= event.at and (until is None or event.at <= until):
                    yield event


class _Watch:
    def __init__(self, engine: Engine, notify: INotify) -> None:
        self.engine = engine
        self.notify = notify
        self.folder = engine.config.root / events.FOLDER
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.containers = engine.config.root / "containers"
        self.monitors: dict[int, str] = {}  # watch: the container whose end it would tell
        self.made = notify.add_watch(self.containers, flags.CREATE)
        self.log = notify.add_watch(self.folder, flags.MODIFY | flags.CREATE)
        self.file = self._open()

    def look(self) -> None:
        """Watch every container that is there, and note the ends that nobody has noted."""
        for name in os.listdir(self.containers):
            self._add(name)

    def told(self) -> list[Event]:
        """What was noted before, oldest first; `wait` goes on from there."""
        earlier = events.earlier(self.engine.config.root)
        return sorted([*earlier, *self._new()], key=lambda event: event.at)

    def wait(self, until: float | None) -> list[Event]:
        """The events that came next, as soon as there are any; empty at `until`."""
        timeout = None if until is None else max(0.0, until - time.time()) * 1000
        for found in self.notify.read(timeout=timeout):
            if found.wd == self.made:
                self._add(found.name)
            elif found.wd in self.monitors:
                if found.mask & flags.IGNORED:
                    del self.monitors[found.wd]
                elif found.name == "exit":
                    self._settle(self.monitors[found.wd])
                elif found.name == "monitor":
                    self._add(self.monitors[found.wd])
        return self._new()

    def _add(self, name: str) -> None:
        # The folder `monitor` is made soon after the container's own, which is watched until then.
        for place, mask in (("", flags.CREATE), ("monitor", flags.MOVED_TO | flags.CREATE)):
            with suppress(FileNotFoundError, NotADirectoryError):
                watch = self.notify.add_watch(self.containers / name / place, mask)
                self.monitors[watch] = name
        self._settle(name)

    def _settle(self, name: str) -> None:
        with suppress(RuntimeFailure):
            self.engine.settle(name)

    def _open(self) -> int | None:
        try:
            return os.open(self.folder / "log", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def _new(self) -> list[Event]:
        """What was written since, also if another file has taken the log's place."""
        data = self._rest()
        if self.file is None or not _is(self.file, self.folder / "log"):
            if self.file is not None:
                os.close(self.file)
            self.file = self._open()
            data += self._rest()
        return list(events.parse(data))

    def _rest(self) -> bytes:
        found = b""
        while self.file is not None and (chunk := os.read(self.file, 1 << 20)):
            found += chunk
        return found


def _is(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False

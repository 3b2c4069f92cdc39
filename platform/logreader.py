"""Reads an app's log as one stream: the last lines, those after a cursor, and what comes.

The files of the app's folder are merged by time stamp. Lines that are written while one follows come in the order in
which they are seen, which for lines of different processes may differ by the milliseconds between two looks.

A cursor is the offsets that were read, by file, as URL-safe text; who follows on from it neither misses nor repeats a
line, also across a restart of the platform, a rotation, and a deploy.
"""

import contextlib
import heapq
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from inotify_simple import INotify, flags

from shipway.platform.errors import InvalidInput
from shipway.platform.logfiles import Folder, Group, Line, LogFile, chain_groups, utc

BATCH = 500  # lines given out at once
WINDOW = 64 << 10  # bytes looked at first at a file's end
FLUSH_AFTER = 1.0  # seconds after which a line without an end, such as a prompt, is given out
IDLE = 15.0  # seconds without a line after which a follower is told so
BLIND = 0.1  # seconds between two looks where the kernel has no inotify instance left for us
QUIET = 3600.0  # seconds without a write after which a file that was read to its end needs no entry in a cursor
SLACK = 1.0  # a file's time of change is by a coarser clock than its lines
EVENTS = flags.MODIFY | flags.CREATE | flags.MOVED_TO | flags.DELETE_SELF
CURSOR = re.compile(r"1\.([0-9a-f]{1,16})((?:\.[0-9a-f]{10}[0-9a-f]{1,12})*)", re.ASCII)
IDENTITY = 10  # signs of a file's identity in a cursor


@dataclass(frozen=True)
class Wanted:
    """Which lines: of a process (web.1) or a type of them (web, router), of a source (app, shipway); None: of all."""

    process: str | None = None
    source: str | None = None

    def file(self, process: str | None) -> bool:
        """Whether a file can hold such lines; `process` is whose output it is, None for the platform's files."""
        return process is None or (self.source in (None, "app") and self._is_of(process))

    def line(self, line: Line) -> bool:
        """Whether this is such a line."""
        if self.process is None and self.source is None:
            return True
        return self.source in (None, line.source) and self._is_of(line.process)

    def _is_of(self, process: str) -> bool:
        return self.process in (None, process, process.rpartition(".")[0] or process)


class LogReader:
    """One reader of one app's folder; begin with `last` or `resume`, then `follow`."""

    def __init__(self, folder: Path, wanted: Wanted | None = None) -> None:
        self._folder = Folder(folder)
        self._wanted = wanted or Wanted()
        self._offsets: dict[str, int] = {}  # by the file's identity
        self._seen_until = 0.0  # all that files without an offset held at this time was read
        self._stuck: dict[
            str, tuple[int, float]
        ] = {}  # offset of a line without an end, since when

    # -- where to begin -------------------------------------------------------------------------

    def last(self, count: int) -> list[Line]:
        """The last `count` lines; `follow` goes on behind them. Reads the files from their ends."""
        newest: list[Group] = []
        for file in sorted(self._files(), key=lambda file: file.modified, reverse=True):
            self._offsets[file.identity] = file.size
            if count and file.modified + SLACK < _cutoff(newest, count):
                continue  # too old to hold any of them
            groups = self._tail(file, count)
            self._offsets[file.identity] = groups[-1].end if groups else 0
            newest = list(heapq.merge(newest, self._matching(groups), key=lambda group: group.key))
            newest = _trimmed(newest, count)
        lines = deque((line for group in newest for line in group.lines), maxlen=count)
        return list(lines)

    def _tail(self, file: LogFile, count: int) -> list[Group]:
        window = WINDOW
        flush = file.modified < time.time() - FLUSH_AFTER
        while True:
            groups, complete = file.last_groups(window, flush=flush)
            found = sum(len(group.lines) for group in self._matching(groups))
            if complete or (groups and found >= count):
                return groups
            # As large as it takes at the density seen so far, and some more.
            window = max(window * 2, int(window * 1.2 * count / max(found, 1)))
            window = min(window, file.size)

    def _matching(self, groups: list[Group]) -> list[Group]:
        kept = []
        for group in groups:
            lines = [line for line in group.lines if self._wanted.line(line)]
            if lines:
                kept.append(Group(group.key, lines, group.end))
        return kept

    def resume(self, cursor: str) -> None:
        """Go on where `cursor` was taken. Raises InvalidInput."""
        match = CURSOR.fullmatch(cursor)
        if not match:
            raise InvalidInput("This is no cursor of a log: give one that the log was sent with.")
        self._seen_until = int(match[1], 16) / 1e6
        entries = match[2].split(".")[1:]
        self._offsets = {entry[:IDENTITY]: int(entry[IDENTITY:], 16) for entry in entries}

    def cursor(self) -> str:
        """Where the reader is: what was given out so far."""
        quiet = time.time() - QUIET
        until, entries = self._seen_until, []
        for file in self._folder.files():
            offset = self._offsets.get(file.identity)
            if offset is None:
                continue
            if offset >= file.size and file.modified < quiet:
                until = max(until, file.modified)
            else:
                entries.append(f".{file.identity}{offset:x}")
        return f"1.{int(until * 1e6):x}{''.join(entries)}"

    # -- going on -------------------------------------------------------------------------------

    def follow(self, idle: float = IDLE) -> Iterator[list[Line]]:
        """Batches of lines as they come, an empty one after `idle` seconds without; ends when the folder is removed."""
        with _watch(self._folder.path) as wait:
            heard = time.monotonic()
            while True:
                for lines in self.new():
                    heard = time.monotonic()
                    yield lines
                if not self._folder.path.exists():
                    return
                if (left := heard + idle - time.monotonic()) <= 0:
                    heard = time.monotonic()
                    yield []
                else:
                    wait(self._next_flush(left))

    def new(self) -> Iterator[list[Line]]:
        """What has come since the last look, in batches; `cursor` is exact after each."""
        files = [file for file in self._files() if self._start(file) < file.size]
        chains: dict[str, list[LogFile]] = {}
        for file in sorted(files, key=lambda file: file.age, reverse=True):
            chains.setdefault(file.stem, []).append(file)
        streams = [self._stream(chain) for chain in chains.values()]
        batch: list[Line] = []
        for group, ends in heapq.merge(*streams, key=lambda pair: pair[0].key):
            self._offsets.update(ends)
            batch += (line for line in group.lines if self._wanted.line(line))
            if len(batch) >= BATCH:
                yield batch
                batch = []
        self._note_stuck(files)
        if batch:
            yield batch

    def _stream(self, chain: list[LogFile]) -> Iterator[tuple[Group, dict[str, int]]]:
        starts = [self._offsets[file.identity] for file in chain]
        since = self._stuck.get(chain[0].identity, (-1, 0.0))
        flush = since[0] == starts[0] and time.monotonic() - since[1] >= FLUSH_AFTER
        return chain_groups(list(zip(chain, starts, strict=True)), flush=flush)

    def _note_stuck(self, files: list[LogFile]) -> None:
        before, self._stuck = self._stuck, {}
        for file in files:
            offset = self._offsets[file.identity]
            if offset < file.size:
                known = before.get(file.identity)
                since = known[1] if known and known[0] == offset else time.monotonic()
                self._stuck[file.identity] = (offset, since)

    def _next_flush(self, left: float) -> float:
        """Seconds to wait at most."""
        now = time.monotonic()
        # What is stuck in spite of a flush is the half line of a writer that was killed: nothing to wait for.
        due = [since + FLUSH_AFTER - now for _, since in self._stuck.values()]
        return min([left, *(max(wait, 0.05) for wait in due if wait > -FLUSH_AFTER)])

    def _files(self) -> list[LogFile]:
        return [file for file in self._folder.files() if self._wanted.file(file.process)]

    def _start(self, file: LogFile) -> int:
        """The offset to read the file from; one that a cursor does not speak of was read up to its time."""
        offset = self._offsets.get(file.identity)
        if offset is None:
            offset = self._unspoken(file) if self._seen_until else 0
            self._offsets[file.identity] = offset
        return min(offset, file.size)

    def _unspoken(self, file: LogFile) -> int:
        if file.modified <= self._seen_until:
            return file.size
        seen, end = utc(self._seen_until + SLACK), 0
        for group in file.groups(0):
            if group.key > seen:
                break
            end = group.end
        return end


def _cutoff(groups: list[Group], count: int) -> float:
    """The time before which a line is too old to be among the last `count`."""
    if sum(len(group.lines) for group in groups) < count or not groups:
        return 0.0
    return datetime.fromisoformat(groups[0].key).timestamp()


def _trimmed(groups: list[Group], count: int) -> list[Group]:
    """The last groups that hold at least `count` lines together."""
    found = 0
    for index in range(len(groups) - 1, -1, -1):
        found += len(groups[index].lines)
        if found >= count:
            return groups[index:]
    return groups


@contextlib.contextmanager
def _watch(folder: Path) -> Iterator[Callable[[float], object]]:
    """A function that waits for a change in the folder, at most so many seconds."""
    try:
        notifier = INotify()
    except OSError:  # all of the machine's inotify instances are taken
        yield lambda timeout: time.sleep(min(timeout, BLIND))
        return
    with notifier:
        with contextlib.suppress(FileNotFoundError):
            notifier.add_watch(folder, EVENTS)
        yield lambda timeout: notifier.read(timeout=max(1, int(timeout * 1000)))

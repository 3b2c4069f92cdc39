"""A container's log, as its conmon writes it: read from any position, its last lines, followed.

conmon writes one record a line, `2026-11-23T12:00:00.123456789+01:00 stdout F text`. A record of
kind P is a piece of a line that goes on in the stream's next record. What a reader gives out is whole
lines, byte for byte what the program wrote.

Rotation (rotation.py) renames `web.log` to `web.log.1`, that to `web.log.2`, and so on. A reader
knows a file by its inode and its first time stamp, not by its name.
"""

import os
import re
import select
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from shipway.runtime.errors import HostUnfit, InvalidPosition
from shipway.runtime.observability.rotation import older_numbers

CHUNK = 256 << 10  # bytes read at once
WINDOW = 64 << 10  # bytes looked at first, back from the end
LOOK_BACK = 4 << 20  # bytes after which a line's beginning is not looked for any more
LONGEST = 1 << 20  # bytes of a line without an end, after which it is given out as it is
STAMP = 35  # bytes of a record's time stamp
STREAMS = {b"stdout": "o", b"stderr": "e"}  # and their letters in a position
NAMES = {stream: stream.decode() for stream in STREAMS}
_KEY = r"([0-9a-f]{1,16})\.([0-9a-f]{1,8})\.([0-9a-f]{1,16})"
POSITION = re.compile(rf"1-{_KEY}(?:-o{_KEY})?(?:-e{_KEY})?", re.ASCII)


class Line(NamedTuple):
    """A line of a container: `stamp` as conmon wrote it, `data` with its newline if it has one."""

    stream: str
    stamp: bytes
    data: bytes

    @property
    def time(self) -> int:
        """Nanoseconds since the epoch, 0 if the stamp is damaged."""
        return nanoseconds(self.stamp) or 0


def nanoseconds(stamp: bytes) -> int | None:
    """A record's time stamp in nanoseconds since the epoch; None if it is none."""
    seconds = _seconds(stamp[:19] + stamp[29:])
    fraction = stamp[20:29]
    return seconds * 10**9 + int(fraction) if seconds is not None and fraction.isdigit() else None


@lru_cache(maxsize=64)
def _seconds(text: bytes) -> int | None:
    try:
        return int(datetime.fromisoformat(text.decode("ascii")).timestamp())
    except ValueError:
        return None


@dataclass(slots=True)
class _Open:
    """A line that has not ended yet, and where its first piece is."""

    stamp: bytes
    place: tuple[int, int, int]
    pieces: list[bytes] = field(default_factory=list)
    size: int = 0


class _Joiner:
    """Records in, lines out."""

    def __init__(self) -> None:
        self.open: dict[bytes, _Open] = {}

    def feed(self, raw: bytes, place: tuple[int, int, int]) -> Line | None:
        """Take a record without its newline; the line that it completes."""
        try:
            stamp, stream, tag, text = raw.split(b" ", 3)
        except ValueError:
            return Line("stdout", b"", raw + b"\n") if raw else None  # no record: shown as it is
        if tag != b"P":
            found = self.open.pop(stream, None) if self.open else None
            if found is None:
                return Line(NAMES.get(stream, "stdout"), stamp, text + b"\n")
            return _line(stream, found, text + b"\n")
        found = self.open.setdefault(stream, _Open(stamp, place))
        found.pieces.append(text)
        found.size += len(text)
        return _line(stream, self.open.pop(stream), b"") if found.size >= LONGEST else None

    def flush(self) -> list[Line]:
        """What has not ended, as it is."""
        lines = [_line(stream, found, b"") for stream, found in self.open.items()]
        self.open.clear()
        return lines


def _line(stream: bytes, found: _Open, last: bytes) -> Line:
    return Line(NAMES.get(stream, "stdout"), found.stamp, b"".join((*found.pieces, last)))


class _File:
    """One file of a log, held open."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.inode = os.fstat(self.fd).st_ino
        self._head = 0

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    @property
    def head(self) -> int:
        """A number made from the first time stamp, 0 while there is none: inodes are used again."""
        if not self._head:
            stamp = os.pread(self.fd, STAMP, 0)
            self._head = zlib.crc32(stamp) if len(stamp) == STAMP else 0
        return self._head

    @property
    def size(self) -> int:
        """Bytes in it now."""
        return os.fstat(self.fd).st_size

    def records(self, offset: int, end: int | None = None) -> Iterator[tuple[bytes, int]]:
        """The complete records from `offset` on, up to `end` if given, each with the offset behind it."""
        while data := os.pread(self.fd, CHUNK, offset):
            whole = data.rfind(b"\n")
            if whole < 0:
                return  # conmon's records are far shorter than a chunk
            for raw in data[:whole].split(b"\n"):
                offset += len(raw) + 1
                if end is not None and offset > end:
                    return
                yield raw, offset

    def line_start(self, offset: int) -> int:
        """The offset of the first record that begins at `offset` or behind it."""
        if offset <= 0:
            return 0
        data = os.pread(self.fd, CHUNK, offset - 1)
        return offset + data.find(b"\n") if b"\n" in data else self.size

    def time_at(self, offset: int) -> int | None:
        """The time of the first record that begins at `offset` or behind it."""
        return nanoseconds(os.pread(self.fd, STAMP, self.line_start(offset)))


def open_files(path: Path) -> list[_File]:
    """The log's files, the oldest first.

    They are opened from the newest on: a rotation meanwhile moves files only to where they are seen
    twice, never to where they are missed. Which name is free at the moment says nothing: the folder
    is asked again until it has none further on.
    """
    found: dict[int, _File] = {}
    number, last = 0, _last_number(path)
    while number <= last or number <= (last := _last_number(path)):
        # A folder's listing may miss a name that is being moved, so the next one is tried as well.
        with suppress(FileNotFoundError):
            file = _File(f"{path}.{number}" if number else str(path))
            found.setdefault(file.inode, file)
        number += 1
    return list(reversed(found.values()))


def _last_number(path: Path) -> int:
    """The highest number among a log's older files, and one more for the one being moved up."""
    return 1 + max(older_numbers(path), default=0)


class LogReader:
    """One reader of one container's log; begins with the oldest line that is kept.

    `position` is where it is: text for a URL, from which another reader goes on exactly, also after
    rotations, as long as the file it speaks of is kept.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: _File | None = None
        self._offset = 0
        self._joiner = _Joiner()
        self._skip = 0

    # -- where to begin -------------------------------------------------------------------------

    @property
    def position(self) -> str:
        """Behind the last line that was given out."""
        file = self._file
        where = [f"1-{_place((file.inode, file.head, self._offset) if file else (0, 0, 0))}"]
        for stream, letter in STREAMS.items():
            if found := self._joiner.open.get(stream):
                where.append(f"{letter}{_place(found.place)}")
        return "-".join(where)

    def resume(self, position: str) -> None:
        """Go on where `position` was taken. Raises InvalidPosition.

        If that file is gone, with the oldest line there is.
        """
        match = POSITION.fullmatch(position)
        if match is None:
            raise InvalidPosition(position)
        numbers = [int(text, 16) if text else 0 for text in match.groups()]
        files = open_files(self._path)
        if file := _find(files, *numbers[:2]):
            self._go_to(file, numbers[2])
        parts = zip(STREAMS, (numbers[3:6], numbers[6:9]), strict=True)
        for stream, (inode, head, offset) in parts:
            if inode and (file := _find(files, inode, head)):
                self._rebuild(files[files.index(file) :], offset, stream)

    def _go_to(self, file: _File | None, offset: int) -> None:
        self._file = file
        self._offset = min(offset, file.size) if file else 0

    def _rebuild(self, files: list[_File], offset: int, stream: bytes) -> None:
        """Take in again the pieces of a line that had not ended."""
        for file in files:
            last = file is self._file
            for raw, end in file.records(offset, self._offset if last else None):
                if raw.split(b" ", 2)[1:2] == [stream]:
                    self._joiner.feed(raw, (file.inode, file.head, end - len(raw) - 1))
            if last:
                return
            offset = 0

    def tail(self, count: int) -> None:
        """Begin with the last `count` lines. Reads the files from their ends."""
        files = open_files(self._path)
        if not files:
            return
        window = WINDOW
        while True:
            file, offset, all_of_it = _back(files, window)
            found, uncertain = self._count(files[files.index(file) :], offset)
            if all_of_it or (found >= count and (uncertain < found - count or window >= LOOK_BACK)):
                break
            window = max(window * 2, int(window * 1.2 * count / max(found, 1)))
        self._go_to(file, offset)
        self._skip = max(0, found - count)

    def _count(self, files: list[_File], offset: int) -> tuple[int, int]:
        """How many lines there are, and the last of them whose beginning may lie further back."""
        joiner, found, uncertain = _Joiner(), 0, -1
        streams: set[str] = set()
        for file in files:
            for raw, _ in file.records(offset):
                if line := joiner.feed(raw, (0, 0, 0)):
                    if line.stream not in streams:
                        streams.add(line.stream)
                        uncertain = found
                    found += 1
            offset = 0
        return found + len(joiner.open), uncertain

    def since(self, time: int) -> None:
        """Begin near the first line of that time (nanoseconds since the epoch), never behind it."""
        files = open_files(self._path)
        while len(files) > 1 and (files[1].time_at(0) or time) < time:
            del files[0]
        if files:
            self._go_to(files[0], _offset_of(files[0], time))

    # -- going on -------------------------------------------------------------------------------

    def lines(self, *, over: bool = True) -> Iterator[Line]:
        """What is there and was not given out yet.

        With `over` (its writer is dead) what has not ended is given out as well.
        """
        yield from self._all(over=over)
        if over:
            yield from self._wanted(self._joiner.flush())

    def follow(self, end: int | None, timeout: float | None = None) -> Iterator[Line | None]:
        """Lines as they come, until the process of the pidfd `end` (the log's writer) is dead.

        None stands for a process that is dead already. A None among the lines says that these are
        all for now; it comes at least each `timeout` seconds. Raises HostUnfit.
        """
        with _Watch(self._path) as watch:
            while True:
                # Both before reading: what is read after its end is all there will be, and what
                # is written after it was read wakes us.
                over = end is None or _is_readable(end)
                watched = watch.look_at(self._file)
                yield from self.lines(over=over)
                if over or end is None:
                    return
                if watched is self._file:
                    yield None
                    watch.wait(end, timeout)

    def _all(self, *, over: bool) -> Iterator[Line]:
        while True:
            if self._file is None:
                self._file = next(iter(open_files(self._path)), None)
            if self._file is None:
                return
            if self._offset > self._file.size:  # somebody emptied it
                self._go_to(self._file, 0)
            yield from self._rest_of(self._file, over=False)
            newer = self._newer()
            # Its writer had it open until the newer one was there.
            yield from self._rest_of(self._file, over=over or newer is not None)
            if newer is None:
                return
            self._go_to(newer, 0)

    def _rest_of(self, file: _File, *, over: bool) -> Iterator[Line]:
        feed, inode, head = self._joiner.feed, file.inode, file.head
        for raw, end in file.records(self._offset):
            start, self._offset = self._offset, end
            if line := feed(raw, (inode, head, start)):
                if self._skip:
                    self._skip -= 1
                else:
                    yield line
        if over and (rest := os.pread(file.fd, CHUNK, self._offset)):
            # The writer was killed half-way, or its file was full.
            start, self._offset = self._offset, self._offset + len(rest)
            if rest.count(b" ") >= 3:
                line = self._joiner.feed(rest, (file.inode, file.head, start))
                yield from self._wanted([line] if line else [])

    def _wanted(self, lines: list[Line]) -> Iterator[Line]:
        for line in lines:
            if self._skip:
                self._skip -= 1
            else:
                yield line

    def _newer(self) -> _File | None:
        """The file that follows on the one that is read; the oldest if that is gone."""
        assert self._file is not None
        try:
            if os.stat(self._path).st_ino == self._file.inode:
                return None
        except FileNotFoundError:
            return None
        files = open_files(self._path)
        inodes = [file.inode for file in files]
        if self._file.inode not in inodes:
            return files[0] if files else None
        after = inodes.index(self._file.inode) + 1
        return files[after] if after < len(files) else None


class _Watch:
    """Waits for a change of a log: a write to the file that is read, or another file of its name."""

    def __init__(self, path: Path) -> None:
        # Only who follows needs it; a process that starts containers does not.
        from inotify_simple import INotify, flags

        self._written = flags.MODIFY
        self._file: _File | None = None
        try:
            self._notifier = INotify(nonblocking=True)
            self._notifier.add_watch(path.parent, flags.CREATE | flags.MOVED_TO)
        except OSError as error:
            raise HostUnfit(
                f"the log cannot be followed ({error.strerror})",
                "raise the sysctl fs.inotify.max_user_instances",
            ) from error

    def __enter__(self) -> "_Watch":
        return self

    def __exit__(self, *_: object) -> None:
        self._notifier.close()

    def look_at(self, file: _File | None) -> _File | None:
        """Wake at writes to that file, from now on; returns it."""
        if file is not None and file is not self._file:
            self._notifier.add_watch(f"/proc/self/fd/{file.fd}", self._written)
            self._file = file
        return file

    def wait(self, end: int, timeout: float | None) -> None:
        """Wait for a change, or for the descriptor to be readable, at most so many seconds."""
        poll = select.poll()
        for fd in (self._notifier.fileno(), end):
            poll.register(fd, select.POLLIN)
        poll.poll(None if timeout is None else max(0.0, timeout) * 1000)
        self._notifier.read(timeout=0)


def _is_readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _place(place: tuple[int, int, int]) -> str:
    return ".".join(f"{number:x}" for number in place)


def _find(files: list[_File], inode: int, head: int) -> _File | None:
    """The file that a position speaks of, None if it is gone."""
    same = [file for file in files if file.inode == inode and head in (0, file.head)]
    moved = [file for file in files if head and file.head == head]  # to another disk
    return next(iter([*same, *moved]), None)


def _back(files: list[_File], window: int) -> tuple[_File, int, bool]:
    """Where the last `window` bytes begin: file, offset of a record, whether these are all bytes."""
    left = window
    for file in reversed(files):
        size = file.size
        if size >= left:
            start = file.line_start(size - left)
            return file, start, start == 0 and file is files[0]
        left -= size
    return files[0], 0, True


def _offset_of(file: _File, time: int) -> int:
    """The offset of a record not behind the first one of that time, and near it."""
    low, high = 0, file.size
    while high - low > WINDOW:
        middle = (low + high) // 2
        at = file.time_at(middle)
        if at is None or at >= time:
            high = middle
        else:
            low = middle
    return file.line_start(low)

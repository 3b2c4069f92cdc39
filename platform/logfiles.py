"""One file of an app's log, read as lines: pieces joined, long lines split, whatever bytes there are made text.

applog.py says who writes which file. A file is read in groups: the lines up to a place where no line is half-way. Only
at such a place may a reader stop and go on later, so that it neither misses nor repeats a piece.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple

from shipway.platform.applog import MAX_TEXT

CHUNK = 256 << 10  # bytes read at once
MAX_OPEN = 64 << 10  # bytes of unfinished lines after which they are given out as they are
STAMP = 32  # bytes of a time stamp with microseconds; what comes later in the line does not tell files apart

FILE = re.compile(r"(?P<stem>.+)\.log(?:\.\d+)?")  # .log.1: what was rotated away
INSTANCE = re.compile(r"(?P<process>.+\.\d+)\.\d+")
PLATFORM_LINE = re.compile(rb"(\S+) ([^\s\[]+)\[([^\]]*)\]: ?(.*)", re.DOTALL)


class Line(NamedTuple):
    """A line of the log; `time` is UTC with microseconds, `source` is app or shipway, `process` like web.1 or router."""

    time: str
    source: str
    process: str
    text: str

    def __str__(self) -> str:
        return f"{self.time} {self.source}[{self.process}]: {self.text}"


@dataclass(slots=True)
class Group:
    """Lines up to the offset `end`, from which one may read on; `key` orders groups of several files by time."""

    key: str
    lines: list[Line]
    end: int


@dataclass(frozen=True)
class LogFile:
    """A file as it was when it was looked at."""

    path: Path
    stem: str
    identity: str  # of its content: the same after a rotation has renamed the file
    inode: int
    size: int
    modified: float

    @property
    def process(self) -> str | None:
        """The process whose output this is; None for the files with lines of the platform."""
        match = INSTANCE.fullmatch(self.stem)
        return match["process"] if match else None

    @property
    def age(self) -> int:
        """How often it was rotated."""
        return int(self.path.name.removeprefix(f"{self.stem}.log").removeprefix(".") or 0)

    def groups(self, start: int, *, flush: bool = False) -> Iterator[Group]:
        """The groups from `start` (where a group ended) to the file's end; `flush` gives out what is half-way, too."""
        for group, _ in chain_groups([(self, start)], flush=flush):
            yield group

    def last_groups(self, window: int, *, flush: bool) -> tuple[list[Group], bool]:
        """The groups in the last `window` bytes, and whether these are all there are."""
        start = max(0, self.size - window)
        if start == 0:
            return list(self.groups(0, flush=flush)), True
        first = next(_raw_lines(self, start), None)
        if first is None:
            return [], False
        # The first group may have begun before the window.
        return list(self.groups(first[1], flush=flush))[1:], False


def chain_groups(
    chain: list[tuple[LogFile, int]], *, flush: bool
) -> Iterator[tuple[Group, dict[str, int]]]:
    """The groups of a file that was rotated and of its successors, each read from its offset on.

    A line may begin at the end of one and go on in the next. Beside each group come, by identity, the offsets up to which
    it and all before it have been read.
    """
    parser = _Parser(chain[0][0].process)
    done: dict[str, int] = {}
    for file, start in chain:
        end = start
        if (
            start and (group := parser.flush()) is not None
        ):  # it was read before what comes before it
            yield group, dict(done)
        for raw, end in _raw_lines(file, start):
            if (group := parser.feed(raw, end)) is not None:
                yield group, {**done, file.identity: end}
        done[file.identity] = end
    if flush and (group := parser.flush()) is not None:
        yield group, done


class Folder:
    """The log files of one app; opens only those that have changed since it looked last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[str, tuple[tuple[int, ...], LogFile]] = {}  # by name, with what stat said

    def files(self) -> list[LogFile]:
        """The files that have something in them, as they are now."""
        before = {file.inode for _, file in self._known.values()}
        found = self._look()
        if not before <= found.keys():
            # One was removed, or rotated while we looked: then it would come after its successor.
            found = self._look()
        return list(found.values())

    def _look(self) -> dict[int, LogFile]:
        """The files by inode: while one is rotated it has two names."""
        try:
            entries = list(os.scandir(self.path))
        except FileNotFoundError:
            return {}
        known = {}
        for entry in entries:
            match = FILE.fullmatch(entry.name)
            with contextlib.suppress(FileNotFoundError):  # rotated or removed meanwhile
                if match and (file := self._file(entry, match["stem"])):
                    known[entry.name] = file
        self._known = known
        return {file.inode: file for _, file in known.values()}

    def _file(self, entry: "os.DirEntry[str]", stem: str) -> tuple[tuple[int, ...], LogFile] | None:
        found = os.stat(entry.path)
        status = (found.st_ino, found.st_size, found.st_mtime_ns)
        before = self._known.get(entry.name)
        if before and before[0] == status:
            return before
        with open(entry.path, "rb") as file:
            head = file.read(STAMP)
        if len(head) < STAMP:
            return None
        identity = hashlib.blake2s(stem.encode() + head, digest_size=5).hexdigest()
        path = Path(entry.path)
        return status, LogFile(path, stem, identity, found.st_ino, found.st_size, found.st_mtime)


def look(path: Path) -> list[LogFile]:
    """The files of a folder, looked at once."""
    return Folder(path).files()


def utc(at: float) -> str:
    """Seconds since the epoch as a line's time stamp has it."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")


def _open(log: LogFile) -> BinaryIO | None:
    """The file, also if it was rotated since it was looked at; None if it is gone."""
    for number in range(log.age, log.age + 3):
        path = log.path.with_name(f"{log.stem}.log{f'.{number}' if number else ''}")
        with contextlib.suppress(FileNotFoundError):
            file = open(path, "rb")  # noqa: SIM115
            if os.fstat(file.fileno()).st_ino == log.inode:
                return file
            file.close()
    return None


def _raw_lines(log: LogFile, start: int) -> Iterator[tuple[bytes, int]]:
    """The complete lines from `start` on, each with the offset behind it."""
    file = _open(log)
    if file is None:
        return
    with file:
        file.seek(start)
        rest, end = b"", start
        while data := file.read(CHUNK):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                end += len(line) + 1
                yield line, end


@dataclass(slots=True)
class _Record:
    stamp: str
    pieces: list[bytes] = field(default_factory=list)


class _Parser:
    """Raw lines in, groups out."""

    def __init__(self, process: str | None) -> None:
        self._process = process
        self._stamp = utc(0.0)  # the time of a line that has none is that of the one before it
        self._key = ""
        self._records: list[_Record] = []
        self._open: dict[bytes, _Record] = {}  # by stream: stdout and stderr mix within one file
        self._size = 0
        self._end = 0

    def feed(self, raw: bytes, end: int) -> Group | None:
        """Take a line; the group that it completes."""
        self._end = end
        if self._process is None:
            return self._group([self._platform_line(raw)])
        fields = raw.split(b" ", 3)
        stamp = _normal(fields[0])
        if len(fields) == 3:  # an empty line, its last blank cut away
            fields.append(b"")
        if stamp is None or len(fields) < 4:
            self._records.append(_Record(self._stamp, [raw]))
        else:
            self._stamp = stamp
            if fields[2] == b"F" and not self._records and len(raw) < MAX_TEXT:  # by far the most
                return self._group([Line(stamp, "app", self._process, _text(fields[3]))])
            self._add_piece(fields[1], fields[2], fields[3])
        return self.flush() if not self._open or self._size >= MAX_OPEN else None

    def _add_piece(self, stream: bytes, tag: bytes, text: bytes) -> None:
        record = self._open.get(stream)
        if record is None:
            record = _Record(self._stamp)
            self._records.append(record)
        record.pieces.append(text)
        self._size += len(text)
        if tag.startswith(b"P"):
            self._open[stream] = record
        else:
            self._open.pop(stream, None)

    def flush(self) -> Group | None:
        """All that was taken in, finished or not."""
        if not self._records:
            return None
        assert self._process is not None
        lines = [
            Line(record.stamp, "app", self._process, text)
            for record in self._records
            for text in _texts(b"".join(record.pieces))
        ]
        self._records, self._size = [], 0
        self._open.clear()
        return self._group(lines)

    def _platform_line(self, raw: bytes) -> Line:
        match = PLATFORM_LINE.fullmatch(raw)
        stamp = _normal(match[1]) if match else None
        if match is None or stamp is None:
            return Line(self._stamp, "shipway", "log", _text(raw))
        self._stamp = stamp
        return Line(stamp, _text(match[2]), _text(match[3]), _text(match[4][:MAX_TEXT]))

    def _group(self, lines: list[Line]) -> Group:
        # A clock that was set back must not turn the order of lines within a file.
        self._key = max(self._key, lines[0].time)
        return Group(self._key, lines, self._end)


def _normal(stamp: bytes) -> str | None:
    """A time stamp in UTC with microseconds; None if it is none."""
    text = stamp.decode("ascii", "replace")
    if len(text) in (32, 35) and text.endswith("+00:00") and text[10] == "T" and text[19] == ".":
        return text[:26] + "+00:00"
    try:
        return datetime.fromisoformat(text).astimezone(UTC).isoformat(timespec="microseconds")
    except (ValueError, OverflowError):
        return None


def _texts(raw: bytes) -> Iterator[str]:
    """The text in parts of at most MAX_TEXT bytes, cut between characters."""
    while len(raw) > MAX_TEXT:
        cut = MAX_TEXT
        while cut > MAX_TEXT - 4 and raw[cut] & 0xC0 == 0x80:  # a byte within a character
            cut -= 1
        yield raw[:cut].decode(errors="replace")
        raw = raw[cut:]
    yield _text(raw)


def _text(raw: bytes) -> str:
    return raw.removesuffix(b"\r").decode(errors="replace")

"""Request metrics of each app, by the minute: how many, how they came out, how long they took, how large they were.

The dealer of the request log adds a batch's lines to a ring of one record a minute in the app's log folder. A record
says of which batch it has had the lines last, so that a batch which is dealt out again after a crash counts once.
Times go into classes a quarter of an octave wide: a percentile is right to within a class, 19 %.
"""

import math
import os
import struct
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILE = "requests.ring"
MINUTES = 720  # that are kept
STATUSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
# The upper ends of the classes of times, in ms, from 1 ms to 131 s; the last class has all above.
BOUNDS = tuple(2 ** (step / 4) for step in range(69))
RECORD = struct.Struct(f"<QQQ{len(STATUSES)}I{len(BOUNDS) + 1}I")
PERCENTILES = (50, 95, 99)


@dataclass
class Tally:
    """The requests of some time. `bytes` went to clients; WebSockets, which last as they last, have no time."""

    bytes: int = 0
    statuses: list[int] = field(default_factory=lambda: [0] * len(STATUSES))
    times: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, status: int, size: int, milliseconds: int | None) -> None:
        """Count a request; a status that is none (the client has gone) counts as the client's error."""
        self.statuses[status // 100 - 1 if 100 <= status < 600 else 3] += 1
        self.bytes += size
        if milliseconds is not None:
            self.times[bisect_left(BOUNDS, milliseconds)] += 1

    def merge(self, other: "Tally") -> None:
        """Count another's requests, too."""
        self.bytes += other.bytes
        self.statuses = [a + b for a, b in zip(self.statuses, other.statuses, strict=True)]
        self.times = [a + b for a, b in zip(self.times, other.times, strict=True)]

    @property
    def count(self) -> int:
        """How many requests."""
        return sum(self.statuses)

    def percentile(self, percent: float) -> float | None:
        """The time in ms that so many percent of the requests took at most; None for no requests."""
        total = sum(self.times)
        if not total:
            return None
        left = math.ceil(total * percent / 100)
        for number, count in enumerate(self.times):
            left -= count
            if left <= 0:
                return round(BOUNDS[min(number, len(BOUNDS) - 1)], 1)
        raise AssertionError("a percentile beyond all requests")


def record(folder: Path, minute: int, tally: Tally, mark: int) -> None:
    """Add the requests that a batch of lines, `mark`, has of a minute; once, however often it is called. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        place = minute % MINUTES * RECORD.size
        known, last, before = _unpacked(os.pread(fd, RECORD.size, place))
        if known == minute and last == mark:
            return
        if known == minute:
            tally.merge(before)
        os.pwrite(fd, _packed(minute, mark, tally), place)
    finally:
        os.close(fd)


def read(folder: Path, now: float, minutes: int) -> list[Tally]:
    """The last so many minutes, the one under way last; those without a request are empty."""
    current = int(now // 60)
    found = {}
    try:
        data = (folder / FILE).read_bytes()
    except FileNotFoundError:
        data = b""
    for place in range(0, len(data) - RECORD.size + 1, RECORD.size):
        minute, _, tally = _unpacked(data[place : place + RECORD.size])
        found[minute] = tally
    return [found.get(minute, Tally()) for minute in range(current - minutes + 1, current + 1)]


def summary(tallies: Iterable[Tally], now: float) -> dict[str, Any]:
    """What people are shown of minutes as `read` gives them; times are ms, `rate` is requests a second."""
    minutes = list(tallies)
    whole = Tally()
    for one in minutes:
        whole.merge(one)
    seconds = max(1.0, (len(minutes) - 1) * 60 + now % 60)
    return {
        "minutes": len(minutes),
        "requests": whole.count,
        "rate": round(whole.count / seconds, 3),
        "statuses": dict(zip(STATUSES, whole.statuses, strict=True)),
        "bytes": whole.bytes,
        **{f"p{percent}": whole.percentile(percent) for percent in PERCENTILES},
        "series": [
            {
                "at": (int(now // 60) - len(minutes) + 1 + number) * 60,
                "requests": one.count,
                "errors": one.statuses[-1],
                "p95": one.percentile(95),
            }
            for number, one in enumerate(minutes)
        ],
    }


def _packed(minute: int, mark: int, tally: Tally) -> bytes:
    return RECORD.pack(minute, mark, tally.bytes, *tally.statuses, *tally.times)


def _unpacked(data: bytes) -> tuple[int, int, Tally]:
    """Minute, mark, tally; of what was never written, minute 0."""
    minute, mark, size, *counts = RECORD.unpack(data.ljust(RECORD.size, b"\0"))
    statuses, times = counts[: len(STATUSES)], counts[len(STATUSES) :]
    return minute, mark, Tally(size, statuses, times)

"""HAProxy's log, one raw file for all apps, dealt out to the apps' log files: each line once, whatever dies when.

The raw file belongs to HAProxy, which only appends; it goes on when we are dead. Before a batch is dealt out, a note
says which bytes of the raw file it is and how long each app's file was. What a line becomes depends on nothing but the
line, so whoever finds the note again knows how much of the batch each file has, and adds the rest. What has been dealt
out is punched out of the raw file: its offsets stay, its blocks are freed.
"""

import contextlib
import ctypes
import json
import logging
import os
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from inotify_simple import INotify, flags

from shipway.platform import metrics
from shipway.platform.metrics import Tally
from shipway.platform.router.haproxy_config import replace
from shipway.platform.router.routes import APP, DESCRIPTIONS, NO_ERRORS, STATUS_CODES

log = logging.getLogger(__name__)

BATCH = 1 << 18  # bytes of the raw file dealt out at once
PUNCH = 4 << 20  # bytes dealt out before their blocks are freed
GATHER = 0.02  # s in which further lines join a batch
RETRY = 1.0  # s after a failed write (disk full, say)
FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 1, 2
CODES = frozenset(STATUS_CODES.values())
WEBSOCKET = 101
HAPROXYS = ("400", "408")  # what HAProxy 3 itself answers to a body that does not come
_libc = ctypes.CDLL(None, use_errno=True)


class Request(NamedTuple):
    """A raw line's fields, as haproxy_config.LOG_FIELDS has them."""

    time: str  # µs since the epoch, at the end
    app: str
    backend: str
    label: str  # name/id of the instance
    method: str
    status: str
    bytes: str
    reading: str  # ms it took the client to send its headers; the next three likewise, -1 for never
    waiting: str
    connecting: str
    total: str
    end: str  # HAProxy's termination state: who ended it, and in which phase
    client: str
    host: str
    id: str
    path: str
    query: str


def parse(line: bytes) -> Request | None:
    """The request of a raw line; None for remarks of HAProxy's own and requests to no app."""
    fields = line.decode("ascii", "replace").split("\t")
    if len(fields) != len(Request._fields):
        return None
    request = Request(*fields)
    return request if APP.fullmatch(request.app) and request.time.isdigit() else None


def code(request: Request) -> str | None:
    """The field's code for what went wrong, None if nothing did."""
    if request.backend in CODES:
        return request.backend
    who, phase = request.end[0], request.end[1]
    answered = int(request.status) > 0
    match who, phase:
        case "-", _:
            return None
        case "s", "C":
            return "H19"
        case "S", "C":
            return "H21" if request.label != "-" else "H14"
        case "s", "Q":
            return "H11"
        case "s", "H":
            return "H12"
        case "S", "H":
            return "H13"
        case "P", "H":
            return "H25"
        case "P" | "L", _:
            return "H26" if request.status in ("400", "408", "413", "414", "431") else None
        case "S", _:
            return None if int(request.status) == WEBSOCKET else "H18"
        case "s", _:
            return "H15"
        case "C", _:
            return None if answered and phase == "D" else "H27"
        case "c", _:
            return "H15" if answered and request.status not in HAPROXYS else "H28"
        case "K", _:
            return "H24"
    return "H99"


STATUS_SENT = {"H12": "503", "H13": "503", "H25": "503", "H27": "499", "H28": "499"}


def render(request: Request) -> str:
    """The line of an app's log, with its newline."""
    problem = code(request)
    name = request.label.partition("/")[0].removeprefix("-")
    status = STATUS_SENT.get(problem or "", request.status)
    level = "error" if problem and problem not in NO_ERRORS else "info"
    if problem:
        level += f' code={problem} desc="{DESCRIPTIONS[problem]}"'
    served = max(0, int(request.total) - _positive(request.reading) - _positive(request.waiting))
    connect = f"{request.connecting}ms" if name and int(request.connecting) >= 0 else ""
    service = f"{served - _positive(request.connecting)}ms" if name else ""
    return (
        f"{_stamp(request.time)} shipway[router]: at={level} method={_plain(request.method)}"
        f' path="{_plain(request.path)}{_plain(request.query)}" host={request.host}'
        f' request_id={request.id} fwd="{request.client}" dyno={name} connect={connect}'
        f" service={service} status={status} bytes={request.bytes} protocol=http\n"
    )


def _positive(number: str) -> int:
    return max(0, int(number))


def _plain(text: str) -> str:
    """HAProxy writes what could do harm as #XX; a URL has %XX for that."""
    return text.replace("#", "%") if "#" in text else text


def _stamp(microseconds: str) -> str:
    return f"{_second(int(microseconds[:-6]))}.{microseconds[-6:]}+00:00"


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


class Dealer:
    """Deals the raw file's lines out to `<logs>/<app>/router.log`. Not for two at once."""

    def __init__(self, raw: Path, logs: Path) -> None:
        self._raw = raw
        self._logs = logs
        self._note = raw.with_name(raw.name + ".dealt")
        self._start, self._end, self._sizes = self._read_note()
        self._settled = False  # the note says that nothing is under way
        self._punched = 0

    def deal(self) -> bool:
        """Deal out a batch, the one begun before first. False when there is nothing to deal. Raises OSError."""
        if self._start == self._end and not self._begin():
            if not self._settled:
                self._write_note(self._start, self._end, {})
                self._settled = True
            return False
        self._settled = False
        self._finish()
        return True

    def _begin(self) -> bool:
        """Note down the next batch; False if there is no whole line."""
        with contextlib.suppress(FileNotFoundError), open(self._raw, "rb") as raw:
            size = os.fstat(raw.fileno()).st_size
            if size < self._start:  # somebody has emptied it
                self._start = self._end = self._punched = 0
            if size == self._start:
                return False
            start = os.lseek(raw.fileno(), self._start, os.SEEK_DATA)  # not what was punched out
            end = start + raw.read(BATCH).rfind(b"\n") + 1
            if end > start:
                apps = {request.app for request in self._requests(start, end)}
                self._write_note(start, end, {app: self._size(app) for app in apps})
                return True
        return False

    def _finish(self) -> None:
        """Add to each app's file what it lacks of the batch, and to its metrics."""
        requests = self._requests(self._start, self._end)
        for (app, minute), tally in _tallied(requests).items():
            metrics.record(self._logs / app, minute, tally, self._end)
        for app, text in _rendered(requests).items():
            have = max(0, self._size(app) - self._sizes.get(app, 0))
            _append(self._file(app), text[have:])
        self._start = self._end
        self._punch()

    def _requests(self, start: int, end: int) -> list[Request]:
        """The requests in the raw bytes; what is no request's line is none."""
        with open(self._raw, "rb") as raw:
            raw.seek(start)
            data = raw.read(end - start)
        lines = (line.lstrip(b"\0") for line in data.split(b"\n"))  # zeros: of a punched hole
        return [request for line in lines if (request := parse(line))]

    def _file(self, app: str) -> Path:
        return self._logs / app / "router.log"

    def _size(self, app: str) -> int:
        try:
            return self._file(app).stat().st_size
        except FileNotFoundError:
            return 0

    def _read_note(self) -> tuple[int, int, dict[str, int]]:
        try:
            note = json.loads(self._note.read_text())
            return note["start"], note["end"], note["sizes"]
        except (OSError, ValueError, KeyError):  # none yet, or lost with the power
            return 0, 0, {}

    def _write_note(self, start: int, end: int, sizes: dict[str, int]) -> None:
        replace(self._note, json.dumps({"start": start, "end": end, "sizes": sizes}))
        self._start, self._end, self._sizes = start, end, sizes

    def _punch(self) -> None:
        if self._start - self._punched < PUNCH:
            return
        fd = os.open(self._raw, os.O_RDWR | os.O_CLOEXEC)
        try:
            mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
            size = ctypes.c_int64(self._start)
            if _libc.fallocate(fd, mode, ctypes.c_int64(0), size) != 0:
                log.warning("%s grows: its file system cannot free parts of a file.", self._raw)
        finally:
            os.close(fd)
        self._punched = self._start


def _rendered(requests: Iterable[Request]) -> dict[str, bytes]:
    """What is to be added to each app's file."""
    found: dict[str, list[str]] = {}
    for request in requests:
        with contextlib.suppress(ValueError, IndexError):
            found.setdefault(request.app, []).append(render(request))
    return {app: "".join(lines).encode() for app, lines in found.items()}


def _tallied(requests: Iterable[Request]) -> dict[tuple[str, int], Tally]:
    """The metrics by app and minute."""
    found: dict[tuple[str, int], Tally] = {}
    for request in requests:
        with contextlib.suppress(ValueError, IndexError):
            status = int(STATUS_SENT.get(code(request) or "", request.status))
            took = max(0, int(request.total) - _positive(request.reading))
            key = request.app, int(request.time) // 60_000_000
            if key not in found:
                found[key] = Tally()
            found[key].add(status, int(request.bytes), None if status == WEBSOCKET else took)
    return found


def _append(path: Path, data: bytes) -> None:
    if not data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


def run(raw: Path, logs: Path, stop: threading.Event) -> None:
    """Deal out lines as they come, until `stop` is set."""
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.touch()
    dealer = Dealer(raw, logs)
    with INotify() as watch:
        watch.add_watch(raw, flags.MODIFY)
        last = False
        while not last:
            last = stop.is_set()
            try:
                while dealer.deal():
                    pass
            except OSError as error:
                log.error("Request log lines wait in %s: %s.", raw, error)
                stop.wait(RETRY)
                continue
            if not last and watch.read(timeout=1000):  # ms; only so that `stop` is seen
                stop.wait(GATHER)

"""Health checks of an app.json: run from outside of the container, at its start and as long as it runs.

An HTTP or a listening check is made from the host; a command alone runs inside of the container.
"""

import http.client
import logging
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.runtime.errors import RuntimeFailure, TimedOut
from shipway.workers import health
from shipway.workers.health import FIRST_PAUSE, LONGEST_PAUSE, Outcome

log = logging.getLogger(__name__)

STARTUP, READINESS, LIVENESS = "startup", "readiness", "liveness"
MOST_BODY = 1 << 20  # bytes of an answer that are searched for `content`
SHOWN = 200  # characters of what a command said


@dataclass(frozen=True)
class Check:
    """One check. `wait`, `timeout`, `delay` and `uptime` are seconds; `port` 0 is the app's own.

    It fails after `attempts` failures in a row, `wait` apart. At the start it is tried far more often, and fails once
    that time is over.
    """

    type: str
    way: str  # path, command, listening or uptime
    name: str = ""
    path: str = "/"
    port: int = 0
    scheme: str = "http"
    status: int = 0  # 0 is any from 200 to 399
    content: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    command: str | tuple[str, ...] = ()
    uptime: float = 0.0
    attempts: int = 3
    timeout: float = 5.0
    wait: float = 5.0
    delay: float = 0.0
    warn: bool = False

    @property
    def label(self) -> str:
        """As people know it."""
        what = {"path": self.path, "uptime": f"uptime of {self.uptime:g} s"}.get(self.way, self.way)
        return self.name or what

    @property
    def patience(self) -> float:
        """Seconds it may take at the start until it is failed."""
        return self.delay + self.uptime + self.attempts * (self.wait + self.timeout)


@dataclass(frozen=True)
class Target:
    """The instance that is checked. `run` runs a command in it: what it was, seconds → exit code and output."""

    address: str
    port: int
    host: str
    pid: int
    began: float  # monotonic
    run: Callable[[str | tuple[str, ...], float], tuple[int, str]]


def of(manifest: Mapping[str, Any] | None, kind: str) -> tuple[Check, ...]:
    """The checks of a process type in a release's manifest, see `appjson`."""
    return tuple(map(_check, ((manifest or {}).get("checks") or {}).get(kind, ())))


def _check(value: Mapping[str, Any]) -> Check:
    way = next((way for way in ("command", "uptime") if way in value), "path")
    if value.get("listening") and "path" not in value:
        way = "listening"
    command = value.get("command", ())
    return Check(
        type=value["type"],
        way=way,
        name=value.get("name", ""),
        path=value.get("path", "/"),
        port=value.get("port", 0),
        scheme=value.get("scheme", "http").lower(),
        status=value.get("status", 0),
        content=value.get("content", ""),
        headers=tuple((each["name"], each["value"]) for each in value.get("httpHeaders", ())),
        command=command if isinstance(command, str) else tuple(command),
        uptime=value.get("uptime", 0.0),
        attempts=value.get("attempts", 3),
        timeout=value.get("timeout", 5.0),
        wait=value.get("wait", 5.0),
        delay=value.get("initialDelay", 0.0),
        warn=value.get("warn", False),
    )


def at_start(found: Iterable[Check]) -> list[Check]:
    """Those that have to succeed before an instance is up."""
    return [check for check in found if check.type in (STARTUP, READINESS)]


def patience(manifest: Mapping[str, Any] | None) -> float:
    """Seconds that the checks at the start may take at most."""
    kinds = (manifest or {}).get("checks") or {}
    return max((sum(c.patience for c in at_start(of(manifest, k))) for k in kinds), default=0.0)


# -- one look -----------------------------------------------------------------------------------


def probe(check: Check, target: Target) -> str:
    """Empty if the check succeeds now, else what is wrong."""
    match check.way:
        case "path":
            return _ask(check, target)
        case "listening":
            return _listens(check.port or target.port, target.pid)
        case "command":
            return _command(check, target)
    return ""


def _ask(check: Check, target: Target) -> str:
    port = check.port or target.port
    deadline = time.monotonic() + check.timeout
    connection = _connection(check, target.address, port)
    try:
        headers = {"Host": target.host, "User-Agent": "shipway", **dict(check.headers)}
        connection.request("GET", check.path, headers=headers)
        answer = connection.getresponse()
        body = bytearray()
        while len(body) < MOST_BODY and (piece := answer.read1(1 << 16)):
            body += piece
            if time.monotonic() > deadline:
                return f"gave no whole answer within {check.timeout:g} seconds"
    except TimeoutError:
        return f"gave no answer within {check.timeout:g} seconds"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"gave no answer on port {port} ({error})"
    finally:
        connection.close()
    if check.status and answer.status != check.status:
        return f"answered {answer.status}, expected {check.status}"
    if not check.status and not 200 <= answer.status < 400:
        return f"answered {answer.status}, expected 200 to 399"
    if check.content and check.content.encode() not in body:
        return f"answered without {check.content!r}"
    return ""


def _connection(check: Check, address: str, port: int) -> http.client.HTTPConnection:
    if check.scheme == "https":
        # The certificate is the app's affair: it is made for a name that leads to the router.
        context = ssl._create_unverified_context()  # noqa: S323
        return http.client.HTTPSConnection(address, port, timeout=check.timeout, context=context)
    return http.client.HTTPConnection(address, port, timeout=check.timeout)


def _listens(port: int, pid: int) -> str:
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            if (False, port) in health.listening(Path(f"/proc/{pid}/net/{name}").read_text()):
                return ""
    return f"nothing listens on port {port} of all addresses"


def _command(check: Check, target: Target) -> str:
    try:
        code, output = target.run(check.command, check.timeout)
    except TimedOut:
        return f"took longer than {check.timeout:g} seconds"
    except RuntimeFailure as error:
        return f"could not be run ({error})"
    said = f": {output.strip()[-SHOWN:]}" if output.strip() else ""
    return f"exited with status {code}{said}" if code else ""


# -- at the start -------------------------------------------------------------------------------


def await_well(
    checks: Iterable[Check], target: Target, ended: Sequence[int], warn: Callable[[str], None]
) -> tuple[Outcome, str]:
    """Whether all succeed, one after another, and what is wrong. `ended`: readable when it is in vain."""
    for check in checks:
        outcome, why = _await(check, target, ended)
        if outcome == Outcome.TIMEOUT and check.warn:
            warn(f"Health check {check.label} {why}")
        elif outcome != Outcome.UP:
            return outcome, f"health check {check.label} {why}" if why else ""
    return Outcome.UP, ""


def _await(check: Check, target: Target, ended: Sequence[int]) -> tuple[Outcome, str]:
    first = target.began + max(check.delay, check.uptime)
    if health.readable(ended, max(0.0, first - time.monotonic())):
        return Outcome.ENDED, ""
    deadline = time.monotonic() + check.attempts * (check.wait + check.timeout)
    pause = FIRST_PAUSE
    while True:
        why = probe(check, target)
        if not why:
            return Outcome.UP, ""
        if health.readable(ended, pause):
            return Outcome.ENDED, ""
        if time.monotonic() > deadline:
            return Outcome.TIMEOUT, why
        pause = min(pause * 1.5, LONGEST_PAUSE)


# -- while it runs ------------------------------------------------------------------------------


class Watch:
    """A thread that makes the readiness and liveness checks of one instance, until `stop`.

    `ready` is called with False and why when a readiness check fails, with True when all succeed again; `dead` with
    why when a liveness check fails, and then nothing more is done.
    """

    def __init__(
        self,
        checks: Sequence[Check],
        target: Target,
        *,
        is_ready: bool,
        ready: Callable[[bool, str], None],
        dead: Callable[[str], None],
    ) -> None:
        self._checks = checks
        self._target = target
        self._ready, self._dead = ready, dead
        self._is_ready = is_ready
        self._failures: Counter[int] = Counter()  # in a row, by the check's place
        self._over = threading.Event()
        threading.Thread(target=self._run, name="checks", daemon=True).start()

    def stop(self) -> None:
        """Have it end; it may be in the middle of a check."""
        self._over.set()

    def _run(self) -> None:
        now = time.monotonic()
        due = [now + (0 if not self._is_ready else each.wait) for each in self._checks]
        while not self._over.wait(max(0.0, min(due) - time.monotonic())):
            number = due.index(min(due))
            check = self._checks[number]
            why = probe(check, self._target)
            if self._over.is_set():
                return
            due[number] = time.monotonic() + check.wait
            self._failures[number] = self._failures[number] + 1 if why else 0
            try:
                if not self._weigh(number, check, why):
                    return
            except Exception:  # it is acted upon after the next look
                log.exception("health check %s", check.label)

    def _weigh(self, number: int, check: Check, why: str) -> bool:
        """Act upon a check's outcome; whether to go on."""
        failed = self._failures[number] >= check.attempts
        if failed and check.type == LIVENESS and not check.warn:
            self._dead(f"liveness check {check.label} {why}")
            return False
        if check.type == READINESS and not check.warn:
            self._weigh_readiness(check, why, failed=failed)
        return True

    def _weigh_readiness(self, check: Check, why: str, *, failed: bool) -> None:
        if failed and self._is_ready:
            self._ready(False, f"readiness check {check.label} {why}")
            self._is_ready = False
        elif not why and not self._is_ready and self._all_succeed():
            self._ready(True, "")
            self._is_ready = True

    def _all_succeed(self) -> bool:
        return not any(
            self._failures[number]
            for number, check in enumerate(self._checks)
            if check.type == READINESS and not check.warn
        )

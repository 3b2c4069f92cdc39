"""What a browser watches live, as server-sent events: an app's log, a build's output, and that something has changed.

One thread of the web process serves one viewer, so their number is bounded, and a viewer that takes nothing for a while
is let go. Events: `log` (a JSON list of lines; its id is where to go on), `changed` (fetch the parts again), `end`.
"""

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from select import select as wait_for
from typing import Any

import flask
from flask import request, session
from inotify_simple import INotify
from sqlalchemy import select
from werkzeug.wrappers import Response

from shipway.platform import applog, auth, browser, events, history, outputs
from shipway.platform.ansi import Piece, pieces
from shipway.platform.browser import login_required, store, user
from shipway.platform.errors import ShipwayError, Unavailable
from shipway.platform.events import Listener
from shipway.platform.logfiles import Line, look
from shipway.platform.logreader import EVENTS, FLUSH_AFTER, LogReader, Wanted
from shipway.platform.models import Build, Release
from shipway.platform.outputs import End
from shipway.platform.present import hue
from shipway.platform.store import Store

blueprint = flask.Blueprint("watch", __name__)

WORKER_THREADS = 32  # of the web process, which leaves a dozen for everything else
VIEWERS = 20
VIEWERS_PER_USER = 12
BEAT = 15.0  # seconds: a connection whose client is gone shows it when something is written
STALLED = 30.0  # seconds a viewer may leave what was sent to it untaken
HISTORY = 200  # lines
NO_TIME = 0.01  # seconds
BLIND = 0.5  # seconds between two looks while there are no signals

Event = bytes


class Places:
    """How many watch at the same time, in all and by user."""

    def __init__(self, most: int, per_user: int) -> None:
        self._most = most
        self._per_user = per_user
        self._taken: list[int] = []
        self._lock = threading.Lock()

    def take(self, user_id: int) -> Callable[[], None]:
        """Take a place; what is returned gives it back. Raises Unavailable when all are taken."""
        with self._lock:
            if len(self._taken) >= self._most or self._taken.count(user_id) >= self._per_user:
                raise Full
            self._taken.append(user_id)
        given_back = threading.Event()

        def give_back() -> None:
            with self._lock:
                if not given_back.is_set():
                    given_back.set()
                    self._taken.remove(user_id)

        return give_back


class Full(Unavailable):
    """No place is left."""

    def __init__(self) -> None:
        super().__init__("Too many pages are being watched live just now: trying again soon.")


PLACES = Places(VIEWERS, VIEWERS_PER_USER)


# -- addresses ----------------------------------------------------------------------------------


@blueprint.get("/events")
@login_required
def all_apps() -> Response:
    """`changed` for every app of the user."""
    with store().reading() as db:
        topics = [events.app_topic(app.id) for app in auth.apps_of(db, user())]
    return _stream(lambda viewer: _changes(viewer, topics))


@blueprint.get("/apps/<name>/events")
@login_required
def app_changes(name: str) -> Response:
    """`changed` for one app."""
    with store().reading() as db:
        topics = [events.app_topic(auth.app_for(db, user(), name).id)]
    return _stream(lambda viewer: _changes(viewer, topics), app=name)


@blueprint.get("/apps/<name>/log/events")
@login_required
def app_log(name: str) -> Response:
    """The app's log from a cursor on, and `changed` for the app."""
    with store().reading() as db:
        topic = events.app_topic(auth.app_for(db, user(), name).id)
    folder = applog.folder(store().settings, name)
    reader = LogReader(folder, Wanted(request.args.get("process") or None))
    cursor = _resume()
    if cursor:
        reader.resume(cursor)
    return _stream(lambda viewer: _log(viewer, folder, reader, topic, not cursor), app=name)


@blueprint.get("/apps/<name>/builds/<int:number>/events")
@login_required
def build_output(name: str, number: int) -> Response:
    """What a build, and the deploy after it, says; `end` when both are over."""
    with store().reading() as db:
        build = history.find_build(db, auth.app_for(db, user(), name), number)
    after = _resume()
    last = int(after) if after and after.isdecimal() else 0
    return _stream(lambda viewer: _output(viewer, build, last), app=name)


def _resume() -> str | None:
    """Where the browser was: its own memory, when it resumes by itself, is newer than the address."""
    return request.headers.get("Last-Event-ID") or request.args.get("after") or None


# -- what pages show at first -------------------------------------------------------------------


def log_panel(name: str) -> dict[str, Any]:
    """The last lines of an app's log for its page: `{lines, cursor, process, processes}`."""
    with store().reading() as db:
        auth.app_for(db, user(), name)
    process = request.args.get("process") or None
    folder = store().settings.logs / name
    reader = LogReader(folder, Wanted(process))
    return {
        "lines": [_line(line) for line in reader.last(HISTORY)],
        "cursor": reader.cursor(),
        "process": process,
        "processes": _processes(folder, process),
    }


def _processes(folder: Path, chosen: str | None) -> list[str]:
    """What one can filter by: process types and processes that have written, then the router."""
    instances = {file.process for file in look(folder) if file.process}
    types = {process.rpartition(".")[0] for process in instances}
    return sorted(types | instances | {"router"} | ({chosen} if chosen else set()))


def output_so_far(build: Build) -> tuple[list[list[Piece]], int]:
    """The lines of a build's output as pieces, and where to go on."""
    found = [one for one in outputs.so_far(store(), build) if isinstance(one, outputs.Piece)]
    lines = [pieces(line) for one in found for line in one.lines]
    return lines, found[-1].id if found else 0


def _line(line: Line) -> dict[str, Any]:
    return {
        "iso": line.time,
        "clock": line.time[11:19],
        "source": line.process,
        "hue": hue(line.source, line.process),
        "pieces": pieces(line.text),
    }


# -- streams ------------------------------------------------------------------------------------


class Gone(Exception):
    """The viewer hung up, was signed out, or may not see the app any more."""


class Viewer:
    """One viewer: whether it is still there and may go on."""

    def __init__(self, app: str | None) -> None:
        self.store = store()
        self._secret = session[browser.SESSION]
        self._app = app
        # The server's own socket: it becomes readable when the viewer hangs up.
        self._socket: socket.socket | None = request.environ.get(
            "gunicorn.socket", request.environ.get("werkzeug.socket")
        )
        if self._socket is not None:
            self._socket.settimeout(STALLED)

    def wait(self, listener: Listener, *others: INotify, timeout: float = BEAT) -> list[Any]:
        """Those of the things given that have something to say, none after `timeout` seconds. Raises Gone."""
        things: list[Any] = [*others, self._socket] if self._socket else [*others]
        if listener.fileno() is None:
            timeout = min(timeout, BLIND)
        else:
            things.append(listener)
        ready, _, _ = wait_for(things, [], [], timeout)
        if self._socket in ready:
            ready.remove(self._socket)
            self._look_at_socket()
        if listener in ready and not listener.wait(NO_TIME):
            ready.remove(listener)
        self._check()
        return ready

    def _look_at_socket(self) -> None:
        assert self._socket is not None
        try:
            said = self._socket.recv(1, socket.MSG_PEEK)
        except OSError:
            said = b""
        if not said:
            raise Gone
        self._socket = (
            None  # it asks for something else ahead of time: a heartbeat will tell when it goes
        )

    def _check(self) -> None:
        try:
            with self.store.reading() as db:
                found = auth.by_session(db, self._secret, self.store.now(db))
                if found is not None and self._app is not None:
                    auth.app_for(db, found, self._app)
        except ShipwayError:
            raise Gone from None
        if found is None:
            raise Gone


def _stream(make: Callable[[Viewer], Iterator[Event]], app: str | None = None) -> Response:
    give_back = PLACES.take(user().id)
    viewer = Viewer(app)

    def events_until_gone() -> Iterator[Event]:
        yield HELLO
        with contextlib.suppress(Gone):
            yield from make(viewer)

    response = flask.Response(events_until_gone(), content_type="text/event-stream; charset=utf-8")
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["Connection"] = "close"
    response.call_on_close(give_back)
    return response


def _event(name: str, data: Any = "", ident: str | int | None = None) -> Event:
    head = f"id: {ident}\n" if ident is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


HELLO: Event = b"retry: 2000\n\n"
HEARTBEAT: Event = b": beat\n\n"


def _changes(viewer: Viewer, topics: list[str]) -> Iterator[Event]:
    with viewer.store.signals.listen(*topics) as listener:
        while True:
            yield _event("changed") if viewer.wait(listener) else HEARTBEAT


def _log(
    viewer: Viewer, folder: Path, reader: LogReader, topic: str, from_start: bool
) -> Iterator[Event]:
    if from_start and (lines := reader.last(HISTORY)):
        yield _lines_event(lines, reader)
    with viewer.store.signals.listen(topic) as listener, INotify() as notifier:
        notifier.add_watch(folder, EVENTS)
        timeout = 0.0
        while True:
            for lines in reader.new():
                yield _lines_event(lines, reader)
            ready = viewer.wait(listener, notifier, timeout=timeout)
            if notifier in ready:
                notifier.read(timeout=0)
            if listener in ready:
                yield _event("changed")
            if not ready and timeout == BEAT:
                yield HEARTBEAT
            # A line without an end (a prompt, say) is given out by the reader's first look after a moment.
            timeout = 1.1 * FLUSH_AFTER if notifier in ready else BEAT


def _lines_event(lines: list[Line], reader: LogReader) -> Event:
    return _event("log", [_line(line) for line in lines], reader.cursor())


def _output(viewer: Viewer, build: Build, last: int) -> Iterator[Event]:
    before = None
    topics = (events.output_topic(build.stream), events.app_topic(build.app_id))
    with viewer.store.signals.listen(*topics) as listener:
        while True:
            now = _states(viewer.store, build)
            if before not in (None, now):
                yield _event("changed")
            before = now
            for piece in outputs.so_far(viewer.store, build, last):
                if isinstance(piece, End):
                    yield _event("end")
                    return
                last = piece.id
                yield _event("log", [{"pieces": pieces(line)} for line in piece.lines], last)
            if not viewer.wait(listener):
                yield HEARTBEAT


def _states(store: Store, build: Build) -> tuple[str | None, str | None]:
    """The states of a build and of its release."""
    with store.reading() as db:
        mine = select(Release.state).where(Release.build_id == build.id)
        return db.scalar(select(Build.state).where(Build.id == build.id)), db.scalar(mine)

"""What the API sends as it comes: logs, the output of builds and deploys, instances on their way.

To clients that accept text/event-stream: server-sent events with JSON data, whose id leads on after a broken
connection (Last-Event-ID, or ?cursor=): `lines` a list of texts, `state` an instance's move, `end` how it came out.
To others: plain lines, with control characters written out.
"""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from flask import Response, request

from shipway.platform import applog, auth, domains, outputs, scaling
from shipway.platform.api import bearer, blueprint, number_arg, number_or_newest, user
from shipway.platform.browser import store
from shipway.platform.errors import InvalidInput, ShipwayError
from shipway.platform.history import find_build, find_release
from shipway.platform.logfiles import Line
from shipway.platform.logreader import LogReader, Wanted
from shipway.platform.models import Build, Release
from shipway.platform.outputs import End, Piece
from shipway.platform.store import Store
from shipway.platform.terminal import printable
from shipway.platform.watch import Places

FOLLOWERS, FOLLOWERS_PER_USER = 40, 20  # each holds a thread of the web process
MAX_LINES = 100_000
CHUNK = 1000  # lines in one event
MAX_IDS = 500
RECHECK = 15.0  # seconds after which a follower's token and access are looked at again
STALLED = 60.0  # seconds a follower may leave what was sent untaken

PLACES = Places(FOLLOWERS, FOLLOWERS_PER_USER)

Event = tuple[str, Any, str | int | None]  # name, data, id
BEAT: Event = ("", None, None)


@blueprint.get("/apps/<app>/logs")
def logs(app: str) -> Response:
    """The last `?num=` lines, `?tail=1` and what comes; `?process=` and `?source=` choose."""
    with store().reading() as db:
        name = auth.app_for(db, user(), app).name
    wanted = Wanted(request.args.get("process") or None, request.args.get("source") or None)
    reader = LogReader(applog.folder(store().settings, name), wanted)
    if cursor := _resume():
        reader.resume(cursor)
        first = []
    else:
        number = number_arg("num", 100)
        if number > MAX_LINES:
            raise InvalidInput(f"num is {number}, expected at most {MAX_LINES}.")
        first = reader.last(number)
    if request.args.get("tail"):
        return _followed(_log(reader, first), app)
    return _answer(_lines_of(first, reader))


@blueprint.get("/apps/<app>/builds/<number>/output")
def build_output(app: str, number: str) -> Response:
    """What a build and its deploy said, with `?follow=1` to the end of both."""
    with store().reading() as db:
        found = auth.app_for(db, user(), app)
        return _output(find_build(db, found, number_or_newest(number, "latest")), app)


@blueprint.get("/apps/<app>/releases/<version>/output")
def release_output(app: str, version: str) -> Response:
    """What the deploy of a release said (and the build before it), with `?follow=1` to its end."""
    with store().reading() as db:
        found = auth.app_for(db, user(), app)
        row = find_release(db, found, number_or_newest(version, "current"))
        return _output((row.build if row.build_id else None) or row, app)


@blueprint.get("/apps/<app>/settle")
def settle(app: str) -> Response:
    """`?ids=1,2`: how these instances come to be as they are wanted, to the end."""
    texts = [text for text in request.args.get("ids", "").split(",") if text]
    if len(texts) > MAX_IDS or not all(text.isdecimal() and len(text) < 16 for text in texts):
        raise InvalidInput("ids is no list of numbers of instances such as 7,8.")
    with store().reading() as db:
        found = auth.app_for(db, user(), app)
    moves = scaling.settle(store(), found, [int(text) for text in texts])
    return _followed(_moves(moves), app)


@blueprint.get("/apps/<app>/routed")
def routed(app: str) -> Response:
    """Until the router has done all that is wanted of the app's routes; `?host=` must be one of its domains."""
    found = domains.check(store(), user(), app, request.args.get("host", ""))
    return _followed(_moves(domains.routed(store(), found)), app)


def _resume() -> str:
    return request.headers.get("Last-Event-ID") or request.args.get("cursor") or ""


# -- events -------------------------------------------------------------------------------------


def _log(reader: LogReader, first: list[Line]) -> Iterator[Event]:
    yield from _lines_of(first, reader)
    for lines in reader.follow():
        yield _lines_event(lines, reader) if lines else BEAT


def _lines_of(lines: list[Line], reader: LogReader) -> Iterator[Event]:
    for start in range(0, len(lines) - CHUNK, CHUNK):
        yield "lines", [str(line) for line in lines[start : start + CHUNK]], None
    # The last event has the id that a client resumes with, also where there is nothing to show.
    yield _lines_event(lines[(len(lines) - 1) // CHUNK * CHUNK :] if lines else [], reader)


def _lines_event(lines: list[Line], reader: LogReader) -> Event:
    return "lines", [str(line) for line in lines], reader.cursor()


def _output(work: Build | Release, app: str) -> Response:
    resume = _resume()
    if resume and not (resume.isdecimal() and len(resume) < 16):
        raise InvalidInput("This is no cursor of an output: give the id of an event.")
    after = int(resume or 0)
    if request.args.get("follow"):
        return _followed(_pieces(outputs.follow(store(), work, after)), app)
    return _answer(_pieces(outputs.so_far(store(), work, after)))


def _pieces(pieces: Iterable[Piece | End | None]) -> Iterator[Event]:
    for piece in pieces:
        if isinstance(piece, Piece):
            yield "lines", piece.lines, piece.id
        else:
            yield ("end", asdict(piece), None) if piece else BEAT


def _moves(moves: Iterable[dict[str, Any]]) -> Iterator[Event]:
    for move in moves:
        yield ("end" if "end" in move else "state", move, None) if move else BEAT


# -- the answer ---------------------------------------------------------------------------------


def _followed(events: Iterator[Event], app: str) -> Response:
    """A stream that ends when its client is gone or may not see it any more."""
    give_back = PLACES.take(user().id)
    connection = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(STALLED)  # who takes nothing must not keep a thread
    response = _answer(_guarded(events, store(), bearer(), app))
    response.call_on_close(give_back)
    return response


def _guarded(events: Iterator[Event], here: Store, secret: str, app: str) -> Iterator[Event]:
    looked = time.monotonic()
    for event in events:
        if time.monotonic() - looked > RECHECK:
            looked = time.monotonic()
            if not _may_see(here, secret, app):
                return
        yield event


def _may_see(here: Store, secret: str, app: str) -> bool:
    try:
        with here.reading() as db:
            found = auth.by_token(db, secret, here.now(db))
            return found is not None and bool(auth.app_for(db, found, app))
    except ShipwayError:
        return False


def _answer(events: Iterator[Event]) -> Response:
    if "text/event-stream" in request.headers.get("Accept", ""):
        response = Response(map(_as_event, events), content_type="text/event-stream; charset=utf-8")
    else:
        response = Response(map(_as_text, events), content_type="text/plain; charset=utf-8")
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _as_event(event: Event) -> bytes:
    name, data, ident = event
    if not name:
        return b": beat\n\n"
    head = f"id: {ident}\n" if ident is not None else ""
    return f"{head}event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _as_text(event: Event) -> bytes:
    name, data, _ = event
    if name == "lines":
        return "".join(printable(line) + "\n" for line in data).encode()
    if name == "state":
        return f"{data['instance']}: {data['state']}\n".encode()
    if name == "end":
        reason = data.get("reason") or data.get("message")
        return f" !     {reason}\n".encode() if reason else b""
    return b""

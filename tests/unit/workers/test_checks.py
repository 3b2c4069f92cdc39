"""Health checks against servers that answer this way or that."""

import http.server
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shipway.workers.checks import Check, Target, Watch, await_well, probe
from shipway.workers.health import Outcome


class Server(http.server.ThreadingHTTPServer):
    """Answers every path with `status` and `body`, and keeps the last request's headers."""

    status = 200
    body = b"all is fine"
    headers: Any = None


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.headers = self.headers
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def target(server: Server, code: int = 0) -> Target:
    port = int(server.server_address[1])
    return Target(
        "127.0.0.1", port, "app.test", os.getpid(), time.monotonic(), lambda *_: (code, "no")
    )


def until(true: Any) -> None:
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_answer_is_weighed(server: Server) -> None:
    """Status, content, and the headers that are sent, the app's host name among them."""
    check = Check("startup", "path", content="fine", headers=(("X-Check", "1"),))
    assert probe(check, target(server)) == ""
    assert (server.headers["Host"], server.headers["X-Check"]) == ("app.test", "1")
    server.status = 500
    assert probe(check, target(server)) == "answered 500, expected 200 to 399"
    assert probe(Check("startup", "path", status=500), target(server)) == ""
    server.status, server.body = 200, b"all is lost"
    assert probe(check, target(server)) == "answered without 'fine'"


def test_silence_and_refusal(server: Server) -> None:
    """Who accepts and says nothing is given up after the check's timeout; who does not listen, at once."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        check = Check("startup", "path", port=port, timeout=0.2)
        assert probe(check, target(server)) == "gave no answer within 0.2 seconds"
    assert "gave no answer on port" in probe(check, target(server))
    listening = Check("startup", "listening", port=port)
    assert "nothing listens on port" in probe(listening, target(server))
    with socket.create_server(("0.0.0.0", port)):
        assert probe(listening, target(server)) == ""


def test_commands(server: Server) -> None:
    """A command's status decides, and what it said is shown."""
    check = Check("startup", "command", command=("look",))
    assert probe(check, target(server)) == ""
    assert probe(check, target(server, 3)) == "exited with status 3: no"


def test_the_start_waits_until_all_succeed(server: Server) -> None:
    """A check is tried often until its time is over; one that only warns holds nothing up."""
    check = Check("startup", "path", attempts=1, wait=0.2, timeout=0.2)
    server.status = 503
    warned: list[str] = []
    began = time.monotonic()
    assert await_well([check], target(server), [], warned.append) == (
        Outcome.TIMEOUT,
        "health check / answered 503, expected 200 to 399",
    )
    assert 0.4 <= time.monotonic() - began < 2
    soft = Check("startup", "path", attempts=1, wait=0.1, timeout=0.1, warn=True)
    assert await_well([soft], target(server), [], warned.append) == (Outcome.UP, "")
    assert warned == ["Health check / answered 503, expected 200 to 399"]
    threading.Timer(0.1, lambda: setattr(server, "status", 200)).start()
    patient = Check("startup", "path")
    assert await_well([patient], target(server), [], warned.append) == (Outcome.UP, "")


def test_the_end_of_a_process_ends_the_wait(server: Server) -> None:
    """What gets readable when the instance died is looked at during a delay and between two tries."""
    fd = os.eventfd(1)
    late = Check("startup", "uptime", uptime=60.0)
    assert await_well([late], target(server), [fd], print) == (Outcome.ENDED, "")
    server.status = 503
    assert await_well([Check("startup", "path")], target(server), [fd], print)[0] == Outcome.ENDED
    os.close(fd)


def test_a_watch_tells_of_readiness_both_ways(server: Server) -> None:
    """After so many failures in a row it is told once, and once it succeeds again, that too."""
    told: list[bool] = []
    check = Check("readiness", "path", attempts=2, wait=0.02)
    watch = Watch(
        [check],
        target(server),
        is_ready=True,
        ready=lambda ready, _why: told.append(ready),
        dead=lambda _why: told.clear(),
    )
    server.status = 503
    until(lambda: told == [False])
    server.status = 200
    until(lambda: told == [False, True])
    watch.stop()


def test_a_watch_tells_of_death_once(server: Server) -> None:
    """A liveness check that fails is told with its reason, and nothing is looked at any more."""
    told: list[str] = []
    server.status = 500
    Watch(
        [Check("liveness", "path", attempts=3, wait=0.02)],
        target(server),
        is_ready=True,
        ready=lambda *_: None,
        dead=told.append,
    )
    until(lambda: told)
    time.sleep(0.1)
    assert told == ["liveness check / answered 500, expected 200 to 399"]

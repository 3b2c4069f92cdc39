"""What HAProxy makes of requests, good and hostile, and what an app's log then says of them."""

import http.client
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from shipway.platform.router.haproxy import HAProxy
from shipway.platform.router.haproxy_config import Config
from shipway.platform.router.routerlog import Dealer
from shipway.platform.router.routes import Route, Server
from support import free_port, scratch
from upstreams import Upstream, get, raw, route, status_of, websocket

LINE = re.compile(
    r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00 shipway\[router\]: at=(info|(info|error) code=H\d\d desc="[^"]+")'
    r' method=\S+ path="[^"\\\x00-\x20\x7f-\uffff]*" host=\S+ request_id=[0-9a-f-]{36} fwd="[0-9a-f.:]+"'
    r" dyno=\S* connect=(\d+ms)? service=(\d+ms)? status=\d{3} bytes=\d+ protocol=http"
)


class Router:
    """A HAProxy with the apps `one` (an upstream), `refused`, `silent` and `off`, and its dealt-out log."""

    def __init__(self, haproxy: HAProxy, upstream: Upstream, dealer: Dealer) -> None:
        self.haproxy = haproxy
        self.port = haproxy.config.port
        self.upstream = upstream
        self._dealer = dealer
        self._logs = haproxy.config.run.parent / "logs"

    def lines(self, app: str = "one") -> list[str]:
        """The app's request log."""
        while self._dealer.deal():
            pass
        path = self._logs / app / "router.log"
        return path.read_text().splitlines() if path.exists() else []

    def next_line(self, app: str, act: Callable[[], object]) -> str:
        """The line that `act` causes, whole and of the right form."""
        before = len(self.lines(app))
        act()
        deadline = time.monotonic() + 8
        while len(found := self.lines(app)) == before:
            assert time.monotonic() < deadline, "no line came"
            time.sleep(0.01)
        assert len(found) == before + 1
        assert LINE.fullmatch(found[-1]), found[-1]
        return found[-1]


@pytest.fixture(scope="module")
def router() -> Iterator[Router]:
    """One router for all tests here, with short timeouts."""
    with scratch() as folder, socket.socket() as silent, socket.socket() as closed:
        silent.bind(("127.0.0.1", 0))  # bound, never listening: refuses
        closed.bind(("127.0.0.1", 0))
        config = Config(run=folder / "run", log=folder / "raw.log", port=free_port())
        config = replace(config, response_timeout=0.5, client_timeout=1.0, tunnel_timeout=1.0)
        haproxy = HAProxy(config)
        haproxy.start()
        upstream = Upstream("a")
        refused = Server("web.1", "r", "127.0.0.1", closed.getsockname()[1])
        haproxy.apply(
            [
                route("one", upstream),
                Route("refused", ("refused.localhost",), (refused,)),
                Route("both", ("both.localhost",), (refused, upstream.entry(2))),
                Route("off", ("off.localhost",), status="none"),
                Route("down", ("down.localhost",), status="crashed"),
                Route("empty", ("empty.localhost",), status="blank"),
            ]
        )
        yield Router(haproxy, upstream, Dealer(config.log, folder / "logs"))
        haproxy.stop()
        upstream.end()


def sent_headers(router: Router, **headers: str) -> dict[str, list[str]]:
    """What the app gets, by lower-case name."""
    _, _, body = get(router.port, "one.localhost", "/headers", **headers)
    found: dict[str, list[str]] = {}
    for key, value in json.loads(body):
        found.setdefault(key.lower(), []).append(value)
    return found


def test_headers_for_the_app(router: Router) -> None:
    """The app learns who asked, how, when, and the request's id, which is the one in its log."""
    before = time.time() * 1000
    answers = []
    line = router.next_line("one", lambda: answers.append(sent_headers(router)))
    headers = answers[0]
    assert headers["x-forwarded-for"] == ["127.0.0.1"]
    assert headers["x-forwarded-proto"] == ["http"]
    assert headers["x-forwarded-port"] == [str(router.port)]
    assert headers["host"] == ["one.localhost"]
    started = re.fullmatch(r"t=(\d{13})", headers["x-request-start"][0])
    assert started
    assert abs(int(started[1]) - before) < 5000
    assert f"request_id={headers['x-request-id'][0]} " in line


def test_forged_headers_are_replaced(router: Router) -> None:
    """What a client claims of itself in these headers never reaches the app."""
    headers = sent_headers(
        router,
        X_Forwarded_For="6.6.6.6",
        x_forwarded_PROTO="https",
        X_Forwarded_Port="443",
        X_Forwarded_Host="evil.example",
        X_Request_ID="forged",
        X_Request_Start="t=1",
        Forwarded="for=6.6.6.6",
        Proxy="http://evil.example",
        Accept="text/plain",
    )
    assert "6.6.6.6" not in str(headers)
    assert "evil" not in str(headers)
    assert "forged" not in str(headers)
    assert headers["x-forwarded-proto"] == ["http"]
    assert headers["x-request-start"] != ["t=1"]
    assert headers["accept"] == ["text/plain"]
    answer = raw(
        router.port,
        b"GET /headers HTTP/1.1\r\nHost: one.localhost\r\nX_Forwarded_For: 6.6.6.6\r\n"
        b"X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: close\r\n\r\n",
    )
    assert b"6.6.6.6" not in answer
    assert b"1.1.1.1" not in answer


HOSTILE = {
    "two hosts": b"GET / HTTP/1.1\r\nHost: one.localhost\r\nHost: evil.example\r\n\r\n",
    "a port that is none": b"GET / HTTP/1.1\r\nHost: one.localhost:80x\r\n\r\n",
    "a list of hosts": b"GET / HTTP/1.1\r\nHost: one.localhost, evil.example\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "an empty host": b"GET / HTTP/1.1\r\nHost: \r\n\r\n",
    "a host with a blank": b"GET / HTTP/1.1\r\nHost: one.localhost evil\r\n\r\n",
    "a host with credentials": b"GET / HTTP/1.1\r\nHost: a@one.localhost\r\n\r\n",
    "a host with a path": b"GET / HTTP/1.1\r\nHost: one.localhost/x\r\n\r\n",
    "another host in the URI": b"GET http://x.example/ HTTP/1.1\r\nHost: one.localhost\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: one.localhost\r\nX-A: a\x00b\r\n\r\n",
    "a NUL in a name": b"GET / HTTP/1.1\r\nHost: one.localhost\r\nX\x00A: a\r\n\r\n",
    "a NUL in the host": b"GET / HTTP/1.1\r\nHost: one.localhost\x00.evil\r\n\r\n",
    "a bad TE": b"POST / HTTP/1.1\r\nHost: one.localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"POST / HTTP/1.1\r\nHost: one.localhost\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a signed length": b"POST / HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: +3\r\n\r\nabc",
    "an empty length": b"POST / HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: \r\n\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nHost: one.localhost\r\nX: " + b"a" * 17000 + b"\r\n\r\n",
    "an HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "a folded header": b"GET / HTTP/1.1\r\nHost: one.localhost\r\nX: a\r\n\x01b: c\r\n\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_requests(router: Router, name: str) -> None:
    """What two parsers could read differently is a 400, and never reaches the app."""
    before = len(router.upstream.seen)
    assert status_of(raw(router.port, HOSTILE[name])) in {400, 0}
    assert len(router.upstream.seen) == before
    assert get(router.port, "one.localhost")[0] == 200


def test_the_same_host_twice(router: Router) -> None:
    """HAProxy makes one of two equal hosts; the app sees one."""
    answer = raw(
        router.port,
        b"GET /headers HTTP/1.1\r\nHost: one.localhost\r\nHost: one.localhost\r\nConnection: close\r\n\r\n",
    )
    assert answer.lower().count(b'["host", ') == 1


@pytest.mark.parametrize("value", [b"h2c", b"foo, H2C"])
def test_upgrade_to_h2c(router: Router, value: bytes) -> None:
    """An upgrade to HTTP/2 never gets to the app: it is a 400, or taken off (HAProxy 3)."""
    answer = raw(
        router.port,
        b"GET /headers HTTP/1.1\r\nHost: one.localhost\r\nConnection: Upgrade, HTTP2-Settings\r\n"
        b"Upgrade: %s\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n" % value,
    )
    assert status_of(answer) in {400, 200}
    assert b"h2c" not in answer.lower()
    assert b'["http2-settings"' not in answer.lower()


def test_length_and_chunked(router: Router) -> None:
    """Where both a length and chunks are named, chunks count and the app never sees the length."""
    before = len(router.upstream.seen)
    answer = raw(
        router.port,
        b"POST /headers HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: 6\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
        b"GET /smuggled HTTP/1.1\r\nHost: one.localhost\r\n\r\n",
    )
    _, _, body = answer.partition(b"\r\n\r\n")
    assert "content-length" not in {key.lower() for key, _ in json.loads(body)}
    assert [line.split()[:2] for line in router.upstream.seen[before:]] == [["POST", "/headers"]]


def test_an_ordinary_line(router: Router) -> None:
    """A request's line has the field's form."""
    line = router.next_line("one", lambda: get(router.port, "ONE.localhost:80", "/a/b?c=d%20e"))
    assert ' at=info method=GET path="/a/b?c=d%20e" host=one.localhost request_id=' in line
    assert re.search(
        r'fwd="127\.0\.0\.1" dyno=web\.1 connect=\d+ms service=\d+ms status=200 bytes=\d+ protocol=http$',
        line,
    )


@pytest.mark.parametrize(
    ("app", "path", "code", "status"),
    [
        ("off", "/", 'H14 desc="No web processes running"', 503),
        ("down", "/", 'H10 desc="App crashed"', 503),
        ("empty", "/", 'H81 desc="Blank app"', 503),
        ("one", "/slow", 'H12 desc="Request timeout"', 503),
        ("one", "/garbage", 'H25 desc="HTTP restriction"', 503),
        ("refused", "/", 'H21 desc="Backend connection refused"', 503),
    ],
)
def test_codes(router: Router, app: str, path: str, code: str, status: int) -> None:
    """Each failure has the field's code in the log, its status, and a page for people or JSON for programs."""
    answers = []

    def ask(**headers: str) -> None:
        answers.append(get(router.port, f"{app}.localhost", path, **headers))

    line = router.next_line(app, ask)
    assert f"at={'info' if app == 'empty' else 'error'} code={code} " in line
    assert f" status={status} " in line
    assert ("dyno=web.1" in line) == (app in {"one", "refused"})
    found, headers, body = answers[0]
    assert (found, headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert body.startswith("<!doctype html>")
    router.next_line(app, lambda: ask(Accept="application/json"))
    found, headers, body = answers[1]
    assert (found, headers["content-type"]) == (status, "application/json")
    assert json.loads(body)["message"]


def test_no_answer_to_a_post(router: Router) -> None:
    """A POST whose connection closes without an answer is H13 and is not sent again."""
    before = len(router.upstream.seen)
    line = router.next_line("one", lambda: get(router.port, "one.localhost", "/die", "POST"))
    assert "at=error code=H13" in line
    assert " status=503 " in line
    assert len(router.upstream.seen) == before + 1


def test_a_cut_answer(router: Router) -> None:
    """An answer that breaks off is H18."""

    def ask() -> None:
        with pytest.raises(http.client.IncompleteRead):
            get(router.port, "one.localhost", "/partial")

    assert "at=error code=H18" in router.next_line("one", ask)


def test_a_client_that_gives_up(router: Router) -> None:
    """A client that closes before the answer is H27, status 499."""

    def ask() -> None:
        with socket.create_connection(("127.0.0.1", router.port)) as connection:
            connection.sendall(b"GET /slow HTTP/1.1\r\nHost: one.localhost\r\n\r\n")
            time.sleep(0.1)

    line = router.next_line("one", ask)
    # HAProxy leaves a request be whose client has only closed; then the app's own time runs out.
    assert "code=H27" in line or "code=H12" in line


def test_a_client_that_stalls(router: Router) -> None:
    """A body that never comes is an error, and the client is let go."""

    def ask() -> None:
        with socket.create_connection(("127.0.0.1", router.port), timeout=5) as connection:
            connection.sendall(
                b"POST / HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: 9\r\n\r\nabc"
            )
            while connection.recv(4096):
                pass

    assert re.search("code=H(28|12)", router.next_line("one", ask))


def test_the_apps_own_errors_are_its_own(router: Router) -> None:
    """A 504 the app sends reaches the client as it is, and is no error of the router's."""
    answers = []
    line = router.next_line(
        "one", lambda: answers.append(get(router.port, "one.localhost", "/gateway"))
    )
    assert answers[0][::2] == (504, "mine")
    assert "at=info" in line
    assert "status=504" in line


def test_another_instance_is_tried(router: Router) -> None:
    """With one of two instances refusing connections every request is answered by the other."""
    assert {get(router.port, "both.localhost")[2] for _ in range(10)} == {"a"}
    assert all("at=info" in line and "dyno=web.2" in line for line in router.lines("both"))


def test_a_websockets_end(router: Router) -> None:
    """A WebSocket's line comes at its end, whoever ends it, and is no error."""

    def talk() -> None:
        with websocket(router.port, "one.localhost") as connection:
            connection.sendall(b"x")
            assert connection.recv(10) == b"x"

    line = router.next_line("one", talk)
    assert "at=info" in line
    assert "status=101" in line


@pytest.mark.parametrize(
    "target",
    [
        b'/"\\ at=error code=H99',
        b"/%0a2026-01-01T00:00:00+00:00 shipway[router]: x",
        b"/\t\tone\t",
        b"/\x1b]0;title\x07",
        b"/\x7f\x80\xff\xe2\x80\xae",
        b"/#\"'<script>",
        b"/" + b"a" * 5000,
        b"/?" + b'"' * 3000,
        b"//x/../..",
        b"*",
    ],
)
def test_log_injection(router: Router, target: bytes) -> None:
    """No path can end a line, close the quotes, or bring a control character into the log."""
    for method in (b"GET", b"G\x01T", b"OPT", b'"X"', b"A\tB"):
        before = len(router.lines())
        request = (
            method
            + b" "
            + target
            + b" HTTP/1.1\r\nHost: one.localhost\r\nConnection: close\r\n\r\n"
        )
        raw_status = status_of(raw(router.port, request.replace(b"\n", b"\n")))
        time.sleep(0.02)
        found = router.lines()[before:]
        assert len(found) <= 1
        if raw_status == 200:
            assert len(found) == 1
        for line in found:
            assert LINE.fullmatch(line), line
            assert len(line) < 10_000


def test_events_come_as_they_are_sent(router: Router) -> None:
    """A server-sent event reaches the client before the next one is sent; and a download's first part likewise."""
    with socket.create_connection(("127.0.0.1", router.port), timeout=5) as connection:
        connection.sendall(
            b"GET /events HTTP/1.1\r\nHost: one.localhost\r\nAccept: text/event-stream\r\n\r\n"
        )
        router.upstream.slow.clear()
        got = b""
        while b"data: 1" not in got:  # the app sends the second only when it is told to
            got += connection.recv(4096)
        assert b"data: 2" not in got
        time.sleep(0.8)  # longer than the time other answers may be silent
        router.upstream.slow.set()
        while b"data: 2" not in got:
            piece = connection.recv(4096)
            assert piece
            got += piece
    router.upstream.slow.clear()


def test_an_upload_is_not_held_back(router: Router) -> None:
    """The app has an upload's first part, and its answer to it gets back, before the second is sent."""
    with socket.create_connection(("127.0.0.1", router.port), timeout=5) as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nHost: one.localhost\r\nContent-Length: 6\r\n\r\n"
        )
        got = b""
        for part in (b"abc", b"def"):
            connection.sendall(part)
            while part not in got:
                piece = connection.recv(4096)
                assert piece, got
                got += piece


def test_who_waits_to_be_told_to_continue(router: Router) -> None:
    """A client that asks first hears 100 from the app before it sends a body, and then the app's answer."""
    with socket.create_connection(("127.0.0.1", router.port), timeout=5) as connection:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: one.localhost\r\nExpect: 100-continue\r\n"
            b"Content-Length: 2\r\n\r\n"
        )
        assert connection.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ab")
        got = b""
        while not got.endswith(b"\r\n\r\na"):
            got += connection.recv(4096)
        assert got.startswith(b"HTTP/1.1 200")


def test_large_headers(router: Router) -> None:
    """Fifteen thousand bytes of headers get to the app whole."""
    answer = sent_headers(router, Cookie="c" * 7000, X_More="m" * 7900)
    assert (len(answer["cookie"][0]), len(answer["x-more"][0])) == (7000, 7900)


def test_slow_headers(router: Router) -> None:
    """A client that trickles its headers does not keep others waiting."""
    with socket.create_connection(("127.0.0.1", router.port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: one.loc")
        assert get(router.port, "one.localhost")[0] == 200


def test_streams(router: Router) -> None:
    """An upload of chunks, 100-continue and HEAD go through as they are."""
    answer = raw(
        router.port,
        b"POST / HTTP/1.1\r\nHost: one.localhost\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    assert status_of(answer) == 200
    answer = raw(
        router.port, b"HEAD / HTTP/1.1\r\nHost: one.localhost\r\nConnection: close\r\n\r\n"
    )
    assert status_of(answer) == 200
    assert answer.endswith(b"\r\n\r\n")
    answer = raw(
        router.port,
        b"POST / HTTP/1.1\r\nHost: one.localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n"
        b"Connection: close\r\n\r\nab",
    )
    assert b"HTTP/1.1 100" in answer
    assert b"HTTP/1.1 200" in answer

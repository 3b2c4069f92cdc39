"""What tests of the router need on both sides of it: small upstream servers, raw requests, a steady load."""

import contextlib
import http.client
import http.server
import json
import socket
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Self

from shipway.platform.router.routes import Route, Server

WEBSOCKET = (
    b"GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "Upstream"

    def do_GET(self) -> None:
        self.server.seen.append(self.requestline)
        path = self.path.partition("?")[0]
        self.server.busy.add(id(self))
        try:
            getattr(self, f"answer_{path.strip('/') or 'name'}", self.answer_name)()
        finally:
            self.server.busy.discard(id(self))

    do_POST = do_HEAD = do_PUT = do_GET

    def log_message(self, *_args: object) -> None:
        """Say nothing."""

    def _send(self, body: bytes, **headers: str) -> None:
        self.send_response(200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_name(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self._send(self.server.name.encode())

    def answer_headers(self) -> None:
        self._send(json.dumps([[k, v] for k, v in self.headers.items()]).encode())

    def answer_slow(self) -> None:
        self.server.slow.wait(20)
        self._send(self.server.name.encode())

    def answer_events(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        self.server.slow.wait(20)
        self.wfile.write(b"data: 2\n\n")
        self.close_connection = True

    def answer_echo(self) -> None:
        """What of the body has come, while the rest of it comes."""
        left = int(self.headers["Content-Length"])
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
        while left and (piece := self.rfile.read1(left)):
            self.wfile.write(piece)
            left -= len(piece)

    def answer_late(self) -> None:
        self.server.slow.wait(1.2)
        self._send(self.server.name.encode())

    def answer_die(self) -> None:
        self.close_connection = True

    def answer_partial(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart")
        self.close_connection = True

    def answer_garbage(self) -> None:
        self.wfile.write(b"this is no HTTP\r\n\r\n")
        self.close_connection = True

    def answer_gateway(self) -> None:
        self.send_response(504)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"mine")

    def answer_ws(self) -> None:
        self.wfile.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        while data := self.connection.recv(4096):
            self.connection.sendall(data)
        self.close_connection = True


class Upstream(http.server.ThreadingHTTPServer):
    """An instance: answers its name, or what the path asks for; `seen` has the request lines."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, name: str, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), _Handler)
        self.name = name
        self.seen: list[str] = []
        self.busy: set[int] = set()  # requests under way
        self.slow = threading.Event()  # set it to let the answers to /slow go
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A connection that was cut is part of the test."""

    def entry(self, number: int = 1) -> Server:
        """It as a server of a route."""
        return Server(f"web.{number}", self.name, "127.0.0.1", self.server_address[1])

    def end(self) -> None:
        """End it, as a stopped instance would."""
        self.slow.set()
        self.shutdown()
        self.server_close()


def route(app: str, *upstreams: Upstream) -> Route:
    """The route of an app to running upstreams."""
    servers = tuple(upstream.entry(number) for number, upstream in enumerate(upstreams, 1))
    return Route(app, (f"{app}.localhost",), servers)


def get(
    port: int, host: str, path: str = "/", method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Status, headers (lower case) and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        names = {key.replace("_", "-"): value for key, value in headers.items()}
        connection.request(method, path, headers={"Host": host, **names})
        response = connection.getresponse()
        found = {key.lower(): value for key, value in response.getheaders()}
        return response.status, found, response.read().decode()
    finally:
        connection.close()


def raw(port: int, data: bytes) -> bytes:
    """What comes back to bytes sent as they are, until the other side closes or is silent for a second."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(data)
        connection.settimeout(1)
        found = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while piece := connection.recv(65536):
                found += piece
        return found


def status_of(answer: bytes) -> int:
    """The status of a raw answer, 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def websocket(port: int, host: str) -> socket.socket:
    """An upgraded connection to an upstream's echo."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(WEBSOCKET % host.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(4096)
    assert status_of(answer) == 101, answer
    return connection


def echoes(connection: socket.socket, data: bytes = b"ping") -> bool:
    """Whether an upgraded connection still carries data both ways."""
    connection.sendall(data)
    return connection.recv(4096) == data


class Steady:
    """Asks over a few kept connections without a pause while the `with` block runs, and counts all answers."""

    def __init__(self, port: int, host: str, threads: int = 3, *, keep: bool = True) -> None:
        self._where = port, host
        self._keep = keep
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]
        self.answers: Counter[tuple[object, str]] = Counter()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, _k: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        port, host = self._where
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
        while not self._stop.is_set():
            try:
                connection.request("GET", "/", headers={"Host": host})
                response = connection.getresponse()
                self.answers[response.status, response.read().decode()] += 1
            except (OSError, http.client.HTTPException) as error:
                self.answers[type(error).__name__, str(error)] += 1
                connection.close()
            if not self._keep:
                connection.close()
            time.sleep(0.001)

    @property
    def bodies(self) -> Counter[str]:
        """The answers of status 200 by body."""
        return Counter({body: n for (status, body), n in self.answers.items() if status == 200})

    @property
    def failures(self) -> dict[tuple[object, str], int]:
        """All others."""
        return {answer: n for answer, n in self.answers.items() if answer[0] != 200}

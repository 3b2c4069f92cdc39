"""The way out of a build that may reach some hosts only: a proxy on the loopback of its network, and nothing else.

The container has no network but its own loopback: no route, no name server, so there is nothing to get
around. The proxy listens in there, and works out here; it takes CONNECT and plain HTTP to hosts that
are allowed, by their names.
"""

import base64
import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from shipway.runtime.kernel import syscalls

PORT = 3128
ADDRESS = f"http://127.0.0.1:{PORT}"
NAMES = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
DIRECT = ("no_proxy", "NO_PROXY")
LONGEST_HEAD = 64 << 10  # bytes of a request's line and headers
CONNECT_TIMEOUT = 20.0
IDLE_TIMEOUT = 300.0
PIECE = 64 << 10
REFUSED = (
    "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    "{host} is not among the hosts that builds may reach (the setting build_hosts).\n"
)
FAILED = "HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n{host} cannot be reached: {why}\n"


class Gate:
    """One build's. `allowed` is asked with `host:port`; `env` may name a proxy of the operator's.

    `say` is told, once each, which hosts were asked for in vain.
    """

    def __init__(
        self, allowed: Callable[[str], bool], env: Mapping[str, str], say: Callable[[str], None]
    ) -> None:
        self._allowed = allowed
        self._operator = {name.lower(): value for name, value in env.items()}
        self._say = say
        self._refused: set[str] = set()
        self._listeners: list[socket.socket] = []

    @property
    def env(self) -> dict[str, str]:
        """What the build's environment has to say of it."""
        return {**dict.fromkeys(NAMES, ADDRESS), **dict.fromkeys(DIRECT, "localhost,127.0.0.1")}

    def open(self, pid: int) -> None:
        """Listen in the network of a process that has not begun. For each container of the build."""
        listener = _in_network_of(pid, _listen)
        self._listeners.append(listener)
        threading.Thread(target=self._serve, args=[listener], daemon=True, name="gate").start()

    def close(self) -> None:
        """Take no more connections; those that are there end with the container."""
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._take, args=[client], daemon=True, name="gate").start()

    def _take(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.settimeout(CONNECT_TIMEOUT)
            head, rest = _head(client)
            try:
                method, target, version = head[0].decode("ascii").split(" ")
                host, port = _where(method, target)
            except (ValueError, UnicodeError, IndexError):
                client.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                return
            if not self._allowed(f"{host}:{port}"):
                if host not in self._refused:
                    self._refused.add(host)
                    self._say(f" !     {host} is not among the hosts that builds may reach.")
                client.sendall(REFUSED.format(host=host).encode())
                return
            try:
                server, by_proxy = self._connect(host, port, method)
            except OSError as error:
                client.sendall(FAILED.format(host=host, why=error.strerror or error).encode())
                return
            with server:
                if method == "CONNECT":
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    line = target if by_proxy else _path(target)
                    kept = [each for each in head[1:] if not _is_of_hop(each)]
                    first = f"{method} {line} {version}".encode()
                    server.sendall(b"\r\n".join([first, *kept, b"Connection: close", b"", b""]))
                server.sendall(rest)
                _relay(client, server)

    def _connect(self, host: str, port: int, method: str) -> tuple[socket.socket, bool]:
        """A connection to the host, perhaps by the operator's own proxy; whether it is by one."""
        kind = "https_proxy" if method == "CONNECT" else "http_proxy"
        proxy = self._operator.get(kind, "")
        if not proxy or proxy_bypass_environment(host, {"no": self._operator.get("no_proxy", "")}):
            return socket.create_connection((host, port), CONNECT_TIMEOUT), False
        parts = urlsplit(proxy)
        server = socket.create_connection((parts.hostname or "", parts.port or 80), CONNECT_TIMEOUT)
        if method != "CONNECT":
            return server, True
        login = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        key = base64.b64encode(login.encode()).decode()
        who = f"Proxy-Authorization: Basic {key}\r\n" if parts.username else ""
        server.sendall(
            f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{who}\r\n".encode()
        )
        answer, _ = _head(server)
        if b" 200" not in answer[0]:
            server.close()
            raise OSError(f"the proxy said {answer[0][:80].decode(errors='replace')}")
        return server, True


def _listen() -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    found.bind(("127.0.0.1", PORT))
    found.listen(128)
    return found


def _in_network_of(pid: int, work: Callable[[], socket.socket]) -> socket.socket:
    """Do something in a thread that is in the network namespace of a process."""

    def there() -> socket.socket:
        with open(f"/proc/{pid}/ns/net", "rb") as namespace:
            syscalls.setns(namespace.fileno(), syscalls.CLONE_NEWNET)
        return work()

    return syscalls.in_own_thread(there)


def _head(stream: socket.socket) -> tuple[list[bytes], bytes]:
    """The lines of a head, and what came behind it already. Raises OSError for none."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = stream.recv(PIECE)
        if not more or len(data) > LONGEST_HEAD:
            raise OSError("no head of HTTP")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head.split(b"\r\n"), rest


def _where(method: str, target: str) -> tuple[str, int]:
    if method == "CONNECT":
        host, _, port = target.rpartition(":")
        return host.strip("[]").lower(), int(port)
    parts = urlsplit(target)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(target)
    return parts.hostname, parts.port or 80


def _path(target: str) -> str:
    parts = urlsplit(target)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _is_of_hop(header: bytes) -> bool:
    name = header.partition(b":")[0].strip().lower()
    return name in (b"connection", b"proxy-connection", b"keep-alive", b"proxy-authorization")


def _relay(one: socket.socket, other: socket.socket) -> None:
    """Hand bytes on both ways until both sides have ended, or nothing was said for long."""
    peers = {one: other, other: one}
    with selectors.DefaultSelector() as selector:
        for each in peers:
            each.settimeout(IDLE_TIMEOUT)
            selector.register(each, selectors.EVENT_READ)
        while peers:
            ready = selector.select(IDLE_TIMEOUT)
            if not ready:
                return
            for key, _ in ready:
                source = key.fileobj
                assert isinstance(source, socket.socket)
                data = source.recv(PIECE)
                if data:
                    peers[source].sendall(data)
                    continue
                selector.unregister(source)
                with contextlib.suppress(OSError):
                    peers.pop(source).shutdown(socket.SHUT_WR)

"""Whether a new instance is up: a web process that answers on its port, any other that stays alive for a while."""

import contextlib
import errno
import os
import select
import socket
import threading
import time
from collections.abc import Sequence
from enum import Enum, auto
from pathlib import Path

FIRST_PAUSE = 0.005  # seconds between two tries, growing
LONGEST_PAUSE = 0.1
ANSWER_TIMEOUT = 10.0  # seconds one request may hang before another is tried
ALIVE = 2.0  # seconds that a process without a port has to stay alive

REQUEST = "GET / HTTP/1.1\r\nHost: {host}\r\nUser-Agent: shipway\r\nConnection: close\r\n\r\n"
MOST_PIECES = 64  # of an answer, 64 KiB each, that are read

ESTABLISHED, LISTEN = "01", "0A"  # the states in /proc/net/tcp
LOOPBACK = ("0100007F", "00000000000000000000000001000000")


class Outcome(Enum):
    """How waiting for an instance ended."""

    UP = auto()
    ENDED = auto()  # one of its processes died, or it is no longer wanted
    TIMEOUT = auto()


def await_answer(
    address: tuple[str, int], host: str, timeout: float, ended: Sequence[int]
) -> Outcome:
    """Ask `GET /` until any HTTP response comes. `ended`: descriptors that get readable when it is in vain."""
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while (left := deadline - time.monotonic()) > 0:
        if _ask(address, host, min(left, ANSWER_TIMEOUT), ended):
            return Outcome.UP
        if readable(ended, min(pause, left)):
            return Outcome.ENDED
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return Outcome.TIMEOUT


def await_alive(seconds: float, ended: Sequence[int]) -> Outcome:
    """Return UP if nothing ended for so long."""
    return Outcome.ENDED if readable(ended, seconds) else Outcome.UP


def listening(table: str) -> list[tuple[bool, int]]:
    """The sockets that listen, as (on loopback only, port), from the text of /proc/<pid>/net/tcp."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == LISTEN:
            address, _, port = fields[1].partition(":")
            found.append((address in LOOPBACK, int(port, 16)))
    return sorted(set(found))


def connected(table: str, port: int) -> bool:
    """Whether a connection to `port` is open, from the text of /proc/<pid>/net/tcp."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 3 and fields[3] == ESTABLISHED:
            if int(fields[1].partition(":")[2], 16) == port:
                return True
    return False


def misbound(pid: int, port: int) -> str:
    """What the container of `pid` listens on instead of `port` on all addresses; empty if that cannot be told."""
    found: list[tuple[bool, int]] = []
    for name in ("tcp", "tcp6"):
        try:
            found += listening(Path(f"/proc/{pid}/net/{name}").read_text())
        except OSError:
            continue
    if (True, port) in found and (False, port) not in found:
        return f"it listens on 127.0.0.1:{port} only, bind 0.0.0.0:$PORT"
    if others := sorted({p for _, p in found if p != port}):
        return f"it listens on port {', '.join(map(str, others))} instead of $PORT ({port})"
    return ""


def _ask(address: tuple[str, int], host: str, timeout: float, ended: Sequence[int]) -> bool:
    """Whether one request is answered by something that speaks HTTP."""
    deadline = time.monotonic() + timeout
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if sock.connect_ex(address) not in (0, errno.EINPROGRESS):
            return False
        if not _ready(sock, select.POLLOUT, deadline, ended):
            return False
        sock.sendall(REQUEST.format(host=host).encode())
        if not _ready(sock, select.POLLIN, deadline, ended) or sock.recv(5) != b"HTTP/":
            return False
    except OSError:  # refused, reset, unreachable: not yet
        return False
    else:
        # The rest of the answer is read, too: an app whose client is gone half-way complains in its log.
        threading.Thread(target=_drain, args=(sock.dup(),), daemon=True).start()
        return True
    finally:
        sock.close()


def _drain(sock: socket.socket) -> None:
    with sock, contextlib.suppress(OSError):
        sock.settimeout(ANSWER_TIMEOUT)
        for _ in range(MOST_PIECES):
            if not sock.recv(1 << 16):
                return


def _ready(sock: socket.socket, what: int, deadline: float, ended: Sequence[int]) -> bool:
    poll = select.poll()
    poll.register(sock, what)
    for fd in ended:
        poll.register(fd, select.POLLIN)
    events = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    return sock.fileno() in events and len(events) == 1


def readable(fds: Sequence[int], timeout: float) -> bool:
    """Whether one of the descriptors gets readable within `timeout` seconds."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def raised(fd: int) -> bool:
    """Whether an eventfd was written to."""
    return readable([fd], 0)


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)

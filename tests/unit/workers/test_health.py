"""Whether a new instance is up."""

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from shipway.workers import health
from shipway.workers.health import Outcome

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1
   1: 00000000:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1
   2: 0100007F:9C40 0100007F:1388 01 00000000:00000000 00:00000000 00000000  1000        0 3 1
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


def answer(listener: socket.socket, data: bytes) -> None:
    """Answer one connection with `data`."""

    def body() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1000)
            client.sendall(data)

    threading.Thread(target=body, daemon=True).start()


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "500 Oh No"])
def test_any_http_answer_is_up(listener: socket.socket, status: str) -> None:
    """A web process is up as soon as it answers anything that is HTTP."""
    answer(listener, f"HTTP/1.1 {status}\r\n\r\n".encode())
    assert health.await_answer(listener.getsockname(), "x", 5, []) == Outcome.UP


def test_silence_is_no_answer(listener: socket.socket) -> None:
    """A port that accepts and says nothing is not up when the time is over."""
    assert health.await_answer(listener.getsockname(), "x", 0.2, []) == Outcome.TIMEOUT


def test_it_waits_for_the_port_to_open() -> None:
    """A refused connection is tried again, soon after the process listens."""
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        timer = threading.Timer(
            0.15, lambda: (late.listen(), answer(late, b"HTTP/1.0 200 OK\r\n\r\n"))
        )
        timer.start()
        began = time.monotonic()
        assert health.await_answer(late.getsockname(), "x", 5, []) == Outcome.UP
        assert time.monotonic() - began < 0.15 + 2 * health.LONGEST_PAUSE


def test_a_death_ends_the_wait(listener: socket.socket) -> None:
    """A descriptor that becomes readable ends the wait at once, in the middle of a request, too."""
    ended = os.eventfd(0)
    threading.Timer(0.1, lambda: os.eventfd_write(ended, 1)).start()
    began = time.monotonic()
    assert health.await_answer(listener.getsockname(), "x", 5, [ended]) == Outcome.ENDED
    assert time.monotonic() - began < 1
    assert health.await_alive(5, [ended]) == Outcome.ENDED
    os.close(ended)


def test_listening_sockets() -> None:
    """The kernel's table tells who listens, and on which addresses."""
    assert health.listening(TABLE) == [(False, 8000), (True, 5000)]


def test_connections_are_told_from_sockets_that_listen() -> None:
    """What matters is a connection to the port, not one from it, nor the socket that takes them."""
    assert health.connected(TABLE, 0x9C40)
    assert not health.connected(TABLE, 5000)

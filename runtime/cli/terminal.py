"""The caller's terminal and streams, joined to a container's."""

import fcntl
import os
import select
import signal
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from shipway.runtime.containers.attach import MOST_SENT, STDERR, Attachment
from shipway.runtime.errors import InvalidSpec

DETACH_KEYS = "ctrl-p,ctrl-q"
# What stops or steers ourselves is not handed on.
UNPROXIED = {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    signal.SIGPIPE,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
}


def detach_keys(text: str) -> bytes:
    """The bytes of "ctrl-p,ctrl-q" and the like. Raises InvalidSpec."""
    found = b""
    for word in filter(None, text.split(",")):
        letter = word.removeprefix("ctrl-")
        if len(letter) != 1 or not letter.isascii():
            raise InvalidSpec(f"the detach key {word!r} must be a character or ctrl- and a letter")
        found += bytes([ord(letter.upper()) & 0x1F]) if word != letter else letter.encode()
    return found


@contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """The terminal hands every key on as it is pressed; as it was, however this ends."""
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def window_size(fd: int) -> tuple[int, int]:
    """Rows and columns of a terminal; (0, 0) if it does not tell."""
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    except OSError:
        return 0, 0
    return rows, columns


@contextmanager
def signals_seen(numbers: set[int]) -> Iterator[int]:
    """A descriptor that turns readable with the numbers of these signals, which do nothing else."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    before: dict[int, Any] = {}
    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        for number in numbers:
            with suppress(OSError, ValueError):
                before[number] = signal.signal(number, lambda _number, _frame: None)
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(old)
        os.close(reader)
        os.close(writer)


@dataclass
class Conversation:
    """Input of ours to a container and its output to ours, until it ends or the keys are pressed.

    `stdin` is None if there is none to hand on; `keys` are those to detach by, empty for none.
    `forward` gets the numbers of signals that we are sent; `size` is the terminal to take the
    window's size from.
    """

    attachment: Attachment
    stdin: int | None
    keys: bytes = b""
    forward: Callable[[int], None] | None = None
    size: int | None = None
    _pending: bytes = b""
    _held: bytes = b""  # detach keys pressed so far
    _input_over: bool = False
    _poll: select.poll = field(default_factory=select.poll)

    def run(self) -> bool:
        """Whether the container's streams ended; False if the caller detached."""
        seen: set[int] = {signal.SIGWINCH} if self.size is not None else set()
        if self.forward is not None:
            seen |= signal.valid_signals() - UNPROXIED
        with signals_seen(seen) as alerts:
            self._resize()
            self._poll.register(alerts, select.POLLIN)
            while True:
                self._watch()
                ready = {fd for fd, _ in self._poll.poll()}
                if alerts in ready:
                    self._heed(os.read(alerts, 4096))
                if self.attachment.fileno() in ready:
                    if not self._take_output():
                        return True
                    self._flush()
                if self.stdin in ready and not self._pending and not self._take_input():
                    return False

    def _watch(self) -> None:
        wanted = select.POLLIN | (select.POLLOUT if self._pending else 0)
        self._poll.register(self.attachment.fileno(), wanted)
        if self.stdin is None:
            return
        if self._pending or self._input_over:
            with suppress(KeyError):
                self._poll.unregister(self.stdin)
        else:
            with suppress(PermissionError):
                self._poll.register(self.stdin, select.POLLIN)

    def _heed(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGWINCH:
                self._resize()
            elif self.forward is not None:
                self.forward(number)

    def _resize(self) -> None:
        if self.size is not None:
            rows, columns = window_size(self.size)
            if rows and columns:
                self.attachment.resize(rows, columns)

    def _take_output(self) -> bool:
        try:
            found = self.attachment.receive()
        except BlockingIOError:
            return True
        if found is None:
            return False
        stream, data = found
        write_all(2 if stream == STDERR else 1, data)
        return True

    def _take_input(self) -> bool:
        """Whether to go on: not if the detach keys were pressed."""
        assert self.stdin is not None
        try:
            data = os.read(self.stdin, MOST_SENT)
        except OSError:  # the terminal is gone
            data = b""
        if not data:
            self._input_over = True
            self._flush()
            return True
        if self.keys:
            data, detached = self._without_keys(data)
            if detached:
                return False
        self._pending = data
        self._flush()
        return True

    def _without_keys(self, data: bytes) -> tuple[bytes, bool]:
        passed = b""
        for byte in data:
            if self.keys[len(self._held)] == byte:
                self._held += bytes([byte])
                if self._held == self.keys:
                    return passed, True
            else:
                passed += self._held
                self._held = b""
                if self.keys[0] == byte:
                    self._held = bytes([byte])
                else:
                    passed += bytes([byte])
        return passed, False

    def _flush(self) -> None:
        if self._pending:
            self._pending = self._pending[self.attachment.send(self._pending) :]
        if self._input_over and not self._pending and self.stdin is not None:
            self._forget(self.stdin)
            self.stdin = None
            self.attachment.end_input()

    def _forget(self, fd: int) -> None:
        with suppress(KeyError):
            self._poll.unregister(fd)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte, waiting for who reads if need be."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(fd, select.POLLOUT)
            waiting.poll()

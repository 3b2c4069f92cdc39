"""One HAProxy process: starting it, finding it again, talking to it.

There is no HAProxy master: it would be a second process of 10 MB to do what the controller does anyway. Each process
belongs to a session of its own, so it outlives the controller. It has a number, a socket to be talked to, and holds a
lock for as long as it lives; by these a controller that comes back finds it, whatever moment its forerunner died at.
All processes share one listening socket, which is therefore never closed while any of them, or the controller, lives.
"""

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from shipway.platform.errors import ShipwayError
from shipway.platform.router.haproxy_config import LEAVING, Config
from shipway.platform.router.haproxy_slots import Command

START_TIMEOUT = 20.0  # s; thousands of apps take about one
REPLY_TIMEOUT = 10.0
MAX_LINE = 12_000  # bytes of commands at once; HAProxy takes 16 KiB
NOTES = 1 << 20  # bytes of HAProxy's own remarks that are kept
SYS_PIDFD_GETFD = 438
HARMLESS = ("IP changed from", "no need to change", "port changed from", "nothing changed")
_libc = ctypes.CDLL(None, use_errno=True)


class HAProxyFailed(ShipwayError):
    """HAProxy does not start, answer or do as told; the message ends with what it said."""


class Worker:
    """A running HAProxy. `backends` are those its configuration declares."""

    def __init__(self, config: Config, number: int, pid: int) -> None:
        self.number = number
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.backends: frozenset[str] = frozenset()
        self.frozen: set[str] = (
            set()
        )  # backends it can no longer follow: their app went to one it lacks
        self.leaving = False
        self._config = config

    @property
    def alive(self) -> bool:
        """Whether it still runs, leaving or not."""
        return not _readable(self.pidfd)

    def ask(self, *commands: str) -> str:
        """Send commands and return all they answer. Raises HAProxyFailed."""
        reply = b""
        try:
            with _connected(_socket(self._config, self.number)) as door:
                door.sendall(";".join(commands).encode() + b"\n")
                while piece := door.recv(65536):
                    reply += piece
        except OSError as error:
            raise HAProxyFailed(f"HAProxy (process {self.pid}) does not answer: {error}.") from None
        return reply.decode(errors="replace")

    def follow(self, commands: Iterable[Command]) -> None:
        """Do what makes sense here of `commands`. Raises HAProxyFailed."""
        texts = []
        for command in commands:
            if not command.needs <= self.backends:
                self.frozen |= command.needs & self.backends
            elif not command.needs & self.frozen:
                texts.append(command.text)
        self.tell(texts)

    def tell(self, commands: Iterable[str]) -> None:
        """Send commands that answer nothing when all is well. Raises HAProxyFailed with what they answered."""
        for line in self.ask_all(commands).splitlines():
            if line and not line.startswith(HARMLESS):
                raise HAProxyFailed(f"HAProxy refused a change: {line}")

    def ask_all(self, commands: Iterable[str]) -> str:
        """As `ask`, for any number of commands."""
        return "".join(self.ask(*batch) for batch in _batches(commands))

    def look(self) -> None:
        """Learn which backends it has, and whether it was told to leave."""
        self.backends = frozenset(self.ask("show backend").split()[2:])
        state = self.ask(f"show servers state {LEAVING.partition('/')[0]}").splitlines()
        self.leaving = takes_requests(state[2].split()[6])

    def leave(self) -> None:
        """Have it take no new connections, and close each of those it has after its next response.

        HAProxy's own soft stop would close its socket, too, and so keep us from telling it of further changes.
        """
        self.leaving = True
        with contextlib.suppress(HAProxyFailed):  # it may be dead, or have been told before
            self.tell([f"set server {LEAVING} state ready", "shutdown frontend router"])

    @property
    def idle(self) -> bool:
        """Whether it has no connection left."""
        return "\nCurrConns: 0\n" in self.ask("show info")

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGKILL)
        self.ended(5.0)

    def finish(self, deadline: float) -> None:
        """End it when it has no request left, at the monotonic time `deadline` at the latest."""
        pause = 0.005
        with contextlib.suppress(HAProxyFailed):
            while time.monotonic() < deadline and self._busy():
                time.sleep(pause)  # HAProxy tells of the end of a request by its log only
                pause = min(0.1, pause * 1.5)
        self.kill()

    def _busy(self) -> bool:
        rows = (line.split(",", 5) for line in self.ask("show stat -1 2 -1").splitlines())
        return any(row[4].isdigit() and int(row[4]) for row in rows if len(row) > 5)

    def ended(self, timeout: float) -> bool:
        """Wait for its end, `timeout` seconds at most."""
        return _readable(self.pidfd, timeout)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def listener(self) -> socket.socket:
        """The socket it listens on, shared with it."""
        return socket.socket(fileno=self._share(int(_lock(self._config, self.number).read_text())))

    def log(self) -> int:
        """The descriptor it logs to, shared with it."""
        return self._share(1)

    def _share(self, number: int) -> int:
        fd = _libc.syscall(SYS_PIDFD_GETFD, self.pidfd, number, 0)
        if fd < 0:
            error = os.strerror(ctypes.get_errno())
            raise HAProxyFailed(f"What HAProxy has open cannot be shared with it: {error}.")
        return int(fd)

    def close(self) -> None:
        """Forget it; reaps it if it was our child, and removes its files if it is dead."""
        if not self.alive:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            _clean(self._config, self.number)
        os.close(self.pidfd)


def spawn(config: Config, number: int, listener: socket.socket, log: int) -> Worker:
    """Start a HAProxy on what the files say; it serves when this returns. Raises HAProxyFailed."""
    lock = os.open(_lock(config, number), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    notes = _notes(config)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # lives on in the child, as its stdin
        os.write(lock, str(listener.fileno()).encode())
        said = os.fstat(notes).st_size
        child = subprocess.Popen(
            [config.binary, "-db", "-f", str(config.folder)],
            stdin=lock,
            stdout=log,
            stderr=notes,
            cwd=config.run,
            pass_fds=(listener.fileno(),),
            env={
                "HAPROXY_SOCKET": str(_socket(config, number)),
                "HAPROXY_LISTEN": str(listener.fileno()),
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            },
            start_new_session=True,
        )
    except FileNotFoundError:
        raise HAProxyFailed(
            f"{config.binary} is not installed: it is Debian's package haproxy."
        ) from None
    finally:
        os.close(lock)
        os.close(notes)
    worker = Worker(config, number, child.pid)
    child.returncode = 0  # reaped by `close` through the pidfd, as an adopted one would be
    if _comes_up(config, worker):
        worker.look()
        return worker
    worker.kill()
    worker.close()
    text = _notes_file(config).read_bytes()[said:].decode(errors="replace").strip()
    raise HAProxyFailed(f"HAProxy does not start: {text or 'it gives no reason'}")


def takes_requests(admin_state: str) -> bool:
    """Whether srv_admin_state means ready. Its bit 4 says "disabled in the file", and stays when that is overridden."""
    return not int(admin_state) & ~4


def open_log(config: Config) -> int:
    """The raw log, to be shared by all processes.

    HAProxy takes O_APPEND off what it logs to. Its processes write behind each other only if they share one position
    in the file, that is, one open file.
    """
    config.log.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(config.log, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = os.lseek(fd, 0, os.SEEK_END)
    if end and os.pread(fd, 1, end - 1) != b"\n":  # cut off by a crash
        os.write(fd, b"\n")
    return fd


def find(config: Config) -> list[Worker]:
    """All HAProxy processes that were started in `config.run` and still live, the newest last."""
    numbers = sorted(int(path.stem.split("-")[1]) for path in config.run.glob("haproxy-*.lock"))
    return [worker for number in numbers if (worker := _find(config, number))]


def _find(config: Config, number: int) -> Worker | None:
    deadline = time.monotonic() + START_TIMEOUT
    pause = 0.005
    while _locked(_lock(config, number)):  # else it is dead
        with contextlib.suppress(OSError, HAProxyFailed):
            return _introduced(config, number)
        if time.monotonic() > deadline:
            raise HAProxyFailed(
                f"HAProxy number {number} in {config.run} lives but does not answer."
            )
        time.sleep(pause)  # it is still coming up: no event tells of a socket that accepts
        pause = min(0.1, pause * 2)
    _clean(config, number)
    return None


def _introduced(config: Config, number: int) -> Worker:
    with _connected(_socket(config, number)) as door:
        worker = Worker(config, number, _peer(door))
    try:
        worker.look()
    except HAProxyFailed:
        os.close(worker.pidfd)
        raise
    return worker


def _comes_up(config: Config, worker: Worker) -> bool:
    deadline = time.monotonic() + START_TIMEOUT
    pause = 0.002
    while time.monotonic() < deadline and not _readable(worker.pidfd, pause):
        with contextlib.suppress(OSError), _connected(_socket(config, worker.number)) as door:
            door.sendall(b"show version\n")
            if door.recv(1):
                return True
        pause = min(0.05, pause * 1.5)
    return False


def _batches(commands: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for command in commands:
        if batch and size + len(command) > MAX_LINE:
            yield batch
            batch, size = [], 0
        batch.append(command)
        size += len(command) + 1
    if batch:
        yield batch


def _connected(path: Path) -> socket.socket:
    door = socket.socket(socket.AF_UNIX)
    door.settimeout(REPLY_TIMEOUT)
    try:
        door.connect(str(path))
    except BaseException:
        door.close()
        raise
    return door


def _peer(door: socket.socket) -> int:
    """The process that listens at the other end."""
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack("3i", door.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return int(pid)


def _locked(path: Path) -> bool:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _readable(fd: int, timeout: float = 0) -> bool:
    waiter = select.poll()
    waiter.register(fd, select.POLLIN)
    return bool(waiter.poll(timeout * 1000))


def _notes(config: Config) -> int:
    """The file HAProxy remarks to."""
    return os.open(
        _notes_file(config), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
    )


def trim_notes(config: Config) -> None:
    """Empty the file of HAProxy's remarks when it is large: each server that comes or goes is one."""
    with contextlib.suppress(OSError):
        if _notes_file(config).stat().st_size > NOTES:
            os.truncate(_notes_file(config), 0)


def _notes_file(config: Config) -> Path:
    return config.run / "haproxy.notes"


def _lock(config: Config, number: int) -> Path:
    return config.run / f"haproxy-{number}.lock"


def _socket(config: Config, number: int) -> Path:
    return config.run / f"haproxy-{number}.sock"


def _clean(config: Config, number: int) -> None:
    _socket(config, number).unlink(missing_ok=True)
    _lock(config, number).unlink(missing_ok=True)

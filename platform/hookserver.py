"""The platform's end of the git hooks: a unix socket that `hooks/pre-receive` talks to, with a thread per push.

Git waits for the hook, the hook waits for us; so a push is held open, and what we say streams to the person at once.
"""

import contextlib
import logging
import os
import secrets
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shipway.platform.files import atomic_write
from shipway.platform.terminal import printable

log = logging.getLogger(__name__)

HOOKS = ("pre-receive", "proc-receive")  # one script under both names
MAX_INPUT = 1 << 20  # bytes of `old new ref` lines
MAX_HEADER = 8192


class ClientGone(Exception):
    """The hook, and so the person at the other end, is not there any more."""


@dataclass
class Push:
    """A push that a user has begun; what is decided in one hook is kept here for the next."""

    app_id: int
    app: str
    user_id: int
    id: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    moved: set[str] = field(default_factory=set)  # the refs that we moved in git's stead


class Hook:
    """One run of a hook: what it reads, what it prints, how it ends."""

    def __init__(self, connection: socket.socket, name: str, quarantine: str, rest: bytes) -> None:
        self.name = name
        self.quarantine = quarantine
        self._connection = connection
        self._rest = rest

    def read_all(self) -> bytes:
        """All of the hook's input; cut behind MAX_INPUT bytes."""
        while len(self._rest) <= MAX_INPUT and (data := self._receive()):
            self._rest += data
        return self._rest

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes of the hook's input. Raises ClientGone where it ends before."""
        while len(self._rest) < size:
            data = self._receive()
            if not data:
                raise ClientGone
            self._rest += data
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def say(self, *lines: str) -> None:
        """Print lines. Raises ClientGone."""
        self.write(printable("".join(line + "\n" for line in lines)).encode(errors="replace"))

    def write(self, data: bytes) -> None:
        """Print bytes. Raises ClientGone."""
        self._send(b"o", data)

    def end(self, code: int) -> None:
        """End the hook with an exit code."""
        self._send(b"x", str(code).encode())

    def check_alive(self) -> None:
        """Raise ClientGone if the hook has died."""
        poll = select.poll()
        poll.register(self._connection, 0)  # POLLHUP is always reported
        if poll.poll(0):
            raise ClientGone

    def _receive(self) -> bytes:
        try:
            return self._connection.recv(65536)
        except OSError:
            raise ClientGone from None

    def _send(self, kind: bytes, data: bytes) -> None:
        try:
            self._connection.sendall(kind + struct.pack(">I", len(data)) + data)
        except OSError:
            raise ClientGone from None


Handler = Callable[[Push, Hook], int]


class HookServer:
    """Takes the hooks of the pushes that this process has begun."""

    def __init__(self, run: Path, handle: Handler) -> None:
        self.hooks = install_hooks(run)
        self._handle = handle
        self._pushes: dict[str, Push] = {}
        self._path = run / "hooks" / f"{os.getpid()}.sock"
        _remove_stale(self._path.parent)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._path.chmod(0o600)
        self._listener.listen(128)
        threading.Thread(target=self._accept, name="hooks", daemon=True).start()

    @contextlib.contextmanager
    def begin(self, push: Push) -> Iterator[dict[str, str]]:
        """Expect the hooks of a push; gives what git's environment needs."""
        self._pushes[push.id] = push
        try:
            yield {"SHIPWAY_HOOK": str(self._path), "SHIPWAY_PUSH": push.id}
        finally:
            del self._pushes[push.id]

    def close(self) -> None:
        """Take no more hooks."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ClientGone):
            header = b""
            while header.count(b"\n") < 3:
                data = connection.recv(MAX_HEADER)
                if not data or len(header) > MAX_HEADER:
                    return
                header += data
            push_id, name, quarantine, rest = header.split(b"\n", 3)
            push = self._pushes.get(push_id.decode(errors="replace"))
            if push is None:
                return
            hook = Hook(connection, name.decode(), quarantine.decode(), rest)
            try:
                code = self._handle(push, hook)
            except ClientGone:
                raise
            except (
                Exception
            ):  # a bug must end this push with a line, and leave its trace in our log
                log.exception("push to %s failed", push.app)
                hook.say(" !     Shipway made a mistake here; its log says more. Push again.")
                code = 1
            hook.end(code)


def install_hooks(run: Path) -> Path:
    """Put the hooks where git may run them (a wheel may have lost their mode); the folder for core.hooksPath."""
    folder = run / "hooks"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    script = (Path(__file__).parent / "hooks" / "pre-receive").read_bytes()
    for name in HOOKS:
        path = folder / name
        if not path.exists() or path.read_bytes() != script:
            atomic_write(path, script, 0o755)
    return folder


def _remove_stale(folder: Path) -> None:
    """Sockets of processes that were killed."""
    for path in folder.glob("*.sock"):
        if not Path(f"/proc/{path.stem}").exists() or path.stem == str(os.getpid()):
            path.unlink(missing_ok=True)
